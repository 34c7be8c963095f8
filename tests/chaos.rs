//! Clients that come and go at random, cancel, and disconnect in the middle of anything: none sees what is another's, and nothing of
//! theirs is left but their rows.
//!
//! `CHAOS_CLIENTS` clients at a time (100) for `CHAOS_SECONDS` (10), drawn from `SEED`; `make chaos` for many and for long.
#![allow(clippy::unwrap_used)]

#[path = "chaos/acts.rs"]
mod acts;
#[path = "chaos/aftermath.rs"]
mod aftermath;
#[path = "chaos/data.rs"]
mod data;
#[path = "chaos/endings.rs"]
mod endings;
#[path = "chaos/life.rs"]
mod life;
#[path = "chaos/model.rs"]
mod model;
#[path = "chaos/traces.rs"]
mod traces;
#[path = "chaos/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgherd_tests::asking::one;
use pgherd_tests::oracle::Random;
use pgherd_tests::wire::{RawClient, startup};
use pgherd_tests::{Cluster, TestCluster};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::aftermath::{
    connections_are_clean, connections_are_idle, footprint, nobody_is_there, rows_are_right,
};
use crate::life::{Life, Step};
use crate::world::{POOL_SIZE, SETTINGS, USERS, World};

/// One storm at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// What the database holds.
const TABLES: [&str; 7] = [
    "CREATE TABLE rows (client bigint, n int, value text, PRIMARY KEY (client, n))",
    "CREATE TABLE loose (client bigint, n int, value text, PRIMARY KEY (client, n))",
    "CREATE TABLE marks (client bigint, n int, value text, PRIMARY KEY (client, n))",
    "CREATE FUNCTION leave_things(client bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
       PERFORM set_config('chaos.left', client::text, false);
       CREATE TEMP TABLE IF NOT EXISTS left_here (client bigint);
       PERFORM pg_advisory_lock(1, client::int);
       EXECUTE 'LISTEN left_here';
     END $$",
    "GRANT ALL ON rows TO bob, carol, other",
    "GRANT ALL ON loose TO bob, carol, other",
    "GRANT ALL ON marks TO bob, carol, other",
];

const SHARDING: &str = "
tables:
  rows: { key: client }
reference: [marks]
functions: { leave_things: [] }
unlisted: s0";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// Clients, their sockets, and what else this process opens.
fn raise_the_limit_of_files(needed: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(
        hard >= needed,
        "{needed} files may have to be open at once, but the hard limit is {hard} (ulimit -Hn): choose fewer CHAOS_CLIENTS"
    );
}

async fn cluster(shards: u16) -> Cluster {
    let cluster = TestCluster::new()
        .shards(shards)
        .servers(|herd| herd.setting("log_statement", "none"))
        .configure(|configuration| {
            configuration.sharding = if shards == 1 { "" } else { SHARDING }.into();
            configuration.users = USERS
                .map(|user| format!("- {{ name: {user}, password: {user}, trust: 127.0.0.1 }}\n"))
                .concat();
            configuration.database =
                format!("pool: {{ size: {POOL_SIZE}, checkout_timeout: 20s }}");
        })
        .start_unready()
        .await;
    for shard in cluster.herd().shards() {
        for sql in [
            "CREATE ROLE other; GRANT other TO app",
            "CREATE ROLE bob LOGIN PASSWORD 'bob' IN ROLE other",
            "CREATE ROLE carol LOGIN PASSWORD 'carol' IN ROLE other",
        ] {
            shard.primary().sql(sql).await.unwrap();
        }
    }
    cluster.wait_until_ready().await;
    let client = cluster.connect("app").await;
    for sql in TABLES {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    cluster
}

async fn world(cluster: &Cluster, seed: u64) -> World {
    let client = cluster.connect("app").await;
    let mut defaults = std::collections::HashMap::new();
    for (name, _) in SETTINGS {
        let sql = format!("SELECT coalesce(current_setting('{name}', true), '')");
        defaults.insert(name, one(&client, &sql).await);
    }
    let is_sharded = cluster.herd().shards().len() > 1;
    World::new(cluster.endpoint(), is_sharded, seed, defaults)
}

/// One client after the other, until the time is over.
async fn lives(world: Arc<World>, place: u64) {
    let mut random = Random::new(world.seed, u64::MAX - place);
    while !world.is_over() {
        if random.percent(3) {
            // one that does not get through its login
            let mut client = RawClient::connect(&world.endpoint).await;
            let packet = startup(3 << 16, "app", "shop");
            client.send(&packet[..random.below(packet.len())]).await;
        }
        if let Err(failure) = life(&world).await {
            world.fail(failure);
        }
    }
}

async fn life(world: &Arc<World>) -> Step {
    let mut life = Life::begin(world).await;
    for _ in 0..life.random.below(30) {
        if world.is_over() {
            break;
        }
        life.act().await?;
        life.check_status()?;
        life.think().await;
    }
    life.end().await
}

fn report(world: &World, clients: u64) {
    let counters = &world.counters;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "seed {}, {clients} clients at a time{}: {} clients with {} requests; {} cancel requests, {} statements cancelled, {} lost; \
         {} disconnected ({} in a block, {} in mid-query, {} in mid-COPY, {} in mid-message); {} kept a connection; \
         {} looks at the session, {} rows read back, {} COPYs, {} notifications heard; {} requests refused, {} times no connection in time",
        world.seed,
        if world.is_sharded { ", sharded" } else { "" },
        read(&counters.clients),
        read(&counters.requests),
        read(&counters.cancels),
        read(&counters.cancelled),
        read(&counters.lost_cancels),
        read(&counters.disconnects),
        read(&counters.amid_blocks),
        read(&counters.amid_queries),
        read(&counters.amid_copies),
        read(&counters.amid_messages),
        read(&counters.pinned),
        read(&counters.looks),
        read(&counters.rows),
        read(&counters.copies),
        read(&counters.notifications),
        read(&counters.refused),
        read(&counters.busy),
    );
}

async fn storm(shards: u16) {
    let _turn = TURN.lock().await;
    let clients = number("CHAOS_CLIENTS", 100);
    let length = Duration::from_secs(number("CHAOS_SECONDS", 10));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = number("SEED", now);
    println!("SEED={seed}");
    // a client, its cancel request, and its successor
    raise_the_limit_of_files(clients * 3 + 256);
    let mut cluster = cluster(shards).await;
    let world = Arc::new(world(&cluster, seed).await);
    // so that every pool has been full once before anything is measured
    connections_are_clean(&cluster, &world).await;
    nobody_is_there(&cluster).await;
    let pid = cluster.product().pid();
    let (files_before, _) = footprint(pid);

    let begun = Instant::now();
    let places: Vec<_> = (0..clients)
        .map(|place| tokio::spawn(lives(Arc::clone(&world), place)))
        .collect();
    while begun.elapsed() < length && !world.is_over() {
        sleep(Duration::from_millis(100)).await;
    }
    let (_, memory_then) = footprint(pid);
    world.stop.store(true, Ordering::Relaxed);
    for place in places {
        place.await.unwrap();
    }
    report(&world, clients);
    let failures = std::mem::take(&mut *world.failures.lock().unwrap());
    assert!(
        failures.is_empty(),
        "{} failures, the first of them:\n{}",
        failures.len(),
        failures[..failures.len().min(3)].join("\n\n")
    );

    nobody_is_there(&cluster).await;
    let idle = connections_are_idle(&cluster).await;
    let clean = connections_are_clean(&cluster, &world).await;
    nobody_is_there(&cluster).await;
    connections_are_idle(&cluster).await;
    let rows = rows_are_right(&cluster, &world).await;
    let (files, memory) = footprint(pid);
    println!(
        "{idle} connections idle, {clean} seen clean, {rows} rows as acknowledged; files {files_before} -> {files}, \
         memory {memory_then} -> {memory} KiB"
    );
    assert_eq!(world.counters.lost_cancels.load(Ordering::Relaxed), 0);
    assert_eq!(cluster.product().ended(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_leave_an_unsharded_database_clean() {
    storm(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_leave_a_sharded_database_clean() {
    storm(3).await;
}
