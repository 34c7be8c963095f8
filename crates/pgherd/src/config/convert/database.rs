//! One database: its logins, pools, shards and servers.

use std::time::Duration;

use pgherd_session::OnDemandLimits;
use pgherd_topology::Address;
use pgherd_topology::commit_protocol::MAX_SHARD_NAME;

use super::super::located::{At, Place, Text};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::{
    Consistency, Database, Login, Password, Reads, ReadsFrom, Server, Shard, TlsSettings, User,
    WILDCARD,
};
use super::like::Effective;
use super::{
    auth, claim, client_limit, failover, pool, server_tls, sharding, tcp, timeouts, transpose, user,
};

/// Where pgherd's own connections for the template go where nothing else is said: every server has it.
const TEMPLATE_DATABASE: &str = "postgres";

/// Postgres cuts names after this many bytes.
const MAX_NAME_BYTES: usize = 63;

/// Most shards and servers of one database: their ids are 16 bits.
const MAX_SHARDS: usize = 1024;

/// Largest weight of a shard.
const MAX_WEIGHT: u32 = 10_000;

/// One database, unless an error was noted.
pub fn database(
    name: &str,
    place: Place,
    effective: &Effective,
    reader: &mut Reader<'_>,
) -> Option<Database> {
    let raw = &effective.raw;
    let is_template = name == WILDCARD;
    let server_database = match &raw.server_database {
        Some(text) => reader.text(text),
        None if is_template => Some(TEMPLATE_DATABASE.to_owned()),
        None => Some(name.to_owned()),
    };
    let right = raw.users.as_ref().and_then(|users| {
        let mut rights = users.iter().filter_map(|user| user.right.as_ref());
        rights.next()
    });
    if let Some(right) = right {
        reader.error(
            right.place,
            "users of a database have no `right`",
            "it is for the console's users",
        );
    }
    let users = match &raw.users {
        Some(users) => user::users(users, &format!("database `{name}`"), reader),
        None if raw.auth.is_some() => Some(Vec::new()),
        None => missing("users", place, reader),
    };
    let tls = match &raw.server_tls {
        Some(tls) => server_tls(tls, reader),
        None => Some(TlsSettings::default()),
    };
    let server_tcp = tcp::tcp(raw.server_tcp.as_ref(), reader);
    let server_login = raw
        .server_login
        .as_ref()
        .map(|raw| login(raw, tls.as_ref(), reader));
    let control_login = raw
        .control_login
        .as_ref()
        .map(|raw| login(raw, tls.as_ref(), reader));
    let max_clients = client_limit(raw.max_clients.as_ref(), reader);
    let timeouts = timeouts(raw.timeouts.as_ref(), reader);
    let pool = pool::pool(raw.pool.as_ref(), reader);
    let reads = reads(
        raw.reads.as_ref().and_then(|reads| reads.mapping()),
        effective.reads_only,
        reader,
    );
    let shards = match &raw.shards {
        Some(raw) => shards(raw, reader),
        None => missing("shards", place, reader),
    };
    let sharding = shards
        .as_ref()
        .and_then(|shards| sharding::sharding(raw, shards, reader));
    if let (Some(users), Some(_)) = (&raw.users, &raw.server_login) {
        pool::refuse_own_pools(users, reader);
    }
    if let (Some(pool), Some(shards)) = (&pool, &shards) {
        let written = raw.pool.as_ref();
        let written = written.and_then(|written| written.max_connections.as_ref());
        pool::check_limit(written, pool.max_connections, shards.len(), reader);
    }
    if let (Some(raw), Some(users), Some(pool)) = (&raw.users, &users, &pool) {
        pool::check_users(raw, users, pool, reader);
    }
    let failover = failover::failover(raw.failover.as_ref(), reader);
    check_scratch(raw.scratch.as_ref(), reader);
    let on_demand = on_demand(raw, is_template, reader);

    let (users, tls, server_login) = (users?, tls?, transpose(server_login)?);
    let control_login = match transpose(control_login)? {
        Some(login) => login,
        None => control_login_of(&users, server_login.as_ref(), &tls, place, reader)?,
    };
    let auth = raw.auth.as_ref().map(|raw| {
        auth::auth(
            raw,
            server_database.as_deref(),
            &control_login,
            &tls,
            reader,
        )
    });
    Some(Database {
        name: name.into(),
        like: effective.like.as_deref().map(Into::into),
        server_database: server_database?.into(),
        users,
        auth: transpose(auth)?,
        max_clients: max_clients?,
        timeouts: timeouts?,
        server_login,
        control_login,
        server_tls: tls,
        server_tcp: server_tcp?,
        pool: pool?,
        reads: reads?,
        on_demand: transpose(on_demand)?,
        failover: failover?,
        shards: shards?,
        sharding: sharding?,
    })
}

fn missing<T>(key: &str, place: Place, reader: &mut Reader<'_>) -> Option<T> {
    reader.error(
        place,
        format!("`{key}` is missing here"),
        format!("add `{key}:`"),
    );
    None
}

/// The bounds of a template, and that it is one of plain pools. `None` where it is none.
#[allow(clippy::option_option)]
fn on_demand(
    raw: &raw::Database,
    is_template: bool,
    reader: &mut Reader<'_>,
) -> Option<Option<OnDemandLimits>> {
    if !is_template {
        if let Some(written) = &raw.on_demand {
            reader.error(
                written.place,
                "`on_demand` is for the database `*`, by which others are made",
                "take it out here",
            );
        }
        return None;
    }
    if let Some(sharding) = &raw.sharding {
        reader.error(
            sharding.place,
            "databases made by `*` are plain pools: they have no `sharding`",
            "take it out, or name the database",
        );
    }
    if let Some(shards) = &raw.shards
        && shards.len() > 1
    {
        reader.error(
            shards.place,
            "databases made by `*` are plain pools: they have one shard",
            "keep one of the shards, or name the database",
        );
    }
    let nothing = raw::OnDemand::default();
    let bounds = raw.on_demand.as_ref().map_or(&nothing, |at| &at.value);
    let default = OnDemandLimits::default();
    let databases = reader.number(bounds.databases.as_ref(), default.databases, 1..=10_000);
    let idle_timeout = reader.span(
        bounds.idle_timeout.as_ref(),
        default.idle_timeout,
        Duration::from_secs(1),
    );
    Some(
        databases
            .zip(idle_timeout)
            .map(|(databases, idle_timeout)| OnDemandLimits {
                databases,
                idle_timeout,
            }),
    )
}

fn login(
    raw: &At<raw::ServerLogin>,
    default_tls: Option<&TlsSettings>,
    reader: &mut Reader<'_>,
) -> Option<Login> {
    let user = reader.text(&raw.user);
    let password = raw.password.as_ref().map(|secret| reader.secret(secret));
    let tls = match &raw.tls {
        Some(tls) => server_tls(tls, reader),
        None => default_tls.cloned(),
    };
    let password = transpose(password)?;
    if let (Some(text), Some(secret)) = (&password, &raw.password)
        && text.starts_with("SCRAM-SHA-256$")
    {
        reader.error(
            secret.place,
            "a SCRAM verifier cannot log in to a server",
            "give the password itself, by `${NAME}` or `file:`",
        );
        return None;
    }
    Some(Login {
        user: user?.into(),
        password: password.map(Password),
        tls: tls?,
    })
}

/// What the control connections log in as where nobody said: the servers' login, else the first user with a password.
fn control_login_of(
    users: &[User],
    server_login: Option<&Login>,
    tls: &TlsSettings,
    place: Place,
    reader: &mut Reader<'_>,
) -> Option<Login> {
    if let Some(login) = server_login {
        return Some(login.clone());
    }
    let first = users.iter().find(|user| {
        user.password
            .as_ref()
            .is_some_and(|password| !password.reveal().starts_with("SCRAM-SHA-256$"))
    });
    let Some(first) = first else {
        reader.error(
            place,
            "there is no login for health checks: no user has a password that a server would accept",
            "add `control_login: { user: ..., password: ... }`",
        );
        return None;
    };
    Some(Login {
        user: first.name.clone(),
        password: first.password.clone(),
        tls: tls.clone(),
    })
}

fn reads(raw: Option<&raw::Reads>, only: bool, reader: &mut Reader<'_>) -> Option<Reads> {
    let nothing = raw::Reads::default();
    let raw = raw.unwrap_or(&nothing);
    let zone = raw.zone.as_ref().map(|text| reader.text(text));
    Some(Reads {
        from: raw
            .from
            .as_ref()
            .map_or(ReadsFrom::Replicas, |from| from.value),
        consistency: raw
            .consistency
            .as_ref()
            .map_or(Consistency::Session, |consistency| consistency.value),
        max_lag: reader.span(
            raw.max_lag.as_ref(),
            Duration::from_secs(10),
            Duration::from_millis(1),
        )?,
        zone: transpose(zone)?.map(Into::into),
        only,
    })
}

fn shards(raw: &At<Vec<At<raw::Shard>>>, reader: &mut Reader<'_>) -> Option<Vec<Shard>> {
    if raw.is_empty() || raw.len() > MAX_SHARDS {
        reader.error(
            raw.place,
            format!(
                "a database has from 1 to {MAX_SHARDS} shards, and this one {}",
                raw.len()
            ),
            "add one: `- { name: s0, servers: [{ name: s0a, address: 127.0.0.1:5432 }] }`",
        );
        return None;
    }
    let shards: Vec<Shard> = raw.iter().filter_map(|raw| shard(raw, reader)).collect();
    if shards.len() != raw.len() {
        return None;
    }
    let (mut names, mut server_names) = (Vec::new(), Vec::new());
    let mut addresses: Vec<&Address> = Vec::new();
    for (shard, raw) in shards.iter().zip(&raw.value) {
        claim(&mut names, &shard.name, raw.name.place, "shards", reader);
        for (server, raw) in shard.servers.iter().zip(&raw.servers.value) {
            claim(
                &mut server_names,
                &server.name,
                raw.name.place,
                "servers",
                reader,
            );
            if addresses.contains(&&server.address) {
                reader.error(
                    raw.address.place,
                    format!(
                        "`{}` is already the address of another server of this database",
                        raw.address.value.0
                    ),
                    "two names for one server would count its rows twice: take one of them out",
                );
            }
            addresses.push(&server.address);
        }
    }
    if shards.iter().all(|shard| shard.weight == 0) {
        reader.error(
            raw.place,
            "every shard has weight 0: none could hold a bucket",
            "give one a weight of 1",
        );
    }
    Some(shards)
}

fn shard(raw: &At<raw::Shard>, reader: &mut Reader<'_>) -> Option<Shard> {
    let name = simple_name(&raw.name, MAX_SHARD_NAME, reader);
    if let Some(name) = &name
        && name == "refuse"
    {
        reader.error(
            raw.name.place,
            "a shard cannot be named `refuse`",
            "`unlisted: refuse` would be unclear",
        );
    }
    let weight = reader.number(raw.weight.as_ref(), 1, 0..=MAX_WEIGHT);
    if raw.servers.is_empty() {
        reader.error(
            raw.servers.place,
            "a shard without a server",
            "add one: `{ name: s0a, address: 127.0.0.1:5432 }`",
        );
    }
    let servers: Vec<Server> = raw
        .servers
        .iter()
        .filter_map(|raw| server(raw, reader))
        .collect();
    if servers.len() != raw.servers.len() {
        return None;
    }
    Some(Shard {
        name: name?.into(),
        weight: weight?,
        servers,
    })
}

fn server(raw: &At<raw::Server>, reader: &mut Reader<'_>) -> Option<Server> {
    let name = simple_name(&raw.name, MAX_NAME_BYTES, reader);
    let address =
        match reader.text(&raw.address)?.parse::<Address>() {
            Ok(address) => Some(address),
            Err(error) => {
                reader.error(
                raw.address.place,
                format!("`{}` is not a server's address: {error}", raw.address.value.0),
                "write `host:port`, `[::1]:port`, or a socket's directory: `/run/postgresql:5432`",
            );
                None
            }
        };
    let zone = raw.zone.as_ref().map(|text| reader.text(text));
    let priority = reader.number(raw.priority.as_ref(), 1, 0..=1_000);
    let max_connections = client_limit(raw.max_connections.as_ref(), reader);
    Some(Server {
        name: name?.into(),
        address: address?,
        max_connections: max_connections?,
        zone: transpose(zone)?.map(Into::into),
        priority: priority?,
    })
}

/// A name that can stand in a comment, a metric's label and a transaction's id without quotes.
fn simple_name(text: &At<Text>, most: usize, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(text)?;
    let simple = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if !simple || name.len() > most {
        reader.error(
            text.place,
            format!("`{}` cannot be a name here", text.value.0),
            format!("use letters, digits, `-`, `_` and `.`, at most {most} of them"),
        );
        return None;
    }
    Some(name)
}

/// Reads what is not in force yet, so that a mistake in it does not wait for the version that uses it.
fn check_scratch(raw: Option<&At<raw::Scratch>>, reader: &mut Reader<'_>) {
    let Some(raw) = raw else { return };
    reader.text(&raw.database);
    if let Some(address) = reader.text(&raw.address)
        && let Err(error) = address.parse::<Address>()
    {
        reader.error(
            raw.address.place,
            format!(
                "`{}` is not a server's address: {error}",
                raw.address.value.0
            ),
            "write `host:port`, or a socket's directory: `/run/postgresql:5432`",
        );
    }
}
