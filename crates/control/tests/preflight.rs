//! What real servers lack for a failover, and whether what is named as the remedy removes it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use pgherd_control::{
    ControlSettings, FailoverSettings, Fix, Preflight, Purpose, Shortfall, ShortfallAt,
    check_failover,
};
use pgherd_topology::{ShardId, Sharding};
use support::{TestServer, settings};

const CHANGED: [&str; 7] = [
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "wal_retrieve_retry_interval",
    "max_standby_streaming_delay",
    "recovery_min_apply_delay",
];

/// Shard `s0` with a primary `s0a` and a standby `s0b`, in a database of two shards, so that transactions are prepared.
struct Pair {
    primary: TestServer,
    standby: TestServer,
    settings: ControlSettings,
}

impl Pair {
    /// With lines of postgresql.conf, and the roles `control`, which may log in and no more, and `app`.
    async fn start(configuration: &str) -> Self {
        let primary = TestServer::with(configuration);
        primary
            .sql("CREATE ROLE control LOGIN; CREATE ROLE app LOGIN")
            .await;
        // a base backup has them already
        let standby = primary.replica();
        let mut settings = settings(
            &[&[&primary, &standby], &[&primary]],
            Sharding::unsharded("s0"),
        );
        settings.login.user = "control".into();
        Self {
            primary,
            standby,
            settings,
        }
    }

    /// One that lacks nothing.
    async fn right() -> Self {
        let pair = Self::start("fsync = on\nwal_log_hints = on\nwal_keep_size = 64").await;
        pair.standby.sql("ALTER SYSTEM SET fsync = on").await;
        pair.standby.sql("SELECT pg_reload_conf()").await;
        for grant in [
            "ALTER ROLE control REPLICATION",
            "GRANT pg_monitor, pg_signal_backend, app TO control",
            "GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf(), pg_wal_replay_resume() TO control",
        ] {
            pair.primary.sql(grant).await;
        }
        let parameters = CHANGED.join(", ");
        let grant = format!("GRANT ALTER SYSTEM ON PARAMETER {parameters} TO control");
        pair.primary.sql(&grant).await;
        assert_eq!(pair.until("nothing", <[_]>::is_empty).await, Vec::new());
        pair
    }

    async fn look(&self) -> Preflight {
        let failover = FailoverSettings::default();
        check_failover(
            &self.settings,
            ShardId(0),
            &failover,
            &["app".into(), "unknown".into()],
        )
        .await
    }

    /// What is lacking once the standby has replayed far enough.
    async fn until(
        &self,
        what: &str,
        condition: impl Fn(&[ShortfallAt]) -> bool,
    ) -> Vec<ShortfallAt> {
        let begun = Instant::now();
        loop {
            let found = self.look().await;
            assert!(found.unanswered.is_empty(), "{:?}", found.unanswered);
            if condition(&found.shortfalls) {
                return found.shortfalls;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "never seen: {what}: {:#?}",
                found.shortfalls
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does what is named; whether it was SQL.
    async fn apply(&self, lacking: &ShortfallAt) -> bool {
        let fix = lacking.shortfall.fix();
        let (statements, servers) = match &fix {
            Fix::OnPrimary(statements) => (statements, vec![&self.primary]),
            Fix::OnServers(statements) | Fix::OnServersThenRestart(statements) => {
                let server = |name: &str| match name {
                    "s0a" => &self.primary,
                    _ => &self.standby,
                };
                let servers = lacking.servers.iter().map(|name| server(name));
                (statements, servers.collect())
            }
            Fix::ByHand(_) => return false,
        };
        for server in servers {
            for statement in statements {
                server.sql(statement).await;
            }
        }
        true
    }

    fn restart(&self) {
        for server in [&self.primary, &self.standby] {
            server.stop("fast");
            server.boot();
        }
    }
}

/// Parameters that were found to be lacking, with their servers.
fn parameters(found: &[ShortfallAt]) -> Vec<(&'static str, String)> {
    let parameter = |found: &ShortfallAt| match &found.shortfall {
        Shortfall::Parameter { name, .. } => Some((*name, found.servers.join(" "))),
        _ => None,
    };
    let mut parameters: Vec<_> = found.iter().filter_map(parameter).collect();
    parameters.sort_unstable();
    parameters
}

#[tokio::test]
async fn what_is_lacking_goes_by_the_statements_that_are_named() {
    let configuration = "synchronous_commit = local\nwal_retrieve_retry_interval = 5s";
    let pair = Pair::start(configuration).await;
    let lower = "ALTER SYSTEM SET max_replication_slots = 0";
    pair.standby.sql(lower).await;
    pair.standby.stop("fast");
    pair.standby.boot();
    let raise = "ALTER SYSTEM SET max_connections = 60";
    pair.primary.sql(raise).await;
    pair.primary.stop("fast");
    pair.primary.boot();
    let found = pair.look().await;
    assert!(found.unanswered.is_empty(), "{:?}", found.unanswered);
    let both = || "s0a s0b".to_owned();
    assert_eq!(
        parameters(&found.shortfalls),
        [
            ("fsync", both()),
            ("max_connections", "s0b".into()),
            ("max_replication_slots", "s0b".into()),
            ("synchronous_commit", both()),
            ("wal_log_hints", both()),
            // the standby was started with 200ms
            ("wal_retrieve_retry_interval", "s0a".into()),
        ]
    );
    let has = |wanted: fn(&Shortfall) -> bool| {
        found
            .shortfalls
            .iter()
            .any(|found| wanted(&found.shortfall))
    };
    assert!(has(|found| matches!(
        found,
        Shortfall::NoReplication { .. }
    )));
    assert!(has(|found| matches!(found, Shortfall::NotMember { .. })));
    assert!(has(|found| matches!(
        found,
        Shortfall::NotExecutable { .. }
    )));
    assert!(has(|found| matches!(found, Shortfall::NotAlterable { .. })));
    assert!(has(|found| matches!(
        found,
        Shortfall::ForeignWriters { .. }
    )));
    assert!(has(|found| matches!(found, Shortfall::NoArchive)));

    let mut by_hand = Vec::new();
    for lacking in &found.shortfalls {
        if !pair.apply(lacking).await {
            by_hand.push(lacking.shortfall.clone());
        }
    }
    assert_eq!(by_hand, [Shortfall::NoArchive]);
    pair.primary
        .sql("ALTER SYSTEM SET wal_keep_size = 64")
        .await;
    pair.restart();
    pair.until("nothing", <[_]>::is_empty).await;
}

#[tokio::test]
async fn each_right_that_is_taken_away_is_named_with_the_grant_that_gives_it_back() {
    let pair = Pair::right().await;
    let mut taken: Vec<(String, String)> = [
        (
            "ALTER ROLE control NOREPLICATION",
            "ALTER ROLE control REPLICATION",
        ),
        ("ALTER ROLE control NOINHERIT", "ALTER ROLE control INHERIT"),
        (
            "REVOKE pg_monitor FROM control",
            "GRANT pg_monitor TO control",
        ),
        (
            "REVOKE pg_signal_backend FROM control",
            "GRANT pg_signal_backend TO control",
        ),
        ("REVOKE app FROM control", "GRANT app TO control"),
    ]
    .map(|(taken, fix)| (taken.to_owned(), fix.to_owned()))
    .into();
    let functions = [
        "FUNCTION pg_promote(boolean, integer)",
        "FUNCTION pg_reload_conf()",
        "FUNCTION pg_wal_replay_resume()",
    ];
    for function in functions {
        taken.push((
            format!("REVOKE EXECUTE ON {function} FROM control"),
            format!("GRANT EXECUTE ON {function} TO control"),
        ));
    }
    for parameter in CHANGED {
        taken.push((
            format!("REVOKE ALTER SYSTEM ON PARAMETER {parameter} FROM control"),
            format!("GRANT ALTER SYSTEM ON PARAMETER {parameter} TO control"),
        ));
    }
    for (statement, fix) in taken {
        pair.primary.sql(&statement).await;
        let on_both = |found: &[ShortfallAt]| found.len() == 1 && found[0].servers.len() == 2;
        let found = pair.until(&statement, on_both).await;
        let text = found[0].shortfall.to_string();
        assert!(text.contains(&fix), "{statement}: {text}");
        assert!(pair.apply(&found[0]).await);
        pair.until(&fix, <[_]>::is_empty).await;
    }
    // a superuser needs no grant
    for statement in [
        "DROP OWNED BY control",
        "ALTER ROLE control SUPERUSER NOREPLICATION",
    ] {
        pair.primary.sql(statement).await;
    }
    pair.until("nothing", <[_]>::is_empty).await;
}

#[tokio::test]
async fn what_the_command_line_fixes_is_found_though_pgherds_own_sessions_set_it() {
    let pair = Pair::right().await;
    pair.primary.stop("fast");
    let options =
        "-c default_transaction_read_only=off -c synchronous_standby_names= -c max_connections=70";
    pair.primary.boot_with(options);
    let found = pair.until("two shortfalls", |found| found.len() == 2).await;
    let fixed = Shortfall::OnCommandLine {
        parameters: vec![
            "synchronous_standby_names".into(),
            "default_transaction_read_only".into(),
        ],
    };
    assert_eq!(found[0].shortfall, fixed);
    assert_eq!(*found[0].servers, ["s0a".into()]);
    assert!(
        matches!(
            &found[1].shortfall,
            Shortfall::Parameter {
                name: "max_connections",
                purpose: Purpose::Replay { .. },
                ..
            }
        ),
        "{found:?}"
    );

    pair.standby.stop("fast");
    let found = pair.look().await;
    let unanswered: Vec<&str> = found.unanswered.iter().map(|(name, _)| &**name).collect();
    assert_eq!(unanswered, ["s0b"]);
    assert_eq!(found.shortfalls.len(), 1, "{:?}", found.shortfalls);
}
