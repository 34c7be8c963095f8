//! SHOW DATABASES: a row for each database that clients can connect to.

use std::collections::BTreeSet;

use pgherd_session::{Consistency, Database, ReadsFrom};
use pgherd_topology::Address;

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, boolean, float, integer, text};
use crate::readiness::unreadiness;

pub(super) const SHOW: Show = Show {
    word: "DATABASES",
    description: "The databases: servers, limits, clients, settings.",
    columns: COLUMNS,
    named_by: "name",
    rows,
};

const COLUMNS: &[Column] = &[
    text("name", "The name that clients connect to."),
    text("host", "The hosts of its servers, each once."),
    integer(
        "port",
        "The port of its servers; empty where they have several.",
    ),
    text("database", "Its name on the servers."),
    text(
        "force_user",
        "The login of all its users on the servers (server_login); empty where each logs in as itself.",
    ),
    integer(
        "pool_size",
        "How many connections a user may have on one server.",
    ),
    integer("min_pool_size", "How many of them are kept open when idle."),
    integer(
        "reserve_pool_size",
        "How many more while somebody has waited for long.",
    ),
    integer(
        "server_lifetime",
        "How old a connection may become, in seconds.",
    ),
    text(
        "pool_mode",
        "When a server connection goes back: session, transaction, statement.",
    ),
    text("load_balance_hosts", "Always empty: see reads_from."),
    integer(
        "max_connections",
        "How many connections to servers it may have (pool: max_connections); 0 is no limit.",
    ),
    integer(
        "current_connections",
        "How many connections to servers it has in its pools.",
    ),
    integer(
        "max_client_connections",
        "How many clients it may have; 0 is no limit but the listener's.",
    ),
    integer(
        "current_client_connections",
        "How many clients are connected.",
    ),
    integer("paused", "1 while it is paused, else 0."),
    integer("disabled", "1 while it takes no new clients, else 0."),
    integer("shards", "How many shards it has."),
    integer("sharded_tables", "How many tables are sharded by a key."),
    integer(
        "reference_tables",
        "How many tables every shard has a copy of.",
    ),
    integer("users", "How many users may connect."),
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

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let of_pgbouncer =
            of_pgbouncer(&database, herd.clients().count_of_database(database.name()));
        answer.row_of(of_pgbouncer.into_iter().chain(of_pgherd(&database)));
    }
    answer
}

fn of_pgbouncer(database: &Database, clients: usize) -> [Value; 17] {
    let pools = database.pools().settings();
    let (host, port) = hosts(database);
    [
        database.name().into(),
        host,
        port,
        (&*pools.database).into(),
        database
            .shared_server_login()
            .map(|login| login.name.to_string())
            .into(),
        pools.size.into(),
        pools.min.into(),
        pools.reserve.into(),
        pools.lifetime.as_secs().into(),
        pools.mode.name().into(),
        Value::Null,
        pools.max_connections.unwrap_or(0).into(),
        database.pools().connections().into(),
        database.max_clients().unwrap_or(0).into(),
        clients.into(),
        u64::from(database.pools().is_paused()).into(),
        u64::from(database.is_disabled()).into(),
    ]
}

fn of_pgherd(database: &Database) -> [Value; 13] {
    let sharding = database.sharding();
    let reads = database.reads();
    let trouble = unreadiness(database);
    let from = match reads.from {
        ReadsFrom::Replicas => "replicas",
        ReadsFrom::Any => "any",
        ReadsFrom::Primary => "primary",
    };
    let consistency = match reads.consistency {
        Consistency::Session => "session",
        Consistency::Eventual => "eventual",
    };
    [
        sharding.shards().len().into(),
        sharding.tables().count().into(),
        sharding.reference_tables().count().into(),
        database.users().iter().count().into(),
        from.into(),
        consistency.into(),
        reads.max_lag.into(),
        reads.zone.as_deref().into(),
        database.catalog().version().into(),
        database.topology().version.into(),
        sharding.map().version().into(),
        trouble.is_empty().into(),
        (!trouble.is_empty()).then(|| trouble.join("; ")).into(),
    ]
}

fn hosts(database: &Database) -> (Value, Value) {
    let topology = database.topology();
    let (mut hosts, mut ports) = (Vec::<String>::new(), BTreeSet::new());
    for node in topology.shards.iter().flat_map(|shard| &shard.nodes) {
        let (host, port) = host_and_port(&node.address);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        ports.insert(port);
    }
    let one = (ports.len() == 1).then(|| ports.first().copied()).flatten();
    (
        (!hosts.is_empty()).then(|| hosts.join(",")).into(),
        one.map(i32::from).into(),
    )
}

/// A server's host, or the directory of its socket, and its port.
pub(super) fn host_and_port(address: &Address) -> (String, u16) {
    match address {
        Address::Tcp { host, port } => (host.to_string(), *port),
        Address::Unix { directory, port } => (directory.to_string(), *port),
    }
}
