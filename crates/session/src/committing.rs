//! COMMIT where more is promised of it: that standbys have it, or that a failover leaves nobody in doubt.
//!
//! Owns: what goes ahead of COMMIT in the same write, making sure that what a server has committed is acknowledged, and finding out after a
//! failover what became of a transaction whose answer was lost. Never does: the commit over several shards (`two_phase`).
//! Main functions: [`Session::watch_commit`], [`Session::is_acknowledged_now`], [`Session::settle_commit`].

use bytes::BytesMut;
use pgherd_pool::PoolMode;
use pgherd_protocol::{PgError, SqlState, TransactionStatus};
use pgherd_topology::{Epoch, Fate, NodeId, ShardId};

use crate::attempt::Ran;
use crate::failure::Failure;
use crate::holding::Missing;
use crate::own::Trouble;
use crate::relay::{Outcome, Relay, RelayError};
use crate::repeating::{Asked, Loss};
use crate::script::{Audience, Reply, Script};
use crate::session::Session;

/// Tells the transaction's id, if it has one. A result of its own is sent at once; behind a Sync it would wait for COMMIT's.
pub(crate) const ASK: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";

/// The same, and a commit of the open transaction waits for the standbys from here on, whatever code that was not read has set. A client's
/// `remote_apply` stays.
pub(crate) const ASK_AND_INSIST: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned(), pg_catalog.set_config('synchronous_commit', \
    CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'remote_apply' \
    THEN 'remote_apply' ELSE 'on' END, true)";

/// Commits something of which no table knows, and waits until standbys have it, and so all that was committed before.
const ACKNOWLEDGED: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', true), \
    pg_catalog.pg_logical_emit_message(true, 'pgherd', '')";

/// What is known of a COMMIT, or a write without a block, that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) shard: ShardId,
    /// The reign in which its connection was opened.
    pub(crate) epoch: Epoch,
    /// Whether it is a write that is all of its transaction, which can be run again.
    pub(crate) is_write: bool,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It is committed, and stays so.
    Committed(NodeId),
    /// Nothing is left of it.
    Undone,
    /// Nobody can say.
    Unknown,
}

impl Session {
    /// Queues what goes ahead of the COMMIT of a block that has written on one server, if anything is promised of it there. It cannot be
    /// cancelled from here on, up to [`Session::end_watch`].
    ///
    /// # Errors
    /// 54000, never in practice.
    pub(crate) async fn watch_commit(
        &mut self,
        node: NodeId,
        asked: &Asked<'_>,
    ) -> Result<Option<Watch>, Failure> {
        let wrote = self
            .block
            .as_ref()
            .is_some_and(|block| block.writer.is_some());
        let leg = self.legs.at(node);
        if !asked.is_commit || !wrote || !leg.in_block || !(leg.synchronous || leg.promotes) {
            return Ok(None);
        }
        let watch = Watch {
            shard: leg.shard,
            epoch: leg.connection.epoch(),
            is_write: false,
        };
        leg.queue_query(if leg.synchronous { ASK_AND_INSIST } else { ASK })?;
        self.script.expect(Reply::Xid, Audience::Pgherd);
        self.registration.begin_decision().await;
        Ok(Some(watch))
    }

    /// What was watched is over.
    pub(crate) fn end_watch(&self, watch: Option<Watch>) {
        if watch.is_some_and(|watch| !watch.is_write) {
            self.registration.end_decision();
        }
    }

    /// Makes sure of what a server has committed without waiting for its standbys: a row that is written there afterwards, and that they
    /// acknowledge, tells that they have it too. If not, the client's replies end where the server warned.
    pub(crate) async fn see_to_acknowledgement(&mut self, node: NodeId, outcome: &mut Outcome) {
        let Some(mark) = outcome.unacknowledged else {
            return;
        };
        if self.is_acknowledged_now(node).await {
            outcome.unacknowledged = None;
        } else {
            self.client.outbox.truncate(mark);
        }
    }

    /// Writes a row of pgherd's own, and waits until standbys have acknowledged it.
    pub(crate) async fn is_acknowledged_now(&mut self, node: NodeId) -> bool {
        let mut script = Script::default();
        let Some(leg) = self.legs.get(node) else {
            return false;
        };
        if leg.connection.status() != TransactionStatus::Idle
            || leg.queue_query(ACKNOWLEDGED).is_err()
        {
            return false;
        }
        script.expect(Reply::Query, Audience::Pgherd);
        let mut relay = Relay::new(&mut script, None, false);
        relay.insisting(true);
        let mut sink = BytesMut::new();
        let ended = relay.collect(&mut leg.connection, &mut sink, None).await;
        let outcome = relay.into_outcome();
        if let Err(error) = ended {
            tracing::debug!(?error, "a server was lost while it waited for its standbys");
            self.legs.close(node);
            return false;
        }
        outcome.error.is_none() && outcome.unacknowledged.is_none()
    }

    /// What became of a COMMIT, or of a write that was watched, whose server was lost before its answer came: success once it is known to have
    /// been kept. Without that the loss is handed back, to be told as any other.
    ///
    /// # Errors
    /// 40001 where COMMIT was not.
    pub(crate) async fn settle_commit(
        &mut self,
        node: NodeId,
        watch: Watch,
        loss: Box<Loss>,
    ) -> Result<Ran, SettleError> {
        let promotes = self.legs.get(node).is_some_and(|leg| leg.promotes);
        let is_open = matches!(loss.error, RelayError::Server { .. }) && !loss.is_undone();
        let xid = loss.outcome.xid.filter(|_| promotes && is_open);
        let Some(xid) = xid.filter(|_| self.legs.mode() != PoolMode::Session) else {
            return Err(SettleError::Lost(loss));
        };
        self.legs.close(node);
        let block = self.block.take();
        // what is owed to the client
        let mut owed = std::mem::take(&mut self.script);
        let resolved = self.outcome_of(watch.shard, watch.epoch, xid).await;
        self.block = block;
        match resolved {
            Ok(Resolved::Committed(node)) => {
                if let Some(tag) = &loss.outcome.tag {
                    self.client.outbox.extend_from_slice(tag.bytes());
                }
                owed.answer_as_committed(&mut self.client.outbox);
                let outcome = Outcome {
                    completed: 1,
                    status: Some(TransactionStatus::Idle),
                    ..loss.outcome
                };
                Ok(Ran {
                    outcome,
                    node,
                    shard: watch.shard,
                })
            }
            Ok(Resolved::Undone) if watch.is_write => Err(SettleError::Undone),
            Ok(Resolved::Undone) => {
                self.forget_block();
                Err(SettleError::Failed(not_kept()))
            }
            Ok(Resolved::Unknown) => {
                self.forget_block();
                Err(SettleError::Failed(in_doubt()))
            }
            Err(Failure::ClientGone) => Err(SettleError::Failed(Failure::ClientGone)),
            Err(failure) => {
                tracing::debug!(?failure, xid, "a transaction could not be resolved");
                self.forget_block();
                Err(SettleError::Failed(in_doubt()))
            }
        }
    }

    /// Finds out what became of a transaction that was begun on a connection of the reign `opened_in`, once another has begun. The leg
    /// that was asked is held afterwards.
    ///
    /// # Errors
    /// Those of [`Session::hold`].
    async fn outcome_of(
        &mut self,
        shard: ShardId,
        opened_in: Epoch,
        xid: u64,
    ) -> Result<Resolved, Failure> {
        let mut is_second_look = false;
        loop {
            let topology = self.topology();
            let Some(state) = topology.shard(shard) else {
                return Ok(Resolved::Unknown);
            };
            let Some(primary) = state.primary else {
                self.hold(shard, Missing::Primary).await?;
                continue;
            };
            let succeeded = state.epoch > opened_in;
            let fate = state.continuity.fate(opened_in, xid);
            if !self.reach_primary(shard, primary).await? {
                continue;
            }
            // one that has just been killed still has connections to lend, for a moment
            if fate.is_none() && !succeeded && (!is_second_look || !self.is_there(primary).await) {
                is_second_look = true;
                self.legs.close(primary);
                self.hold(shard, Missing::Writable).await?;
                continue;
            }
            return match fate {
                // whoever reigns by another's doing says nothing of what it lost, and the same one may have lost it in a crash
                None => {
                    tracing::debug!(xid, succeeded, "nobody knows where the reign before ended");
                    Ok(Resolved::Unknown)
                }
                Some(Fate::NeverArrived) => Ok(Resolved::Undone),
                Some(Fate::Recorded) if !self.is_acknowledged_now(primary).await => {
                    if self.legs.get(primary).is_none() {
                        continue;
                    }
                    tracing::debug!(xid, "the next primary cannot have a row acknowledged");
                    Ok(Resolved::Unknown)
                }
                Some(Fate::Recorded) => self.ask_for_outcome(primary, xid).await,
            };
        }
    }

    /// Whether a server answers.
    async fn is_there(&mut self, node: NodeId) -> bool {
        self.script.clear();
        self.execute(node, "SELECT 1").await.is_ok()
    }

    async fn ask_for_outcome(&mut self, node: NodeId, xid: u64) -> Result<Resolved, Failure> {
        self.script.clear();
        let asks = format!("SELECT pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8)");
        let answer = match self.execute(node, &asks).await {
            Ok(answer) => answer,
            Err(Trouble::Refused(_) | Trouble::Lost(_)) => return Ok(Resolved::Unknown),
        };
        tracing::debug!(xid, status = ?answer.value, "the next primary was asked for a transaction");
        Ok(match answer.value.as_deref() {
            Some("committed") => Resolved::Committed(node),
            Some("aborted") => Resolved::Undone,
            // in progress: it was prepared, or so it seems; none: it is too old
            _ => Resolved::Unknown,
        })
    }
}

/// What a COMMIT whose server was lost came to, other than success.
pub(crate) enum SettleError {
    /// It is not known.
    Lost(Box<Loss>),
    /// It was a write, and nothing is left of it. Its leg is closed.
    Undone,
    /// What its client is told. The block is over.
    Failed(Failure),
}

/// 08007: standbys may not have what the server has committed.
pub(crate) fn unacknowledged() -> Failure {
    PgError::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the outcome of the transaction is not known",
    )
    .detail("Its server has committed it, and its wait for the standbys was cancelled: a failover may lose it.")
    .into()
}

pub(crate) fn not_kept() -> Failure {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "the transaction was lost with its server while it was being committed",
    )
    .hint("Nothing of it is kept. Try again.")
    .into()
}

fn in_doubt() -> Failure {
    PgError::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the outcome of the transaction is not known",
    )
    .detail("The connection was lost while it was being committed, and no server could say what became of it.")
    .into()
}
