//! What a changed configuration changes while pgherd runs.
//!
//! Owns the list of what is applied at once and what needs a restart, which the log names. Never drops a client. Main function: [`apply`].

use std::sync::Arc;

use pgherd_telemetry::LogHandle;

use super::assemble::{AssembleError, Assembled, in_order};
use super::{on_demand, translate};
use crate::config::Config;
use crate::config::settings::{Database, Shard, WILDCARD};

/// Puts `wanted` in force as far as a running process can; `running` is then what is in force. Nothing is, if any of it
/// cannot be made: a certificate that cannot be read, say. Returns what takes a restart, or why nothing was changed.
pub(super) fn apply(
    running: &mut Config,
    mut wanted: Config,
    assembled: &mut Assembled,
    log: Option<&LogHandle>,
) -> Result<Vec<String>, String> {
    let kept = keep_what_needs_a_restart(running, &mut wanted);
    if let Err(error) = try_apply(running, &wanted, assembled, log) {
        tracing::error!(%error, "the configuration was not reloaded, the running one stays in force");
        return Err(error.to_string());
    }
    for what in &kept {
        tracing::warn!("{what} changed: that takes effect with a restart");
    }
    *running = wanted;
    tracing::info!("the configuration was reloaded");
    Ok(kept)
}

/// What is made of one database before anything is put in force.
struct Prepared<'a> {
    wanted: &'a Database,
    before: &'a Database,
    serving: Arc<pgherd_session::Database>,
    users: pgherd_session::Users,
    pool: pgherd_pool::PoolSettings,
    login: Option<Arc<pgherd_pool::UserLogin>>,
    /// Set where it is another than before.
    lookup: Option<Option<pgherd_session::UserLookup>>,
    sharding: Option<Arc<pgherd_topology::Sharding>>,
}

fn try_apply(
    running: &Config,
    wanted: &Config,
    assembled: &mut Assembled,
    log: Option<&LogHandle>,
) -> Result<(), AssembleError> {
    let listen = translate::listen_settings(&wanted.listen)?;
    let console = translate::console_settings(wanted.admin.as_ref())?;
    let mut prepared = Vec::new();
    let mut new = Vec::new();
    for database in in_order(&wanted.databases) {
        let before = running
            .databases
            .iter()
            .find(|before| before.name == database.name);
        match (before, assembled.serving(&database.name)) {
            (Some(before), Some(serving)) => {
                prepared.push(prepare(database, before, serving, assembled)?);
            }
            _ => new.push(database),
        }
    }
    let mut databases: Vec<_> = prepared
        .iter()
        .map(|prepared| Arc::clone(&prepared.serving))
        .collect();
    // the last thing that can fail; what was started by then ends with nobody having found it
    for (count, database) in new.iter().enumerate() {
        match assembled.start_database(database) {
            Ok(started) => databases.push(started),
            Err(error) => {
                let started = databases.split_off(databases.len() - count);
                started
                    .into_iter()
                    .for_each(|database| assembled.retire_database(database));
                return Err(error);
            }
        }
    }
    let served: Vec<_> = running
        .databases
        .iter()
        .filter_map(|before| assembled.serving(&before.name))
        .collect();
    databases.retain(|database| database.name() != WILDCARD);
    assembled.budget.set_limit(wanted.max_server_connections);
    assembled.resolver.set_ttl(wanted.dns_ttl);
    assembled.herd.set_settings(listen);
    assembled.herd.set_console(console);
    assembled.herd.set_databases(databases);
    for prepared in prepared {
        put_in_force(prepared, assembled);
    }
    for database in served {
        let name = database.name();
        if !wanted.databases.iter().any(|wanted| *wanted.name == *name) {
            tracing::info!(
                database = name,
                "the database takes no new clients: it is gone from the configuration"
            );
            if name == WILDCARD {
                assembled.herd.set_on_demand(None);
            }
            assembled.retire_database(database);
        }
    }
    for database in new {
        tracing::info!(database = &*database.name, "the database is new");
    }
    if let Some(log) = log
        && let Err(error) = log.set_level(&wanted.log.level)
    {
        tracing::error!(%error, "the log's level was not changed");
    }
    Ok(())
}

fn prepare<'a>(
    wanted: &'a Database,
    before: &'a Database,
    serving: Arc<pgherd_session::Database>,
    assembled: &Assembled,
) -> Result<Prepared<'a>, AssembleError> {
    let sharding = match before.sharding == wanted.sharding {
        true => None,
        false => Some(assembled.sharding(wanted)?),
    };
    let lookup = match before.auth == wanted.auth {
        true => None,
        false => Some(assembled.user_lookup(wanted, &serving)?),
    };
    Ok(Prepared {
        lookup,
        users: translate::users(&wanted.users)?,
        pool: translate::pool_settings(wanted, &assembled.resolver)?,
        login: translate::server_login(wanted)?,
        sharding,
        wanted,
        before,
        serving,
    })
}

fn put_in_force(prepared: Prepared<'_>, assembled: &Assembled) {
    let Prepared {
        wanted,
        before,
        serving,
        users,
        pool,
        login,
        lookup,
        sharding,
    } = prepared;
    if before.users != wanted.users {
        serving.set_users(users);
    }
    if before.server_login != wanted.server_login {
        serving.set_server_login(login);
    }
    serving.set_max_clients(wanted.max_clients);
    serving.set_timeouts(wanted.timeouts);
    serving.set_reads(translate::read_settings(&wanted.reads));
    if let Some(lookup) = lookup {
        serving.set_lookup(lookup);
    }
    if before.reads.only != wanted.reads.only {
        serving.set_read_only(wanted.reads.only);
    }
    let servers = wanted.servers().map(|server| &server.address);
    serving.pools().reserve(servers, wanted.own_connections());
    serving.pools().reload(pool);
    if let (Some(limits), Some(on_demand)) = (wanted.on_demand, assembled.herd.on_demand()) {
        on_demand.set_limits(limits);
        for made in on_demand.all() {
            on_demand::follow(&serving, &made);
        }
    }
    if let Some(sharding) = sharding {
        assembled.replace_sharding(&serving, sharding);
    }
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
    for database in &mut wanted.databases {
        let Some(before) = running
            .databases
            .iter()
            .find(|before| before.name == database.name)
        else {
            continue;
        };
        let of = |what: &str| format!("{what} of database \"{}\"", database.name);
        if keep(before.like != database.like, of("like")) {
            database.clone_from(before);
            continue;
        }
        if database.like.is_some() {
            // said of the database that it is like
            if without_limits(&before.shards) != without_limits(&database.shards) {
                database.shards.clone_from(&before.shards);
            }
            database.server_database.clone_from(&before.server_database);
            database.control_login.clone_from(&before.control_login);
            database.failover.clone_from(&before.failover);
            if database.sharding.buckets != before.sharding.buckets
                || without_limits(&before.shards) != without_limits(&database.shards)
            {
                database.sharding.clone_from(&before.sharding);
            }
            continue;
        }
        if keep(
            without_limits(&before.shards) != without_limits(&database.shards),
            of("shards, and with them sharding,"),
        ) {
            database.shards.clone_from(&before.shards);
            // its rules name shards by their place
            database.sharding.clone_from(&before.sharding);
        }
        let buckets = before.sharding.buckets != database.sharding.buckets;
        if keep(buckets, of("sharding.buckets")) {
            database.sharding.buckets = before.sharding.buckets;
        }
        if keep(
            before.control_login != database.control_login,
            of("control_login"),
        ) {
            database.control_login.clone_from(&before.control_login);
        }
        if keep(before.failover != database.failover, of("failover")) {
            database.failover.clone_from(&before.failover);
        }
        if keep(
            before.server_database != database.server_database,
            of("server_database"),
        ) {
            database.server_database.clone_from(&before.server_database);
        }
    }
    kept
}

/// What of the shards needs a restart.
fn without_limits(shards: &[Shard]) -> Vec<Shard> {
    let mut shards = shards.to_vec();
    for server in shards.iter_mut().flat_map(|shard| &mut shard.servers) {
        server.max_connections = None;
    }
    shards
}
