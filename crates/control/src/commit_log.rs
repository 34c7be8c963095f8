//! The commit log on each shard's primary: installed once, looked at again whenever the primary changes.
//!
//! Owns the installation and the verdict on whether a shard can take part in a commit over shards. Never writes rows:
//! sessions and recovery do ([`pgherd_topology::commit_protocol`]). Main type: [`CommitLogKeeper`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::commit_protocol::{CommitSecret, INSTALL, PROTOCOL_VERSION, TransactionName};
use pgherd_topology::commit_protocol::{HerdId, ProxyId};
use pgherd_topology::{ShardId, Topology, TwoPhase};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use crate::error::ControlError;
use crate::login::Server;
use crate::monitor::TwoPhaseReport;
use crate::servers::Servers;

/// What is there already, and whether only trusted hands can change it: a table or function that belongs to somebody
/// else could say anything about the outcome of others' transactions.
const EXAMINE: &str = "SELECT coalesce(obj_description(n.oid, 'pg_namespace'), ''), \
     ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE NOT r.rolsuper AND r.rolname <> current_user AND r.oid IN \
        (SELECT n.nspowner UNION SELECT relowner FROM pg_class WHERE relnamespace = n.oid \
         UNION SELECT proowner FROM pg_proc WHERE pronamespace = n.oid)), \
     coalesce(has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT') \
         AND has_table_privilege(t.oid, 'DELETE'), false) \
     FROM pg_namespace n LEFT JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = 'commit_log' \
     WHERE n.nspname = 'pgherd'";

/// Two installers at once would both fail on half-made objects. The number is arbitrary, and ours alone in this database.
const INSTALLATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7162304417)";

/// Between two attempts where the server did not let us look.
const RETRY: Duration = Duration::from_secs(2);

/// Between two attempts where an operator has to do something first.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// Looks after one shard's commit log.
pub(crate) struct CommitLogKeeper {
    shard: ShardId,
    servers: Servers,
    topology: watch::Receiver<Arc<Topology>>,
    reports: mpsc::Sender<TwoPhaseReport>,
}

impl CommitLogKeeper {
    pub(crate) fn new(
        shard: ShardId,
        servers: Servers,
        topology: watch::Receiver<Arc<Topology>>,
        reports: mpsc::Sender<TwoPhaseReport>,
    ) -> Self {
        Self {
            shard,
            servers,
            topology,
            reports,
        }
    }

    /// Ends when the topology is no longer published, or by being aborted.
    pub(crate) async fn run(mut self) {
        let mut said: Option<TwoPhase> = None;
        loop {
            let topology = Arc::clone(&self.topology.borrow_and_update());
            let pause = match self.look(&topology).await {
                None => None,
                Some(Ok(found)) => {
                    self.tell(&topology, &found, &mut said);
                    let pause = match found {
                        TwoPhase::Ready | TwoPhase::Unknown => None,
                        TwoPhase::Impossible(_) => Some(REFUSED_RETRY),
                    };
                    if self
                        .reports
                        .send(TwoPhaseReport {
                            shard: self.shard,
                            two_phase: found,
                        })
                        .await
                        .is_err()
                    {
                        return;
                    }
                    pause
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot look at the commit log");
                    sleep(RETRY).await;
                    continue;
                }
            };
            if !self.wait(pause).await {
                return;
            }
        }
    }

    /// `None` where there is nothing to do now.
    async fn look(&self, topology: &Topology) -> Option<Result<TwoPhase, ControlError>> {
        let state = topology.shard(self.shard)?;
        match state.two_phase {
            TwoPhase::Ready => return None,
            TwoPhase::Unknown | TwoPhase::Impossible(_) => {}
        }
        let (server, _) = self.servers.primary(topology, self.shard).ok()?;
        if state.max_prepared_transactions == Some(0) {
            let reason = format!(
                "max_prepared_transactions is 0 on server {}: set it to at least max_connections on every server of the shard and restart them",
                server.name
            );
            return Some(Ok(TwoPhase::Impossible(reason.into())));
        }
        if let Err(error) = nameable(&state.name) {
            return Some(Ok(TwoPhase::Impossible(error.into())));
        }
        Some(install(server).await)
    }

    fn tell(&self, topology: &Topology, found: &TwoPhase, said: &mut Option<TwoPhase>) {
        if said.as_ref() == Some(found) {
            return;
        }
        let shard = topology.shard(self.shard).map_or("", |state| &*state.name);
        match found {
            TwoPhase::Ready => tracing::info!(shard, "commits over shards are possible"),
            TwoPhase::Impossible(reason) => {
                tracing::error!(shard, %reason, "DDL and writes that need two-phase commit are refused");
            }
            TwoPhase::Unknown => {}
        }
        *said = Some(found.clone());
    }

    /// False once nothing is published any more.
    async fn wait(&mut self, pause: Option<Duration>) -> bool {
        match pause {
            None => loop {
                // The lag in it changes all the time; only another primary or a fresh start matters here.
                if self.topology.changed().await.is_err() {
                    return false;
                }
                let topology = self.topology.borrow();
                if topology
                    .shard(self.shard)
                    .is_some_and(|state| state.two_phase == TwoPhase::Unknown)
                {
                    return true;
                }
            },
            Some(pause) => {
                let _ = timeout(pause, async {
                    while self.topology.changed().await.is_ok() {
                        let topology = self.topology.borrow();
                        if topology
                            .shard(self.shard)
                            .is_some_and(|state| state.two_phase == TwoPhase::Unknown)
                        {
                            break;
                        }
                    }
                })
                .await;
                self.topology.has_changed().is_ok()
            }
        }
    }
}

/// Whether gids can bear the shard's name.
fn nameable(shard: &str) -> Result<(), String> {
    let secret = CommitSecret::from_random([0; 32]);
    TransactionName::new(HerdId(0), ProxyId(0), &secret, shard)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Installs what is missing on one primary. Idempotent, and safe against another installer at the same time.
async fn install(server: &Server) -> Result<TwoPhase, ControlError> {
    const ACTION: &str = "install the commit log";
    let mut lease = server.lease().await?;
    let bound = server.patience() * 3;
    let result = server
        .within(bound, ACTION, async {
            if let Some(found) = examine(&lease).await? {
                return Ok(found);
            }
            let transaction = lease.transaction().await?;
            transaction.batch_execute(INSTALLATION_LOCK).await?;
            transaction.batch_execute(INSTALL).await?;
            transaction.commit().await?;
            Ok(examine(&lease).await?.unwrap_or(TwoPhase::Unknown))
        })
        .await;
    match result {
        Ok(found) => {
            lease.give_back();
            Ok(found)
        }
        Err(error) if error.sql_state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(TwoPhase::Impossible(
            format!("the control login may not create the schema pgherd: {error}; grant it CREATE on the database").into(),
        )),
        Err(error) => Err(error),
    }
}

/// `None` where something is missing that may be installed.
async fn examine(
    client: &tokio_postgres::Client,
) -> Result<Option<TwoPhase>, tokio_postgres::Error> {
    let Some(row) = client.query_opt(EXAMINE, &[]).await? else {
        return Ok(None);
    };
    let (version, strangers, granted): (String, Vec<String>, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if !strangers.is_empty() {
        let reason = format!(
            "objects in the schema pgherd belong to {}, who could decide on others' transactions: give them to the control login or a superuser",
            strangers.join(", ")
        );
        return Ok(Some(TwoPhase::Impossible(reason.into())));
    }
    if version != PROTOCOL_VERSION {
        return Ok(None);
    }
    Ok(Some(if granted {
        TwoPhase::Ready
    } else {
        TwoPhase::Impossible("the control login may not read and write pgherd.commit_log".into())
    }))
}
