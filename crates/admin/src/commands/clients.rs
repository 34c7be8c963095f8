//! SHOW CLIENTS: a row for each client, the console's among them.

use pgherd_pool::PeerAddress;
use pgherd_session::{Client, ClientState, HeldServer, Herd, Replication};

use super::{Show, Sight};
use crate::answer::{Answer, Column, Value, integer, text, time};

pub(super) const SHOW: Show = Show {
    word: "CLIENTS",
    description: "Who is connected, and what each one does.",
    columns: COLUMNS,
    named_by: "user",
    rows,
};

const COLUMNS: &[Column] = &[
    text("type", "C, for client."),
    text("user", "The user it logged in as."),
    text("database", "The database it is connected to."),
    text("replication", "none, logical or physical."),
    text(
        "state",
        "active (it has a server connection, or a request), idle, or waiting for a connection.",
    ),
    text("addr", "Where it comes from: an IP address, or unix."),
    integer("port", "Its port; 0 for the Unix socket."),
    text("local_addr", "Not kept: empty."),
    integer("local_port", "Not kept: empty."),
    time("connect_time", "When it logged in."),
    time("request_time", "When its last request started."),
    integer(
        "wait",
        "How long its request has waited for a server connection, in whole seconds; 0 where it does not wait.",
    ),
    integer("wait_us", "The microseconds beyond these."),
    integer("close_needed", "Not used for clients: 0."),
    text("ptr", "What the column link of SHOW SERVERS names it."),
    text(
        "link",
        "The first of its server connections, as ptr of SHOW SERVERS names it.",
    ),
    integer("remote_pid", "Not known: 0."),
    text(
        "tls",
        "Version and cipher of its encryption; empty without.",
    ),
    text("application_name", "What it calls itself."),
    integer("prepared_statements", "Not counted: empty."),
    integer("id", "Its number, never used twice."),
    integer(
        "pid",
        "The process id that it was told, which it cancels by.",
    ),
    text("protocol", "The version of the protocol that it speaks."),
    text(
        "activity",
        "idle, active, idle in transaction, or waiting for a connection.",
    ),
    integer("requests", "How many requests it made."),
    text("servers", "The servers whose connections it holds."),
    integer("pins", "How many of those stay with it (see SHOW PINS)."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for client in herd.clients().snapshot() {
        let held = client.held();
        let names = server_names(herd, &client, &held);
        let link = held.first().zip(names.first());
        let link = link.map(|(server, name)| pointer(name, server.pid));
        let pins = held.iter().filter(|server| server.pin.is_some()).count();
        let ours = [
            client.pid().into(),
            client.identity().version.to_string().into(),
            client.state().as_str().into(),
            client.requests().into(),
            (!names.is_empty()).then(|| names.join(", ")).into(),
            pins.into(),
        ];
        let first = of_pgbouncer(&client, !held.is_empty(), link);
        answer.row_of(first.into_iter().chain(ours));
    }
    answer
}

fn of_pgbouncer(client: &Client, holds: bool, link: Option<String>) -> [Value; 21] {
    let identity = client.identity();
    let state = match client.state() {
        ClientState::Waiting => "waiting",
        ClientState::Active => "active",
        ClientState::Idle | ClientState::IdleInTransaction if holds => "active",
        ClientState::Idle | ClientState::IdleInTransaction => "idle",
    };
    let (address, port) = match identity.peer {
        PeerAddress::Tcp(address) => (address.ip().to_string(), address.port()),
        PeerAddress::Unix => ("unix".to_owned(), 0),
    };
    let waiting = match client.state() {
        ClientState::Waiting => client
            .last_request_at()
            .and_then(|begun| begun.elapsed().ok())
            .unwrap_or_default(),
        ClientState::Idle | ClientState::Active | ClientState::IdleInTransaction => {
            std::time::Duration::ZERO
        }
    };
    [
        "C".into(),
        (&*identity.user).into(),
        (&*identity.database).into(),
        match identity.replication {
            None => "none",
            Some(Replication::Logical) => "logical",
            Some(Replication::Physical) => "physical",
        }
        .into(),
        state.into(),
        address.into(),
        i32::from(port).into(),
        Value::Null,
        Value::Null,
        client.connected_at().into(),
        client.last_request_at().into(),
        waiting.as_secs().into(),
        u64::from(waiting.subsec_micros()).into(),
        0_u64.into(),
        client_pointer(client).into(),
        link.into(),
        0_u64.into(),
        identity.tls.as_deref().unwrap_or_default().into(),
        (&*client.application_name()).into(),
        Value::Null,
        client.id().0.into(),
    ]
}

/// What SHOW SERVERS names a client.
pub(super) fn client_pointer(client: &Client) -> String {
    format!("client/{}", client.id().0)
}

/// What SHOW CLIENTS names a server connection.
pub(super) fn pointer(server: &str, pid: i32) -> String {
    format!("{server}/{pid}")
}

fn server_names(herd: &Herd, client: &Client, held: &[HeldServer]) -> Vec<String> {
    let databases = herd.databases();
    let Some(database) = databases.get(&client.identity().database) else {
        return Vec::new();
    };
    let topology = database.topology();
    held.iter()
        .map(|server| match topology.node(server.node) {
            Some(node) => node.name.to_string(),
            // a server that a reload took out of the configuration
            None => format!("#{}", server.node.0),
        })
        .collect()
}
