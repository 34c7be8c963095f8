//! What operators are shown of a shard beside its topology.
//!
//! Owns the words. Main function: [`Coordinator::publish`].

use std::time::{Duration, SystemTime};

use pgherd_topology::{ChangeReport, Epoch, Standing};

use super::Coordinator;
use crate::state_store::{Change, ChangeKind, Outcome, PastChange, Phase, ShardRecord};

impl Coordinator {
    /// Publishes how the shard stands.
    pub(super) fn publish(&self) {
        let record = self.record();
        let mut standing = Standing {
            maintenance: self.settings.state.is_in_maintenance(),
            ..Standing::default()
        };
        if let Some(record) = &record {
            standing.changes = record.history.iter().map(past).collect();
            if let Some(change) = &record.change {
                standing.changes.push(under_way(record, change));
            }
            let quarantine = record.quarantine.iter();
            standing.quarantine = quarantine
                .map(|(server, kept)| (server.as_str().into(), kept.reason.as_str().into()))
                .collect();
        }
        self.chronicle.publish(standing);
    }
}

fn past(past: &PastChange) -> ChangeReport {
    ChangeReport {
        began: at(past.began),
        kind: kind(past.kind),
        epoch: Epoch(past.epoch),
        from: past.from.as_str().into(),
        to: Some(past.to.as_str().into()),
        reason: past.reason.as_str().into(),
        outcome: match &past.outcome {
            Outcome::Promoted => "promoted".into(),
            Outcome::Restored(reason) => format!("undone: {reason}").into(),
        },
        took: Some(Duration::from_millis(past.took)),
        steps: steps(&past.steps),
    }
}

fn under_way(record: &ShardRecord, change: &Change) -> ChangeReport {
    ChangeReport {
        began: at(change.began),
        kind: kind(change.kind),
        epoch: Epoch(record.epoch),
        from: change.from.as_str().into(),
        to: change.candidate.as_deref().map(Into::into),
        reason: change.reason.as_str().into(),
        outcome: match change.phase {
            Phase::Draining => "draining",
            Phase::Revoking => "revoking",
            Phase::Promoting => "promoting",
            Phase::Restoring => "restoring",
        }
        .into(),
        took: None,
        steps: steps(&change.steps),
    }
}

const fn kind(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Failover => "failover",
        ChangeKind::Forced => "forced",
        ChangeKind::Switchover => "switchover",
    }
}

fn steps(steps: &[(String, u64)]) -> Vec<(Box<str>, Duration)> {
    let step =
        |(step, after): &(String, u64)| (step.as_str().into(), Duration::from_millis(*after));
    steps.iter().map(step).collect()
}

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}
