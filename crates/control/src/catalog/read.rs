//! One shard's system catalogs, read in one snapshot on a connection of control's own.
//!
//! Owns the reading. Never knows what the rows mean ([`pgherd_topology::catalog::reading`] does), never compares shards.
//! Main function: [`read`].

use std::time::Duration;

use pgherd_topology::RelationName;
use pgherd_topology::catalog::reading::{Reader, Reading, SETTINGS, queries};
use tokio_postgres::SimpleQueryMessage;

use crate::error::ControlError;
use crate::login::{Lease, Server};

const ACTION: &str = "read the catalog";

/// Reads one server; `compared` are the tables that shards must agree on.
pub(crate) async fn read(
    server: &Server,
    compared: &[RelationName],
    bound: Duration,
) -> Result<Reading, ControlError> {
    let lease = server.lease().await?;
    let settings = settings_rows(server, &lease, bound).await?;
    // one snapshot for all queries; a reading that is given up in the middle takes the connection with it
    let text = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n{};\nCOMMIT",
        queries(compared)
    );
    let rows = server
        .within(bound, ACTION, lease.simple_query(&text))
        .await?;
    lease.give_back();
    let mut reader = Reader::default();
    for message in settings.iter().chain(&rows) {
        if let SimpleQueryMessage::Row(row) = message {
            let columns: Vec<Option<&str>> = (0..row.len()).map(|index| row.get(index)).collect();
            reader
                .row(&columns)
                .map_err(|error| server.unexpected(ACTION, error.to_string()))?;
        }
    }
    Ok(reader.finish())
}

/// A session keeps the defaults that it began with, so a fresh one is asked; an older one's answer is better than none
/// where the server has no room for another.
async fn settings_rows(
    server: &Server,
    lease: &Lease,
    bound: Duration,
) -> Result<Vec<SimpleQueryMessage>, ControlError> {
    match server.open().await {
        Ok(fresh) => {
            server
                .within(bound, ACTION, fresh.simple_query(SETTINGS))
                .await
        }
        Err(error) => {
            tracing::debug!(%error, "a new session's settings are taken from an older one");
            server
                .within(bound, ACTION, lease.simple_query(SETTINGS))
                .await
        }
    }
}
