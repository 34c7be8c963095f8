//! Queries: WITH, set operations, query blocks, and what sees what in them.
//!
//! Owns the walk that reaches every sharded table exactly in the block where it stands. A part of the
//! tree that Postgres' grammar does not have ends the walk.

use sqlparser::ast::{Expr, OrderBy, Query, Select, SetExpr, Statement};

use crate::condition::Sight;
use crate::from::Block;
use crate::output::{Asked, address};
use crate::predicate::{ALL, Alternatives, Level, MAX_ALTERNATIVES};
use crate::survey::{Ctes, Survey, Unread};

const EXOTIC: Unread = Unread("The planner does not know a clause of the query.");

impl<'s> Survey<'s, '_> {
    /// Walks a query whose expressions see `outer` beyond their own tables.
    pub(crate) fn query(
        &mut self,
        query: &Query,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        if for_clause.is_some()
            || settings.is_some()
            || format_clause.is_some()
            || !pipe_operators.is_empty()
        {
            return Err(EXOTIC);
        }
        self.locks |= !locks.is_empty();
        let asked = self.asked.remove(&address(query)).unwrap_or_default();
        // which rows are left, or locked, depends on all of them
        let asked = if limit_clause.is_none() && fetch.is_none() && locks.is_empty() {
            asked
        } else {
            Asked::new()
        };
        let entries = self.cte_entries(query, ctes);
        let visible = Ctes {
            entries: &entries,
            parent: Some(ctes),
        };
        if let Some(limit) = limit_clause {
            self.subqueries(limit, outer, &visible)?;
        }
        if let Some(fetch) = fetch {
            self.subqueries(fetch, outer, &visible)?;
        }
        self.body(body, order_by.as_ref(), outer, &visible, &asked)?;
        // a query of WITH comes after all that mentions it, and what they ask of it is known
        let queries = with.iter().flat_map(|with| &with.cte_tables).enumerate();
        for (position, cte) in queries.collect::<Vec<_>>().into_iter().rev() {
            let recursive = with.as_ref().is_some_and(|with| with.recursive);
            let before = if recursive { entries.len() } else { position };
            let visible = Ctes {
                entries: &entries[..before],
                parent: Some(ctes),
            };
            if !recursive {
                let uses = self.cte_uses.remove(&address(&*cte.query));
                let asked = asked_by_all(&uses.unwrap_or_default());
                self.asked.insert(address(&*cte.query), asked);
            }
            self.query(&cte.query, outer, &visible)?;
        }
        Ok(())
    }

    /// Walks a body; ORDER BY sees the tables of a plain SELECT.
    fn body(
        &mut self,
        body: &SetExpr,
        order_by: Option<&OrderBy>,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
        asked: &Asked,
    ) -> Result<(), Unread> {
        if let SetExpr::Select(select) = body {
            return self.select(select, order_by, outer, ctes, asked);
        }
        if let Some(order_by) = order_by {
            self.subqueries(order_by, outer, ctes)?;
        }
        // UNION chains lean to the left: walked in a loop, not by recursion
        let mut open = vec![body];
        while let Some(body) = open.pop() {
            match body {
                SetExpr::Select(select) => self.select(select, None, outer, ctes, asked)?,
                SetExpr::Query(query) => {
                    self.asked
                        .entry(address(&**query))
                        .or_default()
                        .extend(asked.iter().cloned());
                    self.query(query, outer, ctes)?;
                }
                SetExpr::SetOperation { left, right, .. } => {
                    open.push(right);
                    open.push(left);
                }
                SetExpr::Values(values) => self.subqueries(values, outer, ctes)?,
                SetExpr::Insert(statement)
                | SetExpr::Update(statement)
                | SetExpr::Delete(statement)
                | SetExpr::Merge(statement) => self.write(statement, ctes)?,
                SetExpr::Table(_) => return Err(EXOTIC),
            }
        }
        Ok(())
    }

    fn select(
        &mut self,
        select: &Select,
        order_by: Option<&OrderBy>,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
        asked: &Asked,
    ) -> Result<(), Unread> {
        let Select {
            select_token: _,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from: _,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        let exotic = select_modifiers.is_some()
            || top.is_some()
            || exclude.is_some()
            || !lateral_views.is_empty()
            || prewhere.is_some()
            || !connect_by.is_empty()
            || !cluster_by.is_empty()
            || !distribute_by.is_empty()
            || !sort_by.is_empty()
            || qualify.is_some()
            || value_table_mode.is_some();
        if exotic {
            return Err(EXOTIC);
        }
        self.into |= into.is_some();
        let mut block = Block::new();
        self.select_block(&mut block, select, outer, ctes)?;
        self.ask(&mut block, select, asked);
        self.finish_block(&block, outer, ctes)?;
        let level = block.level(outer);
        let level = Some(&level);
        self.subqueries(distinct, level, ctes)?;
        self.subqueries(projection, level, ctes)?;
        self.subqueries(selection, level, ctes)?;
        self.subqueries(group_by, level, ctes)?;
        self.subqueries(having, level, ctes)?;
        self.subqueries(named_window, level, ctes)?;
        if let Some(order_by) = order_by {
            self.subqueries(order_by, level, ctes)?;
        }
        Ok(())
    }

    /// Reads the FROM and WHERE of a select.
    pub(crate) fn select_block<'b>(
        &mut self,
        block: &mut Block<'b>,
        select: &'b Select,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread>
    where
        's: 'b,
    {
        self.from(block, &select.from, outer, ctes)?;
        self.where_clause(block, select.selection.as_ref(), outer, ctes);
        Ok(())
    }

    /// Reads a WHERE, which sees all of its block and holds for all of it.
    pub(crate) fn where_clause(
        &mut self,
        block: &mut Block<'_>,
        condition: Option<&Expr>,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) {
        if let Some(condition) = condition {
            let sight = Sight {
                visible: 0..block.items.len(),
                scope: ALL,
                parent: outer,
                ctes,
            };
            self.facts(block, condition, &sight);
        }
    }

    /// Walks an INSERT, UPDATE or DELETE, at the top or within WITH.
    pub(crate) fn write(&mut self, statement: &Statement, ctes: &Ctes<'_>) -> Result<(), Unread> {
        match statement {
            Statement::Insert(insert) => self.insert(insert, ctes),
            Statement::Update(update) => self.update(update, ctes),
            Statement::Delete(delete) => self.delete(delete, ctes),
            Statement::Merge(merge) => self.merge(merge, ctes),
            _ => Err(Unread("The planner does not know this statement.")),
        }
    }
}

/// What every mention of a query asks of it: for each column, one of the values of any.
fn asked_by_all(uses: &[Asked]) -> Asked {
    let Some((first, others)) = uses.split_first() else {
        return Asked::new();
    };
    first
        .iter()
        .filter_map(|(position, values)| {
            let mut all: Alternatives = values.clone();
            for other in others {
                let (_, more) = other.iter().find(|(found, _)| found == position)?;
                all.extend(more.iter().copied());
            }
            (all.len() <= MAX_ALTERNATIVES).then_some((*position, all))
        })
        .collect()
}
