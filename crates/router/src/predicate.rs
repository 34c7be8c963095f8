//! What is known of the columns of a query block: which are equal, and which are fixed to values.
//!
//! Owns the tables of a block as expressions see them, and the chain of equalities that leads from a
//! key column to literals or parameters. Never reads a condition: that is `condition`'s. Main types:
//! [`Level`], [`Fact`].
//!
//! # Why a chain proves
//! A fact is an equality of a top-level conjunct, with the range of tables for which it holds: whenever
//! a row of such a table is part of a row of the result, the equality was true there. WHERE and the
//! conditions of inner joins hold for all tables; the condition of an outer join, and whatever joins
//! lie within its nullable side, only for the tables of that side. Where all links of a chain hold
//! for a table and the chain ends in values, rows of that table with other keys are in no row of
//! the result, and a shard without them answers the same.
//!
//! A column of a subquery may be known by what it is within: then every row of the subquery has one
//! of those values there, or NULL, which no equality of the chain would let through.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use pgherd_topology::{Column, Relation, TableRule};
use smallvec::SmallVec;
use sqlparser::ast::Expr;

use crate::parse::fold;
use crate::plan::KeySource;

/// The values of which a column has one.
pub(crate) type Alternatives = SmallVec<[KeySource; 1]>;

/// As many values as one column may be fixed to by a statement that spells them out.
pub(crate) const MAX_ALTERNATIVES: usize = 1024;

/// A table of a FROM clause.
#[derive(Debug, Clone)]
pub(crate) struct Item<'l> {
    /// The name by which columns are qualified.
    pub(crate) alias: String,
    /// Set where the table has no alias: `schema.table.column` means it too.
    pub(crate) schema: Option<String>,
    pub(crate) columns: Columns<'l>,
    /// Set for a sharded table.
    pub(crate) rule: Option<Arc<TableRule>>,
    /// An outer join may put NULLs in place of its rows.
    pub(crate) nullable: bool,
}

/// The columns of an item.
#[derive(Debug, Clone)]
pub(crate) enum Columns<'l> {
    /// Of a table.
    Relation(&'l Relation),
    /// Of a subquery or WITH.
    Output(Output),
    /// Of a function, or renamed.
    Unknown,
}

/// The columns that a query gives.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) columns: Rc<[OutputColumn]>,
    /// Some columns' names are not known.
    pub(crate) is_partly_unknown: bool,
}

/// One column that a query gives.
#[derive(Debug, Clone)]
pub(crate) struct OutputColumn {
    /// Its name and type; of type 0 where that is not known.
    pub(crate) column: Column,
    /// Every row has one of these values here, or NULL.
    pub(crate) values: Option<Alternatives>,
    /// No row has NULL here.
    pub(crate) never_null: bool,
    /// The column of the query's own FROM that it shows.
    pub(crate) origin: Option<Node>,
}

/// What looking up a column in an item gave.
enum Lookup<'l> {
    Found(&'l Column),
    Absent,
    /// It may be there.
    Unclear,
}

impl<'l> Item<'l> {
    fn look_up(&self, name: &str) -> Lookup<'_> {
        match &self.columns {
            Columns::Relation(relation) => match relation.find_column(name) {
                Some(column) => Lookup::Found(column),
                None => Lookup::Absent,
            },
            Columns::Output(output) => {
                let mut named = output
                    .columns
                    .iter()
                    .filter(|output| *output.column.name == *name);
                match (named.next(), named.next()) {
                    (Some(only), None) => Lookup::Found(&only.column),
                    (Some(_), Some(_)) => Lookup::Unclear,
                    (None, _) if output.is_partly_unknown => Lookup::Unclear,
                    (None, _) => Lookup::Absent,
                }
            }
            Columns::Unknown => Lookup::Unclear,
        }
    }

    pub(crate) fn find_column(&self, name: &str) -> Option<&Column> {
        match self.look_up(name) {
            Lookup::Found(column) => Some(column),
            Lookup::Absent | Lookup::Unclear => None,
        }
    }

    /// What a column of a subquery is known to be.
    pub(crate) fn output(&self, name: &str) -> Option<&OutputColumn> {
        match &self.columns {
            Columns::Output(output) => output
                .columns
                .iter()
                .find(|output| *output.column.name == *name),
            Columns::Relation(_) | Columns::Unknown => None,
        }
    }

    pub(crate) fn relation(&self) -> Option<&'l Relation> {
        match self.columns {
            Columns::Relation(relation) => Some(relation),
            Columns::Output(_) | Columns::Unknown => None,
        }
    }
}

/// A column of a table of the same FROM clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) item: usize,
    pub(crate) column: Box<str>,
}

#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Node(Node),
    /// One of these.
    Values(Alternatives),
}

/// The scope of a fact that holds for every table of its block.
pub(crate) const ALL: Range<usize> = 0..usize::MAX;

/// An equality that holds wherever a row of a table in `scope` is part of a result row.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) scope: Range<usize>,
    pub(crate) left: Node,
    pub(crate) right: Operand,
}

/// A column that USING made one of several.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    pub(crate) column: String,
    pub(crate) items: Range<usize>,
    /// The table whose column it is; `None` after FULL JOIN, where it is either's.
    pub(crate) representative: Option<usize>,
}

/// The tables of one query block, as far as an expression of it sees them, and those of the blocks
/// around it.
#[derive(Debug, Clone)]
pub(crate) struct Level<'l> {
    pub(crate) items: &'l [Item<'l>],
    pub(crate) visible: Range<usize>,
    pub(crate) facts: &'l [Fact],
    pub(crate) merged: &'l [Merged],
    pub(crate) parent: Option<&'l Level<'l>>,
}

/// A column that an expression names.
pub(crate) struct Resolved<'l> {
    pub(crate) level: &'l Level<'l>,
    pub(crate) item: usize,
    pub(crate) column: &'l Column,
}

impl<'l> Level<'l> {
    /// The column that an expression is, if it is one and it is certain which.
    pub(crate) fn column(&'l self, expression: &Expr) -> Option<Resolved<'l>> {
        match expression {
            Expr::Nested(inner) => self.column(inner),
            Expr::Identifier(name) => self.unqualified(&fold(name)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] => self.qualified(None, &fold(table), &fold(column)),
                [schema, table, column] => {
                    self.qualified(Some(&fold(schema)), &fold(table), &fold(column))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn unqualified(&'l self, name: &str) -> Option<Resolved<'l>> {
        let mut found = Vec::new();
        let mut unclear = false;
        for item in self.visible.clone() {
            match self.items.get(item)?.look_up(name) {
                Lookup::Found(column) => found.push((item, column)),
                Lookup::Absent => {}
                Lookup::Unclear => unclear = true,
            }
        }
        match found.as_slice() {
            [] if unclear => None,
            [] => self.parent?.unqualified(name),
            [(item, column)] => Some(Resolved {
                level: self,
                item: *item,
                column,
            }),
            several => {
                let merged = self.merged.iter().rev().find(|merged| {
                    merged.column == name
                        && several.iter().all(|(item, _)| merged.items.contains(item))
                })?;
                let representative = merged.representative?;
                let (item, column) = several.iter().find(|(item, _)| *item == representative)?;
                Some(Resolved {
                    level: self,
                    item: *item,
                    column,
                })
            }
        }
    }

    fn qualified(&'l self, schema: Option<&str>, table: &str, name: &str) -> Option<Resolved<'l>> {
        let mut matching = self.visible.clone().filter(|&item| {
            self.items.get(item).is_some_and(|found| {
                found.alias == table && (schema.is_none() || found.schema.as_deref() == schema)
            })
        });
        let Some(item) = matching.next() else {
            return self.parent?.qualified(schema, table, name);
        };
        if matching.next().is_some() {
            return None;
        }
        let column = self.items[item].find_column(name)?;
        Some(Resolved {
            level: self,
            item,
            column,
        })
    }

    /// The values that a column is fixed to, wherever its table's rows are part of a result row.
    pub(crate) fn fixed(&self, item: usize, column: &str) -> Option<Alternatives> {
        let start = Node {
            item,
            column: column.into(),
        };
        let mut best: Option<&Alternatives> = None;
        let mut offer = |values| {
            if best.is_none_or(|best: &Alternatives| best.len() > Alternatives::len(values)) {
                best = Some(values);
            }
        };
        let mut seen = vec![start];
        let mut next = 0;
        while next < seen.len() {
            let node = seen[next].clone();
            next += 1;
            let output = self.items.get(node.item)?.output(&node.column);
            if let Some(values) = output.and_then(|output| output.values.as_ref()) {
                offer(values);
            }
            for fact in self.facts.iter().filter(|fact| fact.scope.contains(&item)) {
                let other = match &fact.right {
                    Operand::Values(values) if fact.left == node => {
                        offer(values);
                        continue;
                    }
                    Operand::Values(_) => continue,
                    Operand::Node(right) if fact.left == node => right,
                    Operand::Node(right) if *right == node => &fact.left,
                    Operand::Node(_) => continue,
                };
                if !seen.contains(other) {
                    seen.push(other.clone());
                }
            }
        }
        best.cloned()
    }

    /// Is the column of every result row something other than NULL?
    pub(crate) fn never_null(&self, node: &Node) -> bool {
        let equated = self.facts.iter().any(|fact| {
            fact.scope == ALL
                && (fact.left == *node
                    || matches!(&fact.right, Operand::Node(right) if right == node))
        });
        let given = self.items.get(node.item).is_some_and(|item| {
            let output = item.output(&node.column);
            !item.nullable && output.is_some_and(|output| output.never_null)
        });
        equated || given
    }
}
