//! Whether a primary counts as dead, who would follow it, and what would be lost: seen on real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_control::{Control, Reign};
use pgherd_topology::{NodeId, Outlook, Sharding};
use support::{TestServer, ready, settings};

/// Long enough for any verdict that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

struct Shard {
    primary: TestServer,
    replicas: [TestServer; 2],
    control: Control,
}

/// A primary with two replicas, as `synchronous_standby_names` has it.
async fn shard(synchronous: &str) -> Shard {
    let primary = TestServer::start();
    let replicas =
        ["b", "c"].map(|name| primary.replica_with(&format!("cluster_name = 'node-{name}'")));
    primary
        .sql(&format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{synchronous}'"
        ))
        .await;
    primary.sql("SELECT pg_reload_conf()").await;
    let servers = [&primary, &replicas[0], &replicas[1]];
    let control = ready(settings(&[&servers], Sharding::unsharded("s0"))).await;
    Shard {
        primary,
        replicas,
        control,
    }
}

impl Shard {
    fn outlook(&self) -> Option<Arc<Outlook>> {
        self.control.topology().borrow().shards[0].outlook.latest()
    }

    /// Waits until it is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Outlook) -> bool) -> Arc<Outlook> {
        let begun = Instant::now();
        loop {
            let outlook = self.outlook();
            if let Some(outlook) = outlook.as_ref().filter(|outlook| wanted(outlook)) {
                return Arc::clone(outlook);
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "never seen: {what}: {outlook:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_killed_primary_counts_as_dead_and_its_last_word_tells_what_would_be_lost() {
    let shard = shard("ANY 1 (\"node-b\", \"node-c\")").await;
    let well = shard
        .until("all is well", |outlook| {
            &*outlook.verdict == "well" && outlook.safe
        })
        .await;
    assert_eq!(&*well.acknowledged_by, "1 of node-b, node-c");
    assert!(!well.dead);
    let names: Vec<_> = well
        .standbys
        .iter()
        .map(|standby| standby.application_name.as_deref())
        .collect();
    assert_eq!(names, [Some("node-b"), Some("node-c")]);
    assert!(
        well.standbys
            .iter()
            .all(|standby| standby.timeline == Some(1) && standby.reached.is_some())
    );

    // with one standby gone, nobody knows what it alone had acknowledged
    shard.replicas[1].stop("immediate");
    let fewer = shard
        .until("a standby is gone", |outlook| {
            &*outlook.standbys[1].state == "refuses connections"
        })
        .await;
    assert!(!fewer.safe, "{fewer:?}");
    assert_eq!(fewer.candidate, Some(NodeId(1)));
    assert!(fewer.loss.contains("1 more"), "{fewer:?}");
    shard.replicas[1].boot();
    shard
        .until("it is back", |outlook| {
            outlook.safe && &*outlook.verdict == "well"
        })
        .await;

    shard.primary.signal("KILL");
    let dead = shard.until("it is dead", |outlook| outlook.dead).await;
    assert!(
        dead.verdict.starts_with("dead: it refuses connections"),
        "{dead:?}"
    );
    assert!(dead.safe && dead.candidate.is_some(), "{dead:?}");
    shard.control.shutdown().await;
}

#[tokio::test]
async fn a_hung_postmaster_whose_standbys_stream_is_not_dead() {
    let shard = shard("").await;
    let well = shard
        .until("all is well", |outlook| &*outlook.verdict == "well")
        .await;
    assert_eq!(&*well.acknowledged_by, "nobody");
    assert!(
        !well.safe && well.loss.contains("no standby had received"),
        "{well:?}"
    );
    shard.primary.signal("STOP");
    let hung = shard
        .until("nobody is let in", |outlook| {
            outlook.verdict.starts_with("cut off")
        })
        .await;
    assert!(!hung.dead);
    shard.primary.signal("CONT");
    shard
        .until("it is well again", |outlook| &*outlook.verdict == "well")
        .await;
    shard.control.shutdown().await;
}

#[tokio::test]
async fn a_primary_whose_connections_are_all_taken_lives() {
    let shard = shard("ANY 1 (\"node-b\", \"node-c\")").await;
    shard
        .until("all is well", |outlook| &*outlook.verdict == "well")
        .await;
    let mut taken = Vec::new();
    let text = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        shard.primary.port
    );
    while let Ok((client, connection)) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await
    {
        tokio::spawn(connection);
        taken.push(client);
    }
    // who watches it already goes on
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(&*shard.outlook().unwrap().verdict, "well");
    // and who comes anew, knowing it from before, finds it alive
    let [one, other] = &shard.replicas;
    let settings = settings(&[&[&shard.primary, one, other]], Sharding::unsharded("s0"));
    let system_identifier: i64 = taken[0]
        .query_one("SELECT system_identifier FROM pg_control_system()", &[])
        .await
        .unwrap()
        .get(0);
    let reign = Reign {
        epoch: 1,
        primary: "s0a".into(),
        timeline: 1,
        system_identifier: system_identifier.cast_unsigned(),
    };
    settings.state.set_reign("shop", "s0", reign).unwrap();
    let Shard {
        primary,
        replicas,
        control,
    } = shard;
    let shard = Shard {
        primary,
        replicas,
        control: Control::start(settings),
    };
    let full = shard
        .until("it is full", |outlook| outlook.verdict.starts_with("alive"))
        .await;
    assert!(full.verdict.contains("connections are taken"), "{full:?}");
    assert!(!full.dead);
    drop(taken);
    shard
        .until("it is well again", |outlook| &*outlook.verdict == "well")
        .await;
    shard.control.shutdown().await;
    control.shutdown().await;
}
