//! What a failover requires of a shard and its servers.
//!
//! Owns the rules. Asks nobody. Main function: [`shortfalls`].

#[cfg(test)]
mod tests;

use super::question::{Answer, CHANGED, GRANTS_ALTER_SYSTEM, GRANTS_WITH_OPTIONS};
use super::shortfall::{Purpose, Shortfall, ShortfallAt};
use crate::settings::{FailoverSettings, ShardSettings, WhenTooFew};

/// From here on a standby is repointed by a reload.
const OLDEST: u32 = 130_000;

/// A standby with less of one of these than its primary stops replaying, or does not start.
const AT_LEAST_THE_PRIMARYS: [&str; 5] = [
    "max_prepared_transactions",
    "max_connections",
    "max_wal_senders",
    "max_worker_processes",
    "max_locks_per_transaction",
];

/// One server is away, another takes over.
const FEWEST_SERVERS: usize = 2;

/// The longest `wal_retrieve_retry_interval` that does not delay a failover, in milliseconds.
const RETRY_MILLISECONDS: u64 = 200;

/// What is known of a shard without asking its servers.
pub(super) struct Circumstances<'a> {
    /// The control login.
    pub(super) login: &'a str,
    pub(super) shard: &'a ShardSettings,
    /// Whether transactions are prepared: those over several shards.
    pub(super) several_shards: bool,
    pub(super) failover: &'a FailoverSettings,
}

/// What a shard lacks, by what those of its servers say that answered.
pub(super) fn shortfalls(
    circumstances: &Circumstances<'_>,
    answers: &[Answer],
) -> Vec<ShortfallAt> {
    let mut primaries = answers.iter().filter(|answer| !answer.in_recovery);
    // which of several is right cannot be said here
    let primary = primaries.next().filter(|_| primaries.next().is_none());
    let mut found = Found(Vec::new());
    for shortfall in of_the_shard(circumstances, primary) {
        found.0.push(ShortfallAt {
            servers: Vec::new(),
            shortfall,
        });
    }
    let comparison = primary.or(answers.first());
    for answer in answers {
        if answer.version < OLDEST {
            let version = answer.version;
            found.add(answer, Shortfall::TooOld { version });
            continue;
        }
        found.add_all(answer, copy(answer, comparison));
        found.add_all(answer, rights(circumstances, answer));
        found.add_all(answer, changes(answer));
        found.add_all(answer, settings(circumstances, answer));
        if answer.in_recovery {
            found.add_all(answer, standby(answer, primary));
        }
    }
    found.0
}

/// Shortfalls by kind: what several servers lack is one.
struct Found(Vec<ShortfallAt>);

impl Found {
    fn add(&mut self, answer: &Answer, shortfall: Shortfall) {
        let known = self
            .0
            .iter_mut()
            .find(|known| !known.servers.is_empty() && known.shortfall == shortfall);
        match known {
            Some(known) => known.servers.push(answer.server.clone()),
            None => self.0.push(ShortfallAt {
                servers: vec![answer.server.clone()],
                shortfall,
            }),
        }
    }

    fn add_all(&mut self, answer: &Answer, shortfalls: impl IntoIterator<Item = Shortfall>) {
        for shortfall in shortfalls {
            self.add(answer, shortfall);
        }
    }
}

fn of_the_shard(circumstances: &Circumstances<'_>, primary: Option<&Answer>) -> Vec<Shortfall> {
    let servers = &circumstances.shard.servers;
    let has = servers.len();
    let sync = circumstances.failover.sync;
    let acks = sync.map_or(0, |sync| sync.acks);
    let needs = FEWEST_SERVERS.max(usize::from(acks) + 1);
    if has < needs {
        return vec![Shortfall::TooFewServers { has, needs, acks }];
    }
    let mut lacking = Vec::new();
    let can_take_over = servers
        .iter()
        .filter(|server| primary.is_none_or(|primary| primary.server != server.name))
        .any(|server| server.priority > 0);
    if !can_take_over {
        lacking.push(Shortfall::NoCandidate);
    }
    if has == needs && sync.is_some_and(|sync| sync.when_too_few == WhenTooFew::Block) {
        lacking.push(Shortfall::NoSpareServer { has });
    }
    lacking
}

fn copy(answer: &Answer, comparison: Option<&Answer>) -> Option<Shortfall> {
    comparison
        .filter(|other| other.system_identifier != answer.system_identifier)
        .map(|other| Shortfall::DifferentSystem {
            other: other.server.clone(),
        })
}

/// What the control login may not do.
fn rights(circumstances: &Circumstances<'_>, answer: &Answer) -> Vec<Shortfall> {
    let login = || circumstances.login.into();
    if answer.is_superuser {
        return Vec::new();
    }
    if answer.version < GRANTS_ALTER_SYSTEM {
        // a superuser has every other right too
        return vec![Shortfall::NoSuperuser { login: login() }];
    }
    let mut lacking = Vec::new();
    if !answer.replicates {
        lacking.push(Shortfall::NoReplication { login: login() });
    }
    if !answer.not_member.is_empty() {
        lacking.push(Shortfall::NotMember {
            login: login(),
            roles: answer.not_member.clone(),
            with_options: answer.version >= GRANTS_WITH_OPTIONS,
        });
    }
    if !answer.not_executable.is_empty() {
        lacking.push(Shortfall::NotExecutable {
            login: login(),
            database: circumstances.shard.server_database.clone(),
            functions: answer.not_executable.clone(),
        });
    }
    if !answer.not_alterable.is_empty() {
        lacking.push(Shortfall::NotAlterable {
            login: login(),
            parameters: answer.not_alterable.clone(),
        });
    }
    if circumstances.several_shards && !answer.foreign_writers.is_empty() {
        lacking.push(Shortfall::ForeignWriters {
            login: login(),
            roles: answer.foreign_writers.clone(),
        });
    }
    if !answer.superusers.is_empty() {
        lacking.push(Shortfall::SuperuserWriters {
            login: login(),
            roles: answer.superusers.clone(),
        });
    }
    lacking
}

/// What keeps ALTER SYSTEM from having its effect.
fn changes(answer: &Answer) -> Vec<Shortfall> {
    let mut lacking = Vec::new();
    if answer.is("allow_alter_system", "off") {
        lacking.push(Shortfall::AlterSystemForbidden);
    }
    let parameters: Vec<String> = CHANGED
        .iter()
        .filter(|name| answer.on_command_line(name))
        .map(ToString::to_string)
        .collect();
    if !parameters.is_empty() {
        lacking.push(Shortfall::OnCommandLine { parameters });
    }
    lacking
}

/// What every server of a shard must be set to, as each may become its primary or a standby.
fn settings(circumstances: &Circumstances<'_>, answer: &Answer) -> Vec<Shortfall> {
    let mut lacking = Vec::new();
    let follow = match answer.in_recovery {
        true => Purpose::Follow,
        false => Purpose::FollowLater,
    };
    if !answer.is("recovery_target_timeline", "latest") {
        lacking.extend(answer.lacks("recovery_target_timeline", "latest", follow));
    }
    if answer.is("fsync", "off") {
        lacking.extend(answer.lacks("fsync", "on", Purpose::Durable));
    }
    if answer.is("wal_level", "minimal") {
        lacking.extend(answer.lacks("wal_level", "replica", Purpose::Stream));
    }
    let peers = u64::try_from(circumstances.shard.servers.len().saturating_sub(1));
    let needed = peers.unwrap_or(u64::MAX) + answer.logical_slots;
    for name in ["max_wal_senders", "max_replication_slots"] {
        if answer.number(name).is_some_and(|number| number < needed) {
            // no more: a standby must have as many as its primary
            lacking.extend(answer.lacks(name, &needed.to_string(), Purpose::Peers));
        }
    }
    if !answer.acknowledges_what_is_written() {
        lacking.extend(answer.lacks("synchronous_commit", "on", Purpose::Acknowledge));
    }
    if answer.is("wal_log_hints", "off") && answer.is("data_checksums", "off") {
        lacking.extend(answer.lacks("wal_log_hints", "on", Purpose::Rewind));
    }
    if answer.is("full_page_writes", "off") {
        lacking.extend(answer.lacks("full_page_writes", "on", Purpose::Rewind));
    }
    let retry = answer.number("wal_retrieve_retry_interval");
    if retry.is_some_and(|milliseconds| milliseconds > RETRY_MILLISECONDS) {
        let wanted = format!("{RETRY_MILLISECONDS}ms");
        lacking.extend(answer.lacks("wal_retrieve_retry_interval", &wanted, Purpose::Retry));
    }
    lacking
}

/// What a standby must be set to beside its primary.
fn standby(answer: &Answer, primary: Option<&Answer>) -> Vec<Shortfall> {
    let Some(primary) = primary else {
        return Vec::new();
    };
    let mut lacking = Vec::new();
    for name in AT_LEAST_THE_PRIMARYS {
        let (Some(own), Some(primarys)) = (answer.number(name), primary.number(name)) else {
            continue;
        };
        if own < primarys {
            let purpose = Purpose::Replay {
                primary: primary.server.clone(),
            };
            lacking.extend(answer.lacks(name, &primarys.to_string(), purpose));
        }
    }
    // any one of the three is enough:
    // https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION
    let keeps_nothing = answer.is("restore_command", "")
        && answer.is("primary_slot_name", "")
        && primary.is("wal_keep_size", "0");
    if keeps_nothing {
        lacking.push(Shortfall::NoArchive);
    }
    lacking
}

impl Answer {
    fn is(&self, name: &str, value: &str) -> bool {
        self.parameters
            .get(name)
            .is_some_and(|parameter| parameter.value == value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.parameters.get(name)?.value.parse().ok()
    }

    fn on_command_line(&self, name: &str) -> bool {
        self.parameters
            .get(name)
            .is_some_and(|parameter| parameter.source == "command line")
    }

    /// As far as the server's own configuration goes: what a role or a database has of its own stands before it.
    fn acknowledges_what_is_written(&self) -> bool {
        self.parameters
            .get("synchronous_commit")
            .is_none_or(|parameter| {
                matches!(&*parameter.value, "on" | "remote_apply")
                    || matches!(&*parameter.source, "user" | "database" | "database user")
            })
    }

    /// The shortfall of a parameter that was read.
    fn lacks(&self, name: &'static str, wanted: &str, purpose: Purpose) -> Option<Shortfall> {
        let value = &self.parameters.get(name)?.value;
        Some(Shortfall::Parameter {
            name,
            value: match purpose {
                Purpose::Retry => format!("{value}ms"),
                _ => value.clone(),
            },
            wanted: wanted.into(),
            on_command_line: self.on_command_line(name),
            purpose,
        })
    }
}
