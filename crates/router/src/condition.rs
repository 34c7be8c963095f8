//! Conditions: which equalities their top-level conjuncts prove.
//!
//! Owns the forms that an equality may have: `=`, IN, ANY, rows, OR of equalities on one column, and
//! membership in a subquery. A form that is not here proves nothing. Main type: [`Sight`].

use std::ops::Range;

use pgherd_topology::{Collation, Column, HashFamily, KeyType};
use sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, Query, UnaryOperator, Value,
};

use crate::from::Block;
use crate::lexer::LiteralKind;
use crate::output::address;
use crate::parse::slot_of;
use crate::plan::{KeyOrigin, KeySource, KeyUsage};
use crate::predicate::{Alternatives, Fact, Level, MAX_ALTERNATIVES, Node, Operand};
use crate::survey::{Ctes, Survey, object_name};
use crate::value::{NOT_A_VALUE, array_oid, key_type_of, parameter_index};

/// What a condition sees, and for which tables it holds.
#[derive(Clone)]
pub(crate) struct Sight<'p> {
    /// The items of the block that it may name.
    pub(crate) visible: Range<usize>,
    /// The items whose rows are part of a result row only where it is true.
    pub(crate) scope: Range<usize>,
    pub(crate) parent: Option<&'p Level<'p>>,
    pub(crate) ctes: &'p Ctes<'p>,
}

impl<'s> Survey<'s, '_> {
    /// Adds the equalities of a condition's conjuncts.
    pub(crate) fn facts(&mut self, block: &mut Block<'_>, condition: &Expr, sight: &Sight<'_>) {
        for conjunct in operands(condition, &BinaryOperator::And) {
            self.conjunct(block, conjunct, sight);
        }
    }

    fn conjunct(&mut self, block: &mut Block<'_>, conjunct: &Expr, sight: &Sight<'_>) {
        match conjunct {
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => self.equality(block, left, right, sight),
            Expr::BinaryOp {
                op: BinaryOperator::Or,
                ..
            } => self.alternatives(block, conjunct, sight),
            Expr::InList {
                expr,
                list,
                negated: false,
            } => self.in_list(block, expr, list, sight),
            Expr::InSubquery {
                expr,
                subquery,
                negated: false,
            } => self.in_subquery(block, expr, subquery, sight),
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => self.any_of(block, left, right, sight),
            Expr::IsTrue(inner) => self.facts(block, inner, sight),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => self.boolean(block, expr, false, sight),
            column => self.boolean(block, column, true, sight),
        }
    }

    /// `flag` and `NOT flag`.
    fn boolean(&mut self, block: &mut Block<'_>, column: &Expr, is: bool, sight: &Sight<'_>) {
        let Some(found) = self.here(block, column, sight) else {
            return;
        };
        let key_type = self.subject.names.catalog.key_type(found.column.type_oid);
        if key_type == Some(KeyType::Boolean) {
            let source = KeySource {
                origin: KeyOrigin::Boolean(is),
                key_type: KeyType::Boolean,
                usage: KeyUsage::Compared,
            };
            fix(
                block,
                found.node,
                Alternatives::from_slice(&[source]),
                sight,
            );
        }
    }

    fn equality(&mut self, block: &mut Block<'_>, one: &Expr, other: &Expr, sight: &Sight<'_>) {
        if let (Some(ones), Some(others)) = (row(one), row(other)) {
            if ones.len() == others.len() {
                for (one, other) in ones.into_iter().zip(others) {
                    self.equality(block, one, other, sight);
                }
            }
            return;
        }
        for (side, beside) in [(one, other), (other, one)] {
            if let Expr::Subquery(query) = beside {
                self.in_subquery(block, side, query, sight);
            } else {
                self.fact(block, side, beside, sight);
            }
        }
    }

    fn fact(&mut self, block: &mut Block<'_>, side: &Expr, beside: &Expr, sight: &Sight<'_>) {
        let Some(found) = self.here(block, side, sight) else {
            return;
        };
        let level = block.level_of(sight.visible.clone(), sight.parent);
        match Seen::of(&level, beside) {
            Some(other) if other.is_here => {
                self.equate(block, found.node, other.node, sight.scope.clone());
            }
            Some(other) => {
                // a column of a block around this one: fixed there, it is a value here
                let same = self.same_family(&found.column, &other.column);
                if let (Some(values), true) = (other.fixed, same) {
                    fix(block, found.node, values, sight);
                }
            }
            None => {
                self.value_reader().note_beside(beside, &found.column);
                match self.value(beside, &found.column, KeyUsage::Compared) {
                    Ok(source) => {
                        fix(
                            block,
                            found.node,
                            Alternatives::from_slice(&[source]),
                            sight,
                        );
                    }
                    Err(why) => block.notes.push((found.node, why)),
                }
            }
        }
    }

    /// `a OR b OR c`: a column that every branch fixes has one of all their values.
    fn alternatives(&mut self, block: &mut Block<'_>, condition: &Expr, sight: &Sight<'_>) {
        let mut common: Option<Vec<(Node, Alternatives)>> = None;
        for branch in operands(condition, &BinaryOperator::Or) {
            let (start, members) = (block.facts.len(), block.members.len());
            self.facts(block, branch, sight);
            block.members.truncate(members);
            let fixed: Vec<(Node, Alternatives)> = block
                .facts
                .drain(start..)
                .filter_map(|fact| match fact.right {
                    Operand::Values(values) => Some((fact.left, values)),
                    Operand::Node(_) => None,
                })
                .collect();
            common = Some(match common {
                None => fixed,
                Some(common) => common
                    .into_iter()
                    .filter_map(|(node, mut values)| {
                        let (_, more) = fixed.iter().find(|(other, _)| *other == node)?;
                        for source in more {
                            if !values.contains(source) {
                                values.push(*source);
                            }
                        }
                        (values.len() <= MAX_ALTERNATIVES).then_some((node, values))
                    })
                    .collect(),
            });
        }
        for (node, values) in common.unwrap_or_default() {
            fix(block, node, values, sight);
        }
    }

    fn in_list(&mut self, block: &mut Block<'_>, expr: &Expr, list: &[Expr], sight: &Sight<'_>) {
        if let [only] = list {
            return self.equality(block, expr, only, sight);
        }
        let Some(left) = row(expr) else {
            let list: Vec<&Expr> = list.iter().collect();
            return self.one_of(block, expr, &list, sight);
        };
        let rows: Option<Vec<Vec<&Expr>>> = list
            .iter()
            .map(|element| row(element).filter(|row| row.len() == left.len()))
            .collect();
        let Some(rows) = rows else { return };
        for (position, column) in left.into_iter().enumerate() {
            let list: Vec<&Expr> = rows.iter().map(|row| row[position]).collect();
            self.one_of(block, column, &list, sight);
        }
    }

    /// `column IN (values)`: known only where every one is.
    fn one_of(&mut self, block: &mut Block<'_>, column: &Expr, list: &[&Expr], sight: &Sight<'_>) {
        let Some(found) = self.here(block, column, sight) else {
            return;
        };
        if list.len() > MAX_ALTERNATIVES {
            let why = format!("is compared with more than {MAX_ALTERNATIVES} values");
            return block.notes.push((found.node, why));
        }
        let mut values = Alternatives::new();
        for element in list.iter().filter(|element| !is_null(element)) {
            match self.value(element, &found.column, KeyUsage::Compared) {
                Ok(source) => values.push(source),
                Err(why) => {
                    // the list's type may be another one then, and its parameters' too
                    for element in list {
                        self.uses.forget(element);
                    }
                    return block.notes.push((found.node, why));
                }
            }
        }
        fix(block, found.node, values, sight);
    }

    /// `column = ANY (...)`.
    fn any_of(&mut self, block: &mut Block<'_>, left: &Expr, right: &Expr, sight: &Sight<'_>) {
        match right {
            Expr::Nested(inner) => self.any_of(block, left, inner, sight),
            Expr::Subquery(query) => self.in_subquery(block, left, query, sight),
            // by itself an array has the type of its elements, not of the column
            Expr::Array(array) if array.elem.iter().all(|element| self.has_own_type(element)) => {
                let list: Vec<&Expr> = array.elem.iter().collect();
                self.one_of(block, left, &list, sight);
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)),
                format: None,
            } if matches!(&**expr, Expr::Array(_)) => {
                let cast = key_type_of(element).map(KeyType::hash_family);
                let column = self.here(block, left, sight).and_then(|found| {
                    self.subject
                        .names
                        .catalog
                        .key_type(found.column.type_oid)
                        .map(KeyType::hash_family)
                });
                if let (Expr::Array(array), true) = (&**expr, cast.is_some() && cast == column) {
                    let list: Vec<&Expr> = array.elem.iter().collect();
                    self.one_of(block, left, &list, sight);
                }
            }
            array => {
                let Some(found) = self.here(block, left, sight) else {
                    return;
                };
                match self.array(array, &found.column) {
                    Ok(source) => {
                        fix(
                            block,
                            found.node,
                            Alternatives::from_slice(&[source]),
                            sight,
                        );
                    }
                    Err(why) => block.notes.push((found.node, why)),
                }
            }
        }
    }

    /// Has an element of ARRAY a type without the column's help? A text is taken for one of `text`.
    fn has_own_type(&self, element: &Expr) -> bool {
        match element {
            Expr::Nested(inner) => self.has_own_type(inner),
            Expr::UnaryOp { expr, .. } => self.has_own_type(expr),
            Expr::Value(value) => slot_of(&value.value)
                .and_then(|slot| self.subject.text.literal(slot))
                .is_some_and(|literal| {
                    matches!(literal.kind, LiteralKind::Integer | LiteralKind::Numeric)
                }),
            Expr::Cast { .. } | Expr::TypedString(_) => true,
            _ => false,
        }
    }

    /// An array literal or parameter beside a column.
    fn array(&mut self, expression: &Expr, column: &Column) -> Result<KeySource, String> {
        let key_type = self
            .subject
            .names
            .catalog
            .key_type(column.type_oid)
            .filter(|_| column.collation != Collation::Nondeterministic)
            .ok_or("is of a type or collation that cannot be a sharding key")?;
        let (value, element, place) = match expression {
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)),
                format: None,
            } => {
                let cast = key_type_of(element)
                    .filter(|cast| cast.hash_family() == key_type.hash_family())
                    .ok_or("is compared with an array of another type")?;
                (&**expr, cast, &**expr)
            }
            value => (value, key_type, value),
        };
        let Expr::Value(value) = value else {
            return Err(NOT_A_VALUE.into());
        };
        let source = |origin, key_type| KeySource {
            origin,
            key_type,
            usage: KeyUsage::Compared,
        };
        if let Some(index) = parameter_index(&value.value) {
            return match self.value_reader().declared(index) {
                None => {
                    self.uses.note(index, place, array_oid(element));
                    Ok(source(KeyOrigin::ArrayParameter(index), element))
                }
                Some(oid) => KeyType::ALL
                    .into_iter()
                    .find(|declared| {
                        array_oid(*declared) == oid
                            && declared.hash_family() == key_type.hash_family()
                    })
                    .map(|declared| source(KeyOrigin::ArrayParameter(index), declared))
                    .ok_or_else(|| "is compared with an array of another type".into()),
            };
        }
        let slot = slot_of(&value.value).ok_or(NOT_A_VALUE)?;
        let kind = self.subject.text.literal(slot).map(|literal| literal.kind);
        match kind {
            Some(LiteralKind::String | LiteralKind::EscapeString | LiteralKind::DollarString)
                if element.hash_family() != HashFamily::Bpchar =>
            {
                Ok(source(KeyOrigin::ArrayLiteral(slot), element))
            }
            _ => Err(NOT_A_VALUE.into()),
        }
    }

    /// `column IN (SELECT ...)`, `column = (SELECT ...)`: the column has a value that the subquery
    /// gives, and only what the column may be matters of the subquery.
    fn in_subquery(
        &mut self,
        block: &mut Block<'_>,
        left: &Expr,
        query: &Query,
        sight: &Sight<'_>,
    ) {
        let Some(output) = self.outputs(query, sight.ctes) else {
            return;
        };
        let left = row(left).unwrap_or_else(|| vec![left]);
        if left.len() != output.columns.len() {
            return;
        }
        for (position, (column, output)) in left.into_iter().zip(&*output.columns).enumerate() {
            let Some(found) = self.here(block, column, sight) else {
                continue;
            };
            if !self.same_family(&found.column, &output.column) {
                continue;
            }
            match &output.values {
                Some(values) => fix(block, found.node, values.clone(), sight),
                None => block.members.push((address(query), position, found.node)),
            }
        }
    }

    /// Adds `left = right`, if it compares by the hash family of both.
    pub(crate) fn equate(
        &self,
        block: &mut Block<'_>,
        left: Node,
        right: Node,
        scope: Range<usize>,
    ) {
        let column = |node: &Node| {
            block
                .items
                .get(node.item)
                .and_then(|item| item.find_column(&node.column))
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

    /// Do the columns' types compare by one hash family's `=`?
    pub(crate) fn same_family(&self, one: &Column, other: &Column) -> bool {
        let family = |column: &Column| {
            (column.collation != Collation::Nondeterministic)
                .then(|| self.subject.names.catalog.key_type(column.type_oid))
                .flatten()
                .map(|key_type| key_type.hash_family())
        };
        matches!((family(one), family(other)), (Some(one), Some(other)) if one == other)
    }

    /// The column of this block that an expression is.
    fn here(&self, block: &Block<'_>, expression: &Expr, sight: &Sight<'_>) -> Option<Seen> {
        let level = block.level_of(sight.visible.clone(), sight.parent);
        Seen::of(&level, expression).filter(|seen| seen.is_here)
    }
}

fn fix(block: &mut Block<'_>, left: Node, values: Alternatives, sight: &Sight<'_>) {
    block.facts.push(Fact {
        scope: sight.scope.clone(),
        left,
        right: Operand::Values(values),
    });
}

/// A column that a condition names, cut loose from the block.
struct Seen {
    node: Node,
    column: Column,
    /// It belongs to this block, not to one around it.
    is_here: bool,
    /// For a column of a block around: what it is fixed to there.
    fixed: Option<Alternatives>,
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
            node: Node {
                item: found.item,
                column: found.column.name.clone(),
            },
            column: found.column.clone(),
            is_here,
            fixed,
        })
    }
}

/// The parts of a row: `(a, b)` or `ROW(a, b)`.
fn row(expression: &Expr) -> Option<Vec<&Expr>> {
    match expression {
        Expr::Tuple(parts) => Some(parts.iter().collect()),
        Expr::Function(function) => row_call(function),
        _ => None,
    }
}

fn row_call(function: &Function) -> Option<Vec<&Expr>> {
    let name = object_name(&function.name).filter(|name| name.schema.is_none())?;
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    if name.name != "row" || !list.clauses.is_empty() || list.duplicate_treatment.is_some() {
        return None;
    }
    list.args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
            _ => None,
        })
        .collect()
}

/// The operands of a chain of AND or of OR, parentheses removed.
fn operands<'e>(condition: &'e Expr, operator: &BinaryOperator) -> Vec<&'e Expr> {
    let mut found = Vec::new();
    let mut open = vec![condition];
    while let Some(expression) = open.pop() {
        match expression {
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp { left, op, right } if op == operator => {
                open.push(right);
                open.push(left);
            }
            other => found.push(other),
        }
    }
    found
}

/// NULL in a list finds no more rows.
fn is_null(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if matches!(value.value, Value::Null))
}
