//! From what watchers report to the topology that sessions see.
//!
//! Owns the published [`Topology`], its version, each shard's reign and the replicas' lag. Never asks a server.
//! Main type: [`Monitor`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::{
    Continuity, Epoch, Health, NodeId, NodeState, Role, ShardId, ShardState, Topology, TwoPhase,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::error::ControlError;
use crate::failover::coordinator::View;
use crate::failover::evidence::Evidence;
use crate::failover::verdict::{Patience, Verdict as Life};
use crate::failover::{Member, outlook};
use crate::health::Report;
use crate::heartbeat::Pulse;
use crate::lag::LagMeter;
use crate::recorded;
use crate::roles::{Complaint, Sighting, Verdict, decide};
use crate::settings::{ControlSettings, FailoverMode, FailoverSettings, ShardSettings};
use crate::state_store::{Reign, ShardRecord, State, since_epoch};
use crate::testimony::Standing;

/// How long the first decision waits for servers that have not answered yet: the first one seen to take writes need
/// not be the right one.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Between two measurements of the replicas' lag.
const LAG_TICK: Duration = Duration::from_millis(250);

/// Between two attempts to remember a reign.
const SAVE_AGAIN: Duration = Duration::from_secs(10);

/// Whether a shard's commit log can be used, as its keeper finds it.
#[derive(Debug)]
pub(crate) struct TwoPhaseReport {
    pub(crate) shard: ShardId,
    pub(crate) two_phase: TwoPhase,
}

/// Decides and publishes.
pub(crate) struct Monitor {
    database: Box<str>,
    state: Arc<State>,
    shards: Vec<Watched>,
    topology: watch::Sender<Arc<Topology>>,
    mode: FailoverMode,
    patience: Patience,
    begun: Instant,
}

/// One shard as the monitor keeps it.
struct Watched {
    published: ShardState,
    sightings: Vec<Sighting>,
    /// Of each server, as `sightings`.
    evidence: Vec<Evidence>,
    /// What was last thought of the primary.
    life: Option<Life>,
    reign: Option<Reign>,
    saved: Saved,
    complaints: Vec<Complaint>,
    lag: LagMeter,
    /// For the shard's coordinator.
    view: watch::Sender<View>,
    /// What came of writing to the primary.
    beats: watch::Sender<Pulse>,
    /// Servers on which nothing is counted.
    quarantined: Vec<Box<str>>,
    /// The primary, as an index into the servers, and how often it had restarted lately when it was last looked.
    restarts: Option<(usize, usize)>,
}

/// Whether the store has the reign.
#[derive(Debug, Clone, Copy)]
enum Saved {
    Yes,
    /// To be tried from then on.
    NotYet(Instant),
}

impl Monitor {
    /// Starts from the configuration and what the state store remembers.
    pub(crate) fn new(settings: &ControlSettings) -> (Self, watch::Receiver<Arc<Topology>>) {
        let mut next_node = 0;
        let shards: Vec<Watched> = settings
            .shards
            .iter()
            .enumerate()
            .map(|(index, shard)| {
                let id = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
                let reign = settings.state.reign(&settings.database, &shard.name);
                Watched::new(id, shard, &settings.failover, reign, &mut next_node)
            })
            .collect();
        let first = Topology {
            version: 1,
            shards: shards.iter().map(|shard| shard.published.clone()).collect(),
        };
        let (topology, receiver) = watch::channel(Arc::new(first));
        let monitor = Self {
            database: settings.database.clone(),
            state: Arc::clone(&settings.state),
            shards,
            topology,
            mode: settings.failover.mode,
            patience: Patience::from(&settings.failover),
            begun: Instant::now(),
        };
        (monitor, receiver)
    }

    /// Ends when both kinds of report have no sender left, or by being aborted.
    pub(crate) async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut logs: mpsc::Receiver<TwoPhaseReport>,
    ) {
        let mut changes = self.state.changes();
        let mut tick = interval(LAG_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.note(report),
                    None => return,
                },
                Some(report) = logs.recv() => self.note_two_phase(report),
                // a change of primary is published as soon as it is on record
                Ok(()) = changes.changed() => {}
                _ = tick.tick() => {}
            }
            for index in 0..self.shards.len() {
                match self.mode {
                    FailoverMode::Observe if self.first_look_is_over(index) => {
                        self.settle(index).await;
                    }
                    FailoverMode::Observe => {}
                    FailoverMode::Promote => self.go_by_record(index).await,
                }
                self.shards[index].measure_lag();
                self.shards[index].look_ahead(&self.patience);
            }
            self.publish();
        }
    }

    fn note(&mut self, report: Report) {
        for shard in &mut self.shards {
            let Some(position) = shard
                .published
                .nodes
                .iter()
                .position(|node| node.id == report.node)
            else {
                continue;
            };
            shard.evidence[position].note(report.asked, report.contact, report.testimony.clone());
            let sighting = &mut shard.sightings[position];
            sighting.health = report.health;
            if report.testimony.is_some() {
                sighting.testimony = report.testimony;
            }
            return;
        }
    }

    fn note_two_phase(&mut self, report: TwoPhaseReport) {
        if let Some(shard) = self.shards.get_mut(report.shard.index()) {
            shard.published.two_phase = report.two_phase;
        }
    }

    fn first_look_is_over(&self, index: usize) -> bool {
        let all_seen = self.shards[index]
            .sightings
            .iter()
            .all(|sighting| sighting.health != Health::Unknown);
        all_seen || self.begun.elapsed() >= FIRST_LOOK
    }

    /// What the coordinator of a shard is to know.
    pub(crate) fn view(&self, shard: ShardId) -> Option<watch::Receiver<View>> {
        Some(self.shards.get(shard.index())?.view.subscribe())
    }

    /// Where what came of writing to a shard's primary is to be told.
    pub(crate) fn beats(&self, shard: ShardId) -> Option<watch::Sender<Pulse>> {
        Some(self.shards.get(shard.index())?.beats.clone())
    }

    /// Where pgherd itself promotes: who is primary is the state store's word.
    async fn go_by_record(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let record = self.state.shard(&self.database, &shard.published.name);
        if let Some(record) = record {
            let verdict = recorded::decide(&record, &shard.sightings, since_epoch());
            shard.complain(&verdict.complaints);
            shard.remember(&record);
            shard.apply(verdict);
            return;
        }
        let Some(reign) = shard.first_reign() else {
            return;
        };
        tracing::info!(shard = %shard.published.name, primary = reign.primary, epoch = reign.epoch, "the state store knows of no primary: this one is believed");
        let (state, database, name) = (
            Arc::clone(&self.state),
            self.database.clone(),
            shard.published.name.clone(),
        );
        let saving = tokio::task::spawn_blocking(move || {
            state.update_shard((&database, &name), 0, |_| ShardRecord::from(reign))
        });
        if let Ok(Err(error)) = saving.await {
            shard.saving_failed(&error);
        }
    }

    /// Who is primary is what the servers say.
    async fn settle(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        let verdict = decide(shard.reign.as_ref(), &shard.sightings);
        shard.complain(&verdict.complaints);
        if verdict.reign != shard.reign {
            shard.saved = Saved::NotYet(Instant::now());
        }
        shard.apply(verdict);
        let due = match shard.saved {
            Saved::Yes => false,
            Saved::NotYet(next) => Instant::now() >= next,
        };
        if let (true, Some(reign)) = (due, shard.reign.clone()) {
            let (state, database, name) = (
                Arc::clone(&self.state),
                self.database.clone(),
                shard.published.name.clone(),
            );
            let saving =
                tokio::task::spawn_blocking(move || state.set_reign(&database, &name, reign)).await;
            match saving {
                Ok(Ok(())) => shard.saved = Saved::Yes,
                // Who is primary must not wait for a full disk.
                Ok(Err(error)) => shard.saving_failed(&error),
                Err(_) => {}
            }
        }
    }

    fn publish(&mut self) {
        let shards: Vec<ShardState> = self
            .shards
            .iter()
            .map(|shard| shard.published.clone())
            .collect();
        self.topology.send_if_modified(|topology| {
            if same(&topology.shards, &shards) {
                return false;
            }
            *topology = Arc::new(Topology {
                version: topology.version + 1,
                shards,
            });
            true
        });
    }
}

impl Watched {
    fn new(
        id: ShardId,
        shard: &ShardSettings,
        failover: &FailoverSettings,
        reign: Option<Reign>,
        next_node: &mut u16,
    ) -> Self {
        let nodes: Vec<NodeState> = shard
            .servers
            .iter()
            .map(|server| {
                let node = NodeState {
                    zone: server.zone.clone(),
                    priority: server.priority,
                    ..NodeState::new(
                        NodeId(*next_node),
                        server.name.clone(),
                        server.address.clone(),
                    )
                };
                *next_node = next_node.saturating_add(1);
                node
            })
            .collect();
        let sightings = nodes
            .iter()
            .map(|node| Sighting {
                name: node.name.clone(),
                health: Health::Unknown,
                testimony: None,
            })
            .collect();
        let published = ShardState {
            id,
            name: shard.name.clone(),
            epoch: reign.as_ref().map_or(Epoch(0), Reign::epoch),
            primary: None,
            nodes,
            max_prepared_transactions: None,
            two_phase: TwoPhase::Unknown,
            outlook: Arc::default(),
            continuity: Continuity {
                hold: failover.hold,
                promotes: failover.mode == FailoverMode::Promote,
                synchronous: failover.sync.is_some(),
                horizons: Arc::default(),
                complete_since: Epoch(0),
            },
            cuts: Arc::default(),
            chronicle: Arc::default(),
        };
        let now = Instant::now();
        let evidence = published.nodes.iter().map(|_| Evidence::new(now)).collect();
        Self {
            published,
            sightings,
            evidence,
            life: None,
            saved: Saved::Yes,
            reign,
            complaints: Vec::new(),
            lag: LagMeter::default(),
            view: watch::Sender::default(),
            beats: watch::Sender::default(),
            quarantined: Vec::new(),
            restarts: None,
        }
    }

    /// The reign of the first primary that can be believed.
    fn first_reign(&self) -> Option<Reign> {
        let primary = &self.sightings[recorded::first(&self.sightings)?];
        let testimony = primary.testimony.as_ref()?;
        let Standing::Claimant { timeline } = testimony.standing else {
            return None;
        };
        let written = self
            .sightings
            .iter()
            .filter_map(|sighting| sighting.testimony.as_ref()?.reign)
            .max();
        Some(Reign {
            epoch: written.unwrap_or_default() + 1,
            primary: primary.name.to_string(),
            timeline,
            system_identifier: testimony.system_identifier,
        })
    }

    /// What of a shard's record sessions are to know.
    fn remember(&mut self, record: &ShardRecord) {
        let horizons = record.horizons();
        let continuity = &mut self.published.continuity;
        if *continuity.horizons != *horizons {
            continuity.horizons = horizons.into();
        }
        // a crash may give out transaction ids again that nobody recorded
        let primary = self
            .sightings
            .iter()
            .position(|sighting| *sighting.name == *record.primary);
        let now = Instant::now();
        let restarts = primary.map(|index| (index, self.evidence[index].restarts(now)));
        // of another server's restarts nothing follows
        let crashed = self.restarts.zip(restarts).is_some_and(|(before, now)| {
            let ((server, counted), (same, restarts)) = (before, now);
            server == same && restarts > counted
        });
        self.restarts = restarts;
        let quarantined = record.quarantine.keys();
        self.quarantined = quarantined.map(|name| name.as_str().into()).collect();
        let adopted = record.complete_since;
        if crashed {
            continuity.complete_since = Epoch(record.epoch + 1);
        }
        continuity.complete_since = continuity.complete_since.max(Epoch(adopted));
    }

    fn apply(&mut self, verdict: Verdict) {
        let Verdict {
            primary,
            roles,
            reign,
            complaints,
        } = verdict;
        let before = (self.published.primary, self.published.epoch);
        for ((node, role), sighting) in self
            .published
            .nodes
            .iter_mut()
            .zip(roles)
            .zip(&self.sightings)
        {
            node.role = role;
            node.health = sighting.health;
        }
        self.published.primary =
            primary.and_then(|index| Some(self.published.nodes.get(index)?.id));
        self.published.max_prepared_transactions = primary
            .and_then(|index| self.sightings.get(index)?.testimony.as_ref())
            .map(|testimony| testimony.max_prepared_transactions);
        self.reign = reign;
        self.published.epoch = self.reign.as_ref().map_or(Epoch(0), Reign::epoch);
        self.complaints = complaints;
        if before != (self.published.primary, self.published.epoch) {
            self.lag = LagMeter::default();
            // The commit log of another primary is looked at anew.
            self.published.two_phase = TwoPhase::Unknown;
            self.announce();
        }
    }

    fn announce(&self) {
        let (shard, epoch) = (&self.published.name, self.published.epoch);
        match self.published.primary() {
            None => tracing::error!(%shard, %epoch, "shard has no primary"),
            Some(primary) => {
                tracing::info!(%shard, %epoch, primary = %primary.name, address = %primary.address, "shard follows a primary");
            }
        }
    }

    /// Each complaint once, when it begins and when it ends.
    fn complain(&self, complaints: &[Complaint]) {
        let shard = &self.published.name;
        for complaint in complaints
            .iter()
            .filter(|complaint| !self.complaints.contains(complaint))
        {
            match complaint {
                Complaint::NotFollowing { .. } => tracing::warn!(%shard, "{complaint}"),
                Complaint::LaterReign { .. }
                | Complaint::Unbelieved { .. }
                | Complaint::SecondPrimary { .. }
                | Complaint::Ambiguous { .. }
                | Complaint::Regressed { .. }
                | Complaint::Stranger { .. } => tracing::error!(%shard, "{complaint}"),
            }
        }
        for complaint in self
            .complaints
            .iter()
            .filter(|complaint| !complaints.contains(complaint))
        {
            tracing::info!(%shard, "no longer: {complaint}");
        }
    }

    /// What would come of a failover now. What is thought of the primary is logged when it changes.
    fn look_ahead(&mut self, patience: &Patience) {
        let published = &self.published;
        let mut members: Vec<Member<'_>> = published
            .nodes
            .iter()
            .zip(&self.evidence)
            .filter(|(node, _)| !self.quarantined.contains(&node.name))
            .map(|(node, evidence)| Member {
                node: node.id,
                name: &node.name,
                priority: node.priority,
                evidence,
            })
            .collect();
        let primary = published
            .primary
            .and_then(|primary| members.iter().position(|member| member.node == primary))
            .map(|index| members.remove(index));
        let Some(primary) = primary else {
            published.outlook.publish(None);
            self.show(None);
            return;
        };
        let (life, outlook) = outlook(
            &primary,
            &members,
            self.beats.borrow().of(primary.node, published.epoch),
            patience,
            Instant::now(),
        );
        if !members.is_empty() && self.life.is_some_and(|before| before != life) {
            let (shard, primary) = (&published.name, primary.name);
            match life {
                Life::Well => tracing::info!(%shard, primary, "primary: {life}"),
                Life::Slow | Life::Alone | Life::Full | Life::Busy(_) | Life::Suspected(_) => {
                    tracing::warn!(%shard, primary, "primary: {life}");
                }
                Life::CutOff | Life::NoWitness(_) | Life::Dead(_) => {
                    tracing::error!(%shard, primary, "primary: {life}");
                }
            }
        }
        published.outlook.publish(Some(Arc::new(outlook)));
        self.life = Some(life);
        self.show(Some(life));
    }

    fn show(&self, verdict: Option<Life>) {
        self.view.send_replace(View {
            verdict,
            evidence: self.evidence.clone(),
        });
    }

    fn saving_failed(&mut self, error: &ControlError) {
        self.saved = Saved::NotYet(Instant::now() + SAVE_AGAIN);
        tracing::error!(shard = %self.published.name, %error, "cannot remember the shard's primary: after a restart an older one might be believed");
    }

    fn measure_lag(&mut self) {
        let epoch = self.published.epoch;
        let Some(primary) = self.published.primary() else {
            return;
        };
        self.lag.note_primary(epoch, primary.samples.latest());
        for node in &mut self.published.nodes {
            node.lag = match (node.role, node.health) {
                (Role::Replica, Health::Up) => self.lag.of_replica(epoch, node.samples.latest()),
                (Role::Replica | Role::Primary | Role::Unknown, _) => None,
            };
        }
    }
}

/// Whether sessions would see no difference.
fn same(left: &[ShardState], right: &[ShardState]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(left, right)| {
            left.epoch == right.epoch
                && left.primary == right.primary
                && left.continuity == right.continuity
                && left.max_prepared_transactions == right.max_prepared_transactions
                && left.two_phase == right.two_phase
                && left.nodes.iter().zip(&right.nodes).all(|(left, right)| {
                    left.role == right.role && left.health == right.health && left.lag == right.lag
                })
        })
}
