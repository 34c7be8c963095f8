//! Taking a shard from its primary, and finding who is to follow it: all that can be undone.
//!
//! Owns the steps up to `pg_promote`. Main function: [`Coordinator::revoke`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::change::{FENCE_LIMIT, POLL};
use super::judgement::{Known, name_before};
use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::hooks;
use crate::failover::names::tag;
use crate::failover::primary;
use crate::failover::standby::{self, Look};
use crate::state_store::{
    Change, ChangeKind, Phase, ShardRecord, StandbySettings, SyncNames, SyncRecord,
};
use crate::testimony::Standing;

/// How long those who relay may take to say that they have cut off a reign.
const CUT_LIMIT: Duration = Duration::from_secs(5);
/// How long `fence_command` may take.
const FENCE_COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long the new primary of a planned change may take to replay what the old one has written.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Keeps the old primary from acknowledging anything more, and finds who is to follow it.
    pub(super) async fn revoke(
        &mut self,
        record: &ShardRecord,
        change: &Change,
    ) -> Result<(), ControlError> {
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
