//! The binary formats of key types, as their receive functions read them.
//!
//! Owns the fixed layouts; numeric has a file of its own. Lengths must match exactly: Postgres
//! refuses left-over bytes too.

use std::borrow::Cow;

use super::datetime;
use super::text::{check_text, without_trailing_blanks};
use super::{KeyError, KeyType, KeyValue, Numeric};

/// Reads one value; see [`KeyType::value_from_binary`].
pub(super) fn read(key_type: KeyType, bytes: &[u8]) -> Result<KeyValue<'_>, KeyError> {
    match key_type {
        KeyType::Int2 => fixed(key_type, bytes)
            .map(|bytes| KeyValue::Integer(i64::from(i16::from_be_bytes(bytes)))),
        KeyType::Int4 => fixed(key_type, bytes)
            .map(|bytes| KeyValue::Integer(i64::from(i32::from_be_bytes(bytes)))),
        KeyType::Int8 => {
            fixed(key_type, bytes).map(|bytes| KeyValue::Integer(i64::from_be_bytes(bytes)))
        }
        KeyType::Text | KeyType::Varchar => {
            check_text(key_type, bytes).map(|()| KeyValue::Text(Cow::Borrowed(bytes)))
        }
        KeyType::Bpchar => check_text(key_type, bytes)
            .map(|()| KeyValue::Bpchar(Cow::Borrowed(without_trailing_blanks(bytes)))),
        KeyType::Uuid => fixed(key_type, bytes).map(KeyValue::Uuid),
        KeyType::Bytea => Ok(KeyValue::Bytea(Cow::Borrowed(bytes))),
        KeyType::Date => {
            let days = i32::from_be_bytes(fixed(key_type, bytes)?);
            datetime::check_days(days).map(KeyValue::Date)
        }
        KeyType::Timestamp => {
            let value = i64::from_be_bytes(fixed(key_type, bytes)?);
            datetime::check_microseconds(key_type, value).map(KeyValue::Timestamp)
        }
        KeyType::Timestamptz => {
            let value = i64::from_be_bytes(fixed(key_type, bytes)?);
            datetime::check_microseconds(key_type, value).map(KeyValue::Timestamptz)
        }
        KeyType::Numeric => Numeric::from_binary(bytes).map(KeyValue::Numeric),
        KeyType::Boolean => fixed(key_type, bytes).map(|[byte]| KeyValue::Boolean(byte != 0)),
    }
}

fn fixed<const LENGTH: usize>(key_type: KeyType, bytes: &[u8]) -> Result<[u8; LENGTH], KeyError> {
    bytes.try_into().map_err(|_| KeyError::Invalid(key_type))
}
