//! A FROM clause: its tables, and the equalities that its joins prove.
//!
//! Owns the order in which tables see each other. Subqueries are only collected here, and walked
//! once all facts of the block are known. Main type: [`Block`].

use std::ops::Range;
use std::sync::Arc;

use pgherd_topology::{Collation, Column};
use sqlparser::ast::{
    Expr, FunctionArg, JoinConstraint, JoinOperator, Query, TableAlias, TableFactor, TableWithJoins,
};

use crate::parse::fold;
use crate::plan::{KeySource, KeyUsage};
use crate::predicate::{Fact, Item, Level, Merged, Node, Operand, Resolved, conjuncts, equality};
use crate::scope::TableMode;
use crate::survey::{Ctes, Survey, Unread, object_name, rule_of};

/// One query block: its tables and what is known of them.
pub(crate) struct Block<'b> {
    pub(crate) items: Vec<Item<'b>>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) merged: Vec<Merged>,
    later: Vec<Later<'b>>,
    /// Why a condition on a key proved nothing, by table and column.
    pub(crate) notes: Vec<(Node, String)>,
}

/// A part that is walked once the block's facts are complete.
enum Later<'b> {
    /// A subquery that sees nothing of this FROM clause.
    Alone(&'b Query),
    /// A LATERAL subquery: sees the tables before it.
    Lateral(&'b Query, usize),
    /// Arguments of a function in FROM, as LATERAL.
    Arguments(&'b [FunctionArg], usize),
    /// Expressions of UNNEST, as LATERAL.
    Expressions(&'b [Expr], usize),
    /// A join's condition: sees the tables of the join.
    Condition(&'b Expr, Range<usize>),
}

const ALL: Range<usize> = 0..usize::MAX;

impl<'b> Block<'b> {
    pub(crate) fn new() -> Self {
        Self {
            items: Vec::new(),
            facts: Vec::new(),
            merged: Vec::new(),
            later: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What an expression that sees all tables of the block sees.
    pub(crate) fn level(&'b self, parent: Option<&'b Level<'b>>) -> Level<'b> {
        self.level_of(0..self.items.len(), parent)
    }

    fn level_of<'l>(&'l self, visible: Range<usize>, parent: Option<&'l Level<'l>>) -> Level<'l> {
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
            }
            if matches!(side, Side::Right | Side::Full) {
                narrow(&mut block.facts[first_fact..middle_fact], &(start..middle));
            }
            let scope = match side {
                Side::Inner => Some(ALL),
                Side::Left => Some(middle..end),
                Side::Right => Some(start..middle),
                Side::Full => None,
            };
            self.constraint(block, constraint, [start, middle, end], side, scope, parent)?;
        }
        Ok(())
    }

    fn constraint<'b>(
        &mut self,
        block: &mut Block<'b>,
        constraint: &'b JoinConstraint,
        [start, middle, end]: [usize; 3],
        side: Side,
        scope: Option<Range<usize>>,
        parent: Option<&Level<'_>>,
    ) -> Result<(), Unread> {
        match constraint {
            JoinConstraint::On(condition) => {
                block.later.push(Later::Condition(condition, start..end));
                if let Some(scope) = scope {
                    self.facts(block, condition, start..end, &scope, parent);
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
                    if let (Some(left), Some(right), Some(scope)) = (left, right, &scope) {
                        self.equate(block, left, right, scope.clone());
                    }
                }
            }
            // the columns that NATURAL joins on are not followed: what it proves is left unproven
            JoinConstraint::Natural | JoinConstraint::None => {}
        }
        Ok(())
    }

    /// Adds the equalities of a condition's conjuncts.
    pub(crate) fn facts(
        &mut self,
        block: &mut Block<'_>,
        condition: &Expr,
        visible: Range<usize>,
        scope: &Range<usize>,
        parent: Option<&Level<'_>>,
    ) {
        for conjunct in conjuncts(condition) {
            let Some((one, other)) = equality(conjunct) else {
                continue;
            };
            for (side, beside) in [(one, other), (other, one)] {
                self.fact(block, side, beside, &visible, scope, parent);
            }
        }
    }

    fn fact(
        &mut self,
        block: &mut Block<'_>,
        side: &Expr,
        beside: &Expr,
        visible: &Range<usize>,
        scope: &Range<usize>,
        parent: Option<&Level<'_>>,
    ) {
        let level = block.level_of(visible.clone(), parent);
        let Some(found) = Seen::of(&level, side).filter(|seen| seen.is_here) else {
            return;
        };
        let other = Seen::of(&level, beside);
        let left = found.node;
        match other {
            Some(other) if other.is_here => self.equate(block, left, other.node, scope.clone()),
            Some(other) => {
                // a column of a block around this one: fixed there, it is a value here
                let same = self.same_family(&found.column, &other.column);
                if let (Some(source), true) = (other.fixed, same) {
                    block.facts.push(Fact {
                        scope: scope.clone(),
                        left,
                        right: Operand::Value(source),
                    });
                }
            }
            None => {
                self.value_reader().note_beside(beside, &found.column);
                match self.value(beside, &found.column, KeyUsage::Compared) {
                    Ok(source) => block.facts.push(Fact {
                        scope: scope.clone(),
                        left,
                        right: Operand::Value(source),
                    }),
                    Err(why) => block.notes.push((left, why)),
                }
            }
        }
    }

    /// Adds `left = right`, if it compares by the hash family of both.
    fn equate(&self, block: &mut Block<'_>, left: Node, right: Node, scope: Range<usize>) {
        let column = |node: &Node| {
            block
                .items
                .get(node.item)
                .and_then(|item| item.relation)
                .and_then(|relation| relation.find_column(&node.column))
        };
        let (Some(one), Some(other)) = (column(&left), column(&right)) else {
            return;
        };
        if self.same_family(one, other) {
            block.facts.push(Fact {
                scope,
                left,
                right: Operand::Node(right),
            });
        }
    }

    fn same_family(&self, one: &Column, other: &Column) -> bool {
        let family = |column: &Column| {
            (column.collation != Collation::Nondeterministic)
                .then(|| self.subject.names.catalog.key_type(column.type_oid))
                .flatten()
                .map(|key_type| key_type.hash_family())
        };
        matches!((family(one), family(other)), (Some(one), Some(other)) if one == other)
    }

    fn factor<'b>(
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
                } else if name.schema.is_none() && ctes.contains(&name.name) {
                    block.items.push(opaque(alias.as_ref(), &name.name));
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
                    Later::Alone(subquery)
                });
                block.items.push(opaque(alias.as_ref(), ""));
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
        let relation = table
            .as_ref()
            .and_then(|table| table.relation)
            .filter(|_| !renamed);
        Item {
            alias: alias.map_or_else(|| name.name.clone(), |alias| fold(&alias.name)),
            schema: match alias {
                Some(_) => None,
                None => table.as_ref().map(|table| table.name.schema.to_string()),
            },
            relation,
            rule: table.as_ref().and_then(rule_of).map(Arc::clone),
        }
    }

    /// Walks what FROM put off, now that all facts are there, and fixes the block's sharded tables.
    pub(crate) fn finish_block<'b>(
        &mut self,
        block: &'b Block<'b>,
        parent: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        for later in &block.later {
            match later {
                Later::Alone(query) => self.query(query, parent, ctes)?,
                Later::Lateral(query, before) => {
                    let level = block.level_of(0..*before, parent);
                    self.query(query, Some(&level), ctes)?;
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
            let mut columns = smallvec::SmallVec::new();
            for column in &rule.key {
                match level.fixed(position, column) {
                    Some(source) => columns.push(source),
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
            if columns.len() == rule.key.len() {
                self.add_key(crate::plan::KeySet {
                    rule: Arc::clone(rule),
                    columns,
                });
            }
        }
    }
}

/// A column that a condition names, cut loose from the block.
struct Seen {
    node: Node,
    column: Column,
    /// It belongs to this block, not to one around it.
    is_here: bool,
    /// For a column of a block around: what it is fixed to there.
    fixed: Option<KeySource>,
}

impl Seen {
    fn of(level: &Level<'_>, expression: &Expr) -> Option<Self> {
        let found = level.column(expression)?;
        let is_here = std::ptr::eq(found.level, level);
        let fixed = if is_here {
            None
        } else {
            found.level.fixed(found.item, &found.column.name)
        };
        Some(Self {
            node: node_of(&found, &found.column.name),
            column: found.column.clone(),
            is_here,
            fixed,
        })
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
        relation: None,
        rule: None,
    }
}
