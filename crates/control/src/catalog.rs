//! The catalog that routing plans with: read from every shard, compared, published, and read anew when DDL ran.
//!
//! Owns the reading and the version. Clients see the home shard's catalog; of the others it matters how their OIDs
//! translate and whether their tables agree. Never changes a server. Main types: [`CatalogReloader`] for who ran DDL,
//! `CatalogKeeper` for the task.
//!
//! DDL that did not come through this proxy is noticed by a digest of the system catalogs, asked once a second.

mod digest;
pub(crate) mod read;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pgherd_topology::catalog::reading::{Assembly, Reading, compared};
use pgherd_topology::{Catalog, Relation, ShardId, Sharding, Topology};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::ControlError;
use crate::servers::Servers;
use crate::settings::Pace;
use digest::{Digest, Seen};

/// How long a reload may take before the one who waits is told that it failed.
const RELOAD_BOUND: Duration = Duration::from_secs(5);

/// As long as the patience of the one who waits; a later answer would reach nobody.
const READ_BOUND: Duration = RELOAD_BOUND;

/// Requests that wait for the next reading; all of them are answered by one.
const REQUESTS: usize = 256;

/// Asks for the catalog to be read anew. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CatalogReloader {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    /// Tell me when a reading that began after this is published.
    Await(oneshot::Sender<Result<(), String>>),
    /// Read as soon as you can.
    Nudge,
}

impl CatalogReloader {
    /// Waits until a catalog is published whose reading began after this call: it holds whatever was committed before.
    /// Calls at the same time share a reading. Takes some 10 ms on a small schema. Cancel-safe.
    ///
    /// # Errors
    /// [`ControlError::Reload`] where a shard could not be read, or not within 5 s; the catalog in force is then the
    /// one before, as far as that shard goes. [`ControlError::Stopped`].
    pub async fn reload(&self) -> Result<(), ControlError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests
                .send(Request::Await(answer))
                .await
                .map_err(|_| ControlError::Stopped)?;
            match answered.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(reason)) => Err(ControlError::Reload(reason)),
                Err(_) => Err(ControlError::Stopped),
            }
        };
        match timeout(RELOAD_BOUND, asked).await {
            Ok(result) => result,
            Err(_) => Err(ControlError::Reload(format!(
                "no shard's catalog was read within {RELOAD_BOUND:?}"
            ))),
        }
    }

    /// Has it read anew without waiting.
    pub fn nudge(&self) {
        // A full channel means that a reading is due anyway.
        let _ = self.requests.try_send(Request::Nudge);
    }
}

/// Keeps one database's catalog.
pub(crate) struct CatalogKeeper {
    servers: Servers,
    topology: watch::Receiver<Arc<Topology>>,
    sharding: Arc<ArcSwap<Sharding>>,
    pace: Pace,
    catalog: watch::Sender<Arc<Catalog>>,
    requests: mpsc::Receiver<Request>,
    shards: Vec<Kept>,
    assembled_under: Arc<Sharding>,
}

/// What is known of one shard.
#[derive(Debug, Default)]
struct Kept {
    reading: Option<Arc<Reading>>,
    digest: Option<Digest>,
}

/// Which shards are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Something,
}

impl CatalogKeeper {
    pub(crate) fn new(
        servers: Servers,
        topology: watch::Receiver<Arc<Topology>>,
        sharding: Arc<ArcSwap<Sharding>>,
        pace: Pace,
    ) -> (Self, watch::Receiver<Arc<Catalog>>, CatalogReloader) {
        let shards = topology
            .borrow()
            .shards
            .iter()
            .map(|_| Kept::default())
            .collect();
        let (catalog, published) = watch::channel(Arc::new(Catalog::empty()));
        let (requester, requests) = mpsc::channel(REQUESTS);
        let assembled_under = sharding.load_full();
        let keeper = Self {
            servers,
            topology,
            sharding,
            pace,
            catalog,
            requests,
            shards,
            assembled_under,
        };
        (
            keeper,
            published,
            CatalogReloader {
                requests: requester,
            },
        )
    }

    /// Ends when nobody can ask any more, or by being aborted.
    pub(crate) async fn run(mut self) {
        let mut waiting: Vec<oneshot::Sender<Result<(), String>>> = Vec::new();
        let mut due = Due::Something;
        loop {
            if due == Due::Something {
                let result = self.read_all().await;
                if let Err(reason) = &result {
                    tracing::debug!(%reason, "the catalog is incomplete");
                }
                for waiter in waiting.drain(..) {
                    // nobody waits any more: fine
                    let _ = waiter.send(result.clone());
                }
            }
            let pause = sleep_until(Instant::now() + self.pace.digest);
            due = tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => {
                        self.gather(request, &mut waiting);
                        Due::Something
                    }
                    None => return,
                },
                () = pause => self.poll_digests().await,
            };
        }
    }

    /// Everybody who asks before a reading begins is answered by it.
    fn gather(&mut self, first: Request, waiting: &mut Vec<oneshot::Sender<Result<(), String>>>) {
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Await(waiter) => waiting.push(waiter),
                Request::Nudge => {}
            }
            next = self.requests.try_recv().ok();
        }
    }

    /// Whether some shard's catalogs differ from what was read, or were never read, or the rules are other ones.
    async fn poll_digests(&mut self) -> Due {
        // other rules have other tables compared
        if !Arc::ptr_eq(&self.assembled_under, &self.sharding.load_full()) {
            return Due::Something;
        }
        let topology = Arc::clone(&self.topology.borrow());
        let mut due = Due::Nothing;
        for shard in crate::control::shard_ids(&topology) {
            let Some(kept) = self.shards.get_mut(shard.index()) else {
                continue;
            };
            let Ok((server, _)) = self.servers.primary(&topology, shard) else {
                continue;
            };
            match digest::ask(server, kept.digest.as_ref()).await {
                Ok(Seen::Still) => {}
                Ok(Seen::Now(digest)) => match &mut kept.digest {
                    Some(last) if last.agrees(&digest) => *last = digest,
                    Some(_) | None => due = Due::Something,
                },
                Err(error) => tracing::debug!(%error, "cannot ask for the catalog's digest"),
            }
        }
        due
    }

    /// Reads every shard that has a primary, and publishes what is new. An error names the shards that could not be read.
    async fn read_all(&mut self) -> Result<(), String> {
        let topology = Arc::clone(&self.topology.borrow());
        let sharding = self.sharding.load_full();
        // A set, so that the readings end with this task.
        let mut readings = JoinSet::new();
        for shard in crate::control::shard_ids(&topology) {
            let (servers, topology) = (self.servers.clone(), Arc::clone(&topology));
            let sharding = Arc::clone(&sharding);
            readings.spawn(async move {
                (shard, read_one(&servers, &topology, &sharding, shard).await)
            });
        }
        let mut failures = Vec::new();
        let mut news = !Arc::ptr_eq(&self.assembled_under, &sharding);
        while let Some(reading) = readings.join_next().await {
            match reading {
                Ok((shard, Ok((reading, digest)))) => {
                    if let Some(kept) = self.shards.get_mut(shard.index()) {
                        kept.digest = Some(digest);
                        if kept.reading.as_deref() != Some(&reading) {
                            kept.reading = Some(Arc::new(reading));
                            news = true;
                        }
                    }
                }
                Ok((shard, Err(error))) => failures.push((shard, error.to_string())),
                Err(panicked) => return Err(panicked.to_string()),
            }
        }
        // The same catalog under another version would only make every plan be made anew.
        if news {
            self.publish(&sharding);
            self.assembled_under = sharding;
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures
                .into_iter()
                .map(|(_, error)| error)
                .collect::<Vec<_>>()
                .join("; ")),
        }
    }

    fn publish(&self, sharding: &Sharding) {
        let last = Arc::clone(&self.catalog.borrow());
        let version = last.version() + 1;
        let assembly = Assembly {
            readings: self
                .shards
                .iter()
                .map(|kept| kept.reading.clone())
                .collect(),
            sharding,
            version,
        };
        let Some(catalog) = assembly.catalog() else {
            return;
        };
        let new_drift = |relation: &&Relation| {
            relation.drifted
                && !last
                    .relation(&relation.name)
                    .is_some_and(|before| before.drifted)
        };
        for relation in catalog.relations().filter(new_drift) {
            tracing::warn!(relation = %relation.name, "the shards disagree on a relation: statements on it are refused until they agree");
        }
        tracing::debug!(version, "catalog read");
        self.catalog.send_replace(Arc::new(catalog));
    }
}

async fn read_one(
    servers: &Servers,
    topology: &Topology,
    sharding: &Sharding,
    shard: ShardId,
) -> Result<(Reading, Digest), ControlError> {
    let (server, _) = servers.primary(topology, shard)?;
    // Before the reading: DDL in between is then seen by the next poll.
    let digest = match digest::ask(server, None).await? {
        Seen::Now(digest) => digest,
        Seen::Still => Digest::default(),
    };
    let reading = read::read(server, &compared(sharding), READ_BOUND).await?;
    Ok((reading, digest))
}
