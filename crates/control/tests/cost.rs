//! What watching a herd costs. Ignored: it measures, and passes judgement only on the grossest waste.
//! `cargo test --release -p pgherd-control --test cost -- --ignored --nocapture`

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use pgherd_topology::{ShardId, Sharding};
use support::{TestServer, ready, settings};

/// CPU time of the processes whose command begins with a word, in ticks of 10 ms.
fn ticks(select: impl Fn(&str) -> bool) -> u64 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| select(stat.split(['(', ')']).nth(1).unwrap_or_default()))
        .map(|stat| {
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            // utime and stime (proc(5))
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

fn own_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn watching_nine_servers_and_a_thousand_tables() {
    let primaries: Vec<TestServer> = (0..3)
        .map(|_| TestServer::with("max_locks_per_transaction = 1000"))
        .collect();
    for primary in &primaries {
        primary
            .sql("DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, a text, b int DEFAULT 3, \
                  c timestamptz DEFAULT now(), d numeric, e uuid, f jsonb, g bool)', i); END LOOP; END $$")
            .await;
    }
    let replicas: Vec<[TestServer; 2]> = primaries
        .iter()
        .map(|primary| [primary.replica(), primary.replica()])
        .collect();
    let shards: Vec<[&TestServer; 3]> = primaries
        .iter()
        .zip(&replicas)
        .map(|(primary, [first, second])| [primary, first, second])
        .collect();
    let shards: Vec<&[&TestServer]> = shards.iter().map(|servers| &servers[..]).collect();
    let sharding = Sharding::builder(["s0", "s1", "s2"]).build().unwrap();
    let control = ready(settings(&shards, sharding)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let reload = Instant::now();
    control.reloader().reload().await.unwrap();
    println!(
        "reading the catalogs of three shards: {:?}",
        reload.elapsed()
    );
    let samples = control.topology().borrow().shard(ShardId(0)).unwrap().nodes[0]
        .samples
        .clone();
    for (what, busy) in [("idle", false), ("with a transaction each 100 ms", true)] {
        let (before, servers) = (own_ticks(), ticks(|name| name == "postgres"));
        let begun = Instant::now();
        let mut from = begun;
        let mut taken = 0;
        while begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if busy {
                primaries[0].sql("SELECT pg_current_xact_id()").await;
            }
            while samples.first_begun_after(from).is_some() && from < Instant::now() {
                from += Duration::from_millis(15);
                taken += 1;
            }
        }
        let percent = |ticks: u64| ticks as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{what}: {:.1} % of a core here, {:.1} % in all servers of this machine; some {} samples/s of one server",
            percent(own_ticks() - before),
            percent(ticks(|name| name == "postgres") - servers),
            taken / 10
        );
    }
    control.shutdown().await;
}
