//! SHOW SHARDS: a row for each Postgres server of each shard.

use pgherd_pool::Holding;
use pgherd_topology::{Role, TwoPhase};

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, boolean, float, integer, text};

pub(super) const SHOW: Show = Show {
    word: "SHARDS",
    description: "The Postgres servers of each shard: role, health, lag, connections.",
    columns: COLUMNS,
    named_by: "shard",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database it serves."),
    text("shard", "The shard it belongs to."),
    text("server", "Its name."),
    text("address", "Where it listens."),
    text("role", "primary, replica or unknown, as found out."),
    text("health", "up, down or unknown."),
    float("lag", "How far a replica's replay is behind, in seconds."),
    text("zone", "The zone it is in."),
    integer(
        "epoch",
        "The reign of the shard's primary; rises when another takes over.",
    ),
    text(
        "lsn",
        "The newest known position: written on a primary, replayed on a replica.",
    ),
    integer("requests", "Requests running on it now."),
    integer(
        "connections_used",
        "Connections of pgherd's that clients hold.",
    ),
    integer(
        "connections_idle",
        "Connections of pgherd's that lie in pools.",
    ),
    boolean(
        "drained",
        "Whether DRAIN SERVER has taken new reads from it.",
    ),
    text(
        "two_phase",
        "Of a primary: whether the shard can take part in commits over shards.",
    ),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let connections = database.pools().server_snapshots();
        for shard in &database.topology().shards {
            for node in &shard.nodes {
                let of_node = |idle: bool| {
                    connections
                        .iter()
                        .filter(|each| each.server.node == node.id)
                        .filter(|each| (each.holding == Holding::Idle) == idle)
                        .count()
                };
                let two_phase = match (node.role, &shard.two_phase) {
                    (Role::Replica | Role::Unknown, _) => Value::Null,
                    (Role::Primary, TwoPhase::Unknown) => "unknown".into(),
                    (Role::Primary, TwoPhase::Ready) => "ready".into(),
                    (Role::Primary, TwoPhase::Impossible(why)) => {
                        format!("impossible: {why}").into()
                    }
                };
                answer.row([
                    database.name().into(),
                    (&*shard.name).into(),
                    (&*node.name).into(),
                    node.address.to_string().into(),
                    node.role.to_string().into(),
                    node.health.to_string().into(),
                    node.lag.into(),
                    node.zone.as_deref().into(),
                    shard.epoch.0.into(),
                    node.samples
                        .latest()
                        .map(|sample| sample.lsn.to_string())
                        .into(),
                    node.outstanding().into(),
                    of_node(false).into(),
                    of_node(true).into(),
                    node.is_drained().into(),
                    two_phase,
                ]);
            }
        }
    }
    answer
}
