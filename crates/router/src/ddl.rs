//! Definitions: which shards they reach.
//!
//! Owns CREATE, ALTER, DROP, TRUNCATE, COMMENT, GRANT and their like, by kind of object (Postgres
//! documentation, reference). What listed tables are made of is `table_definition`'s and
//! `table_change`'s. Main types: [`Reach`], [`Reached`].

use pgherd_topology::{Relation, RelationKind, RelationName};

use crate::action::{Action, DdlPlan};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::scope::{TableKind, is_system_schema};
use crate::statement::{NAME_A_SHARD, not_over_shards};
use crate::survey::Subject;
use crate::tokens::{Cursor, Name};
use crate::{create_index, create_view, database, table_change, table_definition, temporary};

/// The shards that a definition concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All: sharded and reference tables, and everything that is no table.
    Everywhere,
    /// The home shard: unlisted tables and what belongs to them.
    Home,
}

/// The reach of named relations.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) reach: Reach,
    pub(crate) relations: Vec<RelationName>,
}

/// Kinds of objects that belong to the whole server.
const SERVER_WIDE: &[&str] = &["role", "user", "group"];

/// Kinds of objects that are created alike on every shard of the database.
const DATABASE_WIDE: &[&str] = &[
    "type",
    "domain",
    "schema",
    "extension",
    "function",
    "procedure",
    "routine",
    "aggregate",
    "operator",
    "cast",
    "collation",
    "conversion",
    "text",
    "language",
    "transform",
    "server",
    "access",
    "default",
];

/// Reads a definition; `None` where it is another statement, or not certain.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if let Some(draft) = database::read(at) {
        return Some(draft);
    }
    if at.takes("create") {
        return create(at, subject);
    }
    if at.takes("alter") {
        return alter(at, subject);
    }
    if at.takes("drop") {
        let draft = drop(at, subject)?;
        let residue = draft.residue | Residue::RELEASE;
        return Some(draft.residue(residue));
    }
    if at.takes("truncate") {
        return truncate(at, subject);
    }
    if at.takes_all(&["comment", "on"]) || at.takes_all(&["security", "label"]) {
        return comment(at, subject);
    }
    if at.takes_any(&["grant", "revoke"]) {
        return grant(at, subject);
    }
    if at.takes_all(&["reassign", "owned"]) {
        return Some(everywhere(DdlPlan::default(), Vec::new()));
    }
    if at.takes_all(&["refresh", "materialized", "view"]) {
        at.takes("concurrently");
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    if at.peeks_all(&["import", "foreign"]) {
        return Some(not_over_shards("IMPORT FOREIGN SCHEMA", NAME_A_SHARD));
    }
    None
}

/// A definition on every shard, all or none.
pub(crate) fn everywhere(plan: DdlPlan, relations: Vec<RelationName>) -> Draft {
    Draft::new(
        Action::Ddl(plan),
        Placement::All,
        "a definition of every shard: all or none",
    )
    .relations(relations)
}

/// A definition on the home shard.
pub(crate) fn at_home(subject: Subject<'_, '_>, relations: Vec<RelationName>) -> Draft {
    Draft::new(
        Action::Ddl(DdlPlan::default()),
        Placement::One(subject.names.home()),
        "a definition of the home shard's own",
    )
    .relations(relations)
}

/// A definition that is refused unless a shard is named.
pub(crate) fn refused(rejection: Rejection) -> Draft {
    Draft::refused(Action::Ddl(DdlPlan::default()), rejection)
}

pub(crate) fn ddl_rejection(message: impl Into<Box<str>>) -> Rejection {
    Rejection::unsupported(label::DDL, message)
}

/// Where a relation is defined: everywhere for listed tables and what hangs on them.
pub(crate) fn reach_of(
    name: &Name,
    subject: Subject<'_, '_>,
) -> Result<(Reach, RelationName), Rejection> {
    let names = subject.names;
    let full = names.full_name(name);
    let Some(relation) = names.catalog.relation(&full) else {
        let reach = match names.kind_of(&full)? {
            TableKind::Sharded(_) | TableKind::Reference | TableKind::System => Reach::Everywhere,
            TableKind::Home => Reach::Home,
        };
        return Ok((reach, full));
    };
    Ok((reach_of_relation(relation, subject)?, full))
}

fn reach_of_relation(relation: &Relation, subject: Subject<'_, '_>) -> Result<Reach, Rejection> {
    let names = subject.names;
    // a partition is where its parent is; an index or a serial's sequence is where its table is
    let mut relation = relation;
    for _ in 0..64 {
        let owned = matches!(
            relation.kind,
            RelationKind::Index | RelationKind::PartitionedIndex | RelationKind::Sequence
        );
        let above = if owned {
            relation.depends_on.first()
        } else {
            relation.parent.as_ref()
        };
        match above.and_then(|above| names.catalog.relation(above)) {
            Some(above) => relation = above,
            None => break,
        }
    }
    if matches!(relation.kind, RelationKind::View) {
        let below = names
            .catalog
            .relations_below(&relation.name)
            .unwrap_or_default();
        for table in below {
            if matches!(names.kind_of(&table.name)?, TableKind::Home)
                && !matches!(table.kind, RelationKind::View)
            {
                return Ok(Reach::Home);
            }
        }
        return Ok(Reach::Everywhere);
    }
    Ok(match names.kind_of(&relation.name)? {
        TableKind::Sharded(_) | TableKind::Reference | TableKind::System => Reach::Everywhere,
        TableKind::Home => Reach::Home,
    })
}

/// The common reach of several relations.
///
/// # Errors
/// Where they differ.
pub(crate) fn reach(list: &[Name], subject: Subject<'_, '_>) -> Result<Reached, Rejection> {
    let mut found: Option<(Reach, RelationName)> = None;
    let mut relations = Vec::new();
    for name in list {
        let (reach, full) = reach_of(name, subject)?;
        match &found {
            None => found = Some((reach, full.clone())),
            Some((first, _)) if *first == reach => {}
            Some((_, other)) => {
                return Err(ddl_rejection(
                    "the statement concerns tables of every shard and of the home shard",
                )
                .detail(format!(
                    "{other} and {full} are not defined on the same shards."
                ))
                .hint("Send one statement for each."));
            }
        }
        relations.push(full);
    }
    Ok(Reached {
        reach: found.map_or(Reach::Everywhere, |(reach, _)| reach),
        relations,
    })
}

/// A definition that reaches wherever the relations are.
pub(crate) fn by_relation(list: &[Name], subject: Subject<'_, '_>) -> Draft {
    match reach(list, subject) {
        Err(rejection) => refused(rejection),
        Ok(Reached { reach, relations }) => match reach {
            Reach::Everywhere => everywhere(DdlPlan::default(), relations),
            Reach::Home => at_home(subject, relations),
        },
    }
}

fn server_wide() -> Draft {
    let plan = DdlPlan {
        server_wide: true,
        ..DdlPlan::default()
    };
    everywhere(plan, Vec::new())
}

fn create(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    at.takes_all(&["or", "replace"]);
    at.takes_any(&["global", "local"]);
    let temporary = at.takes_any(&["temporary", "temp"]);
    at.takes("unlogged");
    at.takes_any(&["trusted", "constraint"]);
    at.takes("procedural");
    if temporary {
        return temporary::read(at, subject);
    }
    if at.takes("table") {
        return table_definition::read(at, subject);
    }
    if at.peeks("index") || at.peeks_all(&["unique", "index"]) {
        return create_index::read(at, subject);
    }
    if at.takes("view") || at.takes_all(&["recursive", "view"]) {
        return create_view::read(at, subject);
    }
    if at.takes_all(&["materialized", "view"]) {
        return create_view::read_materialized(at, subject);
    }
    if at.takes("sequence") {
        at.takes_all(&["if", "not", "exists"]);
        let name = at.qualified_name()?;
        let full = subject.names.name_to_create(&name);
        return Some(at_home(subject, vec![full]));
    }
    if at.takes_all(&["foreign", "table"]) {
        at.takes_all(&["if", "not", "exists"]);
        let name = at.qualified_name()?;
        return Some(unlisted_only(&name, "a foreign table", subject));
    }
    for (word, what) in [
        ("trigger", "triggers"),
        ("rule", "rules"),
        ("policy", "policies"),
    ] {
        if at.takes(word) {
            return on_table(at, what, subject);
        }
    }
    if at.takes("statistics") {
        let from = at.find("from")?;
        at.at = from + 1;
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    object(at)
}

/// Objects that are no relations, in CREATE, ALTER and DROP.
fn object(at: Cursor<'_, '_>) -> Option<Draft> {
    if at.peeks_any(SERVER_WIDE) && !at.peeks_all(&["user", "mapping"]) {
        return Some(server_wide());
    }
    if at.peeks("schema") && at.mentions("create") {
        let rejection = ddl_rejection("CREATE SCHEMA with elements is not supported")
            .hint("Create the schema, then what is in it.");
        return Some(refused(rejection));
    }
    if at.peeks_any(DATABASE_WIDE)
        || at.peeks_all(&["foreign", "data", "wrapper"])
        || at.peeks_all(&["user", "mapping"])
    {
        return Some(everywhere(DdlPlan::default(), Vec::new()));
    }
    for (words, what) in [
        (&["tablespace"][..], "A definition of a tablespace"),
        (&["system"], "ALTER SYSTEM"),
        (&["publication"], "A definition of a publication"),
        (&["subscription"], "A definition of a subscription"),
        (&["event", "trigger"], "A definition of an event trigger"),
        (&["large", "object"], "A definition of a large object"),
    ] {
        if at.peeks_all(words) {
            return Some(not_over_shards(what, NAME_A_SHARD));
        }
    }
    None
}

/// A relation that may not be one of the listed tables.
fn unlisted_only(name: &Name, what: &str, subject: Subject<'_, '_>) -> Draft {
    let full = subject.names.name_to_create(name);
    match subject.names.kind_of(&full) {
        Err(rejection) => refused(rejection),
        Ok(TableKind::Home) => at_home(subject, vec![full]),
        Ok(TableKind::Sharded(_) | TableKind::Reference | TableKind::System) => refused(
            ddl_rejection(format!("{full} cannot be {what}"))
                .detail("It is listed as a sharded or reference table."),
        ),
    }
}

/// A trigger, rule or policy `name ... ON table`.
fn on_table(mut at: Cursor<'_, '_>, what: &str, subject: Subject<'_, '_>) -> Option<Draft> {
    let on = if what == "rules" {
        at.find("to")
    } else {
        at.find("on")
    }?;
    at.at = on + 1;
    let name = at.qualified_name()?;
    Some(match reach_of(&name, subject) {
        Err(rejection) => refused(rejection),
        Ok((Reach::Home, full)) => at_home(subject, vec![full]),
        Ok((Reach::Everywhere, full)) => refused(
            ddl_rejection(format!(
                "{what} on a sharded or reference table are not supported"
            ))
            .detail(format!("What they do to rows of {full} is not followed.")),
        ),
    })
}

fn alter(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("table") {
        return table_change::read(at, subject);
    }
    if at.takes("index")
        || at.takes("sequence")
        || at.takes("view")
        || at.takes_all(&["materialized", "view"])
        || at.takes_all(&["foreign", "table"])
    {
        if at.peeks_all(&["all", "in"]) {
            return None;
        }
        at.takes_all(&["if", "exists"]);
        at.takes("only");
        let name = at.qualified_name()?;
        return Some(by_relation(&[name], subject));
    }
    if at.peeks_any(&["trigger", "rule", "policy"]) {
        at.advance();
        at.takes_all(&["if", "exists"]);
        let on = at.find("on")?;
        at.at = on + 1;
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    if at.peeks("statistics") {
        return None;
    }
    at.takes("procedural");
    object(at)
}

fn drop(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("owned") {
        return Some(everywhere(DdlPlan::default(), Vec::new()));
    }
    if at.peeks_any(&["trigger", "rule", "policy"]) {
        let on = at.find("on")?;
        at.at = on + 1;
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    let relations = at.takes("table")
        || at.takes("index")
        || at.takes("view")
        || at.takes("sequence")
        || at.takes_all(&["materialized", "view"])
        || at.takes_all(&["foreign", "table"]);
    if !relations {
        at.takes("procedural");
        return object(at);
    }
    let concurrently = at.takes("concurrently");
    at.takes_all(&["if", "exists"]);
    let names = relation_list(at)?;
    let draft = by_relation(&names, subject);
    if concurrently && matches!(draft.placement, Ok(Placement::All)) {
        return Some(refused(concurrently_refused("DROP INDEX CONCURRENTLY")));
    }
    Some(draft)
}

pub(crate) fn concurrently_refused(what: &str) -> Rejection {
    ddl_rejection(format!(
        "{what} of a sharded or reference table is not supported"
    ))
    .detail("It cannot run in a transaction, so the shards could come to differ.")
    .hint("Run it without CONCURRENTLY, or on one shard after the other with SET pgherd.shard.")
}

/// `[ONLY] name [*] [, ...]`, and then key words.
fn relation_list(mut at: Cursor<'_, '_>) -> Option<Vec<Name>> {
    let mut names = Vec::new();
    loop {
        at.takes("only");
        names.push(at.qualified_name()?);
        at.takes_operator("*");
        if !at.takes_kind(TokenKind::Comma) {
            return Some(names);
        }
    }
}

fn truncate(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    at.takes("table");
    let names = relation_list(at)?;
    let restarts = at.mentions("restart");
    let draft = by_relation(&names, subject);
    if restarts && matches!(draft.placement, Ok(Placement::All)) {
        let rejection = ddl_rejection(
            "TRUNCATE ... RESTART IDENTITY of a sharded or reference table is not supported",
        )
        .detail("Each shard's sequences keep to a remainder of their own.")
        .hint("Use TRUNCATE without RESTART IDENTITY.");
        return Some(refused(rejection));
    }
    Some(draft)
}

fn comment(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("for") {
        // SECURITY LABEL FOR provider ON ...
        at.advance();
    }
    at.takes("on");
    if at.takes("column") {
        let first = at.name()?;
        let mut parts = vec![first];
        while at.takes_kind(TokenKind::Dot) {
            parts.push(at.name()?);
        }
        parts.pop();
        let name = Name {
            name: parts.pop()?,
            schema: parts.pop(),
        };
        return Some(by_relation(&[name], subject));
    }
    if at.peeks_any(&["trigger", "rule", "policy", "constraint"]) {
        let on = at.find("on")?;
        at.at = on + 1;
        if at.takes("domain") {
            return Some(everywhere(DdlPlan::default(), Vec::new()));
        }
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    if at.takes("table")
        || at.takes("index")
        || at.takes("view")
        || at.takes("sequence")
        || at.takes_all(&["materialized", "view"])
        || at.takes_all(&["foreign", "table"])
    {
        return Some(by_relation(&[at.qualified_name()?], subject));
    }
    at.takes("procedural");
    object(at)
}

fn grant(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let Some(on) = at.find("on") else {
        // membership in a role
        return Some(server_wide());
    };
    at.at = on + 1;
    if at.peeks_any(&["tablespace", "parameter"]) {
        return Some(server_wide());
    }
    if at.peeks("all")
        || at.peeks_any(&[
            "schema",
            "domain",
            "type",
            "function",
            "procedure",
            "routine",
            "language",
        ])
        || at.peeks_all(&["foreign", "data"])
        || at.peeks_all(&["foreign", "server"])
    {
        return Some(everywhere(DdlPlan::default(), Vec::new()));
    }
    if at.peeks("database") || at.peeks_all(&["large", "object"]) {
        return Some(not_over_shards(
            "GRANT and REVOKE on a database or large object",
            NAME_A_SHARD,
        ));
    }
    if !at.takes("table") {
        at.takes("sequence");
    }
    Some(by_relation(&relation_list(at)?, subject))
}

/// Is the table one that every shard has?
pub(crate) fn is_listed(name: &RelationName, subject: Subject<'_, '_>) -> bool {
    !is_system_schema(&name.schema)
        && matches!(
            subject.names.kind_of(name),
            Ok(TableKind::Sharded(_) | TableKind::Reference)
        )
}
