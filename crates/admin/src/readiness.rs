//! Whether pgherd can do its work.
//!
//! Owns: what must be there before a load balancer sends clients. Never does: finding out what is (control does).
//! Main functions: [`unreadiness`], [`troubles`].

use pgherd_session::{Database, Herd, Phase};
use pgherd_topology::Health;

use crate::commands::sorted_databases;

/// What a database lacks to answer every query; empty: nothing.
pub fn unreadiness(database: &Database) -> Vec<String> {
    let topology = database.topology();
    let mut missing: Vec<String> = topology
        .shards
        .iter()
        .filter(|shard| {
            !shard
                .primary()
                .is_some_and(|primary| primary.health == Health::Up)
        })
        .map(|shard| format!("shard {} has no primary that answers", shard.name))
        .collect();
    let shards = database.sharding().shards().len();
    if topology.shards.len() < shards {
        missing.push(format!(
            "{} of {shards} shards are known",
            topology.shards.len()
        ));
    }
    if database.catalog().version() == 0 {
        missing.push("the catalog was not read yet".to_owned());
    }
    missing
}

/// What speaks against sending clients here; empty: nothing.
pub fn troubles(herd: &Herd) -> Vec<String> {
    let mut troubles = Vec::new();
    match *herd.phase().borrow() {
        Phase::Running => {}
        Phase::Draining => troubles.push("pgherd is shutting down".to_owned()),
    }
    let databases = sorted_databases(herd);
    // one that was made for a client is that client's matter
    let named = databases
        .iter()
        .filter(|database| herd.database(database.name()).is_some());
    for database in named {
        let missing = unreadiness(database);
        troubles.extend(
            missing
                .into_iter()
                .map(|what| format!("database {}: {what}", database.name())),
        );
    }
    troubles
}
