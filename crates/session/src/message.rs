//! What each extended message stands for.
//!
//! Owns: reading a message against the client's statements and portals, where it would go, and pgherd's own answer to it. Never does:
//! sending (`queue.rs`), or running a whole pipeline (`extended.rs`). Main types: [`Step`], [`Run`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgherd_pool::{CarriedSettings, StatementId};
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::{
    BackendMessage, Bind, Format, Frame, FrontendMessage, PgError, SqlState, Target, split_frame,
};
use pgherd_router::{
    Access, Action, CopyDirection, ParameterFormat, ParameterSource, ParameterValue, Placement,
    StatementPlan,
};

use crate::block::{ends_failed_block, is_control};
use crate::definitions::only_controls;
use crate::failure::Failure;
use crate::local::{description, is_local};
use crate::oids::describe_parameters;
use crate::route::{Place, Route};
use crate::script::{Prepared, Reply};
use crate::session::Session;
use crate::set_config::Executed;
use crate::settings::SettingsList;
use crate::statements::{MadeBy, Portal, Statement};

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

/// What a statement is on servers.
struct OnServers {
    prepared: Prepared,
    name: Bytes,
    parse: Frame,
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

    pub(crate) async fn parse_statement(
        &mut self,
        frame: &Frame,
        parse: &pgherd_protocol::Parse<'_>,
    ) -> Result<Arc<Statement>, Failure> {
        if parse.name.is_empty() {
            // gone even if what replaces it cannot be parsed
            self.statements.close(parse.name);
        }
        let sql = self.text(parse.sql)?;
        let types: smallvec::SmallVec<[u32; 8]> = parse.parameter_types().collect();
        if !parse.name.is_empty() && self.catalog_is_due() {
            // what the server makes of it depends on the definitions
            self.reload_catalog().await;
        }
        let planned = self.plan(&sql, &types).await?;
        if planned.plan.statements.len() > 1 {
            return Err(PgError::error(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        if !planned.plan.statements.is_empty() {
            self.check_block(&planned.plan.statements)?;
        }
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
        if !parse.name.is_empty() {
            self.statements.check_room()?;
        }
        self.renew_executed(&planned).await?;
        let spliced = self.splice(&planned, &sql)?;
        let settings = self.settings.meaning();
        let generation = self.next_generation();
        let on_servers = match &spliced {
            None if parse.name.is_empty() => OnServers {
                prepared: Prepared::Unnamed(generation),
                name: Bytes::new(),
                parse: frame.clone(),
            },
            spliced => {
                let spliced = spliced.as_ref().map(|spliced| spliced.text.as_bytes());
                let server_sql = spliced.unwrap_or(parse.sql);
                self.on_servers(parse.name, server_sql, &types, &settings, generation)?
            }
        };
        let statement = Arc::new(Statement {
            name: Bytes::copy_from_slice(parse.name),
            prepared: on_servers.prepared,
            server_name: on_servers.name,
            generation,
            settings,
            known_settings: self.settings.known().clone(),
            sql: sql.into_owned().into(),
            parameter_types: types,
            made_by: MadeBy::Parse(on_servers.parse),
            planned,
            planned_under: self.plan_stamp(),
            told: Arc::default(),
        });
        self.statements.insert(Arc::clone(&statement));
        Ok(statement)
    }

    /// What a text is on servers.
    fn on_servers(
        &self,
        name: &[u8],
        sql: &[u8],
        types: &[u32],
        settings: &SettingsList,
        generation: u64,
    ) -> Result<OnServers, Failure> {
        let (prepared, name) = if name.is_empty() {
            (Prepared::Unnamed(generation), Bytes::new())
        } else {
            let id = self.shared_id(b"parse", sql, types, settings);
            (Prepared::Shared(id), Bytes::from(id.to_string()))
        };
        let parse = parse_frame(&name, sql, types)?;
        Ok(OnServers {
            prepared,
            name,
            parse,
        })
    }

    /// A statement that names a prepared one, which may stand for another by now.
    fn renamed(&mut self, statement: Arc<Statement>) -> Result<Arc<Statement>, Failure> {
        let Some(spliced) = self.splice(&statement.planned, &statement.sql)? else {
            return Ok(statement);
        };
        let generation = self.next_generation();
        let now = self.on_servers(
            &statement.name,
            spliced.text.as_bytes(),
            &statement.parameter_types,
            &statement.settings,
            generation,
        )?;
        let MadeBy::Parse(before) = &statement.made_by else {
            return Ok(statement);
        };
        if before.bytes() == now.parse.bytes() {
            return Ok(statement);
        }
        let renamed = Arc::new(Statement {
            prepared: now.prepared,
            server_name: now.name,
            made_by: MadeBy::Parse(now.parse),
            told: Arc::default(),
            ..Statement::clone(&statement)
        });
        self.statements.insert(Arc::clone(&renamed));
        Ok(renamed)
    }

    /// What a statement is called on every server: all that its meaning depends on is in it, the definitions of now included, so that one made
    /// before they changed serves only those who prepared it then.
    pub(crate) fn shared_id(
        &self,
        kind: &[u8],
        sql: &[u8],
        types: &[u32],
        settings: &SettingsList,
    ) -> StatementId {
        let mut declared = Vec::with_capacity(types.len() * 4);
        for declared_type in types {
            declared.extend_from_slice(&declared_type.to_be_bytes());
        }
        let settings = settings.as_deref().map(CarriedSettings::fingerprint);
        StatementId::of(&[
            kind,
            sql,
            &declared,
            settings.unwrap_or_default().as_bytes(),
            self.database.name().as_bytes(),
            &self.catalog_version().to_be_bytes(),
        ])
    }

    /// A statement by name, renewed, and what it executes.
    ///
    /// # Errors
    /// 26000 for a name that stands for nothing; see [`Session::renewed_statement`].
    pub(crate) async fn known_statement(&mut self, name: &[u8]) -> Result<Arc<Statement>, Failure> {
        let statement = self.renewed_statement(name).await?;
        self.renew_executed(&statement.planned).await?;
        self.renamed(statement)
    }

    /// A statement by name, planned anew where what its plan relied on has changed.
    ///
    /// # Errors
    /// 26000 for a name that stands for nothing; what planning says; 54000 where a text does not fit a message.
    pub(crate) async fn renewed_statement(
        &mut self,
        name: &[u8],
    ) -> Result<Arc<Statement>, Failure> {
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
        let needs_no_reading = (!self.definitions_are_stale() || only_controls(&statement.planned))
            && !self.must_read_before(&statement.planned);
        let stamp = self.plan_stamp();
        if statement.planned_under == stamp && stamp.catalog != u64::MAX && needs_no_reading {
            return Ok(statement);
        }
        let planned = self
            .plan(&statement.sql, &statement.parameter_types)
            .await?;
        let mut renewed = Statement {
            planned,
            planned_under: self.plan_stamp(),
            ..Statement::clone(&statement)
        };
        if self.is_analyzed_anew(&renewed) {
            self.analyze_anew(&mut renewed)?;
        }
        let renewed = Arc::new(renewed);
        self.statements.insert(Arc::clone(&renewed));
        Ok(renewed)
    }

    /// Whether Postgres would analyze a statement again that this client uses now: under another search path than it did, names may mean
    /// something else (documentation, reference: PREPARE, notes). Literals are read again then too, under the settings of now.
    fn is_analyzed_anew(&self, statement: &Statement) -> bool {
        let (then, now) = (&statement.known_settings, self.settings.known());
        if self.block.as_ref().is_some_and(|block| block.failed)
            || ["search_path", "role"].map(|name| then.get(name) == now.get(name)) == [true; 2]
        {
            return false;
        }
        let catalog = self.catalog();
        self.schemas_under(then, &catalog) != self.schemas_under(now, &catalog)
    }

    /// Makes a statement one of the settings of now. Servers know it by another name.
    ///
    /// # Errors
    /// 54000 where it does not fit a message.
    fn analyze_anew(&mut self, statement: &mut Statement) -> Result<(), Failure> {
        statement.settings = self.settings.meaning();
        statement.known_settings = self.settings.known().clone();
        match &statement.made_by {
            MadeBy::Parse(_) => {
                let generation = self.next_generation();
                let now = self.on_servers(
                    &statement.name,
                    statement.sql.as_bytes(),
                    &statement.parameter_types,
                    &statement.settings,
                    generation,
                )?;
                statement.prepared = now.prepared;
                statement.server_name = now.name;
                statement.made_by = MadeBy::Parse(now.parse);
            }
            MadeBy::Prepare(text) => {
                let (id, made_by) = self.prepare_on_servers(text, &statement.settings);
                statement.prepared = Prepared::Shared(id);
                statement.server_name = id.to_string().into();
                statement.made_by = made_by;
            }
        }
        Ok(())
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

/// A Parse message.
///
/// # Errors
/// 54000 where it is too long.
pub(crate) fn parse_frame(name: &[u8], sql: &[u8], types: &[u32]) -> Result<Frame, Failure> {
    let mut bytes = BytesMut::new();
    encode_parse(&mut bytes, name, sql, types.iter().copied())?;
    split_frame(&mut bytes, usize::MAX)
        .ok()
        .flatten()
        .ok_or_else(|| PgError::error(SqlState::INTERNAL_ERROR, "a Parse is no frame").into())
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
