//! SHOW POOLS: a row for each user of each database, over all servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgherd_pool::PoolSnapshot;
use pgherd_session::{Client, ClientState, Database, Herd};

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, integer, text};

pub(super) const SHOW: Show = Show {
    word: "POOLS",
    description: "The pools of server connections, by database and user: clients, connections, the longest wait. By server they are in SHOW SERVER_POOLS.",
    columns: COLUMNS,
    named_by: "database",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database; the console is one."),
    text(
        "user",
        "Whose pool: the name it logs in to the servers with.",
    ),
    integer(
        "cl_active",
        "Clients that do not wait for a server connection.",
    ),
    integer("cl_waiting", "Clients that do."),
    integer("cl_active_cancel_req", "Not counted apart: 0."),
    integer("cl_waiting_cancel_req", "Not counted apart: 0."),
    integer("sv_active", "Connections that clients hold."),
    integer("sv_active_cancel", "Not counted apart: 0."),
    integer("sv_being_canceled", "Not counted apart: 0."),
    integer("sv_idle", "Connections that lie unused."),
    integer(
        "sv_used",
        "pgherd checks a connection when it hands it out: 0.",
    ),
    integer(
        "sv_tested",
        "What is put right before a connection is handed on is its client's doing: 0.",
    ),
    integer("sv_login", "Connections that are being opened."),
    integer(
        "maxwait",
        "How long the first who waits has waited, in whole seconds.",
    ),
    integer("maxwait_us", "The microseconds beyond these."),
    text(
        "pool_mode",
        "When a connection goes back: session, transaction, statement.",
    ),
    text("load_balance_hosts", "Always empty."),
    integer("servers", "On how many servers there is such a pool."),
    integer(
        "sv_pinned",
        "Connections that stay with a client beyond its transactions, or may when its statement ends.",
    ),
];

/// What is counted for one user of one database.
#[derive(Default)]
struct Counted {
    clients: usize,
    waiting: usize,
    servers: usize,
    active: usize,
    idle: usize,
    opening: usize,
    pinned: usize,
    longest: Duration,
}

impl Counted {
    fn client(&mut self, client: &Client) {
        match client.state() {
            ClientState::Waiting => self.waiting += 1,
            ClientState::Idle | ClientState::Active | ClientState::IdleInTransaction => {
                self.clients += 1;
            }
        }
    }

    fn pool(&mut self, pool: &PoolSnapshot) {
        self.servers += 1;
        self.active += pool.active;
        self.idle += pool.idle;
        self.opening += pool.opening;
        self.pinned += pool.pinned;
        self.longest = self.longest.max(pool.longest_waiting);
    }

    fn row(&self, database: &str, user: &str, mode: &str) -> [Value; 19] {
        const NOT_COUNTED: u64 = 0;
        [
            database.into(),
            user.into(),
            self.clients.into(),
            self.waiting.into(),
            NOT_COUNTED.into(),
            NOT_COUNTED.into(),
            self.active.into(),
            NOT_COUNTED.into(),
            NOT_COUNTED.into(),
            self.idle.into(),
            NOT_COUNTED.into(),
            NOT_COUNTED.into(),
            self.opening.into(),
            self.longest.as_secs().into(),
            u64::from(self.longest.subsec_micros()).into(),
            mode.into(),
            Value::Null,
            self.servers.into(),
            self.pinned.into(),
        ]
    }
}

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    let clients = herd.clients().snapshot();
    for database in sorted_databases(herd) {
        let settings = database.pools().settings();
        for (user, counted) in counted(&database, &clients) {
            let mode = settings.mode_of(&user).name();
            answer.row(counted.row(database.name(), &user, mode));
        }
    }
    for ((database, user), counted) in of_console(herd, &clients) {
        answer.row(counted.row(database, user, "statement"));
    }
    answer
}

/// By the login on the servers.
fn counted(database: &Database, clients: &[Arc<Client>]) -> BTreeMap<Box<str>, Counted> {
    let mut users = BTreeMap::<Box<str>, Counted>::new();
    for pool in database.pools().pool_snapshots() {
        users.entry(pool.user.clone()).or_default().pool(&pool);
    }
    let shared = database.shared_server_login();
    for client in clients {
        let identity = client.identity();
        if *identity.database == *database.name() {
            let user = shared.as_ref().map_or(&identity.user, |login| &login.name);
            users.entry(user.clone()).or_default().client(client);
        }
    }
    users
}

/// The console's users, as those of a database without servers.
fn of_console<'c>(
    herd: &Herd,
    clients: &'c [Arc<Client>],
) -> BTreeMap<(&'c str, &'c str), Counted> {
    let console = herd.console();
    let databases = herd.databases();
    let mut users = BTreeMap::<_, Counted>::new();
    for client in clients {
        let identity = client.identity();
        if console.is_named(&identity.database) && !databases.contains_key(&identity.database) {
            let key = (&*identity.database, &*identity.user);
            users.entry(key).or_default().client(client);
        }
    }
    users
}
