//! INSERT: which key each new row has.
//!
//! Owns the way from a column list and VALUES to one key a row, and from a SELECT's output to its key.

use std::sync::Arc;

use pgherd_topology::{Column, ColumnDefault, Relation, TableRule};
use smallvec::SmallVec;
use sqlparser::ast::{
    AssignmentTarget, ConflictTarget, Expr, GroupByExpr, Insert, OnConflict, OnConflictAction,
    OnInsert, Query, SelectItem, SetExpr, TableObject,
};

use crate::from::every_key;
use crate::place::CLOCK_TYPES;
use crate::plan::{KeySet, KeySource};
use crate::predicate::Alternatives;
use crate::rejection::{Rejection, label};
use crate::scope::{TableKind, TableMode};
use crate::survey::{Ctes, Survey, Unread, object_name};

/// The target of an INSERT.
struct Target<'t> {
    rule: &'t Arc<TableRule>,
    relation: &'t Relation,
    /// The columns that values are given for, in their order.
    columns: Vec<String>,
}

const EXOTIC: Unread = Unread("The planner does not know a clause of the INSERT.");

impl<'s> Survey<'s, '_> {
    pub(crate) fn insert(&mut self, insert: &Insert, ctes: &Ctes<'_>) -> Result<(), Unread> {
        let exotic = insert.or.is_some()
            || insert.ignore
            || !insert.into
            || insert.overwrite
            || !insert.assignments.is_empty()
            || insert.partitioned.is_some()
            || !insert.after_columns.is_empty()
            || insert.has_table_keyword
            || insert.output.is_some()
            || insert.replace_into
            || insert.priority.is_some()
            || insert.insert_alias.is_some()
            || insert.settings.is_some()
            || insert.format_clause.is_some()
            || insert.multi_table_insert_type.is_some()
            || !insert.multi_table_into_clauses.is_empty()
            || !insert.multi_table_when_clauses.is_empty()
            || insert.multi_table_else_clause.is_some();
        if exotic {
            return Err(EXOTIC);
        }
        let TableObject::TableName(name) = &insert.table else {
            return Err(EXOTIC);
        };
        let name = object_name(name).ok_or(EXOTIC)?;
        self.met += 1;
        let table = self.mention(&name, TableMode::Insert);
        self.returning |= insert.returning.is_some();
        let columns =
            self.insert_columns(insert, table.as_ref().and_then(|table| table.relation))?;
        if let Some(table) = &table {
            self.check_written_columns(&table.kind, table.relation, insert, &columns);
            if let (TableKind::Sharded(rule), Some(relation)) = (&table.kind, table.relation) {
                let target = Target {
                    rule,
                    relation,
                    columns: columns.clone(),
                };
                self.insert_keys(&target, insert.source.as_deref(), ctes)?;
            }
            self.conflict(insert.on.as_ref(), table.relation, &table.kind)?;
        }
        if let (Some(source), Some(relation)) = (
            insert.source.as_deref(),
            table.as_ref().and_then(|table| table.relation),
        ) {
            self.note_row_parameters(source, relation, &columns);
        }
        if let Some(source) = &insert.source {
            self.query(source, None, ctes)?;
        }
        self.subqueries(&insert.on, None, ctes)?;
        self.subqueries(&insert.returning, None, ctes)
    }

    /// The columns that values are given for: as listed, or the table's own order.
    fn insert_columns(
        &self,
        insert: &Insert,
        relation: Option<&Relation>,
    ) -> Result<Vec<String>, Unread> {
        if insert.columns.is_empty() {
            // DEFAULT VALUES gives a value for none
            if insert.source.is_none() {
                return Ok(Vec::new());
            }
            let own = relation.map_or(&[][..], |relation| &relation.columns);
            return Ok(own.iter().map(|column| column.name.to_string()).collect());
        }
        insert
            .columns
            .iter()
            .map(|column| match object_name(column) {
                Some(name) if name.schema.is_none() => Ok(name.name),
                _ => Err(Unread("The planner does not follow a column with fields.")),
            })
            .collect()
    }

    /// Columns that are left to their defaults, and identity columns that ignore what is given.
    fn check_written_columns(
        &mut self,
        kind: &TableKind,
        relation: Option<&Relation>,
        insert: &Insert,
        columns: &[String],
    ) {
        let Some(relation) = relation else {
            return;
        };
        let given = given_values(insert.source.as_deref(), columns);
        self.default_moment |= relation.columns.iter().any(|column| {
            column.default == ColumnDefault::Varying
                && CLOCK_TYPES.contains(&column.type_oid)
                && !given.iter().any(|given| **given == *column.name)
        });
        match kind {
            TableKind::Reference => {
                let ignores_given = self.overriding_user_value;
                let varying = relation.columns.iter().find(|column| {
                    let is_given = given.iter().any(|given| **given == *column.name);
                    is_drawn(column) && (!is_given || (ignores_given && is_identity(column)))
                });
                if let Some(column) = varying {
                    self.varying_default.get_or_insert(column.name.to_string());
                }
            }
            TableKind::Sharded(rule) => self.check_made_by_server(rule, relation),
            TableKind::Home | TableKind::System => {}
        }
    }

    /// Refuses a key that the server makes, whatever the statement gives.
    pub(crate) fn check_made_by_server(&mut self, rule: &TableRule, relation: &Relation) {
        let drawn = rule
            .key
            .iter()
            .filter_map(|column| relation.find_column(column))
            .find(|column| {
                column.default == ColumnDefault::Generated
                    || (self.overriding_user_value && is_identity(column))
            });
        if let Some(column) = drawn {
            let rejection = unproven_row(rule, &column.name, "is made by the server");
            self.refuse_row(rejection);
        }
    }

    pub(crate) fn refuse_row(&mut self, rejection: Rejection) {
        self.unfixed.get_or_insert(rejection.clone());
        self.uncheckable.get_or_insert(rejection);
    }

    /// One key for each row of VALUES, or the key of a SELECT's rows.
    fn insert_keys(
        &mut self,
        target: &Target<'_>,
        source: Option<&Query>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        let mut positions: SmallVec<[(usize, &Column); 1]> = SmallVec::new();
        for key in &target.rule.key {
            let position = target.columns.iter().position(|column| **column == **key);
            match (position, target.relation.find_column(key)) {
                (Some(position), Some(column)) => positions.push((position, column)),
                _ => {
                    let rejection = unproven_row(target.rule, key, "is not among the columns")
                        .hint(format!("Give {key} a value in the column list."));
                    self.refuse_row(rejection);
                    return Ok(());
                }
            }
        }
        let Some(source) = source else {
            return Ok(());
        };
        match &*source.body {
            SetExpr::Values(values) => {
                for row in &values.rows {
                    self.row_key(target, &row.content, &positions);
                }
            }
            _ => {
                if !self.selected_keys(target, source, &positions, ctes) {
                    self.refuse_row(selected_rows(target.rule));
                }
            }
        }
        Ok(())
    }

    fn row_key(&mut self, target: &Target<'_>, row: &[Expr], positions: &[(usize, &Column)]) {
        let mut columns: SmallVec<[KeySource; 1]> = SmallVec::new();
        for (position, column) in positions {
            let found = match row.get(*position) {
                None => Err("is left to its default".to_owned()),
                Some(expression) if is_default(expression) => {
                    Err("is left to its default".to_owned())
                }
                Some(expression) => self
                    .stored(column)
                    .and_then(|usage| self.value(expression, column, usage)),
            };
            match found {
                Ok(source) => columns.push(source),
                Err(why) => {
                    let rejection = unproven_row(target.rule, &column.name, &why);
                    self.refuse_row(rejection);
                    return;
                }
            }
        }
        self.add_written_key(KeySet {
            rule: Arc::clone(target.rule),
            columns,
            by_row: true,
        });
    }

    pub(crate) fn add_written_key(&mut self, key: KeySet) {
        self.written_keys.push(key.clone());
        self.add_key(key);
    }

    /// INSERT ... SELECT: the keys of its rows, where the query shows what each column of the key may
    /// be. `false` where it does not.
    fn selected_keys(
        &mut self,
        target: &Target<'_>,
        source: &Query,
        positions: &[(usize, &Column)],
        ctes: &Ctes<'_>,
    ) -> bool {
        let output = self.outputs(source, ctes);
        let mut columns: SmallVec<[Alternatives; 1]> = SmallVec::new();
        for (position, column) in positions {
            let Ok(usage) = self.stored(column) else {
                return false;
            };
            // in the select list itself a value takes the type of the column that it is for
            if let Some(expression) = plain_selection(source, *position)
                && let Ok(source) = self.value(expression, column, usage)
            {
                columns.push(Alternatives::from_slice(&[source]));
                continue;
            }
            let shown = output
                .as_ref()
                .and_then(|output| output.columns.get(*position))
                .filter(|shown| shown.never_null && self.same_family(&shown.column, column));
            let Some(values) = shown.and_then(|shown| shown.values.as_ref()) else {
                return false;
            };
            let stored = values.iter().map(|source| KeySource { usage, ..*source });
            columns.push(stored.collect());
        }
        let Some(keys) = every_key(&columns) else {
            return false;
        };
        for columns in keys {
            self.add_written_key(KeySet {
                rule: Arc::clone(target.rule),
                columns,
                by_row: false,
            });
        }
        true
    }

    /// ON CONFLICT: DO UPDATE must leave the key as it is.
    fn conflict(
        &mut self,
        on: Option<&OnInsert>,
        relation: Option<&Relation>,
        kind: &TableKind,
    ) -> Result<(), Unread> {
        let OnConflict {
            conflict_target,
            action,
        } = match on {
            None => return Ok(()),
            Some(OnInsert::OnConflict(conflict)) => conflict,
            Some(_) => return Err(EXOTIC),
        };
        match conflict_target {
            None | Some(ConflictTarget::Columns(_) | ConflictTarget::OnConstraint(_)) => {}
        }
        let OnConflictAction::DoUpdate(update) = action else {
            return Ok(());
        };
        let targets = update
            .assignments
            .iter()
            .map(|assignment| &assignment.target);
        self.check_assigned(targets, kind)?;
        if let Some(relation) = relation {
            self.note_assignments(&update.assignments, relation, kind);
        }
        Ok(())
    }

    /// Refuses an assignment to a column of the sharding key.
    pub(crate) fn check_assigned<'t>(
        &mut self,
        targets: impl Iterator<Item = &'t AssignmentTarget>,
        kind: &TableKind,
    ) -> Result<(), Unread> {
        let TableKind::Sharded(rule) = kind else {
            return Ok(());
        };
        for target in targets {
            let names = match target {
                AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
                AssignmentTarget::Tuple(names) => names.as_slice(),
            };
            for name in names {
                // `SET a.b = ...` assigns a field of the column a: the first part is the column
                let column = name
                    .0
                    .first()
                    .and_then(|part| part.as_ident())
                    .map(crate::parse::fold)
                    .ok_or(Unread("The planner could not read an assignment."))?;
                let last = object_name(name).map(|name| name.name);
                let assigned = rule.key.iter().find(|key| {
                    ***key == *column || last.as_deref().is_some_and(|last| last == &***key)
                });
                if let Some(key) = assigned {
                    let rejection = Rejection::unsupported(
                        label::KEY_UPDATE,
                        "a sharding key cannot be updated",
                    )
                    .detail(format!(
                        "{key} is the sharding key of {}: another value may belong on another shard.",
                        rule.table
                    ))
                    .hint("Delete the row and insert it anew.");
                    self.refuse_row(rejection);
                }
            }
        }
        Ok(())
    }

    /// Notes the types that a table's columns give to parameters in VALUES.
    fn note_row_parameters(&mut self, source: &Query, relation: &Relation, columns: &[String]) {
        let SetExpr::Values(values) = &*source.body else {
            return;
        };
        for row in &values.rows {
            for (expression, name) in row.content.iter().zip(columns) {
                if let Some(column) = relation.find_column(name) {
                    self.value_reader().note_beside(expression, column);
                }
            }
        }
    }
}

/// The expression at a position of a select list whose values are stored as they are.
fn plain_selection(source: &Query, position: usize) -> Option<&Expr> {
    let SetExpr::Select(select) = &*source.body else {
        return None;
    };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(by, sets) if by.is_empty() && sets.is_empty());
    if select.distinct.is_some() || !ungrouped {
        return None;
    }
    let before = select.projection.get(..=position)?;
    let expressions: Option<Vec<&Expr>> = before
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expression)
            | SelectItem::ExprWithAlias {
                expr: expression, ..
            } => Some(expression),
            _ => None,
        })
        .collect();
    expressions?.pop()
}

/// The columns that every row gives a value other than DEFAULT.
fn given_values<'c>(source: Option<&Query>, columns: &'c [String]) -> Vec<&'c String> {
    let Some(source) = source else {
        return Vec::new();
    };
    match &*source.body {
        SetExpr::Values(values) => columns
            .iter()
            .enumerate()
            .filter(|(position, _)| {
                values.rows.iter().all(|row| {
                    row.content
                        .get(*position)
                        .is_some_and(|value| !is_default(value))
                })
            })
            .map(|(_, column)| column)
            .collect(),
        SetExpr::Select(select) => {
            let plain = select.projection.iter().take_while(|item| {
                matches!(
                    item,
                    SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
                )
            });
            columns.iter().take(plain.count()).collect()
        }
        _ => Vec::new(),
    }
}

/// Is the expression the key word DEFAULT?
pub(crate) fn is_default(expression: &Expr) -> bool {
    matches!(expression, Expr::Identifier(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default"))
}

/// Does each server make the column's default for itself?
pub(crate) fn is_drawn(column: &Column) -> bool {
    match column.default {
        ColumnDefault::Varying
        | ColumnDefault::IdentityAlways
        | ColumnDefault::IdentityByDefault => true,
        ColumnDefault::Null | ColumnDefault::Immutable | ColumnDefault::Generated => false,
    }
}

fn is_identity(column: &Column) -> bool {
    matches!(
        column.default,
        ColumnDefault::IdentityAlways | ColumnDefault::IdentityByDefault
    )
}

pub(crate) fn unproven_row(rule: &TableRule, column: &str, why: &str) -> Rejection {
    Rejection::unsupported(
        label::NO_KEY,
        "the new row is not proven to belong on one shard",
    )
    .detail(format!("The sharding key {}.{column} {why}.", rule.table))
    .hint(format!(
        "Give {column} as a literal or a parameter of its own type."
    ))
}

fn selected_rows(rule: &TableRule) -> Rejection {
    Rejection::unsupported(
        label::NO_KEY,
        "INSERT ... SELECT into a sharded table is not proven to stay on one shard",
    )
    .detail(format!(
        "The select list does not show the sharding key of {} as a column that is fixed to one value.",
        rule.table
    ))
    .hint("Select the sharding key from a table whose key is compared with a value by =, or insert VALUES.")
}
