//! A transaction over shards whose connections and servers are lost at each step of its commit: all shards alike afterwards, nothing
//! left prepared, and the client never hears an abort of what is kept, nor success of what is not.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::detour::{Cut, Detour};
use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::Client;

/// Exactly the simple query `COMMIT`, which no COMMIT PREPARED is.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// How long recovery may take.
const SETTLED: Duration = Duration::from_secs(30);

/// The texts that go to the anchor (the lowest shard) and to another participant.
const ON_ANCHOR: &[(&str, &[u8])] = &[
    ("the write", b"INSERT INTO countries"),
    ("whether it has written", b"pg_current_xact_id_if_assigned"),
    ("its row of the log", b"pgherd.record_commit"),
    ("the decision", COMMIT),
];
const ON_OTHER: &[(&str, &[u8])] = &[
    ("the write", b"INSERT INTO countries"),
    ("whether it has written", b"pg_current_xact_id_if_assigned"),
    ("its row of the log", b"pgherd.record_commit"),
    ("PREPARE", b"PREPARE TRANSACTION"),
    ("delivery", b"COMMIT PREPARED"),
];

struct Lost {
    cluster: Cluster,
    detours: Vec<Detour>,
    number: u32,
}

/// What the client heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Success,
    Aborted(String),
    Unknown,
}

impl Lost {
    async fn start(shards: u16) -> Self {
        let mut cluster = TestCluster::new().shards(shards).shop().start().await;
        let mut detours = Vec::new();
        for shard in cluster.herd().shards() {
            let server = shard.primary();
            detours.push((server.name().to_string(), Detour::to(server.port()).await));
        }
        cluster.rewrite(|configuration| {
            configuration.detours = detours
                .iter()
                .map(|(name, detour)| (name.clone(), detour.port()))
                .collect();
        });
        cluster.restart_product().await;
        Self {
            cluster,
            detours: detours.into_iter().map(|(_, detour)| detour).collect(),
            number: 0,
        }
    }

    /// A reference table's row, which every shard gets: by one statement, or in a block.
    async fn write(client: &Client, number: u32) -> Heard {
        let write = format!("INSERT INTO countries VALUES ('{number}', 'x')");
        let written = if number.is_multiple_of(2) {
            client.batch_execute(&write).await
        } else {
            let mut result = client.batch_execute("BEGIN").await;
            for text in ["SAVEPOINT one", &write, "COMMIT"] {
                if result.is_ok() {
                    result = client.batch_execute(text).await;
                }
            }
            result
        };
        match written {
            Ok(()) => Heard::Success,
            Err(error) => match sqlstate(&error).as_str() {
                "08007" => Heard::Unknown,
                other => {
                    println!("{error:?}");
                    Heard::Aborted(other.into())
                }
            },
        }
    }

    async fn rows(&self, number: u32) -> Vec<String> {
        self.cluster
            .on_each_primary(&format!(
                "SELECT count(*) FROM countries WHERE code = '{number}'"
            ))
            .await
    }

    async fn prepared(&self) -> bool {
        self.cluster
            .on_each_primary("SELECT count(*) FROM pg_prepared_xacts")
            .await
            .iter()
            .any(|count| count != "0")
    }

    /// Waits until nothing is prepared, and holds what is there against what the client heard.
    async fn check(&self, number: u32, heard: &Heard, case: &str) {
        let begun = Instant::now();
        while self.prepared().await {
            assert!(
                begun.elapsed() < SETTLED,
                "{case}: prepared halves are left"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rows = self.rows(number).await;
        assert!(
            rows.iter().all(|count| *count == rows[0]),
            "{case}: {rows:?}, heard {heard:?}"
        );
        match heard {
            Heard::Success => assert_eq!(rows[0], "1", "{case}: success, and nothing is there"),
            Heard::Aborted(state) => {
                assert_eq!(rows[0], "0", "{case}: {state}, and it is kept");
                assert_eq!(state, "40001", "{case}");
            }
            Heard::Unknown => {}
        }
        println!("{case}: {heard:?}, {} ({:?})", rows[0], begun.elapsed());
    }

    /// One transaction that meets one cut.
    async fn meet(&mut self, shard: usize, step: (&str, &[u8]), cut: Cut) -> Heard {
        self.number += 1;
        let number = self.number;
        let case = format!("{} on s{shard}, {cut:?}, number {number}", step.0);
        let client = self.cluster.connect("app").await;
        // connections of the pool before anything is cut
        client
            .batch_execute("UPDATE countries SET name = 'y' WHERE code = 'none'")
            .await
            .unwrap_or_else(|error| panic!("before {case}: {error:?}"));
        self.detours[shard].set(step.1, cut);
        let heard = Self::write(&client, number).await;
        assert!(self.detours[shard].is_sprung(), "{case}: was never sent");
        self.check(number, &heard, &case).await;
        // the session lives, and can write again
        if client.batch_execute("ROLLBACK").await.is_err() {
            panic!("{case}: the session is gone");
        }
        heard
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_lost_at_any_step_leave_all_shards_alike() {
    let mut lost = Lost::start(2).await;
    for cut in [Cut::Before, Cut::Unanswered, Cut::Answered] {
        for (shard, steps) in [(0, ON_ANCHOR), (1, ON_OTHER)] {
            for step in steps {
                // twice: as one statement and in a block
                for _ in 0..2 {
                    let heard = lost.meet(shard, *step, cut).await;
                    let decided =
                        step.0 == "delivery" || (step.0 == "the decision" && cut == Cut::Answered);
                    if decided {
                        assert!(
                            !matches!(heard, Heard::Aborted(_)),
                            "an abort after the decision"
                        );
                    }
                }
            }
        }
    }
}

/// What was killed keeps its shared memory for a moment, which a new postmaster refuses to share.
async fn start(cluster: &Cluster, shard: usize) {
    let begun = Instant::now();
    while let Err(error) = cluster.shard(shard).primary().start().await {
        assert!(begun.elapsed() < SETTLED, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_lose_power_at_any_step_leave_all_shards_alike() {
    let mut lost = Lost::start(2).await;
    for (shard, step) in [
        (1, ON_OTHER[3]),
        (1, ON_OTHER[4]),
        (0, ON_ANCHOR[3]),
        (0, ON_ANCHOR[2]),
    ] {
        lost.number += 1;
        let number = lost.number;
        let case = format!("power lost before {} on s{shard}", step.0);
        let client = lost.cluster.connect("app").await;
        lost.detours[shard].set(step.1, Cut::Held);
        let writing = tokio::spawn(async move { Lost::write(&client, number).await });
        lost.detours[shard].sprung().await;
        let server = lost.cluster.shard(shard).primary();
        server.kill9();
        lost.detours[shard].release();
        let heard = writing.await.unwrap();
        start(&lost.cluster, shard).await;
        lost.check(number, &heard, &case).await;
        lost.cluster.wait_until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_only_read_and_is_lost_before_the_decision_aborts_all() {
    let lost = Lost::start(2).await;
    let client = lost.cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO countries VALUES ('x', 'before')")
        .await
        .unwrap();
    for shard in [0, 1] {
        let (reads, writes) = (shard, 1 - shard);
        for (text, cut) in [
            (&b"pg_current_xact_id_if_assigned"[..], Cut::Unanswered),
            (b"pg_current_xact_id_if_assigned", Cut::Answered),
            // the empty query
            (b"Q\0\0\0\x05\0", Cut::Before),
        ] {
            for statement in [
                "BEGIN",
                &format!("SET LOCAL pgherd.shard = 's{reads}'"),
                "SELECT name FROM countries",
                &format!("SET LOCAL pgherd.shard = 's{writes}'"),
                "SET LOCAL pgherd.unchecked = on",
                "UPDATE countries SET name = 'after' WHERE code = 'x'",
            ] {
                client.batch_execute(statement).await.expect(statement);
            }
            lost.detours[shard].set(text, cut);
            let aborted = client.batch_execute("COMMIT").await.unwrap_err();
            assert!(lost.detours[shard].is_sprung(), "{cut:?}");
            assert_eq!(sqlstate(&aborted), "40001", "s{shard}, {cut:?}");
            let names = lost
                .cluster
                .on_each_primary("SELECT name FROM countries")
                .await;
            assert_eq!(names, ["before"; 2], "s{shard}, {cut:?}");
        }
    }
}
