//! What is kept of one shard.
//!
//! Owns the stored form. Never decides what is in it. Main type: [`ShardRecord`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pgherd_topology::{Epoch, Horizon};
use serde::{Deserialize, Serialize};

/// So many changes of primary are remembered, and their horizons.
const REMEMBERED: usize = 16;

/// The last primary that a shard was seen under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// Rises whenever one of the other fields changes.
    pub epoch: u64,
    /// The server's name in the configuration.
    pub primary: String,
    /// Its timeline, which Postgres raises with each promotion.
    pub timeline: u32,
    /// `pg_control_system()`'s, which all servers of one shard share.
    pub system_identifier: u64,
}

impl Reign {
    /// The epoch as a quantity.
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// All that is kept of one shard.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// Of the present reign, or of the one that is being prepared.
    pub epoch: u64,
    /// Who reigns; while another one is being prepared, who did.
    pub primary: String,
    /// Of `primary`.
    pub timeline: u32,
    /// Of the cluster.
    pub system_identifier: u64,
    /// A change of primary under way; `None` where the shard is stable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<Change>,
    /// Who acknowledges commits, as pgherd has set it; `None` where it has not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sync: Option<SyncRecord>,
    /// Where earlier reigns ended, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub horizons: Vec<StoredHorizon>,
    /// Servers that are neither written to nor read from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub quarantine: BTreeMap<String, Quarantine>,
    /// Standbys that are still to be pointed at the primary, as they were set before they were taken from one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub parted: BTreeMap<String, StandbySettings>,
    /// A `primary_conninfo` as standbys of the shard have it, for one that is to become a standby; it may hold a password.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conninfo: Option<String>,
    /// Whom a primary that was fenced, and stays the primary, is to wait for again: its `synchronous_standby_names` before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fenced: Option<String>,
    /// The first reign since which the horizons tell everything.
    #[serde(default)]
    pub complete_since: u64,
    /// Earlier changes of primary, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub history: Vec<PastChange>,
}

impl std::fmt::Debug for ShardRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ShardRecord")
            .field("epoch", &self.epoch)
            .field("primary", &self.primary)
            .field("timeline", &self.timeline)
            .field("change", &self.change)
            .field("sync", &self.sync)
            .field("quarantine", &self.quarantine)
            .field("parted", &self.parted)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

impl From<Reign> for ShardRecord {
    fn from(reign: Reign) -> Self {
        Self {
            epoch: reign.epoch,
            primary: reign.primary,
            timeline: reign.timeline,
            system_identifier: reign.system_identifier,
            change: None,
            sync: None,
            horizons: Vec::new(),
            quarantine: BTreeMap::new(),
            parted: BTreeMap::new(),
            conninfo: None,
            fenced: None,
            complete_since: 0,
            history: Vec::new(),
        }
    }
}

impl ShardRecord {
    /// Who reigns, or did last.
    pub fn reign(&self) -> Reign {
        Reign {
            epoch: self.epoch,
            primary: self.primary.clone(),
            timeline: self.timeline,
            system_identifier: self.system_identifier,
        }
    }

    /// Another reign; all else stays.
    pub(super) fn set_reign(&mut self, reign: Reign) {
        self.epoch = reign.epoch;
        self.primary = reign.primary;
        self.timeline = reign.timeline;
        self.system_identifier = reign.system_identifier;
    }

    /// Ends the change under way, in favour of `primary`, and remembers it.
    pub(crate) fn conclude(&mut self, outcome: Outcome) {
        let Some(change) = self.change.take() else {
            return;
        };
        self.history.push(PastChange {
            kind: change.kind,
            epoch: self.epoch,
            from: change.from,
            to: self.primary.clone(),
            reason: change.reason,
            began: change.began,
            took: since_epoch().saturating_sub(change.began),
            steps: change.steps,
            outcome,
        });
        keep_last(&mut self.history);
        if let Some(forgotten) = keep_last(&mut self.horizons) {
            self.complete_since = forgotten.epoch.max(self.complete_since);
        }
    }

    /// The horizons as sessions read them.
    pub(crate) fn horizons(&self) -> Vec<Horizon> {
        let read = |stored: &StoredHorizon| Horizon {
            epoch: Epoch(stored.epoch),
            xid: stored.xid,
        };
        self.horizons.iter().map(read).collect()
    }
}

/// The last one that is forgotten.
fn keep_last<T>(list: &mut Vec<T>) -> Option<T> {
    let surplus = list.len().saturating_sub(REMEMBERED);
    list.drain(..surplus).last()
}

/// Why a server is neither written to nor read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// In words.
    pub reason: String,
    /// Whether it lasts until an operator ends it; else until the server follows the primary.
    #[serde(default)]
    pub by_operator: bool,
}

/// A [`Horizon`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredHorizon {
    /// The reign that began there.
    pub epoch: u64,
    /// The first transaction id that it does not know.
    pub xid: u64,
}

/// Why the primary changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is dead.
    Failover,
    /// An operator accepts that writes may be lost.
    Forced,
    /// An operator wants another one.
    Switchover,
}

/// How far a change has come. Each is written before what it names is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A planned change: new work is held, and what runs may end.
    Draining,
    /// The old primary is kept from acknowledging anything: all can be undone.
    Revoking,
    /// `pg_promote` was sent, or may have been: there is no way back.
    Promoting,
    /// It is undone.
    Restoring,
}

/// A change of primary under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Why.
    pub kind: ChangeKind,
    /// How far it has come.
    pub phase: Phase,
    /// The process that does it.
    pub coordinator: String,
    /// Who reigned before.
    pub from: String,
    /// In words.
    pub reason: String,
    /// Milliseconds since 1970.
    pub began: u64,
    /// Whether it answered when the change began: that it answers is no reason to undo it then.
    #[serde(default)]
    pub answered: bool,
    /// Its `synchronous_standby_names`, as far as they were known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub acknowledged_by: Option<String>,
    /// Who is wanted, where an operator named one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wanted: Option<String>,
    /// Who is promoted; from [`Phase::Promoting`] on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub candidate: Option<String>,
    /// The first transaction id that the candidate does not know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub horizon: Option<u64>,
    /// How standbys were set before they were taken from the primary, by server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub undo: BTreeMap<String, StandbySettings>,
    /// What was done, and how many milliseconds after the beginning it was.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub steps: Vec<(String, u64)>,
    /// Why it is undone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub undone: Option<String>,
}

impl Change {
    pub(crate) fn new(kind: ChangeKind, from: &str, reason: String, coordinator: String) -> Self {
        Self {
            kind,
            phase: match kind {
                ChangeKind::Switchover => Phase::Draining,
                ChangeKind::Failover | ChangeKind::Forced => Phase::Revoking,
            },
            coordinator,
            from: from.to_owned(),
            reason,
            began: since_epoch(),
            answered: false,
            acknowledged_by: None,
            wanted: None,
            candidate: None,
            horizon: None,
            undo: BTreeMap::new(),
            steps: Vec::new(),
            undone: None,
        }
    }
}

/// What a standby goes by, and follows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandbySettings {
    /// `primary_conninfo`; it may hold a password.
    pub conninfo: String,
    /// `primary_slot_name`
    pub slot: String,
    /// The name by which it acknowledges.
    pub application_name: String,
    /// `max_standby_streaming_delay`; `None` where ALTER SYSTEM had not set it.
    pub max_standby_streaming_delay: Option<String>,
    /// `recovery_min_apply_delay`; the same.
    pub recovery_min_apply_delay: Option<String>,
}

impl std::fmt::Debug for StandbySettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StandbySettings")
            .field("application_name", &self.application_name)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// Who acknowledges commits: `ANY acks (names)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRecord {
    /// What is in force, or is about to be.
    pub new: SyncNames,
    /// What was before, oldest first: commits may have been acknowledged under any of them, until a row was under the new one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub before: Vec<SyncNames>,
}

/// One value of `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncNames {
    /// How many of them must have a commit.
    pub acks: u16,
    /// The names; none: commits wait for nobody.
    pub names: Vec<String>,
}

/// A change of primary that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastChange {
    /// Why.
    pub kind: ChangeKind,
    /// The reign that it ended in.
    pub epoch: u64,
    /// Who reigned before.
    pub from: String,
    /// Who reigned afterwards.
    pub to: String,
    /// In words.
    pub reason: String,
    /// Milliseconds since 1970.
    pub began: u64,
    /// In milliseconds.
    pub took: u64,
    /// What was done, and how many milliseconds after the beginning it was.
    pub steps: Vec<(String, u64)>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Another primary reigns.
    Promoted,
    /// It was undone, and why.
    Restored(String),
}

/// Milliseconds since 1970.
pub(crate) fn since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}
