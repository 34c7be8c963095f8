//! What each extended message stands for.
//!
//! Owns: reading a message against the client's statements and portals, where it would go, and pgherd's own answer to it. Never does:
//! sending (`queue.rs`), or running a whole pipeline (`extended.rs`). Main types: [`Step`], [`Run`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgherd_protocol::{
    BackendMessage, Bind, Format, Frame, FrontendMessage, PgError, SqlState, Target,
};
use pgherd_router::{
    Access, Action, CopyDirection, ParameterFormat, ParameterSource, ParameterValue, Placement,
    StatementPlan,
};

use crate::block::{ends_failed_block, is_control};
use crate::failure::Failure;
use crate::local::{description, is_local};
use crate::oids::describe_parameters;
use crate::route::{Place, Route};
use crate::script::{Prepared, Reply};
use crate::session::Session;
use crate::set_config::Executed;
use crate::statements::{Portal, Statement};

/// What one message of a run stands for.
#[derive(Debug, Clone)]
pub enum Step {
    Parse(Arc<Statement>),
    Bind {
        portal: Bytes,
        bound: Portal,
    },
    DescribeStatement(Arc<Statement>),
    DescribePortal(Portal),
    Execute {
        bound: Portal,
    },
    CloseStatement,
    /// Describe, Execute or Close of a cursor that DECLARE made: to SQL and to the protocol it is one thing.
    OnCursor(Reply),
    ClosePortal {
        /// Whether a server has it.
        live: bool,
        /// Whether none has it, nor gets it with this run.
        local: bool,
    },
    Sync,
}

/// A run that is understood.
pub struct Run {
    pub steps: Vec<(Step, Frame)>,
    pub route: Route,
    /// Whether anything in it needs a server at all.
    pub needs_server: bool,
    pub executes: bool,
    /// Whether anything in it is bound or executed, so that a transaction is open after it.
    pub opens: bool,
}

impl Run {
    /// Whether an Execute in it ends a failed block.
    pub fn ends_failed_block(&self) -> bool {
        self.steps.iter().any(|(step, _)| match step {
            Step::Execute { bound } => {
                single_plan(&bound.statement).is_some_and(|plan| ends_failed_block(&plan.action))
            }
            _ => false,
        })
    }

    /// Whether it is Sync behind the Execute of a COPY from the client that ends it.
    pub fn copies_in_last(&self) -> bool {
        match self.steps.as_slice() {
            [.., (Step::Execute { bound }, _), (Step::Sync, _)] => single_plan(&bound.statement)
                .is_some_and(|plan| {
                    matches!(
                        plan.action,
                        Action::Copy {
                            direction: CopyDirection::FromClient
                        }
                    )
                }),
            _ => false,
        }
    }
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

impl Portal {
    /// Hands over the statement with the values that it was bound to. `None` where it is an empty one.
    pub(crate) fn with_execution<T>(&self, then: impl FnOnce(&Executed<'_>) -> T) -> Option<T> {
        let FrontendMessage::Bind(bind) = FrontendMessage::parse(&self.bind).ok()? else {
            return None;
        };
        Some(then(&Executed {
            statement: single_plan(&self.statement)?,
            planned: &self.statement.planned,
            sql: &self.statement.sql,
            parameters: Some(&Bound(bind)),
        }))
    }
}

impl Session {
    pub(crate) async fn understand_one(
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
                    parsed_for.join(&there, &self.sharding())?;
                } else if statement.planned.plan.statements.is_empty() {
                    run.needs_server = true;
                    parsed_for.join(&ANYWHERE, &self.sharding())?;
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
                run.route.join(&place, &self.sharding())?;
                run.opens = true;
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
                target: Target::Portal,
                name,
            } if self.is_cursor(name) => {
                self.join_cursor(name, run)?;
                Step::OnCursor(Reply::describe(Prepared::Own))
            }
            FrontendMessage::Execute { portal, .. } if self.is_cursor(portal) => {
                self.join_cursor(portal, run)?;
                Step::OnCursor(Reply::Execute)
            }
            FrontendMessage::Close {
                target: Target::Portal,
                name,
            } if self.is_cursor(name) => {
                self.join_cursor(name, run)?;
                Step::OnCursor(Reply::Close)
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
                    parsed_for.join(&there, &self.sharding())?;
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
                    self.check_name(plan)?;
                    run.needs_server |= is_for_server(plan);
                }
                run.executes = true;
                run.opens = true;
                Step::Execute { bound }
            }
            FrontendMessage::Close {
                target: Target::Statement,
                name,
            } => {
                // servers keep it, for whoever wants the same
                self.statements.close(name);
                Step::CloseStatement
            }
            FrontendMessage::Close {
                target: Target::Portal,
                name,
            } => {
                let portal = self.statements.portal(name);
                let live = portal.as_ref().is_some_and(|portal| portal.node.is_some());
                let local = !live && portal.is_none_or(|portal| local_only(&portal.statement));
                self.statements.close_portal(name);
                Step::ClosePortal { live, local }
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

    /// Where a statement can be parsed before its keys are known: tables placed by key are on every shard, a cursor is not.
    fn where_parsed(&self, plan: &StatementPlan) -> Route {
        let place = match &plan.placement {
            Placement::One(_) if self.is_signal(plan) => Place::Any,
            Placement::One(shard) => Place::Shard(*shard),
            Placement::WhereCursorIs => self.cursor_place(&plan.action),
            _ => Place::Any,
        };
        Route {
            place,
            access: plan.access,
            reads_moment: false,
            pins: None,
        }
    }

    /// Whether a portal's name stands for a cursor of SQL.
    fn is_cursor(&mut self, name: &[u8]) -> bool {
        !self.cursors.is_empty()
            && self.statements.portal(name).is_none()
            && std::str::from_utf8(name).is_ok_and(|name| self.cursors.contains_key(name))
    }

    /// Sends the run to where a cursor is.
    fn join_cursor(&mut self, name: &[u8], run: &mut Run) -> Result<(), Failure> {
        let shard = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.cursors.get(name).copied());
        if let Some(shard) = shard {
            let there = Route {
                place: Place::Shard(shard),
                access: Access::Write,
                reads_moment: false,
                pins: None,
            };
            run.route.join(&there, &self.sharding())?;
        }
        run.needs_server = true;
        run.opens = true;
        Ok(())
    }

    pub(crate) fn known_portal(&mut self, name: &[u8]) -> Result<Portal, Failure> {
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

    /// What pgherd itself answers to one message.
    pub(crate) async fn answer_step(
        &mut self,
        step: &Step,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        match step {
            Step::Parse(_) => put(out, &BackendMessage::ParseComplete),
            Step::Bind { .. } => put(out, &BackendMessage::BindComplete),
            Step::CloseStatement | Step::ClosePortal { .. } => {
                put(out, &BackendMessage::CloseComplete)
            }
            // only a server has it
            Step::OnCursor(_) => {}
            Step::Sync => put(out, &BackendMessage::ReadyForQuery(self.status())),
            Step::DescribeStatement(statement) => {
                let _ = describe_parameters(&[], out);
                describe(out, single_plan(statement));
            }
            Step::DescribePortal(bound) => describe(out, single_plan(&bound.statement)),
            Step::Execute { bound } => {
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
}

pub fn single_plan(statement: &Statement) -> Option<&StatementPlan> {
    statement.planned.plan.statements.first()
}

/// Whether a statement needs a server whatever surrounds it.
pub fn is_for_server(plan: &StatementPlan) -> bool {
    !is_local(&plan.action) && !is_control(&plan.action)
}

/// Whether a statement can pass to a server.
pub fn passes(statement: &Statement) -> bool {
    !local_only(statement)
}

/// Any server knows what this takes.
pub(crate) const ANYWHERE: Route = Route {
    place: Place::Any,
    access: Access::Read,
    reads_moment: false,
    pins: None,
};

pub fn local_only(statement: &Statement) -> bool {
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
