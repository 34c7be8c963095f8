//! DRAIN SERVER: reads go elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgherd_pool::Holding;
use pgherd_protocol::{PgError, SqlState};
use pgherd_session::Database;
use pgherd_topology::{NodeState, ShardState};

use crate::commands::sorted_databases;
use crate::doing::{Acting, Doing, not_in_state};

pub(super) const DOING: Doing = Doing {
    syntax: "DRAIN SERVER server",
    description: "Sends no new reads to a replica, in all databases that it serves, closes its connections as they come back, and returns when no client has one any more. Of a primary only while the database is paused. UNDRAIN SERVER, or a restart, ends it.",
    words: "DRAIN SERVER",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [name] = arguments else { return Ok(()) };
    let found = servers(acting, name)?;
    for (database, shard, node) in &found {
        if shard.primary == Some(node.id) && !database.pools().is_paused() {
            return Err(not_in_state(format!(
                "server \"{name}\" is the primary of shard \"{}\" of database \"{}\"",
                shard.name,
                database.name()
            ))
            .detail("Writes have nowhere else to go.")
            .hint(format!("PAUSE {} first.", database.name())));
        }
    }
    for (database, shard, node) in &found {
        node.drained.store(true, Ordering::Relaxed);
        database.pools().retire(node.id);
        if shard.primary == Some(node.id) {
            let again = format!("RESUME {} sends writes to it again", database.name());
            acting.notice(again).await?;
        }
    }
    let left = || {
        let held = found.iter().map(|(database, _, node)| {
            let connections = database.pools().server_snapshots();
            let of_clients = connections.iter().filter(|connection| {
                connection.server.node == node.id && connection.holding != Holding::Idle
            });
            of_clients.count()
        });
        held.sum()
    };
    acting
        .until_none("server connections that clients have", left)
        .await
}

/// The server of a name, in each database that it serves.
///
/// # Errors
/// 42704.
pub(super) fn servers(
    acting: &Acting<'_>,
    name: &str,
) -> Result<Vec<(Arc<Database>, ShardState, NodeState)>, PgError> {
    let mut found = Vec::new();
    for database in sorted_databases(acting.herd) {
        for shard in &database.topology().shards {
            for node in shard.nodes.iter().filter(|node| *node.name == *name) {
                found.push((Arc::clone(&database), shard.clone(), node.clone()));
            }
        }
    }
    if found.is_empty() {
        let missing = format!("there is no server \"{name}\"");
        return Err(
            PgError::error(SqlState::UNDEFINED_OBJECT, missing).hint("SHOW SHARDS lists them.")
        );
    }
    Ok(found)
}
