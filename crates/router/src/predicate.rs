//! What conditions prove about columns: which key is fixed to which value.
//!
//! Owns the reading of conjuncts, the chain of equalities that leads from a key column to a literal or
//! a parameter, and when a value's hash is certain to be the one of the rows it equals. Never decides
//! what follows for the statement. Main types: [`Level`], [`Fact`].
//!
//! # Why a chain proves
//! A fact is an equality of a top-level conjunct, with the range of tables for which it holds: whenever
//! a row of such a table is part of a row of the result, the equality was true there. WHERE and the
//! conditions of inner joins hold for all tables; the condition of an outer join, and whatever joins
//! lie within its nullable side, only for the tables of that side. Where all links of a chain hold
//! for a table and the chain ends in a value, rows of that table with another key are in no row of
//! the result, and a shard without them answers the same.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use pgherd_topology::{Catalog, Collation, Column, HashFamily, KeyType, Relation, TableRule};
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, ObjectName, ObjectNamePart,
    TimezoneInfo, UnaryOperator, Value,
};

use crate::lexer::LiteralKind;
use crate::parse::{fold, slot_of};
use crate::plan::{KeyOrigin, KeySource, KeyUsage};
use crate::tokens::StatementText;

/// A table of a FROM clause.
#[derive(Debug, Clone)]
pub(crate) struct Item<'l> {
    /// The name by which columns are qualified.
    pub(crate) alias: String,
    /// Set where the table has no alias: `schema.table.column` means it too.
    pub(crate) schema: Option<String>,
    /// `None` where the columns are not known: a subquery, a function, renamed columns.
    pub(crate) relation: Option<&'l Relation>,
    /// Set for a sharded table.
    pub(crate) rule: Option<Arc<TableRule>>,
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
    Value(KeySource),
}

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
        let mut unknown_columns = false;
        for item in self.visible.clone() {
            match self.items.get(item)?.relation {
                Some(relation) => {
                    if let Some(column) = relation.find_column(name) {
                        found.push((item, column));
                    }
                }
                None => unknown_columns = true,
            }
        }
        match found.as_slice() {
            [] if unknown_columns => None,
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
        let column = self.items[item].relation?.find_column(name)?;
        Some(Resolved {
            level: self,
            item,
            column,
        })
    }

    /// The value that a column is fixed to, wherever its table's rows are part of a result row.
    pub(crate) fn fixed(&self, item: usize, column: &str) -> Option<KeySource> {
        let start = Node {
            item,
            column: column.into(),
        };
        let mut seen = vec![start];
        let mut next = 0;
        while next < seen.len() {
            let node = seen[next].clone();
            next += 1;
            for fact in self.facts.iter().filter(|fact| fact.scope.contains(&item)) {
                let other = match &fact.right {
                    Operand::Value(source) if fact.left == node => return Some(*source),
                    Operand::Value(_) => continue,
                    Operand::Node(right) if fact.left == node => right,
                    Operand::Node(right) if *right == node => &fact.left,
                    Operand::Node(_) => continue,
                };
                if !seen.contains(other) {
                    seen.push(other.clone());
                }
            }
        }
        None
    }
}

/// The uses of parameters whose type no Parse declared: it is what their first use gives them, so it
/// is certain only where every use gives the same.
#[derive(Debug, Default)]
pub(crate) struct ParameterUses {
    /// For each parameter: the place of each use, and the type it gives.
    uses: HashMap<u16, HashMap<usize, u32>>,
}

impl ParameterUses {
    pub(crate) fn note(&mut self, index: u16, expression: &Expr, type_oid: u32) {
        let place = std::ptr::from_ref(expression).addr();
        self.uses.entry(index).or_default().insert(place, type_oid);
    }

    /// Do all `occurrences` of the parameter give it this one type?
    pub(crate) fn agree(&self, index: u16, type_oid: u32, occurrences: usize) -> bool {
        self.uses.get(&index).is_some_and(|uses| {
            uses.len() == occurrences && uses.values().all(|found| *found == type_oid)
        })
    }
}

/// Reads values that a key may be compared with or set to.
pub(crate) struct ValueReader<'v, 'a> {
    pub(crate) text: &'v StatementText<'a>,
    pub(crate) catalog: &'v Catalog,
    pub(crate) parameter_types: &'v [u32],
    pub(crate) uses: &'v mut ParameterUses,
}

impl ValueReader<'_, '_> {
    /// The value of an expression beside a column, if its hash is certain to be the one of the
    /// column's equal values.
    ///
    /// # Errors
    /// The end of a sentence that begins with the column: "is compared with ...".
    pub(crate) fn read(
        &mut self,
        expression: &Expr,
        column: &Column,
        usage: KeyUsage,
    ) -> Result<KeySource, String> {
        let key_type = self
            .catalog
            .key_type(column.type_oid)
            .ok_or("is of a type that cannot be a sharding key")?;
        if column.collation == Collation::Nondeterministic {
            return Err("has a collation under which different texts are equal".into());
        }
        self.read_as(expression, key_type, usage)
    }

    fn read_as(
        &mut self,
        expression: &Expr,
        column: KeyType,
        usage: KeyUsage,
    ) -> Result<KeySource, String> {
        let source = |origin, key_type| KeySource {
            origin,
            key_type,
            usage,
        };
        match expression {
            Expr::Nested(inner) => self.read_as(inner, column, usage),
            Expr::Value(value) => match &value.value {
                Value::Placeholder(_) => {
                    let index = parameter_index(&value.value).ok_or("is compared with ?")?;
                    let key_type = self.parameter(index, expression, column)?;
                    Ok(source(KeyOrigin::Parameter(index), key_type))
                }
                Value::Boolean(value) if column == KeyType::Boolean => {
                    Ok(source(KeyOrigin::Boolean(*value), KeyType::Boolean))
                }
                Value::Null => Err("is compared with NULL, which nothing equals".into()),
                literal => {
                    let (slot, key_type) = self.literal(literal, column)?;
                    Ok(source(KeyOrigin::Literal(slot), key_type))
                }
            },
            Expr::UnaryOp { op, expr } => match (op, &**expr) {
                (UnaryOperator::Minus, Expr::Value(value))
                    if matches!(value.value, Value::Number(..)) =>
                {
                    let (slot, key_type) = self.literal(&value.value, column)?;
                    Ok(source(KeyOrigin::Negated(slot), key_type))
                }
                _ => Err(NOT_A_VALUE.into()),
            },
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => self.cast(expr, data_type, column, usage),
            Expr::TypedString(typed) => {
                let cast = self.cast_type(&typed.data_type, column)?;
                let slot = slot_of(&typed.value.value).ok_or(NOT_A_VALUE)?;
                Ok(source(KeyOrigin::Literal(slot), cast))
            }
            Expr::Collate { .. } => Err("is compared under a COLLATE clause".into()),
            _ => Err(NOT_A_VALUE.into()),
        }
    }

    fn literal(&self, literal: &Value, column: KeyType) -> Result<(u32, KeyType), String> {
        let slot = slot_of(literal).ok_or(NOT_A_VALUE)?;
        let kind = self.text.literal(slot).ok_or(NOT_A_VALUE)?.kind;
        let key_type = match (kind, column.hash_family()) {
            (LiteralKind::Integer, HashFamily::Integer) => KeyType::Int8,
            (LiteralKind::Integer | LiteralKind::Numeric, HashFamily::Numeric) => KeyType::Numeric,
            (LiteralKind::Numeric, HashFamily::Integer) => {
                return Err(
                    "is compared with a number that is no integer: another type's equality holds"
                        .into(),
                );
            }
            (
                LiteralKind::String
                | LiteralKind::EscapeString
                | LiteralKind::UnicodeString
                | LiteralKind::DollarString,
                _,
            ) => column,
            _ => {
                return Err(format!(
                    "is of type {column}, and the literal is of another"
                ));
            }
        };
        Ok((slot, key_type))
    }

    /// The type of a parameter beside a column.
    fn parameter(
        &mut self,
        index: u16,
        expression: &Expr,
        column: KeyType,
    ) -> Result<KeyType, String> {
        match self.declared(index) {
            None => {
                self.uses.note(index, expression, inferred_oid(column));
                Ok(column)
            }
            Some(oid) => self
                .catalog
                .key_type(oid)
                .filter(|declared| declared.hash_family() == column.hash_family())
                .ok_or_else(|| {
                    let number = u32::from(index) + 1;
                    format!("is of type {column}, and ${number} is declared as another")
                }),
        }
    }

    /// The type that Parse declared for a parameter.
    pub(crate) fn declared(&self, index: u16) -> Option<u32> {
        const UNKNOWN: u32 = 705;
        self.parameter_types
            .get(usize::from(index))
            .copied()
            .filter(|oid| !matches!(*oid, 0 | UNKNOWN))
    }

    fn cast_type(&self, data_type: &DataType, column: KeyType) -> Result<KeyType, String> {
        key_type_of(data_type)
            .filter(|cast| cast.hash_family() == column.hash_family())
            .ok_or_else(|| format!("is of type {column}, and the value is cast to another"))
    }

    fn cast(
        &mut self,
        inner: &Expr,
        data_type: &DataType,
        column: KeyType,
        usage: KeyUsage,
    ) -> Result<KeySource, String> {
        let cast = self.cast_type(data_type, column)?;
        let source = |origin, key_type| KeySource {
            origin,
            key_type,
            usage,
        };
        match inner {
            Expr::Nested(inner) => self.cast(inner, data_type, column, usage),
            Expr::Value(value) => match &value.value {
                Value::Placeholder(_) => {
                    let index = parameter_index(&value.value).ok_or(NOT_A_VALUE)?;
                    let key_type = self.parameter_under_cast(index, inner, cast)?;
                    Ok(source(KeyOrigin::Parameter(index), key_type))
                }
                Value::Null | Value::Boolean(_) => Err(NOT_A_VALUE.into()),
                literal => {
                    let (slot, _) = self.literal(literal, cast)?;
                    Ok(source(KeyOrigin::Literal(slot), cast))
                }
            },
            _ => Err(NOT_A_VALUE.into()),
        }
    }

    /// The type that a parameter's bytes have where it is cast: its declared type, or the cast's.
    fn parameter_under_cast(
        &mut self,
        index: u16,
        expression: &Expr,
        cast: KeyType,
    ) -> Result<KeyType, String> {
        let Some(oid) = self.declared(index) else {
            self.uses.note(index, expression, inferred_oid(cast));
            return Ok(cast);
        };
        // within the family a cast keeps the value, or fails
        self.catalog
            .key_type(oid)
            .filter(|declared| declared.hash_family() == cast.hash_family())
            .ok_or_else(|| "is compared with a parameter that a cast converts".into())
    }

    /// Notes the type that a column gives to a parameter beside it.
    pub(crate) fn note_beside(&mut self, expression: &Expr, column: &Column) {
        match expression {
            Expr::Nested(inner) => self.note_beside(inner, column),
            Expr::Value(value) => {
                if let Some(index) = parameter_index(&value.value) {
                    let oid = self
                        .catalog
                        .key_type(column.type_oid)
                        .map_or(column.type_oid, inferred_oid);
                    self.uses.note(index, expression, oid);
                }
            }
            _ => {}
        }
    }

    /// Notes the type that a cast gives to a parameter under it.
    pub(crate) fn note_cast(&mut self, inner: &Expr, data_type: &DataType) {
        if let (Expr::Value(value), Some(cast)) = (inner, key_type_of(data_type))
            && let Some(index) = parameter_index(&value.value)
        {
            self.uses.note(index, inner, inferred_oid(cast));
        }
    }
}

const NOT_A_VALUE: &str = "is not compared with a plain value";

/// The type that Postgres gives to an undeclared parameter beside a column of a type: `varchar` has
/// no operators of its own and compares as `text`.
pub(crate) fn inferred_oid(key_type: KeyType) -> u32 {
    match key_type {
        KeyType::Varchar => KeyType::Text.oid(),
        other => other.oid(),
    }
}

/// From 0: `$1` is 0.
pub(crate) fn parameter_index(value: &Value) -> Option<u16> {
    let Value::Placeholder(text) = value else {
        return None;
    };
    text.strip_prefix('$')?.parse::<u16>().ok()?.checked_sub(1)
}

/// The key type that a type's name means, without modifiers.
fn key_type_of(data_type: &DataType) -> Option<KeyType> {
    Some(match data_type {
        DataType::SmallInt(None) | DataType::Int2(None) => KeyType::Int2,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => KeyType::Int4,
        DataType::BigInt(None) | DataType::Int8(None) => KeyType::Int8,
        DataType::Text => KeyType::Text,
        DataType::Varchar(None)
        | DataType::CharacterVarying(None)
        | DataType::CharVarying(None) => KeyType::Varchar,
        DataType::Uuid => KeyType::Uuid,
        DataType::Bytea => KeyType::Bytea,
        DataType::Date => KeyType::Date,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            KeyType::Timestamp
        }
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            KeyType::Timestamptz
        }
        DataType::Numeric(ExactNumberInfo::None)
        | DataType::Decimal(ExactNumberInfo::None)
        | DataType::Dec(ExactNumberInfo::None) => KeyType::Numeric,
        DataType::Bool | DataType::Boolean => KeyType::Boolean,
        DataType::Custom(name, modifiers) if modifiers.is_empty() => custom_key_type(name)?,
        _ => return None,
    })
}

/// `pg_catalog.int8` and the like.
fn custom_key_type(name: &ObjectName) -> Option<KeyType> {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(fold(ident)),
            ObjectNamePart::Function(_) => None,
        })
        .collect::<Option<_>>()?;
    let name = match parts.as_slice() {
        [name] => name,
        [schema, name] if schema == "pg_catalog" => name,
        _ => return None,
    };
    Some(match name.as_str() {
        "int2" => KeyType::Int2,
        "int4" => KeyType::Int4,
        "int8" => KeyType::Int8,
        "text" => KeyType::Text,
        "varchar" => KeyType::Varchar,
        "uuid" => KeyType::Uuid,
        "bytea" => KeyType::Bytea,
        "date" => KeyType::Date,
        "timestamp" => KeyType::Timestamp,
        "timestamptz" => KeyType::Timestamptz,
        "numeric" => KeyType::Numeric,
        "bool" => KeyType::Boolean,
        _ => return None,
    })
}

/// The top-level conjuncts of a condition, parentheses removed.
pub(crate) fn conjuncts(condition: &Expr) -> Vec<&Expr> {
    let mut found = Vec::new();
    let mut open = vec![condition];
    while let Some(expression) = open.pop() {
        match expression {
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => {
                open.push(right);
                open.push(left);
            }
            other => found.push(other),
        }
    }
    found
}

/// The two sides of an equality: `a = b`, or `a IN (b)`.
pub(crate) fn equality(conjunct: &Expr) -> Option<(&Expr, &Expr)> {
    match conjunct {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => Some((left, right)),
        Expr::InList {
            expr,
            list,
            negated: false,
        } => match list.as_slice() {
            [only] => Some((expr, only)),
            _ => None,
        },
        _ => None,
    }
}
