//! The prepared halves on one server: finding them, finishing them.
//!
//! Owns the statements for that. Never decides. Main type: [`Half`].

use std::time::Duration;

use pgherd_topology::commit_protocol::{Gid, READ_OUTCOME};
use pgherd_topology::{ShardId, quote_identifier};
use tokio_postgres::error::SqlState;

use crate::error::ControlError;
use crate::login::{Lease, Server};
use crate::recovery::Outcome;

/// More than this are not looked at in one round; the oldest come first.
const LIST: &str = "SELECT gid, owner::text, greatest(extract(epoch FROM clock_timestamp() - prepared), 0)::float8 \
     FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, 'pgherd:') \
     ORDER BY prepared LIMIT 1000";

/// One prepared half.
#[derive(Debug, Clone)]
pub(super) struct Half {
    pub(super) gid: Gid,
    /// The shard it was found on.
    pub(super) shard: ShardId,
    /// The role that prepared it.
    pub(super) owner: String,
    /// Since it was prepared, by the server's clock.
    pub(super) age: Duration,
}

/// How an attempt to finish a half ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finished {
    /// It was this attempt.
    Now,
    /// Somebody else was first.
    Before,
    /// Somebody else is at it: try again.
    Busy,
    /// It should have been committed and never was.
    Lost,
}

/// The halves on one primary that bear a name like ours; malformed ones are left out.
pub(super) async fn list(server: &Server, shard: ShardId) -> Result<Vec<Half>, ControlError> {
    const ACTION: &str = "list prepared transactions";
    let lease = server.lease().await?;
    let rows = server
        .within(server.patience(), ACTION, lease.query(LIST, &[]))
        .await?;
    lease.give_back();
    let wrong = |error: tokio_postgres::Error| server.unexpected(ACTION, error.to_string());
    let mut halves = Vec::with_capacity(rows.len());
    for row in rows {
        let text: &str = row.try_get(0).map_err(wrong)?;
        let Ok(gid) = text.parse::<Gid>() else {
            continue;
        };
        let seconds: f64 = row.try_get(2).map_err(wrong)?;
        let age = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        halves.push(Half {
            gid,
            shard,
            owner: row.try_get(1).map_err(wrong)?,
            age,
        });
    }
    Ok(halves)
}

/// Commits or rolls back one half as its owner.
pub(super) async fn finish(
    server: &Server,
    half: &Half,
    outcome: Outcome,
) -> Result<Finished, ControlError> {
    const ACTION: &str = "finish a prepared transaction";
    let statement = match outcome {
        Outcome::Commit => half.gid.commit_prepared(),
        Outcome::Abort => half.gid.rollback_prepared(),
    };
    let lease = server.lease().await?;
    let mut attempt = server
        .within(server.patience(), ACTION, lease.batch_execute(&statement))
        .await;
    if sql_state(&attempt) == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        // No superuser: being a member of the owner's role is not enough, it must be the current one.
        let become_owner = format!("SET ROLE {}", quote_identifier(&half.owner));
        server
            .within(
                server.patience(),
                "become the owner of a prepared transaction",
                lease.batch_execute(&become_owner),
            )
            .await?;
        attempt = server
            .within(server.patience(), ACTION, lease.batch_execute(&statement))
            .await;
        server
            .within(server.patience(), ACTION, lease.batch_execute("RESET ROLE"))
            .await?;
    }
    let finished = match (attempt, outcome) {
        (Ok(()), _) => Finished::Now,
        (Err(error), outcome) => match error.sql_state() {
            Some(state) if *state == SqlState::UNDEFINED_OBJECT => match outcome {
                Outcome::Abort => Finished::Before,
                Outcome::Commit => committed_here(server, &lease, half).await?,
            },
            Some(state) if *state == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Finished::Busy,
            Some(_) | None => return Err(error),
        },
    };
    lease.give_back();
    Ok(finished)
}

/// Gone from the list of prepared ones, a half counts as committed only where its own row is.
async fn committed_here(
    server: &Server,
    lease: &Lease,
    half: &Half,
) -> Result<Finished, ControlError> {
    let name = half.gid.transaction().to_string();
    let row = server
        .within(
            server.patience(),
            "look for a half's own row",
            lease.query_opt(READ_OUTCOME, &[&name]),
        )
        .await?;
    Ok(match row {
        Some(_) => Finished::Before,
        None => Finished::Lost,
    })
}

fn sql_state<T>(result: &Result<T, ControlError>) -> Option<&SqlState> {
    result.as_ref().err().and_then(ControlError::sql_state)
}
