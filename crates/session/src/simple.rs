//! Simple queries: one text, any number of statements, one ReadyForQuery.
//!
//! Owns: the straight line of a text: plan, route, leg, relay, effects. Never does: extended messages (`extended.rs`).
//! Main function: [`Session::simple`].

use bytes::BytesMut;
use pgherd_pool::PoolMode;
use pgherd_protocol::{
    BackendMessage, Frame, FrontendMessage, PgError, SqlState, TransactionStatus, split_frame,
};
use pgherd_router::{Access, Action, Planned, StatementPlan};
use pgherd_topology::NodeId;

use crate::block::{
    ends_failed_block, ends_for_good, is_control, is_plain_commit, opens_for_writing,
};
use crate::failure::{Failure, block_failed, not_supported};
use crate::local::is_local;
use crate::positions::Positions;
use crate::prepare::Spliced;
use crate::read_only::refused_in_block;
use crate::repeating::{Asked, is_undone};
use crate::route::{Place, Route};
use crate::script::{Audience, Reply};
use crate::session::Session;
use crate::set_config::Executed;
use crate::watching::{is_watchable, queue_watched};

/// The functions of libpq's `lo_...` by their object ids, which are the same on every server (`pg_proc.dat`): lo_create, lo_open, lo_close,
/// loread, lowrite, lo_lseek, lo_creat, lo_tell, lo_unlink, lo_truncate, lo_lseek64, lo_tell64, lo_truncate64.
const LARGE_OBJECT_FUNCTIONS: [u32; 13] = [
    715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172,
];

impl Session {
    /// Answers a simple query, ReadyForQuery included.
    ///
    /// # Errors
    /// What the client is told instead of (or after) a result; the caller sends ReadyForQuery then.
    pub(crate) async fn simple(&mut self, frame: &Frame) -> Result<(), Failure> {
        let FrontendMessage::Query(text) = self.parse_message(frame)? else {
            return Err(PgError::error(SqlState::PROTOCOL_VIOLATION, "not a query").into());
        };
        self.tell_unkept()?;
        let sql = self.text(text)?;
        let planned = self.plan(&sql, &[]).await?;
        let plan = std::sync::Arc::clone(&planned.plan);
        self.check_mode(&plan.statements)?;
        match plan.statements.as_slice() {
            [] if self.open_run.is_none() => {
                self.reply(&BackendMessage::EmptyQueryResponse);
                self.ready();
                Ok(())
            }
            [statement] if self.answers(statement) && self.open_run.is_none() => {
                let out = self.answer_locally(statement, &planned, &sql, None).await?;
                self.client.outbox.extend_from_slice(&out);
                self.ready();
                Ok(())
            }
            [first, _, ..] if self.ends_failed_block(first) => {
                // the rest of the text is one of its own then
                let out = self.answer_locally(first, &planned, &sql, None).await?;
                self.client.outbox.extend_from_slice(&out);
                let end = planned.spans.first().map_or(0, |span| span.end as usize);
                let rest = sql.get(end..).unwrap_or_default();
                let rest =
                    rest.trim_start_matches(|char: char| char == ';' || char.is_whitespace());
                let rest = query_frame(rest)?;
                Box::pin(self.simple(&rest)).await
            }
            statements => {
                self.check_block(statements)?;
                self.renew_executed(&planned).await?;
                let spliced = self.splice(&planned, &sql)?;
                if let Some(spliced) = &spliced {
                    spliced.check()?;
                }
                let route = self.route_text(statements, &planned, &sql, spliced.as_ref())?;
                self.run_text(frame, &sql, &planned, &route, spliced.as_ref())
                    .await
            }
        }
    }

    /// Whether pgherd answers a statement that came alone, without relaying it.
    pub(crate) fn answers(&self, statement: &StatementPlan) -> bool {
        is_local(&statement.action)
            || (is_control(&statement.action) && self.controls_itself())
            || self.deallocates_known(&statement.action)
    }

    fn ends_failed_block(&self, statement: &StatementPlan) -> bool {
        self.block.as_ref().is_some_and(|block| block.failed)
            && ends_failed_block(&statement.action)
    }

    /// 25P02 (or why the block failed, once) for anything but its end.
    pub(crate) fn check_block(&mut self, statements: &[StatementPlan]) -> Result<(), Failure> {
        let Some(block) = self.block.as_mut().filter(|block| block.failed) else {
            return Ok(());
        };
        if let Some(lost) = block.lost.take() {
            return Err(Failure::Refused(lost));
        }
        match statements {
            // as Postgres has it, an empty text is no command
            [] => Ok(()),
            [statement] if ends_failed_block(&statement.action) => Ok(()),
            _ => Err(block_failed()),
        }
    }

    fn route_text(
        &mut self,
        statements: &[StatementPlan],
        planned: &Planned,
        sql: &str,
        spliced: Option<&Spliced>,
    ) -> Result<Route, Failure> {
        let mut route = Route::NOWHERE;
        let sharding = self.sharding();
        self.check_order(planned, sql)?;
        for statement in statements {
            if statements.len() > 1 {
                self.check_in_company(statement)?;
            }
            let executed = Executed {
                statement,
                planned,
                sql,
                parameters: None,
            };
            let placed = match self.execution(&executed, spliced) {
                None => self.place(statement, planned, sql, None)?,
                execution => self.place_execution(execution.as_ref(), planned.hint.as_ref())?,
            };
            route.join(&placed, &sharding)?;
        }
        self.place_signals(&mut route, statements.iter());
        if statements.iter().any(opens_for_writing) {
            // what the block is to do is still to come
            route.access = Access::Write;
        }
        if route.place == Place::Nowhere {
            // control statements alone, or nothing at all after a pipeline: they go where the block is
            route.place = Place::Any;
            route.access = Access::Write;
        }
        Ok(route)
    }

    /// A statement that pgherd itself must carry out cannot hide among others.
    fn check_in_company(&self, statement: &StatementPlan) -> Result<(), Failure> {
        if is_local(&statement.action) {
            return Err(not_supported(
                "this statement must be sent alone",
                "pgherd answers it itself, and the other statements of the query string go to a server.",
                "Send it by itself.",
            ));
        }
        let several = self.block.as_ref().is_some_and(|block| block.two_phase)
            || self.legs.in_block().len() > 1;
        if is_control(&statement.action) && several {
            return Err(not_supported(
                "COMMIT, ROLLBACK and savepoints of a transaction on several shards must be sent alone",
                "The query string holds other statements too.",
                "Send it by itself.",
            ));
        }
        Ok(())
    }

    async fn run_text(
        &mut self,
        frame: &Frame,
        sql: &str,
        planned: &Planned,
        route: &Route,
        spliced: Option<&Spliced>,
    ) -> Result<(), Failure> {
        let queue = |session: &mut Self, node: NodeId, script: &mut crate::script::Script| {
            session.announce(node, sql);
            session.note_beginning(node, script, planned.plan.statements.iter())?;
            let mut statements = planned.plan.statements.iter();
            if spliced.is_some_and(Spliced::makes_any)
                || statements.any(|statement| session.calls_set_config(statement))
            {
                script.keep_rows();
            }
            if let Some(spliced) = spliced {
                // the answer tells the columns
                session.queue_for_spliced(node, script, spliced)?;
                script.tell_positions(Positions::new(&spliced.text, sql));
                // a server that cannot do that skips the query too
                script.is_brought();
                session.legs.at(node).queue_query(&spliced.text)?;
                script.expect(Reply::Query, Audience::Client);
                return Ok(());
            }
            let leg = session.legs.at(node);
            if let Some(probe) = script.probe() {
                let text = frame.body().strip_suffix(b"\0").unwrap_or(frame.body());
                return queue_watched(&mut leg.connection, script, text, probe);
            }
            leg.forget_unnamed();
            let out = &mut leg.connection.transport.outbox;
            out.extend_from_slice(frame.bytes());
            script.expect(Reply::Query, Audience::Client);
            Ok(())
        };
        let statements = &planned.plan.statements;
        match route.place {
            Place::All | Place::EachInTurn if self.open_run.is_some() => Err(not_supported(
                "a statement for every shard cannot be part of a pipeline that was flushed",
                "Part of the pipeline has been sent to one shard already.",
                "Send a Sync before it.",
            )),
            Place::All => {
                self.check_writer_everywhere(sql)?;
                let definitions: Vec<_> =
                    statements.iter().filter_map(definition).cloned().collect();
                let (bytes, outcome) = Box::pin(self.everywhere(&definitions, queue)).await?;
                self.finish_collected(bytes, &outcome, statements);
                Ok(())
            }
            Place::EachInTurn => {
                if self.block.is_some() {
                    return Err(PgError::error(
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "a statement that runs on one shard after the other cannot run inside a transaction block",
                    )
                    .into());
                }
                let (bytes, outcome) = self.each_in_turn(queue).await?;
                self.finish_collected(bytes, &outcome, statements);
                Ok(())
            }
            Place::Shard(_) | Place::Any | Place::Nowhere => {
                if let Place::Shard(shard) = route.place {
                    self.check_writer(shard, route.access, statements)?;
                }
                self.reserve_channels(statements.iter()).await?;
                let executed = |statement| Executed {
                    statement,
                    planned,
                    sql,
                    parameters: None,
                };
                self.resets_startup = statements
                    .iter()
                    .any(|statement| self.resets(&executed(statement)));
                let asked = Asked {
                    commits: statements.iter().any(ends_for_good),
                    is_commit: matches!(statements.as_slice(), [one] if is_plain_commit(one)),
                    is_undone: &|| {
                        let mut statements = statements.iter().enumerate();
                        statements
                            .all(|(index, plan)| is_undone(plan, span_text(planned, index, sql)))
                    },
                    is_watchable: &|| match statements.as_slice() {
                        // a simple query has no parameters, and says so
                        [one] => {
                            spliced.is_none()
                                && one.parameters == 0
                                && is_watchable(one, span_text(planned, 0, sql))
                        }
                        _ => false,
                    },
                };
                let outcome = self.on_leg(route, &asked, queue).await?;
                for (index, statement) in statements
                    .iter()
                    .enumerate()
                    .take(outcome.outcome.completed)
                {
                    self.note_effects(statement, span_text(planned, index, sql), outcome.node);
                    if let Some(row) = outcome.outcome.row_of(index) {
                        self.note_set_config(&executed(statement), Some(row), outcome.node);
                    }
                }
                self.after_request(&outcome);
                outcome.acknowledged()
            }
        }
    }

    /// Hands collected replies over, and ReadyForQuery with pgherd's own view of the block.
    fn finish_collected(
        &mut self,
        mut bytes: bytes::BytesMut,
        outcome: &crate::relay::Outcome,
        statements: &[StatementPlan],
    ) {
        crate::relay::strip_ready(&mut bytes);
        self.client.outbox.extend_from_slice(&bytes);
        if outcome.error.is_none() {
            for statement in statements {
                self.note_catalog(statement);
            }
        }
        self.ready();
    }

    /// In a block, a statement for every shard makes each of them a writer: one that has written alone before may stay.
    ///
    /// # Errors
    /// 25006 in a READ ONLY block.
    pub(crate) fn check_writer_everywhere(&self, sql: &str) -> Result<(), Failure> {
        match &self.block {
            Some(block) if block.read_only => Err(refused_in_block(sql)),
            _ => Ok(()),
        }
    }

    /// ReadyForQuery.
    pub(crate) fn ready(&mut self) {
        let status = self.status();
        self.reply(&BackendMessage::ReadyForQuery(status));
    }

    /// Queues a message for the client.
    pub(crate) fn reply(&mut self, message: &BackendMessage<'_>) {
        if let Err(error) = message.encode(&mut self.client.outbox) {
            tracing::error!(%error, "a reply of pgherd's own cannot be written");
        }
    }

    /// The text of a message, in UTF-8. On an unsharded database other encodings pass; the plan is then made of what can be read.
    ///
    /// # Errors
    /// 22021 on a sharded database.
    pub(crate) fn text<'a>(&self, bytes: &'a [u8]) -> Result<std::borrow::Cow<'a, str>, Failure> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(std::borrow::Cow::Borrowed(text)),
            Err(_) if self.sharding().is_unsharded() => Ok(String::from_utf8_lossy(bytes)),
            Err(_) => Err(PgError::error(
                SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                "invalid byte sequence for encoding \"UTF8\"",
            )
            .hint("On a sharded database statements are read as UTF-8.")
            .into()),
        }
    }

    /// A client's message.
    ///
    /// # Errors
    /// 08P01 where it is malformed.
    pub(crate) fn parse_message<'a>(
        &self,
        frame: &'a Frame,
    ) -> Result<FrontendMessage<'a>, Failure> {
        FrontendMessage::parse(frame)
            .map_err(|error| PgError::error(SqlState::PROTOCOL_VIOLATION, error.to_string()).into())
    }

    /// A function call by the fast path: opaque, so it needs one shard and its primary, whose connection stays with the client. Those for
    /// large objects leave nothing behind their transaction, in which their descriptors end.
    ///
    /// # Errors
    /// 0A000 on a sharded database.
    pub(crate) async fn function_call(&mut self, frame: &Frame) -> Result<(), Failure> {
        if self.database.is_read_only() {
            return Err(crate::read_only::refused("a function call"));
        }
        if !self.sharding().is_unsharded() {
            return Err(not_supported(
                "function calls of the fast-path protocol are not supported on a sharded database",
                "The call names a function by its object id, and what it does cannot be known.",
                "Call the function in a SELECT.",
            ));
        }
        let is_large_object_call = match self.parse_message(frame)? {
            FrontendMessage::FunctionCall(call) => LARGE_OBJECT_FUNCTIONS.contains(&call.function),
            _ => false,
        };
        let keeps = !is_large_object_call && self.legs.mode() != PoolMode::Session;
        let route = Route {
            place: Place::Any,
            access: Access::Write,
            reads_moment: false,
            pins: keeps.then_some("function call"),
        };
        let asked = Asked {
            commits: false,
            is_commit: false,
            is_undone: &|| false,
            is_watchable: &|| false,
        };
        let ran = self
            .on_leg(&route, &asked, |session, node, script| {
                session
                    .legs
                    .at(node)
                    .connection
                    .transport
                    .outbox
                    .extend_from_slice(frame.bytes());
                script.expect(Reply::Query, Audience::Client);
                Ok(())
            })
            .await?;
        if !is_large_object_call {
            self.pin(ran.node, "function call");
            self.legs.at(ran.node).hears = true;
        }
        self.after_request(&ran);
        ran.acknowledged()
    }

    /// Status bookkeeping after a request on one leg.
    pub(crate) fn after_request(&mut self, ran: &crate::attempt::Ran) {
        let failed = ran.outcome.error.is_some();
        let idle = ran.outcome.status == Some(TransactionStatus::Idle);
        if failed && ran.outcome.completed > 0 {
            self.doubt_pins(ran.node);
        }
        if let Some(status) = ran.outcome.status {
            self.follow_status(status);
            if status == TransactionStatus::InTransaction && self.block.is_none() {
                // a text that was not read has opened a transaction
                self.pin_anyway(ran.node, "transaction");
            }
            if status == TransactionStatus::Idle {
                self.statements.end_transaction();
            }
        }
        if idle {
            self.note_implicit_end(!failed);
        }
        self.end_implicit_changes(failed, idle);
        if ran.outcome.notified || ran.outcome.status == Some(TransactionStatus::Idle) {
            self.tokens
                .observe(ran.shard, ran.node, std::time::Instant::now());
        }
    }
}

/// A query string as a client sends it.
fn query_frame(sql: &str) -> Result<Frame, Failure> {
    let mut bytes = BytesMut::new();
    FrontendMessage::Query(sql.as_bytes()).encode(&mut bytes)?;
    split_frame(&mut bytes, usize::MAX)
        .ok()
        .flatten()
        .ok_or_else(|| PgError::error(SqlState::INTERNAL_ERROR, "a query is no frame").into())
}

/// The text of one statement of a query string.
pub fn span_text<'a>(planned: &Planned, index: usize, sql: &'a str) -> &'a str {
    planned
        .spans
        .get(index)
        .and_then(|span| sql.get(span.start as usize..span.end as usize))
        .unwrap_or(sql)
        .trim()
}

/// What a definition asks for beyond running it.
pub fn definition(statement: &StatementPlan) -> Option<&pgherd_router::DdlPlan> {
    match &statement.action {
        Action::Ddl(plan) => Some(plan),
        _ => None,
    }
}
