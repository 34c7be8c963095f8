//! Each requirement alone.

#![allow(clippy::unwrap_used)]

use pgherd_topology::Address;

use super::super::question::{FUNCTIONS, PREDEFINED_ROLES, Parameter};
use super::super::{Fix, Severity};
use super::*;
use crate::settings::{ServerSettings, SyncSettings};

/// A shard of servers `s0a`, `s0b` ... with these priorities, and what is asked of it.
struct Case {
    shard: ShardSettings,
    several_shards: bool,
    failover: FailoverSettings,
    answers: Vec<Answer>,
}

impl Case {
    /// Servers that lack nothing; the first is the primary.
    fn new(servers: usize) -> Self {
        let names = ('a'..).map(|letter| format!("s0{letter}")).take(servers);
        let servers: Vec<ServerSettings> = names
            .map(|name| ServerSettings {
                name: name.into(),
                address: Address::Tcp {
                    host: "localhost".into(),
                    port: 5432,
                },
                zone: None,
                priority: 1,
            })
            .collect();
        let answers = servers
            .iter()
            .enumerate()
            .map(|(index, server)| answer(&server.name, index > 0))
            .collect();
        Self {
            shard: ShardSettings {
                name: "s0".into(),
                server_database: "shop".into(),
                servers,
            },
            several_shards: false,
            failover: FailoverSettings::default(),
            answers,
        }
    }

    fn found(&self) -> Vec<ShortfallAt> {
        let circumstances = Circumstances {
            login: "control",
            shard: &self.shard,
            several_shards: self.several_shards,
            failover: &self.failover,
        };
        shortfalls(&circumstances, &self.answers)
    }

    /// The only shortfall, by its servers and its text.
    fn only(&self) -> (Vec<Box<str>>, Shortfall) {
        let mut found = self.found();
        assert_eq!(found.len(), 1, "{found:#?}");
        let only = found.remove(0);
        (only.servers, only.shortfall)
    }

    fn set(&mut self, server: usize, name: &str, value: &str) {
        let parameter = self.answers[server].parameters.get_mut(name).unwrap();
        parameter.value = value.into();
    }

    fn fix_on_the_command_line(&mut self, server: usize, name: &str) {
        let parameter = self.answers[server].parameters.get_mut(name).unwrap();
        parameter.source = "command line".into();
    }
}

fn answer(server: &str, in_recovery: bool) -> Answer {
    let parameters = [
        ("data_checksums", "off"),
        ("default_transaction_read_only", "off"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("max_connections", "100"),
        ("max_locks_per_transaction", "64"),
        ("max_prepared_transactions", "0"),
        ("max_replication_slots", "10"),
        ("max_wal_senders", "10"),
        ("max_worker_processes", "8"),
        ("primary_conninfo", "host=peer"),
        ("primary_slot_name", server),
        ("recovery_target_timeline", "latest"),
        ("restore_command", ""),
        ("synchronous_commit", "on"),
        ("wal_keep_size", "0"),
        ("wal_level", "replica"),
        ("wal_log_hints", "on"),
        ("wal_retrieve_retry_interval", "200"),
    ];
    let parameters = parameters.map(|(name, value)| {
        let parameter = Parameter {
            value: value.into(),
            source: "configuration file".into(),
        };
        (name.into(), parameter)
    });
    Answer {
        server: server.into(),
        version: 150_004,
        in_recovery,
        system_identifier: 7,
        is_superuser: false,
        replicates: true,
        not_executable: Vec::new(),
        not_member: Vec::new(),
        not_alterable: Vec::new(),
        foreign_writers: Vec::new(),
        superusers: Vec::new(),
        logical_slots: 0,
        parameters: parameters.into(),
    }
}

fn names(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

#[test]
fn a_shard_of_two_servers_that_are_right_lacks_nothing() {
    assert_eq!(Case::new(2).found(), Vec::new());
}

#[test]
fn one_server_alone_is_too_few_and_nothing_else_is_said_of_the_shard() {
    let mut case = Case::new(1);
    case.shard.servers[0].priority = 0;
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&[]));
    assert_eq!(shortfall.severity(), Severity::Prevents);
    assert_eq!(
        shortfall.to_string(),
        "it has 1 server, and none to take over: add servers to the shard"
    );
}

#[test]
fn synchronous_replication_takes_a_server_more_than_it_has_acknowledgements() {
    let mut case = Case::new(2);
    let sync = |acks| SyncSettings {
        acks,
        when_too_few: WhenTooFew::Block,
    };
    case.failover.sync = Some(sync(2));
    let (_, shortfall) = case.only();
    assert_eq!(
        shortfall.to_string(),
        "it has 2 servers, and acks: 2 takes 3: add servers to the shard, or lower acks"
    );
    assert_eq!(shortfall.severity(), Severity::Prevents);

    case.failover.sync = Some(sync(1));
    let (_, shortfall) = case.only();
    assert_eq!(shortfall, Shortfall::NoSpareServer { has: 2 });
    assert_eq!(shortfall.severity(), Severity::Advice);

    case.failover.sync = Some(SyncSettings {
        acks: 1,
        when_too_few: WhenTooFew::Async,
    });
    assert_eq!(case.found(), Vec::new());
}

#[test]
fn a_server_other_than_the_primary_must_be_one_that_may_be_promoted() {
    let mut case = Case::new(3);
    case.shard.servers[1].priority = 0;
    assert_eq!(case.found(), Vec::new());
    case.shard.servers[2].priority = 0;
    assert_eq!(case.only().1, Shortfall::NoCandidate);
    // nobody says who the primary is: the first could be a standby
    case.answers.clear();
    assert_eq!(case.found(), Vec::new());
    case.shard.servers[0].priority = 0;
    assert_eq!(case.only().1, Shortfall::NoCandidate);
}

#[test]
fn an_old_version_is_all_that_is_said_of_its_server() {
    let mut case = Case::new(2);
    case.answers[1].version = 120_020;
    case.answers[1].replicates = false;
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0b"]));
    assert_eq!(
        shortfall.to_string(),
        "Postgres 12 is older than 13: upgrade it"
    );
}

#[test]
fn a_server_with_another_system_identifier_is_no_copy() {
    let mut case = Case::new(2);
    case.answers[0].system_identifier = 8;
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0b"]));
    assert_eq!(
        shortfall,
        Shortfall::DifferentSystem {
            other: "s0a".into()
        }
    );
}

#[test]
fn each_right_of_the_login_is_named_once_for_all_servers_with_its_grant() {
    let mut case = Case::new(2);
    for answer in &mut case.answers {
        answer.replicates = false;
        answer.not_executable = FUNCTIONS.map(String::from).into();
        answer.not_member = PREDEFINED_ROLES.map(String::from).into();
        answer.not_alterable = CHANGED.map(String::from).into();
    }
    let found = case.found();
    let texts: Vec<String> = found
        .iter()
        .map(|found| found.shortfall.to_string())
        .collect();
    assert_eq!(
        texts,
        [
            "`control` may not make replication slots: ALTER ROLE control REPLICATION on the primary",
            "`control` has not the rights of pg_monitor, pg_signal_backend: \
             GRANT pg_monitor, pg_signal_backend TO control; ALTER ROLE control INHERIT on the primary",
            "`control` may not run pg_promote(boolean, integer), pg_reload_conf(), pg_wal_replay_resume(): \
             GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf(), pg_wal_replay_resume() TO control \
             on the primary, in database shop",
            "`control` may not ALTER SYSTEM primary_conninfo, primary_slot_name, synchronous_standby_names, \
             default_transaction_read_only, wal_retrieve_retry_interval, max_standby_streaming_delay, recovery_min_apply_delay: \
             GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name, synchronous_standby_names, \
             default_transaction_read_only, wal_retrieve_retry_interval, max_standby_streaming_delay, recovery_min_apply_delay \
             TO control on the primary",
        ]
    );
    for found in found {
        assert_eq!(found.servers, names(&["s0a", "s0b"]));
        assert_eq!(found.shortfall.severity(), Severity::Prevents);
    }
}

#[test]
fn before_postgres_15_it_takes_a_superuser_and_a_superuser_lacks_no_right() {
    let mut case = Case::new(2);
    for answer in &mut case.answers {
        answer.version = 140_010;
        answer.replicates = false;
        answer.not_alterable = CHANGED.map(String::from).into();
    }
    let (_, shortfall) = case.only();
    assert_eq!(
        shortfall.fix(),
        Fix::OnPrimary(vec!["ALTER ROLE control SUPERUSER".into()])
    );
    for answer in &mut case.answers {
        answer.is_superuser = true;
    }
    assert_eq!(case.found(), Vec::new());
}

#[test]
fn from_postgres_16_on_a_membership_says_that_it_is_inherited() {
    let mut case = Case::new(2);
    case.answers[0].version = 160_000;
    case.answers[0].not_member = vec!["pg_monitor".into()];
    assert_eq!(
        case.only().1.fix(),
        Fix::OnPrimary(vec!["GRANT pg_monitor TO control WITH INHERIT TRUE".into()])
    );
}

#[test]
fn writers_must_be_roles_that_the_login_can_become_where_transactions_are_prepared() {
    let mut case = Case::new(2);
    for answer in &mut case.answers {
        answer.foreign_writers = vec!["App".into()];
    }
    assert_eq!(case.found(), Vec::new());
    case.several_shards = true;
    let (_, shortfall) = case.only();
    assert_eq!(shortfall.severity(), Severity::Prevents);
    assert_eq!(
        shortfall.to_string(),
        "`control` cannot finish what App prepared: GRANT \"App\" TO control on the primary"
    );
}

#[test]
fn writers_that_are_superusers_are_named() {
    let mut case = Case::new(2);
    case.answers[0].superusers = vec!["postgres".into()];
    let (_, shortfall) = case.only();
    assert_eq!(shortfall.severity(), Severity::Advice);
    assert!(shortfall.to_string().starts_with("clients are postgres, "));
}

#[test]
fn alter_system_must_be_allowed_and_have_an_effect() {
    let mut case = Case::new(2);
    let parameter = Parameter {
        value: "off".into(),
        source: "configuration file".into(),
    };
    case.answers[0]
        .parameters
        .insert("allow_alter_system".into(), parameter);
    assert_eq!(case.only().1, Shortfall::AlterSystemForbidden);

    case.set(0, "allow_alter_system", "on");
    case.fix_on_the_command_line(1, "primary_conninfo");
    // pgherd never changes this one
    case.fix_on_the_command_line(1, "max_connections");
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0b"]));
    assert_eq!(
        shortfall.to_string(),
        "the server's command line sets primary_conninfo, which pgherd then cannot change: \
         take it from there into postgresql.conf and restart the server"
    );
}

#[test]
fn a_standby_must_follow_the_latest_timeline_and_a_primary_should() {
    let mut case = Case::new(2);
    case.set(1, "recovery_target_timeline", "current");
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0b"]));
    assert_eq!(shortfall.severity(), Severity::Prevents);
    assert_eq!(
        shortfall.fix(),
        Fix::OnServersThenRestart(vec![
            "ALTER SYSTEM SET recovery_target_timeline = latest".into()
        ])
    );
    case.set(1, "recovery_target_timeline", "latest");
    case.set(0, "recovery_target_timeline", "3");
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0a"]));
    assert_eq!(shortfall.severity(), Severity::Advice);
}

#[test]
fn a_standby_must_have_as_much_of_everything_as_its_primary() {
    for name in AT_LEAST_THE_PRIMARYS {
        let mut case = Case::new(2);
        case.set(0, name, "300");
        let (servers, shortfall) = case.only();
        assert_eq!(servers, names(&["s0b"]), "{name}");
        assert_eq!(shortfall.severity(), Severity::Prevents, "{name}");
        assert_eq!(
            shortfall.fix(),
            Fix::OnServersThenRestart(vec![format!("ALTER SYSTEM SET {name} = 300")])
        );
        // more is no shortfall, and without one primary there is nothing to compare with
        case.set(1, name, "301");
        assert_eq!(case.found(), Vec::new(), "{name}");
        case.set(1, name, "1");
        case.answers[1].in_recovery = false;
        assert_eq!(case.found(), Vec::new(), "{name}");
    }
}

#[test]
fn what_the_command_line_sets_is_to_be_changed_there() {
    let mut case = Case::new(2);
    case.set(0, "max_connections", "300");
    case.fix_on_the_command_line(1, "max_connections");
    let text = case.only().1.to_string();
    assert_eq!(
        text,
        "max_connections is 100, less than on the primary s0a: replay stops: \
         set max_connections = 300 on the server's command line, where it is set, and restart the server"
    );
}

#[test]
fn fsync_must_be_on() {
    let mut case = Case::new(2);
    case.set(0, "fsync", "off");
    case.set(1, "fsync", "off");
    let (servers, shortfall) = case.only();
    assert_eq!(servers, names(&["s0a", "s0b"]));
    assert_eq!(shortfall.severity(), Severity::Prevents);
    assert_eq!(
        shortfall.to_string(),
        "fsync is off, so that what is acknowledged may be lost in a crash: \
         ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf(); then have the system write everything out, as by `sync`"
    );
}

#[test]
fn every_peer_must_have_a_wal_sender_and_a_slot_beside_the_logical_ones() {
    for name in ["max_wal_senders", "max_replication_slots"] {
        let mut case = Case::new(3);
        for server in 0..3 {
            case.set(server, name, "2");
        }
        assert_eq!(case.found(), Vec::new(), "{name}");
        for answer in &mut case.answers {
            answer.logical_slots = 1;
        }
        let (servers, shortfall) = case.only();
        assert_eq!(servers.len(), 3, "{name}");
        assert_eq!(shortfall.severity(), Severity::Prevents, "{name}");
        assert_eq!(
            shortfall.fix(),
            Fix::OnServersThenRestart(vec![format!("ALTER SYSTEM SET {name} = 3")])
        );
    }
    let mut case = Case::new(2);
    case.set(0, "wal_level", "minimal");
    assert_eq!(
        case.only().1.fix(),
        Fix::OnServersThenRestart(vec!["ALTER SYSTEM SET wal_level = replica".into()])
    );
}

#[test]
fn pg_rewind_takes_hints_or_checksums_and_full_pages() {
    let mut case = Case::new(2);
    case.set(0, "wal_log_hints", "off");
    let (_, shortfall) = case.only();
    assert_eq!(shortfall.severity(), Severity::Advice);
    assert!(matches!(shortfall.fix(), Fix::OnServersThenRestart(_)));
    case.set(0, "data_checksums", "on");
    assert_eq!(case.found(), Vec::new());
    case.set(0, "full_page_writes", "off");
    let (_, shortfall) = case.only();
    assert_eq!(shortfall.severity(), Severity::Advice);
    assert!(matches!(shortfall.fix(), Fix::OnServers(_)));
}

#[test]
fn an_archive_a_slot_or_kept_wal_is_enough_for_a_standby_to_catch_up() {
    let mut case = Case::new(2);
    case.set(1, "primary_slot_name", "");
    let (servers, shortfall) = case.only();
    assert_eq!(
        (servers, &shortfall),
        (names(&["s0b"]), &Shortfall::NoArchive)
    );
    assert_eq!(shortfall.severity(), Severity::Advice);
    case.set(1, "restore_command", "cp /archive/%f %p");
    assert_eq!(case.found(), Vec::new());
    case.set(1, "restore_command", "");
    case.set(0, "wal_keep_size", "1024");
    assert_eq!(case.found(), Vec::new());
}

#[test]
fn a_synchronous_commit_that_is_not_written_is_advised_against() {
    for value in ["off", "local", "remote_write"] {
        let mut case = Case::new(2);
        case.set(0, "synchronous_commit", value);
        let (_, shortfall) = case.only();
        assert_eq!(shortfall.severity(), Severity::Advice);
        // the control login's own says nothing of the server
        let parameter = case.answers[0].parameters.get_mut("synchronous_commit");
        parameter.unwrap().source = "user".into();
        assert_eq!(case.found(), Vec::new());
    }
    let mut case = Case::new(2);
    case.set(0, "synchronous_commit", "remote_apply");
    assert_eq!(case.found(), Vec::new());
}

#[test]
fn a_long_wait_before_a_standby_tries_again_is_advised_against() {
    let mut case = Case::new(2);
    case.set(1, "wal_retrieve_retry_interval", "5000");
    let (_, shortfall) = case.only();
    assert_eq!(shortfall.severity(), Severity::Advice);
    assert_eq!(
        shortfall.to_string(),
        "wal_retrieve_retry_interval is 5000ms, so that it may take that long to follow a promoted server: \
         ALTER SYSTEM SET wal_retrieve_retry_interval = '200ms'; SELECT pg_reload_conf()"
    );
}
