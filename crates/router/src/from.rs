//! A FROM clause: its tables, and the equalities that its joins prove.
//!
//! Owns the order in which tables see each other. Subqueries are only collected here, and walked
//! once all facts of the block are known. Main type: [`Block`].

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{
    Expr, FunctionArg, JoinConstraint, JoinOperator, Query, TableAlias, TableFactor, TableWithJoins,
};

use crate::condition::Sight;
use crate::output::{address, renamed};
use crate::parse::fold;
use crate::plan::KeySet;
use crate::predicate::{
    ALL, Alternatives, Columns, Fact, Item, Level, MAX_ALTERNATIVES, Merged, Node, Output, Resolved,
};
use crate::scope::TableMode;
use crate::survey::{Ctes, Survey, Unread, object_name, rule_of};

/// One query block: its tables and what is known of them.
pub(crate) struct Block<'b> {
    pub(crate) items: Vec<Item<'b>>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) merged: Vec<Merged>,
    /// There is a NATURAL join: which columns it merges is not known.
    pub(crate) natural: bool,
    later: Vec<Later<'b>>,
    /// Subqueries that a column of the block is a member of, by address and position.
    pub(crate) members: Vec<(usize, usize, Node)>,
    /// Why a condition on a key proved nothing, by table and column.
    pub(crate) notes: Vec<(Node, String)>,
}

/// A part that is walked once the block's facts are complete.
enum Later<'b> {
    /// A subquery that sees nothing of this FROM clause, and its item.
    Alone(&'b Query, usize),
    /// A LATERAL subquery: sees the tables before it, and is the item after them.
    Lateral(&'b Query, usize),
    /// A mention of what WITH defines, by address, and its item.
    Cte(usize, usize),
    /// Arguments of a function in FROM, as LATERAL.
    Arguments(&'b [FunctionArg], usize),
    /// Expressions of UNNEST, as LATERAL.
    Expressions(&'b [Expr], usize),
    /// A join's condition: sees the tables of the join.
    Condition(&'b Expr, Range<usize>),
}

impl<'b> Block<'b> {
    pub(crate) fn new() -> Self {
        Self {
            items: Vec::new(),
            facts: Vec::new(),
            merged: Vec::new(),
            natural: false,
            later: Vec::new(),
            members: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What an expression that sees all tables of the block sees.
    pub(crate) fn level(&'b self, parent: Option<&'b Level<'b>>) -> Level<'b> {
        self.level_of(0..self.items.len(), parent)
    }

    pub(crate) fn level_of<'l>(
        &'l self,
        visible: Range<usize>,
        parent: Option<&'l Level<'l>>,
    ) -> Level<'l> {
        Level {
            items: &self.items,
            visible,
            facts: &self.facts,
            merged: &self.merged,
            parent,
        }
    }
}

impl<'s> Survey<'s, '_> {
    /// Adds a comma-separated list of joins.
    pub(crate) fn from<'b>(
        &mut self,
        block: &mut Block<'b>,
        tables: &'b [TableWithJoins],
        parent: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread>
    where
        's: 'b,
    {
        for tree in tables {
            self.join_tree(block, tree, parent, ctes)?;
        }
        Ok(())
    }

    fn join_tree<'b>(
        &mut self,
        block: &mut Block<'b>,
        tree: &'b TableWithJoins,
        parent: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread>
    where
        's: 'b,
    {
        let start = block.items.len();
        let first_fact = block.facts.len();
        self.factor(block, &tree.relation, parent, ctes)?;
        for join in &tree.joins {
            let middle = block.items.len();
            let middle_fact = block.facts.len();
            if join.global {
                return Err(Unread("The planner does not know GLOBAL joins."));
            }
            self.factor(block, &join.relation, parent, ctes)?;
            let end = block.items.len();
            let (side, constraint) = side_of(&join.join_operator)?;
            // what was proven within a nullable side holds for that side only
            if matches!(side, Side::Left | Side::Full) {
                narrow(&mut block.facts[middle_fact..], &(middle..end));
                make_nullable(&mut block.items[middle..end]);
            }
            if matches!(side, Side::Right | Side::Full) {
                narrow(&mut block.facts[first_fact..middle_fact], &(start..middle));
                make_nullable(&mut block.items[start..middle]);
            }
            let scope = match side {
                Side::Inner => Some(ALL),
                Side::Left => Some(middle..end),
                Side::Right => Some(start..middle),
                Side::Full => None,
            };
            let sight = scope.map(|scope| Sight {
                visible: start..end,
                scope,
                parent,
                ctes,
            });
            self.constraint(
                block,
                constraint,
                [start, middle, end],
                side,
                sight.as_ref(),
            )?;
        }
        Ok(())
    }

    fn constraint<'b>(
        &mut self,
        block: &mut Block<'b>,
        constraint: &'b JoinConstraint,
        [start, middle, end]: [usize; 3],
        side: Side,
        sight: Option<&Sight<'_>>,
    ) -> Result<(), Unread> {
        match constraint {
            JoinConstraint::On(condition) => {
                block.later.push(Later::Condition(condition, start..end));
                if let Some(sight) = sight {
                    self.facts(block, condition, sight);
                }
            }
            JoinConstraint::Using(columns) => {
                for column in columns {
                    let name = object_name(column)
                        .ok_or(Unread("The planner could not read USING."))?
                        .name;
                    let expression =
                        Expr::Identifier(sqlparser::ast::Ident::with_quote('"', &name));
                    let find = |range: Range<usize>| {
                        let level = block.level_of(range, None);
                        level
                            .column(&expression)
                            .map(|found| node_of(&found, &name))
                    };
                    let (left, right) = (find(start..middle), find(middle..end));
                    let representative = match side {
                        Side::Inner | Side::Left => left.as_ref().map(|node| node.item),
                        Side::Right => right.as_ref().map(|node| node.item),
                        Side::Full => None,
                    };
                    block.merged.push(Merged {
                        column: name,
                        items: start..end,
                        representative,
                    });
                    if let (Some(left), Some(right), Some(sight)) = (left, right, sight) {
                        self.equate(block, left, right, sight.scope.clone());
                    }
                }
            }
            // the columns that NATURAL joins on are not followed: what it proves is left unproven
            JoinConstraint::Natural => block.natural = true,
            JoinConstraint::None => {}
        }
        Ok(())
    }

    pub(crate) fn factor<'b>(
        &mut self,
        block: &mut Block<'b>,
        factor: &'b TableFactor,
        parent: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread>
    where
        's: 'b,
    {
        let before = block.items.len();
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample: _,
                index_hints,
            } => {
                if !with_hints.is_empty()
                    || version.is_some()
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty()
                {
                    return Err(Unread("The planner does not know a clause after a table."));
                }
                self.met += 1;
                let name = object_name(name).ok_or(Unread("A table's name could not be read."))?;
                if let Some(args) = args {
                    block.later.push(Later::Arguments(&args.args, before));
                    block.items.push(opaque(alias.as_ref(), &name.name));
                } else if let Some(entry) = ctes.find(&name) {
                    block.later.push(Later::Cte(entry.address, before));
                    let output = entry.output.clone();
                    block.items.push(given(alias.as_ref(), &name.name, output));
                } else {
                    let item = self.table_item(&name, alias.as_ref(), TableMode::Read);
                    block.items.push(item);
                }
            }
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                sample: _,
            } => {
                block.later.push(if *lateral {
                    Later::Lateral(subquery, before)
                } else {
                    Later::Alone(subquery, before)
                });
                let output = self.outputs(subquery, ctes);
                block.items.push(given(alias.as_ref(), "", output));
            }
            TableFactor::Function {
                name, args, alias, ..
            } => {
                let name = object_name(name).map_or(String::new(), |name| name.name);
                block.later.push(Later::Arguments(args, before));
                block.items.push(opaque(alias.as_ref(), &name));
            }
            TableFactor::UNNEST {
                alias, array_exprs, ..
            } => {
                block.later.push(Later::Expressions(array_exprs, before));
                block.items.push(opaque(alias.as_ref(), "unnest"));
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                if alias.is_some() {
                    return Err(Unread("The planner does not follow an alias of a join."));
                }
                self.join_tree(block, table_with_joins, parent, ctes)?;
            }
            _ => return Err(Unread("The planner does not know an item of FROM.")),
        }
        Ok(())
    }

    /// A table of FROM, or the target of UPDATE and DELETE.
    pub(crate) fn table_item<'b>(
        &mut self,
        name: &crate::tokens::Name,
        alias: Option<&TableAlias>,
        mode: TableMode,
    ) -> Item<'b>
    where
        's: 'b,
    {
        let table = self.mention(name, mode);
        let renamed = alias.is_some_and(|alias| !alias.columns.is_empty());
        let columns = table
            .as_ref()
            .and_then(|table| table.relation)
            .filter(|_| !renamed)
            .map_or(Columns::Unknown, Columns::Relation);
        Item {
            alias: alias.map_or_else(|| name.name.clone(), |alias| fold(&alias.name)),
            schema: match alias {
                Some(_) => None,
                None => table.as_ref().map(|table| table.name.schema.to_string()),
            },
            columns,
            rule: table.as_ref().and_then(rule_of).map(Arc::clone),
            nullable: false,
        }
    }

    /// Walks what FROM put off, now that all facts are there, and fixes the block's sharded tables.
    pub(crate) fn finish_block<'b>(
        &mut self,
        block: &'b Block<'b>,
        parent: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        let level = block.level(parent);
        for (query, position, node) in &block.members {
            if let Some(values) = level.fixed(node.item, &node.column) {
                let asked = self.asked.entry(*query).or_default();
                asked.push((*position, values));
            }
        }
        for later in &block.later {
            match later {
                Later::Alone(query, item) => {
                    let asked = asked_of(&level, *item);
                    self.asked.entry(address(*query)).or_default().extend(asked);
                    self.query(query, parent, ctes)?;
                }
                Later::Lateral(query, before) => {
                    let asked = asked_of(&level, *before);
                    self.asked.entry(address(*query)).or_default().extend(asked);
                    let level = block.level_of(0..*before, parent);
                    self.query(query, Some(&level), ctes)?;
                }
                Later::Cte(query, item) => {
                    let asked = asked_of(&level, *item);
                    self.cte_uses.entry(*query).or_default().push(asked);
                }
                Later::Arguments(arguments, before) => {
                    let level = block.level_of(0..*before, parent);
                    for argument in *arguments {
                        self.subqueries(argument, Some(&level), ctes)?;
                    }
                }
                Later::Expressions(expressions, before) => {
                    let level = block.level_of(0..*before, parent);
                    for expression in *expressions {
                        self.subqueries(expression, Some(&level), ctes)?;
                    }
                }
                Later::Condition(condition, visible) => {
                    let level = block.level_of(visible.clone(), parent);
                    self.subqueries(*condition, Some(&level), ctes)?;
                }
            }
        }
        self.fix_tables(block, parent);
        Ok(())
    }

    fn fix_tables(&mut self, block: &Block<'_>, parent: Option<&Level<'_>>) {
        let level = block.level_of(0..block.items.len(), parent);
        for (position, item) in block.items.iter().enumerate() {
            let Some(rule) = &item.rule else {
                continue;
            };
            let mut columns: Vec<Alternatives> = Vec::new();
            for column in &rule.key {
                match level.fixed(position, column) {
                    Some(values) => columns.push(values),
                    None => {
                        let node = Node {
                            item: position,
                            column: column.clone(),
                        };
                        let why = block.notes.iter().find(|(noted, _)| *noted == node);
                        self.leave_unfixed(rule, column, why.map(|(_, why)| why.as_str()));
                    }
                }
            }
            if columns.len() < rule.key.len() {
                continue;
            }
            match every_key(&columns) {
                Some(keys) => {
                    for columns in keys {
                        self.add_key(KeySet {
                            rule: Arc::clone(rule),
                            columns,
                            by_row: false,
                        });
                    }
                }
                None => {
                    let column = rule.key.first().map_or("?", |column| column);
                    let why = "is compared with too many values";
                    self.leave_unfixed(rule, column, Some(why));
                }
            }
        }
    }
}

/// Every key of which each column has one of its values; `None` where they are too many.
pub(crate) fn every_key(columns: &[Alternatives]) -> Option<Vec<Alternatives>> {
    let mut keys = vec![Alternatives::new()];
    for values in columns {
        if keys.len().saturating_mul(values.len()) > MAX_ALTERNATIVES {
            return None;
        }
        keys = keys
            .iter()
            .flat_map(|key| {
                values.iter().map(move |value| {
                    let mut key = key.clone();
                    key.push(*value);
                    key
                })
            })
            .collect();
    }
    Some(keys)
}

/// What the block asks of the columns of a subquery in its FROM clause.
fn asked_of(level: &Level<'_>, item: usize) -> Vec<(usize, Alternatives)> {
    let Some(Columns::Output(output)) = level.items.get(item).map(|item| &item.columns) else {
        return Vec::new();
    };
    let open = output
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.values.is_none());
    open.filter_map(|(position, column)| {
        // of two columns of one name it cannot be said which is meant
        level.items.get(item)?.find_column(&column.column.name)?;
        Some((position, level.fixed(item, &column.column.name)?))
    })
    .collect()
}

fn make_nullable(items: &mut [Item<'_>]) {
    for item in items {
        item.nullable = true;
    }
}

/// Which side of a join may come out NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Neither.
    Inner,
    /// LEFT JOIN: the right one.
    Left,
    /// RIGHT JOIN: the left one.
    Right,
    /// Both.
    Full,
}

fn side_of(operator: &JoinOperator) -> Result<(Side, &JoinConstraint), Unread> {
    Ok(match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::CrossJoin(constraint) => (Side::Inner, constraint),
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
            (Side::Left, constraint)
        }
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
            (Side::Right, constraint)
        }
        JoinOperator::FullOuter(constraint) => (Side::Full, constraint),
        _ => return Err(Unread("The planner does not know a kind of join.")),
    })
}

fn narrow(facts: &mut [Fact], to: &Range<usize>) {
    for fact in facts {
        fact.scope = fact.scope.start.max(to.start)..fact.scope.end.min(to.end);
    }
}

fn node_of(found: &Resolved<'_>, name: &str) -> Node {
    Node {
        item: found.item,
        column: name.into(),
    }
}

/// A table of which only the name is known.
fn opaque<'b>(alias: Option<&TableAlias>, name: &str) -> Item<'b> {
    Item {
        alias: alias.map_or_else(|| name.to_owned(), |alias| fold(&alias.name)),
        schema: None,
        columns: Columns::Unknown,
        rule: None,
        nullable: false,
    }
}

/// A subquery, or what WITH defines.
fn given<'b>(alias: Option<&TableAlias>, name: &str, output: Option<Output>) -> Item<'b> {
    let names: Vec<String> = alias
        .iter()
        .flat_map(|alias| &alias.columns)
        .map(|column| fold(&column.name))
        .collect();
    let output = output.and_then(|output| renamed(output, &names));
    Item {
        columns: output.map_or(Columns::Unknown, Columns::Output),
        ..opaque(alias, name)
    }
}
