//! A request on one server, tried elsewhere where that is safe.
//!
//! Owns: relaying a request on the leg that its route gives, and the next try of a read whose server was lost or could not answer
//! before anything was handed to the client, or of any request of which nothing was done (`repeating`). Never does: requests over several servers (`everywhere.rs`). Main function:
//! [`Session::on_one_leg`].

use std::time::Instant;

use pgherd_protocol::SqlState;
use pgherd_router::Access;
use pgherd_topology::{NodeId, Role, ShardId};

use crate::committing::{SettleError, Watch, not_kept, unacknowledged};
use crate::copy::{CopyPause, copy_in, fail_copy};
use crate::extended::OpenRun;
use crate::failure::{Failure, not_supported};
use crate::holding::Missing;
use crate::relay::{Outcome, Pause, Relay, RelayError};
use crate::repeating::{Asked, Loss};
use crate::route::{Place, Route};
use crate::script::Script;
use crate::session::Session;
use crate::shape::{Promised, STALE_PLAN};
use crate::watching::HELD_BACK;

/// How often a request that only reads is tried, on another server each time, before the client hears of it.
const READ_TRIES: u32 = 3;

/// How often any request is tried where one server takes another's place, before the client hears of it.
const TRIES: u32 = 20;

/// What came of a request on a leg.
pub(crate) type Relayed = Result<Outcome, Box<Loss>>;

/// A request that ran on one leg.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
}

/// One try of a request.
struct Attempt {
    node: NodeId,
    shard: ShardId,
    access: Access,
    watch: Option<Watch>,
    /// How long the client's replies were before it.
    taken: usize,
    /// Whether nothing was written to the client since.
    unheard: bool,
    /// Whether nothing that the session has on the server is needed.
    alone: bool,
    /// Whether it only reads, and may be tried elsewhere.
    may_retry: bool,
    tries: u32,
}

impl Ran {
    /// # Errors
    /// 08007 where the server has committed what standbys may not have. The client has not heard of success.
    pub(crate) fn acknowledged(&self) -> Result<(), Failure> {
        match self.outcome.unacknowledged {
            None => Ok(()),
            Some(_) => Err(unacknowledged()),
        }
    }
}

impl Session {
    /// Runs a request on the server that holds the pipeline which it goes on with, or on the one that its route gives.
    ///
    /// # Errors
    /// Those of [`Session::on_one_leg`] and [`Session::continue_on`].
    pub(crate) async fn on_leg(
        &mut self,
        route: &Route,
        asked: &Asked<'_>,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let ran = self.try_on_leg(route, &[], asked, queue).await?;
        self.heard(ran)
    }

    /// As [`Session::on_leg`], but what became of pgherd's own messages is left to [`Session::heard`]. The server is asked first for
    /// what is promised of statements.
    ///
    /// # Errors
    /// As [`Session::on_leg`].
    pub(crate) async fn try_on_leg(
        &mut self,
        route: &Route,
        promised: &[Promised],
        asked: &Asked<'_>,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        match self.open_run.take() {
            Some(open) => {
                self.continue_on(open.node, route, promised, asked, queue)
                    .await
            }
            None => self.on_one_leg(route, promised, asked, queue).await,
        }
    }

    /// Runs a request on the one server that its route gives; reads are tried elsewhere where a server is lost, or a
    /// replica cannot answer, before anything was handed to the client.
    ///
    /// # Errors
    /// No server, no connection, or a lost one (08007 where a write may have taken effect).
    async fn on_one_leg(
        &mut self,
        route: &Route,
        promised: &[Promised],
        asked: &Asked<'_>,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let shard = match route.place {
            Place::Shard(shard) => shard,
            Place::Nowhere | Place::Any | Place::All | Place::EachInTurn => self.any_shard(),
        };
        self.check_moment(shard, route)?;
        let mut access = route.access;
        let mut tries = 1;
        loop {
            let taken = self.client.outbox.len();
            self.script.clear();
            let node = self.leg_for(shard, access, route).await?;
            let sent = self.client.bytes_written();
            let leg = self.legs.at(node);
            leg.used.clear();
            leg.describes = false;
            // settings and prepared statements can be made again elsewhere
            let alone = self.block.is_none() && !leg.sticky;
            let may_retry =
                alone && route.access == Access::Read && self.may_try_again(shard, tries);
            let mut watch = None;
            let result = match self.ask_first(node, promised, false).await? {
                Some(ended) => ended.map_err(|mut loss| {
                    // that was pgherd's own
                    loss.is_sent = false;
                    loss
                }),
                None => {
                    watch = match self.watch_commit(node, asked).await? {
                        None if alone => self.watch_write(node, route, asked),
                        watched => watched,
                    };
                    let relayed = self.relay_on(node, may_retry, &queue).await;
                    if relayed.is_err() {
                        self.end_watch(watch);
                    }
                    relayed?
                }
            };
            let unheard = self.client.bytes_written() == sent;
            match result {
                Ok(outcome)
                    if may_retry && !outcome.forwarded && self.is_for_primary(node, &outcome) =>
                {
                    self.client.outbox.truncate(taken);
                    access = Access::Write;
                }
                // what another client has left is no affair of this one's
                Ok(outcome)
                    if outcome.not_brought
                        && self.legs.at(node).inherited
                        && tries < READ_TRIES =>
                {
                    self.legs.close(node);
                }
                Ok(outcome)
                    if self.can_be_prepared_anew(node, &outcome)
                        && alone
                        && tries < READ_TRIES
                        && unheard =>
                {
                    self.client.outbox.truncate(taken);
                }
                Ok(outcome)
                    if alone
                        && tries < TRIES
                        && unheard
                        && self.takes_no_writes(node, &outcome)
                        && (asked.is_undone)() =>
                {
                    self.client.outbox.truncate(taken);
                    self.legs.close(node);
                    Box::pin(self.hold(shard, Missing::Writable)).await?;
                }
                Ok(mut outcome) => {
                    if outcome.unacknowledged.is_some() {
                        Box::pin(self.see_to_acknowledgement(node, &mut outcome)).await;
                    }
                    self.end_watch(watch);
                    return Ok(Ran {
                        outcome,
                        node,
                        shard,
                    });
                }
                Err(loss) => {
                    let attempt = Attempt {
                        node,
                        shard,
                        access: route.access,
                        watch: watch.take(),
                        taken,
                        unheard,
                        alone,
                        may_retry,
                        tries,
                    };
                    if let Some(ran) = self.after_loss(&attempt, loss, asked).await? {
                        return Ok(ran);
                    }
                    if tries + 1 >= READ_TRIES {
                        access = Access::Write;
                    }
                }
            }
            self.end_watch(watch);
            self.legs.release();
            tries += 1;
        }
    }

    /// What becomes of a request whose server was lost in its midst: `None` where it is to be tried again.
    ///
    /// # Errors
    /// What its client hears.
    async fn after_loss(
        &mut self,
        attempt: &Attempt,
        loss: Box<Loss>,
        asked: &Asked<'_>,
    ) -> Result<Option<Ran>, Failure> {
        let may_run_again = attempt.alone && attempt.tries < TRIES && attempt.unheard;
        let loss = match attempt.watch {
            None => loss,
            Some(watched) => {
                let settled = Box::pin(self.settle_commit(attempt.node, watched, loss)).await;
                self.end_watch(Some(watched));
                let error = match settled {
                    Ok(ran) => return Ok(Some(ran)),
                    Err(error) => error,
                };
                if attempt.unheard {
                    self.client.outbox.truncate(attempt.taken);
                }
                match error {
                    SettleError::Lost(loss) => loss,
                    SettleError::Undone if may_run_again => return Ok(None),
                    SettleError::Undone => return Err(not_kept()),
                    SettleError::Failed(failure) => return Err(failure),
                }
            }
        };
        let reads_again = attempt.may_retry
            && !loss.outcome.forwarded
            && matches!(loss.error, RelayError::Server { .. });
        let runs_again =
            reads_again || (may_run_again && self.may_repeat(attempt.shard, &loss, asked));
        if !runs_again {
            return Err(self.lost_in_request(attempt.node, *loss, attempt.access, asked));
        }
        self.client.outbox.truncate(attempt.taken);
        let _ = self.lost(attempt.node, loss.error);
        Ok(None)
    }

    /// Whether a read that was tried so often may be tried again.
    fn may_try_again(&self, shard: ShardId, tries: u32) -> bool {
        tries < READ_TRIES || (tries < TRIES && self.is_holding(shard))
    }

    /// A transaction began at one moment, and each server of a block has its own.
    fn check_moment(&mut self, shard: ShardId, route: &Route) -> Result<(), Failure> {
        let Some(block) = self.block.as_mut().filter(|_| route.reads_moment) else {
            return Ok(());
        };
        if *block.moment.get_or_insert(shard) == shard {
            return Ok(());
        }
        Err(not_supported(
            "the moment at which the transaction began is not the same on every shard",
            "The block has read now() or its like on another shard already.",
            "Read it once, and send it as a literal or a parameter.",
        ))
    }

    /// Goes on with a pipeline on the server that has its earlier part.
    ///
    /// # Errors
    /// 0A000 where the rest belongs elsewhere; the earlier part is rolled back by the caller.
    async fn continue_on(
        &mut self,
        node: NodeId,
        route: &Route,
        promised: &[Promised],
        asked: &Asked<'_>,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let shard = self.legs.at(node).shard;
        let open = OpenRun { node, skips: false };
        let may_go_on = self
            .begin_sending()
            .and_then(|()| self.check_moment(shard, route));
        if let Err(failure) = may_go_on {
            self.open_run = Some(open);
            return Err(failure);
        }
        let leg = self.legs.at(node);
        let fits = match route.place {
            Place::Nowhere | Place::Any => true,
            Place::Shard(wanted) => wanted == shard,
            Place::All | Place::EachInTurn => false,
        };
        let is_replica = leg.role == Role::Replica;
        if !fits || (route.access == Access::Write && is_replica && !self.wants_replica()) {
            self.open_run = Some(open);
            return Err(not_supported(
                "all statements of a pipeline must run on one server",
                "An earlier part was sent to another server before this one came; it is rolled back.",
                "Send a Sync between them.",
            ));
        }
        if let Err(failure) = self.reserve_pin(node, route) {
            self.open_run = Some(open);
            return Err(failure);
        }
        self.script.clear();
        let result = match self.ask_first(node, promised, true).await? {
            Some(ended) => ended,
            None => self.relay_on(node, false, &queue).await?,
        };
        match result {
            Ok(outcome) => Ok(Ran {
                outcome,
                node,
                shard,
            }),
            Err(loss) => Err(self.lost_in_request(node, *loss, route.access, asked)),
        }
    }

    /// # Errors
    /// That of a message of pgherd's own: the client has not heard it.
    pub(crate) fn heard(&mut self, ran: Ran) -> Result<Ran, Failure> {
        match &ran.outcome.error {
            Some(error) if ran.outcome.error_is_ours => {
                let error = error.clone();
                if ran.outcome.not_brought {
                    self.legs.close(ran.node);
                } else if ran.outcome.status.is_none() {
                    // the pipeline is to be rolled back there
                    self.open_run = Some(OpenRun {
                        node: ran.node,
                        skips: !ran.outcome.differs,
                    });
                }
                self.fail_block();
                Err(error.into())
            }
            _ => Ok(ran),
        }
    }

    /// Queues a request on a leg and relays it to its end.
    ///
    /// # Errors
    /// Those of `queue`: the leg is closed.
    pub(crate) async fn relay_on(
        &mut self,
        node: NodeId,
        hold: bool,
        queue: &impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Relayed, Failure> {
        let mut script = std::mem::take(&mut self.script);
        if let Err(failure) = queue(self, node, &mut script) {
            // half a request must not reach the server
            self.legs.close(node);
            return Err(failure);
        }
        let is_watched = script.probe().is_some();
        let max_message = self.herd.max_message();
        let begun = Instant::now();
        let leg = self.legs.at(node);
        let written = leg.connection.transport.bytes_written();
        let hears = leg.hears;
        // what the client began with is put back before its next request
        let except: &[_] = if self.resets_startup {
            self.beginning.startup()
        } else {
            &[]
        };
        let mut relay = Relay::new(&mut script, leg.translation.as_mut(), hold);
        relay.hearing(hears, &leg.listened);
        relay.telling(&mut self.told, except);
        relay.serving(&leg.client);
        relay.insisting(leg.synchronous);
        relay.naming(&self.statements);
        if is_watched {
            relay.holding_back(self.client.outbox.len() + HELD_BACK);
        }
        let result = loop {
            match relay.run(&mut leg.connection, &mut self.client).await {
                Ok(Pause::Done) => break Ok(()),
                Ok(Pause::CopyIn(protocol)) => {
                    let server = &mut leg.connection.transport;
                    match copy_in(server, &mut self.client, protocol, max_message).await {
                        Ok(CopyPause::Finished) => relay.end_copy(),
                        Ok(CopyPause::Answered) => {}
                        Err(RelayError::Client(_)) => {
                            self.client_left = true;
                            fail_copy(server);
                            relay.end_copy();
                        }
                        Err(error) => break Err(error),
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.client_left |= relay.was_abandoned();
        let outcome = relay.into_outcome();
        leg.metrics.answered(begun.elapsed(), leg.in_block);
        let is_sent = leg.connection.transport.bytes_written() > written;
        if result.is_ok() {
            script.clear();
        }
        // with what is still owed
        self.script = script;
        Ok(match result {
            Ok(()) => Ok(outcome),
            Err(error) => Err(Box::new(Loss {
                error,
                outcome,
                is_sent,
            })),
        })
    }

    /// Whether a request came to nothing because of a shared statement that is not on the server as it should be: gone, by code that was not
    /// read, or made before a definition changed what it returns. Those that the request used are made anew, and the request may be tried
    /// again if its client hears of the columns, or the server was asked whether they are as the client was told.
    fn can_be_prepared_anew(&mut self, node: NodeId, outcome: &Outcome) -> bool {
        let Some(error) = outcome
            .error
            .as_ref()
            .filter(|_| outcome.completed == 0 && !outcome.differs)
        else {
            return false;
        };
        let leg = self.legs.at(node);
        // code of the client's may have met such an error of its own
        let is_gone = error.code == SqlState::INVALID_SQL_STATEMENT_NAME
            && leg
                .used
                .iter()
                .any(|id| error.message.contains(&id.to_string()));
        let is_stale = error.code == SqlState::FEATURE_NOT_SUPPORTED && error.message == STALE_PLAN;
        if !is_gone && !is_stale {
            return false;
        }
        // closed before the next request, which is no error where it is gone
        for id in leg.used.drain(..) {
            leg.connection.prepared.forget_stale(id);
        }
        // who does not ask for the columns goes by what was said of them once
        is_gone || leg.describes || outcome.error_is_ours
    }

    /// Whether a replica said that only the primary can do this, now.
    fn is_for_primary(&mut self, node: NodeId, outcome: &Outcome) -> bool {
        self.legs.at(node).role == Role::Replica
            && outcome.error.as_ref().is_some_and(|error| {
                error.code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || error.code == SqlState::SERIALIZATION_FAILURE
            })
    }
}
