//! Integer expressions of literals, worked out while planning as Postgres works them out.
//!
//! Owns the types that Postgres gives to numbers and to `+ - * / %` of them, and where they overflow:
//! an expression that Postgres would refuse has no value here. Every literal read is a guard of the
//! plan. Main function: [`integer`].

use pgherd_topology::{KeyType, KeyValue};
use sqlparser::ast::{BinaryOperator, CastKind, DataType, Expr, UnaryOperator, Value};

use crate::lexer::LiteralKind;
use crate::parse::slot_of;
use crate::tokens::StatementText;
use crate::value::key_type_of;

/// A value and the type that Postgres gives it.
#[derive(Debug, Clone, Copy)]
enum Typed {
    /// Of `smallint`, `integer` or `bigint`.
    Integer(i64, KeyType),
    /// Of `double precision`.
    Float(f64),
}

/// The whole number that an expression is, or that a column of integers stores for it (`stored`).
pub(crate) fn integer(expression: &Expr, text: &StatementText<'_>, stored: bool) -> Option<i64> {
    if !is_worked_out(expression) {
        return None;
    }
    match evaluate(expression, text)? {
        Typed::Integer(value, _) => Some(value),
        Typed::Float(value) if stored => rounded(value),
        Typed::Float(_) => None,
    }
}

/// Is the expression made of nothing but literals, signs, arithmetic and casts?
pub(crate) fn is_worked_out(expression: &Expr) -> bool {
    match expression {
        Expr::Nested(inner) => is_worked_out(inner),
        Expr::Value(value) => slot_of(&value.value).is_some(),
        Expr::UnaryOp {
            op: UnaryOperator::Minus | UnaryOperator::Plus,
            expr,
        } => is_worked_out(expr),
        Expr::BinaryOp { left, op, right } => {
            is_arithmetic(op) && is_worked_out(left) && is_worked_out(right)
        }
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
        } => is_worked_out(expr) && (is_integer(data_type).is_some() || is_float(data_type)),
        _ => false,
    }
}

fn is_arithmetic(operator: &BinaryOperator) -> bool {
    matches!(
        operator,
        BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
    )
}

fn is_integer(data_type: &DataType) -> Option<KeyType> {
    key_type_of(data_type)
        .filter(|found| matches!(found, KeyType::Int2 | KeyType::Int4 | KeyType::Int8))
}

fn is_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::DoublePrecision | DataType::Float8 => true,
        DataType::Custom(name, modifiers) => {
            modifiers.is_empty() && name.to_string().eq_ignore_ascii_case("float8")
        }
        _ => false,
    }
}

fn evaluate(expression: &Expr, text: &StatementText<'_>) -> Option<Typed> {
    match expression {
        Expr::Nested(inner) => evaluate(inner, text),
        Expr::Value(value) => number(&value.value, text, false),
        Expr::UnaryOp { op, expr } => {
            let negative = *op == UnaryOperator::Minus;
            // a minus before a number is part of it: -2147483648 is an integer
            if negative && let Some(value) = bare_number(expr) {
                return number(value, text, true);
            }
            match (evaluate(expr, text)?, negative) {
                (Typed::Integer(value, of), true) => typed(value.checked_neg()?, of),
                (Typed::Float(value), true) => Some(Typed::Float(-value)),
                (value, false) => Some(value),
            }
        }
        Expr::BinaryOp { left, op, right } => {
            let (Typed::Integer(left, one), Typed::Integer(right, other)) =
                (evaluate(left, text)?, evaluate(right, text)?)
            else {
                return None;
            };
            let value = match op {
                BinaryOperator::Plus => left.checked_add(right),
                BinaryOperator::Minus => left.checked_sub(right),
                BinaryOperator::Multiply => left.checked_mul(right),
                BinaryOperator::Divide => left.checked_div(right),
                BinaryOperator::Modulo => left.checked_rem(right),
                _ => None,
            };
            typed(value?, wider(one, other))
        }
        Expr::Cast {
            expr, data_type, ..
        } => cast(expr, data_type, text),
        _ => None,
    }
}

fn bare_number(expression: &Expr) -> Option<&Value> {
    match expression {
        Expr::Nested(inner) => bare_number(inner),
        Expr::Value(value) => matches!(value.value, Value::Number(..)).then_some(&value.value),
        _ => None,
    }
}

/// A number of the text: `integer` where it fits, else `bigint`; what is neither has no value here.
fn number(value: &Value, text: &StatementText<'_>, negative: bool) -> Option<Typed> {
    let Value::Number(..) = value else {
        return None;
    };
    let slot = slot_of(value)?;
    if text.literal(slot)?.kind != LiteralKind::Integer {
        return None;
    }
    let digits = text.literal_value(slot)?;
    let sign = if negative { "-" } else { "" };
    let value: i64 = format!("{sign}{}", std::str::from_utf8(&digits).ok()?)
        .parse()
        .ok()?;
    let of = if i32::try_from(value).is_ok() {
        KeyType::Int4
    } else {
        KeyType::Int8
    };
    Some(Typed::Integer(value, of))
}

fn cast(inner: &Expr, data_type: &DataType, text: &StatementText<'_>) -> Option<Typed> {
    let mut inner = inner;
    while let Expr::Nested(nested) = inner {
        inner = nested;
    }
    // a literal is read as the type, or as what is not an integer
    if let Expr::Value(value) = inner {
        let slot = slot_of(&value.value)?;
        let kind = text.literal(slot)?.kind;
        let read_as = match kind {
            LiteralKind::Integer => None,
            LiteralKind::Numeric => Some(KeyType::Numeric),
            LiteralKind::String | LiteralKind::EscapeString | LiteralKind::DollarString => {
                Some(is_integer(data_type).unwrap_or(KeyType::Numeric))
            }
            _ => return None,
        };
        if let Some(read_as) = read_as {
            let spelled = text.literal_value(slot)?;
            let value = read_as.value_from_text(&spelled).ok()?;
            let Some(of) = is_integer(data_type) else {
                let spelled = std::str::from_utf8(&spelled).ok()?;
                return spelled.parse().ok().map(Typed::Float);
            };
            return match value.stored(of, -1).ok()? {
                KeyValue::Integer(value) => Some(Typed::Integer(value, of)),
                _ => None,
            };
        }
    }
    match (evaluate(inner, text)?, is_integer(data_type)) {
        (Typed::Integer(value, _), Some(of)) => typed(value, of),
        (Typed::Float(value), Some(of)) => typed(rounded(value)?, of),
        // every integer of 53 bits is exact
        (Typed::Integer(value, _), None) if value.unsigned_abs() < 1 << 53 => {
            Some(Typed::Float(value as f64))
        }
        (Typed::Float(value), None) => Some(Typed::Float(value)),
        (Typed::Integer(..), None) => None,
    }
}

fn typed(value: i64, of: KeyType) -> Option<Typed> {
    let fits = match of {
        KeyType::Int2 => i16::try_from(value).is_ok(),
        KeyType::Int4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    fits.then_some(Typed::Integer(value, of))
}

fn wider(one: KeyType, other: KeyType) -> KeyType {
    if one == KeyType::Int8 || other == KeyType::Int8 {
        KeyType::Int8
    } else if one == KeyType::Int4 || other == KeyType::Int4 {
        KeyType::Int4
    } else {
        KeyType::Int2
    }
}

/// As the cast from `double precision` rounds: to the nearest, halves to the even one.
fn rounded(value: f64) -> Option<i64> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    let value = value.round_ties_even();
    (value.abs() < LIMIT).then_some(value as i64)
}
