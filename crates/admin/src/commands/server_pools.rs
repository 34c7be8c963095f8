//! SHOW SERVER_POOLS: a row for each user on each server.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, float, integer, text};

pub(super) const SHOW: Show = Show {
    word: "SERVER_POOLS",
    description: "The pools of server connections, by server: used, idle, waiting.",
    columns: COLUMNS,
    named_by: "user",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    text(
        "user",
        "Whose pool: the name it logs in to the servers with.",
    ),
    text("shard", "The shard."),
    text("server", "The server."),
    text(
        "mode",
        "When a connection goes back: session, transaction, statement.",
    ),
    integer("size", "The most connections it may have."),
    integer("reserve", "How many more for one who has waited for long."),
    integer("active", "Connections that clients hold."),
    integer(
        "kept",
        "Of those: kept by a client between its statements (see SHOW PINS).",
    ),
    integer(
        "pinned",
        "Those that stay with a client beyond its transactions, or may when its statement ends; not in mode session.",
    ),
    integer("max_pinned", "The most of those; null in mode session."),
    integer("idle", "Connections that lie unused."),
    integer("opening", "Connections that are being opened."),
    integer("waiting", "Requests that wait for a connection."),
    float(
        "waiting_longest",
        "How long the first of them has waited, in seconds.",
    ),
    integer("checkouts", "Connections handed out since the start."),
    integer("waits", "Of those: after waiting for another's."),
    float("wait_total", "How long those waited in all, in seconds."),
    float(
        "wait_max",
        "How long the longest of them waited, in seconds.",
    ),
    integer("timeouts", "Requests that waited in vain (53300)."),
    integer("opened", "Connections opened since the start."),
    integer("failed", "Attempts to open one that failed."),
    integer("closed", "Connections closed since the start."),
    integer(
        "closed_unclean",
        "Of those: because a client left something on them.",
    ),
    text(
        "trouble",
        "The failure that keeps new connections from being tried for a moment.",
    ),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let topology = database.topology();
        for pool in database.pools().pool_snapshots() {
            let shard = topology.shard(pool.server.shard).map(|shard| &*shard.name);
            answer.row([
                database.name().into(),
                (&*pool.user).into(),
                shard.into(),
                (&*pool.server.name).into(),
                pool.mode.name().into(),
                pool.size.into(),
                pool.reserve.into(),
                pool.active.into(),
                pool.kept.into(),
                pool.pinned.into(),
                pool.max_pinned.into(),
                pool.idle.into(),
                pool.opening.into(),
                pool.waiting.into(),
                pool.longest_waiting.into(),
                pool.checkouts.into(),
                pool.waits.into(),
                pool.wait_total.into(),
                pool.wait_max.into(),
                pool.timeouts.into(),
                pool.opened.into(),
                pool.failed.into(),
                pool.closed.into(),
                pool.closed_unclean.into(),
                pool.backing_off.into(),
            ]);
        }
    }
    answer
}
