//! A primary is replaced, and nothing that was acknowledged is lost: on real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_control::{
    Control, ControlSettings, FailoverCommand, FailoverMode, FailoverSettings, State, SyncSettings,
};
use pgherd_topology::{NodeId, ShardId, Sharding, Topology};
use support::{TestServer, ready, settings, until};
use tokio::sync::mpsc;

const SHARD: ShardId = ShardId(0);
/// Long enough for anything that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

struct Shard {
    servers: Vec<TestServer>,
    control: Control,
    settings: ControlSettings,
}

/// A primary with two standbys, whose commits one of them acknowledges.
async fn shard() -> Shard {
    shard_with(|_| {}).await
}

async fn shard_with(configure: impl FnOnce(&mut FailoverSettings)) -> Shard {
    let primary = TestServer::with("fsync = on\nwal_log_hints = on\nwal_keep_size = 128MB");
    let mut servers = vec![primary];
    for name in ["b", "c"] {
        let replica = servers[0].replica_with(&format!("fsync = on\ncluster_name = 'node-{name}'"));
        servers.push(replica);
    }
    let of_shard: Vec<&TestServer> = servers.iter().collect();
    let mut settings = settings(&[&of_shard], Sharding::unsharded("s0"));
    settings.failover = FailoverSettings {
        mode: FailoverMode::Promote,
        sync: Some(SyncSettings::default()),
        ..FailoverSettings::default()
    };
    configure(&mut settings.failover);
    let control = ready(settings.clone()).await;
    let shard = Shard {
        servers,
        control,
        settings,
    };
    if shard.settings.failover.sync.is_some() {
        shard.acknowledged().await;
    }
    shard
}

impl Shard {
    fn state(&self) -> &State {
        &self.settings.state
    }

    /// Waits until commits wait for a standby of this epoch, and nothing else is to be done.
    async fn acknowledged(&self) {
        let begun = Instant::now();
        loop {
            let record = self.state().shard("shop", "s0").unwrap();
            let tag = format!("_e{}", record.epoch);
            if record.change.is_none()
                && let Some(sync) = &record.sync
                && sync.before.is_empty()
                && sync.new.names.len() == 2 - record.quarantine.len()
                && sync.new.names.iter().all(|name| name.ends_with(&tag))
            {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{record:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn reigns(&self, server: usize) {
        let node = NodeId(u16::try_from(server).unwrap());
        let wanted = |topology: &Topology| topology.shards[0].primary == Some(node);
        let took = until(&self.control, "another primary", wanted).await;
        println!("another primary after {took:?}");
    }

    async fn order(&self, command: FailoverCommand) -> Result<String, String> {
        let (progress, mut told) = mpsc::unbounded_channel();
        let done = self.control.order(SHARD, command, progress).await;
        while let Ok(text) = told.try_recv() {
            println!("  {text}");
        }
        done.map_err(|error| error.to_string())
    }

    /// Waits until a server refuses a write of somebody who connects to it around pgherd.
    async fn is_fenced(&self, server: usize) {
        let begun = Instant::now();
        loop {
            let late = self.servers[server].connect().await;
            let write = late.batch_execute("INSERT INTO t VALUES (3)");
            // the session may be ended just now, or wait for an acknowledgement that nobody gives
            let written = tokio::time::timeout(Duration::from_secs(1), write).await;
            let refused = written
                .ok()
                .and_then(|written| written.err()?.code().cloned());
            if refused.as_ref().map(|code| code.code()) == Some("25006") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{refused:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn epoch(&self) -> u64 {
        self.state().shard("shop", "s0").unwrap().epoch
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_replaced_and_what_was_acknowledged_is_there() {
    let shard = shard().await;
    shard.servers[0].sql("CREATE TABLE t (n int)").await;
    shard.servers[0].sql("INSERT INTO t VALUES (1)").await;
    let before = shard.epoch();
    shard.servers[0].stop("immediate");
    let changed = |topology: &Topology| {
        topology.shards[0]
            .primary
            .is_some_and(|primary| primary != NodeId(0))
    };
    let took = until(&shard.control, "another primary", changed).await;
    println!("another primary after {took:?}");
    let primary = shard.control.topology().borrow().shards[0].primary.unwrap();
    let new = &shard.servers[primary.index()];
    assert_eq!(new.value("SELECT n FROM t").await.as_deref(), Some("1"));
    // the other standby acknowledges
    new.sql("INSERT INTO t VALUES (2)").await;
    assert_eq!(
        new.value("SELECT epoch FROM pgherd.reign").await,
        Some((before + 1).to_string())
    );
    shard.acknowledged().await;
    let record = shard.state().shard("shop", "s0").unwrap();
    assert!(record.quarantine.contains_key("s0a"), "{record:?}");
    let steps: Vec<_> = record.history[0].steps.clone();
    println!("{steps:#?}");
    assert_eq!(record.horizons.len(), 1);

    // it comes back, and takes no writes
    shard.servers[0].boot();
    shard.is_fenced(0).await;
    shard.reigns(primary.index()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_change_loses_nothing_and_the_old_primary_takes_no_more_writes() {
    let shard = shard().await;
    shard.servers[0].sql("CREATE TABLE t (n int)").await;
    let to = Some("s0c".into());
    let done = shard.order(FailoverCommand::Switchover { to }).await;
    println!("{done:?}");
    assert!(done.unwrap().starts_with("s0c is the primary"));
    shard.reigns(2).await;
    shard.servers[2].sql("INSERT INTO t VALUES (1)").await;
    shard.is_fenced(0).await;
    let again = shard
        .order(FailoverCommand::Failover {
            to: None,
            force: false,
        })
        .await;
    assert!(again.unwrap_err().contains("SWITCHOVER"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_promoted_while_one_that_may_have_acknowledged_is_not_reached() {
    let shard = shard().await;
    shard.servers[0].sql("CREATE TABLE t (n int)").await;
    shard.servers[1].stop("immediate");
    shard.servers[0].signal("KILL");
    let begun = Instant::now();
    loop {
        let events = {
            let topology = shard.control.topology();
            let topology = topology.borrow();
            topology.shards[0].chronicle.events()
        };
        if let Some(refusal) = events.iter().find(|event| event.kind == "refusal") {
            assert!(refusal.text.contains("could be lost"), "{refusal:?}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        shard.control.topology().borrow().shards[0].primary,
        Some(NodeId(0))
    );
    // once it is back there is no doubt
    shard.servers[1].boot();
    let changed = |topology: &Topology| {
        topology.shards[0]
            .primary
            .is_some_and(|primary| primary != NodeId(0))
    };
    until(&shard.control, "another primary", changed).await;
    let state = Arc::clone(&shard.settings.state);
    assert!(state.shard("shop", "s0").unwrap().change.is_none());
}
