//! The steps of a change of primary.
//!
//! Owns their order. Each may be taken again: what was done already is found done. Until `pg_promote` was sent all can be undone, afterwards the change
//! goes forward only. Main function: [`Coordinator::go_on`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::names::tag;
use crate::failover::primary;
use crate::failover::standby;
use crate::state_store::{
    Change, ChangeKind, Outcome, Phase, Quarantine, ShardRecord, StandbySettings, StoredHorizon,
};

/// How long transactions may go on once a planned change has begun.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// So long after new work is held, who was about to begin has begun.
const SETTLING: Duration = Duration::from_millis(50);
/// How long a fence may take where the server is not known to answer.
pub(super) const FENCE_LIMIT: Duration = Duration::from_secs(2);
/// How long the first row of a reign may wait for its acknowledgement before the reign begins all the same: its writes wait then.
const GATE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
pub(super) const POLL: Duration = Duration::from_millis(2);

impl Coordinator {
    /// Puts a change of primary on record; from then on nobody is told of a primary.
    ///
    /// # Errors
    /// As [`Coordinator::update`].
    pub(super) async fn begin(
        &mut self,
        kind: ChangeKind,
        wanted: Option<&str>,
        reason: String,
    ) -> Result<(), ControlError> {
        let record = self.record().ok_or_else(|| ControlError::NoPrimary {
            shard: self.name.clone(),
        })?;
        self.cancelled.store(false, Ordering::Relaxed);
        self.steps.clear();
        let coordinator = self.settings.proxy.to_string();
        let mut change = Change::new(kind, &record.primary, reason, coordinator);
        change.wanted = wanted.map(str::to_owned);
        change.acknowledged_by = self.acknowledged_by(&record);
        change.answered = self.answers(&record.primary);
        // some may not have come back to it since the last time
        change.undo = record.parted.clone();
        tracing::warn!(shard = %self.name, primary = record.primary, reason = change.reason, "the primary is being changed");
        // while a planned change drains the old reign goes on
        let bump = u64::from(kind != ChangeKind::Switchover);
        self.update(record.epoch, move |record| {
            record.epoch += bump;
            record.change = Some(change);
        })
        .await
        .map(drop)
    }

    fn answers(&self, server: &str) -> bool {
        let view = self.view.borrow();
        let evidence = self
            .position(server)
            .and_then(|position| view.evidence.get(position));
        evidence.is_some_and(|evidence| evidence.answers())
    }

    /// Takes the change under way to its end.
    ///
    /// # Errors
    /// What is in the way: to be tried again.
    pub(super) async fn go_on(&mut self) -> Result<(), ControlError> {
        loop {
            let Some(record) = self.record() else {
                return Ok(());
            };
            let Some(change) = record.change.clone() else {
                return Ok(());
            };
            let done = match change.phase {
                Phase::Draining => self.drain(&record, &change).await,
                Phase::Revoking => self.revoke(&record, &change).await,
                Phase::Promoting => self.promote(&record, &change).await,
                Phase::Restoring => self.restore(&record, &change).await,
            };
            match done {
                Ok(()) => {}
                Err(error) if matches!(change.phase, Phase::Draining | Phase::Revoking) => {
                    self.undo(&record, error.to_string()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// From now on the change is undone.
    async fn undo(&mut self, record: &ShardRecord, reason: String) -> Result<(), ControlError> {
        let text = format!("{} stays the primary: {reason}", record.primary);
        self.refuse(&text);
        self.tell(text);
        self.update(record.epoch, move |record| {
            record.epoch += 1;
            if let Some(change) = &mut record.change {
                change.phase = Phase::Restoring;
                change.undone = Some(reason);
            }
        })
        .await
        .map(drop)
    }

    /// New work is held already. What runs may end, for a while.
    async fn drain(&mut self, record: &ShardRecord, change: &Change) -> Result<(), ControlError> {
        let target = match &change.wanted {
            Some(target) => target.clone(),
            None => self.members[self.foresee(record)?].name().to_owned(),
        };
        let begun = Instant::now();
        sleep(SETTLING).await;
        while self.is_at_work(&change.from) && begun.elapsed() < DRAIN_GRACE {
            self.check_cancelled()?;
            sleep(POLL).await;
        }
        self.step(change, "drained");
        self.update(record.epoch, move |record| {
            record.epoch += 1;
            if let Some(change) = &mut record.change {
                change.phase = Phase::Revoking;
                change.wanted = Some(target);
            }
        })
        .await
        .map(drop)
    }

    fn is_at_work(&self, server: &str) -> bool {
        let outstanding = self.with_shard(|shard| {
            let node = shard.nodes.iter().find(|node| &*node.name == server);
            node.map_or(0, |node| node.outstanding())
        });
        outstanding.unwrap_or_default() > 0
    }

    pub(super) fn check_cancelled(&self) -> Result<(), ControlError> {
        if self.is_cancelled() {
            return Err(ControlError::NotNow(
                "an operator has cancelled it".to_owned(),
            ));
        }
        Ok(())
    }

    /// Promotes the candidate, or finds it promoted; then nothing stands in the way of another reign.
    async fn promote(&mut self, record: &ShardRecord, change: &Change) -> Result<(), ControlError> {
        let Some(candidate) = change.candidate.as_deref() else {
            return self.undo(record, "nobody was chosen".to_owned()).await;
        };
        let candidate = self.member(candidate)?;
        let timeline = match primary::promote(&candidate.line, record.epoch).await {
            Ok(timeline) => timeline,
            Err(error) => match primary::promoted(&candidate.line).await {
                Ok(Some(timeline)) => timeline,
                Ok(None) => return Err(error),
                Err(_) => return self.choose_another(record, &candidate, error).await,
            },
        };
        self.step(change, &format!("{} promoted", candidate.name()));
        // by the time that the reign begins it must be known to be out of recovery
        candidate.line.server.nudge();
        let parted = self.repoint(record, change, &candidate).await;
        self.step(change, "standbys follow it");
        let is_acknowledged = self.wait_for_first_row(record, &candidate).await?;
        self.step(
            change,
            if is_acknowledged {
                "first row acknowledged"
            } else {
                "first row not acknowledged yet"
            },
        );
        let from = change.from.clone();
        let conninfo = change.undo.get(candidate.name());
        let conninfo = conninfo.map(|before| before.conninfo.clone());
        let (name, horizon) = (candidate.name().to_owned(), change.horizon);
        let record = self
            .update(record.epoch, move |record| {
                let epoch = record.epoch;
                record.quarantine.remove(&name);
                record.quarantine.insert(
                    from,
                    Quarantine {
                        reason: format!("deposed in epoch {epoch}"),
                        by_operator: false,
                    },
                );
                // until then it alone may have what was acknowledged under the names before
                if let (Some(sync), true) = (&mut record.sync, is_acknowledged) {
                    sync.before.clear();
                }
                record
                    .horizons
                    .extend(horizon.map(|xid| StoredHorizon { epoch, xid }));
                record.primary = name;
                record.timeline = timeline;
                record.parted = parted;
                record.conninfo = conninfo.or(record.conninfo.take());
                record.conclude(Outcome::Promoted);
            })
            .await?;
        for member in &self.members {
            member.line.server.nudge();
        }
        let text = format!(
            "{} is the primary in the place of {}, epoch {}",
            record.primary, change.from, record.epoch
        );
        tracing::warn!(shard = %self.name, "{text}");
        self.notify("promotion", &text);
        self.tell(text);
        Ok(())
    }

    /// The candidate has gone before it was promoted, or just then: another one, in a new epoch. Should it come back it is an old primary.
    async fn choose_another(
        &mut self,
        record: &ShardRecord,
        candidate: &Member,
        error: ControlError,
    ) -> Result<(), ControlError> {
        tracing::error!(shard = %self.name, candidate = candidate.name(), %error, "the new primary is gone: another is chosen");
        let name = candidate.name().to_owned();
        self.update(record.epoch, move |record| {
            record.epoch += 1;
            record.quarantine.insert(
                name,
                Quarantine {
                    reason: "it went while it was promoted".to_owned(),
                    by_operator: false,
                },
            );
            if let Some(sync) = &mut record.sync {
                // what it has acknowledged is nothing: nobody follows it
                if let Some(before) = sync.before.pop() {
                    sync.new = before;
                }
            }
            if let Some(change) = &mut record.change {
                change.phase = Phase::Revoking;
                change.wanted = None;
                change.answered = true;
                change.candidate = None;
                change.horizon = None;
            }
        })
        .await
        .map(drop)
    }

    /// Points the standbys at the new primary. Those that it was not possible with, as they were set: they are tried again later.
    async fn repoint(
        &self,
        record: &ShardRecord,
        change: &Change,
        primary: &Arc<Member>,
    ) -> BTreeMap<String, StandbySettings> {
        let mut parted = change.undo.clone();
        parted.remove(primary.name());
        let positions: Vec<usize> = parted
            .keys()
            .filter_map(|name| self.position(name))
            .collect();
        let epoch = record.epoch;
        let done = self
            .at_once(positions, |_, member| {
                let (primary, undo) = (Arc::clone(primary), change.undo.clone());
                let is_managed = self.failover().sync.is_some();
                let is_new = primary.name() != change.from;
                async move {
                    let new = is_new.then_some(&primary.line);
                    let Some(before) = undo.get(member.name()) else {
                        return Ok(());
                    };
                    let name = match is_managed {
                        true => tag(member.name(), epoch),
                        false => before.application_name.clone(),
                    };
                    standby::unblock(&member.line).await?;
                    standby::follow(&member.line, before, (new, &primary.address), &name).await
                }
            })
            .await;
        for (position, followed) in done {
            let name = self.members[position].name();
            match followed {
                Ok(()) => drop(parted.remove(name)),
                Err(error) => {
                    tracing::warn!(shard = %self.name, server = name, %error, "a standby does not follow yet");
                }
            }
        }
        parted
    }

    /// What is read from the new primary counts once a row that was written there afterwards is acknowledged. Whether it was, in time.
    async fn wait_for_first_row(
        &mut self,
        record: &ShardRecord,
        primary: &Member,
    ) -> Result<bool, ControlError> {
        let row =
            primary::acknowledged_row(&primary.line, &self.name, record.epoch, GATE_LIMIT).await;
        match row {
            Ok(()) => Ok(true),
            Err(error @ ControlError::Silent { .. }) => {
                let text = format!(
                    "nobody acknowledges what {} commits: writes wait until a standby streams from it ({error})",
                    primary.name()
                );
                self.chronicle.note("alone", text.as_str());
                tracing::error!(shard = %self.name, "{text}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the standbys back to the old primary, and writes to it again.
    async fn restore(&mut self, record: &ShardRecord, change: &Change) -> Result<(), ControlError> {
        let old = self.member(&change.from)?;
        let parted = self.repoint(record, change, &old).await;
        let names = match (self.failover().sync, &record.sync) {
            (Some(sync), Some(_)) => {
                let positions = self.others(record);
                let name = |position: &usize| tag(self.members[*position].name(), record.epoch);
                let followed = positions
                    .iter()
                    .filter(|position| !parted.contains_key(self.members[**position].name()));
                Some(self.fitting(sync, followed.map(name).collect(), || {
                    positions.iter().map(name).collect()
                }))
            }
            _ => None,
        };
        let setting = match &names {
            Some(names) => Some(names.to_setting()),
            None => change.acknowledged_by.clone(),
        };
        let mut restored = false;
        if let Some(setting) = &setting {
            let set = timeout(FENCE_LIMIT, primary::set_acknowledgers(&old.line, setting)).await;
            restored = matches!(set, Ok(Ok(())));
        }
        let fenced = setting.filter(|_| !restored);
        let is_acknowledged = restored && self.wait_for_first_row(record, &old).await?;
        let reason = change.undone.clone().unwrap_or_default();
        self.update(record.epoch, move |record| {
            if let (Some(new), Some(sync)) = (names, &mut record.sync) {
                // what was acknowledged under the names before counts until a row was under these
                let before = std::mem::replace(&mut sync.new, new);
                sync.before.push(before);
                if is_acknowledged {
                    sync.before.clear();
                }
            }
            record.parted = parted;
            record.fenced = fenced;
            record.conclude(Outcome::Restored(reason));
        })
        .await?;
        self.cancelled.store(false, Ordering::Relaxed);
        self.chronicle
            .note("restored", format!("{} is the primary again", change.from));
        Ok(())
    }
}
