//! SHOW DATABASES: a row for each database that clients can connect to.

use pgherd_session::{Consistency, Herd, ReadsFrom};

use super::sorted_databases;
use crate::answer::{Answer, Column, boolean, float, integer, text};
use crate::readiness::unreadiness;

pub(super) const COLUMNS: &[Column] = &[
    text("name", "The name that clients connect to."),
    text("server_database", "Its name on the servers."),
    integer("shards", "How many shards it has."),
    integer("sharded_tables", "How many tables are sharded by a key."),
    integer(
        "reference_tables",
        "How many tables every shard has a copy of.",
    ),
    integer("users", "How many users may connect."),
    integer("clients", "How many clients are connected."),
    integer(
        "max_clients",
        "How many may be; empty is no limit but the listener's.",
    ),
    integer(
        "server_connections",
        "How many connections to servers it has in its pools.",
    ),
    integer(
        "max_server_connections",
        "How many it may have (pool: max_connections); empty is no limit.",
    ),
    text(
        "mode",
        "When a server connection goes back: session, transaction, statement.",
    ),
    text(
        "reads_from",
        "Which servers answer reads: replicas, any, primary.",
    ),
    text(
        "consistency",
        "What a client may rely on when it reads: session, eventual.",
    ),
    float(
        "max_lag",
        "How far behind a replica may be to answer reads, in seconds.",
    ),
    text("zone", "The zone whose replicas go first."),
    integer(
        "catalog_version",
        "Rises with every change of the servers' schema; 0 before it was first read.",
    ),
    integer(
        "topology_version",
        "Rises with every change of the servers' roles and health.",
    ),
    integer("map_version", "The version of the table of buckets."),
    boolean(
        "ready",
        "Whether every shard has a primary and the catalog is read.",
    ),
    text("trouble", "What is missing to be ready."),
];

pub(super) fn rows(herd: &Herd) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let sharding = database.sharding();
        let reads = database.reads();
        let pools = database.pools().settings();
        let trouble = unreadiness(&database);
        let from = match reads.from {
            ReadsFrom::Replicas => "replicas",
            ReadsFrom::Any => "any",
            ReadsFrom::Primary => "primary",
        };
        let consistency = match reads.consistency {
            Consistency::Session => "session",
            Consistency::Eventual => "eventual",
        };
        answer.row([
            database.name().into(),
            (&*pools.database).into(),
            sharding.shards().len().into(),
            sharding.tables().count().into(),
            sharding.reference_tables().count().into(),
            database.users().iter().count().into(),
            herd.clients().count_of_database(database.name()).into(),
            database.max_clients().into(),
            database.pools().connections().into(),
            pools.max_connections.into(),
            pools.mode.name().into(),
            from.into(),
            consistency.into(),
            reads.max_lag.into(),
            reads.zone.as_deref().into(),
            database.catalog().version().into(),
            database.topology().version.into(),
            sharding.map().version().into(),
            trouble.is_empty().into(),
            (!trouble.is_empty()).then(|| trouble.join("; ")).into(),
        ]);
    }
    answer
}
