//! Values that a key may be compared with or set to.
//!
//! Owns when a value's hash is certain to be the one of the rows it equals, or of the row that it is
//! stored in, and which type a parameter has. Never decides what follows. Main type: [`ValueReader`].

use std::collections::HashMap;

use pgherd_topology::{Catalog, Collation, Column, HashFamily, KeyType};
use sqlparser::ast::{
    ArrayElemTypeDef, CastKind, DataType, ExactNumberInfo, Expr, ObjectName, ObjectNamePart,
    TimezoneInfo, UnaryOperator, Value,
};

use crate::constant;
use crate::lexer::LiteralKind;
use crate::parse::{fold, slot_of};
use crate::plan::{KeyOrigin, KeySource, KeyUsage};
use crate::tokens::StatementText;

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

    /// Takes back what was noted of a parameter that is this expression.
    pub(crate) fn forget(&mut self, expression: &Expr) {
        match expression {
            Expr::Nested(inner) => self.forget(inner),
            expression => {
                let place = std::ptr::from_ref(expression).addr();
                for uses in self.uses.values_mut() {
                    uses.remove(&place);
                }
            }
        }
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

    pub(crate) fn read_as(
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
                    let key_type = self.parameter(index, expression, column, usage)?;
                    Ok(source(KeyOrigin::Parameter(index), key_type))
                }
                Value::Boolean(value) if column == KeyType::Boolean => {
                    Ok(source(KeyOrigin::Boolean(*value), KeyType::Boolean))
                }
                Value::Null => Err("is compared with NULL, which nothing equals".into()),
                literal => {
                    let (slot, key_type) = self.literal(literal, column, usage)?;
                    Ok(source(KeyOrigin::Literal(slot), key_type))
                }
            },
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } if number_literal(expr).is_some() => {
                let literal = number_literal(expr).ok_or(NOT_A_VALUE)?;
                let (slot, key_type) = self.literal(literal, column, usage)?;
                Ok(source(KeyOrigin::Negated(slot), key_type))
            }
            Expr::UnaryOp { .. } | Expr::BinaryOp { .. } => {
                self.constant(expression, column, usage)
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                let cast = self.cast(expr, data_type, column, usage);
                match cast {
                    Err(_) if constant::is_worked_out(expression) => {
                        self.constant(expression, column, usage).or(cast)
                    }
                    cast => cast,
                }
            }
            Expr::TypedString(typed) => {
                let cast = self.cast_type(&typed.data_type, column)?;
                let slot = slot_of(&typed.value.value).ok_or(NOT_A_VALUE)?;
                Ok(source(KeyOrigin::Literal(slot), cast))
            }
            Expr::Collate { .. } => Err("is compared under a COLLATE clause".into()),
            _ => Err(NOT_A_VALUE.into()),
        }
    }

    /// An expression of literals and operators, worked out as Postgres does.
    fn constant(
        &self,
        expression: &Expr,
        column: KeyType,
        usage: KeyUsage,
    ) -> Result<KeySource, String> {
        let stored = matches!(usage, KeyUsage::Stored { .. });
        let value = match column.hash_family() {
            HashFamily::Integer => constant::integer(expression, self.text, stored),
            _ => None,
        };
        let value = value.ok_or(NOT_A_VALUE)?;
        Ok(KeySource {
            origin: KeyOrigin::Integer(value),
            key_type: KeyType::Int8,
            usage,
        })
    }

    fn literal(
        &self,
        literal: &Value,
        column: KeyType,
        usage: KeyUsage,
    ) -> Result<(u32, KeyType), String> {
        let slot = slot_of(literal).ok_or(NOT_A_VALUE)?;
        let kind = self.text.literal(slot).ok_or(NOT_A_VALUE)?.kind;
        let key_type = match (kind, column.hash_family()) {
            (LiteralKind::Integer, HashFamily::Integer) => KeyType::Int8,
            (LiteralKind::Integer | LiteralKind::Numeric, HashFamily::Numeric) => KeyType::Numeric,
            // what is stored is rounded by the assignment cast
            (LiteralKind::Numeric, HashFamily::Integer)
                if matches!(usage, KeyUsage::Stored { .. }) =>
            {
                KeyType::Numeric
            }
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
        usage: KeyUsage,
    ) -> Result<KeyType, String> {
        let stored = matches!(usage, KeyUsage::Stored { .. });
        let fits = |declared: &KeyType| {
            let converted = matches!(
                (declared.hash_family(), column.hash_family()),
                (HashFamily::Numeric, HashFamily::Integer)
                    | (HashFamily::Integer, HashFamily::Numeric)
            );
            declared.hash_family() == column.hash_family() || (stored && converted)
        };
        match self.declared(index) {
            None => {
                self.uses.note(index, expression, inferred_oid(column));
                Ok(column)
            }
            Some(oid) => self.catalog.key_type(oid).filter(fits).ok_or_else(|| {
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
                    let (slot, _) = self.literal(literal, cast, KeyUsage::Compared)?;
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
        let cast = match data_type {
            DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)) => {
                key_type_of(element).map(array_oid)
            }
            data_type => key_type_of(data_type).map(inferred_oid),
        };
        if let (Expr::Value(value), Some(cast)) = (inner, cast)
            && let Some(index) = parameter_index(&value.value)
        {
            self.uses.note(index, inner, cast);
        }
    }
}

/// The number that an expression is, parentheses removed.
fn number_literal(expression: &Expr) -> Option<&Value> {
    match expression {
        Expr::Nested(inner) => number_literal(inner),
        Expr::Value(value) if matches!(value.value, Value::Number(..)) => Some(&value.value),
        _ => None,
    }
}

pub(crate) const NOT_A_VALUE: &str = "is not compared with a plain value";

/// The type that Postgres gives to an undeclared parameter beside a column of a type: `varchar` has
/// no operators of its own and compares as `text`.
pub(crate) fn inferred_oid(key_type: KeyType) -> u32 {
    match key_type {
        KeyType::Varchar => KeyType::Text.oid(),
        other => other.oid(),
    }
}

/// The type that Postgres gives to an undeclared parameter in `column = ANY ($1)`: the array of the
/// type that the comparison is made in.
pub(crate) fn array_oid(element: KeyType) -> u32 {
    match element {
        KeyType::Boolean => 1000,
        KeyType::Bytea => 1001,
        KeyType::Int2 => 1005,
        KeyType::Int4 => 1007,
        KeyType::Text | KeyType::Varchar => 1009,
        KeyType::Bpchar => 1014,
        KeyType::Int8 => 1016,
        KeyType::Timestamp => 1115,
        KeyType::Date => 1182,
        KeyType::Timestamptz => 1185,
        KeyType::Numeric => 1231,
        KeyType::Uuid => 2951,
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
pub(crate) fn key_type_of(data_type: &DataType) -> Option<KeyType> {
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
