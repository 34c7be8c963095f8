//! PREPARE, EXECUTE and DEALLOCATE as SQL. Their names share one space with the protocol's, and like them stand on every server for
//! what the statement is made of: the client's name is replaced in the text. What EXECUTE runs is placed and followed as if a Bind had given
//! the statement its values.
//!
//! Owns: that replacement, and what such a statement needs to be on a server first. Never does: planning. Main function:
//! [`Session::splice`]. See Postgres documentation, reference: PREPARE.

mod names;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use pgherd_pool::{Shape, StatementId};
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{
    Action, ParameterFormat, ParameterSource, ParameterValue, Planned, StatementPlan,
};
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use self::names::{
    behind_name, folded, may_have_name, place_of_name, prepared_text, renamed, second_word,
};
use crate::bringing::queue_close;
use crate::failure::Failure;
use crate::message::single_plan;
use crate::script::{Prepared, Script};
use crate::session::Session;
use crate::set_config::Executed;
use crate::settings::SettingsList;
use crate::simple::span_text;
use crate::statements::{MadeBy, Statement};

pub(crate) use self::names::executes_within;

/// A text in which the names of prepared statements are those of the servers.
#[derive(Debug)]
pub(crate) struct Spliced {
    /// The text.
    pub(crate) text: String,
    /// What it relies on.
    uses: SmallVec<[Arc<Statement>; 1]>,
    /// What it makes.
    makes: SmallVec<[Arc<Statement>; 1]>,
    /// What Postgres would say of the first name that is wrong.
    error: Option<PgError>,
}

impl Spliced {
    /// # Errors
    /// 26000 for a name that stands for nothing of this client's (on a server it may stand for what another one's code has left), 42P05 for
    /// one that is taken, 42601 for too few or too many arguments, 0A000 for an EXECUTE of an EXECUTE.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.error {
            None => Ok(()),
            Some(error) => Err(error.clone().into()),
        }
    }

    /// What a name stands for that the text itself gives.
    pub(crate) fn made(&self, name: &str) -> Option<&Arc<Statement>> {
        let mut made = self.makes.iter().rev();
        made.find(|made| made.name == *name.as_bytes())
    }

    /// Whether the text gives any.
    pub(crate) fn makes_any(&self) -> bool {
        !self.makes.is_empty()
    }
}

impl Session {
    /// Replaces the names of prepared statements. `None` where there is none.
    ///
    /// # Errors
    /// 54000 where the client has too many; what planning a statement says.
    pub(crate) fn splice(
        &mut self,
        planned: &Planned,
        sql: &str,
    ) -> Result<Option<Spliced>, Failure> {
        let mut statements = planned.plan.statements.iter().enumerate();
        if !statements.any(|(index, statement)| may_have_name(statement, planned, index, sql)) {
            return Ok(None);
        }
        let plan = Arc::clone(&planned.plan);
        let texts = move || (0_usize..).map(move |index| span_text(planned, index, sql));
        let mut named = plan.statements.iter().zip(texts());
        if !named.any(|(statement, text)| place_of_name(statement, text).is_some()) {
            return Ok(None);
        }
        let mut spliced = Spliced {
            text: String::new(),
            uses: SmallVec::new(),
            makes: SmallVec::new(),
            error: None,
        };
        // what names stand for where the text has come to
        let mut names: HashMap<String, Option<Arc<Statement>>> = HashMap::new();
        let mut all_gone = false;
        for (index, (statement, text)) in plan.statements.iter().zip(texts()).enumerate() {
            let text = text.trim_end_matches(';');
            if index > 0 {
                spliced.text.push_str(";\n");
            }
            let Some(place) = place_of_name(statement, text) else {
                if statement.action == Action::Deallocate(None) {
                    names.clear();
                    all_gone = true;
                }
                spliced.text.push_str(text);
                continue;
            };
            let name = folded(text.get(place.clone()).unwrap_or_default());
            let known = match names.get(&name) {
                Some(known) => known.clone(),
                None if all_gone => None,
                None => {
                    let known = self.statements.statement(name.as_bytes()).cloned();
                    if may_use(statement, known.as_deref()) {
                        spliced.uses.extend(known.clone());
                    }
                    known
                }
            };
            if spliced.error.is_none() {
                spliced.error = error_of_name(statement, &name, known.as_deref());
            }
            if let Action::Prepare {
                parameter_types, ..
            } = &statement.action
            {
                let made = Arc::new(self.made_by_prepare(&name, text, parameter_types)?);
                spliced.text.push_str(made.made_by.sql());
                names.insert(name, Some(Arc::clone(&made)));
                spliced.makes.push(made);
                continue;
            }
            match known {
                Some(known) => {
                    let renamed = renamed(text, place, &known.server_name);
                    spliced.text.push_str(&renamed);
                }
                None => spliced.text.push_str(text),
            }
            if matches!(statement.action, Action::Deallocate(_)) {
                names.insert(name, None);
            }
        }
        Ok(Some(spliced))
    }

    /// What Postgres says when it comes to PREPARE, EXECUTE or DEALLOCATE with a name that is wrong.
    ///
    /// # Errors
    /// 26000, 42P05, 42601 and 0A000, see [`Spliced::check`].
    pub(crate) fn check_name(&self, statement: &StatementPlan) -> Result<(), Failure> {
        let (Action::Prepare { name, .. }
        | Action::Execute { name, .. }
        | Action::Deallocate(Some(name))) = &statement.action
        else {
            return Ok(());
        };
        let known = self.statements.statement(name.as_bytes());
        match error_of_name(statement, name, known.map(AsRef::as_ref)) {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// The statement that EXECUTE stands for, with its arguments in the place of what a Bind would send; `None` where it is another
    /// statement, or of a name that stands for nothing. `made` is what the same text has made.
    pub(crate) fn execution(
        &self,
        executed: &Executed<'_>,
        made: Option<&Spliced>,
    ) -> Option<Execution> {
        let Action::Execute { name, arguments } = &executed.statement.action else {
            return None;
        };
        let made = made.and_then(|made| made.made(name));
        let known = made.or_else(|| self.executed_by(name))?;
        let values = self.values(executed.planned, executed.sql, executed.parameters);
        let texts = arguments
            .iter()
            .map(|argument| Some(argument.text(&values)?.map(|text| text.into_owned())))
            .collect();
        Some(Execution {
            statement: Arc::clone(known),
            arguments: texts,
        })
    }

    /// Plans anew what a text executes, where what the plans relied on has changed.
    ///
    /// # Errors
    /// What planning says.
    pub(crate) async fn renew_executed(&mut self, planned: &Planned) -> Result<(), Failure> {
        for statement in &planned.plan.statements {
            if let Action::Execute { name, .. } = &statement.action
                && self.statements.statement(name.as_bytes()).is_some()
            {
                self.renewed_statement(name.as_bytes()).await?;
            }
        }
        Ok(())
    }

    /// Queues what a text relies on ahead of it, and takes away what it makes.
    ///
    /// # Errors
    /// 54000 where something does not fit a message.
    pub(crate) fn queue_for_spliced(
        &mut self,
        node: NodeId,
        script: &mut Script,
        spliced: &Spliced,
    ) -> Result<(), Failure> {
        for made in &spliced.makes {
            self.make_way(node, script, made)?;
        }
        self.queue_uses(node, script, spliced, Shape::default())
    }

    /// Queues what a text relies on. `told` is what the client goes by for its result.
    ///
    /// # Errors
    /// 54000 where something does not fit a message.
    pub(crate) fn queue_uses(
        &mut self,
        node: NodeId,
        script: &mut Script,
        spliced: &Spliced,
        told: Shape,
    ) -> Result<(), Failure> {
        for used in &spliced.uses {
            self.ensure_prepared(node, script, used, told)?;
        }
        Ok(())
    }

    /// A PREPARE is to come for a statement that the server may have already.
    fn make_way(
        &mut self,
        node: NodeId,
        script: &mut Script,
        made: &Statement,
    ) -> Result<(), Failure> {
        let Some(id) = made.shared() else {
            return Ok(());
        };
        let connection = &mut self.legs.at(node).connection;
        // still known: where this is skipped, it is there
        if connection.prepared.uses(id).is_some() {
            queue_close(connection, script, &made.server_name)?;
        }
        Ok(())
    }

    /// What PREPARE makes of a text.
    ///
    /// # Errors
    /// 54000 where the client has too many; what planning the statement says.
    fn made_by_prepare(
        &mut self,
        name: &str,
        text: &str,
        parameter_types: &[u32],
    ) -> Result<Statement, Failure> {
        self.statements.check_room()?;
        let settings = self.settings.meaning();
        let (id, made_by) = self.prepare_on_servers(text, &settings);
        let sql = prepared_text(behind_name(text));
        let planned = self.plan_now(sql, parameter_types).map_err(Failure::from)?;
        Ok(Statement {
            name: Bytes::copy_from_slice(name.as_bytes()),
            prepared: Prepared::Shared(id),
            made_by,
            server_name: id.to_string().into(),
            generation: self.next_generation(),
            settings,
            known_settings: self.settings.known().clone(),
            sql: sql.into(),
            parameter_types: parameter_types.into(),
            planned,
            planned_under: self.plan_stamp(),
            told: Arc::default(),
        })
    }

    /// What a PREPARE is on servers, whatever name it gives.
    pub(crate) fn prepare_on_servers(
        &self,
        text: &str,
        settings: &SettingsList,
    ) -> (StatementId, MadeBy) {
        let id = self.shared_id(b"prepare", behind_name(text).as_bytes(), &[], settings);
        let place = second_word(text).unwrap_or_default();
        let sql = renamed(text, place, id.to_string().as_bytes());
        (id, MadeBy::Prepare(sql.into()))
    }

    /// What an EXECUTE of this name runs. `None` for a name that stands for nothing, and for what is itself an EXECUTE, which is refused.
    pub(crate) fn executed_by(&self, name: &str) -> Option<&Arc<Statement>> {
        let known = self.statements.statement(name.as_bytes())?;
        (!is_execute(known)).then_some(known)
    }

    /// What a statement runs: EXECUTE another one, `None` where that is not known, as it is made in the same text. Any other itself.
    pub(crate) fn run_by<'s>(&'s self, statement: &'s StatementPlan) -> Option<&'s StatementPlan> {
        match &statement.action {
            Action::Execute { name, .. } => single_plan(self.executed_by(name)?),
            _ => Some(statement),
        }
    }

    /// PREPARE completed on a server.
    pub(crate) fn note_prepared(
        &mut self,
        name: &str,
        text: &str,
        parameter_types: &[u32],
        node: NodeId,
    ) {
        // it ran, so the text can be planned
        let Ok(made) = self.made_by_prepare(name, text, parameter_types) else {
            return;
        };
        if let Some(id) = made.shared() {
            let prepared = &mut self.legs.at(node).connection.prepared;
            prepared.insert(id, Shape::default());
        }
        self.statements.insert(Arc::new(made));
    }

    /// DEALLOCATE completed on a server, among other statements.
    pub(crate) fn note_deallocated(&mut self, name: Option<&str>, node: NodeId) {
        let prepared = &mut self.legs.at(node).connection.prepared;
        match name {
            None => {
                self.statements.clear_named();
                prepared.clear();
            }
            Some(name) => {
                let known = self.statements.statement(name.as_bytes());
                if let Some(id) = known.and_then(|known| known.shared()) {
                    prepared.remove(id);
                }
                self.statements.close(name.as_bytes());
            }
        }
    }
}

/// A prepared statement and the arguments of an EXECUTE, as texts; `None` for one that only a server can work out.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) statement: Arc<Statement>,
    arguments: Vec<Option<Option<Vec<u8>>>>,
}

impl Execution {
    /// Whether every argument is known.
    pub(crate) fn is_known(&self) -> bool {
        self.arguments.iter().all(Option::is_some)
    }

    /// It as a statement that a Bind has given these values. `None` where it is an empty one.
    pub(crate) fn as_executed(&self) -> Option<Executed<'_>> {
        Some(Executed {
            statement: single_plan(&self.statement)?,
            planned: &self.statement.planned,
            sql: &self.statement.sql,
            parameters: Some(self),
        })
    }
}

impl ParameterSource for Execution {
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>> {
        let bytes = self.arguments.get(usize::from(index))?.as_ref()?;
        Some(ParameterValue {
            format: ParameterFormat::Text,
            bytes: bytes.as_deref(),
        })
    }
}

/// What Postgres says when it comes to a statement whose name stands for this.
fn error_of_name(
    statement: &StatementPlan,
    name: &str,
    known: Option<&Statement>,
) -> Option<PgError> {
    match (&statement.action, known) {
        (Action::Prepare { .. }, Some(_)) => Some(PgError::error(
            SqlState::DUPLICATE_PREPARED_STATEMENT,
            format!("prepared statement \"{name}\" already exists"),
        )),
        (Action::Prepare { .. }, None) => None,
        (_, None) => Some(PgError::error(
            SqlState::INVALID_SQL_STATEMENT_NAME,
            format!("prepared statement \"{name}\" does not exist"),
        )),
        (Action::Deallocate(_), Some(_)) => None,
        (_, Some(known)) if is_execute(known) => Some(
            PgError::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "EXECUTE of a prepared EXECUTE is not supported",
            )
            .detail(format!(
                "The prepared statement \"{name}\" executes another one."
            ))
            .hint("Execute that one."),
        ),
        (Action::Execute { arguments, .. }, Some(known)) => {
            let expected = known.parameter_count();
            let got = arguments.len();
            (got != expected).then(|| {
                PgError::error(
                    SqlState::SYNTAX_ERROR,
                    format!("wrong number of parameters for prepared statement \"{name}\""),
                )
                .detail(format!("Expected {expected} parameters but got {got}."))
            })
        }
        (_, Some(_)) => None,
    }
}

/// Whether a statement needs what its name stands for. What is made of itself is on no server.
fn may_use(statement: &StatementPlan, known: Option<&Statement>) -> bool {
    match statement.action {
        Action::Prepare { .. } => false,
        Action::Deallocate(_) => true,
        _ => !known.is_some_and(is_execute),
    }
}

/// Whether a prepared statement executes another one.
pub(crate) fn is_execute(statement: &Statement) -> bool {
    single_plan(statement).is_some_and(|plan| matches!(plan.action, Action::Execute { .. }))
}
