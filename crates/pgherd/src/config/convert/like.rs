//! Databases that are like another: what they write themselves, and the rest from there.

use super::super::located::{At, Named, OnlyOr, Place};
use super::super::raw;
use super::super::read::suggestion;
use super::super::reader::Reader;
use super::super::settings::WILDCARD;

/// A database with everything that it takes from another.
pub struct Effective {
    /// The keys, its own before the other's.
    pub raw: At<raw::Database>,
    /// Whose shards these are, if they are another's.
    pub like: Option<String>,
    /// Whether `reads: only` was written.
    pub reads_only: bool,
}

/// What a database is, unless an error was noted.
pub fn effective(
    name: &str,
    own: &At<raw::Database>,
    all: &At<Named<At<raw::Database>>>,
    reader: &mut Reader<'_>,
) -> Option<Effective> {
    let reads_only = own
        .reads
        .as_ref()
        .is_some_and(|reads| matches!(reads.value, OnlyOr::Only));
    let Some(written) = &own.like else {
        return Some(Effective {
            raw: own.clone(),
            like: None,
            reads_only,
        });
    };
    let like = reader.text(written)?;
    let other = all
        .value
        .0
        .iter()
        .find(|(other, _)| other.value.0 == like && like != name);
    let Some((_, other)) = other else {
        let names: Vec<&str> = all
            .value
            .0
            .iter()
            .map(|(other, _)| other.value.0.as_str())
            .filter(|other| *other != name && *other != WILDCARD)
            .collect();
        reader.error(
            written.place,
            format!("there is no other database `{like}`"),
            suggestion(&like, &names, "databases"),
        );
        return None;
    };
    if name == WILDCARD || like == WILDCARD || other.like.is_some() {
        reader.error(
            written.place,
            "a database can only be like one that has its own shards and a name",
            "name that one",
        );
        return None;
    }
    refuse_shared_keys(own, &like, reader);
    let only_here = other
        .reads
        .clone()
        .filter(|reads| reads.mapping().is_some());
    let reads = match &own.reads {
        Some(reads) if !reads_only => Some(reads.clone()),
        // the servers to read from are those of the other
        Some(_) => only_here,
        None => other.reads.clone(),
    };
    let other_only = own.reads.is_none()
        && other
            .reads
            .as_ref()
            .is_some_and(|reads| matches!(reads.value, OnlyOr::Only));
    let raw = raw::Database {
        like: own.like.clone(),
        server_database: Some(other.server_database.clone().unwrap_or_else(|| At {
            value: super::super::located::Text(like.clone()),
            place: written.place,
        })),
        users: own.users.clone().or_else(|| other.users.clone()),
        auth: own.auth.clone().or_else(|| other.auth.clone()),
        max_clients: own
            .max_clients
            .clone()
            .or_else(|| other.max_clients.clone()),
        timeouts: own.timeouts.clone().or_else(|| other.timeouts.clone()),
        server_login: own
            .server_login
            .clone()
            .or_else(|| other.server_login.clone()),
        control_login: other.control_login.clone(),
        server_tls: own.server_tls.clone().or_else(|| other.server_tls.clone()),
        server_tcp: own.server_tcp.clone().or_else(|| other.server_tcp.clone()),
        pool: own.pool.clone().or_else(|| other.pool.clone()),
        reads,
        on_demand: None,
        failover: None,
        shards: other.shards.clone(),
        sharding: other.sharding.clone(),
        scratch: None,
    };
    Some(Effective {
        raw: At {
            value: raw,
            place: own.place,
        },
        like: Some(like),
        reads_only: reads_only || other_only,
    })
}

/// What belongs to the servers is the other's to say.
fn refuse_shared_keys(own: &raw::Database, like: &str, reader: &mut Reader<'_>) {
    let place = |place: Option<Place>, key| place.map(|place| (place, key));
    let written = [
        place(own.shards.as_ref().map(|at| at.place), "shards"),
        place(own.sharding.as_ref().map(|at| at.place), "sharding"),
        place(
            own.server_database.as_ref().map(|at| at.place),
            "server_database",
        ),
        place(
            own.control_login.as_ref().map(|at| at.place),
            "control_login",
        ),
        place(own.failover.as_ref().map(|at| at.place), "failover"),
        place(own.scratch.as_ref().map(|at| at.place), "scratch"),
    ];
    for (place, key) in written.into_iter().flatten() {
        reader.error(
            place,
            format!("`{key}` is that of `{like}`, which this database is like"),
            "take it out here",
        );
    }
}
