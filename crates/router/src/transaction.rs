//! Transaction control, which the session answers itself.
//!
//! Owns BEGIN to ROLLBACK TO, SET TRANSACTION and SET SESSION CHARACTERISTICS with all their modes
//! (Postgres documentation, reference: BEGIN, SET TRANSACTION, SAVEPOINT). Two-phase commands of the
//! client are refused on a sharded database.

use crate::action::{Action, IsolationLevel, TransactionModes, TransactionScope};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{Access, Placement};
use crate::statement::{answered, not_over_shards};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// Reads a transaction statement; `None` where it is another, or not certain to be one.
pub(crate) fn read(mut at: Cursor<'_, '_>, _subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("begin") {
        at.takes_any(&["work", "transaction"]);
        return modes(at).map(|modes| session(Action::Begin(modes)));
    }
    if at.takes_all(&["start", "transaction"]) {
        return modes(at).map(|modes| session(Action::Begin(modes)));
    }
    if at.peeks_all(&["commit", "prepared"]) || at.peeks_all(&["rollback", "prepared"]) {
        return Some(two_phase("COMMIT PREPARED and ROLLBACK PREPARED"));
    }
    if at.peeks_all(&["prepare", "transaction"]) {
        return Some(Draft {
            action: Action::PrepareTransaction,
            ..two_phase("PREPARE TRANSACTION")
        });
    }
    if at.takes_any(&["commit", "end"]) {
        at.takes_any(&["work", "transaction"]);
        let chain = chain(&mut at)?;
        return at.at_end().then(|| session(Action::Commit { chain }));
    }
    if at.takes_any(&["rollback", "abort"]) {
        at.takes_any(&["work", "transaction"]);
        if at.takes("to") {
            at.takes("savepoint");
            return named(at, Action::RollbackTo);
        }
        let chain = chain(&mut at)?;
        return at.at_end().then(|| session(Action::Rollback { chain }));
    }
    if at.takes("savepoint") {
        return named(at, Action::Savepoint);
    }
    if at.takes("release") {
        at.takes("savepoint");
        return named(at, Action::Release);
    }
    set(at)
}

/// SET TRANSACTION and SET SESSION CHARACTERISTICS AS TRANSACTION.
fn set(mut at: Cursor<'_, '_>) -> Option<Draft> {
    let scope = if at.takes_all(&["set", "transaction"])
        || at.takes_all(&["set", "local", "transaction"])
        || at.takes_all(&["set", "session", "transaction"])
    {
        TransactionScope::Current
    } else if at.takes_all(&["set", "session", "characteristics", "as", "transaction"]) {
        TransactionScope::Session
    } else {
        return None;
    };
    if at.peeks("snapshot") {
        return Some(not_over_shards(
            "SET TRANSACTION SNAPSHOT",
            "A snapshot belongs to one server.",
        ));
    }
    let modes = modes(at)?;
    Some(Draft::new(
        Action::SetTransaction(scope, modes),
        Placement::Any,
        "the session's transactions, wherever they run",
    ))
}

fn session(action: Action) -> Draft {
    answered(action, Placement::Nowhere, "transaction control").access(Access::Read)
}

fn two_phase(what: &str) -> Draft {
    not_over_shards(
        what,
        "pgherd commits over shards by itself: use COMMIT or ROLLBACK.",
    )
}

fn named(mut at: Cursor<'_, '_>, action: fn(Box<str>) -> Action) -> Option<Draft> {
    let name = at.name()?;
    at.at_end().then(|| session(action(name.into())))
}

/// `AND [NO] CHAIN`, or nothing.
fn chain(at: &mut Cursor<'_, '_>) -> Option<bool> {
    if !at.takes("and") {
        return Some(false);
    }
    let chain = !at.takes("no");
    at.takes("chain").then_some(chain)
}

/// Transaction modes up to the end, with or without commas.
fn modes(mut at: Cursor<'_, '_>) -> Option<TransactionModes> {
    let mut modes = TransactionModes::default();
    while !at.at_end() {
        if at.takes_all(&["isolation", "level"]) {
            modes.isolation = Some(isolation(&mut at)?);
        } else if at.takes_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if at.takes_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if at.takes_all(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if at.takes("deferrable") {
            modes.deferrable = Some(true);
        } else {
            return None;
        }
        if at.takes_kind(TokenKind::Comma) && at.at_end() {
            return None;
        }
    }
    Some(modes)
}

fn isolation(at: &mut Cursor<'_, '_>) -> Option<IsolationLevel> {
    if at.takes_all(&["read", "uncommitted"]) {
        Some(IsolationLevel::ReadUncommitted)
    } else if at.takes_all(&["read", "committed"]) {
        Some(IsolationLevel::ReadCommitted)
    } else if at.takes_all(&["repeatable", "read"]) {
        Some(IsolationLevel::RepeatableRead)
    } else if at.takes("serializable") {
        Some(IsolationLevel::Serializable)
    } else {
        None
    }
}
