//! UPDATE and DELETE.
//!
//! Owns which tables their conditions see: the target first, then FROM or USING, all joined inner.

use pgherd_topology::Relation;
use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, TableFactor, TableWithJoins, Update,
    UpdateTableFromKind,
};

use crate::from::Block;
use crate::insert::{is_default, is_drawn};
use crate::predicate::Item;
use crate::scope::{TableKind, TableMode};
use crate::survey::{Ctes, Survey, Unread, object_name};

const EXOTIC: Unread = Unread("The planner does not know a clause of the statement.");

impl<'s> Survey<'s, '_> {
    pub(crate) fn update(&mut self, update: &Update, ctes: &Ctes<'_>) -> Result<(), Unread> {
        let Update {
            update_token: _,
            optimizer_hints: _,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        if output.is_some() || or.is_some() || !order_by.is_empty() || limit.is_some() {
            return Err(EXOTIC);
        }
        let mut block = Block::new();
        let kind = self.target(&mut block, table, TableMode::Update)?;
        let targets = assignments.iter().map(|assignment| &assignment.target);
        if let Some(kind) = &kind {
            self.check_assigned(targets, kind)?;
        }
        if let Some(relation) = block.items.first().and_then(Item::relation)
            && let Some(kind) = &kind
        {
            self.note_assignments(assignments, relation, kind);
        }
        match from {
            None => {}
            Some(UpdateTableFromKind::AfterSet(tables)) => {
                self.joins_in_write = true;
                self.from(&mut block, tables, None, ctes)?;
            }
            Some(UpdateTableFromKind::BeforeSet(_)) => return Err(EXOTIC),
        }
        self.where_clause(&mut block, selection.as_ref(), None, ctes);
        self.finish_block(&block, None, ctes)?;
        self.returning |= returning.is_some();
        let level = block.level(None);
        self.subqueries(assignments, Some(&level), ctes)?;
        self.subqueries(selection, Some(&level), ctes)?;
        self.subqueries(returning, Some(&level), ctes)
    }

    pub(crate) fn delete(&mut self, delete: &Delete, ctes: &Ctes<'_>) -> Result<(), Unread> {
        let Delete {
            delete_token: _,
            optimizer_hints: _,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        if !tables.is_empty() || output.is_some() || !order_by.is_empty() || limit.is_some() {
            return Err(EXOTIC);
        }
        let FromTable::WithFromKeyword(from) = from else {
            return Err(EXOTIC);
        };
        let [target] = from.as_slice() else {
            return Err(EXOTIC);
        };
        let mut block = Block::new();
        self.target(&mut block, target, TableMode::Delete)?;
        if let Some(using) = using {
            self.joins_in_write = true;
            self.from(&mut block, using, None, ctes)?;
        }
        self.where_clause(&mut block, selection.as_ref(), None, ctes);
        self.finish_block(&block, None, ctes)?;
        self.returning |= returning.is_some();
        let level = block.level(None);
        self.subqueries(selection, Some(&level), ctes)?;
        self.subqueries(returning, Some(&level), ctes)
    }

    /// The table that is written, as the block's first.
    fn target<'b>(
        &mut self,
        block: &mut Block<'b>,
        table: &'b TableWithJoins,
        mode: TableMode,
    ) -> Result<Option<TableKind>, Unread>
    where
        's: 'b,
    {
        if !table.joins.is_empty() {
            return Err(EXOTIC);
        }
        self.target_factor(block, &table.relation, mode)
    }

    pub(crate) fn target_factor<'b>(
        &mut self,
        block: &mut Block<'b>,
        table: &'b TableFactor,
        mode: TableMode,
    ) -> Result<Option<TableKind>, Unread>
    where
        's: 'b,
    {
        let TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints,
            version: None,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } = table
        else {
            return Err(EXOTIC);
        };
        if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
            return Err(EXOTIC);
        }
        let name = object_name(name).ok_or(EXOTIC)?;
        self.met += 1;
        let known = self.tables.len();
        let item = self.table_item(&name, alias.as_ref(), mode);
        block.items.push(item);
        Ok(self.tables.get(known).map(|table| table.kind.clone()))
    }

    /// Notes the types that columns give to the parameters assigned to them, and columns of a
    /// reference table that are set to a default of each server's own.
    pub(crate) fn note_assignments(
        &mut self,
        assignments: &[Assignment],
        relation: &Relation,
        kind: &TableKind,
    ) {
        for assignment in assignments {
            let names = match &assignment.target {
                AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
                AssignmentTarget::Tuple(names) => names.as_slice(),
            };
            let mut columns = names
                .iter()
                .filter_map(object_name)
                .filter(|name| name.schema.is_none())
                .filter_map(|name| relation.find_column(&name.name));
            let sets_default = match &assignment.value {
                Expr::Tuple(values) => values.iter().any(is_default),
                value => is_default(value),
            };
            if matches!(kind, TableKind::Reference)
                && sets_default
                && let Some(drawn) = columns.clone().find(|column| is_drawn(column))
            {
                self.varying_default.get_or_insert(drawn.name.to_string());
            }
            if let (AssignmentTarget::ColumnName(_), Some(column)) =
                (&assignment.target, columns.next())
            {
                self.value_reader().note_beside(&assignment.value, column);
            }
        }
    }
}
