//! Extended messages: a run of them up to Sync or Flush is planned together and goes to one server.
//!
//! Owns: the one route of the run (all Executes between two Syncs are one implicit transaction), where it runs, and what becomes of it
//! when a message cannot be done. Never does: simple queries (`simple.rs`); what a message stands for is `message.rs`'s.
//! Main function: [`Session::extended`]. See Postgres documentation, chapters 55.2.3 and 55.2.4.

use bytes::{Bytes, BytesMut};
use pgherd_pool::Shape;
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::{Frame, FrontendMessage, SqlState, tag};
use pgherd_router::{Access, StatementPlan};
use pgherd_topology::NodeId;

use crate::attempt::Ran;
use crate::block::{ends_for_good, is_control, is_plain_commit, opens_for_writing};
use crate::failure::{Failure, not_supported};
use crate::legs::encode;
use crate::message::{ANYWHERE, Run, Step, local_only, passes, single_plan};
use crate::relay::Outcome;
use crate::repeating::{Asked, is_undone};
use crate::request::RunEnd;
use crate::route::{Place, Route};
use crate::script::{Audience, Prepared, Reply, Script};
use crate::session::Session;
use crate::simple::definition;
use crate::watching::is_watchable;

/// A run that a Flush (or the bound on buffers) cut: its server stays in the implicit transaction until Sync.
#[derive(Debug, Clone, Copy)]
pub struct OpenRun {
    /// The server.
    pub node: NodeId,
    /// Whether an error makes it skip everything up to a Sync.
    pub skips: bool,
}

impl Session {
    /// Answers a run of extended messages, its errors too.
    ///
    /// # Errors
    /// What ends the session.
    pub(crate) async fn extended(&mut self, frames: &[Frame], end: RunEnd) -> Result<(), Failure> {
        let mut end = end;
        if !self.skipping
            && let Err(failure) = self.run_of_messages(frames, &mut end).await
        {
            if let Err(lost) = self.abort_open_run().await {
                // the client hears of what came first
                tracing::debug!(
                    ?lost,
                    "a pipeline could not be rolled back: its server is gone"
                );
            }
            self.fail_block();
            match failure {
                Failure::Refused(error) => self.refuse(&error),
                other => return Err(other),
            }
            self.skipping = true;
        }
        if self.skipping && end == RunEnd::Sync {
            self.skipping = false;
            self.ready();
        }
        Ok(())
    }

    /// Runs what can be run. `end` becomes [`RunEnd::Flush`] where the client's Sync counts for nothing.
    async fn run_of_messages(&mut self, frames: &[Frame], end: &mut RunEnd) -> Result<(), Failure> {
        self.tell_unkept()?;
        let mut rest = frames;
        loop {
            let (mut run, failure) = self.understand(rest).await;
            let (_, after) = rest.split_at(run.steps.len());
            let Some(failure) = failure else {
                if after.is_empty() {
                    let ran = self.run_understood(&run, end).await;
                    run.steps.clear();
                    self.spare_steps = run.steps;
                    return ran;
                }
                self.run_understood(&run, &mut RunEnd::Flush.clone())
                    .await?;
                if self.skipping {
                    return Ok(());
                }
                rest = after;
                continue;
            };
            let ends_block =
                self.block.as_ref().is_some_and(|block| block.failed) && run.ends_failed_block();
            if run.steps.is_empty() || !(ends_block || comes_in_its_turn(&failure)) {
                self.forget_unparsed(&run.steps);
                return Err(failure);
            }
            // as Postgres, which answers each message before it looks at the next
            self.run_understood(&run, &mut RunEnd::Flush.clone())
                .await?;
            if self.skipping {
                return Ok(());
            }
            if !ends_block || self.block.as_ref().is_some_and(|block| block.failed) {
                return Err(failure);
            }
            rest = after;
        }
    }

    async fn run_understood(&mut self, run: &Run, end: &mut RunEnd) -> Result<(), Failure> {
        self.check_mode(executed(&run.steps))?;
        match run.route.place {
            Place::All | Place::EachInTurn => {
                let ran = Box::pin(self.run_on_all(run, *end)).await;
                if ran.is_err() {
                    self.forget_unparsed(&run.steps);
                }
                ran
            }
            _ if !run.needs_server && self.open_run.is_none() => {
                Box::pin(self.run_locally(run)).await
            }
            _ => self.run_on_one(run, end).await,
        }
    }

    /// Reads every message, plans and resolves; nothing is sent yet. With a failure the run is what comes before it. Without one it ends early
    /// where what follows can be understood only when it has run.
    async fn understand(&mut self, frames: &[Frame]) -> (Run, Option<Failure>) {
        let mut run = Run {
            steps: std::mem::take(&mut self.spare_steps),
            route: Route::NOWHERE,
            needs_server: false,
            opens: false,
            executes: false,
        };
        let mut parsed_for = Route::NOWHERE;
        let mut failure = None;
        for frame in frames {
            let ends = run
                .steps
                .last()
                .is_some_and(|(step, _)| self.ends_understanding(step));
            if ends && frame.tag() != tag::frontend::SYNC {
                break;
            }
            match self.understand_one(frame, &mut run, &mut parsed_for).await {
                Ok(step) => run.steps.push((step, frame.clone())),
                Err(refused) => {
                    failure = Some(refused);
                    break;
                }
            }
        }
        let controls_pass = run.needs_server || self.open_run.is_some() || !self.controls_itself();
        if controls_pass {
            run.needs_server |= run.steps.iter().any(|(step, _)| match step {
                Step::Parse(statement) | Step::DescribeStatement(statement) => passes(statement),
                Step::Bind { bound, .. }
                | Step::Execute { bound }
                | Step::DescribePortal(bound) => passes(&bound.statement),
                Step::ClosePortal { live, .. } => *live,
                Step::OnCursor(_) => true,
                Step::CloseStatement | Step::Sync => false,
            });
        }
        if run.route.place == Place::Nowhere {
            run.route = parsed_for;
        } else {
            // what is parsed here without being bound must be known to the same server; what any server can parse, all can
            let access = run.route.access;
            if (run.route.place, parsed_for.place) != (Place::All, Place::Any)
                && let Err(refused) = run.route.join(&parsed_for, &self.sharding())
            {
                self.forget_unparsed(&run.steps);
                run.steps.clear();
                failure = Some(refused);
            }
            run.route.access = access;
        }
        (run, failure)
    }

    /// A run of nothing but transaction control and pgherd's own statements.
    async fn run_locally(&mut self, run: &Run) -> Result<(), Failure> {
        for (step, _) in &run.steps {
            let mut out = BytesMut::new();
            self.answer_step(step, &mut out).await?;
            self.client.outbox.extend_from_slice(&out);
        }
        Ok(())
    }

    async fn run_on_one(&mut self, run: &Run, end: &mut RunEnd) -> Result<(), Failure> {
        // whether COPY begins, and so whether a Sync right behind it counts, only the server's answer tells
        let waits_for_copy = *end == RunEnd::Sync && run.copies_in_last();
        let (steps, cut) = match run.steps.split_last() {
            Some((_, before)) if waits_for_copy => (before, true),
            _ => (run.steps.as_slice(), *end != RunEnd::Sync),
        };
        let ran = match self.send_run(run, steps, cut).await {
            Ok(ran) => ran,
            Err(failure) => {
                // its client hears of nothing but that
                self.forget_unparsed(&run.steps);
                return Err(failure);
            }
        };
        self.forget_skipped(&run.steps, &ran.outcome);
        let ran = self.heard(ran)?;
        self.note_run(run, &ran.outcome, ran.node);
        self.after_request(&ran);
        let copied = ran.outcome.copied_in;
        self.note_end_of_run(&ran, cut).await?;
        ran.acknowledged()?;
        if waits_for_copy {
            if copied {
                *end = RunEnd::Flush;
            } else if !self.skipping {
                self.sync_open_run(Audience::Client).await?;
            }
        }
        Ok(())
    }

    /// Sends these steps of a run to its server, and relays the answers; `cut`: more of the run is to come.
    async fn send_run(
        &mut self,
        run: &Run,
        steps: &[(Step, Frame)],
        cut: bool,
    ) -> Result<Ran, Failure> {
        let route = self.route_of_run(run, cut)?;
        if let Place::Shard(shard) = route.place {
            for (step, _) in steps {
                if let Step::Execute { bound } = step {
                    let statements = &bound.statement.planned.plan.statements;
                    self.check_writer(shard, route.access, statements)?;
                }
            }
        }
        self.reserve_channels(executed(steps)).await?;
        self.resets_startup = steps.iter().any(|(step, _)| match step {
            Step::Execute { bound } => {
                bound.with_execution(|executed| self.resets(executed)) == Some(true)
            }
            _ => false,
        });
        let local = self.answers_in_run(run).await?;
        // nothing bound, and no transaction that a Sync ends: the server need not be kept until the client's
        let ends_here = cut && !run.opens && self.open_run.is_none();
        let promised = self.asked_first(steps);
        let asked = Asked {
            commits: executed(steps).any(ends_for_good),
            is_commit: is_commit_alone(steps),
            is_undone: &|| {
                steps.iter().all(|(step, _)| match step {
                    Step::Execute { bound } => single_plan(&bound.statement)
                        .is_none_or(|plan| is_undone(plan, &bound.statement.sql)),
                    Step::OnCursor(_) => false,
                    _ => true,
                })
            },
            is_watchable: &|| !cut && local.is_empty() && is_write_alone(steps),
        };
        self.try_on_leg(&route, &promised, &asked, |session, node, script| {
            session.note_beginning(node, script, executed(steps))?;
            if executed(steps).any(|statement| session.calls_set_config(statement)) {
                script.keep_rows();
            }
            for (step, _) in steps {
                if let Step::Execute { bound } = step {
                    session.announce(node, &bound.statement.sql);
                }
            }
            session.queue_run(node, script, steps, &local)?;
            let out = &mut session.legs.at(node).connection.transport.outbox;
            if ends_here {
                encode(&FrontendMessage::Sync, out)?;
                script.expect(Reply::Sync, Audience::Pgherd);
            } else if cut {
                encode(&FrontendMessage::Flush, out)?;
            }
            Ok(())
        })
        .await
    }

    /// What a run leaves: a server that waits for the rest of it, or messages to skip.
    async fn note_end_of_run(&mut self, ran: &Ran, cut: bool) -> Result<(), Failure> {
        let waits = ran.outcome.status.is_none();
        if waits {
            self.open_run = Some(OpenRun {
                node: ran.node,
                skips: ran.outcome.error.is_some(),
            });
        }
        if ran.outcome.error.is_some() {
            self.skipping = cut;
            if waits {
                // the server skips to a Sync: it is not kept waiting for the client's
                self.sync_open_run(Audience::Pgherd).await?;
            }
        }
        Ok(())
    }

    /// The run's route; with a server held since a Flush, that server.
    fn route_of_run(&mut self, run: &Run, cut: bool) -> Result<Route, Failure> {
        let mut route = run.route.clone();
        self.place_signals(&mut route, executed(&run.steps));
        if executed(&run.steps).any(opens_for_writing) {
            // what the block is to do is still to come
            route.access = Access::Write;
        }
        if cut && run.opens && self.block.is_none() {
            // what is still to come may write, and all of it is one transaction
            route.access = Access::Write;
        }
        if route.place == Place::Nowhere {
            route.place = Place::Any;
            route.access = if run.executes {
                Access::Write
            } else {
                route.access
            };
        }
        let several = self.block.as_ref().is_some_and(|block| block.two_phase)
            || self.legs.in_block().len() > 1;
        let controls = run.steps.iter().any(|(step, _)| match step {
            Step::Execute { bound } => {
                single_plan(&bound.statement).is_some_and(|plan| is_control(&plan.action))
            }
            _ => false,
        });
        if controls && several {
            return Err(not_supported(
                "COMMIT, ROLLBACK and savepoints of a transaction on several shards must be sent alone",
                "The pipeline holds other statements too.",
                "Send a Sync before it.",
            ));
        }
        // what is executed may have been bound before
        let pins = executed(&run.steps).find_map(|statement| self.will_pin(statement));
        route.pins = route.pins.or(pins);
        for (step, _) in &run.steps {
            if let Step::Execute { bound } | Step::DescribePortal(bound) = step
                && let Some(node) = bound.node
                && let Some(leg) = self.legs.get(node)
            {
                let there = Route {
                    place: Place::Shard(leg.shard),
                    ..ANYWHERE
                };
                route.join(&there, &self.sharding())?;
            }
        }
        Ok(route)
    }

    /// The answers to those messages of a run that no server is sent, in order, up to the last of them.
    async fn answers_in_run(&mut self, run: &Run) -> Result<Vec<Option<Bytes>>, Failure> {
        let mut answers = Vec::new();
        for (index, (step, _)) in run.steps.iter().enumerate() {
            let local = match step {
                Step::Parse(statement) | Step::DescribeStatement(statement) => {
                    local_only(statement)
                }
                Step::Bind { bound, .. }
                | Step::DescribePortal(bound)
                | Step::Execute { bound } => local_only(&bound.statement),
                // servers keep it
                Step::CloseStatement => true,
                Step::ClosePortal { local, .. } => *local,
                Step::Sync | Step::OnCursor(_) => false,
            };
            if local {
                let mut out = BytesMut::new();
                self.answer_step(step, &mut out).await?;
                answers.resize(index, None);
                answers.push(Some(out.freeze()));
            }
        }
        Ok(answers)
    }

    /// A run that reaches every shard.
    async fn run_on_all(&mut self, run: &Run, end: RunEnd) -> Result<(), Failure> {
        if self.open_run.is_some() || end != RunEnd::Sync {
            return Err(not_supported(
                "a statement for every shard cannot be part of a pipeline that was flushed",
                "Part of the pipeline has been sent to one shard already, or its end is not known.",
                "Send a Sync before and after it.",
            ));
        }
        let local = self.answers_in_run(run).await?;
        let definitions: Vec<_> = run
            .steps
            .iter()
            .filter_map(|(step, _)| match step {
                Step::Execute { bound } => {
                    single_plan(&bound.statement).and_then(definition).cloned()
                }
                _ => None,
            })
            .collect();
        let queue = |session: &mut Self, node: NodeId, script: &mut Script| {
            session.note_beginning(node, script, executed(&run.steps))?;
            session.queue_run(node, script, &run.steps, &local)
        };
        let (mut bytes, outcome) = if run.route.place == Place::All {
            for (step, _) in &run.steps {
                if let Step::Execute { bound } = step {
                    self.check_writer_everywhere(&bound.statement.sql)?;
                }
            }
            Box::pin(self.everywhere(&definitions, queue)).await?
        } else {
            self.each_in_turn(queue).await?
        };
        crate::relay::strip_ready(&mut bytes);
        self.client.outbox.extend_from_slice(&bytes);
        self.forget_skipped(&run.steps, &outcome);
        note_told(&run.steps, &outcome);
        if outcome.error.is_none() {
            for (step, _) in &run.steps {
                if let Step::Execute { bound } = step
                    && let Some(plan) = single_plan(&bound.statement)
                {
                    self.note_catalog(plan);
                }
            }
        }
        self.ready();
        Ok(())
    }

    /// Notes what the Executes that completed have done.
    pub(crate) fn note_run(&mut self, run: &Run, outcome: &Outcome, node: NodeId) {
        let executed = run.steps.iter().filter_map(|(step, _)| match step {
            Step::Execute { bound } if !local_only(&bound.statement) => Some(Some(bound)),
            Step::OnCursor(Reply::Execute) => Some(None),
            _ => None,
        });
        for (index, bound) in executed.enumerate().take(outcome.completed) {
            let Some(bound) = bound else { continue };
            if let Some(plan) = single_plan(&bound.statement) {
                self.note_effects(plan, &bound.statement.sql, node);
            }
            if let Some(row) = outcome.row_of(index) {
                bound.with_execution(|executed| self.note_set_config(executed, Some(row), node));
            }
        }
        note_told(&run.steps, outcome);
    }

    /// A Parse that an error made the server skip has prepared nothing.
    fn forget_skipped(&mut self, steps: &[(Step, Frame)], outcome: &Outcome) {
        if outcome.error.is_some() {
            self.forget_unparsed(&steps[outcome.answered.min(steps.len())..]);
        }
    }

    /// Of a run that was refused as a whole nothing stays.
    fn forget_unparsed(&mut self, steps: &[(Step, Frame)]) {
        for (step, _) in steps {
            if let Step::Parse(statement) = step {
                self.statements
                    .forget(&statement.name, statement.generation);
            }
        }
    }

    /// Rolls back what an earlier part of a flushed pipeline has done, and leaves its server ready.
    ///
    /// # Errors
    /// A lost server.
    pub(crate) async fn abort_open_run(&mut self) -> Result<(), Failure> {
        let Some(OpenRun { node, skips }) = self.open_run else {
            return Ok(());
        };
        let Some(leg) = self.legs.get(node) else {
            self.open_run = None;
            return Ok(());
        };
        let mut script = Script::default();
        if !skips {
            let out = &mut leg.connection.transport.outbox;
            // a Parse that cannot succeed aborts the implicit transaction, whatever the server has done in it
            encode_parse(out, b"", b"pgherd rolls this pipeline back", [])?;
            script.expect(
                Reply::Parse(Prepared::Own, Shape::default()),
                Audience::Pgherd,
            );
            leg.connection.prepared.forget_unnamed();
        }
        self.end_open_run(script, Audience::Pgherd).await
    }

    /// Sends the Sync that ends a flushed pipeline.
    ///
    /// # Errors
    /// A lost server.
    async fn sync_open_run(&mut self, audience: Audience) -> Result<(), Failure> {
        self.end_open_run(Script::default(), audience).await
    }

    async fn end_open_run(
        &mut self,
        mut script: Script,
        audience: Audience,
    ) -> Result<(), Failure> {
        let Some(OpenRun { node, .. }) = self.open_run.take() else {
            return Ok(());
        };
        let Some(leg) = self.legs.get(node) else {
            return Ok(());
        };
        encode(&FrontendMessage::Sync, &mut leg.connection.transport.outbox)?;
        let shard = leg.shard;
        script.expect(Reply::Sync, audience);
        let mut answer = BytesMut::new();
        let outcome = self.collect(node, &mut script, &mut answer).await?;
        self.client.outbox.extend_from_slice(&answer);
        self.after_request(&Ran {
            outcome,
            node,
            shard,
        });
        Ok(())
    }
}

/// The statements that a run executes.
fn executed(steps: &[(Step, Frame)]) -> impl Iterator<Item = &StatementPlan> + Clone {
    steps.iter().filter_map(|(step, _)| match step {
        Step::Execute { bound } => single_plan(&bound.statement),
        _ => None,
    })
}

/// Whether a run is COMMIT with its Sync, and nothing besides.
fn is_commit_alone(steps: &[(Step, Frame)]) -> bool {
    let mut executed = executed(steps);
    executed.next().is_some_and(is_plain_commit)
        && executed.next().is_none()
        && matches!(steps.last(), Some((Step::Sync, _)))
        && steps.iter().all(|(step, _)| match step {
            Step::Parse(_) | Step::DescribePortal(_) | Step::Execute { .. } | Step::Sync => true,
            Step::Bind { bound, .. } => single_plan(&bound.statement).is_some_and(is_plain_commit),
            _ => false,
        })
        && steps
            .iter()
            .any(|(step, _)| matches!(step, Step::Bind { .. }))
}

/// Whether a run is one write with its Sync, all of whose answer is asked for, and nothing that lasts besides.
fn is_write_alone(steps: &[(Step, Frame)]) -> bool {
    let mut executes = steps.iter().filter_map(|(step, frame)| match step {
        Step::Execute { bound } => Some((bound, frame)),
        _ => None,
    });
    let Some((bound, frame)) = executes.next() else {
        return false;
    };
    let is_whole = matches!(
        FrontendMessage::parse(frame),
        Ok(FrontendMessage::Execute { max_rows: 0, .. })
    );
    let is_only = executes.next().is_none()
        && !steps
            .iter()
            .any(|(step, _)| matches!(step, Step::OnCursor(_)))
        && matches!(steps.last(), Some((Step::Sync, _)));
    is_whole
        && is_only
        && single_plan(&bound.statement)
            .is_some_and(|plan| is_watchable(plan, &bound.statement.sql))
}

/// Notes what a client was told of the statements and portals that it had described.
fn note_told(steps: &[(Step, Frame)], outcome: &Outcome) {
    let described = steps.iter().filter_map(|(step, _)| match step {
        Step::DescribeStatement(statement) if !local_only(statement) => Some(Some(statement)),
        Step::DescribePortal(bound) if !local_only(&bound.statement) => {
            Some(Some(&bound.statement))
        }
        Step::OnCursor(Reply::Describe { .. }) => Some(None),
        _ => None,
    });
    for (statement, described) in described.zip(&outcome.described) {
        if let Some(statement) = statement {
            statement.told.note(described);
        }
    }
}

/// Whether a failure is one that Postgres too finds only when it comes to the message. A refusal of pgherd's is found before anything is
/// sent, and a failed block does nothing.
fn comes_in_its_turn(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(error) => ![
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::IN_FAILED_SQL_TRANSACTION,
            SqlState::SERIALIZATION_FAILURE,
        ]
        .contains(&error.code),
        Failure::Fatal(_) | Failure::ClientGone => false,
    }
}
