//! How many files the process may have open: each client is one, and so is each server connection.
//!
//! Owns raising the soft limit to the hard one, and the warning where even that is too low for the configuration.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// For the log, the state, timers, listeners and the control plane's own connections.
const SPARE: u64 = 256;

/// Raises the limit as far as may be, and says whether it is high enough.
pub(super) fn raise(config: &Config) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known");
            return;
        }
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let needed = needed(config);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files (ulimit -n) is too low for max_clients and the pools"
        );
    }
}

fn needed(config: &Config) -> u64 {
    let servers: usize = config
        .databases
        .iter()
        .map(|database| {
            let logins = match &database.server_login {
                Some(_) => 1,
                None => database.users.len(),
            };
            let servers: usize = database
                .shards
                .iter()
                .map(|shard| shard.servers.len())
                .sum();
            servers * logins * database.pool.size
        })
        .sum();
    // at most that many clients use servers at once
    let servers = servers.min(config.listen.max_clients);
    (config.listen.max_clients + servers) as u64 + SPARE
}
