//! MERGE.
//!
//! Owns what its ON proves: for the target always, for the source only where rows without a match are
//! left alone; and the key of the rows that it inserts.

use std::sync::Arc;

use pgherd_topology::{Column, Relation, TableRule};
use smallvec::SmallVec;
use sqlparser::ast::{
    Expr, Merge, MergeAction, MergeClause, MergeClauseKind, MergeInsertExpr, MergeInsertKind,
    MergeUpdateKind, OutputClause,
};

use crate::condition::Sight;
use crate::from::{Block, every_key};
use crate::insert::is_default;
use crate::plan::{KeySet, KeyUsage};
use crate::predicate::{ALL, Alternatives, Item, Level, Node};
use crate::scope::{TableKind, TableMode, TableUse};
use crate::survey::{Ctes, Survey, Unread, object_name};

const EXOTIC: Unread = Unread("The planner does not know a clause of the MERGE.");

impl Survey<'_, '_> {
    pub(crate) fn merge(&mut self, merge: &Merge, ctes: &Ctes<'_>) -> Result<(), Unread> {
        let Merge {
            merge_token: _,
            optimizer_hints: _,
            into,
            table,
            source,
            on,
            clauses,
            output,
        } = merge;
        if !into || matches!(output, Some(OutputClause::Output { .. })) {
            return Err(EXOTIC);
        }
        let mut block = Block::new();
        let mention = self.tables.len();
        let kind = self.target_factor(&mut block, table, TableMode::Update)?;
        let inserts = |clause: &MergeClause| matches!(clause.action, MergeAction::Insert(_));
        if clauses.iter().any(inserts)
            && let Some(target) = self.tables.get(mention).cloned()
        {
            let mode = TableMode::Insert;
            self.tables.push(TableUse { mode, ..target });
        }
        self.joins_in_write = true;
        self.returning |= output.is_some();
        self.factor(&mut block, source, None, ctes)?;
        if let Some(scope) = scope_of(clauses) {
            let sight = Sight {
                visible: 0..block.items.len(),
                scope,
                parent: None,
                ctes,
            };
            self.facts(&mut block, on, &sight);
        }
        let relation = block.items.first().and_then(Item::relation);
        for clause in clauses {
            self.merge_action(&block, &clause.action, kind.as_ref(), relation)?;
        }
        self.finish_block(&block, None, ctes)?;
        let level = block.level(None);
        self.subqueries(&**on, Some(&level), ctes)?;
        self.subqueries(clauses, Some(&level), ctes)?;
        self.subqueries(output, Some(&level), ctes)
    }

    fn merge_action(
        &mut self,
        block: &Block<'_>,
        action: &MergeAction,
        kind: Option<&TableKind>,
        relation: Option<&Relation>,
    ) -> Result<(), Unread> {
        match action {
            MergeAction::Update(update) => {
                let MergeUpdateKind::Set(assignments) = &update.kind else {
                    return Err(EXOTIC);
                };
                if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                    return Err(EXOTIC);
                }
                if let Some(kind) = kind {
                    let targets = assignments.iter().map(|assignment| &assignment.target);
                    self.check_assigned(targets, kind)?;
                    if let Some(relation) = relation {
                        self.note_assignments(assignments, relation, kind);
                    }
                }
                Ok(())
            }
            MergeAction::Insert(insert) => match (kind, relation) {
                (Some(TableKind::Sharded(rule)), Some(relation)) => {
                    self.merge_insert(block, insert, rule, relation)
                }
                _ => Ok(()),
            },
            MergeAction::Delete { .. } | MergeAction::DoNothing { .. } => Ok(()),
        }
    }

    /// The key of the rows that WHEN NOT MATCHED inserts.
    fn merge_insert(
        &mut self,
        block: &Block<'_>,
        insert: &MergeInsertExpr,
        rule: &Arc<TableRule>,
        relation: &Relation,
    ) -> Result<(), Unread> {
        let MergeInsertKind::Values(values) = &insert.kind else {
            return Err(EXOTIC);
        };
        let [row] = values.rows.as_slice() else {
            return Err(EXOTIC);
        };
        if insert.insert_predicate.is_some() {
            return Err(EXOTIC);
        }
        let names: Vec<String> = if insert.columns.is_empty() {
            let own = relation.columns.iter();
            own.map(|column| column.name.to_string()).collect()
        } else {
            let named = insert.columns.iter().map(|column| {
                object_name(column)
                    .filter(|name| name.schema.is_none())
                    .map(|name| name.name)
            });
            named.collect::<Option<_>>().ok_or(EXOTIC)?
        };
        for (expression, name) in row.content.iter().zip(&names) {
            if let Some(column) = relation.find_column(name) {
                self.value_reader().note_beside(expression, column);
            }
        }
        self.check_made_by_server(rule, relation);
        let level = block.level(None);
        let mut columns: SmallVec<[Alternatives; 1]> = SmallVec::new();
        for key in &rule.key {
            let position = names.iter().position(|name| **name == **key);
            let given = position.and_then(|position| row.content.get(position));
            let column = relation.find_column(key);
            let found = match (given, column) {
                (Some(given), Some(column)) if !is_default(given) => {
                    self.stored_value(&level, given, column)
                }
                _ => Err("is left to its default".to_owned()),
            };
            match found {
                Ok(values) => columns.push(values),
                Err(why) => {
                    self.refuse_row(crate::insert::unproven_row(rule, key, &why));
                    return Ok(());
                }
            }
        }
        for columns in every_key(&columns).unwrap_or_default() {
            self.add_written_key(KeySet {
                rule: Arc::clone(rule),
                columns,
                by_row: false,
            });
        }
        Ok(())
    }

    /// The values that a column is given by an expression over the source.
    fn stored_value(
        &mut self,
        level: &Level<'_>,
        given: &Expr,
        column: &Column,
    ) -> Result<Alternatives, String> {
        let Some(found) = level.column(given) else {
            let usage = self.stored(column)?;
            let source = self.value(given, column, usage)?;
            return Ok(Alternatives::from_slice(&[source]));
        };
        let node = Node {
            item: found.item,
            column: found.column.name.clone(),
        };
        let values = level
            .fixed(found.item, &found.column.name)
            .filter(|_| level.never_null(&node) && self.same_family(found.column, column))
            .ok_or("is given a column that no condition fixes to a value")?;
        let usage = self.stored(column)?;
        Ok(values
            .into_iter()
            .map(|source| crate::plan::KeySource { usage, ..source })
            .collect())
    }

    /// The use of a value that is stored in a column.
    pub(crate) fn stored(&self, column: &Column) -> Result<KeyUsage, String> {
        let key_type = self.subject.names.catalog.key_type(column.type_oid);
        Ok(KeyUsage::Stored {
            column: key_type.ok_or("is of a type that cannot be a sharding key")?,
            modifier: column.modifier,
        })
    }
}

/// The tables for which ON holds wherever their rows take part; the target is the first.
fn scope_of(clauses: &[MergeClause]) -> Option<std::ops::Range<usize>> {
    let has = |wanted: fn(&MergeClauseKind) -> bool| {
        clauses.iter().any(|clause| wanted(&clause.clause_kind))
    };
    if has(|kind| matches!(kind, MergeClauseKind::NotMatchedBySource)) {
        return None;
    }
    let keeps_source = has(|kind| {
        matches!(
            kind,
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget
        )
    });
    Some(if keeps_source { 0..1 } else { ALL })
}
