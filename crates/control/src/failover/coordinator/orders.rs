//! What operators ask of a shard.
//!
//! Owns checking that it makes sense now, and doing it. Main types: [`FailoverCommand`], [`Desk`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::names::{is_nobody, tag};
use crate::failover::verdict::Verdict;
use crate::failover::{primary, standby};
use crate::state_store::{ChangeKind, Outcome, Phase, Reign, ShardRecord, SyncNames};

/// Orders wait in a channel of this length.
const ORDERS: usize = 16;
/// How long a checkpoint before a planned change may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(120);

/// Something an operator wants of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailoverCommand {
    /// Another primary, without losing anything.
    Switchover {
        /// Who; the furthest standby where none is named.
        to: Option<Box<str>>,
    },
    /// Another primary in the place of one that is gone.
    Failover {
        /// Who.
        to: Option<Box<str>>,
        /// Whether acknowledged writes may be lost.
        force: bool,
    },
    /// A server that was deposed is to follow the primary.
    Rejoin {
        /// Which.
        server: Box<str>,
    },
    /// A server is neither to be written to nor read from.
    Quarantine {
        /// Which.
        server: Box<str>,
    },
    /// The end of that.
    Release {
        /// Which.
        server: Box<str>,
    },
    /// The change under way is to be undone.
    Cancel,
    /// A server is the primary, whatever the state store says.
    Adopt {
        /// Which.
        primary: Box<str>,
    },
}

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Order {
    command: FailoverCommand,
    progress: mpsc::UnboundedSender<String>,
    done: oneshot::Sender<Result<String, ControlError>>,
}

/// Where a shard's orders are taken.
#[derive(Debug)]
pub(crate) struct Desk {
    orders: mpsc::Sender<Order>,
    cancelled: Arc<AtomicBool>,
}

impl Desk {
    /// With what its coordinator needs.
    pub(crate) fn new() -> (Self, (mpsc::Receiver<Order>, Arc<AtomicBool>)) {
        let (orders, taken) = mpsc::channel(ORDERS);
        let cancelled = Arc::new(AtomicBool::new(false));
        let desk = Self {
            orders,
            cancelled: Arc::clone(&cancelled),
        };
        (desk, (taken, cancelled))
    }

    /// Gives an order and waits until it is carried out; what came of it, in words. Dropped, the order is carried out all the same.
    ///
    /// # Errors
    /// [`ControlError::NotNow`] and what else is in the way.
    pub(crate) async fn order(
        &self,
        command: FailoverCommand,
        progress: mpsc::UnboundedSender<String>,
    ) -> Result<String, ControlError> {
        if command == FailoverCommand::Cancel {
            // the coordinator may be in the middle of it
            self.cancelled.store(true, Ordering::Relaxed);
        }
        let (done, carried_out) = oneshot::channel();
        let order = Order {
            command,
            progress,
            done,
        };
        self.orders
            .send(order)
            .await
            .map_err(|_| ControlError::Stopped)?;
        carried_out.await.map_err(|_| ControlError::Stopped)?
    }
}

impl Coordinator {
    /// Carries out an order and says what came of it.
    pub(super) async fn obey(&mut self, order: Order) {
        let Order {
            command,
            progress,
            done,
        } = order;
        if let FailoverCommand::Rejoin { server } = &command {
            match self.prepare_rejoin(server).await {
                // it may take long, and the shard is looked after meanwhile
                Ok(rejoin) => drop(tokio::spawn(rejoin.run(progress, done))),
                Err(error) => drop(done.send(Err(error))),
            }
            return;
        }
        self.listener = Some(progress);
        let outcome = self.carry_out(command).await;
        self.listener = None;
        // nobody may be left to hear of it
        drop(done.send(outcome));
    }

    async fn carry_out(&mut self, command: FailoverCommand) -> Result<String, ControlError> {
        match command {
            FailoverCommand::Adopt { primary } => self.adopt(&primary).await,
            FailoverCommand::Cancel => self.cancel().await,
            command => {
                let record = self.stable_record()?;
                self.carry_out_on(&record, command).await
            }
        }
    }

    pub(super) fn stable_record(&self) -> Result<ShardRecord, ControlError> {
        let record = self.record().ok_or_else(|| {
            ControlError::NotNow(format!(
                "nobody is known to be the primary of shard {}: ADOPT SHARD names it",
                self.name
            ))
        })?;
        if record.change.is_some() {
            return Err(ControlError::NotNow(format!(
                "the primary of shard {} is being changed already",
                self.name
            )));
        }
        Ok(record)
    }

    async fn carry_out_on(
        &mut self,
        record: &ShardRecord,
        command: FailoverCommand,
    ) -> Result<String, ControlError> {
        match command {
            FailoverCommand::Switchover { to } => self.switch_over(record, to.as_deref()).await,
            FailoverCommand::Failover { to, force } => {
                self.fail_over_as_told(record, to.as_deref(), force).await
            }
            FailoverCommand::Quarantine { server } => {
                let member = self.other_than_primary(record, &server)?;
                let reason = "an operator".to_owned();
                self.quarantine(record, member.name(), reason, true).await?;
                Ok(format!("{server} is in quarantine"))
            }
            FailoverCommand::Release { server } => {
                let member = self.other_than_primary(record, &server)?;
                let name = member.name().to_owned();
                if !record.quarantine.contains_key(&name) {
                    return Err(ControlError::NotNow(format!("{name} is not in quarantine")));
                }
                self.update(record.epoch, move |record| {
                    record.quarantine.remove(&name);
                })
                .await?;
                Ok(format!("{server} is released"))
            }
            FailoverCommand::Rejoin { .. }
            | FailoverCommand::Adopt { .. }
            | FailoverCommand::Cancel => Ok(String::new()),
        }
    }

    pub(super) fn other_than_primary(
        &self,
        record: &ShardRecord,
        server: &str,
    ) -> Result<Arc<Member>, ControlError> {
        let member = self.member(server)?;
        if member.name() == record.primary {
            return Err(ControlError::NotNow(format!(
                "{server} is the primary of shard {}",
                self.name
            )));
        }
        Ok(member)
    }

    async fn switch_over(
        &mut self,
        record: &ShardRecord,
        to: Option<&str>,
    ) -> Result<String, ControlError> {
        let verdict = self.view.borrow().verdict;
        if !matches!(verdict, Some(Verdict::Well | Verdict::Slow)) {
            return Err(ControlError::NotNow(format!(
                "{} is {}: a planned change takes a primary that is well",
                record.primary,
                verdict.map_or_else(|| "not known".to_owned(), |verdict| verdict.to_string())
            )));
        }
        let target = match to {
            Some(to) => self.other_than_primary(record, to)?,
            None => Arc::clone(&self.members[self.foresee(record)?]),
        };
        if record.quarantine.contains_key(target.name()) || target.priority == 0 {
            return Err(ControlError::NotNow(format!(
                "{} is in quarantine, or has priority 0",
                target.name()
            )));
        }
        self.check_enough_would_remain(record, &target)?;
        self.tell(format!("checkpoint on {}", record.primary));
        let old = self.member(&record.primary)?;
        primary::checkpoint(&old.line, CHECKPOINT_LIMIT).await?;
        let reason = "an operator wants it".to_owned();
        self.begin(ChangeKind::Switchover, Some(target.name()), reason)
            .await?;
        self.go_on().await?;
        self.outcome()
    }

    /// Who acknowledges once the target is the primary.
    fn check_enough_would_remain(
        &self,
        record: &ShardRecord,
        target: &Member,
    ) -> Result<(), ControlError> {
        let Some(sync) = self.failover().sync else {
            return Ok(());
        };
        let remaining = self
            .others(record)
            .into_iter()
            .filter(|position| self.members[*position].name() != target.name())
            .filter(|position| self.last_known(record, *position).reached)
            .count();
        if remaining < usize::from(sync.acks) {
            return Err(ControlError::NotNow(format!(
                "{remaining} standbys would remain, and {} must acknowledge a commit",
                sync.acks
            )));
        }
        Ok(())
    }

    async fn fail_over_as_told(
        &mut self,
        record: &ShardRecord,
        to: Option<&str>,
        force: bool,
    ) -> Result<String, ControlError> {
        if let Some(to) = to {
            self.other_than_primary(record, to)?;
        }
        let verdict = self.view.borrow().verdict;
        if !force && matches!(verdict, Some(Verdict::Well | Verdict::Slow)) {
            return Err(ControlError::NotNow(format!(
                "{} is well: SWITCHOVER SHARD {} changes it without loss",
                record.primary, self.name
            )));
        }
        let kind = match force {
            true => ChangeKind::Forced,
            false => ChangeKind::Failover,
        };
        let reason = verdict.map_or_else(
            || "an operator wants it".to_owned(),
            |verdict| format!("an operator wants it; {verdict}"),
        );
        self.begin(kind, to, reason).await?;
        self.go_on().await?;
        self.outcome()
    }

    fn outcome(&self) -> Result<String, ControlError> {
        let record = self.record();
        let last = record.as_ref().and_then(|record| record.history.last());
        match last.map(|last| (&last.outcome, last)) {
            Some((Outcome::Promoted, last)) => Ok(format!(
                "{} is the primary of shard {} in epoch {}, after {} ms",
                last.to, self.name, last.epoch, last.took
            )),
            Some((Outcome::Restored(reason), last)) => Err(ControlError::NotNow(format!(
                "{} stays the primary: {reason}",
                last.from
            ))),
            None => Err(ControlError::Stopped),
        }
    }

    async fn cancel(&mut self) -> Result<String, ControlError> {
        let record = self.record();
        let change = record.as_ref().and_then(|record| record.change.as_ref());
        let outcome = match change {
            Some(change) if change.phase == Phase::Promoting => {
                Err("a promotion was sent already: it can only go on")
            }
            Some(_) => Ok(()),
            None => {
                // it was undone before this order was read, or has ended
                let last = record.as_ref().and_then(|record| record.history.last());
                match last.map(|last| &last.outcome) {
                    Some(Outcome::Restored(_)) if self.is_cancelled() => Ok(()),
                    _ => Err("no change of primary is under way"),
                }
            }
        };
        match outcome {
            Ok(()) => {
                self.go_on().await?;
                self.cancelled.store(false, Ordering::Relaxed);
                Ok("the change is undone".to_owned())
            }
            Err(text) => {
                self.cancelled.store(false, Ordering::Relaxed);
                Err(ControlError::NotNow(text.to_owned()))
            }
        }
    }

    /// An operator knows better than the store.
    async fn adopt(&mut self, server: &str) -> Result<String, ControlError> {
        let member = self.member(server)?;
        let timeline = primary::promoted(&member.line).await?.ok_or_else(|| {
            ControlError::NotNow(format!("{server} is in recovery: it is no primary"))
        })?;
        let look = standby::look(&member.line).await?;
        let is_fenced = is_nobody(&primary::acknowledgers(&member.line).await?);
        let written = {
            let view = self.view.borrow();
            let reigns = view
                .evidence
                .iter()
                .filter_map(|evidence| evidence.said.as_ref()?.1.reign);
            reigns.max().unwrap_or_default()
        };
        let known = self.record();
        let before = known.as_ref().map_or(0, |record| record.epoch);
        let epoch = before.max(written) + 1;
        let reign = Reign {
            epoch,
            primary: server.to_owned(),
            timeline,
            system_identifier: look.system_identifier,
        };
        let mut next = ShardRecord::from(reign);
        next.complete_since = epoch;
        if is_fenced {
            // it counted as deposed until now
            let names = self.failover().sync.map(|sync| {
                let others = self.members.iter().filter(|member| member.name() != server);
                SyncNames {
                    acks: sync.acks,
                    names: others.map(|other| tag(other.name(), epoch)).collect(),
                }
            });
            next.fenced = Some(names.map_or_else(String::new, |names| names.to_setting()));
        }
        if let Some(known) = known {
            next.quarantine = known.quarantine;
            next.history = known.history;
            next.quarantine.remove(server);
        }
        let (state, database, shard) = (
            Arc::clone(&self.settings.state),
            self.settings.database.clone(),
            self.name.clone(),
        );
        let adopting = tokio::task::spawn_blocking(move || {
            state.update_shard((&database, &shard), before, |_| next)
        });
        adopting.await.map_err(|_| ControlError::Stopped)??;
        self.publish();
        let text = format!("{server} is the primary, epoch {epoch}: an operator says so");
        tracing::warn!(shard = %self.name, "{text}");
        self.notify("adoption", &text);
        Ok(text)
    }
}
