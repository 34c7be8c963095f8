//! `pgherd check --servers`: can pgherd work with the servers that the configuration names?
//!
//! Owns what is asked of a server and of a shard as a whole. Looks only: nothing is changed on a server. Main function:
//! [`check_servers`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use pgherd_control::{KeyTrouble, MemoryStore, State};
use pgherd_pool::{Pools, Resolver, Target, UserLogin};
use pgherd_protocol::{Credential, Secret, Verifier};
use pgherd_topology::{Epoch, NodeId, NodeState, ShardId};
use tokio::task::JoinSet;

use super::Findings;
use super::failover::check_failover;
use super::probe::{Look, ProbeError, look};
use super::rows::control_settings;
use crate::config::settings::{Config, Database, Login, Server, Shard};
use crate::serve::{AssembleError, translate};

/// The oldest version that is supported, as `server_version_num`.
const OLDEST: u32 = 130_000;

/// Looks at every server of every database as the control connections do, and tries each user's login on each primary.
///
/// # Errors
/// [`AssembleError`] where a certificate cannot be read; what servers say is in the findings.
pub async fn check_servers(config: &Config) -> Result<Findings, AssembleError> {
    let mut findings = Findings::default();
    let own = |database: &&Database| database.like.is_none();
    for database in config.databases.iter().filter(own) {
        check_database(config, database, &mut findings).await?;
    }
    Ok(findings)
}

/// A server and what it said.
struct Seen<'a> {
    shard: ShardId,
    server: &'a Server,
    look: Look,
}

async fn check_database(
    config: &Config,
    database: &Database,
    findings: &mut Findings,
) -> Result<(), AssembleError> {
    let control = Database {
        // the control connections' own login and TLS
        server_login: Some(database.control_login.clone()),
        ..database.clone()
    };
    let pools = Arc::new(Pools::new(translate::pool_settings(
        &control,
        &Resolver::default(),
    )?));
    let login = Arc::new(login_of(&database.control_login));
    let mut looking = JoinSet::new();
    for (shard, node) in nodes(database) {
        let (pools, login) = (Arc::clone(&pools), Arc::clone(&login));
        looking.spawn(async move {
            let begun = Instant::now();
            let target = target(shard, &node);
            let said = look(&pools, &login, &target).await;
            (node.id, said, begun.elapsed())
        });
    }
    let mut said: BTreeMap<NodeId, _> = looking
        .join_all()
        .await
        .into_iter()
        .map(|(id, said, took)| (id, (said, took)))
        .collect();
    let mut seen = Vec::new();
    for ((shard, node), (configured, server)) in nodes(database).zip(servers(database)) {
        let Some((said, took)) = said.remove(&node.id) else {
            continue;
        };
        let place = format!("{}/{}/{}", database.name, configured.name, server.name);
        match said {
            Ok(look) => {
                findings.line(format!(
                    "{place} at {}: {}, Postgres {}, answered in {} ms",
                    server.address,
                    if look.standby { "replica" } else { "primary" },
                    look.version,
                    took.as_millis()
                ));
                check_server(&place, &look, database, findings);
                seen.push(Seen {
                    shard,
                    server,
                    look,
                });
            }
            Err(error) => findings.error(format!("{place} at {}: {error}", server.address)),
        }
    }
    check_shards(database, &seen, findings);
    check_failover(config, database, findings).await?;
    check_keys(database, findings).await?;
    check_users(database, &seen, findings).await
}

fn servers(database: &Database) -> impl Iterator<Item = (&Shard, &Server)> {
    database
        .shards
        .iter()
        .flat_map(|shard| shard.servers.iter().map(move |server| (shard, server)))
}

/// The servers as the pools know them, numbered through the shards.
fn nodes(database: &Database) -> impl Iterator<Item = (ShardId, NodeState)> + '_ {
    let shards = (0..).map(ShardId).zip(&database.shards);
    shards
        .flat_map(|(id, shard)| shard.servers.iter().map(move |server| (id, server)))
        .zip((0..).map(NodeId))
        .map(|((shard, server), id)| {
            let node = NodeState::new(id, server.name.clone(), server.address.clone());
            (shard, node)
        })
}

fn target(shard: ShardId, node: &NodeState) -> Target<'_> {
    Target {
        shard,
        epoch: Epoch(0),
        node,
        synchronous: false,
    }
}

fn login_of(login: &Login) -> UserLogin {
    let credential = match &login.password {
        None => Credential::Nothing,
        Some(password) => match password.reveal().parse() {
            Ok(Verifier::Md5(hash)) => Credential::Md5Hash(hash),
            // the configuration refuses a verifier here
            Ok(Verifier::Plain(_) | Verifier::Scram(_)) | Err(_) => {
                Credential::Password(Secret::from(password.reveal()))
            }
        },
    };
    UserLogin {
        name: login.user.clone(),
        credential,
    }
}

fn check_server(place: &str, look: &Look, database: &Database, findings: &mut Findings) {
    if look.version_number < OLDEST {
        findings.error(format!(
            "{place}: Postgres {} is too old, 13 is the oldest that is supported",
            look.version
        ));
    }
    let several = database.shards.len() > 1;
    if several && look.max_prepared_transactions == 0 {
        findings.warning(format!(
            "{place}: max_prepared_transactions is 0: DDL and writes to reference tables over shards will be refused; \
             set it to max_connections and restart the server"
        ));
    }
    let user = &database.control_login.user;
    if several && !look.standby && !look.may_create {
        findings.warning(format!(
            "{place}: `{user}` may not create the schema `pgherd`, which commits over shards need: \
             GRANT CREATE ON DATABASE \"{}\" TO \"{user}\"",
            database.server_database
        ));
    }
    if !look.monitors {
        findings.warning(format!(
            "{place}: `{user}` does not see the whole state of replication: GRANT pg_monitor TO \"{user}\""
        ));
    }
}

fn check_shards(database: &Database, seen: &[Seen<'_>], findings: &mut Findings) {
    for (id, shard) in (0..).map(ShardId).zip(&database.shards) {
        let place = format!("{}/{}", database.name, shard.name);
        let of_shard: Vec<&Seen<'_>> = seen.iter().filter(|seen| seen.shard == id).collect();
        let primaries: Vec<&str> = of_shard
            .iter()
            .filter(|seen| !seen.look.standby)
            .map(|seen| &*seen.server.name)
            .collect();
        match primaries[..] {
            [_] => {}
            [] => findings.error(format!("{place}: no server that answers is a primary")),
            _ => findings.error(format!(
                "{place}: several servers say that they are the primary: {}",
                primaries.join(", ")
            )),
        }
        let first = of_shard.first();
        for other in &of_shard {
            if first
                .is_some_and(|first| first.look.system_identifier != other.look.system_identifier)
            {
                findings.error(format!(
                    "{place}: {} is no copy of the shard's first server: their system identifiers differ",
                    other.server.name
                ));
            }
        }
        let twin = seen.iter().find(|other| {
            other.shard < id
                && first.is_some_and(|first| {
                    first.look.system_identifier == other.look.system_identifier
                })
        });
        if let Some(twin) = twin {
            findings.error(format!(
                "{place}: this is the same data as shard {}: the system identifiers are equal",
                database.shards[twin.shard.index()].name
            ));
        }
    }
}

/// Looks at the sharded tables' keys, as far as the tables exist.
async fn check_keys(database: &Database, findings: &mut Findings) -> Result<(), AssembleError> {
    if database.sharding.tables.is_empty() {
        return Ok(());
    }
    // where buckets lie does not matter to keys, so that nothing need be stored yet
    let (state, _) = State::load_or_create(Box::new(MemoryStore::default()))?;
    let settings = control_settings(database, &Arc::new(state))?;
    match pgherd_control::check_keys(&settings).await {
        Ok(troubles) => {
            for KeyTrouble { table, what } in troubles {
                findings.error(format!("{}: table {table} {what}", database.name));
            }
        }
        Err(error) => findings.error(format!("{}: {error}", database.name)),
    }
    Ok(())
}

/// Tries what clients' queries will log in with on each primary.
async fn check_users(
    database: &Database,
    seen: &[Seen<'_>],
    findings: &mut Findings,
) -> Result<(), AssembleError> {
    let pools = Pools::new(translate::pool_settings(database, &Resolver::default())?);
    let mut logins = Vec::new();
    match &database.server_login {
        Some(login) => logins.push(login_of(login)),
        None => {
            for user in &database.users {
                let verifier = user
                    .password
                    .as_ref()
                    .map(|password| password.reveal().parse());
                let credential = match verifier {
                    Some(Ok(Verifier::Plain(password))) => Credential::Password(password),
                    Some(Ok(Verifier::Md5(hash))) => Credential::Md5Hash(hash),
                    None => Credential::Nothing,
                    Some(Ok(Verifier::Scram(_)) | Err(_)) => {
                        findings.line(format!(
                            "{}: the login of user `{}` cannot be tried: only its verifier is known here",
                            database.name, user.name
                        ));
                        continue;
                    }
                };
                logins.push(UserLogin {
                    name: user.name.clone(),
                    credential,
                });
            }
        }
    }
    for login in logins.into_iter().map(Arc::new) {
        let mut right = true;
        for (shard, node) in nodes(database) {
            let is_primary = seen
                .iter()
                .any(|seen| *seen.server.name == *node.name && !seen.look.standby);
            if !is_primary {
                continue;
            }
            if let Err(error) = pools.checkout(&login, &target(shard, &node), None).await {
                right = false;
                findings.error(format!(
                    "{}/{}: user `{}`: {}",
                    database.name,
                    node.name,
                    login.name,
                    ProbeError::from(error)
                ));
            }
        }
        if right {
            findings.line(format!(
                "{}: user `{}` can log in to every primary",
                database.name, login.name
            ));
        }
    }
    Ok(())
}
