//! Orders about a shard's primary: what the commands that give them share.
//!
//! Owns finding the shard, and telling the operator how far the order has come until it is carried out. Never carries one out: control does, through
//! the process. Main function: [`Acting::order`].

use pgherd_control::FailoverCommand;
use pgherd_protocol::{PgError, SqlState};
use pgherd_topology::ShardId;
use tokio::sync::{mpsc, oneshot};

use crate::commands::explain_failover::find;
use crate::commands::sorted_databases;
use crate::doing::{Acting, not_in_state};
use crate::operations::{Order, ProcessRequest};

impl Acting<'_> {
    /// Has an order about a shard, named as `shard` or `database.shard`, carried out. An operator who cancels, or leaves, no longer hears of it; it goes on.
    ///
    /// # Errors
    /// 42704 where there is no such shard, 55000 where it is not possible now, 57014 where the operator no longer waits.
    pub(crate) async fn order(
        &mut self,
        shard: &str,
        command: FailoverCommand,
    ) -> Result<(), PgError> {
        let (database, shard) = {
            let databases = sorted_databases(self.herd);
            let (database, index) = find(&databases, shard)?;
            (database.name().into(), database.topology().shards[index].id)
        };
        self.order_of(database, shard, command).await
    }

    /// [`Acting::order`] about the shard that a server is of, named as `server`.
    ///
    /// # Errors
    /// Those, and 42704 where there is no such server.
    pub(crate) async fn order_about(
        &mut self,
        server: &str,
        command: FailoverCommand,
    ) -> Result<(), PgError> {
        let found = sorted_databases(self.herd)
            .into_iter()
            .find_map(|database| {
                let topology = database.topology();
                let shard = topology
                    .shards
                    .iter()
                    .find(|shard| shard.nodes.iter().any(|node| &*node.name == server))?;
                Some((database.name().into(), shard.id))
            });
        let (database, shard) = found.ok_or_else(|| {
            let missing = format!("there is no server \"{server}\"");
            PgError::error(SqlState::UNDEFINED_OBJECT, missing).hint("SHOW SHARDS lists them.")
        })?;
        self.order_of(database, shard, command).await
    }

    async fn order_of(
        &mut self,
        database: Box<str>,
        shard: ShardId,
        command: FailoverCommand,
    ) -> Result<(), PgError> {
        let (progress, mut told) = mpsc::unbounded_channel();
        let (done, mut carried_out) = oneshot::channel();
        let order = Order {
            database,
            shard,
            command,
            progress,
            done,
        };
        self.operations.tell(ProcessRequest::Order(order)).await?;
        loop {
            tokio::select! {
                biased;
                Some(text) = told.recv() => self.notice(text).await?,
                outcome = &mut carried_out => {
                    return match outcome {
                        Ok(Ok(text)) => self.notice(text).await,
                        Ok(Err(text)) => Err(not_in_state(text)),
                        Err(_) => Err(not_in_state("pgherd is shutting down")),
                    };
                }
                cause = self.client.cancelled() => return Err(cause.error()),
            }
        }
    }
}

/// A shard, and the server that is named by TO, if one is.
///
/// # Errors
/// 42601 with how the command is typed.
pub(crate) fn shard_to_server<'a>(
    arguments: &'a [String],
    syntax: &str,
) -> Result<(&'a str, Option<Box<str>>), PgError> {
    match arguments {
        [shard] => Ok((shard, None)),
        [shard, word, server] if word.eq_ignore_ascii_case("TO") => {
            Ok((shard, Some(server.as_str().into())))
        }
        _ => Err(misread(syntax)),
    }
}

/// What a command about servers wants in its place.
///
/// # Errors
/// 42601 with how the command is typed.
pub(crate) fn misread(syntax: &str) -> PgError {
    PgError::error(SqlState::SYNTAX_ERROR, format!("the command is {syntax}"))
}
