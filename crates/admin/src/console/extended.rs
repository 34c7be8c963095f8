//! The console's statements and portals.
//!
//! Owns: what Parse, Bind, Describe, Execute and Close do (Postgres documentation, chapter 55.2.3), bounded in number. Never does: the loop over messages.
//! Main type: [`Extended`].

use std::collections::HashMap;

use bytes::BytesMut;
use pgherd_protocol::backend::encode_parameter_description;
use pgherd_protocol::{
    BackendMessage, Bind, Format, FrontendMessage, MessageError, Parse, PgError, SqlState, Target,
    TransactionStatus,
};

use super::run::{Outcome, columns_of, run};
use super::{internal, put_complete, readable};
use crate::answer::Answer;
use crate::command::AdminCommand;
use crate::doing::Acting;

/// How many statements, and how many portals, an operator may keep.
const MAX_KEPT: usize = 1000;

/// What an operator has prepared and bound; the name is empty for the unnamed one.
#[derive(Default)]
pub(super) struct Extended {
    /// `None` is the empty statement.
    statements: HashMap<Vec<u8>, Option<AdminCommand>>,
    portals: HashMap<Vec<u8>, Portal>,
    mode: Mode,
}

/// Whether messages are heard.
#[derive(Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Hearing,
    /// An error came: nothing is until Sync.
    Skipping,
}

struct Portal {
    command: Option<AdminCommand>,
    formats: Vec<Format>,
    /// Rows that were asked for, and how many of them were given already.
    begun: Option<(Answer, &'static str, usize)>,
}

impl Portal {
    /// One code is for all columns, none means text.
    fn format(&self, column: usize) -> Format {
        let at = if self.formats.len() == 1 { 0 } else { column };
        self.formats.get(at).copied().unwrap_or(Format::Text)
    }
}

impl Extended {
    pub(super) fn is_skipping(&self) -> bool {
        self.mode == Mode::Skipping
    }

    pub(super) fn skip(&mut self) {
        self.mode = Mode::Skipping;
    }

    /// The end of a request: what comes is heard again, and outside of a block portals end here, as their transaction does.
    pub(super) fn synchronize(&mut self, status: TransactionStatus) {
        self.mode = Mode::Hearing;
        match status {
            TransactionStatus::Idle | TransactionStatus::Failed => self.portals.clear(),
            TransactionStatus::InTransaction => {}
        }
    }

    /// Handles one of the five messages.
    ///
    /// # Errors
    /// As Postgres: 26000, 34000, 42601, 42P05, 42P03, 08P01; 54000 for too many of them.
    pub(super) async fn handle(
        &mut self,
        message: &FrontendMessage<'_>,
        acting: &mut Acting<'_>,
        status: &mut TransactionStatus,
    ) -> Result<(), PgError> {
        let out = &mut acting.transport.outbox;
        match message {
            FrontendMessage::Parse(parse) => {
                self.parse(parse)?;
                put(BackendMessage::ParseComplete, out)
            }
            FrontendMessage::Bind(bind) => {
                self.bind(bind)?;
                put(BackendMessage::BindComplete, out)
            }
            FrontendMessage::Describe { target, name } => self.describe(*target, name, out),
            FrontendMessage::Execute { portal, max_rows } => {
                self.execute(portal, *max_rows, acting, status).await
            }
            FrontendMessage::Close { target, name } => {
                match target {
                    Target::Statement => drop(self.statements.remove(*name)),
                    Target::Portal => drop(self.portals.remove(*name)),
                }
                put(BackendMessage::CloseComplete, out)
            }
            FrontendMessage::Query(_)
            | FrontendMessage::Sync
            | FrontendMessage::Flush
            | FrontendMessage::CopyData(_)
            | FrontendMessage::CopyDone
            | FrontendMessage::CopyFail(_)
            | FrontendMessage::Terminate
            | FrontendMessage::FunctionCall(_)
            | FrontendMessage::Password(_) => Ok(()),
        }
    }

    fn parse(&mut self, parse: &Parse<'_>) -> Result<(), PgError> {
        let mut commands = AdminCommand::parse_all(&readable(parse.sql)?)?;
        if commands.len() > 1 {
            return Err(PgError::error(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            let name = String::from_utf8_lossy(parse.name);
            return Err(PgError::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        check_room(self.statements.len())?;
        self.statements.insert(parse.name.to_vec(), commands.pop());
        Ok(())
    }

    fn bind(&mut self, bind: &Bind<'_>) -> Result<(), PgError> {
        let command = self.statement(bind.statement)?.clone();
        let given = bind.parameter_count();
        if given > 0 {
            let name = String::from_utf8_lossy(bind.statement);
            return Err(PgError::error(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "bind message supplies {given} parameters, but prepared statement \"{name}\" requires 0"
                ),
            ));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            let name = String::from_utf8_lossy(bind.portal);
            return Err(PgError::error(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        check_room(self.portals.len())?;
        let portal = Portal {
            command,
            formats: bind.result_formats().iter().collect(),
            begun: None,
        };
        self.portals.insert(bind.portal.to_vec(), portal);
        Ok(())
    }

    fn describe(&self, target: Target, name: &[u8], out: &mut BytesMut) -> Result<(), PgError> {
        let (command, portal) = match target {
            Target::Statement => {
                let command = self.statement(name)?;
                encode_parameter_description(out, []).map_err(internal)?;
                (command, None)
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.command, Some(portal))
            }
        };
        match command.as_ref().and_then(columns_of) {
            None => put(BackendMessage::NoData, out),
            Some(columns) => {
                let format = |column| portal.map_or(Format::Text, |portal| portal.format(column));
                Answer::encode_description(columns, format, out).map_err(internal)
            }
        }
    }

    async fn execute(
        &mut self,
        name: &[u8],
        max_rows: i32,
        acting: &mut Acting<'_>,
        status: &mut TransactionStatus,
    ) -> Result<(), PgError> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let Some(command) = &portal.command else {
            return put(
                BackendMessage::EmptyQueryResponse,
                &mut acting.transport.outbox,
            );
        };
        if portal.begun.is_none() {
            match run(command, acting, status).await? {
                Outcome::Done(tag) => {
                    return put_complete(tag, &mut acting.transport.outbox).map_err(internal);
                }
                Outcome::Rows(answer, tag) => portal.begun = Some((answer, tag, 0)),
            }
        }
        let out = &mut acting.transport.outbox;
        let format = |column| portal.format(column);
        let Some((answer, tag, given)) = &portal.begun else {
            return Ok(());
        };
        let left = answer.rows().len() - given;
        // 0 and less mean all
        let wanted = usize::try_from(max_rows)
            .ok()
            .filter(|wanted| *wanted > 0)
            .unwrap_or(left);
        let end = given + left.min(wanted);
        for row in *given..end {
            answer.encode_row(row, format, out).map_err(internal)?;
        }
        if left > wanted {
            put(BackendMessage::PortalSuspended, out)?;
        } else {
            put_complete(tag, out).map_err(internal)?;
        }
        if let Some((_, _, given)) = &mut portal.begun {
            *given = end;
        }
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<AdminCommand>, PgError> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            PgError::error(
                SqlState::INVALID_SQL_STATEMENT_NAME,
                format!("prepared statement \"{name}\" does not exist"),
            )
        })
    }
}

fn no_portal(name: &[u8]) -> PgError {
    let name = String::from_utf8_lossy(name);
    PgError::error(
        SqlState::INVALID_CURSOR_NAME,
        format!("portal \"{name}\" does not exist"),
    )
}

fn check_room(kept: usize) -> Result<(), PgError> {
    if kept < MAX_KEPT {
        Ok(())
    } else {
        Err(PgError::error(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("the console keeps at most {MAX_KEPT} of these"),
        ))
    }
}

fn put(message: BackendMessage<'_>, out: &mut BytesMut) -> Result<(), PgError> {
    message
        .encode(out)
        .map_err(|error: MessageError| internal(error))
}
