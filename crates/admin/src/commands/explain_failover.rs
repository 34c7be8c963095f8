//! EXPLAIN FAILOVER SHARD: what is to be thought of a shard's primary, and what would come of a failover now.

use std::sync::Arc;

use pgherd_protocol::{PgError, SqlState};
use pgherd_session::Database;
use pgherd_topology::{Outlook, ShardState, StandbyOutlook};

use super::{Sight, sorted_databases};
use crate::answer::{Answer, Column, text};

/// How it is typed, and what it does.
pub(crate) const HELP: (&str, &str) = (
    "EXPLAIN FAILOVER SHARD [database.]shard",
    "Whether the shard's primary counts as dead, who would be promoted in its place, and what would be lost. Nothing is done.",
);

pub(crate) const COLUMNS: &[Column] = &[
    text("item", "What is spoken of."),
    text(
        "value",
        "What is known of it, as of the servers' last answers.",
    ),
];

/// The rows for a shard, named as `shard` or `database.shard`.
///
/// # Errors
/// 42704 where there is none of that name, or several.
pub(crate) fn rows(sight: Sight<'_>, name: &str) -> Result<Answer, PgError> {
    let databases = sorted_databases(sight.herd);
    let (database, index) = find(&databases, name)?;
    let topology = database.topology();
    let shard = &topology.shards[index];
    let mut answer = Answer::new(COLUMNS);
    let mut row = |item: String, value: String| answer.row([item.into(), value.into()]);
    let primary = match shard.primary() {
        Some(primary) => format!("{}, epoch {}", primary.name, shard.epoch),
        None => "none is known".to_owned(),
    };
    row(
        "shard".into(),
        format!("{}.{}", database.name(), shard.name),
    );
    row("primary".into(), primary);
    let Some(outlook) = shard.outlook.latest() else {
        return Ok(answer);
    };
    row("verdict".into(), outlook.verdict.to_string());
    row(
        "acknowledged by".into(),
        outlook.acknowledged_by.to_string(),
    );
    for standby in &outlook.standbys {
        row(format!("server {}", standby.name), standing(standby));
    }
    row(
        "would be promoted".into(),
        candidate(shard, &outlook).into(),
    );
    row("would be lost".into(), outlook.loss.to_string());
    Ok(answer)
}

fn candidate<'a>(shard: &'a ShardState, outlook: &Outlook) -> &'a str {
    let node = outlook.candidate.and_then(|node| shard.node(node));
    node.map_or("nobody", |node| &node.name)
}

fn standing(standby: &StandbyOutlook) -> String {
    let mut parts = vec![standby.state.to_string()];
    if let Some(timeline) = standby.timeline {
        parts.push(format!("timeline {timeline}"));
    }
    if let Some(reached) = standby.reached {
        parts.push(format!("has {reached}"));
    }
    if let Some(replayed) = standby.replayed {
        parts.push(format!("replayed {replayed}"));
    }
    if let Some(name) = &standby.application_name {
        parts.push(format!("acknowledges as \"{name}\""));
    }
    parts.push(format!("priority {}", standby.priority));
    parts.join(", ")
}

/// The one shard of this name, as `shard` or `database.shard`.
///
/// # Errors
/// 42704 where there is none, or several.
pub(crate) fn find<'a>(
    databases: &'a [Arc<Database>],
    name: &str,
) -> Result<(&'a Arc<Database>, usize), PgError> {
    let found: Vec<(&Arc<Database>, usize)> = databases
        .iter()
        .flat_map(|database| {
            let topology = database.topology();
            let matching: Vec<usize> = (0..)
                .zip(&topology.shards)
                .filter(|(_, shard)| {
                    *name == *shard.name || *name == *format!("{}.{}", database.name(), shard.name)
                })
                .map(|(index, _)| index)
                .collect();
            matching.into_iter().map(move |index| (database, index))
        })
        .collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(PgError::error(
            SqlState::UNDEFINED_OBJECT,
            format!("shard \"{name}\" does not exist"),
        )
        .hint("SHOW SHARDS has their names.")),
        _ => Err(PgError::error(
            SqlState::UNDEFINED_OBJECT,
            format!("several databases have a shard \"{name}\""),
        )
        .hint("Name it as database.shard.")),
    }
}
