//! SHOW USERS: a row for each user of each database that the configuration names, and of the console.

use std::collections::HashMap;

use pgherd_session::Database;

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, integer, text};

pub(super) const SHOW: Show = Show {
    word: "USERS",
    description: "Who may connect to which database, with the limits of each user.",
    columns: COLUMNS,
    named_by: "name",
    rows,
};

const COLUMNS: &[Column] = &[
    text("name", "The user."),
    integer(
        "pool_size",
        "How many connections it may have on one server, where that is its own.",
    ),
    integer(
        "reserve_pool_size",
        "How many more while somebody has waited for long, where that is its own.",
    ),
    text(
        "pool_mode",
        "When its connections go back, where that is its own.",
    ),
    integer(
        "max_user_connections",
        "pgherd has no such limit over servers: 0.",
    ),
    integer(
        "current_connections",
        "Connections to servers that are logged in as this user.",
    ),
    integer(
        "max_user_client_connections",
        "How many of its clients there may be in the database; 0 is no limit of its own.",
    ),
    integer(
        "current_client_connections",
        "How many of its clients are connected to the database.",
    ),
    text("database", "The database, or the console's name."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    let (console, databases) = (herd.console(), herd.databases());
    let mut clients = HashMap::<(String, String), usize>::new();
    for client in herd.clients().snapshot() {
        let identity = client.identity();
        // the console has an alias
        let is_console =
            console.is_named(&identity.database) && !databases.contains_key(&identity.database);
        let database = match &console.database {
            Some(name) if is_console => name.to_string(),
            Some(_) | None => identity.database.to_string(),
        };
        let key = (database, identity.user.to_string());
        *clients.entry(key).or_default() += 1;
    }
    let of = |database: &str, user: &str| {
        let key = (database.to_owned(), user.to_owned());
        clients.get(&key).copied().unwrap_or(0)
    };
    for database in sorted_databases(herd) {
        add_users(&mut answer, &database, &of);
    }
    if let Some(name) = &console.database {
        let mut users: Vec<_> = console.users.iter().collect();
        users.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for user in users {
            answer.row([
                (&*user.name).into(),
                Value::Null,
                Value::Null,
                Value::Null,
                0_u64.into(),
                0_u64.into(),
                user.max_clients.unwrap_or(0).into(),
                of(name, &user.name).into(),
                (&**name).into(),
            ]);
        }
    }
    answer
}

fn add_users(answer: &mut Answer, database: &Database, clients: &dyn Fn(&str, &str) -> usize) {
    let settings = database.pools().settings();
    let pools = database.pools().pool_snapshots();
    let known = database.users();
    let mut users: Vec<_> = known.iter().collect();
    users.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for user in users {
        let own = settings.users.get(&user.name);
        let connections: usize = pools
            .iter()
            .filter(|pool| pool.user == user.name)
            .map(|pool| pool.active + pool.idle + pool.opening)
            .sum();
        answer.row([
            (&*user.name).into(),
            own.and_then(|own| own.size).into(),
            own.and_then(|own| own.reserve).into(),
            own.and_then(|own| own.mode).map(|mode| mode.name()).into(),
            0_u64.into(),
            connections.into(),
            user.max_clients.unwrap_or(0).into(),
            clients(database.name(), &user.name).into(),
            database.name().into(),
        ]);
    }
}
