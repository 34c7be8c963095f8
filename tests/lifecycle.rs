//! A client's life at its rough edges: going away in the middle of things, cancelling, and being sent away.
#![allow(clippy::unwrap_used)]

#[path = "lifecycle/cancelling.rs"]
mod cancelling;
#[path = "lifecycle/dumping.rs"]
mod dumping;
#[path = "lifecycle/half_open.rs"]
mod half_open;
#[path = "lifecycle/timeouts.rs"]
mod timeouts;
#[path = "lifecycle/vanishing.rs"]
mod vanishing;

use pgherd_tests::TestCluster;
use pgherd_tests::configuration::Configuration;

/// `app` needs no password, so that tests can speak for it byte by byte.
const TRUSTED: &str =
    "- { name: app, password: app, trust: [127.0.0.1] }\n- { name: other, password: other }";

/// One server with nothing sharded.
fn unsharded(change: impl FnOnce(&mut Configuration)) -> TestCluster {
    TestCluster::new().shards(1).configure(|configuration| {
        configuration.sharding = String::new();
        configuration.users = TRUSTED.into();
        change(configuration);
    })
}
