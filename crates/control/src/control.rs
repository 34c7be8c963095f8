//! One database's control plane from start to end.
//!
//! Owns the tasks and what they publish. Never on a client's path. Main type: [`Control`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pgherd_topology::{Catalog, Health, ShardId, Sharding, Topology};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::catalog::{CatalogKeeper, CatalogReloader};
use crate::commit_log::CommitLogKeeper;
use crate::error::ControlError;
use crate::failover::coordinator::{Coordinator, Desk, FailoverCommand};
use crate::health::Watcher;
use crate::heartbeat::Heart;
use crate::monitor::Monitor;
use crate::recovery::Recovery;
use crate::sampler::Sampler;
use crate::servers::Servers;
use crate::settings::{ControlSettings, FailoverMode};

/// Reports wait in a channel of this length; watchers wait where it is full.
const REPORTS: usize = 64;

/// Whether transactions are committed over shards, for which the servers keep a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commits {
    OverShards,
    Plain,
}

/// The handle on one database's control plane. Dropping it ends the tasks, [`Control::shutdown`] also awaits them.
#[derive(Debug)]
pub struct Control {
    topology: watch::Receiver<Arc<Topology>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    reloader: CatalogReloader,
    sharding: Arc<ArcSwap<Sharding>>,
    servers: Servers,
    /// By shard; none where others promote.
    desks: Vec<Desk>,
    tasks: Mutex<JoinSet<()>>,
}

impl Control {
    /// Starts the tasks and returns at once; see [`Control::wait_ready`]. Must be called within a tokio runtime. Servers that do not answer
    /// are waited for.
    pub fn start(settings: ControlSettings) -> Self {
        Self::start_with(&settings, Commits::OverShards)
    }

    /// The same for servers on which nothing is ever committed over shards: nothing is written there.
    pub fn start_plain(settings: &ControlSettings) -> Self {
        Self::start_with(settings, Commits::Plain)
    }

    fn start_with(settings: &ControlSettings, commits: Commits) -> Self {
        let servers = Servers::new(settings);
        let sharding = Arc::new(ArcSwap::new(Arc::clone(&settings.sharding)));
        let (monitor, topology) = Monitor::new(settings);
        let (report, reports) = mpsc::channel(REPORTS);
        let (report_log, log_reports) = mpsc::channel(REPORTS);
        let mut tasks = JoinSet::new();
        let mut desks = Vec::new();
        if settings.failover.mode == FailoverMode::Promote {
            for shard in settings.sharding.shard_ids().take(settings.shards.len()) {
                let (desk, taken) = Desk::new();
                let of_shard = || {
                    let all = servers.iter();
                    all.filter(move |server| server.shard == shard).cloned()
                };
                let name = settings.shards[shard.index()].name.clone();
                if let Some(beats) = monitor.beats(shard) {
                    let heart = Heart::new((shard, name), of_shard(), topology.clone(), beats);
                    tasks.spawn(heart.run());
                }
                let coordinator = monitor.view(shard).and_then(|view| {
                    Coordinator::new(settings, shard, of_shard(), topology.clone(), view, taken)
                });
                if let Some(coordinator) = coordinator {
                    tasks.spawn(coordinator.run());
                }
                desks.push(desk);
            }
        }
        tasks.spawn(monitor.run(reports, log_reports));
        for server in servers.iter() {
            tasks.spawn(Watcher::new(Arc::clone(server), settings.pace, report.clone()).run());
            let sampler = Sampler::new(Arc::clone(server), topology.clone(), settings.pace.sample);
            if let Some(sampler) = sampler {
                tasks.spawn(sampler.run());
            }
        }
        if commits == Commits::OverShards {
            for shard in settings.sharding.shard_ids().take(settings.shards.len()) {
                let (servers, topology) = (servers.clone(), topology.clone());
                let keeper = CommitLogKeeper::new(shard, servers, topology, report_log.clone());
                tasks.spawn(keeper.run());
            }
            tasks.spawn(Recovery::new(settings, servers.clone(), topology.clone()).run());
        }
        Self {
            desks,
            ..Self::keep_catalog(settings, servers, sharding, topology, tasks)
        }
    }

    /// For another database on servers that another control plane watches, whose topology this is: its catalog is read and followed, and nothing
    /// else is done. Must be called within a tokio runtime.
    pub fn follow_catalog(
        settings: &ControlSettings,
        topology: watch::Receiver<Arc<Topology>>,
    ) -> Self {
        let servers = Servers::new(settings);
        let sharding = Arc::new(ArcSwap::new(Arc::clone(&settings.sharding)));
        Self::keep_catalog(settings, servers, sharding, topology, JoinSet::new())
    }

    /// With what keeps the catalog beside the tasks that run already.
    fn keep_catalog(
        settings: &ControlSettings,
        servers: Servers,
        sharding: Arc<ArcSwap<Sharding>>,
        topology: watch::Receiver<Arc<Topology>>,
        mut tasks: JoinSet<()>,
    ) -> Self {
        let (keeper, catalog, reloader) = CatalogKeeper::new(
            servers.clone(),
            topology.clone(),
            Arc::clone(&sharding),
            settings.pace,
        );
        tasks.spawn(keeper.run());
        Self {
            topology,
            catalog,
            reloader,
            sharding,
            servers,
            desks: Vec::new(),
            tasks: Mutex::new(tasks),
        }
    }

    /// Has a shard's primary changed, or one of its servers taken in or out; what came of it, in words. How far it has come goes to `progress`. A
    /// call that is dropped is carried out all the same.
    ///
    /// # Errors
    /// [`ControlError::NotNow`] where it is not possible as things are, or others promote here; what else is in the way.
    pub async fn order(
        &self,
        shard: ShardId,
        command: FailoverCommand,
        progress: mpsc::UnboundedSender<String>,
    ) -> Result<String, ControlError> {
        let desk = self.desks.get(shard.index()).ok_or_else(|| {
            ControlError::NotNow(
                "pgherd does not promote here: failover.mode is observe".to_owned(),
            )
        })?;
        desk.order(command, progress).await
    }

    /// Who is what now, newest first. A session takes one snapshot per transaction.
    pub fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.clone()
    }

    /// What is in the database. [`Catalog::empty`], of version 0, until the first one was read.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// To have the catalog read anew, as after DDL.
    pub fn reloader(&self) -> CatalogReloader {
        self.reloader.clone()
    }

    /// Replaces the rules of which table should be where, after a change of configuration; the catalog is compared
    /// anew under them. The shards must be the same.
    pub fn replace_sharding(&self, sharding: Arc<Sharding>) {
        self.sharding.store(sharding);
        self.reloader.nudge();
    }

    /// Waits until every shard has a primary that answers, and a first catalog is there. Cancel-safe.
    ///
    /// # Errors
    /// [`ControlError::NotReady`] with what is missing after `patience`; [`ControlError::Stopped`].
    pub async fn wait_ready(&self, patience: Duration) -> Result<(), ControlError> {
        let deadline = Instant::now() + patience;
        let (mut topology, mut catalog) = (self.topology(), self.catalog());
        loop {
            let missing = missing(&topology.borrow_and_update(), &catalog.borrow_and_update());
            let Some(missing) = missing else {
                return Ok(());
            };
            let change = async {
                tokio::select! {
                    changed = topology.changed() => changed,
                    changed = catalog.changed() => changed,
                }
            };
            match timeout_at(deadline, change).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ControlError::Stopped),
                Err(_) => {
                    return Err(ControlError::NotReady {
                        after: patience,
                        missing,
                    });
                }
            }
        }
    }

    /// Ends every task and its connections, and waits until they have ended. What recovery was in the middle of is
    /// taken up again at the next start.
    pub async fn shutdown(&self) {
        self.servers.close();
        self.tasks.lock().await.shutdown().await;
    }
}

fn missing(topology: &Topology, catalog: &Catalog) -> Option<String> {
    let without_primary: Vec<&str> = topology
        .shards
        .iter()
        .filter(|shard| {
            !shard
                .primary()
                .is_some_and(|primary| primary.health == Health::Up)
        })
        .map(|shard| &*shard.name)
        .collect();
    match (without_primary.is_empty(), catalog.version()) {
        (false, _) => Some(format!(
            "no primary answers for shard {}",
            without_primary.join(", ")
        )),
        (true, 0) => Some("the catalog was not read yet".to_owned()),
        (true, _) => None,
    }
}

/// The ids of the shards of a topology, in order.
pub(crate) fn shard_ids(topology: &Topology) -> impl Iterator<Item = ShardId> {
    topology.shards.iter().map(|shard| shard.id)
}
