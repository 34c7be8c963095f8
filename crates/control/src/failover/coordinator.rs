//! Changing a shard's primary, and looking after the shard between changes.
//!
//! Owns what is done, in which order, and that each step stands in the state store before it is taken, so that a pgherd that starts anew goes on where
//! the last one ended. Never decides whether a primary is dead (`verdict`) or what would be lost (`candidate`). Main type: [`Coordinator`].
//!
//! # Layout
//! - `change`: the steps of a change of primary; `revoking`: those that can be undone. `judgement`: whom to promote, and whether that may be done.
//! - `upkeep`: between changes: standbys follow, deposed primaries are fenced. `acknowledging`: who acknowledges commits.
//! - `orders`: what operators ask for; `rejoining`: of a deposed server. `report`: what they are told.

mod acknowledging;
mod change;
mod judgement;
mod orders;
mod rejoining;
mod report;
mod revoking;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgherd_topology::{Address, Chronicle, ShardId, ShardState, Topology};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use orders::FailoverCommand;
pub(crate) use orders::{Desk, Order};

use super::evidence::Evidence;
use super::hooks::{self, Knowledge};
use super::verdict::Verdict;
use crate::error::ControlError;
use crate::line::Line;
use crate::login::Server;
use crate::settings::{ControlSettings, FailoverSettings};
use crate::state_store::{Change, ChangeKind, ShardRecord, since_epoch};

/// Between two looks where nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks after the shard.
const UPKEEP: Duration = Duration::from_secs(1);
/// After a change was undone: the next attempt. So often is it said what stands in the way of one.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// How long a notification may take.
const NOTIFY_LIMIT: Duration = Duration::from_secs(30);

/// What the monitor knows of a shard now.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// What is to be thought of the primary; `None` while there is none.
    pub(crate) verdict: Option<Verdict>,
    /// Of each server, in the order of the configuration.
    pub(crate) evidence: Vec<Evidence>,
}

/// One server of the shard.
#[derive(Debug)]
struct Member {
    line: Line,
    address: Address,
    priority: u32,
    /// Held while it is made to follow the primary.
    rejoining: Arc<Mutex<()>>,
}

impl Member {
    fn name(&self) -> &str {
        &self.line.server.name
    }
}

/// Looks after one shard.
pub(crate) struct Coordinator {
    settings: ControlSettings,
    shard: ShardId,
    name: Box<str>,
    members: Vec<Arc<Member>>,
    topology: watch::Receiver<Arc<Topology>>,
    view: watch::Receiver<View>,
    orders: mpsc::Receiver<Order>,
    /// An operator wants the change under way undone.
    cancelled: Arc<AtomicBool>,
    /// Whom to tell how far an order has come.
    listener: Option<mpsc::UnboundedSender<String>>,
    chronicle: Arc<Chronicle>,
    /// Steps done since the record was last written.
    steps: Vec<(String, u64)>,
    /// No failover of its own accord before then.
    not_before: Option<Instant>,
    /// What kept it from one last, and when that was said.
    refused: Option<(String, Instant)>,
    next_upkeep: Instant,
    /// Since when one that acknowledges does not stream.
    absent: HashMap<String, Instant>,
    /// Whether the last verdict was told.
    told: Option<Verdict>,
    /// What the shard lacks for a failover; `None` before it was looked.
    lacking: Option<Vec<String>>,
    next_preflight: Instant,
}

impl Coordinator {
    /// `None` where the settings or the topology do not have the shard.
    pub(crate) fn new(
        settings: &ControlSettings,
        shard: ShardId,
        servers: impl Iterator<Item = Arc<Server>>,
        topology: watch::Receiver<Arc<Topology>>,
        view: watch::Receiver<View>,
        desk: (mpsc::Receiver<Order>, Arc<AtomicBool>),
    ) -> Option<Self> {
        let of_shard = settings.shards.get(shard.index())?;
        let members = servers.zip(&of_shard.servers).map(|(server, settings)| {
            Arc::new(Member {
                line: Line::new(server),
                address: settings.address.clone(),
                priority: settings.priority,
                rejoining: Arc::default(),
            })
        });
        let chronicle = Arc::clone(&topology.borrow().shard(shard)?.chronicle);
        let now = Instant::now();
        Some(Self {
            settings: settings.clone(),
            shard,
            name: of_shard.name.clone(),
            members: members.collect(),
            topology,
            view,
            orders: desk.0,
            cancelled: desk.1,
            listener: None,
            chronicle,
            steps: Vec::new(),
            not_before: None,
            refused: None,
            next_upkeep: now,
            absent: HashMap::new(),
            told: None,
            lacking: None,
            next_preflight: now,
        })
    }

    /// Ends with its orders, or by being aborted.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.publish();
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                changed = self.view.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            if let Err(error) = self.act().await {
                tracing::warn!(shard = %self.name, %error, "looking after the shard");
            }
        }
    }

    async fn act(&mut self) -> Result<(), ControlError> {
        let Some(record) = self.record() else {
            // the monitor waits for one that can be believed
            return Ok(());
        };
        if record.change.is_some() {
            return self.go_on().await;
        }
        let verdict = self.view.borrow_and_update().verdict;
        self.tell_verdict(verdict);
        if let Some(verdict @ Verdict::Dead(_)) = verdict {
            return self.fail_over(&record, verdict).await;
        }
        if let Some(Verdict::Full) = verdict {
            return self.relieve(&record).await;
        }
        if self.next_upkeep <= Instant::now() {
            self.next_upkeep = Instant::now() + UPKEEP;
            return self.look_after(&record).await;
        }
        Ok(())
    }

    /// Of its own accord.
    async fn fail_over(
        &mut self,
        record: &ShardRecord,
        verdict: Verdict,
    ) -> Result<(), ControlError> {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return Ok(());
        }
        let refusal = self.what_stands_in_the_way(record);
        if let Some(refusal) = refusal {
            let text = format!(
                "{} is {verdict}, and nobody is promoted: {refusal}",
                record.primary
            );
            self.refuse_again(text);
            return Ok(());
        }
        self.begin(ChangeKind::Failover, None, verdict.to_string())
            .await?;
        self.go_on().await
    }

    /// Why nobody is promoted of pgherd's own accord now.
    fn what_stands_in_the_way(&self, record: &ShardRecord) -> Option<String> {
        if self.settings.state.is_in_maintenance() {
            return Some("MAINTENANCE is ON".to_owned());
        }
        let lacking = self.lacking.as_ref().filter(|lacking| !lacking.is_empty());
        match lacking {
            Some(lacking) => Some(lacking.join("; ")),
            None => self.foresee(record).err().map(|error| error.to_string()),
        }
    }

    /// A primary that answers and cannot write is replaced: as planned where its fence, for which it has to write, is what keeps it from losing
    /// anything.
    async fn relieve(&mut self, record: &ShardRecord) -> Result<(), ControlError> {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return Ok(());
        }
        if let Some(refusal) = self.what_stands_in_the_way(record) {
            self.refuse_again(format!(
                "{} has no room for a write, and nobody is promoted: {refusal}",
                record.primary
            ));
            return Ok(());
        }
        let kind = match self.failover().sync {
            Some(_) => ChangeKind::Failover,
            None => ChangeKind::Switchover,
        };
        self.begin(kind, None, Verdict::Full.to_string()).await?;
        self.go_on().await
    }

    /// What stands in the way may be over any moment; it is said when it changes, and now and then.
    fn refuse_again(&mut self, text: String) {
        let said_lately = self
            .refused
            .as_ref()
            .is_some_and(|(said, at)| *said == text && at.elapsed() < AFTER_REFUSAL);
        if !said_lately {
            tracing::error!(shard = %self.name, "{text}");
            self.notify("refusal", &text);
            self.refused = Some((text, Instant::now()));
        }
    }

    /// An attempt that was undone is not made again at once.
    fn refuse(&mut self, text: &str) {
        self.not_before = Some(Instant::now() + AFTER_REFUSAL);
        tracing::error!(shard = %self.name, "{text}");
        self.notify("refusal", text);
    }

    fn tell_verdict(&mut self, verdict: Option<Verdict>) {
        let is_grave = |verdict: &Verdict| {
            matches!(
                verdict,
                Verdict::Dead(_) | Verdict::NoWitness(_) | Verdict::CutOff | Verdict::Full
            )
        };
        let grave = verdict.filter(is_grave);
        if grave != self.told {
            if let Some(verdict) = grave {
                self.notify("verdict", &format!("the primary is {verdict}"));
            } else {
                self.not_before = None;
                self.refused = None;
            }
            self.told = grave;
        }
    }

    /// Puts it on record and runs `notify_command`, which nothing waits for.
    fn notify(&self, kind: &'static str, text: &str) {
        self.chronicle.note(kind, text);
        let Some(command) = self.failover().notify_command.clone() else {
            return;
        };
        let epoch = self.record().map_or(0, |record| record.epoch);
        let knowledge = self
            .knowledge(epoch)
            .with("PGHERD_EVENT", kind)
            .with("PGHERD_TEXT", text);
        tokio::spawn(async move {
            let told = hooks::run("notify_command", &command, knowledge, NOTIFY_LIMIT).await;
            if let Err(error) = told {
                tracing::warn!(%error, kind, "nobody was notified");
            }
        });
    }

    fn knowledge(&self, epoch: u64) -> Knowledge {
        Knowledge::of(&self.settings.database, &self.name, epoch)
    }

    fn failover(&self) -> &FailoverSettings {
        &self.settings.failover
    }

    fn record(&self) -> Option<ShardRecord> {
        self.settings
            .state
            .shard(&self.settings.database, &self.name)
    }

    /// Writes the record, if the shard is still in `epoch`, with the steps done since the last time.
    async fn update(
        &mut self,
        epoch: u64,
        apply: impl FnOnce(&mut ShardRecord) + Send + 'static,
    ) -> Result<ShardRecord, ControlError> {
        let steps = std::mem::take(&mut self.steps);
        let (state, database, shard) = (
            Arc::clone(&self.settings.state),
            self.settings.database.clone(),
            self.name.clone(),
        );
        let missing = || ControlError::NoPrimary {
            shard: self.name.clone(),
        };
        // the disk is waited for
        let updating = tokio::task::spawn_blocking(move || {
            let key = (&*database, &*shard);
            let Some(mut next) = state.shard(key.0, key.1) else {
                return Ok(None);
            };
            if let Some(change) = &mut next.change {
                change.steps.extend(steps);
            }
            apply(&mut next);
            state.update_shard(key, epoch, |_| next).map(Some)
        });
        let record = updating.await.map_err(|_| ControlError::Stopped)??;
        self.publish();
        record.ok_or_else(missing)
    }

    /// Notes that a step of the change is done, and tells whoever waits for it.
    fn step(&mut self, change: &Change, step: &str) {
        let after = since_epoch().saturating_sub(change.began);
        tracing::info!(shard = %self.name, after_ms = after, "change of primary: {step}");
        self.steps.push((step.to_owned(), after));
        self.tell(format!("{step} after {after} ms"));
    }

    fn tell(&self, text: String) {
        if let Some(listener) = &self.listener {
            // an operator who has left need not hear it
            let _ = listener.send(text);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name() == name)
    }

    fn member(&self, name: &str) -> Result<Arc<Member>, ControlError> {
        let position = self.position(name).ok_or_else(|| {
            ControlError::NotNow(format!("shard {} has no server {name}", self.name))
        })?;
        Ok(Arc::clone(&self.members[position]))
    }

    /// Does the same with several servers at once; what came of it, with their positions.
    async fn at_once<T, F>(
        &self,
        positions: impl IntoIterator<Item = usize>,
        task: impl Fn(usize, Arc<Member>) -> F,
    ) -> Vec<(usize, Result<T, ControlError>)>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for position in positions {
            let doing = task(position, Arc::clone(&self.members[position]));
            tasks.spawn(async move { (position, doing.await) });
        }
        let mut done = tasks.join_all().await;
        done.sort_by_key(|(position, _)| *position);
        done
    }

    fn with_shard<T>(&self, read: impl FnOnce(&ShardState) -> T) -> Option<T> {
        self.topology.borrow().shard(self.shard).map(read)
    }
}
