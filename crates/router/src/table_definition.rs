//! CREATE TABLE: what a sharded or reference table must and must not have.
//!
//! Owns the reading of columns and constraints from tokens (Postgres documentation, reference: CREATE
//! TABLE). Main types: [`ColumnDefinition`], [`Constraint`].

use pgherd_topology::{ColumnDefault, KeyType, Relation, RelationName, TableRule};

use crate::action::{DdlPlan, SerialColumn};
use crate::ddl::{at_home, ddl_rejection, everywhere, is_listed, refused};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::Placement;
use crate::rejection::Rejection;
use crate::scope::TableKind;
use crate::statement::{begins_query, read_query};
use crate::survey::Subject;
use crate::tokens::{Cursor, Name};

/// A column as it is defined.
#[derive(Debug)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: String,
    /// `serial` and its kin, or GENERATED ... AS IDENTITY.
    pub(crate) draws_ids: bool,
    /// The type as a sharding key, if it can be one.
    key_type: Option<KeyType>,
    /// COLLATE with a collation that is not known to be deterministic.
    doubtful_collation: bool,
    /// A DEFAULT or USING that calls something.
    pub(crate) calls: bool,
    /// GENERATED ALWAYS AS (expression)
    generated: bool,
    pub(crate) constraints: Vec<Constraint>,
}

/// What is unique, or must exist elsewhere.
#[derive(Debug)]
pub(crate) enum Constraint {
    /// PRIMARY KEY or UNIQUE over these columns.
    Unique(Vec<String>),
    /// PRIMARY KEY or UNIQUE USING INDEX.
    UniqueUsingIndex,
    /// FOREIGN KEY: columns, target, its columns where given.
    Foreign(Vec<String>, Name, Option<Vec<String>>),
    /// EXCLUDE
    Exclude,
    /// CHECK and NOT NULL.
    Check,
}

/// Reads `[IF NOT EXISTS] name ...`, after CREATE TABLE.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    at.takes_all(&["if", "not", "exists"]);
    let name = at.qualified_name()?;
    let full = subject.names.name_to_create(&name);
    let kind = match subject.names.kind_of(&full) {
        Ok(kind) => kind,
        Err(rejection) => return Some(refused(rejection)),
    };
    if let Some(query) = created_as(at) {
        return Some(created_from(query, full, &kind, subject));
    }
    if at.takes_all(&["partition", "of"]) {
        let parent = at.qualified_name()?;
        return Some(of_parent(&parent, full, &kind, subject));
    }
    if at.kind() != Some(TokenKind::LeftParen) {
        return None;
    }
    let elements = at.parenthesised()?;
    let listed = matches!(kind, TableKind::Sharded(_) | TableKind::Reference);
    if listed && (at.mentions("inherits") || at.mentions("partition")) {
        return Some(refused(
            ddl_rejection(
                "PARTITION BY and INHERITS of a sharded or reference table are not supported",
            )
            .detail(format!("{full} is listed in the sharding configuration.")),
        ));
    }
    if at.takes("inherits") {
        for mut parent in at.parenthesised()?.split_at_commas() {
            let parent = subject.names.full_name(&parent.qualified_name()?);
            if is_listed(&parent, subject) {
                return Some(refused(
                    ddl_rejection("children of a sharded or reference table are not supported")
                        .detail(format!("{full} would inherit from {parent}."))
                        .hint("Add what the child would hold to the table itself."),
                ));
            }
        }
    }
    let mut columns = Vec::new();
    let mut constraints = Vec::new();
    for element in elements.split_at_commas() {
        if element.peeks("like") {
            if listed {
                return Some(refused(
                    ddl_rejection("CREATE TABLE ... (LIKE ...) of a sharded or reference table is not supported")
                        .hint("Write the columns out."),
                ));
            }
        } else if begins_constraint(element) {
            constraints.push(table_constraint(element)?);
        } else {
            columns.push(column_definition(element, subject)?);
        }
    }
    Some(match check(&full, &kind, &columns, &constraints, subject) {
        Err(rejection) => refused(rejection),
        Ok(()) if listed => {
            let sharded = matches!(kind, TableKind::Sharded(_));
            let serial_columns = columns
                .iter()
                .filter(|column| sharded && column.draws_ids)
                .map(|column| SerialColumn {
                    table: full.clone(),
                    column: column.name.as_str().into(),
                })
                .collect();
            let plan = DdlPlan {
                serial_columns,
                ..DdlPlan::default()
            };
            everywhere(plan, vec![full])
        }
        Ok(()) => at_home(subject, vec![full]),
    })
}

/// Where the query of CREATE TABLE ... AS begins.
pub(crate) fn created_as<'s, 'a>(at: Cursor<'s, 'a>) -> Option<Cursor<'s, 'a>> {
    let after = at.find("as")?;
    let query = Cursor {
        at: after + 1,
        ..at
    };
    (begins_query(query) || query.peeks("execute")).then_some(query)
}

pub(crate) fn created_from(
    query: Cursor<'_, '_>,
    full: RelationName,
    kind: &TableKind,
    subject: Subject<'_, '_>,
) -> Draft {
    if !matches!(kind, TableKind::Home) || query.peeks("execute") {
        return refused(
            ddl_rejection("CREATE TABLE AS is not supported for a sharded or reference table")
                .hint("Create the table, then insert the rows."),
        );
    }
    let end = crate::create_view::definition_end(query);
    let draft = read_query(subject, query.at, end);
    let home = subject.names.home();
    match draft.placement {
        Ok(Placement::Any) => at_home(subject, vec![full]),
        Ok(Placement::One(shard)) if shard == home => {
            at_home(subject, vec![full]).residue(draft.residue)
        }
        Err(rejection) => refused(rejection),
        Ok(_) => refused(
            ddl_rejection("CREATE TABLE AS over sharded tables is not supported")
                .detail(format!(
                    "{full} lives on the home shard, and its rows elsewhere."
                ))
                .hint("Create the table, then insert the rows."),
        ),
    }
}

fn of_parent(
    parent: &Name,
    full: RelationName,
    kind: &TableKind,
    subject: Subject<'_, '_>,
) -> Draft {
    let above = subject.names.full_name(parent);
    if matches!(kind, TableKind::Home) && !is_listed(&above, subject) {
        return at_home(subject, vec![full]);
    }
    refused(
        ddl_rejection("partitions of a sharded or reference table are not supported")
            .detail(format!("{full} would be a partition of {above}."))
            .hint("Leave the table whole: it is divided over the shards already."),
    )
}

/// Checks a table's columns and constraints against its rule.
pub(crate) fn check(
    full: &RelationName,
    kind: &TableKind,
    columns: &[ColumnDefinition],
    constraints: &[Constraint],
    subject: Subject<'_, '_>,
) -> Result<(), Rejection> {
    if let TableKind::Sharded(rule) = kind {
        for key in &rule.key {
            let column = columns.iter().find(|column| *column.name == **key);
            check_key_column(rule, key, column)?;
        }
    }
    let draws_ids = |name: &str| {
        columns
            .iter()
            .any(|column| column.name == name && column.draws_ids)
    };
    let all = columns
        .iter()
        .flat_map(|column| &column.constraints)
        .chain(constraints);
    for constraint in all {
        check_constraint(full, kind, constraint, &draws_ids, subject)?;
    }
    Ok(())
}

fn check_key_column(
    rule: &TableRule,
    key: &str,
    column: Option<&ColumnDefinition>,
) -> Result<(), Rejection> {
    let refuse = |why: &str| {
        ddl_rejection("the table does not fit its sharding rule")
            .detail(format!("The sharding key {}.{key} {why}.", rule.table))
    };
    let Some(column) = column else {
        return Err(refuse("is not among the columns"));
    };
    if column.generated {
        return Err(refuse("is generated from other columns"));
    }
    if column.doubtful_collation {
        return Err(refuse(
            "has a collation that may hold different texts equal",
        ));
    }
    if column.key_type.is_none() {
        return Err(refuse("is of a type that cannot be a sharding key")
            .hint("Use an integer type, text, varchar, char, uuid, bytea, date, timestamp, timestamptz, numeric or boolean."));
    }
    Ok(())
}

/// Checks one constraint of a table against where the rows are.
pub(crate) fn check_constraint(
    full: &RelationName,
    kind: &TableKind,
    constraint: &Constraint,
    draws_ids: &dyn Fn(&str) -> bool,
    subject: Subject<'_, '_>,
) -> Result<(), Rejection> {
    match (constraint, kind) {
        (Constraint::Check, _) => Ok(()),
        (Constraint::Unique(columns), TableKind::Sharded(rule)) => {
            check_unique(rule, columns, draws_ids)
        }
        (Constraint::UniqueUsingIndex | Constraint::Exclude, TableKind::Sharded(rule)) => Err(
            ddl_rejection("the constraint would hold on each shard for itself only")
                .detail(format!(
                    "EXCLUDE and UNIQUE USING INDEX are not followed for the sharded table {}.",
                    rule.table
                ))
                .hint("Write a plain UNIQUE or PRIMARY KEY that contains the sharding key."),
        ),
        (Constraint::Unique(_) | Constraint::UniqueUsingIndex | Constraint::Exclude, _) => Ok(()),
        (Constraint::Foreign(columns, target, target_columns), _) => check_foreign(
            full,
            kind,
            columns,
            target,
            target_columns.as_deref(),
            subject,
        ),
    }
}

/// A unique key holds over all shards only if equal rows meet on one.
pub(crate) fn check_unique(
    rule: &TableRule,
    columns: &[String],
    draws_ids: impl Fn(&str) -> bool,
) -> Result<(), Rejection> {
    let contains_key = rule
        .key
        .iter()
        .all(|key| columns.iter().any(|column| **column == **key));
    let drawn = matches!(columns, [only] if draws_ids(only));
    if contains_key || drawn {
        return Ok(());
    }
    Err(ddl_rejection(
        "a unique key without the sharding key would hold on each shard for itself only",
    )
    .detail(format!(
        "The sharding key of {} is ({}).",
        rule.table,
        rule.key.join(", ")
    ))
    .hint("Add the sharding key's columns to it, or put it on a serial or identity column alone."))
}

/// Does the catalog know the column as an identity column?
pub(crate) fn made_by_identity(relation: Option<&Relation>, column: &str) -> bool {
    relation
        .and_then(|relation| relation.find_column(column))
        .is_some_and(|column| {
            matches!(
                column.default,
                ColumnDefault::IdentityAlways | ColumnDefault::IdentityByDefault
            )
        })
}

fn check_foreign(
    full: &RelationName,
    kind: &TableKind,
    columns: &[String],
    target: &Name,
    target_columns: Option<&[String]>,
    subject: Subject<'_, '_>,
) -> Result<(), Rejection> {
    let names = subject.names;
    let own = names.name_to_create(target);
    let target = if own == *full {
        own
    } else {
        names.full_name(target)
    };
    let refuse = |why: String| {
        ddl_rejection("the foreign key would be checked against one shard's rows only")
            .detail(why)
            .hint("Reference a reference table, or by sharding key a table whose rows lie together with these.")
    };
    match (kind, names.kind_of(&target)?) {
        (TableKind::Sharded(_), TableKind::Reference)
        | (TableKind::Reference, TableKind::Reference)
        | (
            TableKind::Home | TableKind::System,
            TableKind::Home | TableKind::Reference | TableKind::System,
        ) => Ok(()),
        (TableKind::Sharded(rule), TableKind::Sharded(other)) => {
            let primary: Vec<String> = match target_columns {
                Some(columns) => columns.to_vec(),
                None => names
                    .catalog
                    .relation(&target)
                    .and_then(|relation| relation.unique_keys.iter().find(|key| key.is_primary))
                    .map(|key| key.columns.iter().map(ToString::to_string).collect())
                    .unwrap_or_default(),
            };
            let alike = target == *full || names.sharding.colocated(full, &target);
            let joined = rule.key.iter().zip(&other.key).all(|(key, other)| {
                columns
                    .iter()
                    .zip(&primary)
                    .any(|(from, to)| **from == **key && **to == **other)
            });
            if alike && joined {
                return Ok(());
            }
            Err(refuse(format!(
                "{full} may only reference {target} if both are co-located and the sharding keys are part of the foreign key."
            )))
        }
        (TableKind::Reference, _) => Err(refuse(format!(
            "The reference table {full} may only reference reference tables, and {target} is none."
        ))),
        (_, TableKind::Sharded(_) | TableKind::Home | TableKind::System) => Err(refuse(format!(
            "{target} does not have all its rows wherever {full} has rows."
        ))),
    }
}

/// Does a table constraint begin here, rather than a column?
pub(crate) fn begins_constraint(at: Cursor<'_, '_>) -> bool {
    at.peeks("constraint")
        || at.peeks_all(&["primary", "key"])
        || at.peeks("unique")
        || at.peeks_all(&["foreign", "key"])
        || at.peeks("check")
        || at.peeks("exclude")
}

/// `[CONSTRAINT name] PRIMARY KEY (...)`, UNIQUE, FOREIGN KEY, CHECK or EXCLUDE.
pub(crate) fn table_constraint(mut at: Cursor<'_, '_>) -> Option<Constraint> {
    if at.takes("constraint") {
        at.name()?;
    }
    if at.takes_all(&["primary", "key"]) || at.takes("unique") {
        if at.peeks_all(&["using", "index"]) {
            return Some(Constraint::UniqueUsingIndex);
        }
        at.takes_all(&["nulls", "not", "distinct"]);
        at.takes_all(&["nulls", "distinct"]);
        return Some(Constraint::Unique(name_list(&mut at)?));
    }
    if at.takes_all(&["foreign", "key"]) {
        let columns = name_list(&mut at)?;
        if !at.takes("references") {
            return None;
        }
        let (target, target_columns) = references(&mut at)?;
        return Some(Constraint::Foreign(columns, target, target_columns));
    }
    if at.peeks("check") || at.peeks_all(&["not", "null"]) {
        return Some(Constraint::Check);
    }
    at.peeks("exclude").then_some(Constraint::Exclude)
}

fn name_list(at: &mut Cursor<'_, '_>) -> Option<Vec<String>> {
    at.parenthesised()?
        .split_at_commas()
        .into_iter()
        .map(|mut part| part.name())
        .collect()
}

fn references(at: &mut Cursor<'_, '_>) -> Option<(Name, Option<Vec<String>>)> {
    let target = at.qualified_name()?;
    let columns = if at.kind() == Some(TokenKind::LeftParen) {
        Some(name_list(at)?)
    } else {
        None
    };
    Some((target, columns))
}

/// `name type [COLLATE ...] [constraints]`
pub(crate) fn column_definition(
    mut at: Cursor<'_, '_>,
    subject: Subject<'_, '_>,
) -> Option<ColumnDefinition> {
    let name = at.name()?;
    let (key_type, serial) = column_type(&mut at, subject)?;
    let mut column = ColumnDefinition {
        draws_ids: serial,
        key_type,
        doubtful_collation: false,
        calls: false,
        generated: false,
        constraints: Vec::new(),
        name,
    };
    while !at.at_end() {
        if at.takes("collate") {
            column.doubtful_collation |= !is_deterministic(&at.qualified_name()?);
        } else if at.takes_all(&["primary", "key"]) || at.takes("unique") {
            let columns = vec![column.name.clone()];
            column.constraints.push(Constraint::Unique(columns));
        } else if at.takes("references") {
            let (target, target_columns) = references(&mut at)?;
            let columns = vec![column.name.clone()];
            let foreign = Constraint::Foreign(columns, target, target_columns);
            column.constraints.push(foreign);
        } else if at.takes_all(&["as", "identity"]) {
            column.draws_ids = true;
        } else if at.peeks_all(&["generated", "always", "as"])
            && !at.peeks_all(&["generated", "always", "as", "identity"])
        {
            column.generated = true;
            at.advance();
        } else {
            if at.takes("default") {
                column.calls |= calls_something(at);
                continue;
            }
            at.skip_one();
        }
    }
    Some(column)
}

/// May an expression have another value at another time or on another shard? A plain literal may not.
pub(crate) fn calls_something(at: Cursor<'_, '_>) -> bool {
    (at.at..at.end).any(|index| {
        let called = at.text.kind(index + 1) == Some(TokenKind::LeftParen)
            && index + 1 < at.end
            && at.text.name(index).is_some()
            && ![
                "check",
                "key",
                "numeric",
                "decimal",
                "varchar",
                "char",
                "references",
            ]
            .iter()
            .any(|word| at.text.is_word(index, word));
        called
            || crate::functions::GRAMMAR_STABLE
                .iter()
                .any(|word| at.text.is_word(index, word))
            || reads_clock(at, index)
    })
}

/// A literal that a date or time reads as the present.
fn reads_clock(at: Cursor<'_, '_>, index: usize) -> bool {
    let Some(found) = at.text.tokens.get(index) else {
        return false;
    };
    if !matches!(found.token.kind, TokenKind::Literal(_)) {
        return false;
    }
    let value = at.text.literal_value(found.slot).unwrap_or_default();
    let value = value.trim_ascii().to_ascii_lowercase();
    [&b"now"[..], b"today", b"tomorrow", b"yesterday"]
        .iter()
        .any(|word| value.starts_with(word))
}

/// A column's type: as a key type, and whether it is `serial` or its kin.
fn column_type(
    at: &mut Cursor<'_, '_>,
    subject: Subject<'_, '_>,
) -> Option<(Option<KeyType>, bool)> {
    let quoted = at.kind() != Some(TokenKind::Word);
    let first = at.qualified_name()?;
    let word = match first.schema.as_deref() {
        None if !quoted => first.name.as_str(),
        Some("pg_catalog") => first.name.as_str(),
        _ => "",
    };
    let mut serial = false;
    let mut key_type = match word {
        "serial" | "serial4" => {
            serial = true;
            Some(KeyType::Int4)
        }
        "bigserial" | "serial8" => {
            serial = true;
            Some(KeyType::Int8)
        }
        "smallserial" | "serial2" => {
            serial = true;
            Some(KeyType::Int2)
        }
        "smallint" | "int2" => Some(KeyType::Int2),
        "integer" | "int" | "int4" => Some(KeyType::Int4),
        "bigint" | "int8" => Some(KeyType::Int8),
        "text" => Some(KeyType::Text),
        "varchar" => Some(KeyType::Varchar),
        "char" | "character" | "bpchar" | "nchar" | "national" => {
            at.takes_any(&["character", "char"]);
            if at.takes("varying") {
                Some(KeyType::Varchar)
            } else {
                Some(KeyType::Bpchar)
            }
        }
        "uuid" => Some(KeyType::Uuid),
        "bytea" => Some(KeyType::Bytea),
        "date" => Some(KeyType::Date),
        "timestamp" | "timestamptz" => {
            if at.kind() == Some(TokenKind::LeftParen) {
                at.skip_one();
            }
            at.takes_all(&["without", "time", "zone"]);
            if at.takes_all(&["with", "time", "zone"]) || word == "timestamptz" {
                Some(KeyType::Timestamptz)
            } else {
                Some(KeyType::Timestamp)
            }
        }
        "numeric" | "decimal" | "dec" => Some(KeyType::Numeric),
        "boolean" | "bool" => Some(KeyType::Boolean),
        _ => user_type(&first, subject),
    };
    if at.kind() == Some(TokenKind::LeftParen) {
        at.skip_one();
    }
    if at.kind() == Some(TokenKind::LeftBracket) || at.peeks("array") {
        key_type = None;
        while matches!(
            at.kind(),
            Some(TokenKind::LeftBracket | TokenKind::RightBracket | TokenKind::Literal(_))
        ) {
            at.advance();
        }
    }
    Some((key_type, serial))
}

/// A domain over a key type.
fn user_type(name: &Name, subject: Subject<'_, '_>) -> Option<KeyType> {
    let names = subject.names;
    let found = match &name.schema {
        Some(schema) => names.catalog.type_in(schema, &name.name),
        None => names.catalog.resolve_type(&name.name, names.search_path),
    }?;
    names.catalog.key_type(found.oid)
}

/// Collations that came with Postgres and are deterministic.
fn is_deterministic(collation: &Name) -> bool {
    let builtin = matches!(
        collation.name.as_str(),
        "C" | "POSIX" | "default" | "ucs_basic" | "unicode" | "pg_c_utf8"
    ) || collation.name.ends_with("-x-icu");
    builtin && matches!(collation.schema.as_deref(), None | Some("pg_catalog"))
}
