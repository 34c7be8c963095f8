//! Clearing away decisions that nobody can need any more.
//!
//! Owns the order in which rows go: the anchor's commit row once every participant's row was seen, a participant's row once
//! the anchor's is gone and nothing of its transaction is prepared anywhere. Main type: none, [`clean_up`] is all.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use pgherd_topology::commit_protocol::{EXPIRE_TOMBSTONES, HerdId, TransactionName};
use pgherd_topology::{ShardId, Topology};

use super::{halves, shard_named};
use crate::error::ControlError;
use crate::login::Server;
use crate::servers::Servers;

/// Old commit rows of one herd, some at a time.
const OLD_ROWS: &str = "SELECT gid, participants FROM pgherd.commit_log WHERE outcome = 'commit' \
     AND split_part(gid, ':', 2) = $1 AND at < now() - make_interval(secs => $2) ORDER BY at LIMIT 1000";

const PRESENT: &str = "SELECT gid FROM pgherd.commit_log WHERE gid = ANY($1)";

const DELETE: &str = "DELETE FROM pgherd.commit_log WHERE outcome = 'commit' AND gid = ANY($1)";

const ACTION: &str = "clear away old decisions";

struct OldRow {
    text: String,
    name: TransactionName,
    participants: Vec<String>,
}

/// One pass over all shards. Does nothing unless every shard's primary answers: each is a witness.
pub(super) async fn clean_up(
    herd: HerdId,
    servers: &Servers,
    topology: &Topology,
    retention: Duration,
) -> Result<(), ControlError> {
    let mut old: BTreeMap<ShardId, Vec<OldRow>> = BTreeMap::new();
    for shard in crate::control::shard_ids(topology) {
        let (server, _) = servers.primary(topology, shard)?;
        expire_tombstones(server, herd, retention).await?;
        old.insert(shard, old_rows(server, herd, retention).await?);
    }
    let gone_from_anchor = orphans(servers, topology, &old).await?;
    for (shard, rows) in &old {
        let anchored: Vec<&OldRow> = rows
            .iter()
            .filter(|row| shard_named(topology, row.name.anchor()) == Some(*shard))
            .collect();
        let complete = seen_everywhere(servers, topology, *shard, &anchored).await?;
        let (server, _) = servers.primary(topology, *shard)?;
        let orphaned = rows
            .iter()
            .map(|row| row.text.clone())
            .filter(|text| gone_from_anchor.contains(&(*shard, text.clone())));
        delete(server, complete.into_iter().chain(orphaned).collect()).await?;
    }
    Ok(())
}

async fn expire_tombstones(
    server: &Server,
    herd: HerdId,
    retention: Duration,
) -> Result<(), ControlError> {
    let lease = server.lease().await?;
    let (herd, seconds) = (herd.to_string(), retention.as_secs_f64());
    server
        .within(
            server.patience(),
            ACTION,
            lease.execute(EXPIRE_TOMBSTONES, &[&herd, &seconds]),
        )
        .await?;
    lease.give_back();
    Ok(())
}

async fn old_rows(
    server: &Server,
    herd: HerdId,
    retention: Duration,
) -> Result<Vec<OldRow>, ControlError> {
    let lease = server.lease().await?;
    let (herd, seconds) = (herd.to_string(), retention.as_secs_f64());
    let rows = server
        .within(
            server.patience(),
            ACTION,
            lease.query(OLD_ROWS, &[&herd, &seconds]),
        )
        .await?;
    lease.give_back();
    let wrong = |error: tokio_postgres::Error| server.unexpected(ACTION, error.to_string());
    let mut old = Vec::with_capacity(rows.len());
    for row in rows {
        let text: String = row.try_get(0).map_err(wrong)?;
        if let Ok(name) = text.parse() {
            old.push(OldRow {
                text,
                name,
                participants: row.try_get(1).map_err(wrong)?,
            });
        }
    }
    Ok(old)
}

/// Rows of participants whose anchor has none any more, and of whose transaction nothing is prepared anywhere.
async fn orphans(
    servers: &Servers,
    topology: &Topology,
    old: &BTreeMap<ShardId, Vec<OldRow>>,
) -> Result<HashSet<(ShardId, String)>, ControlError> {
    let mut candidates: BTreeMap<ShardId, Vec<(ShardId, String)>> = BTreeMap::new();
    for (shard, rows) in old {
        for row in rows {
            match shard_named(topology, row.name.anchor()) {
                Some(anchor) if anchor != *shard => candidates
                    .entry(anchor)
                    .or_default()
                    .push((*shard, row.text.clone())),
                Some(_) | None => {}
            }
        }
    }
    let mut orphans = HashSet::new();
    for (anchor, rows) in candidates {
        let (server, _) = servers.primary(topology, anchor)?;
        let names = rows.iter().map(|(_, text)| text.clone()).collect();
        let present = present(server, names).await?;
        orphans.extend(rows.into_iter().filter(|(_, text)| !present.contains(text)));
    }
    // Asked after the anchors: whatever was decided then is listed here if it is not finished.
    for shard in crate::control::shard_ids(topology) {
        let (server, _) = servers.primary(topology, shard)?;
        for half in halves::list(server, shard).await? {
            let name = half.gid.transaction().to_string();
            orphans.retain(|(_, text)| *text != name);
        }
    }
    Ok(orphans)
}

/// The anchor's rows whose every other participant has its own.
async fn seen_everywhere(
    servers: &Servers,
    topology: &Topology,
    anchor: ShardId,
    rows: &[&OldRow],
) -> Result<Vec<String>, ControlError> {
    let mut asked: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
    let mut complete: HashSet<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    for row in rows {
        for participant in &row.participants {
            match shard_named(topology, participant) {
                Some(shard) if shard == anchor => {}
                Some(shard) => asked.entry(shard).or_default().push(row.text.clone()),
                None => {
                    complete.remove(row.text.as_str());
                }
            }
        }
    }
    for (shard, names) in asked {
        let (server, _) = servers.primary(topology, shard)?;
        let present = present(server, names.clone()).await?;
        for name in names.iter().filter(|name| !present.contains(*name)) {
            complete.remove(name.as_str());
        }
    }
    Ok(complete.into_iter().map(str::to_owned).collect())
}

async fn present(server: &Server, names: Vec<String>) -> Result<HashSet<String>, ControlError> {
    let lease = server.lease().await?;
    let rows = server
        .within(server.patience(), ACTION, lease.query(PRESENT, &[&names]))
        .await?;
    lease.give_back();
    let wrong = |error: tokio_postgres::Error| server.unexpected(ACTION, error.to_string());
    rows.iter()
        .map(|row| row.try_get(0).map_err(wrong))
        .collect()
}

async fn delete(server: &Server, names: Vec<String>) -> Result<(), ControlError> {
    if names.is_empty() {
        return Ok(());
    }
    let lease = server.lease().await?;
    server
        .within(server.patience(), ACTION, lease.execute(DELETE, &[&names]))
        .await?;
    lease.give_back();
    Ok(())
}
