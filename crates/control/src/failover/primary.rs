//! What is done to a primary, to one that was, and to one that is to be.
//!
//! Owns the statements. Each is idempotent. Never decides whether or when. Main functions: [`fence`], [`promote`], [`acknowledged_row`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::Lsn;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;

use super::names::{literal, nobody, revoked_slot};
use crate::error::ControlError;
use crate::line::Line;
use crate::login::OpenConnection;

/// Client sessions, but pgherd's own and those that wait for an acknowledgement: to end one of them makes its commit visible that nobody else has.
pub(super) const END_SESSIONS: &str = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid, pg_roles me \
     WHERE me.rolname = current_user AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() \
     AND NOT (a.usename = current_user AND a.application_name = 'pgherd control') AND (me.rolsuper OR NOT r.rolsuper) \
     AND a.wait_event IS DISTINCT FROM 'SyncRep'";

/// Holds the reign that wrote to the shard last, and when its primary was last seen to take a write.
const INSTALL: &str = "SELECT pg_advisory_xact_lock(7162304417); \
     CREATE SCHEMA IF NOT EXISTS pgherd; \
     CREATE TABLE IF NOT EXISTS pgherd.reign (single boolean PRIMARY KEY DEFAULT true CHECK (single), \
       epoch bigint NOT NULL, beat timestamptz NOT NULL)";

/// Never back to an earlier reign.
const WRITE_ROW: &str = "INSERT INTO pgherd.reign (epoch, beat) VALUES ($1, clock_timestamp()) \
     ON CONFLICT (single) DO UPDATE SET epoch = excluded.epoch, beat = excluded.beat WHERE reign.epoch <= excluded.epoch RETURNING epoch";

/// How long a changed setting may take to be in force.
const SETTING_LIMIT: Duration = Duration::from_secs(3);
/// How long a promotion may take.
const PROMOTION_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Keeps a server that is out of recovery from acknowledging or beginning a write, ever after.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn fence(line: &Line, epoch: u64) -> Result<(), ControlError> {
    const ACTION: &str = "take no more writes";
    line.batch(
        ACTION,
        &[
            format!(
                "ALTER SYSTEM SET synchronous_standby_names = {}",
                literal(&nobody(epoch))
            ),
            "ALTER SYSTEM SET default_transaction_read_only = on".to_owned(),
            "SELECT pg_reload_conf()".to_owned(),
        ],
    )
    .await?;
    in_force(line, "synchronous_standby_names", &nobody(epoch)).await?;
    line.batch(ACTION, &[END_SESSIONS.to_owned()]).await
}

/// Sets who acknowledges commits, lets writes in, and waits until both are in force.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn set_acknowledgers(line: &Line, names: &str) -> Result<(), ControlError> {
    line.batch(
        "set who acknowledges commits",
        &[
            format!(
                "ALTER SYSTEM SET synchronous_standby_names = {}",
                literal(names)
            ),
            "ALTER SYSTEM RESET default_transaction_read_only".to_owned(),
            "SELECT pg_reload_conf()".to_owned(),
        ],
    )
    .await?;
    in_force(line, "synchronous_standby_names", names).await
}

/// Makes a physical replication slot for a standby, which keeps WAL for it from now on; one that is there stays.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn make_slot(line: &Line, name: &str) -> Result<(), ControlError> {
    const MAKE: &str = "SELECT pg_create_physical_replication_slot($1::text::name, true) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text)";
    let patience = line.server.patience();
    let made = async |client: Arc<OpenConnection>| client.execute(MAKE, &[&name]).await;
    match line.run(patience, "make a replication slot", made).await {
        // somebody else has made it meanwhile
        Err(error) if error.sql_state() == Some(&SqlState::DUPLICATE_OBJECT) => Ok(()),
        made => made.map(drop),
    }
}

/// Its `synchronous_standby_names`.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn acknowledgers(line: &Line) -> Result<String, ControlError> {
    const ACTION: &str = "say who acknowledges commits";
    const QUESTION: &str = "SELECT current_setting('synchronous_standby_names')";
    let row = line.row(ACTION, QUESTION, &[]).await?;
    row.try_get(0)
        .map_err(|error| line.server.unexpected(ACTION, error.to_string()))
}

/// `ALTER SYSTEM` and `pg_reload_conf()` return before they act.
async fn in_force(line: &Line, setting: &str, value: &str) -> Result<(), ControlError> {
    const ACTION: &str = "put a setting in force";
    let begun = Instant::now();
    let question = format!("SELECT current_setting('{setting}') = $1::text");
    loop {
        let row = line.row(ACTION, &question, &[&value]).await?;
        let done: bool = row
            .try_get(0)
            .map_err(|error| line.server.unexpected(ACTION, error.to_string()))?;
        if done {
            return Ok(());
        }
        if begun.elapsed() > SETTING_LIMIT {
            return Err(line.server.unexpected(
                ACTION,
                format!(
                    "{setting} is not what ALTER SYSTEM has set: is it given on the command line?"
                ),
            ));
        }
        sleep(POLL).await;
    }
}

/// The end of what it has written.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn insert_position(line: &Line) -> Result<Lsn, ControlError> {
    const ACTION: &str = "say how far it has written";
    let row = line
        .row(ACTION, "SELECT pg_current_wal_insert_lsn()", &[])
        .await?;
    let position: PgLsn = row
        .try_get(0)
        .map_err(|error| line.server.unexpected(ACTION, error.to_string()))?;
    Ok(Lsn(u64::from(position)))
}

/// Writes what is in memory to the disk, so that a promotion or a restart has less to do. Where the login may not, nothing is done.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn checkpoint(line: &Line, patience: Duration) -> Result<(), ControlError> {
    let done = line
        .run(
            patience,
            "make a checkpoint",
            async |client: Arc<OpenConnection>| client.batch_execute("CHECKPOINT").await,
        )
        .await;
    match done {
        Err(error) if error.sql_state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(()),
        done => done,
    }
}

/// The first transaction id that a standby does not know of; the same after its promotion.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn horizon(line: &Line) -> Result<u64, ControlError> {
    const ACTION: &str = "say which transactions it knows of";
    const QUESTION: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = line.row(ACTION, QUESTION, &[]).await?;
    let text: String = row
        .try_get(0)
        .map_err(|error| line.server.unexpected(ACTION, error.to_string()))?;
    text.parse()
        .map_err(|_| line.server.unexpected(ACTION, text))
}

/// Promotes a standby that was revoked in this epoch, and in no other. Returns its new timeline. Where the answer is lost it may be promoted all the
/// same.
///
/// # Errors
/// As [`Line::run`]; [`ControlError::Unexpected`] where it is not as it was revoked, or is not promoted in time.
pub(crate) async fn promote(line: &Line, epoch: u64) -> Result<u32, ControlError> {
    const ACTION: &str = "become the primary";
    const PROMOTE: &str = "SELECT pg_promote(true, 30) WHERE pg_is_in_recovery() AND current_setting('primary_conninfo') = '' \
         AND current_setting('primary_slot_name') = $1::text";
    if let Some(timeline) = promoted(line).await? {
        return Ok(timeline);
    }
    let slot = revoked_slot(epoch);
    let bound = PROMOTION_LIMIT + line.server.patience();
    let row = line
        .run(bound, ACTION, async |client: Arc<OpenConnection>| {
            client.query_opt(PROMOTE, &[&slot]).await
        })
        .await?;
    let sent: Option<bool> = row.and_then(|row| row.try_get(0).ok());
    match (promoted(line).await?, sent) {
        (Some(timeline), _) => Ok(timeline),
        (None, Some(_)) => Err(line
            .server
            .unexpected(ACTION, "it is still in recovery after 30 s")),
        (None, None) => Err(line.server.unexpected(
            ACTION,
            "it is no longer set as this epoch has set it: another coordinator acts",
        )),
    }
}

/// Its timeline, if it is out of recovery.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn promoted(line: &Line) -> Result<Option<u32>, ControlError> {
    const ACTION: &str = "say whether it is promoted";
    // the control file still has the timeline before
    const QUESTION: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() \
         THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END";
    let row = line.row(ACTION, QUESTION, &[]).await?;
    let timeline: Option<i64> = row
        .try_get(0)
        .map_err(|error| line.server.unexpected(ACTION, error.to_string()))?;
    Ok(timeline.and_then(|timeline| u32::try_from(timeline).ok()))
}

/// Writes the reign's row and waits until it is acknowledged as commits there are.
///
/// # Errors
/// As [`Line::run`], with `patience`; [`ControlError::Superseded`] where a later reign has written there.
pub(crate) async fn acknowledged_row(
    line: &Line,
    shard: &str,
    epoch: u64,
    patience: Duration,
) -> Result<(), ControlError> {
    const ACTION: &str = "acknowledge a row";
    let number = i64::try_from(epoch).unwrap_or(i64::MAX);
    let write = async |client: Arc<OpenConnection>| client.query_opt(WRITE_ROW, &[&number]).await;
    let written = match line.run(patience, ACTION, write).await {
        Err(error)
            if matches!(
                error.sql_state(),
                Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)
            ) =>
        {
            line.run(
                patience,
                "install the reign's table",
                async |client: Arc<OpenConnection>| client.batch_execute(INSTALL).await,
            )
            .await?;
            line.run(patience, ACTION, write).await?
        }
        written => written?,
    };
    match written {
        Some(_) => Ok(()),
        None => Err(ControlError::Superseded {
            shard: shard.into(),
            epoch,
        }),
    }
}
