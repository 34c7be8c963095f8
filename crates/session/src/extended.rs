//! Extended messages: a run of them up to Sync or Flush is planned together and goes to one server.
//!
//! Owns: what each message stands for, the one route of the run (all Executes between two Syncs are one implicit transaction), and
//! which messages pgherd answers or adds itself. Never does: simple queries (`simple.rs`). Main function: [`Session::extended`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::{
    BackendMessage, Bind, Format, Frame, FrontendMessage, PgError, SqlState, Target,
    TransactionStatus,
};
use pgherd_router::{
    Access, ParameterFormat, ParameterSource, ParameterValue, Placement, StatementPlan,
};
use pgherd_topology::NodeId;

use crate::block::is_control;
use crate::failure::{Failure, not_supported};
use crate::legs::encode;
use crate::local::{description, is_local};
use crate::oids::describe_parameters;
use crate::relay::Outcome;
use crate::request::RunEnd;
use crate::route::{Place, Route};
use crate::script::{Audience, Reply, Script};
use crate::session::Session;
use crate::simple::definition;
use crate::statements::{Portal, Statement};

/// What one message of a run stands for.
#[derive(Debug, Clone)]
enum Step {
    Parse(Arc<Statement>),
    Bind { portal: Bytes, bound: Portal },
    DescribeStatement(Arc<Statement>),
    DescribePortal(Portal),
    Execute { bound: Portal },
    CloseStatement,
    ClosePortal { live: Option<NodeId> },
    Sync,
}

/// A run that is understood.
struct Run {
    steps: Vec<(Step, Frame)>,
    route: Route,
    /// Whether anything in it needs a server at all.
    needs_server: bool,
    executes: bool,
}

/// A run that a Flush (or the bound on buffers) cut: its server stays in the implicit transaction until Sync.
#[derive(Debug, Clone, Copy)]
pub struct OpenRun {
    /// The server.
    pub node: NodeId,
}

/// A Bind's values as the router reads them.
struct Bound<'a>(Bind<'a>);

impl ParameterSource for Bound<'_> {
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>> {
        let bytes = self.0.parameter(usize::from(index))?;
        let format = match self.0.parameter_format(usize::from(index)) {
            Format::Text => ParameterFormat::Text,
            Format::Binary => ParameterFormat::Binary,
        };
        Some(ParameterValue { format, bytes })
    }
}

impl Session {
    /// Answers a run of extended messages.
    ///
    /// # Errors
    /// What the client is told; the caller skips to the next Sync then, and answers it.
    pub(crate) async fn extended(&mut self, frames: &[Frame], end: RunEnd) -> Result<(), Failure> {
        if self.skipping {
            if end == RunEnd::Sync {
                self.skipping = false;
                self.ready();
            }
            return Ok(());
        }
        let result = self.run_of_messages(frames, end).await;
        let result = match result {
            Err(failure) => {
                self.abort_open_run().await?;
                self.forget_unparsed(frames);
                self.fail_block();
                Err(failure)
            }
            Ok(()) => Ok(()),
        };
        if result.is_err() && end != RunEnd::Sync {
            self.skipping = true;
        }
        result
    }

    async fn run_of_messages(&mut self, frames: &[Frame], end: RunEnd) -> Result<(), Failure> {
        let run = self.understand(frames).await?;
        match run.route.place {
            Place::All | Place::EachInTurn => self.run_on_all(&run, end).await,
            _ if !run.needs_server && self.open_run.is_none() => self.run_locally(&run).await,
            _ => self.run_on_one(&run, end).await,
        }
    }

    /// Reads every message, plans and resolves; nothing is sent yet.
    async fn understand(&mut self, frames: &[Frame]) -> Result<Run, Failure> {
        let mut run = Run {
            steps: Vec::with_capacity(frames.len()),
            route: Route::NOWHERE,
            needs_server: false,
            executes: false,
        };
        let mut parsed_for = Route::NOWHERE;
        for frame in frames {
            let step = self
                .understand_one(frame, &mut run, &mut parsed_for)
                .await?;
            run.steps.push((step, frame.clone()));
        }
        let controls_pass = run.needs_server || self.open_run.is_some() || !self.controls_itself();
        if controls_pass {
            run.needs_server |= run.steps.iter().any(|(step, _)| match step {
                Step::Parse(statement) | Step::DescribeStatement(statement) => passes(statement),
                Step::Bind { bound, .. }
                | Step::Execute { bound }
                | Step::DescribePortal(bound) => passes(&bound.statement),
                Step::ClosePortal { live } => live.is_some(),
                Step::CloseStatement | Step::Sync => false,
            });
        }
        if run.route.place == Place::Nowhere {
            run.route = parsed_for;
        } else {
            // what is parsed here without being bound must be known to the same server
            let access = run.route.access;
            run.route.join(&parsed_for, &self.database.sharding())?;
            run.route.access = access;
        }
        Ok(run)
    }

    async fn understand_one(
        &mut self,
        frame: &Frame,
        run: &mut Run,
        parsed_for: &mut Route,
    ) -> Result<Step, Failure> {
        Ok(match self.parse_message(frame)? {
            FrontendMessage::Parse(parse) => {
                let statement = self.parse_statement(frame, &parse).await?;
                self.check_block(&statement.planned.plan.statements)?;
                if let Some(plan) = single_plan(&statement)
                    && is_for_server(plan)
                {
                    run.needs_server = true;
                    let there = self.where_parsed(plan);
                    parsed_for.join(&there, &self.database.sharding())?;
                } else if statement.planned.plan.statements.is_empty() {
                    run.needs_server = true;
                    parsed_for.join(&ANYWHERE, &self.database.sharding())?;
                }
                Step::Parse(statement)
            }
            FrontendMessage::Bind(bind) => {
                let statement = self.known_statement(bind.statement).await?;
                self.check_block(&statement.planned.plan.statements)?;
                let place = match single_plan(&statement) {
                    Some(plan) if is_for_server(plan) => {
                        run.needs_server = true;
                        self.place(plan, &statement.planned, &statement.sql, Some(&Bound(bind)))?
                    }
                    Some(_) => Route::NOWHERE,
                    None => {
                        run.needs_server = true;
                        ANYWHERE
                    }
                };
                run.route.join(&place, &self.database.sharding())?;
                let bound = Portal {
                    statement,
                    bind: frame.clone(),
                    node: None,
                };
                let portal = Bytes::copy_from_slice(bind.portal);
                self.statements.bind(portal.clone(), bound.clone());
                Step::Bind { portal, bound }
            }
            FrontendMessage::Describe {
                target: Target::Statement,
                name,
            } => {
                let statement = self.known_statement(name).await?;
                self.check_block(&statement.planned.plan.statements)?;
                if single_plan(&statement).is_none_or(is_for_server) {
                    run.needs_server = true;
                    let there =
                        single_plan(&statement).map_or(ANYWHERE, |plan| self.where_parsed(plan));
                    parsed_for.join(&there, &self.database.sharding())?;
                }
                Step::DescribeStatement(statement)
            }
            FrontendMessage::Describe {
                target: Target::Portal,
                name,
            } => {
                let bound = self.known_portal(name)?;
                run.needs_server |= single_plan(&bound.statement).is_none_or(is_for_server);
                Step::DescribePortal(bound)
            }
            FrontendMessage::Execute { portal, .. } => {
                let bound = self.known_portal(portal)?;
                if let Some(plan) = single_plan(&bound.statement) {
                    self.check_block(std::slice::from_ref(plan))?;
                    run.needs_server |= is_for_server(plan);
                }
                run.executes = true;
                Step::Execute { bound }
            }
            FrontendMessage::Close {
                target: Target::Statement,
                name,
            } => {
                self.statements.close(name);
                Step::CloseStatement
            }
            FrontendMessage::Close {
                target: Target::Portal,
                name,
            } => {
                let live = self.statements.portal(name).and_then(|portal| portal.node);
                self.statements.close_portal(name);
                Step::ClosePortal { live }
            }
            FrontendMessage::Sync => Step::Sync,
            other => {
                return Err(PgError::error(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("unexpected message {other:?}"),
                )
                .into());
            }
        })
    }

    async fn parse_statement(
        &mut self,
        frame: &Frame,
        parse: &pgherd_protocol::Parse<'_>,
    ) -> Result<Arc<Statement>, Failure> {
        if !parse.name.is_empty() && self.statements.statement(parse.name).is_some() {
            return Err(PgError::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!(
                    "prepared statement \"{}\" already exists",
                    String::from_utf8_lossy(parse.name)
                ),
            )
            .into());
        }
        let sql = self.text(parse.sql)?;
        let types: smallvec::SmallVec<[u32; 8]> = parse.parameter_types().collect();
        let planned = self.plan(&sql, &types).await?;
        if planned.plan.statements.len() > 1 {
            return Err(PgError::error(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let statement = Arc::new(Statement {
            name: Bytes::copy_from_slice(parse.name),
            generation: self.next_generation(),
            sql: sql.into_owned().into(),
            parameter_types: types,
            parse: frame.clone(),
            planned,
            planned_under: self.plan_stamp(),
            described: Arc::default(),
        });
        self.statements.insert(Arc::clone(&statement));
        Ok(statement)
    }

    /// A statement by name, planned anew where what its plan relied on has changed.
    async fn known_statement(&mut self, name: &[u8]) -> Result<Arc<Statement>, Failure> {
        let Some(statement) = self.statements.statement(name).cloned() else {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!(
                    "prepared statement \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                )
            };
            return Err(PgError::error(SqlState::INVALID_SQL_STATEMENT_NAME, message).into());
        };
        let stamp = self.plan_stamp();
        if statement.planned_under == stamp {
            return Ok(statement);
        }
        let planned = self
            .plan(&statement.sql, &statement.parameter_types)
            .await?;
        let renewed = Arc::new(Statement {
            name: statement.name.clone(),
            generation: statement.generation,
            sql: statement.sql.clone(),
            parameter_types: statement.parameter_types.clone(),
            parse: statement.parse.clone(),
            planned,
            planned_under: self.plan_stamp(),
            described: Arc::clone(&statement.described),
        });
        self.statements.insert(Arc::clone(&renewed));
        Ok(renewed)
    }

    fn known_portal(&mut self, name: &[u8]) -> Result<Portal, Failure> {
        self.statements.portal(name).cloned().ok_or_else(|| {
            PgError::error(
                SqlState::INVALID_CURSOR_NAME,
                format!(
                    "portal \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                ),
            )
            .into()
        })
    }

    /// A run of nothing but transaction control and pgherd's own statements.
    async fn run_locally(&mut self, run: &Run) -> Result<(), Failure> {
        for (step, frame) in &run.steps {
            let mut out = BytesMut::new();
            self.answer_step(step, frame, &mut out).await?;
            self.client.outbox.extend_from_slice(&out);
        }
        Ok(())
    }

    /// What pgherd itself answers to one message.
    async fn answer_step(
        &mut self,
        step: &Step,
        frame: &Frame,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        match step {
            Step::Parse(_) => put(out, &BackendMessage::ParseComplete),
            Step::Bind { .. } => put(out, &BackendMessage::BindComplete),
            Step::CloseStatement | Step::ClosePortal { .. } => {
                put(out, &BackendMessage::CloseComplete)
            }
            Step::Sync => put(out, &BackendMessage::ReadyForQuery(self.status())),
            Step::DescribeStatement(statement) => {
                let _ = describe_parameters(&[], out);
                describe(out, single_plan(statement));
            }
            Step::DescribePortal(bound) => describe(out, single_plan(&bound.statement)),
            Step::Execute { bound } => {
                let _ = frame;
                let Some(plan) = single_plan(&bound.statement) else {
                    put(out, &BackendMessage::EmptyQueryResponse);
                    return Ok(());
                };
                let FrontendMessage::Bind(bind) = self.parse_message(&bound.bind)? else {
                    return Err(PgError::error(SqlState::PROTOCOL_VIOLATION, "not a Bind").into());
                };
                let answer = self
                    .answer_locally(
                        plan,
                        &bound.statement.planned,
                        &bound.statement.sql,
                        Some(&Bound(bind)),
                    )
                    .await?;
                crate::relay::without_description(answer, out);
            }
        }
        Ok(())
    }

    async fn run_on_one(&mut self, run: &Run, end: RunEnd) -> Result<(), Failure> {
        let route = self.route_of_run(run)?;
        if let Place::Shard(shard) = route.place {
            for (step, _) in &run.steps {
                if let Step::Execute { bound } = step {
                    let statements = &bound.statement.planned.plan.statements;
                    self.check_writer(shard, route.access, statements)?;
                }
            }
        }
        let local = self.answers_in_run(run).await?;
        let open_before = self.open_run.take();
        // nothing executed and no transaction open: the server need not be kept until the client's Sync
        let ends_here =
            end != RunEnd::Sync && !run.executes && self.block.is_none() && open_before.is_none();
        let queue = |session: &mut Self, node: NodeId, script: &mut Script| {
            session.queue_run(node, script, &run.steps, &local)?;
            let out = &mut session.legs.at(node).connection.transport.outbox;
            if ends_here {
                encode(&FrontendMessage::Sync, out)?;
                script.expect(Reply::Sync, Audience::Pgherd);
            } else if end != RunEnd::Sync {
                encode(&FrontendMessage::Flush, out)?;
            }
            Ok(())
        };
        let ran = match open_before {
            Some(open) => self.continue_on(open.node, &route, queue).await?,
            None => self.on_one_leg(&route, queue).await?,
        };
        self.note_run(run, &ran.outcome, ran.node);
        self.after_request(&ran);
        if ran.outcome.error.is_some() {
            if ran.outcome.status.is_none() {
                // the server waits for a Sync, and the client will send one: pgherd settles both
                self.open_run = Some(OpenRun { node: ran.node });
                self.abort_open_run().await?;
            }
            self.skipping = end != RunEnd::Sync;
        } else if ran.outcome.status.is_none() {
            self.open_run = Some(OpenRun { node: ran.node });
        }
        Ok(())
    }

    /// The run's route; with a server held since a Flush, that server.
    fn route_of_run(&mut self, run: &Run) -> Result<Route, Failure> {
        let mut route = run.route.clone();
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
        for (step, _) in &run.steps {
            if let Step::Execute { bound } | Step::DescribePortal(bound) = step
                && let Some(node) = bound.node
                && let Some(leg) = self.legs.get(node)
            {
                let there = Route {
                    place: Place::Shard(leg.shard),
                    ..ANYWHERE
                };
                route.join(&there, &self.database.sharding())?;
            }
        }
        Ok(route)
    }

    /// The answers to those messages of a run that no server is sent, in order.
    async fn answers_in_run(&mut self, run: &Run) -> Result<Vec<Option<Bytes>>, Failure> {
        let mut answers = Vec::with_capacity(run.steps.len());
        for (step, frame) in &run.steps {
            let local = match step {
                Step::Parse(statement) | Step::DescribeStatement(statement) => {
                    local_only(statement)
                }
                Step::Bind { bound, .. }
                | Step::DescribePortal(bound)
                | Step::Execute { bound } => local_only(&bound.statement),
                Step::CloseStatement => true,
                Step::ClosePortal { live } => live.is_none(),
                Step::Sync => false,
            };
            answers.push(if local {
                let mut out = BytesMut::new();
                self.answer_step(step, frame, &mut out).await?;
                Some(out.freeze())
            } else {
                None
            });
        }
        Ok(answers)
    }

    /// Puts a run on a leg.
    fn queue_run(
        &mut self,
        node: NodeId,
        script: &mut Script,
        steps: &[(Step, Frame)],
        local: &[Option<Bytes>],
    ) -> Result<(), Failure> {
        for (index, (step, frame)) in steps.iter().enumerate() {
            if let Some(answer) = local.get(index).and_then(Option::as_ref) {
                script.answer(answer.clone());
                continue;
            }
            match step {
                Step::Parse(statement) => {
                    self.queue_parse(node, script, statement, Audience::Client)?
                }
                Step::Bind { portal, bound } => {
                    self.ensure_prepared(node, script, &bound.statement)?;
                    let leg = self.legs.at(node);
                    leg.queue_bind(frame, bound.statement.known_types())?;
                    script.expect(Reply::Bind, Audience::Client);
                    if let Some(portal) = self.statements.portal(portal) {
                        portal.node = Some(node);
                    }
                }
                Step::DescribeStatement(statement) => {
                    self.ensure_prepared(node, script, statement)?;
                    self.queue_frame(node, frame);
                    script.expect(Reply::Describe(Target::Statement), Audience::Client);
                }
                Step::DescribePortal(_) => {
                    self.queue_frame(node, frame);
                    script.expect(Reply::Describe(Target::Portal), Audience::Client);
                }
                Step::Execute { bound } => {
                    self.learn_columns(node, script, bound, frame)?;
                    self.queue_frame(node, frame);
                    script.expect(Reply::Execute, Audience::Client);
                }
                Step::CloseStatement | Step::ClosePortal { .. } => {
                    self.queue_frame(node, frame);
                    script.expect(Reply::Close, Audience::Client);
                }
                Step::Sync => {
                    self.queue_frame(node, frame);
                    script.expect(Reply::Sync, Audience::Client);
                }
            }
        }
        Ok(())
    }

    /// On a shard whose ids are translated, the columns of binary rows must be known: the portal is described, unheard by the client.
    fn learn_columns(
        &mut self,
        node: NodeId,
        script: &mut Script,
        bound: &Portal,
        execute: &Frame,
    ) -> Result<(), Failure> {
        let leg = self.legs.at(node);
        if leg.translation.is_none() {
            return Ok(());
        }
        let binary = match FrontendMessage::parse(&bound.bind) {
            Ok(FrontendMessage::Bind(bind)) => bind
                .result_formats()
                .iter()
                .any(|format| format == Format::Binary),
            _ => false,
        };
        match FrontendMessage::parse(execute) {
            Ok(FrontendMessage::Execute { portal, .. }) if binary => {
                let describe = FrontendMessage::Describe {
                    target: Target::Portal,
                    name: portal,
                };
                encode(&describe, &mut leg.connection.transport.outbox)?;
                script.expect(Reply::Describe(Target::Portal), Audience::Pgherd);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn queue_frame(&mut self, node: NodeId, frame: &Frame) {
        self.legs
            .at(node)
            .connection
            .transport
            .outbox
            .extend_from_slice(frame.bytes());
    }

    fn queue_parse(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        audience: Audience,
    ) -> Result<(), Failure> {
        let leg = self.legs.at(node);
        if !statement.name.is_empty() {
            leg.pin("prepared statement");
            if leg.connection.prepared.remove(&statement.name).is_some() {
                // the name stands for an older text there
                let out = &mut leg.connection.transport.outbox;
                encode(
                    &FrontendMessage::Close {
                        target: Target::Statement,
                        name: &statement.name,
                    },
                    out,
                )?;
                script.expect(Reply::Close, Audience::Pgherd);
            }
        }
        leg.queue_parse(&statement.parse)?;
        script.expect(
            Reply::Parse {
                name: statement.name.clone(),
                generation: statement.generation,
            },
            audience,
        );
        Ok(())
    }

    fn ensure_prepared(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let known = self
            .legs
            .at(node)
            .connection
            .prepared
            .generation(&statement.name)
            == Some(statement.generation);
        if known || script.will_know(&statement.name, statement.generation) {
            return Ok(());
        }
        self.queue_parse(node, script, statement, Audience::Pgherd)
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
            session.queue_run(node, script, &run.steps, &local)
        };
        let (mut bytes, outcome) = if run.route.place == Place::All {
            self.check_writer_everywhere(&[])?;
            self.everywhere(&definitions, queue).await?
        } else {
            self.each_in_turn(queue).await?
        };
        crate::relay::strip_ready(&mut bytes);
        self.client.outbox.extend_from_slice(&bytes);
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
    fn note_run(&mut self, run: &Run, outcome: &Outcome, node: NodeId) {
        let executed = run.steps.iter().filter_map(|(step, _)| match step {
            Step::Execute { bound } if !local_only(&bound.statement) => Some(bound),
            _ => None,
        });
        for bound in executed.take(outcome.completed) {
            if let Some(plan) = single_plan(&bound.statement) {
                self.note_effects(plan, &bound.statement.sql, node);
            }
        }
        let described = run.steps.iter().filter_map(|(step, _)| match step {
            Step::DescribeStatement(statement) if !local_only(statement) => Some(statement),
            _ => None,
        });
        for (statement, types) in described.zip(&outcome.described) {
            // described before: the types are the same
            let _ = statement.described.set(types.clone().into());
        }
        if outcome.error.is_some() {
            for (step, _) in &run.steps {
                if let Step::Parse(statement) = step {
                    self.forget_unless_prepared(statement, node);
                }
            }
        }
    }

    /// A Parse that an error made the server skip has prepared nothing.
    fn forget_unless_prepared(&mut self, statement: &Statement, node: NodeId) {
        let prepared = self.legs.get(node).is_some_and(|leg| {
            leg.connection.prepared.generation(&statement.name) == Some(statement.generation)
        });
        if !prepared && !local_only(statement) {
            self.statements
                .forget(&statement.name, statement.generation);
        }
    }

    /// Where a statement can be parsed before its keys are known: tables placed by key are on every shard, a cursor is not.
    fn where_parsed(&self, plan: &StatementPlan) -> Route {
        let place = match &plan.placement {
            Placement::One(shard) => Place::Shard(*shard),
            Placement::WhereCursorIs => self.cursor_place(&plan.action),
            _ => Place::Any,
        };
        Route {
            place,
            access: plan.access,
            reads_moment: false,
        }
    }

    /// Of a run that was refused as a whole nothing stays.
    fn forget_unparsed(&mut self, frames: &[Frame]) {
        for frame in frames {
            if let Ok(FrontendMessage::Parse(parse)) = FrontendMessage::parse(frame)
                && let Some(statement) = self.statements.statement(parse.name).cloned()
                && statement.parse.bytes().as_ptr() == frame.bytes().as_ptr()
            {
                self.statements.forget(parse.name, statement.generation);
            }
        }
    }

    /// Rolls back what an earlier part of a flushed pipeline has done, and leaves its server ready.
    ///
    /// # Errors
    /// A lost server.
    pub(crate) async fn abort_open_run(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open_run.take() else {
            return Ok(());
        };
        if self.legs.get(open.node).is_none() {
            return Ok(());
        }
        let mut script = Script::default();
        let out = &mut self.legs.at(open.node).connection.transport.outbox;
        // a Parse that cannot succeed aborts the implicit transaction, whatever the server has done in it
        encode_parse(out, b"", b"pgherd rolls this pipeline back", [])?;
        encode(&FrontendMessage::Sync, out)?;
        script.expect(
            Reply::Parse {
                name: Bytes::new(),
                generation: 0,
            },
            Audience::Pgherd,
        );
        script.expect(Reply::Sync, Audience::Pgherd);
        let mut sink = BytesMut::new();
        let outcome = self.collect(open.node, &mut script, &mut sink).await?;
        if outcome.status == Some(TransactionStatus::Failed) {
            self.fail_block();
        }
        Ok(())
    }
}

fn single_plan(statement: &Statement) -> Option<&StatementPlan> {
    statement.planned.plan.statements.first()
}

/// Whether a statement needs a server whatever surrounds it.
fn is_for_server(plan: &StatementPlan) -> bool {
    !is_local(&plan.action) && !is_control(&plan.action)
}

/// Whether a statement can pass to a server.
fn passes(statement: &Statement) -> bool {
    !local_only(statement)
}

/// Any server knows what this takes.
const ANYWHERE: Route = Route {
    place: Place::Any,
    access: Access::Read,
    reads_moment: false,
};

fn local_only(statement: &Statement) -> bool {
    single_plan(statement).is_some_and(|plan| is_local(&plan.action))
}

fn put(out: &mut BytesMut, message: &BackendMessage<'_>) {
    // messages without a variable part, or with an empty one, always fit
    let _ = message.encode(out);
}

fn describe(out: &mut BytesMut, plan: Option<&StatementPlan>) {
    match plan.and_then(|plan| description(&plan.action)) {
        Some(rows) => {
            // one column with a name of ours fits
            let _ = rows.encode_description(out);
        }
        None => put(out, &BackendMessage::NoData),
    }
}
