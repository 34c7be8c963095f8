//! SHOW CLIENTS: a row for each client, the console's among them.

use pgherd_session::{Client, Herd};

use crate::answer::{Answer, Column, integer, text, time};

pub(super) const COLUMNS: &[Column] = &[
    integer("id", "Its number, never used twice."),
    integer(
        "pid",
        "The process id that it was told, which it cancels by.",
    ),
    text("database", "The database it is connected to."),
    text("user", "The user it logged in as."),
    text("application_name", "What it calls itself."),
    text("address", "Where it comes from."),
    text(
        "tls",
        "Version and cipher of its encryption; empty without.",
    ),
    text("protocol", "The version of the protocol that it speaks."),
    text(
        "state",
        "idle, active, idle in transaction, or waiting for a connection.",
    ),
    time("connected_at", "When it logged in."),
    time("last_request_at", "When its last request started."),
    integer("requests", "How many requests it made."),
    text("servers", "The servers whose connections it holds."),
    integer("pins", "How many of those stay with it (see SHOW PINS)."),
];

pub(super) fn rows(herd: &Herd) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for client in herd.clients().snapshot() {
        let identity = client.identity();
        let held = client.held();
        let pins = held.iter().filter(|server| server.pin.is_some()).count();
        answer.row([
            client.id().0.into(),
            client.pid().into(),
            (&*identity.database).into(),
            (&*identity.user).into(),
            (&*client.application_name()).into(),
            identity.peer.to_string().into(),
            identity.tls.as_deref().into(),
            identity.version.to_string().into(),
            client.state().as_str().into(),
            client.connected_at().into(),
            client.last_request_at().into(),
            client.requests().into(),
            server_names(herd, &client).into(),
            pins.into(),
        ]);
    }
    answer
}

fn server_names(herd: &Herd, client: &Client) -> Option<String> {
    let held = client.held();
    let topology = herd.database(&client.identity().database)?.topology();
    let names: Vec<String> = held
        .iter()
        .map(|server| match topology.node(server.node) {
            Some(node) => node.name.to_string(),
            // a server that a reload took out of the configuration
            None => format!("#{}", server.node.0),
        })
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}
