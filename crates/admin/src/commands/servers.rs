//! SHOW SERVERS: a row for each connection to a Postgres server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use pgherd_pool::{Holding, ServerSnapshot};
use pgherd_session::{Client, Database, Herd};
use pgherd_topology::NodeId;

use super::clients::{client_pointer, pointer};
use super::databases::host_and_port;
use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, float, integer, text, time};

pub(super) const SHOW: Show = Show {
    word: "SERVERS",
    description: "The connections to Postgres servers, and who has them. What is known of the servers themselves is in SHOW SHARDS.",
    columns: COLUMNS,
    named_by: "server",
    rows,
};

const COLUMNS: &[Column] = &[
    text("type", "S, for server."),
    text("user", "The user that is logged in to the server."),
    text("database", "The database."),
    text(
        "replication",
        "none, or replication for a client that replicates.",
    ),
    text(
        "state",
        "active (a client has it), idle, or new (it is being opened).",
    ),
    text("addr", "The server's host, or the directory of its socket."),
    integer("port", "The server's port."),
    text("local_addr", "Not kept: empty."),
    integer("local_port", "Not kept: empty."),
    time("connect_time", "When it was opened."),
    time(
        "request_time",
        "When it was last handed out, or given back.",
    ),
    integer("wait", "Not used for servers: 0."),
    integer("wait_us", "Not used for servers: 0."),
    integer(
        "close_needed",
        "Not kept: empty. What is outdated is closed when it comes back.",
    ),
    text("ptr", "What the column link of SHOW CLIENTS names it."),
    text(
        "link",
        "The client that has it, as ptr of SHOW CLIENTS names it.",
    ),
    integer(
        "remote_pid",
        "The server's process id for it; 0 while it is being opened.",
    ),
    text("tls", "Not kept: empty."),
    text(
        "application_name",
        "What the client that has it calls itself.",
    ),
    integer("prepared_statements", "Not counted: empty."),
    integer("id", "Not kept: empty."),
    text("shard", "The shard of the server."),
    text("server", "The server's name."),
    text(
        "holding",
        "What it does: login, idle, active, transaction, failed, kept.",
    ),
    float(
        "held_for",
        "How long it has been in the same hands, in seconds.",
    ),
];

/// Clients by a server connection that they hold.
type Holders = HashMap<(NodeId, i32), Arc<Client>>;

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let holders = holders(herd, &database);
        for connection in database.pools().server_snapshots() {
            answer.row(row(&database, &connection, &holders));
        }
    }
    answer
}

fn holders(herd: &Herd, database: &Database) -> Holders {
    let mut holders = Holders::new();
    for client in herd.clients().snapshot() {
        if *client.identity().database == *database.name() {
            for held in client.held() {
                holders.insert((held.node, held.pid), Arc::clone(&client));
            }
        }
    }
    holders
}

fn row(database: &Database, connection: &ServerSnapshot, holders: &Holders) -> [Value; 25] {
    let server = &connection.server;
    let holder = holders.get(&(server.node, connection.pid));
    let topology = database.topology();
    let (host, port) = host_and_port(&server.address);
    let state = match connection.holding {
        Holding::Opening => "new",
        Holding::Idle => "idle",
        Holding::Running | Holding::InTransaction | Holding::Failed | Holding::Kept => "active",
    };
    let now = SystemTime::now();
    [
        "S".into(),
        (&*connection.user).into(),
        database.name().into(),
        if connection.replicates {
            "replication"
        } else {
            "none"
        }
        .into(),
        state.into(),
        host.into(),
        i32::from(port).into(),
        Value::Null,
        Value::Null,
        now.checked_sub(connection.age).into(),
        now.checked_sub(connection.held_for).into(),
        0_u64.into(),
        0_u64.into(),
        Value::Null,
        pointer(&server.name, connection.pid).into(),
        holder.map(|client| client_pointer(client)).into(),
        connection.pid.into(),
        Value::Null,
        holder
            .map(|client| client.application_name().to_string())
            .unwrap_or_default()
            .into(),
        Value::Null,
        Value::Null,
        topology
            .shard(server.shard)
            .map(|shard| &*shard.name)
            .into(),
        (&*server.name).into(),
        connection.holding.name().into(),
        connection.held_for.into(),
    ]
}
