//! Cursors by SQL: DECLARE, FETCH, MOVE, CLOSE.
//!
//! Owns their grammar (Postgres documentation, reference, under each name). A cursor is placed as
//! its query; what follows goes where it is.

use crate::action::{Action, CursorTarget};
use crate::place::Draft;
use crate::plan::{Access, Placement, Residue};
use crate::statement::{begins_query, read_query};
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
    None
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
