//! What a changed configuration changes while pgherd runs.
//!
//! Owns the list of what is applied at once and what needs a restart, which the log names. Never drops a client. Main function: [`apply`].

use std::sync::Arc;

use pgherd_telemetry::LogHandle;

use super::assemble::{self, AssembleError, Assembled};
use crate::config::Config;
use crate::config::settings::Database;

/// Puts `wanted` in force as far as a running process can; `running` is then what is in force.
pub(super) fn apply(running: &mut Config, wanted: Config, assembled: &Assembled, log: &LogHandle) {
    if let Err(error) = try_apply(running, &wanted, assembled, log) {
        tracing::error!(%error, "the configuration was applied in part only");
        return;
    }
    let mut in_force = wanted;
    for what in keep_what_needs_a_restart(running, &mut in_force) {
        tracing::warn!("{what} changed: it takes effect with a restart");
    }
    *running = in_force;
    tracing::info!("the configuration was reloaded");
}

fn try_apply(
    running: &Config,
    wanted: &Config,
    assembled: &Assembled,
    log: &LogHandle,
) -> Result<(), AssembleError> {
    // everything that can fail is made before anything is put in force
    let listen = assemble::listen_settings(&wanted.listen)?;
    let console = assemble::console_settings(wanted.admin.as_ref())?;
    let mut prepared = Vec::new();
    for database in &wanted.databases {
        let Some(serving) = assembled.herd.database(&database.name) else {
            continue;
        };
        let users = assemble::users(&database.users)?;
        let pool = assemble::pool_settings(database)?;
        let login = assemble::server_login(database)?;
        prepared.push((serving, database, users, pool, login));
    }
    assembled.herd.set_settings(listen);
    assembled.herd.set_console(console);
    for (serving, database, users, pool, login) in prepared {
        let before = running
            .databases
            .iter()
            .find(|before| before.name == database.name);
        if before.is_none_or(|before| before.users != database.users) {
            serving.set_users(users);
        }
        if before.is_none_or(|before| before.server_login != database.server_login) {
            serving.set_server_login(login);
        }
        serving.set_max_clients(database.max_clients);
        serving.set_reads(assemble::read_settings(&database.reads));
        serving.pools().reload(pool);
    }
    if let Err(error) = log.set_level(&wanted.log.level) {
        tracing::error!(%error, "the log's level was not changed");
    }
    remove_databases(wanted, assembled);
    Ok(())
}

/// A database that is gone from the file takes no new clients; those connected stay.
fn remove_databases(wanted: &Config, assembled: &Assembled) {
    let kept: Vec<_> = assembled
        .herd
        .databases()
        .values()
        .filter(|serving| {
            wanted
                .databases
                .iter()
                .any(|database| &*database.name == serving.name())
        })
        .map(Arc::clone)
        .collect();
    assembled.herd.set_databases(kept);
}

/// Puts the running values back where a change cannot be applied, and names each.
fn keep_what_needs_a_restart(running: &Config, wanted: &mut Config) -> Vec<String> {
    let mut kept = Vec::new();
    let mut keep = |changed: bool, what: String| {
        if changed {
            kept.push(what);
        }
        changed
    };
    let listen = (&running.listen.addresses, &running.listen.unix)
        != (&wanted.listen.addresses, &wanted.listen.unix);
    if keep(listen, "listen.address or listen.unix".to_owned()) {
        wanted
            .listen
            .addresses
            .clone_from(&running.listen.addresses);
        wanted.listen.unix.clone_from(&running.listen.unix);
    }
    if keep(running.workers != wanted.workers, "workers".to_owned()) {
        wanted.workers = running.workers;
    }
    if keep(running.http != wanted.http, "http".to_owned()) {
        wanted.http.clone_from(&running.http);
    }
    if keep(running.state_file != wanted.state_file, "state".to_owned()) {
        wanted.state_file.clone_from(&running.state_file);
    }
    if keep(
        running.log.format != wanted.log.format,
        "telemetry.log.format".to_owned(),
    ) {
        wanted.log.format = running.log.format;
    }
    wanted.databases.retain(|database| {
        let known = running
            .databases
            .iter()
            .any(|before| before.name == database.name);
        !keep(!known, format!("database \"{}\" is new: it", database.name))
    });
    for database in &mut wanted.databases {
        if let Some(before) = running
            .databases
            .iter()
            .find(|before| before.name == database.name)
            && keep(
                layout_differs(before, database),
                format!("the shards or sharding of database \"{}\"", database.name),
            )
        {
            database.shards.clone_from(&before.shards);
            database.sharding.clone_from(&before.sharding);
            database.control_login.clone_from(&before.control_login);
            database.server_database.clone_from(&before.server_database);
        }
    }
    kept
}

fn layout_differs(before: &Database, now: &Database) -> bool {
    before.shards != now.shards
        || before.sharding != now.sharding
        || before.control_login != now.control_login
        || before.server_database != now.server_database
}
