//! Queries: WITH, set operations, query blocks, and what sees what in them.
//!
//! Owns the walk that reaches every sharded table exactly in the block where it stands. A part of the
//! tree that Postgres' grammar does not have ends the walk.

use sqlparser::ast::{OrderBy, Query, Select, SetExpr, Statement};

use crate::from::Block;
use crate::parse::fold;
use crate::predicate::Level;
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
        let mut names: Vec<String> = Vec::new();
        if let Some(with) = with {
            if with.recursive {
                names.extend(with.cte_tables.iter().map(|cte| fold(&cte.alias.name)));
            }
            for cte in &with.cte_tables {
                let visible = Ctes {
                    names: &names,
                    parent: Some(ctes),
                };
                self.query(&cte.query, outer, &visible)?;
                if !with.recursive {
                    names.push(fold(&cte.alias.name));
                }
            }
        }
        let ctes = Ctes {
            names: &names,
            parent: Some(ctes),
        };
        if let Some(limit) = limit_clause {
            self.subqueries(limit, outer, &ctes)?;
        }
        if let Some(fetch) = fetch {
            self.subqueries(fetch, outer, &ctes)?;
        }
        self.body(body, order_by.as_ref(), outer, &ctes)
    }

    /// Walks a body; ORDER BY sees the tables of a plain SELECT.
    fn body(
        &mut self,
        body: &SetExpr,
        order_by: Option<&OrderBy>,
        outer: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        if let SetExpr::Select(select) = body {
            return self.select(select, order_by, outer, ctes);
        }
        if let Some(order_by) = order_by {
            self.subqueries(order_by, outer, ctes)?;
        }
        // UNION chains lean to the left: walked in a loop, not by recursion
        let mut open = vec![body];
        while let Some(body) = open.pop() {
            match body {
                SetExpr::Select(select) => self.select(select, None, outer, ctes)?,
                SetExpr::Query(query) => self.query(query, outer, ctes)?,
                SetExpr::SetOperation { left, right, .. } => {
                    open.push(right);
                    open.push(left);
                }
                SetExpr::Values(values) => self.subqueries(values, outer, ctes)?,
                SetExpr::Insert(statement)
                | SetExpr::Update(statement)
                | SetExpr::Delete(statement) => self.write(statement, ctes)?,
                SetExpr::Merge(_) => return Err(Unread("MERGE is not planned yet.")),
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
            from,
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
        self.from(&mut block, from, outer, ctes)?;
        if let Some(condition) = selection {
            let all = 0..usize::MAX;
            let visible = 0..block.items.len();
            self.facts(&mut block, condition, visible, &all, outer);
        }
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

    /// Walks an INSERT, UPDATE or DELETE, at the top or within WITH.
    pub(crate) fn write(&mut self, statement: &Statement, ctes: &Ctes<'_>) -> Result<(), Unread> {
        match statement {
            Statement::Insert(insert) => self.insert(insert, ctes),
            Statement::Update(update) => self.update(update, ctes),
            Statement::Delete(delete) => self.delete(delete, ctes),
            Statement::Merge(_) => Err(Unread("MERGE is not planned yet.")),
            _ => Err(Unread("The planner does not know this statement.")),
        }
    }
}
