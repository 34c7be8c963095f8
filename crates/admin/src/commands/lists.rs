//! SHOW LISTS: how many there are of what, a row for each.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, integer, text};

pub(super) const SHOW: Show = Show {
    word: "LISTS",
    description: "How many databases, users, pools, clients, servers and others there are.",
    columns: COLUMNS,
    named_by: "list",
    rows,
};

const COLUMNS: &[Column] = &[
    text(
        "list",
        "What is counted. pgherd has no peers, keeps no unused clients and servers, and no zones or queries of names: 0.",
    ),
    integer("items", "How many there are."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let databases = sorted_databases(herd);
    let count = |of: &dyn Fn(&pgherd_session::Database) -> usize| -> usize {
        databases.iter().map(|database| of(database)).sum()
    };
    let users = herd.console().users.iter().count();
    // one resolver for all
    let names = databases
        .first()
        .map_or(0, |database| database.pools().settings().resolver.names());
    let lists = [
        ("databases", databases.len()),
        (
            "users",
            users + count(&|database| database.users().iter().count()),
        ),
        ("peers", 0),
        (
            "pools",
            count(&|database| database.pools().pool_snapshots().len()),
        ),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", herd.clients().len()),
        ("login_clients", herd.clients().handshakes()),
        ("free_servers", 0),
        (
            "used_servers",
            count(&|database| database.pools().server_snapshots().len()),
        ),
        ("dns_names", names),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
        (
            "shards",
            count(&|database| database.sharding().shards().len()),
        ),
        ("plans", count(&|database| database.planner().plans().len())),
    ];
    let mut answer = Answer::new(COLUMNS);
    for (list, items) in lists {
        answer.row([list.into(), items.into()]);
    }
    answer
}
