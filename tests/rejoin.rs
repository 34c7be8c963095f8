//! `deploy/rejoin.sh` makes a deposed primary a standby again, whatever state it is in and wherever it was interrupted before.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgherd::herd::{Durability, Herd, Server};
use tempfile::TempDir;

/// Rows enough that a rewind brings some megabytes.
const FILL: &str = "INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i";

/// A shard whose primary `s0a` was deposed by `s0b`, and has written since.
struct Deposed {
    herd: Herd,
    _directory: TempDir,
}

impl Deposed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let herd = Herd::builder()
            .directory(directory.path())
            .durability(Durability::Fast)
            .replicas(2)
            .start()
            .await
            .unwrap();
        let this = Self {
            herd,
            _directory: directory,
        };
        let make = format!(
            "CREATE TABLE t (id int, text text); {FILL}; CREATE TABLE kept AS SELECT 1 AS id"
        );
        this.server("s0a").sql(&make).await.unwrap();
        this.replayed("s0b").await;
        this.depose().await;
        this
    }

    /// Promotes `s0b`, and has both primaries write.
    async fn depose(&self) {
        self.herd.shards()[0].promote("s0b").await.unwrap();
        let port = self.server("s0b").port();
        let conninfo = format!(
            "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={port} user=pgherd password=pgherd application_name=s0c'"
        );
        for statement in [
            conninfo.as_str(),
            "ALTER SYSTEM SET primary_slot_name = ''",
            "SELECT pg_reload_conf()",
        ] {
            self.server("s0c").sql(statement).await.unwrap();
        }
        self.replayed("s0c").await;
        let old = self.server("s0a");
        old.sql("UPDATE t SET text = 'lost'; CREATE TABLE lost AS SELECT 1 AS id; INSERT INTO kept VALUES (666)")
            .await
            .unwrap();
        let new = self.server("s0b");
        new.sql("UPDATE t SET text = 'won' WHERE id % 3 = 0; CREATE TABLE won AS SELECT 1 AS id; INSERT INTO kept VALUES (2)")
            .await
            .unwrap();
    }

    fn server(&self, name: &str) -> &Server {
        self.herd.server(name).unwrap()
    }

    async fn replayed(&self, name: &str) {
        let primary = self.herd.shards()[0].primary();
        let rows = primary
            .sql("SELECT pg_current_wal_insert_lsn()")
            .await
            .unwrap();
        let position = rows[0][0].clone().unwrap();
        self.server(name)
            .wait_until(&format!(
                "SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{position}'"
            ))
            .await
            .unwrap();
    }

    /// The rejoin of a server, as pgherd calls it.
    fn command(&self, name: &str, options: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let primary = self.herd.shards()[0].primary();
        let mut command = Command::new("sh");
        let conninfo = format!(
            "host=127.0.0.1 port={} user=pgherd password=pgherd application_name={name}_e2",
            primary.port()
        );
        command
            .arg("-c")
            .arg(format!(
                "{} --wait 30 {options}",
                self.herd.rejoin_command()
            ))
            .env("PGHERD_SERVER", name)
            .env("PGHERD_SHARD", "s0")
            .env("PGHERD_EPOCH", "2")
            .env("PGHERD_PRIMARY_HOST", "127.0.0.1")
            .env("PGHERD_PRIMARY_PORT", primary.port().to_string())
            .env("PGHERD_PRIMARY_CONNINFO", conninfo)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    async fn rejoin(&self, name: &str, options: &str) -> Output {
        let command = self.command(name, options);
        tokio::process::Command::from(command)
            .output()
            .await
            .unwrap()
    }

    /// Asserts that `s0a` is a standby of `s0b` with its rows, and that nothing of its other life is left.
    async fn is_well(&self) {
        let old = self.server("s0a");
        assert!(old.is_running() && old.is_standby());
        self.replayed("s0a").await;
        let same = "SELECT string_agg(id::text, ',' ORDER BY id), (SELECT count(*) FROM t WHERE text = 'won'), \
                    (SELECT count(*) FROM t WHERE text = 'lost'), to_regclass('lost'), to_regclass('won') FROM kept";
        let rows = old.sql(same).await.unwrap();
        assert_eq!(rows, self.server("s0b").sql(same).await.unwrap());
        assert_eq!(rows[0][0].as_deref(), Some("1,2"));
        assert_eq!(rows[0][2].as_deref(), Some("0"));
        let settings = old
            .sql("SELECT current_setting('primary_slot_name'), current_setting('synchronous_standby_names'), \
                  current_setting('default_transaction_read_only'), current_setting('cluster_name'), current_setting('port'), \
                  current_setting('primary_conninfo') LIKE '%application_name=s0a_e2', (SELECT count(*) FROM pg_replication_slots)")
            .await
            .unwrap();
        let port = old.port().to_string();
        let expected =
            ["", "", "off", "s0a", port.as_str(), "t", "0"].map(|value| Some(value.to_owned()));
        assert_eq!(settings[0], expected);
        let mut left = old.data_directory().as_os_str().to_owned();
        left.push(".rejoin");
        assert!(!std::path::Path::new(&left).exists());
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_primary_that_runs_is_rewound_and_keeps_its_own_configuration() {
    let shard = Deposed::new().await;
    // what a failover leaves behind on both sides
    shard
        .server("s0a")
        .sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await
        .unwrap();
    shard
        .server("s0a")
        .sql("ALTER SYSTEM SET default_transaction_read_only = on")
        .await
        .unwrap();
    for setting in [
        "primary_conninfo = ''",
        "primary_slot_name = 'revoked_e1'",
        "work_mem = '7MB'",
    ] {
        let statement = format!("ALTER SYSTEM SET {setting}");
        shard.server("s0b").sql(&statement).await.unwrap();
    }
    let output = shard.rejoin("s0a", "").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.is_well().await;
    let rows = shard.server("s0a").sql("SHOW work_mem").await.unwrap();
    assert_eq!(
        rows[0][0].as_deref(),
        Some("4MB"),
        "its own, not the other's"
    );

    // what is well already stays so
    let output = shard.rejoin("s0a", "").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.is_well().await;
    assert!(
        said(&output).contains("nothing to rewind"),
        "{}",
        said(&output)
    );
    shard.server("s0a").stop().await;
    assert!(
        !shard.server("s0a").is_running(),
        "the herd stops what others started"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_primary_rejoins_frozen_killed_or_orphaned() {
    let shard = Deposed::new().await;
    let old = shard.server("s0a");
    old.freeze();
    let output = shard.rejoin("s0a", "").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.is_well().await;

    for kill in [
        Server::kill9,
        Server::kill_postmaster,
        Server::freeze_postmaster,
    ] {
        let shard = Deposed::new().await;
        let old = shard.server("s0a");
        let busy = "SELECT count(*) FROM generate_series(1, 100000000)";
        let running = old.sql(busy);
        tokio::select! {
            _ = running => panic!("it takes minutes"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        kill(old);
        let output = shard.rejoin("s0a", "").await;
        assert!(output.status.success(), "{}", said(&output));
        shard.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_that_was_interrupted_anywhere_is_finished_by_the_next() {
    let shard = Deposed::new().await;
    shard.server("s0a").kill9();
    // further each time: within the recovery, the copies, the rewind, the start
    for (step, whole) in (0..14_u64).zip([true, false].into_iter().cycle()) {
        let mut running = shard.command("s0a", "").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 90 * step));
        let group = Pid::from_raw(i32::try_from(running.id()).unwrap());
        if whole {
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        } else {
            // the shell alone: what it has started goes on
            let _ = kill(group, Signal::SIGKILL);
        }
        running.wait().unwrap();
        let old = shard.server("s0a");
        assert!(!old.is_running() || old.is_standby(), "after {step}");
    }
    let output = shard.rejoin("s0a", "").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.is_well().await;
}

/// Kills the rejoin, and all it runs, when it has said a text.
fn interrupt_at(mut command: Command, text: &str, after: Duration) {
    use std::io::{BufRead, BufReader};
    let mut running = command.spawn().unwrap();
    let (mut all, mut said_it) = (String::new(), false);
    for line in BufReader::new(running.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        let is_it = line.contains(text);
        all += &line;
        if is_it {
            std::thread::sleep(after);
            let group = Pid::from_raw(i32::try_from(running.id()).unwrap());
            nix::sys::signal::killpg(group, Signal::SIGKILL).unwrap();
            said_it = true;
            break;
        }
    }
    running.wait().unwrap();
    assert!(said_it, "it did not say {text}: {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_was_killed_half_way_is_done_again() {
    for after in [5, 15, 30, 60, 120] {
        let shard = Deposed::new().await;
        let command = shard.command("s0a", "");
        interrupt_at(
            command,
            "rewinding to timeline",
            Duration::from_millis(after),
        );
        assert!(!shard.server("s0a").is_running());
        let output = shard.rejoin("s0a", "").await;
        assert!(
            output.status.success(),
            "after {after} ms: {}",
            said(&output)
        );
        shard.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_interrupted_before_another_failover_is_refused_and_a_copy_helps() {
    let shard = Deposed::new().await;
    interrupt_at(
        shard.command("s0a", ""),
        "rewinding to timeline",
        Duration::from_millis(3),
    );
    shard.replayed("s0c").await;
    shard.server("s0b").stop().await;
    shard.herd.shards()[0].promote("s0c").await.unwrap();
    let output = shard.rejoin("s0a", "").await;
    assert!(!output.status.success());
    let refusal = said(&output);
    assert!(refusal.contains("timeline 2 was interrupted"), "{refusal}");
    assert!(refusal.contains("--base-backup"), "{refusal}");
    assert!(!shard.server("s0a").is_running());

    let output = shard.rejoin("s0a", "--base-backup").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.replayed("s0a").await;
    assert!(shard.server("s0a").is_standby());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_primary_or_another_cluster_is_not_followed() {
    let shard = Deposed::new().await;
    let other = Deposed::new().await;
    let begun = Instant::now();
    let cases = [
        (shard.server("s0c").port(), "is none, or does not answer"),
        (other.server("s0b").port(), "another cluster"),
        (9, "Connection refused"),
    ];
    for (port, expected) in cases {
        let mut command = shard.command("s0a", "--wait 2");
        command.env("PGHERD_PRIMARY_PORT", port.to_string());
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert!(!shard.server("s0a").is_running(), "{:?}", begun.elapsed());
    }
    // no harm was done
    let output = shard.rejoin("s0a", "").await;
    assert!(output.status.success(), "{}", said(&output));
    shard.is_well().await;
}
