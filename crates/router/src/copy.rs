//! COPY, in both directions.
//!
//! Owns where a COPY of a table or of a query goes (Postgres documentation, reference: COPY). The rows
//! of a COPY into a sharded table are not looked at, so it is refused.

use crate::action::{Action, CopyDirection};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{Access, NamedCheck, Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::scope::{TableKind, TableMode};
use crate::statement::{begins_query, read_query};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// Reads COPY; `None` where it is another statement.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if !at.takes("copy") {
        return None;
    }
    if at.kind() == Some(TokenKind::LeftParen) {
        let query = at.parenthesised()?;
        if !begins_query(query) || !at.takes("to") {
            return None;
        }
        let mut draft = read_query(subject, query.at, query.end);
        match direction(at)? {
            Endpoint::Client => {
                draft.action = match draft.action {
                    // its copies would each send their rows
                    Action::ReferenceWrite { .. } => return Some(returning_reference(draft)),
                    _ => Action::Copy {
                        direction: CopyDirection::ToClient,
                    },
                };
            }
            Endpoint::Server => return Some(of_server_file()),
        }
        return Some(draft);
    }
    at.takes("binary");
    let name = at.qualified_name()?;
    if at.kind() == Some(TokenKind::LeftParen) {
        at.parenthesised()?;
    }
    let into_table = if at.takes("from") {
        true
    } else if at.takes("to") {
        false
    } else {
        return None;
    };
    if direction(at)? == Endpoint::Server {
        return Some(of_server_file());
    }
    let mode = if into_table {
        TableMode::Insert
    } else {
        TableMode::Read
    };
    let direction = if into_table {
        CopyDirection::FromClient
    } else {
        CopyDirection::ToClient
    };
    let action = Action::Copy { direction };
    let table = match subject.names.table(&name, mode) {
        Ok(table) => table,
        Err(rejection) => return Some(Draft::refused(action, rejection).uncheckable()),
    };
    if let Err(rejection) = subject.names.check(&table) {
        return Some(Draft::refused(action, rejection).uncheckable());
    }
    let access = if !into_table && subject.names.is_replica_safe(&table) {
        Access::Read
    } else {
        Access::Write
    };
    let home = subject.names.home();
    let full = &table.name;
    let draft = match (&table.kind, into_table) {
        (TableKind::Home | TableKind::System, _) => {
            let reason = format!("{full} is not sharded: it lives on the home shard");
            Draft {
                check: if into_table {
                    NamedCheck::OnlyOn(home)
                } else {
                    NamedCheck::Free
                },
                ..Draft::new(action, Placement::One(home), reason)
            }
        }
        (TableKind::Reference, false) => {
            let reason = format!("{full} is a reference table: any shard can answer");
            Draft::new(action, Placement::Any, reason)
        }
        (TableKind::Sharded(_), false) => {
            let rejection = Rejection::unsupported(
                label::STATEMENT,
                "COPY of a whole sharded table is not supported",
            )
            .detail(format!("The rows of {full} are on several shards."))
            .hint("COPY (SELECT ... WHERE key = ...) TO STDOUT, or name one shard after the other with SET pgherd.shard.");
            Draft::refused(action, rejection)
        }
        (TableKind::Sharded(_) | TableKind::Reference, true) => {
            let rejection = Rejection::unsupported(
                label::STATEMENT,
                "COPY into a sharded or reference table is not supported",
            )
            .detail(format!(
                "The rows sent for {full} are not looked at, so they cannot be placed."
            ))
            .hint("Use INSERT.");
            Draft::refused(action, rejection).uncheckable()
        }
    };
    let residue = if subject.names.runs_code(&table) {
        Residue::OPAQUE
    } else {
        Residue::NONE
    };
    Some(
        draft
            .access(access)
            .residue(residue)
            .relations(vec![table.name.clone()]),
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Endpoint {
    Client,
    Server,
}

/// STDIN and STDOUT are the client; a file name or PROGRAM is the server.
fn direction(mut at: Cursor<'_, '_>) -> Option<Endpoint> {
    if at.takes_any(&["stdin", "stdout"]) {
        Some(Endpoint::Client)
    } else if at.takes("program") || matches!(at.kind(), Some(TokenKind::Literal(_))) {
        Some(Endpoint::Server)
    } else {
        None
    }
}

fn returning_reference(draft: Draft) -> Draft {
    let rejection = Rejection::unsupported(
        label::REFERENCE_WRITE,
        "COPY of a write to a reference table is not supported",
    )
    .hint("Run the statement by itself, with RETURNING.");
    Draft {
        action: Action::Run,
        placement: Err(rejection),
        ..draft
    }
}

fn of_server_file() -> Draft {
    let rejection = Rejection::unsupported(
        label::STATEMENT,
        "COPY with a file of the server is not supported on a sharded database",
    )
    .hint("Use COPY ... FROM STDIN or TO STDOUT, or \\copy in psql.");
    Draft::refused(Action::Run, rejection).uncheckable()
}
