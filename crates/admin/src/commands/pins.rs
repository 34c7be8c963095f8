//! SHOW PINS: a row for each server connection that stays with a client beyond its transactions.

use super::{Show, Sight};
use crate::answer::{Answer, Column, integer, text, time};

pub(super) const SHOW: Show = Show {
    word: "PINS",
    description: "Server connections that stay with a client, and why.",
    columns: COLUMNS,
    named_by: "user",
    rows,
};

const COLUMNS: &[Column] = &[
    integer("client", "The client's number (see SHOW CLIENTS)."),
    text("database", "The database."),
    text("user", "The user."),
    text("application_name", "What the client calls itself."),
    text("shard", "The connection's shard."),
    text("server", "The connection's server."),
    integer("server_pid", "The server's process id for the connection."),
    text("reason", "What the client left on it."),
    time("since", "Since when."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for client in herd.clients().snapshot() {
        let held = client.held();
        if held.iter().all(|server| server.pin.is_none()) {
            continue;
        }
        let identity = client.identity();
        let topology = herd
            .database(&identity.database)
            .map(|database| database.topology());
        for server in held {
            let Some(pin) = server.pin else { continue };
            let shard = topology
                .as_ref()
                .and_then(|topology| topology.shard(server.shard));
            let node = shard.and_then(|shard| shard.node(server.node));
            answer.row([
                client.id().0.into(),
                (&*identity.database).into(),
                (&*identity.user).into(),
                (&*client.application_name()).into(),
                shard.map(|shard| &*shard.name).into(),
                node.map(|node| &*node.name).into(),
                server.pid.into(),
                (&*pin.reason).into(),
                pin.since.into(),
            ]);
        }
    }
    answer
}
