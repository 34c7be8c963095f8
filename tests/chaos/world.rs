//! What all clients of a run share.
//!
//! Main types: [`World`], [`Counters`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::model::{Rows, Table};

/// Who the clients log in as.
pub const USERS: [&str; 3] = ["app", "bob", "carol"];
/// The size of each user's pool on each server.
pub const POOL_SIZE: usize = 8;
/// How many of each user's clients may keep a connection at a time.
const PINNED: usize = 3;

/// The settings that clients change, with the values of each and what SHOW says then.
pub const SETTINGS: [(&str, [(&str, &str); 2]); 7] = [
    ("application_name", [("'it is $'", "it is $"), ("'$'", "$")]),
    (
        "DateStyle",
        [("'SQL, DMY'", "SQL, DMY"), ("German, DMY", "German, DMY")],
    ),
    (
        "search_path",
        [
            ("public, pg_catalog", "public, pg_catalog"),
            ("public", "public"),
        ],
    ),
    ("chaos.own", [("'$'", "$"), ("'own $'", "own $")]),
    ("work_mem", [("'3MB'", "3MB"), ("5120", "5MB")]),
    (
        "timezone",
        [("'Asia/Tokyo'", "Asia/Tokyo"), ("'UTC'", "UTC")],
    ),
    ("statement_timeout", [("'100s'", "100s"), ("90000", "90s")]),
];

/// What was done, counted.
#[derive(Debug, Default)]
pub struct Counters {
    pub clients: AtomicU64,
    pub requests: AtomicU64,
    pub cancels: AtomicU64,
    pub cancelled: AtomicU64,
    pub lost_cancels: AtomicU64,
    /// Ends without Terminate.
    pub disconnects: AtomicU64,
    pub amid_queries: AtomicU64,
    pub amid_copies: AtomicU64,
    pub amid_messages: AtomicU64,
    pub amid_blocks: AtomicU64,
    /// Looks at all settings, locks, temporary tables.
    pub looks: AtomicU64,
    /// Rows that were compared with what was written.
    pub rows: AtomicU64,
    pub notifications: AtomicU64,
    pub copies: AtomicU64,
    pub pinned: AtomicU64,
    /// What a sharded database does not do (0A000).
    pub refused: AtomicU64,
    /// No connection became free in time (53300, 40001).
    pub busy: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The rows that a client that is gone may have left.
#[derive(Debug)]
pub struct Left {
    pub client: u64,
    /// Several where nobody heard of the last write.
    pub states: Vec<Rows>,
}

/// What all clients share.
#[derive(Debug)]
pub struct World {
    pub endpoint: String,
    pub is_sharded: bool,
    pub seed: u64,
    pub counters: Counters,
    /// What a session that set nothing sees.
    pub defaults: HashMap<&'static str, String>,
    pub stop: AtomicBool,
    pub left: Mutex<Vec<Left>>,
    pub failures: Mutex<Vec<String>>,
    next_client: AtomicU64,
    pins: HashMap<&'static str, Arc<Semaphore>>,
}

impl World {
    pub fn new(
        endpoint: String,
        is_sharded: bool,
        seed: u64,
        defaults: HashMap<&'static str, String>,
    ) -> Self {
        Self {
            endpoint,
            is_sharded,
            seed,
            counters: Counters::default(),
            defaults,
            stop: AtomicBool::new(false),
            left: Mutex::default(),
            failures: Mutex::default(),
            next_client: AtomicU64::new(0),
            pins: USERS
                .map(|user| (user, Arc::new(Semaphore::new(PINNED))))
                .into(),
        }
    }

    /// A number for a client, used once.
    pub fn next_client(&self) -> u64 {
        self.next_client.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The places for clients of a user that keep a connection.
    pub fn pins(&self, user: &str) -> Arc<Semaphore> {
        Arc::clone(&self.pins[user])
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes what went wrong, and ends the run.
    pub fn fail(&self, failure: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.failures.lock().unwrap().push(failure);
    }
}

/// The rows of a table in a form that Postgres can say too.
pub fn listed(rows: &Rows, table: Table) -> String {
    let own = rows.iter().filter(|((of, _), _)| *of == table);
    let list: Vec<String> = own
        .map(|((_, number), value)| format!("{number}={value}"))
        .collect();
    list.join(",")
}
