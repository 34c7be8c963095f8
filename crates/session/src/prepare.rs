//! PREPARE, EXECUTE and DEALLOCATE as SQL. Their names share one space with the protocol's, and like them stand on every server for
//! what the statement is made of: the client's name is replaced in the text. What EXECUTE runs is placed and followed as if a Bind had given
//! the statement its values.
//!
//! Owns: that replacement, and what such a statement needs to be on a server first. Never does: planning. Main function:
//! [`Session::splice`]. See Postgres documentation, reference: PREPARE.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pgherd_pool::{Shape, StatementId};
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::lexer::{Lexer, TokenKind};
use pgherd_router::{
    Action, BackslashReading, ParameterFormat, ParameterSource, ParameterValue, Planned,
    StatementPlan,
};
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use crate::bringing::queue_close;
use crate::failure::Failure;
use crate::message::single_plan;
use crate::script::{Prepared, Script};
use crate::session::Session;
use crate::set_config::Executed;
use crate::settings::SettingsList;
use crate::simple::span_text;
use crate::statements::{MadeBy, Statement};

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

    /// Queues what a text relies on ahead of it, and takes away what it makes. `told` is what the client goes by for its result.
    ///
    /// # Errors
    /// 54000 where something does not fit a message.
    pub(crate) fn queue_for_spliced(
        &mut self,
        node: NodeId,
        script: &mut Script,
        spliced: &Spliced,
        told: Shape,
    ) -> Result<(), Failure> {
        for made in &spliced.makes {
            self.make_way(node, script, made)?;
        }
        self.queue_uses(node, script, spliced, told)
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

/// Whether there may be such a name in a statement: told without looking at more than its first byte.
fn may_have_name(statement: &StatementPlan, planned: &Planned, index: usize, sql: &str) -> bool {
    match statement.action {
        Action::Prepare { .. } | Action::Execute { .. } | Action::Deallocate(Some(_)) => true,
        Action::Run | Action::Ddl(_) => {
            let start = planned.spans.get(index).map_or(0, |span| span.start);
            let first = sql.as_bytes().get(start as usize);
            first.is_some_and(|first| matches!(first, b'e' | b'E' | b'c' | b'C'))
        }
        _ => false,
    }
}

/// Where the name of a prepared statement stands in a statement that has one.
fn place_of_name(statement: &StatementPlan, text: &str) -> Option<Range<usize>> {
    match statement.action {
        Action::Prepare { .. } | Action::Execute { .. } | Action::Deallocate(Some(_)) => {
            second_word(text)
        }
        Action::Run | Action::Ddl(_) => executed_within(text),
        _ => None,
    }
}

/// Whether a statement runs a prepared one as a part of it: EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE.
pub(crate) fn executes_within(statement: &StatementPlan, text: &str) -> bool {
    matches!(statement.action, Action::Run | Action::Ddl(_)) && executed_within(text).is_some()
}

fn executed_within(text: &str) -> Option<Range<usize>> {
    let begins = |word: &str| {
        let start = text.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if !begins("explain") && !begins("create") {
        return None;
    }
    let mut depth = 0_usize;
    let mut outside = tokens(text).filter(|(kind, _)| {
        match kind {
            TokenKind::LeftParen => depth += 1,
            TokenKind::RightParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *kind != TokenKind::RightParen
    });
    let word = |place: Range<usize>| text.get(place).unwrap_or_default().to_ascii_lowercase();
    let mut next = || outside.next().map(|(_, place)| place);
    let mut first = word(next()?);
    if first == "explain" {
        while ["explain", "analyze", "analyse", "verbose"].contains(&first.as_str()) {
            first = word(next()?);
        }
        if first == "execute" {
            return next();
        }
    }
    if first != "create" {
        return None;
    }
    // the first AS is that of CREATE TABLE
    while word(next()?) != "as" {}
    (word(next()?) == "execute").then(next)?
}

/// The name that follows the first word (DEALLOCATE may say PREPARE between).
fn second_word(text: &str) -> Option<Range<usize>> {
    tokens(text)
        .enumerate()
        .skip(1)
        .map(|(_, (_, place))| place)
        .find(|place| {
            !text
                .get(place.clone())
                .is_some_and(|word| word.eq_ignore_ascii_case("prepare"))
        })
}

/// What follows the name of a PREPARE.
fn behind_name(text: &str) -> &str {
    let name = second_word(text).unwrap_or_default();
    text.get(name.end..).unwrap_or_default()
}

/// The statement behind `(types) AS`.
fn prepared_text(rest: &str) -> &str {
    let mut depth = 0_usize;
    for (kind, place) in tokens(rest) {
        match kind {
            TokenKind::LeftParen => depth += 1,
            TokenKind::RightParen => depth = depth.saturating_sub(1),
            TokenKind::Word if depth == 0 => {
                // AS
                return rest.get(place.end..).unwrap_or_default().trim();
            }
            _ => {}
        }
    }
    ""
}

fn tokens(text: &str) -> impl Iterator<Item = (TokenKind, Range<usize>)> + '_ {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    std::iter::from_fn(move || {
        let token = lexer.next_token().ok()??;
        Some((token.kind, token.start as usize..token.end as usize))
    })
}

/// A name as Postgres folds it.
fn folded(name: &str) -> String {
    match name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_ascii_lowercase(),
    }
}

/// A statement with another name in this place.
fn renamed(text: &str, place: Range<usize>, name: &[u8]) -> String {
    let before = text.get(..place.start).unwrap_or_default();
    let after = text.get(place.end..).unwrap_or_default();
    format!("{before}\"{}\"{after}", String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_replaced_wherever_it_stands() {
        let named = |text: &str, place: Option<Range<usize>>| {
            renamed(text, place.unwrap_or_default(), b"s")
        };
        for (text, expected) in [
            (
                "PREPARE /* x */ \"A b\"(int) AS SELECT $1",
                "PREPARE /* x */ \"s\"(int) AS SELECT $1",
            ),
            ("execute a (1)", "execute \"s\" (1)"),
            ("DEALLOCATE PREPARE a", "DEALLOCATE PREPARE \"s\""),
        ] {
            assert_eq!(named(text, second_word(text)), expected);
        }
        for (text, expected) in [
            (
                "EXPLAIN (ANALYZE) EXECUTE a(1)",
                "EXPLAIN (ANALYZE) EXECUTE \"s\"(1)",
            ),
            (
                "CREATE TABLE t (a) AS EXECUTE a WITH NO DATA",
                "CREATE TABLE t (a) AS EXECUTE \"s\" WITH NO DATA",
            ),
        ] {
            assert_eq!(named(text, executed_within(text)), expected);
        }
        for other in [
            "CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()",
            "CREATE TABLE t AS SELECT a AS execute FROM b",
            "EXPLAIN SELECT execute FROM a",
            "EXPLAIN SELECT (a) execute FROM b",
            "SELECT 1",
        ] {
            assert_eq!(executed_within(other), None, "{other}");
        }
    }

    #[test]
    fn the_statement_is_what_follows_as() {
        assert_eq!(prepared_text(" (int, numeric(3)) AS SELECT 1 "), "SELECT 1");
        assert_eq!(prepared_text(" as VALUES (1)"), "VALUES (1)");
        assert_eq!(prepared_text("AS SELECT 1 AS a"), "SELECT 1 AS a");
    }

    #[test]
    fn a_name_is_folded_unless_it_is_quoted() {
        assert_eq!(folded("Ab"), "ab");
        assert_eq!(folded("\"A \"\"b\""), "A \"b");
    }
}
