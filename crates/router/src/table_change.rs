//! ALTER TABLE: what may change of a sharded or reference table.
//!
//! Owns the actions of ALTER TABLE, one by one (Postgres documentation, reference: ALTER TABLE). One
//! that is not known is not certain to be harmless, and refused.

use pgherd_topology::RelationName;

use crate::action::{DdlPlan, SerialColumn};
use crate::ddl::{Reach, at_home, ddl_rejection, everywhere, is_listed, reach_of, refused};
use crate::place::Draft;
use crate::rejection::Rejection;
use crate::scope::TableKind;
use crate::survey::Subject;
use crate::table_definition::{
    begins_constraint, calls_something, check_constraint, column_definition, made_by_identity,
    table_constraint,
};
use crate::tokens::Cursor;

/// The table that is changed.
struct Changed<'t> {
    name: RelationName,
    kind: TableKind,
    key: &'t [Box<str>],
}

/// Reads `[IF EXISTS] [ONLY] name [*] actions`, after ALTER TABLE.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.peeks_all(&["all", "in"]) {
        return None;
    }
    at.takes_all(&["if", "exists"]);
    at.takes("only");
    let name = at.qualified_name()?;
    at.takes_operator("*");
    let (reach, full) = match reach_of(&name, subject) {
        Ok(found) => found,
        Err(rejection) => return Some(refused(rejection)),
    };
    if reach == Reach::Home {
        return Some(match check_unlisted(at, &full, subject) {
            Ok(()) => at_home(subject, vec![full]),
            Err(rejection) => refused(rejection),
        });
    }
    let kind = match subject.names.kind_of(&full) {
        Ok(kind) => kind,
        Err(rejection) => return Some(refused(rejection)),
    };
    let rule = match &kind {
        TableKind::Sharded(rule) => Some(std::sync::Arc::clone(rule)),
        TableKind::Reference | TableKind::Home | TableKind::System => None,
    };
    let changed = Changed {
        name: full,
        key: rule.as_ref().map_or(&[][..], |rule| &rule.key),
        kind,
    };
    let mut serial_columns = Vec::new();
    for action in at.split_at_commas() {
        match change(action, &changed, subject, &mut serial_columns) {
            Some(Ok(())) => {}
            Some(Err(rejection)) => return Some(refused(rejection)),
            None => return None,
        }
    }
    let plan = DdlPlan {
        serial_columns,
        ..DdlPlan::default()
    };
    Some(everywhere(plan, vec![changed.name]))
}

/// A table of the home shard may not reach out to the listed ones.
fn check_unlisted(
    at: Cursor<'_, '_>,
    full: &RelationName,
    subject: Subject<'_, '_>,
) -> Result<(), Rejection> {
    for action in at.split_at_commas() {
        let mut rest = action;
        if rest.takes_all(&["rename", "to"]) {
            let to = rest.name().unwrap_or_default();
            let renamed = RelationName::new(full.schema.clone(), to);
            if is_listed(&renamed, subject) {
                return Err(
                    ddl_rejection("the table would become a listed one").detail(format!(
                        "{renamed} is listed as a sharded or reference table."
                    )),
                );
            }
        }
        let mut rest = action;
        if rest.takes("add") {
            let constraints = if begins_constraint(rest) {
                table_constraint(rest).into_iter().collect()
            } else {
                rest.takes("column");
                rest.takes_all(&["if", "not", "exists"]);
                column_definition(rest, subject).map_or(Vec::new(), |column| column.constraints)
            };
            for constraint in &constraints {
                check_constraint(full, &TableKind::Home, constraint, &|_| false, subject)?;
            }
        }
        for words in [&["attach", "partition"][..], &["inherit"]] {
            let mut rest = action;
            if !rest.takes_all(words) {
                continue;
            }
            if let Some(other) = rest.qualified_name() {
                let other = subject.names.full_name(&other);
                if is_listed(&other, subject) {
                    return Err(ddl_rejection(
                        "listed tables cannot be partitions or parents of others",
                    )
                    .detail(format!(
                        "{other} is listed as a sharded or reference table."
                    )));
                }
            }
        }
    }
    Ok(())
}

/// One action on a listed table; `None` where it is not known.
fn change(
    mut at: Cursor<'_, '_>,
    table: &Changed<'_>,
    subject: Subject<'_, '_>,
    serial_columns: &mut Vec<SerialColumn>,
) -> Option<Result<(), Rejection>> {
    if at.takes("add") {
        return add(at, table, subject);
    }
    if at.takes("drop") {
        if at.takes("constraint") {
            return Some(Ok(()));
        }
        at.takes("column");
        at.takes_all(&["if", "exists"]);
        return Some(keep_key(table, &at.name()?, "dropped"));
    }
    if at.takes("alter") {
        if at.takes("constraint") {
            return Some(Ok(()));
        }
        at.takes("column");
        let column = at.name()?;
        return alter_column(at, &column, table, serial_columns);
    }
    if at.takes("rename") {
        if at.takes("constraint") {
            return Some(Ok(()));
        }
        if at.takes("to") {
            return Some(Err(ddl_rejection("a listed table cannot be renamed")
                .detail(format!(
                    "{} is named in the sharding configuration.",
                    table.name
                ))
                .hint(
                    "Create a table of the new name, list it, and move the rows.",
                )));
        }
        at.takes("column");
        return Some(keep_key(table, &at.name()?, "renamed"));
    }
    if at.peeks_all(&["set", "schema"]) {
        return Some(Err(ddl_rejection(
            "a listed table cannot change its schema",
        )
        .detail(format!(
            "{} is named in the sharding configuration.",
            table.name
        ))
        .hint(
            "Create a table in the other schema, list it, and move the rows.",
        )));
    }
    let follows_nothing = at.peeks_all(&["enable", "row", "level"])
        || at.peeks_all(&["force", "row", "level"])
        || at.peeks_all(&["attach", "partition"])
        || at.peeks_all(&["detach", "partition"])
        || at.peeks("inherit")
        || at.peeks("of")
        || (at.peeks("enable") && at.mentions("rule"));
    if follows_nothing {
        return Some(Err(ddl_rejection(
            "row security, rules, partitions and inheritance of a sharded or reference table are not supported",
        )
        .detail(format!("They are not followed for {}.", table.name))));
    }
    let harmless = at.peeks_any(&[
        "enable", "disable", "owner", "set", "reset", "cluster", "replica", "validate", "no",
    ]);
    harmless.then_some(Ok(()))
}

fn keep_key(table: &Changed<'_>, column: &str, done: &str) -> Result<(), Rejection> {
    if !table.key.iter().any(|key| **key == *column) {
        return Ok(());
    }
    Err(ddl_rejection(format!("a sharding key cannot be {done}"))
        .detail(format!("{column} is the sharding key of {}.", table.name))
        .hint("Create a table with the other key, list it, and move the rows."))
}

fn add(
    mut at: Cursor<'_, '_>,
    table: &Changed<'_>,
    subject: Subject<'_, '_>,
) -> Option<Result<(), Rejection>> {
    if begins_constraint(at) {
        let constraint = table_constraint(at)?;
        let relation = subject.names.catalog.relation(&table.name);
        let made = |column: &str| made_by_identity(relation, column);
        return Some(check_constraint(
            &table.name,
            &table.kind,
            &constraint,
            &made,
            subject,
        ));
    }
    at.takes("column");
    at.takes_all(&["if", "not", "exists"]);
    let column = column_definition(at, subject)?;
    if column.draws_ids || (column.calls && matches!(table.kind, TableKind::Reference)) {
        return Some(Err(ddl_rejection(
            "the rows that are there would get values that each shard makes for itself",
        )
        .detail(format!(
            "The new column {} of {} is filled by its default.",
            column.name, table.name
        ))
        .hint("Add the column without it, fill it, then set the default.")));
    }
    let result = column.constraints.iter().try_for_each(|constraint| {
        check_constraint(&table.name, &table.kind, constraint, &|_| false, subject)
    });
    Some(result)
}

fn alter_column(
    mut at: Cursor<'_, '_>,
    column: &str,
    table: &Changed<'_>,
    serial_columns: &mut Vec<SerialColumn>,
) -> Option<Result<(), Rejection>> {
    if at.takes("type") || at.takes_all(&["set", "data", "type"]) {
        if let Err(rejection) = keep_key(table, column, "given another type") {
            return Some(Err(rejection));
        }
        if calls_something(at) && at.mentions("using") {
            return Some(Err(ddl_rejection(
                "ALTER COLUMN ... TYPE ... USING a function is not supported for listed tables",
            )
            .detail(format!(
                "The values of {column} in {} would be made by each shard for itself.",
                table.name
            ))));
        }
        return Some(Ok(()));
    }
    if at.peeks_all(&["add", "generated"]) {
        if matches!(table.kind, TableKind::Sharded(_)) {
            serial_columns.push(SerialColumn {
                table: table.name.clone(),
                column: column.into(),
            });
        }
        return Some(Ok(()));
    }
    if at.peeks_all(&["set", "generated"])
        || at.peeks("restart")
        || at.peeks_all(&["set", "increment"])
        || at.peeks_all(&["set", "start"])
        || at.peeks_all(&["set", "minvalue"])
        || at.peeks_all(&["set", "maxvalue"])
        || at.peeks_all(&["set", "cycle"])
    {
        return Some(Err(ddl_rejection(
            "the sequence of a listed table's column cannot be changed",
        )
        .detail(format!(
            "Each shard's sequence behind {}.{column} keeps to a remainder of its own.",
            table.name
        ))));
    }
    at.peeks_any(&["set", "reset", "drop"]).then_some(Ok(()))
}
