//! The memory of clients that do nothing.

use pgherd_tests::TestCluster;
use pgherd_tests::idle::{Crowd, Encryption, raise_open_files, settled_memory};

/// What the first clients bring along (connections to the server, plans, threads' heaps) is not counted.
const FIRST: u64 = 500;
const ALL: u64 = 2_000;
/// Bytes of resident memory. Built without optimisation it takes more than what users run.
const BOUND: u64 = 6 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_costs_a_few_kilobytes() {
    raise_open_files().expect("the limit of open files can be raised");
    let mut cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.sharding.clear();
            // nothing is left of a password, and many take long
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
        })
        .start()
        .await;
    let pid = cluster.product().pid();
    let mut crowd = Crowd::new(&cluster, &Encryption::Plain);
    crowd.grow_to(FIRST).await;
    let before = settled_memory(pid).await;
    crowd.grow_to(ALL).await;
    let after = settled_memory(pid).await;
    let each = after.saturating_sub(before) / (ALL - FIRST);
    assert!(
        each < BOUND,
        "an idle client costs {each} bytes: {before} bytes with {FIRST} clients, {after} with {ALL}"
    );
}
