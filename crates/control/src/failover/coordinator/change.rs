//! The steps of a change of primary.
//!
//! Owns their order. Each may be taken again: what was done already is found done. Until `pg_promote` was sent all can be undone, afterwards the change
//! goes forward only. Main function: [`Coordinator::go_on`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::judgement::{Known, name_before};
use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::hooks;
use crate::failover::names::tag;
use crate::failover::primary;
use crate::failover::standby::{self, Look};
use crate::state_store::{
    Change, ChangeKind, Outcome, Phase, Quarantine, ShardRecord, StandbySettings, StoredHorizon,
    SyncNames, SyncRecord,
};
use crate::testimony::Standing;

/// How long those who relay may take to say that they have cut off a reign.
const CUT_LIMIT: Duration = Duration::from_secs(5);
/// How long transactions may go on once a planned change has begun.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// So long after new work is held, who was about to begin has begun.
const SETTLING: Duration = Duration::from_millis(50);
/// How long a fence may take where the server is not known to answer.
const FENCE_LIMIT: Duration = Duration::from_secs(2);
/// How long `fence_command` may take.
const FENCE_COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long the new primary of a planned change may take to replay what the old one has written.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);
/// How long the first row of a reign may wait for its acknowledgement before the reign begins all the same: its writes wait then.
const GATE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(2);

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

    fn check_cancelled(&self) -> Result<(), ControlError> {
        if self.is_cancelled() {
            return Err(ControlError::NotNow(
                "an operator has cancelled it".to_owned(),
            ));
        }
        Ok(())
    }

    /// Keeps the old primary from acknowledging anything more, and finds who is to follow it.
    async fn revoke(&mut self, record: &ShardRecord, change: &Change) -> Result<(), ControlError> {
        self.wait_until_cut(record.epoch).await?;
        self.step(change, "connections to the old primary cut");
        let fencing = match change.kind {
            ChangeKind::Switchover => {
                self.hand_over(record, change).await?;
                None
            }
            ChangeKind::Failover | ChangeKind::Forced => self.start_fencing(record, change),
        };
        let known = self.revoke_standbys(record, change).await?;
        self.step(change, "standbys taken from the old primary");
        self.check_is_still_gone(record, change)?;
        let acknowledged_by = change.acknowledged_by.as_deref();
        let wanted = change.wanted.as_deref();
        let chosen = self.judge(record, change.kind, wanted, acknowledged_by, &known)?;
        let candidate = Arc::clone(&self.members[chosen]);
        standby::replay_all(&candidate.line).await?;
        self.step(change, "received WAL replayed");
        if let Some(fencing) = fencing {
            self.finish_fencing(record, change, fencing).await?;
        }
        let horizon = primary::horizon(&candidate.line).await?;
        let names = self.names_under(record, &candidate, &known);
        if let Some(names) = &names {
            primary::set_acknowledgers(&candidate.line, &names.to_setting()).await?;
        }
        self.check_is_still_gone(record, change)?;
        self.check_cancelled()?;
        let name = candidate.name().to_owned();
        self.update(record.epoch, move |record| {
            let mut before = Vec::new();
            if let Some(sync) = record.sync.take() {
                before = sync.before;
                before.push(sync.new);
            }
            record.sync = names.map(|new| SyncRecord { new, before });
            if let Some(change) = &mut record.change {
                change.phase = Phase::Promoting;
                change.candidate = Some(name);
                change.horizon = Some(horizon);
            }
        })
        .await
        .map(drop)
    }

    /// No answer of the old primary's is relayed any more: only then does a position that is read mean anything.
    async fn wait_until_cut(&self, epoch: u64) -> Result<(), ControlError> {
        let begun = Instant::now();
        let epoch = pgherd_topology::Epoch(epoch);
        loop {
            let is_cut = self.with_shard(|shard| shard.epoch >= epoch && shard.cuts.is_cut(epoch));
            if is_cut == Some(true) {
                return Ok(());
            }
            if begun.elapsed() > CUT_LIMIT {
                return Err(ControlError::NotNow(
                    "not everybody has cut off the old primary".to_owned(),
                ));
            }
            sleep(POLL).await;
        }
    }

    /// A planned change: the old primary writes no more, and the one that follows has all that it wrote.
    async fn hand_over(
        &mut self,
        record: &ShardRecord,
        change: &Change,
    ) -> Result<(), ControlError> {
        let old = self.member(&change.from)?;
        primary::fence(&old.line, record.epoch).await?;
        let end = primary::insert_position(&old.line).await?;
        self.step(change, "old primary fenced");
        let target = self.member(change.wanted.as_deref().unwrap_or_default())?;
        if !standby::look(&target.line).await?.is_revoked(record.epoch) {
            standby::replay_to(&target.line, end, CATCH_UP_LIMIT).await?;
            self.step(change, "new primary has everything");
        }
        Ok(())
    }

    /// Fences the old primary where it can be reached, and by the operator's command.
    fn start_fencing(&self, record: &ShardRecord, change: &Change) -> Option<FencingTask> {
        let old = self.member(&change.from).ok()?;
        let epoch = record.epoch;
        let command = self.failover().fence_command.clone();
        let knowledge = self.knowledge(epoch).server(old.name(), &old.address);
        Some(FencingTask(tokio::spawn(async move {
            let by_sql = timeout(FENCE_LIMIT, primary::fence(&old.line, epoch));
            let by_command = async {
                match command {
                    Some(command) => {
                        let run =
                            hooks::run("fence_command", &command, knowledge, FENCE_COMMAND_LIMIT);
                        Some(run.await)
                    }
                    None => None,
                }
            };
            let (by_sql, by_command) = tokio::join!(by_sql, by_command);
            Fencing {
                by_sql: matches!(by_sql, Ok(Ok(()))),
                by_command,
            }
        })))
    }

    /// Where standbys acknowledge, a primary without them acknowledges nothing. Else its fence is all that keeps it from that.
    async fn finish_fencing(
        &mut self,
        record: &ShardRecord,
        change: &Change,
        mut fencing: FencingTask,
    ) -> Result<(), ControlError> {
        if record.sync.is_some() && !fencing.0.is_finished() {
            // one that hangs does not hold up what no longer depends on it
            self.step(change, "old primary not reached to be fenced");
            return Ok(());
        }
        let fencing = (&mut fencing.0).await.map_err(|_| ControlError::Stopped)?;
        if let Some(Err(error)) = fencing.by_command {
            if record.sync.is_none() && change.kind != ChangeKind::Forced && !fencing.by_sql {
                return Err(ControlError::NotNow(format!(
                    "the old primary may still take writes: {error}"
                )));
            }
            tracing::error!(shard = %self.name, %error, "the old primary may still run");
        }
        self.step(
            change,
            if fencing.by_sql {
                "old primary fenced"
            } else {
                "old primary not reached to be fenced"
            },
        );
        Ok(())
    }

    /// One that is the same and answers again is no reason to promote another.
    fn check_is_still_gone(
        &self,
        record: &ShardRecord,
        change: &Change,
    ) -> Result<(), ControlError> {
        if change.kind != ChangeKind::Failover || change.answered || change.candidate.is_some() {
            return Ok(());
        }
        let view = self.view.borrow();
        let evidence = self
            .position(&change.from)
            .and_then(|position| view.evidence.get(position));
        let is_back = evidence.is_some_and(|evidence| {
            let standing = evidence.said.as_ref().map(|(_, said)| &said.standing);
            let timeline = record.timeline;
            evidence.answers() && standing == Some(&Standing::Claimant { timeline })
        });
        if is_back {
            return Err(ControlError::NotNow("it answers again".to_owned()));
        }
        Ok(())
    }

    /// Takes all standbys that are reached from the old primary. How they were set is on record before.
    async fn revoke_standbys(
        &mut self,
        record: &ShardRecord,
        change: &Change,
    ) -> Result<Vec<Known>, ControlError> {
        let epoch = record.epoch;
        let others = self.others(record);
        let looks = self
            .at_once(others.iter().copied(), |_, member| async move {
                standby::look(&member.line).await
            })
            .await;
        let standbys: Vec<(usize, Look)> = looks
            .into_iter()
            .filter_map(|(position, look)| Some((position, look.ok()?)))
            .filter(|(_, look)| {
                look.in_recovery && look.system_identifier == record.system_identifier
            })
            .collect();
        let new: BTreeMap<String, StandbySettings> = standbys
            .iter()
            .filter(|(_, look)| !look.settings.slot.starts_with("revoked_e"))
            .map(|(position, look)| {
                let name = self.members[*position].name().to_owned();
                (name, look.settings.clone())
            })
            .collect();
        let mut undo = change.undo.clone();
        undo.extend(new);
        let kept = undo.clone();
        self.update(epoch, move |record| {
            if let Some(change) = &mut record.change {
                change.undo = kept;
            }
        })
        .await?;
        let positions: Vec<usize> = standbys.iter().map(|(position, _)| *position).collect();
        let revoked = match change.kind {
            ChangeKind::Switchover => self.revoke_target_last(epoch, change, positions).await?,
            ChangeKind::Failover | ChangeKind::Forced => self.revoke_each(epoch, positions).await,
        };
        let mut known: Vec<Known> = others
            .iter()
            .map(|position| self.last_known(record, *position).unreached())
            .collect();
        for (position, look) in revoked {
            let name = self.members[position].name();
            match look {
                Ok(look) => {
                    let goes_by = name_before(&undo, name, &look);
                    let looked_at = Known::looked_at(position, &look, goes_by);
                    if let Some(known) = known.iter_mut().find(|known| known.position == position) {
                        *known = looked_at;
                    }
                }
                Err(error) => {
                    tracing::warn!(shard = %self.name, server = name, %error, "a standby was not taken from the old primary");
                }
            }
        }
        Ok(known)
    }

    async fn revoke_each(
        &self,
        epoch: u64,
        positions: Vec<usize>,
    ) -> Vec<(usize, Result<Look, ControlError>)> {
        self.at_once(positions, |_, member| async move {
            standby::revoke(&member.line, epoch).await
        })
        .await
    }

    /// The old primary still lives, and may write WAL of its own: none of the others must have more of it than the one that they are to follow.
    async fn revoke_target_last(
        &self,
        epoch: u64,
        change: &Change,
        positions: Vec<usize>,
    ) -> Result<Vec<(usize, Result<Look, ControlError>)>, ControlError> {
        let target = change.wanted.as_deref().unwrap_or_default();
        let (last, first): (Vec<usize>, Vec<usize>) = positions
            .into_iter()
            .partition(|position| self.members[*position].name() == target);
        let mut revoked = self.revoke_each(epoch, first).await;
        let furthest = revoked
            .iter()
            .filter_map(|(_, look)| look.as_ref().ok().map(Look::reached))
            .max();
        let target = self.member(target)?;
        if let (Some(furthest), false) = (
            furthest,
            standby::look(&target.line).await?.is_revoked(epoch),
        ) {
            standby::replay_to(&target.line, furthest, CATCH_UP_LIMIT).await?;
        }
        revoked.extend(self.revoke_each(epoch, last).await);
        Ok(revoked)
    }

    /// Who acknowledges what the candidate commits; `None` where that is not looked after.
    fn names_under(
        &self,
        record: &ShardRecord,
        candidate: &Member,
        known: &[Known],
    ) -> Option<SyncNames> {
        let sync = self.failover().sync?;
        let name = |position: usize| tag(self.members[position].name(), record.epoch);
        let is_other = |position: usize| self.members[position].name() != candidate.name();
        let reached = known
            .iter()
            .filter(|known| known.reached && is_other(known.position))
            .map(|known| name(known.position));
        Some(self.fitting(sync, reached.collect(), || {
            (0..self.members.len())
                .filter(|position| is_other(*position))
                .map(name)
                .collect()
        }))
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

/// Fencing an old primary. Given up, it fences nobody who may be written to again by then.
struct FencingTask(JoinHandle<Fencing>);

impl Drop for FencingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came of fencing an old primary.
struct Fencing {
    by_sql: bool,
    /// `None` where there is no command.
    by_command: Option<Result<(), ControlError>>,
}
