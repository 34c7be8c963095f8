//! Metrics that are looked up when they are asked for: clients, server connections, health, lag.
//!
//! Owns: what of the herd's state becomes a gauge. Never does: rendering. Main function: [`measure`].

use std::collections::BTreeMap;

use pgherd_pool::Holding;
use pgherd_session::{Database, Herd};
use pgherd_telemetry::ServerRole;
use pgherd_topology::{Health, Role};

use crate::commands::sorted_databases;

/// Sets the gauges to what is now.
pub fn measure(herd: &Herd) {
    for database in sorted_databases(herd) {
        let clients = herd.clients().count_of_database(database.name());
        database.metrics().set_clients(clients);
        measure_servers(&database);
        measure_connections(&database);
        measure_limits(herd, &database);
    }
}

fn measure_limits(herd: &Herd, database: &Database) {
    let (metrics, pools) = (herd.metrics(), database.pools());
    let (budget, settings) = (pools.budget(), pools.settings());
    metrics.set_connection_limit("process", "", budget.limit(), budget.total());
    metrics.set_connection_limit(
        "database",
        database.name(),
        settings.max_connections,
        pools.connections(),
    );
    for node in database
        .topology()
        .shards
        .iter()
        .flat_map(|shard| &shard.nodes)
    {
        let limit = settings.server_limits.get(&node.name).copied();
        let counted = budget.total_to(&node.address);
        metrics.set_connection_limit("server", &node.name, limit, counted);
    }
}

fn measure_servers(database: &Database) {
    let metrics = database.metrics();
    for shard in &database.topology().shards {
        for node in &shard.nodes {
            let up = match node.health {
                Health::Up => true,
                Health::Down | Health::Unknown => false,
            };
            let role = match node.role {
                Role::Primary => ServerRole::Primary,
                // of a server that nobody has heard of yet nothing is claimed but that it is not up
                Role::Replica | Role::Unknown => ServerRole::Replica,
            };
            metrics.set_server_up(
                &shard.name,
                &node.name,
                role,
                up && node.role != Role::Unknown,
            );
            if let Some(lag) = node.lag {
                metrics.set_replica_lag(&shard.name, &node.name, lag);
            }
        }
    }
}

fn measure_connections(database: &Database) {
    let topology = database.topology();
    // every server, so that a count goes back to 0 when its last connection is closed
    let mut counts: BTreeMap<(&str, &str), (usize, usize)> = topology
        .shards
        .iter()
        .flat_map(|shard| {
            shard
                .nodes
                .iter()
                .map(|node| ((&*shard.name, &*node.name), (0, 0)))
        })
        .collect();
    let mut pinned: BTreeMap<_, usize> = counts.keys().map(|key| (*key, 0)).collect();
    for pool in database.pools().pool_snapshots() {
        if let Some(shard) = topology.shard(pool.server.shard)
            && let Some(node) = shard.node(pool.server.node)
        {
            *pinned.entry((&shard.name, &node.name)).or_default() += pool.pinned;
        }
    }
    for ((shard, server), count) in pinned {
        let metrics = database.metrics();
        metrics.set_pinned_connections(shard, server, count);
    }
    for connection in database.pools().server_snapshots() {
        let Some(shard) = topology.shard(connection.server.shard) else {
            continue;
        };
        let Some(node) = shard.node(connection.server.node) else {
            continue;
        };
        let (idle, used) = counts.entry((&shard.name, &node.name)).or_default();
        match connection.holding {
            Holding::Idle => *idle += 1,
            Holding::Opening
            | Holding::Running
            | Holding::InTransaction
            | Holding::Failed
            | Holding::Kept => *used += 1,
        }
    }
    for ((shard, server), (idle, used)) in counts {
        let metrics = database.metrics();
        metrics.set_server_connections(shard, server, "idle", idle);
        metrics.set_server_connections(shard, server, "used", used);
    }
}
