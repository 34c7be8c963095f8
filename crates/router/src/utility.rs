//! Statements of one server's session: LISTEN, NOTIFY, LOCK, DO, CALL, LOAD.
//!
//! Owns their grammar (Postgres documentation, reference, under each name).

use crate::action::Action;
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::scope::{TableKind, TableMode};
use crate::statement::{NAME_A_SHARD, not_over_shards};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// Reads one of these statements; `None` where it is another.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let home = Placement::One(subject.names.home());
    if at.takes("listen") {
        let action = Action::Listen(at.name()?.into());
        let draft = Draft::new(action, home, "channels are those of the home shard");
        return at.at_end().then(|| draft.residue(Residue::LISTEN));
    }
    if at.takes("unlisten") {
        let channel = if at.takes_operator("*") {
            None
        } else {
            Some(at.name()?.into())
        };
        let action = Action::Unlisten(channel);
        let draft = Draft::new(action, home, "channels are those of the home shard");
        return at.at_end().then_some(draft);
    }
    if at.takes("notify") {
        return Some(Draft::new(
            Action::Notify,
            home,
            "channels are those of the home shard",
        ));
    }
    if at.takes("lock") {
        return lock(at, subject);
    }
    for (word, what) in [("do", "DO"), ("call", "CALL")] {
        if at.peeks(word) {
            let draft = not_over_shards(what, NAME_A_SHARD);
            return Some(draft.residue(Residue::OPAQUE));
        }
    }
    if at.peeks("load") {
        return Some(not_over_shards("LOAD", NAME_A_SHARD).residue(Residue::LIBRARY));
    }
    None
}

/// LOCK [TABLE] [ONLY] name [*] [, ...] [IN mode MODE] [NOWAIT]
fn lock(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    at.takes("table");
    let mut relations = Vec::new();
    loop {
        at.takes("only");
        let name = at.qualified_name()?;
        at.takes_operator("*");
        let table = match subject.names.table(&name, TableMode::Read) {
            Ok(table) => table,
            Err(rejection) => return Some(Draft::refused(Action::Run, rejection)),
        };
        match table.kind {
            TableKind::Home | TableKind::System => {}
            TableKind::Sharded(_) | TableKind::Reference => {
                let rejection = Rejection::unsupported(
                    label::STATEMENT,
                    "LOCK of a sharded or reference table is not supported",
                )
                .detail(format!("{} is on several shards.", table.name))
                .hint("Lock rows with SELECT ... FOR UPDATE, by their sharding key.");
                return Some(Draft::refused(Action::Run, rejection));
            }
        }
        relations.push(table.name);
        if !at.takes_kind(TokenKind::Comma) {
            break;
        }
    }
    let reason = "the tables live on the home shard";
    let placement = Placement::One(subject.names.home());
    Some(Draft::new(Action::Run, placement, reason).relations(relations))
}
