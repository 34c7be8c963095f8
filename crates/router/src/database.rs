//! CREATE, ALTER and DROP DATABASE.
//!
//! Owns which database must have no connections for such a statement to succeed (Postgres documentation, reference, under each name).

use crate::place::Draft;
use crate::statement::{NAME_A_SHARD, not_over_shards};
use crate::tokens::Cursor;

/// Reads one of these statements; `None` where it is another.
pub(crate) fn read(mut at: Cursor<'_, '_>) -> Option<Draft> {
    let vacates = if at.takes_all(&["create", "database"]) {
        template(at)
    } else if at.takes_all(&["drop", "database"]) {
        at.takes_all(&["if", "exists"]);
        at.name()
    } else if at.takes_all(&["alter", "database"]) {
        at.name()
            .filter(|_| at.peeks("rename") || at.peeks_all(&["set", "tablespace"]))
    } else {
        return None;
    };
    let draft = not_over_shards("A definition of a database", NAME_A_SHARD);
    Some(Draft {
        vacates: vacates.map(Into::into),
        ..draft
    })
}

/// The database that is copied, where it is named by a word.
fn template(mut at: Cursor<'_, '_>) -> Option<String> {
    let Some(template) = at.find("template") else {
        return Some("template1".to_owned());
    };
    at.at = template + 1;
    at.takes_operator("=");
    at.name()
}
