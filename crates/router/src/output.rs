//! What a query gives to the block around it: the names, types and known values of its columns; and
//! what the block around it asks of them.
//!
//! Owns both directions of a proof across a subquery. Outwards: a column that is fixed within is known
//! without. Inwards: where only rows with certain values of a column can matter, and leaving out the
//! others changes nothing for these, the values are a condition of the query. Main types: [`Output`],
//! [`Asked`].

use std::rc::Rc;

use pgherd_topology::{Column, FunctionKind, KeyType};
use sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, Value, Visit, Visitor,
};
use std::ops::ControlFlow;

use crate::from::Block;
use crate::parse::fold;
use crate::plan::{KeyOrigin, KeySource, KeyUsage};
use crate::predicate::{
    ALL, Alternatives, Columns, Fact, Level, MAX_ALTERNATIVES, Node, Operand, Output, OutputColumn,
};
use crate::survey::{CteEntry, Ctes, Survey, object_name};

/// Values of which a query's column, by position, must have one for the row to matter.
pub(crate) type Asked = Vec<(usize, Alternatives)>;

/// Where a part of the tree is: parts do not move while they are surveyed.
pub(crate) fn address<T>(part: &T) -> usize {
    std::ptr::from_ref(part).addr()
}

impl<'s> Survey<'s, '_> {
    /// The columns that a query gives; `None` where they are not known.
    pub(crate) fn outputs(&mut self, query: &Query, ctes: &Ctes<'_>) -> Option<Output> {
        if let Some(known) = self.outputs.get(&address(query)) {
            return known.clone();
        }
        let entries = self.cte_entries(query, ctes);
        let ctes = Ctes {
            entries: &entries,
            parent: Some(ctes),
        };
        let output = self.body_outputs(&query.body, &ctes);
        self.outputs.insert(address(query), output.clone());
        output
    }

    /// What a query's WITH defines.
    pub(crate) fn cte_entries(&mut self, query: &Query, ctes: &Ctes<'_>) -> Vec<CteEntry> {
        let mut entries: Vec<CteEntry> = Vec::new();
        let Some(with) = &query.with else {
            return entries;
        };
        for cte in &with.cte_tables {
            let output = if with.recursive {
                None
            } else {
                let visible = Ctes {
                    entries: &entries,
                    parent: Some(ctes),
                };
                self.outputs(&cte.query, &visible)
            };
            let names: Vec<String> = cte
                .alias
                .columns
                .iter()
                .map(|column| fold(&column.name))
                .collect();
            entries.push(CteEntry {
                name: fold(&cte.alias.name),
                address: address(&*cte.query),
                output: output.and_then(|output| renamed(output, &names)),
            });
        }
        entries
    }

    fn body_outputs(&mut self, body: &SetExpr, ctes: &Ctes<'_>) -> Option<Output> {
        match body {
            SetExpr::Select(select) => {
                // the block is read here for what it gives; the walk of the query reads it again
                let (tables, met) = (self.tables.len(), self.met);
                let mut block = Block::new();
                let read = self.select_block(&mut block, select, None, ctes);
                self.tables.truncate(tables);
                self.met = met;
                read.ok()?;
                self.projection(&block, select)
            }
            SetExpr::Query(query) => self.outputs(query, ctes),
            SetExpr::SetOperation {
                op, left, right, ..
            } => {
                let left = self.body_outputs(left, ctes)?;
                let right = self.body_outputs(right, ctes)?;
                self.combined(*op, &left, &right)
            }
            SetExpr::Values(values) => {
                let first = values.rows.first()?;
                let columns: Vec<OutputColumn> = (0..first.content.len())
                    .map(|position| {
                        let name = format!("column{}", position + 1);
                        let cells = values.rows.iter().map(|row| row.content.get(position));
                        self.values_column(&name, cells)
                    })
                    .collect();
                Some(Output {
                    columns: columns.into(),
                    is_partly_unknown: false,
                })
            }
            SetExpr::Insert(_)
            | SetExpr::Update(_)
            | SetExpr::Delete(_)
            | SetExpr::Merge(_)
            | SetExpr::Table(_) => None,
        }
    }

    /// A column of VALUES: known where every cell is a plain value of one type.
    fn values_column<'e>(
        &mut self,
        name: &str,
        cells: impl Iterator<Item = Option<&'e Expr>>,
    ) -> OutputColumn {
        let mut values = Alternatives::new();
        let mut family = None;
        for cell in cells {
            let found = cell.and_then(|cell| self.free_value(cell));
            let Some(source) = found.filter(|_| values.len() < MAX_ALTERNATIVES) else {
                return unknown_column(name);
            };
            let here = source.key_type.hash_family();
            if *family.get_or_insert(here) != here {
                return unknown_column(name);
            }
            values.push(source);
        }
        match values.first().map(|source| source.key_type) {
            None => unknown_column(name),
            Some(key_type) => OutputColumn {
                column: Column::new(name, key_type.oid()),
                values: Some(values),
                never_null: true,
                origin: None,
            },
        }
    }

    fn combined(&self, operator: SetOperator, left: &Output, right: &Output) -> Option<Output> {
        if left.columns.len() != right.columns.len() {
            return None;
        }
        let columns: Vec<OutputColumn> = left
            .columns
            .iter()
            .zip(&*right.columns)
            .map(|(one, other)| {
                let alike = self.same_family(&one.column, &other.column);
                let values = match (operator, &one.values, &other.values) {
                    _ if !alike => None,
                    (SetOperator::Union, Some(one), Some(other)) => {
                        let all: Alternatives = one.iter().chain(other).copied().collect();
                        Some(all).filter(|all| all.len() <= MAX_ALTERNATIVES)
                    }
                    (SetOperator::Union, _, _) => None,
                    (SetOperator::Intersect, Some(values), _)
                    | (SetOperator::Intersect, None, Some(values))
                    | (SetOperator::Except, Some(values), _) => Some(values.clone()),
                    _ => None,
                };
                let column = if alike {
                    one.column.clone()
                } else {
                    Column::new(&one.column.name, 0)
                };
                OutputColumn {
                    column,
                    values,
                    never_null: one.never_null && other.never_null,
                    origin: None,
                }
            })
            .collect();
        Some(Output {
            columns: columns.into(),
            is_partly_unknown: left.is_partly_unknown,
        })
    }

    /// The select list's columns; `None` where it cannot be told how many there are.
    pub(crate) fn projection(&mut self, block: &Block<'_>, select: &Select) -> Option<Output> {
        let level = block.level(None);
        let plain_grouping = match &select.group_by {
            GroupByExpr::Expressions(by, sets) => {
                let is_set = |expression: &Expr| {
                    matches!(
                        expression,
                        Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_)
                    )
                };
                sets.is_empty() && !by.iter().any(is_set)
            }
            GroupByExpr::All(_) => false,
        };
        let mut columns = Vec::new();
        let mut is_partly_unknown = false;
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { expr, alias } => {
                    columns.push(self.output_column(&level, expr, Some(fold(alias))));
                }
                SelectItem::UnnamedExpr(expr) => {
                    let column = self.output_column(&level, expr, None);
                    is_partly_unknown |= column.origin.is_none();
                    columns.push(column);
                }
                SelectItem::Wildcard(_) if block.merged.is_empty() && !block.natural => {
                    for position in 0..block.items.len() {
                        is_partly_unknown |= all_columns(&level, position, &mut columns)?;
                    }
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    let name = object_name(name).filter(|name| name.schema.is_none())?;
                    let mut named = (0..block.items.len())
                        .filter(|&position| block.items[position].alias == name.name);
                    let (Some(position), None) = (named.next(), named.next()) else {
                        return None;
                    };
                    is_partly_unknown |= all_columns(&level, position, &mut columns)?;
                }
                _ => return None,
            }
        }
        if !plain_grouping {
            // grouping sets put NULLs in place of values
            for column in &mut columns {
                column.never_null = false;
            }
        }
        Some(Output {
            columns: columns.into(),
            is_partly_unknown,
        })
    }

    fn output_column(
        &mut self,
        level: &Level<'_>,
        expression: &Expr,
        alias: Option<String>,
    ) -> OutputColumn {
        let found = level
            .column(expression)
            .filter(|found| std::ptr::eq(found.level, level));
        if let Some(found) = found {
            let node = Node {
                item: found.item,
                column: found.column.name.clone(),
            };
            return shown(level, node, found.column, alias);
        }
        let name = alias.unwrap_or_default();
        match self.free_value(expression) {
            Some(source) => OutputColumn {
                column: Column::new(&name, source.key_type.oid()),
                values: Some(Alternatives::from_slice(&[source])),
                never_null: true,
                origin: None,
            },
            None => unknown_column(&name),
        }
    }

    /// A value that stands by itself, of the type that Postgres gives it there.
    fn free_value(&mut self, expression: &Expr) -> Option<KeySource> {
        let key_type = match expression {
            Expr::Nested(inner) => return self.free_value(inner),
            Expr::UnaryOp { expr, .. } => match &**expr {
                Expr::Value(_) => self.literal_type(expr)?,
                _ => return None,
            },
            Expr::Value(_) => self.literal_type(expression)?,
            Expr::Cast { data_type, .. } => crate::value::key_type_of(data_type)?,
            Expr::TypedString(typed) => crate::value::key_type_of(&typed.data_type)?,
            _ => return None,
        };
        let source = self
            .value_reader()
            .read_as(expression, key_type, KeyUsage::Compared)
            .ok()?;
        // a parameter under a cast has the cast's type, which is what is read
        matches!(
            source.origin,
            KeyOrigin::Literal(_)
                | KeyOrigin::Negated(_)
                | KeyOrigin::Boolean(_)
                | KeyOrigin::Integer(_)
                | KeyOrigin::Parameter(_)
        )
        .then_some(source)
    }

    fn literal_type(&mut self, expression: &Expr) -> Option<KeyType> {
        use crate::lexer::LiteralKind;
        let Expr::Value(value) = expression else {
            return None;
        };
        if let Some(index) = crate::value::parameter_index(&value.value) {
            let declared = self.value_reader().declared(index)?;
            return self.subject.names.catalog.key_type(declared);
        }
        if matches!(value.value, Value::Boolean(_)) {
            return Some(KeyType::Boolean);
        }
        let slot = crate::parse::slot_of(&value.value)?;
        match self.subject.text.literal(slot)?.kind {
            LiteralKind::Integer => Some(KeyType::Int8),
            LiteralKind::Numeric => Some(KeyType::Numeric),
            LiteralKind::String | LiteralKind::EscapeString | LiteralKind::DollarString => {
                Some(KeyType::Text)
            }
            _ => None,
        }
    }

    /// Makes what is asked of a select's columns conditions of its block, where it changes nothing
    /// for the rows that are asked for.
    pub(crate) fn ask(&mut self, block: &mut Block<'_>, select: &Select, asked: &Asked) {
        if asked.is_empty() || !self.leaves_rows_alone(select) {
            return;
        }
        let Some(output) = self.projection(block, select) else {
            return;
        };
        let grouped: Option<Vec<Node>> = match &select.group_by {
            GroupByExpr::Expressions(by, sets) if sets.is_empty() => {
                let level = block.level(None);
                let nodes = by.iter().filter_map(|expression| {
                    let found = level.column(expression)?;
                    std::ptr::eq(found.level, &level).then(|| Node {
                        item: found.item,
                        column: found.column.name.clone(),
                    })
                });
                (!by.is_empty()).then(|| nodes.collect())
            }
            _ => return,
        };
        for (position, values) in asked {
            let origin = output
                .columns
                .get(*position)
                .and_then(|column| column.origin.clone());
            let Some(left) = origin else { continue };
            if grouped.as_ref().is_some_and(|nodes| !nodes.contains(&left)) {
                continue;
            }
            block.facts.push(Fact {
                scope: ALL,
                left,
                right: Operand::Values(values.clone()),
            });
        }
    }

    /// Does each row that the select gives depend on no row but its own, or those of its group?
    fn leaves_rows_alone(&self, select: &Select) -> bool {
        let aggregates =
            !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        if matches!(select.distinct, Some(Distinct::On(_)))
            || (select.having.is_some() && !aggregates)
        {
            return false;
        }
        let mut finder = CombiningCalls {
            survey: self,
            aggregates_allowed: aggregates,
        };
        select.projection.visit(&mut finder).is_continue()
            && select.named_window.visit(&mut finder).is_continue()
    }
}

/// Finds calls whose result depends on several rows.
struct CombiningCalls<'w, 's, 'a> {
    survey: &'w Survey<'s, 'a>,
    /// Within groups.
    aggregates_allowed: bool,
}

impl CombiningCalls<'_, '_, '_> {
    fn combines(&self, function: &Function) -> bool {
        if function.over.is_some() {
            return true;
        }
        let Some(name) = object_name(&function.name) else {
            return true;
        };
        let names = self.survey.subject.names;
        let aggregate = names
            .catalog
            .functions(name.schema.as_deref(), &name.name, names.search_path)
            .any(|found| matches!(found.kind, FunctionKind::Aggregate | FunctionKind::Window));
        let by_grammar = name.name.ends_with("agg");
        (aggregate || by_grammar) && !self.aggregates_allowed
    }
}

impl Visitor for CombiningCalls<'_, '_, '_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Function(function) if self.combines(function) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Adds all columns of an item; `true` where some of their names are not known.
fn all_columns(
    level: &Level<'_>,
    position: usize,
    columns: &mut Vec<OutputColumn>,
) -> Option<bool> {
    let item = level.items.get(position)?;
    let own: Vec<&Column> = match &item.columns {
        Columns::Relation(relation) => relation.columns.iter().collect(),
        Columns::Output(output) => output.columns.iter().map(|output| &output.column).collect(),
        Columns::Unknown => return None,
    };
    for column in own {
        let node = Node {
            item: position,
            column: column.name.clone(),
        };
        // of two columns of one name it cannot be said which is meant
        columns.push(match item.find_column(&column.name) {
            Some(_) => shown(level, node, column, None),
            None => unknown_column(&column.name),
        });
    }
    Some(matches!(&item.columns, Columns::Output(output) if output.is_partly_unknown))
}

/// A column of the FROM clause as the select list shows it.
fn shown(level: &Level<'_>, node: Node, column: &Column, alias: Option<String>) -> OutputColumn {
    OutputColumn {
        column: Column {
            name: alias.map_or_else(|| column.name.clone(), Into::into),
            ..column.clone()
        },
        values: level.fixed(node.item, &node.column),
        never_null: level.never_null(&node),
        origin: Some(node),
    }
}

fn unknown_column(name: &str) -> OutputColumn {
    OutputColumn {
        column: Column::new(name, 0),
        values: None,
        never_null: false,
        origin: None,
    }
}

/// The columns under the names that an alias gives them, from the first on.
pub(crate) fn renamed(output: Output, names: &[String]) -> Option<Output> {
    if names.is_empty() {
        return Some(output);
    }
    if names.len() > output.columns.len() {
        return None;
    }
    let columns: Vec<OutputColumn> = output
        .columns
        .iter()
        .enumerate()
        .map(|(position, output)| match names.get(position) {
            None => output.clone(),
            Some(name) => OutputColumn {
                column: Column {
                    name: name.as_str().into(),
                    ..output.column.clone()
                },
                ..output.clone()
            },
        })
        .collect();
    let all = names.len() == columns.len();
    Some(Output {
        columns: Rc::from(columns),
        is_partly_unknown: output.is_partly_unknown && !all,
    })
}
