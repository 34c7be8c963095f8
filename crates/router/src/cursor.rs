//! Cursors and prepared statements by SQL: DECLARE, FETCH, MOVE, CLOSE, PREPARE, EXECUTE, DEALLOCATE.
//!
//! Owns their grammar (Postgres documentation, reference, under each name). A cursor is placed as
//! its query; what follows goes where it is.

use crate::action::{Action, CursorTarget};
use crate::place::Draft;
use crate::plan::{Access, NamedCheck, Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::statement::{answered, begins_query, read_query};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// Reads one of these statements; `None` where it is another.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("declare") {
        return declare(at, subject);
    }
    if at.takes_any(&["fetch", "move"]) {
        return fetch(at);
    }
    if at.takes("close") {
        let target = if at.takes("all") {
            CursorTarget::All
        } else {
            CursorTarget::Named(at.name()?.into())
        };
        let placement = match target {
            CursorTarget::All => Placement::Nowhere,
            CursorTarget::Named(_) => Placement::WhereCursorIs,
        };
        let draft = Draft::new(Action::Close(target), placement, "where the cursor is");
        return at.at_end().then(|| draft.residue(Residue::RELEASE));
    }
    if at.takes("deallocate") {
        at.takes("prepare");
        let name = if at.takes("all") {
            None
        } else {
            Some(at.name()?.into())
        };
        let action = Action::Deallocate(name);
        return at.at_end().then(|| {
            answered(
                action,
                Placement::Nowhere,
                "the session's prepared statements",
            )
        });
    }
    if at.takes("prepare") {
        let name = at.name()?;
        let draft = prepared(Action::Prepare(name.into()), "PREPARE");
        let check = check_of_prepared(at, subject);
        return Some(Draft { check, ..draft });
    }
    if at.takes("execute") {
        let name = at.name()?;
        return Some(prepared(Action::Execute(name.into()), "EXECUTE"));
    }
    None
}

fn prepared(action: Action, what: &str) -> Draft {
    let rejection = Rejection::unsupported(
        label::STATEMENT,
        format!("{what} is not supported on a sharded database"),
    )
    .hint("Use the protocol's prepared statements, as drivers do, or name a shard with SET pgherd.shard.");
    Draft::refused(action, rejection).residue(Residue::PREPARED)
}

/// What a named shard is to be checked for where this is prepared there: nothing that only the values of an EXECUTE would tell.
fn check_of_prepared(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> NamedCheck {
    let rejection = Rejection::unsupported(
        label::MISPLACED,
        "PREPARE of what adds rows is not supported on a named shard",
    )
    .detail("Where the rows of a later EXECUTE belong cannot be checked.")
    .hint("Send the statement itself, or SET pgherd.unchecked = on.");
    let impossible = NamedCheck::Impossible(Box::new(rejection));
    // the parameters' types
    at.parenthesised();
    if !at.takes("as") || !begins_query(at) {
        return impossible;
    }
    match read_query(subject, at.at, at.end).check {
        NamedCheck::Free => NamedCheck::Free,
        NamedCheck::Impossible(rejection) => NamedCheck::Impossible(rejection),
        NamedCheck::Keys(_) | NamedCheck::OnlyOn(_) => impossible,
    }
}

/// DECLARE name [options] CURSOR [{WITH | WITHOUT} HOLD] FOR query
fn declare(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let cursor: Box<str> = at.name()?.into();
    while at.takes_any(&["binary", "asensitive", "insensitive", "no", "scroll"]) {}
    if !at.takes("cursor") {
        return None;
    }
    let hold = at.takes_all(&["with", "hold"]);
    at.takes_all(&["without", "hold"]);
    if !at.takes("for") || !begins_query(at) {
        return None;
    }
    let mut draft = read_query(subject, at.at, at.end);
    // a cursor's later FETCHes must find it: it is never on a server that was only read from by chance
    draft.access = if hold { Access::Write } else { draft.access };
    if hold {
        draft.residue |= Residue::HOLD_CURSOR;
    }
    draft.action = Action::Declare { cursor, hold };
    Some(draft)
}

/// FETCH [direction] [FROM | IN] name: the name is the last word.
fn fetch(at: Cursor<'_, '_>) -> Option<Draft> {
    if at.at_end() {
        return None;
    }
    let last = Cursor {
        at: at.end - 1,
        ..at
    };
    let name = { last }.name()?;
    Some(Draft::new(
        Action::Fetch(name.into()),
        Placement::WhereCursorIs,
        "where the cursor is",
    ))
}
