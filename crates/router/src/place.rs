//! Where a surveyed statement belongs, and whether a replica may serve it.
//!
//! Owns the decision, from proven to refused; every plan says its reason here. Main function:
//! [`place`].

use pgherd_topology::{ColumnDefault, RelationKind, RelationName, ShardId};
use smallvec::SmallVec;

use crate::action::Action;
use crate::plan::{
    Access, KeyOrigin, KeySet, KeySource, KeyedPlacement, NamedCheck, Placement, Residue,
};
use crate::rejection::{Rejection, label};
use crate::scope::{TableKind, TableMode, TableUse};
use crate::survey::{Survey, rule_of};

/// A plan before the named shard and the unsharded database are considered.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) action: Action,
    pub(crate) placement: Result<Placement, Rejection>,
    /// What is to be checked if the client names a shard.
    pub(crate) check: NamedCheck,
    pub(crate) access: Access,
    pub(crate) residue: Residue,
    pub(crate) reason: String,
    pub(crate) relations: Vec<RelationName>,
    pub(crate) checks_clock_words: bool,
    pub(crate) reads_moment: bool,
    /// See [`crate::StatementPlan::vacates`].
    pub(crate) vacates: Option<Box<str>>,
}

impl Draft {
    /// A statement that writes, without residue.
    pub(crate) fn new(action: Action, placement: Placement, reason: impl Into<String>) -> Self {
        Self {
            action,
            placement: Ok(placement),
            check: NamedCheck::Free,
            access: Access::Write,
            residue: Residue::NONE,
            reason: reason.into(),
            relations: Vec::new(),
            checks_clock_words: false,
            reads_moment: false,
            vacates: None,
        }
    }

    /// A statement that is refused unless a shard is named or there is only one.
    pub(crate) fn refused(action: Action, rejection: Rejection) -> Self {
        Self {
            placement: Err(rejection),
            ..Self::new(action, Placement::Nowhere, "")
        }
    }

    pub(crate) fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    pub(crate) fn residue(self, residue: Residue) -> Self {
        Self { residue, ..self }
    }

    pub(crate) fn relations(self, relations: Vec<RelationName>) -> Self {
        Self { relations, ..self }
    }

    /// Where a shard is named, refused too, unless unchecked.
    pub(crate) fn uncheckable(self) -> Self {
        let check = match &self.placement {
            Err(rejection) => NamedCheck::Impossible(Box::new(rejection.clone())),
            Ok(_) => NamedCheck::Free,
        };
        Self { check, ..self }
    }
}

/// Decides a surveyed statement's place.
pub(crate) fn place(survey: &Survey<'_, '_>) -> Draft {
    let mut reason = String::new();
    let decided = decide(survey, &mut reason);
    let (action, placement) = match decided {
        Ok((action, placement)) => (action, Ok(placement)),
        Err(rejection) => (Action::Run, Err(rejection)),
    };
    let mut relations: Vec<RelationName> = Vec::new();
    for table in &survey.tables {
        if !relations.contains(&table.name) {
            relations.push(table.name.clone());
        }
    }
    Draft {
        checks_clock_words: matches!(action, Action::ReferenceWrite { .. }) && reads_clock(survey),
        reads_moment: survey.census.functions.moment.is_some() || survey.default_moment,
        vacates: None,
        check: named_check(survey),
        access: access(survey),
        residue: residue(survey),
        action,
        placement,
        reason,
        relations,
    }
}

/// date, time, timestamp, timestamptz, timetz
pub(crate) const CLOCK_TYPES: [u32; 5] = [1082, 1083, 1114, 1184, 1266];

/// Might a text become a date or a time in this statement?
fn reads_clock(survey: &Survey<'_, '_>) -> bool {
    survey.census.casts_to_time
        || survey
            .tables
            .iter()
            .filter_map(|table| table.relation)
            .flat_map(|relation| &relation.columns)
            .any(|column| CLOCK_TYPES.contains(&column.type_oid) || column.type_oid >= 16_384)
}

fn decide(survey: &Survey<'_, '_>, reason: &mut String) -> Result<(Action, Placement), Rejection> {
    if let Some(rejection) = &survey.unresolved {
        return Err(rejection.clone());
    }
    check_functions(survey)?;
    for table in &survey.tables {
        survey.subject.names.check(table)?;
    }
    if survey.into {
        return Err(Rejection::unsupported(
            label::DDL,
            "SELECT INTO is not planned on a sharded database",
        )
        .hint("CREATE TABLE first, then insert."));
    }
    let first =
        |wanted: fn(&TableKind) -> bool| survey.tables.iter().find(|table| wanted(&table.kind));
    let sharded = first(|kind| matches!(kind, TableKind::Sharded(_)));
    let home = first(|kind| matches!(kind, TableKind::Home | TableKind::System));
    let reference = first(|kind| matches!(kind, TableKind::Reference));
    let touched_home = check_touched(survey, sharded)?;
    let written_reference = survey
        .tables
        .iter()
        .find(|table| table.mode != TableMode::Read && matches!(table.kind, TableKind::Reference));
    if let Some(written) = written_reference {
        check_reference_write(survey, written, sharded.or(home))?;
        *reason = format!(
            "{} is a reference table: written on every shard, all or none",
            written.name
        );
        let returning = survey.returning;
        return Ok((Action::ReferenceWrite { returning }, Placement::All));
    }
    let placement = match (sharded, home) {
        (Some(sharded), Some(home)) => return Err(mixed(sharded, home)),
        (Some(_), None) => keyed(survey, reason)?,
        (None, _) if touched_home.is_some() => {
            *reason = "a declared function touches tables of the home shard".into();
            Placement::One(survey.subject.names.home())
        }
        (None, Some(home)) => {
            *reason = match home.kind {
                TableKind::System => {
                    format!("{} is a system catalog, read on the home shard", home.name)
                }
                _ => format!("{} is not sharded: it lives on the home shard", home.name),
            };
            Placement::One(survey.subject.names.home())
        }
        (None, None) => unplaced(survey, reference, reason),
    };
    Ok((Action::Run, placement))
}

/// Functions that may not be placed at all.
fn check_functions(survey: &Survey<'_, '_>) -> Result<(), Rejection> {
    let functions = &survey.census.functions;
    if let Some(name) = &functions.unknown {
        return Err(Rejection::new(
            pgherd_protocol::SqlState::UNDEFINED_FUNCTION,
            label::UNKNOWN_FUNCTION,
            format!("function {name} does not exist"),
        )
        .hint(
            "No function of this name was found on the servers; you might need to name its schema.",
        ));
    }
    if let Some(name) = &functions.user {
        return Err(Rejection::unsupported(
            label::NOT_FOLLOWED,
            "a function may read or write rows that the planner cannot place",
        )
        .detail(format!(
            "{name} did not come with Postgres, and functions are not followed on a sharded database."
        ))
        .hint("If its tables are known, declare them under sharding.functions; or name a shard with SET pgherd.shard."));
    }
    if survey.census.foreign_operator {
        return Err(Rejection::unsupported(
            label::NOT_FOLLOWED,
            "an operator outside pg_catalog is not followed on a sharded database",
        )
        .hint("Use an operator of Postgres' own, or name a shard with SET pgherd.shard."));
    }
    if let Some(operator) = &survey.census.changing_operator {
        return Err(Rejection::unsupported(
            label::NOT_FOLLOWED,
            "an operator may read or write rows that the planner cannot place",
        )
        .detail(format!(
            "The function behind an operator {operator} did not come with Postgres and is not immutable."
        ))
        .hint("Name a shard with SET pgherd.shard."));
    }
    if let Some(name) = &functions.runs_text {
        return Err(Rejection::unsupported(
            label::NOT_FOLLOWED,
            "the statement runs SQL that is given as text",
        )
        .detail(format!(
            "What {name} reads is not followed on a sharded database."
        ))
        .hint("Send the SQL itself, or name a shard with SET pgherd.shard."));
    }
    if let Some(name) = &functions.sets {
        return Err(Rejection::unsupported(
            label::STATEMENT,
            "a setting cannot be changed within a query on a sharded database",
        )
        .detail(format!(
            "{name} would change it on one of the session's servers only."
        ))
        .hint("Use SET or SET LOCAL."));
    }
    Ok(())
}

/// Tables that declared functions touch must be where the statement is. Returns one of the home shard, if any.
fn check_touched<'s>(
    survey: &'s Survey<'_, '_>,
    sharded: Option<&TableUse<'_>>,
) -> Result<Option<&'s RelationName>, Rejection> {
    let names = survey.subject.names;
    let mut home = None;
    for (function, table) in &survey.census.functions.touches {
        let elsewhere = match (names.kind_of(table)?, sharded) {
            (TableKind::Reference, _) => false,
            (TableKind::Sharded(_), Some(sharded)) => {
                !names.sharding.colocated(table, &sharded.name)
            }
            (TableKind::Sharded(_), None) => true,
            (TableKind::Home | TableKind::System, Some(_)) => true,
            (TableKind::Home | TableKind::System, None) => {
                home = Some(table);
                false
            }
        };
        if elsewhere {
            return Err(Rejection::unsupported(
                label::MIXED_TABLES,
                "a function touches rows that may lie on another shard",
            )
            .detail(format!(
                "{function} is declared to touch {table}, and the statement fixes no key of a table that lies with it."
            ))
            .hint("Call it in a statement that fixes such a key, or name a shard with SET pgherd.shard."));
        }
    }
    Ok(home)
}

fn mixed(sharded: &TableUse<'_>, home: &TableUse<'_>) -> Rejection {
    Rejection::unsupported(
        label::MIXED_TABLES,
        "the statement needs tables that live on different shards",
    )
    .detail(format!(
        "{} is sharded, and {} lives on the home shard only.",
        sharded.name, home.name
    ))
    .hint(format!(
        "List {} as a reference table, or query the two one after the other.",
        home.name
    ))
}

/// Sharded tables, each fixed to a key.
fn keyed(survey: &Survey<'_, '_>, reason: &mut String) -> Result<Placement, Rejection> {
    if let Some(rejection) = &survey.unfixed {
        return Err(rejection.clone());
    }
    check_equality(survey)?;
    if let Some(name) = &survey.census.functions.home_only {
        return Err(Rejection::unsupported(
            label::MIXED_TABLES,
            "the statement needs tables and a function that belong on different shards",
        )
        .detail(format!(
            "{name} works on the home shard only, and the statement reads sharded tables."
        ))
        .hint("Call it in a statement of its own. A serial column draws its value by itself where it is left out."));
    }
    let keys: SmallVec<[KeySet; 1]> = survey.keys.iter().cloned().collect();
    if keys.is_empty() {
        return Err(Rejection::unsupported(
            label::NO_KEY,
            "the statement is not proven to belong on one shard",
        ));
    }
    *reason = match keys.as_slice() {
        [key] if key.columns.iter().any(is_array) => format!(
            "the sharding key {} ({}) is fixed to the elements of an array, which must live on one shard at execution",
            key.rule.table,
            key.rule.key.join(", ")
        ),
        [key] => format!(
            "the sharding key {} ({}) is fixed to one value",
            key.rule.table,
            key.rule.key.join(", ")
        ),
        several => format!(
            "{} sharding keys, which must live on one shard at execution",
            several.len()
        ),
    };
    Ok(Placement::Keyed(KeyedPlacement { keys }))
}

fn is_array(source: &KeySource) -> bool {
    matches!(
        source.origin,
        KeyOrigin::ArrayLiteral(_) | KeyOrigin::ArrayParameter(_)
    )
}

/// The `=` that Postgres chooses must be the key type's own: that of pg_catalog.
fn check_equality(survey: &Survey<'_, '_>) -> Result<(), Rejection> {
    let names = survey.subject.names;
    let position = names
        .search_path
        .iter()
        .position(|schema| &**schema == "pg_catalog");
    let hidden = position.is_some_and(|position| position > 0);
    let types: Vec<u32> = survey
        .tables
        .iter()
        .filter_map(|table| Some((rule_of(table)?, table.relation?)))
        .flat_map(|(rule, relation)| {
            rule.key
                .iter()
                .filter_map(|key| relation.find_column(key))
                .map(|column| column.type_oid)
        })
        .collect();
    let another = names
        .catalog
        .operators(None, "=", names.search_path)
        .any(|operator| {
            !operator.is_builtin()
                && (types.contains(&operator.left) || types.contains(&operator.right))
        });
    if !hidden && !another {
        return Ok(());
    }
    let detail = if hidden {
        "pg_catalog is not first in search_path, so another operator could stand for =."
    } else {
        "An = of a user or an extension compares the sharding key's type."
    };
    Err(Rejection::unsupported(
        label::NO_KEY,
        "the statement is not proven to belong on one shard",
    )
    .detail(detail)
    .hint("Leave pg_catalog out of search_path, or name a shard with SET pgherd.shard."))
}

/// Reference tables only, or no table.
fn unplaced(
    survey: &Survey<'_, '_>,
    reference: Option<&TableUse<'_>>,
    reason: &mut String,
) -> Placement {
    let home = survey.subject.names.home();
    if let Some(name) = &survey.census.functions.home_only {
        *reason = format!("{name} works on the home shard");
        return Placement::One(home);
    }
    if survey.census.casts_to_oid {
        *reason = "an OID of the home shard is asked for".into();
        return Placement::One(home);
    }
    match reference {
        Some(table) if survey.locks => {
            *reason = format!(
                "{} is a reference table: its rows are locked where its writes begin",
                table.name
            );
            Placement::One(ShardId(0))
        }
        Some(table) => {
            *reason = format!("{} is a reference table: any shard can answer", table.name);
            Placement::Any
        }
        None => {
            *reason = "no table is named: any shard can answer".into();
            Placement::Any
        }
    }
}

/// The copies of a reference table must stay equal.
fn check_reference_write(
    survey: &Survey<'_, '_>,
    written: &TableUse<'_>,
    other: Option<&TableUse<'_>>,
) -> Result<(), Rejection> {
    let refuse = |detail: String| {
        Rejection::unsupported(
            label::REFERENCE_WRITE,
            "the copies of a reference table would differ",
        )
        .detail(detail)
    };
    let name = &written.name;
    if let Some(other) = other {
        return Err(refuse(format!(
            "The write to {name} reads {}, which is not the same on every shard.",
            other.name
        ))
        .hint("Read the values first, and write them as literals or parameters."));
    }
    if let Some(function) = &survey.census.functions.changing {
        return Err(refuse(format!(
            "{function} is not immutable: each shard would have its own value in {name}."
        ))
        .hint("Send the value as a literal or a parameter."));
    }
    if let Some(column) = &survey.census.system_column {
        return Err(refuse(format!(
            "Each shard fills {column} for itself: where a row lies there, and who wrote it."
        ))
        .hint("Name rows by a key of the table."));
    }
    if let Some(column) = &survey.varying_default {
        return Err(refuse(format!(
            "The column {column} of {name} is left to a default that each shard makes for itself."
        ))
        .hint(format!("Give {column} a value.")));
    }
    if let Some(function) = &survey.census.functions.order_dependent {
        return Err(refuse(format!(
            "The result of {function} depends on the order of rows, which each shard has its own of."
        ))
        .hint("Read the value first, and write it as a literal or a parameter."));
    }
    if survey.census.picks_rows {
        return Err(refuse(
            "Which rows LIMIT, OFFSET, FETCH, DISTINCT ON or TABLESAMPLE leave may differ between shards."
                .into(),
        )
        .hint("Read the values first, and write them as literals or parameters."));
    }
    if survey.joins_in_write {
        return Err(refuse(
            "Which row of FROM or USING a row is joined with may differ between shards.".into(),
        )
        .hint("Use a subquery that returns one row."));
    }
    Ok(())
}

/// What a named shard is to be checked for.
fn named_check(survey: &Survey<'_, '_>) -> NamedCheck {
    let impossible = |rejection: Rejection| NamedCheck::Impossible(Box::new(rejection));
    if let Some(rejection) = &survey.uncheckable {
        return impossible(rejection.clone());
    }
    let inserts = |kind: fn(&TableKind) -> bool| {
        survey
            .tables
            .iter()
            .find(|table| table.mode == TableMode::Insert && kind(&table.kind))
    };
    let reference = survey
        .tables
        .iter()
        .find(|table| table.mode != TableMode::Read && matches!(table.kind, TableKind::Reference));
    if let Some(table) = reference {
        return impossible(
            Rejection::unsupported(
                label::MISPLACED,
                "a write to a reference table on one shard would make its copies differ",
            )
            .detail(format!("{} is a reference table.", table.name))
            .hint("Name no shard, or SET pgherd.unchecked = on."),
        );
    }
    if !survey.written_keys.is_empty() {
        return NamedCheck::Keys(KeyedPlacement {
            keys: survey.written_keys.iter().cloned().collect(),
        });
    }
    if inserts(|kind| matches!(kind, TableKind::Home)).is_some() {
        return NamedCheck::OnlyOn(survey.subject.names.home());
    }
    NamedCheck::Free
}

/// A read is one that is proven to be.
fn access(survey: &Survey<'_, '_>) -> Access {
    let functions = &survey.census.functions;
    let names = survey.subject.names;
    let reads = survey.unresolved.is_none()
        && !survey.writes()
        && !survey.locks
        && !survey.into
        && !survey.census.foreign_operator
        && survey.census.changing_operator.is_none()
        && !survey.census.casts_to_user_type
        && functions.volatile.is_none()
        && functions.may_write.is_none()
        && functions.server_local.is_none()
        && functions.home_only.is_none()
        && functions.sets.is_none()
        && survey
            .tables
            .iter()
            .all(|table| names.is_replica_safe(table));
    if reads { Access::Read } else { Access::Write }
}

fn residue(survey: &Survey<'_, '_>) -> Residue {
    let mut residue = survey.census.functions.residue;
    let names = survey.subject.names;
    if survey.census.functions.user_changing
        || survey.tables.iter().any(|table| names.runs_code(table))
    {
        residue |= Residue::OPAQUE;
    }
    if survey.tables.iter().any(may_draw) {
        residue |= Residue::SEQUENCE;
    }
    residue
}

/// Whether a write to a table may draw from a sequence, for a column that is left to its default.
fn may_draw(table: &TableUse<'_>) -> bool {
    let writes_defaults = matches!(table.mode, TableMode::Insert | TableMode::Update);
    writes_defaults
        && table.relation.is_none_or(|relation| {
            relation.kind == RelationKind::View
                || relation.has_triggers
                || relation.has_rules
                || relation.columns.iter().any(|column| {
                    matches!(
                        column.default,
                        ColumnDefault::Varying
                            | ColumnDefault::IdentityAlways
                            | ColumnDefault::IdentityByDefault
                    )
                })
        })
}
