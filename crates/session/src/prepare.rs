//! PREPARE, EXECUTE and DEALLOCATE as SQL. Their names share one space with the protocol's, and like them stand on every server for
//! what the statement is made of: the client's name is replaced in the text.
//!
//! Owns: that replacement, and what such a statement needs to be on a server first. Never does: planning. Main function:
//! [`Session::splice`]. See Postgres documentation, reference: PREPARE.

use std::sync::Arc;

use bytes::Bytes;
use pgherd_pool::Shape;
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::lexer::{Lexer, TokenKind};
use pgherd_router::{Action, BackslashReading, Planned, Residue, StatementPlan};
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use crate::bringing::queue_close;
use crate::failure::{Failure, not_supported};
use crate::script::{Prepared, Script};
use crate::session::Session;
use crate::simple::span_text;
use crate::statements::{MadeBy, Statement};
use crate::transaction::quoted;

/// A text in which the names of prepared statements are those of the servers.
#[derive(Debug)]
pub(crate) struct Spliced {
    /// The text.
    pub(crate) text: String,
    /// What it relies on.
    uses: SmallVec<[Arc<Statement>; 1]>,
    /// What it makes.
    makes: SmallVec<[Arc<Statement>; 1]>,
    /// A name that stands for nothing.
    unknown: Option<Box<str>>,
}

impl Spliced {
    /// # Errors
    /// 26000 for a name that stands for nothing of this client's; on a server it may stand for what another one's code has left.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.unknown {
            None => Ok(()),
            Some(name) => Err(PgError::error(
                SqlState::INVALID_SQL_STATEMENT_NAME,
                format!("prepared statement \"{name}\" does not exist"),
            )
            .into()),
        }
    }
}

impl Session {
    /// Replaces the names of prepared statements. `None` where there is none.
    ///
    /// # Errors
    /// 42P05 for a name that is taken.
    pub(crate) fn splice(
        &mut self,
        planned: &Planned,
        sql: &str,
    ) -> Result<Option<Spliced>, Failure> {
        let plan = Arc::clone(&planned.plan);
        if !plan.statements.iter().any(names_prepared) {
            return Ok(None);
        }
        let mut spliced = Spliced {
            text: String::new(),
            uses: SmallVec::new(),
            makes: SmallVec::new(),
            unknown: None,
        };
        for (index, statement) in plan.statements.iter().enumerate() {
            let text = span_text(planned, index, sql);
            let text = text.trim_end_matches(';');
            if index > 0 {
                spliced.text.push_str(";\n");
            }
            match &statement.action {
                Action::Prepare(name) => {
                    let made = Arc::new(self.made_by_prepare(name, text)?);
                    spliced.text.push_str(made.made_by.sql());
                    spliced.makes.push(made);
                }
                Action::Execute(name) | Action::Deallocate(Some(name)) => {
                    let made = spliced
                        .makes
                        .iter()
                        .find(|made| made.name == *name.as_bytes());
                    let known = self.statements.statement(name.as_bytes());
                    match (made, known) {
                        (Some(made), _) => {
                            spliced.text.push_str(&renamed(text, &made.server_name));
                        }
                        (None, Some(known)) => {
                            self.check_execute(&statement.action, known)?;
                            spliced.text.push_str(&renamed(text, &known.server_name));
                            spliced.uses.push(Arc::clone(known));
                        }
                        (None, None) => {
                            spliced.text.push_str(text);
                            spliced.unknown = Some(name.clone());
                        }
                    }
                }
                _ => spliced.text.push_str(text),
            }
        }
        Ok(Some(spliced))
    }

    /// On a named shard EXECUTE runs what PREPARE has made there: what Parse made is checked by the values of each Bind.
    ///
    /// # Errors
    /// 0A000.
    fn check_execute(&self, action: &Action, known: &Statement) -> Result<(), Failure> {
        let is_checked = matches!(known.made_by, MadeBy::Prepare(_))
            || matches!(action, Action::Deallocate(_))
            || self.sharding().is_unsharded()
            || self.settings.overrides().unchecked;
        if is_checked {
            return Ok(());
        }
        Err(not_supported(
            "EXECUTE of a statement that was prepared by the protocol is not supported on a named shard",
            "Where its rows belong cannot be checked.",
            "Bind and execute it by the protocol, or prepare it by PREPARE.",
        ))
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
    /// 42P05 for a name that is taken, 54000 where the client has too many.
    fn made_by_prepare(&mut self, name: &str, text: &str) -> Result<Statement, Failure> {
        if self.statements.statement(name.as_bytes()).is_some() {
            return Err(PgError::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            )
            .into());
        }
        self.statements.check_room()?;
        let settings = self.settings.meaning();
        let (_, rest) = around_name(text);
        let id = self.shared_id(b"prepare", rest.as_bytes(), &[], &settings);
        let server_name = Bytes::from(id.to_string());
        let sql = format!("EXECUTE {}", quoted(name));
        let planned = self.plan_now(&sql, &[]).map_err(Failure::from)?;
        Ok(Statement {
            name: Bytes::copy_from_slice(name.as_bytes()),
            prepared: Prepared::Shared(id),
            made_by: MadeBy::Prepare(renamed(text, &server_name).into()),
            residue: self.residue_of_prepared(text),
            server_name,
            generation: self.next_generation(),
            settings,
            sql: sql.into(),
            parameter_types: SmallVec::new(),
            planned,
            planned_under: self.plan_stamp(),
            told: Arc::default(),
        })
    }

    /// What an EXECUTE leaves behind of what PREPARE made: what is not understood may leave anything.
    fn residue_of_prepared(&self, text: &str) -> Residue {
        prepared_text(text)
            .and_then(|inner| self.plan_now(inner, &[]).ok())
            .map_or(Residue::OPAQUE, |planned| residue_of(&planned))
    }

    /// What a statement leaves behind; EXECUTE, what it runs.
    pub(crate) fn residue(&self, statement: &StatementPlan) -> Residue {
        match &statement.action {
            Action::Execute(name) => match self.statements.statement(name.as_bytes()) {
                Some(known) => known.residue,
                // made in the same text
                None => Residue::OPAQUE,
            },
            _ => statement.residue,
        }
    }

    /// PREPARE completed on a server.
    pub(crate) fn note_prepared(&mut self, name: &str, text: &str, node: NodeId) {
        // it ran, so the name was free
        let Ok(made) = self.made_by_prepare(name, text) else {
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

fn names_prepared(statement: &StatementPlan) -> bool {
    matches!(
        statement.action,
        Action::Prepare(_) | Action::Execute(_) | Action::Deallocate(Some(_))
    )
}

/// A statement with another name in the place of its first.
fn renamed(text: &str, name: &[u8]) -> String {
    let (before, after) = around_name(text);
    format!("{before}\"{}\"{after}", String::from_utf8_lossy(name))
}

/// What is before and behind the name that follows the first word (DEALLOCATE may say PREPARE between).
fn around_name(text: &str) -> (&str, &str) {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    let mut words = 0;
    while let Ok(Some(token)) = lexer.next_token() {
        let (start, end) = (token.start as usize, token.end as usize);
        words += 1;
        let noise = text
            .get(start..end)
            .is_some_and(|word| word.eq_ignore_ascii_case("prepare"));
        if words > 1 && !noise {
            return (
                text.get(..start).unwrap_or_default(),
                text.get(end..).unwrap_or_default(),
            );
        }
    }
    (text, "")
}

/// What all statements of a text leave behind.
pub fn residue_of(planned: &Planned) -> Residue {
    let statements = planned.plan.statements.iter();
    statements.fold(Residue::NONE, |residue, statement| {
        residue | statement.residue
    })
}

/// What PREPARE prepares: the text behind its AS.
fn prepared_text(text: &str) -> Option<&str> {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    let (mut words, mut depth) = (0, 0_u32);
    while let Ok(Some(token)) = lexer.next_token() {
        words += 1;
        let (start, end) = (token.start as usize, token.end as usize);
        match token.kind {
            TokenKind::LeftParen => depth += 1,
            TokenKind::RightParen => depth = depth.saturating_sub(1),
            // the second is the name
            TokenKind::Word if depth == 0 && words > 2 => {
                let word = text.get(start..end)?;
                return word
                    .eq_ignore_ascii_case("as")
                    .then(|| text.get(end..))
                    .flatten();
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_follows_as() {
        assert_eq!(
            prepared_text("PREPARE as (int, numeric(1, 2)) AS SELECT 1 AS a"),
            Some(" SELECT 1 AS a")
        );
        assert_eq!(
            prepared_text("prepare \"b\" as VALUES (1)"),
            Some(" VALUES (1)")
        );
        assert_eq!(prepared_text("PREPARE a (as) SELECT 1"), None);
    }

    #[test]
    fn the_name_is_replaced_wherever_it_stands() {
        assert_eq!(
            renamed("PREPARE /* x */ \"A b\"(int) AS SELECT $1", b"s"),
            "PREPARE /* x */ \"s\"(int) AS SELECT $1"
        );
        assert_eq!(renamed("execute a (1)", b"s"), "execute \"s\" (1)");
        assert_eq!(
            renamed("DEALLOCATE PREPARE a", b"s"),
            "DEALLOCATE PREPARE \"s\""
        );
    }
}
