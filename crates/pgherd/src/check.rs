//! `pgherd check`: is the configuration right?

use std::path::Path;

use crate::config::{self, ConfigError, Loaded};

/// Checks the file alone; the warnings are to be shown.
///
/// # Errors
/// [`ConfigError`]; exit code 2.
pub fn check_file(path: &Path) -> Result<Loaded, ConfigError> {
    config::load(path)
}

/// What to say about a configuration that is right: its warnings, and a line that sums it up.
pub fn summary(path: &Path, loaded: &Loaded) -> String {
    let databases = &loaded.config.databases;
    let shards: usize = databases.iter().map(|database| database.shards.len()).sum();
    let servers: usize = databases
        .iter()
        .flat_map(|database| &database.shards)
        .map(|shard| shard.servers.len())
        .sum();
    format!(
        "{} is right: {}, {}, {}\n",
        path.display(),
        count(databases.len(), "database"),
        count(shards, "shard"),
        count(servers, "server")
    )
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
