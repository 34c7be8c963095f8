//! A primary is replaced, and nothing that was acknowledged is lost: on real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_control::{
    Control, ControlSettings, FailoverCommand, FailoverMode, FailoverSettings, MemoryStore, Reign,
    State, SyncSettings,
};
use pgherd_topology::{NodeId, ShardId, Sharding, Topology};
use support::{TestServer, ready, settings, until};
use tokio::sync::mpsc;
use tokio_postgres::NoTls;

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
            let port = self.servers[server].port;
            let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
            let write = async {
                let (late, connection) = tokio_postgres::connect(&address, NoTls).await?;
                tokio::spawn(connection);
                late.batch_execute("INSERT INTO t VALUES (3)").await
            };
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

/// The same shard under another state store, as after a loss or a restored copy.
async fn with_store(shard: &Shard, state: State) -> (Control, Arc<State>) {
    let state = Arc::new(state);
    let settings = ControlSettings {
        state: Arc::clone(&state),
        ..shard.settings.clone()
    };
    (Control::start(settings), state)
}

fn empty() -> State {
    State::load_or_create(Box::new(MemoryStore::default()))
        .unwrap()
        .0
}

/// Long enough that anything wrong would have been published.
async fn nobody_reigns(control: &Control) {
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(control.topology().borrow().shards[0].primary, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_or_with_an_old_one_a_deposed_primary_is_not_believed() {
    let shard = shard().await;
    let first = shard.state().reign("shop", "s0").unwrap();
    shard.servers[0].sql("CREATE TABLE t (n int)").await;
    shard.servers[0].stop("immediate");
    let changed = |topology: &Topology| {
        topology.shards[0]
            .primary
            .is_some_and(|primary| primary != NodeId(0))
    };
    until(&shard.control, "another primary", changed).await;
    shard.acknowledged().await;
    shard.control.shutdown().await;
    let now = shard.state().reign("shop", "s0").unwrap();
    // nobody fences it, as no pgherd runs
    shard.servers[0].boot();

    // the store is gone: two servers take writes
    let (control, state) = with_store(&shard, empty()).await;
    nobody_reigns(&control).await;
    assert_eq!(state.reign("shop", "s0"), None);
    control.shutdown().await;

    // an old one knows the deposed primary alone
    let old = empty();
    old.set_reign("shop", "s0", first).unwrap();
    let (control, state) = with_store(&shard, old).await;
    nobody_reigns(&control).await;
    let (progress, _told) = mpsc::unbounded_channel();
    let adopt = FailoverCommand::Adopt {
        primary: now.primary.as_str().into(),
    };
    let adopted = control.order(SHARD, adopt, progress).await.unwrap();
    assert!(adopted.contains(&now.primary), "{adopted}");
    until(&control, "the adopted one", changed).await;
    let again: Reign = state.reign("shop", "s0").unwrap();
    assert_eq!((&again.primary, again.timeline), (&now.primary, 2));
    assert!(again.epoch > now.epoch, "{again:?} after {now:?}");
    // it is written to, and the other one is not
    let new = usize::from(again.primary.as_bytes()[2] - b'a');
    shard.servers[new].sql("INSERT INTO t VALUES (2)").await;
    shard.is_fenced(0).await;

    // somebody else promotes a standby: it is no primary here, until an operator says so
    let third = 3 - new;
    shard.servers[third].promote();
    let (progress, _told) = mpsc::unbounded_channel();
    shard.is_fenced(third).await;
    let primary = again
        .primary
        .replace(['b', 'c'], if third == 1 { "b" } else { "c" });
    shard.servers[new].stop("immediate");
    let adopt = FailoverCommand::Adopt {
        primary: primary.as_str().into(),
    };
    println!("{:?}", control.order(SHARD, adopt, progress).await.unwrap());
    let node = NodeId(u16::try_from(third).unwrap());
    let wanted = |topology: &Topology| topology.shards[0].primary == Some(node);
    until(&control, "the one promoted by hand", wanted).await;
    let begun = Instant::now();
    loop {
        let names = shard.servers[third]
            .value("current_setting('synchronous_standby_names')")
            .await
            .unwrap();
        if names.contains("_e") && !names.contains("fenced") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{names}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_interrupted_at_any_moment_goes_on_where_it_was() {
    for pause in [0, 60, 120, 180, 240] {
        let shard = shard().await;
        shard.servers[0].sql("CREATE TABLE t (n int)").await;
        shard.servers[0].sql("INSERT INTO t VALUES (1)").await;
        shard.servers[0].stop("immediate");
        let begun = |topology: &Topology| topology.shards[0].primary.is_none();
        until(&shard.control, "the beginning", begun).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        shard.control.shutdown().await;
        let phase = shard.state().shard("shop", "s0").unwrap();
        let phase = phase.change.map(|change| change.phase);
        println!("interrupted after {pause} ms: {phase:?}");
        let control = ready(shard.settings.clone()).await;
        let topology = control.topology().borrow().clone();
        let primary = topology.shards[0].primary.unwrap();
        assert_ne!(primary, NodeId(0));
        let new = &shard.servers[primary.index()];
        assert_eq!(new.value("SELECT n FROM t").await.as_deref(), Some("1"));
        new.sql("INSERT INTO t VALUES (2)").await;
        let record = shard.state().shard("shop", "s0").unwrap();
        assert!(record.change.is_none(), "{record:?}");
        control.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_new_primary_alone_may_have_is_not_given_up_with_it() {
    let shard = shard().await;
    // the one that will be promoted lets no standby in
    let access = shard.servers[1].value("current_setting('hba_file')").await;
    let access = access.unwrap();
    let rest = std::fs::read_to_string(&access).unwrap();
    let refusing = format!("host replication all all reject\n{rest}");
    std::fs::write(&access, refusing).unwrap();
    shard.servers[1].sql("SELECT pg_reload_conf()").await;
    shard.servers[0].sql("CREATE TABLE t (n int)").await;
    shard.servers[0].stop("immediate");
    shard.reigns(1).await;
    let record = shard.state().shard("shop", "s0").unwrap();
    assert!(!record.sync.unwrap().before.is_empty());

    // the other standby is reached, and may lack what only that one has acknowledged
    shard.servers[1].stop("immediate");
    let begun = Instant::now();
    loop {
        let events = {
            let topology = shard.control.topology();
            let topology = topology.borrow();
            topology.shards[0].chronicle.events()
        };
        let refused =
            |text: &str| text.starts_with("s0b is dead") && text.contains("could be lost");
        if events.iter().any(|event| refused(&event.text)) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        shard.control.topology().borrow().shards[0].primary,
        Some(NodeId(1))
    );
    std::fs::write(&access, rest).unwrap();
    shard.servers[1].boot();
    shard.acknowledged().await;
    shard.servers[1].sql("INSERT INTO t VALUES (1)").await;
}
