//! The pools of server connections: a database's, and what some users have otherwise.

use std::time::Duration;

use super::super::located::{At, Number, Place};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::{CleartextPassword, Database, Pool, PoolMode, User, UserPool};
use super::{client_limit, transpose};

/// Most connections of one user to one server.
const MAX_SIZE: usize = 10_000;

/// The pools of a database.
pub fn pool(raw: Option<&At<raw::Pool>>, reader: &mut Reader<'_>) -> Option<Pool> {
    let nothing = raw::Pool::default();
    let raw = raw.map_or(&nothing, |raw| &raw.value);
    let shortest = Duration::from_millis(1);
    let seconds = Duration::from_secs;
    let size = reader.number(raw.size.as_ref(), 20, 1..=MAX_SIZE);
    let min = reader.number(raw.min.as_ref(), 0, 0..=MAX_SIZE);
    let reserve = reader.number(raw.reserve.as_ref(), 0, 0..=MAX_SIZE);
    let reserve_after = reader.span(raw.reserve_after.as_ref(), seconds(1), Duration::ZERO);
    let max_pinned = match &raw.max_pinned {
        None => Some(None),
        Some(written) => reader.number(Some(written), 0, 0..=MAX_SIZE).map(Some),
    };
    let max_connections = client_limit(raw.max_connections.as_ref(), reader);
    let connect_query = raw.connect_query.as_ref().map(|text| reader.text(text));
    let checkout_timeout = reader.span(raw.checkout_timeout.as_ref(), seconds(5), shortest);
    let connect_timeout = reader.span(raw.connect_timeout.as_ref(), seconds(5), shortest);
    let idle_timeout = reader.span(raw.idle_timeout.as_ref(), seconds(600), seconds(1));
    let lifetime = reader.span(raw.lifetime.as_ref(), seconds(3600), seconds(1));
    let pool = Pool {
        mode: raw
            .mode
            .as_ref()
            .map_or(PoolMode::Transaction, |mode| mode.value),
        size: size?,
        min: min?,
        reserve: reserve?,
        reserve_after: reserve_after?,
        max_pinned: max_pinned?,
        max_connections: max_connections?,
        checkout_timeout: checkout_timeout?,
        connect_timeout: connect_timeout?,
        idle_timeout: idle_timeout?,
        lifetime: lifetime?,
        connect_query: transpose(connect_query)?.map(Into::into),
        cleartext_password: raw
            .cleartext_password
            .as_ref()
            .map_or(CleartextPassword::Protected, |allowed| allowed.value),
    };
    if let Some(min) = &raw.min
        && pool.min > pool.size
    {
        reader.error(
            min.place,
            format!("`min` is {} and `size` only {}", pool.min, pool.size),
            "make `min` the smaller one",
        );
        return None;
    }
    Some(pool)
}

/// What one user has otherwise.
pub fn user_pool(raw: Option<&At<raw::UserPool>>, reader: &mut Reader<'_>) -> Option<UserPool> {
    let Some(raw) = raw else {
        return Some(UserPool::default());
    };
    let mut number = |written: &Option<At<_>>, least| match written {
        None => Some(None),
        Some(written) => reader
            .number(Some(written), least, least..=MAX_SIZE)
            .map(Some),
    };
    let (size, min) = (number(&raw.size, 1), number(&raw.min, 0));
    let (reserve, max_pinned) = (number(&raw.reserve, 0), number(&raw.max_pinned, 0));
    Some(UserPool {
        mode: raw.mode.as_ref().map(|mode| mode.value),
        size: size?,
        min: min?,
        reserve: reserve?,
        max_pinned: max_pinned?,
    })
}

/// With one login for all, all users share a pool.
pub fn refuse_own_pools(users: &At<Vec<At<raw::User>>>, reader: &mut Reader<'_>) {
    for user in &users.value {
        let Some(pool) = &user.pool else { continue };
        let written: [(Option<Place>, &str); 4] = [
            (pool.size.as_ref().map(|at| at.place), "size"),
            (pool.min.as_ref().map(|at| at.place), "min"),
            (pool.reserve.as_ref().map(|at| at.place), "reserve"),
            (pool.max_pinned.as_ref().map(|at| at.place), "max_pinned"),
        ];
        for (place, key) in written {
            let Some(place) = place else { continue };
            reader.error(
                place,
                format!("`{key}` of one user, where all users share the pool of `server_login`"),
                "take it out, and write it in the database's `pool`",
            );
        }
    }
}

/// That no user's smaller number is the larger one.
pub fn check_users(
    raw: &At<Vec<At<raw::User>>>,
    users: &[User],
    pool: &Pool,
    reader: &mut Reader<'_>,
) {
    for (raw, user) in raw.value.iter().zip(users) {
        let Some(written) = &raw.pool else { continue };
        let size = user.pool.size.unwrap_or(pool.size);
        let min = user.pool.min.unwrap_or(pool.min);
        if min > size {
            reader.error(
                written.place,
                format!("`min` is {min} and `size` only {size}"),
                "make `min` the smaller one",
            );
        }
    }
}

/// The same within the limit for all, beside the connections of pgherd's own.
pub fn check_process_limit(
    written: Option<&At<Number>>,
    limit: Option<usize>,
    databases: &[Database],
    reader: &mut Reader<'_>,
) {
    let shards = databases.iter().map(|database| database.shards.len()).max();
    let shards = shards.unwrap_or(1);
    let own: usize = databases
        .iter()
        .map(|database| database.own_connections() * database.servers().count())
        .sum();
    if let (Some(written), Some(limit)) = (written, limit)
        && limit < own + shards
    {
        reader.error(
            written.place,
            format!(
                "{limit} connections, of which pgherd may need {own} itself: no statement could reach all of {shards} shards"
            ),
            format!("allow {} at least", own + shards),
        );
    }
}

/// That a server's limit leaves clients a connection beside those of pgherd's own.
pub fn check_server_limits(file: &raw::File, databases: &[Database], reader: &mut Reader<'_>) {
    for ((_, raw), database) in file.databases.value.0.iter().zip(databases) {
        let shards = raw.value.shards.iter().flat_map(|shards| &shards.value);
        let written = shards.flat_map(|shard| &shard.value.servers.value);
        for (written, server) in written.zip(database.servers()) {
            let (Some(written), Some(limit)) =
                (&written.value.max_connections, server.max_connections)
            else {
                continue;
            };
            let reaches = |other: &&Database| {
                let mut servers = other.servers();
                servers.any(|other| other.address == server.address)
            };
            let sharing = databases.iter().filter(reaches);
            let own: usize = sharing.map(Database::own_connections).sum();
            if limit <= own {
                reader.error(
                    written.place,
                    format!("{limit} connections, of which pgherd may need {own} itself: none is left for clients"),
                    format!("allow {} at least", own + 1),
                );
            }
        }
    }
}

/// That a statement for every shard can have a connection to each at once.
pub fn check_limit(
    written: Option<&At<Number>>,
    limit: Option<usize>,
    shards: usize,
    reader: &mut Reader<'_>,
) {
    if let (Some(written), Some(limit)) = (written, limit)
        && limit < shards
    {
        reader.error(
            written.place,
            format!(
                "{limit} connections for {shards} shards: no statement could reach all of them"
            ),
            format!("allow {shards} at least"),
        );
    }
}
