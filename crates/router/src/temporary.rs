//! CREATE TEMPORARY ...: on the home shard, for one session.
//!
//! Owns which temporary relations may be made there. What they are afterwards is in the catalog that the session plans with, in
//! the schema `pg_temp`, which it puts first on the search path.

use pgherd_topology::RelationName;

use crate::action::Action;
use crate::ddl::{ddl_rejection, refused};
use crate::place::Draft;
use crate::plan::{Placement, Residue};
use crate::scope::TableKind;
use crate::survey::Subject;
use crate::table_definition::{created_as, created_from};
use crate::tokens::{Cursor, Name};

/// The schema in which a session's own temporary relations are found.
pub const SCHEMA: &str = "pg_temp";

/// What follows CREATE TEMPORARY.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let draft = if at.takes("table") {
        table(at, subject)?
    } else if at.takes("sequence") {
        at.takes_all(&["if", "not", "exists"]);
        at_home(&at.qualified_name()?, subject)
    } else {
        refused(
            ddl_rejection("temporary views are not supported on a sharded database")
                .hint("Name the tables themselves, or name a shard with SET pgherd.shard."),
        )
    };
    // ON COMMIT DROP
    let release = if at.mentions("drop") {
        Residue::RELEASE
    } else {
        Residue::NONE
    };
    let residue = draft.residue | Residue::TEMPORARY | release;
    Some(draft.residue(residue))
}

fn table(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.mentions("inherits") {
        let rejection =
            ddl_rejection("a temporary table with a parent is not supported on a sharded database")
                .detail("The parent's rows on the home shard alone would be seen with it.")
                .hint("Leave INHERITS out, or name a shard with SET pgherd.shard.");
        return Some(refused(rejection));
    }
    let query = created_as(at);
    at.takes_all(&["if", "not", "exists"]);
    let name = at.qualified_name()?;
    Some(match query {
        None => at_home(&name, subject),
        Some(query) => Draft {
            // no other session will ever see it
            action: Action::Run,
            ..created_from(query, temporary_name(&name), &TableKind::Home, subject)
        },
    })
}

fn temporary_name(name: &Name) -> RelationName {
    RelationName::new(SCHEMA, name.name.as_str())
}

fn at_home(name: &Name, subject: Subject<'_, '_>) -> Draft {
    Draft::new(
        Action::Run,
        Placement::One(subject.names.home()),
        "a temporary relation lives on the home shard, for this session",
    )
    .relations(vec![temporary_name(name)])
}
