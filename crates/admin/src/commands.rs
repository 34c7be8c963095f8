//! The console's commands, one file each: what they show, with its columns, and what they do.
//!
//! The columns of what PgBouncer shows too are its own, with its names and in its order (version 1.24; PgBouncer documentation, usage),
//! and then pgherd's: who reads PgBouncer's finds them.

mod adopt;
mod buckets;
mod cancel_failover;
mod clients;
mod config;
mod databases;
mod disable;
mod drain_server;
mod enable;
mod events;
pub(crate) mod explain_failover;
mod failover;
mod failovers;
mod help;
mod kill;
mod kill_client;
mod lists;
mod maintenance;
mod mem;
mod pause;
mod pins;
mod plans;
mod pools;
mod quarantine;
mod reconnect;
mod rejoin;
mod release;
mod reload;
mod resume;
mod server_pools;
mod servers;
pub(crate) mod set;
mod shards;
mod shutdown;
mod state;
mod stats;
mod stats_averages;
mod stats_totals;
mod switchover;
mod tables;
mod totals;
mod undrain_server;
mod users;
mod version;
mod wait_close;

use std::fmt;
use std::sync::Arc;

use pgherd_session::{Database, Herd};

use crate::answer::{Answer, Column};
use crate::doing::Doing;
use crate::operations::Operations;

/// Whose state is shown.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// Clients, databases and servers.
    pub herd: &'a Herd,
    /// The process around them.
    pub operations: &'a Operations,
}

/// A set of rows that the console can show.
pub struct Show {
    /// The word after SHOW.
    pub word: &'static str,
    /// What it shows, in a sentence.
    pub description: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
    /// The column whose values `LIKE` looks at.
    pub named_by: &'static str,
    rows: fn(Sight<'_>) -> Answer,
}

impl PartialEq for Show {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

impl Eq for Show {}

impl fmt::Debug for Show {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SHOW {}", self.word)
    }
}

impl Show {
    /// All of them, in the order of SHOW HELP.
    pub const ALL: &'static [&'static Self] = &[
        &databases::SHOW,
        &shards::SHOW,
        &servers::SHOW,
        &pools::SHOW,
        &server_pools::SHOW,
        &clients::SHOW,
        &users::SHOW,
        &failovers::SHOW,
        &events::SHOW,
        &pins::SHOW,
        &plans::SHOW,
        &tables::SHOW,
        &buckets::SHOW,
        &stats::SHOW,
        &stats_totals::SHOW,
        &stats_averages::SHOW,
        &totals::SHOW,
        &lists::SHOW,
        &config::SHOW,
        &mem::SHOW,
        &state::SHOW,
        &version::SHOW,
        &help::SHOW,
    ];

    /// The one of a word in upper case.
    pub fn find(word: &str) -> Option<&'static Self> {
        Self::ALL.iter().copied().find(|show| show.word == word)
    }

    /// The rows as they are now; with a pattern, those whose [`Show::named_by`] is like it.
    pub fn rows(&self, sight: Sight<'_>, like: Option<&str>) -> Answer {
        let mut answer = (self.rows)(sight);
        if let Some(pattern) = like {
            answer.keep_like(self.named_by, pattern);
        }
        answer
    }
}

/// All commands that change something, in the order of SHOW HELP.
pub const DOINGS: &[&Doing] = &[
    &pause::DOING,
    &resume::DOING,
    &reconnect::DOING,
    &wait_close::DOING,
    &kill::DOING,
    &kill_client::DOING,
    &drain_server::DOING,
    &undrain_server::DOING,
    &switchover::DOING,
    &failover::DOING,
    &cancel_failover::DOING,
    &rejoin::DOING,
    &quarantine::DOING,
    &release::DOING,
    &maintenance::DOING,
    &adopt::DOING,
    &disable::DOING,
    &enable::DOING,
    &reload::DOING,
    &set::DOING,
    &shutdown::DOING,
];

/// All databases, by name.
pub(crate) fn sorted_databases(herd: &Herd) -> Vec<Arc<Database>> {
    let mut databases: Vec<_> = herd.databases().values().cloned().collect();
    databases.sort_unstable_by(|one, other| one.name().cmp(other.name()));
    databases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_says_what_it_means_and_no_name_comes_twice() {
        for show in Show::ALL {
            assert!(
                show.columns
                    .iter()
                    .any(|column| column.name == show.named_by),
                "{show:?} has no {}",
                show.named_by
            );
            for (index, column) in show.columns.iter().enumerate() {
                assert!(!column.meaning.is_empty(), "{show:?}.{}", column.name);
                let before = &show.columns[..index];
                assert!(
                    before.iter().all(|other| other.name != column.name),
                    "{show:?}.{}",
                    column.name
                );
            }
        }
    }
}
