//! A sharding key, from the bytes of a client to a value that hashes and compares.
//!
//! Owns the types a key may have and the reading of their text and binary forms; never decides
//! where a key lives ([`crate::sharding`]) and never guesses: input whose meaning depends on a
//! setting of the session, or which only some versions of Postgres accept, is an error.
//! Main types: [`KeyType`], [`KeyValue`].
//!
//! # Text and encodings
//! The bytes of text are hashed as they are, so they must be in the encoding of the server. A
//! client whose `client_encoding` differs may only have keys of ASCII; that is for the caller to
//! see to, who knows the setting ([`KeyInput::depends_on_encoding`]). What is not UTF-8 is refused here.

mod binary;
mod datetime;
mod numeric;
mod text;

use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

pub use numeric::Numeric;

use crate::hash::{hash_bytes, hash_i64, hash_u32};

/// A type that a sharding key may have: Postgres hashes it the same way on every server, whatever
/// its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `text`, under a deterministic collation
    Text,
    /// `character varying`, under a deterministic collation
    Varchar,
    /// `character`, under a deterministic collation: trailing blanks do not count
    Bpchar,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `numeric`
    Numeric,
    /// `boolean`
    Boolean,
}

/// Types whose equal values hash alike: only between them may a key be compared or tables be
/// co-located.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashFamily {
    /// `smallint`, `integer`, `bigint`
    Integer,
    /// `text`, `character varying`
    Text,
    /// `character`
    Bpchar,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `numeric`
    Numeric,
    /// `boolean`
    Boolean,
}

impl KeyType {
    /// Every type, in the order of their declaration.
    pub const ALL: [Self; 13] = [
        Self::Int2,
        Self::Int4,
        Self::Int8,
        Self::Text,
        Self::Varchar,
        Self::Bpchar,
        Self::Uuid,
        Self::Bytea,
        Self::Date,
        Self::Timestamp,
        Self::Timestamptz,
        Self::Numeric,
        Self::Boolean,
    ];

    /// The type of an OID of `pg_type`; `None` where it cannot be a sharding key. A domain is for
    /// [`crate::Catalog::key_type`] to look through.
    pub fn from_oid(oid: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.oid() == oid)
    }

    /// The OID in `pg_type`, the same on every server.
    pub fn oid(self) -> u32 {
        match self {
            Self::Boolean => 16,
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Bpchar => 1042,
            Self::Varchar => 1043,
            Self::Date => 1082,
            Self::Timestamp => 1114,
            Self::Timestamptz => 1184,
            Self::Numeric => 1700,
            Self::Uuid => 2950,
        }
    }

    /// The name of SQL, as `format_type` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Varchar => "character varying",
            Self::Bpchar => "character",
            Self::Uuid => "uuid",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Timestamp => "timestamp without time zone",
            Self::Timestamptz => "timestamp with time zone",
            Self::Numeric => "numeric",
            Self::Boolean => "boolean",
        }
    }

    /// Which other types hash like this one.
    pub fn hash_family(self) -> HashFamily {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => HashFamily::Integer,
            Self::Text | Self::Varchar => HashFamily::Text,
            Self::Bpchar => HashFamily::Bpchar,
            Self::Uuid => HashFamily::Uuid,
            Self::Bytea => HashFamily::Bytea,
            Self::Date => HashFamily::Date,
            Self::Timestamp => HashFamily::Timestamp,
            Self::Timestamptz => HashFamily::Timestamptz,
            Self::Numeric => HashFamily::Numeric,
            Self::Boolean => HashFamily::Boolean,
        }
    }

    /// Is the number within an integer type? Other types hold any.
    fn holds(self, value: i64) -> bool {
        match self {
            Self::Int2 => i16::try_from(value).is_ok(),
            Self::Int4 => i32::try_from(value).is_ok(),
            _ => true,
        }
    }

    /// Reads a value as the type's input function does: a text parameter, or the content of a
    /// string literal (unescaped).
    ///
    /// # Errors
    /// Where Postgres would refuse the text, where what it means depends on a setting (`1/2/2026`,
    /// a `timestamptz` without offset) or on the version of the server, and in a few more cases
    /// that are rare (`today`, 24:00:00, more than 6 digits of a second).
    pub fn value_from_text(self, text: &[u8]) -> Result<KeyValue<'_>, KeyError> {
        text::read(self, text)
    }

    /// Reads a value as the type's receive function does: a parameter in binary format.
    ///
    /// # Errors
    /// Where Postgres would refuse the bytes.
    pub fn value_from_binary(self, bytes: &[u8]) -> Result<KeyValue<'_>, KeyError> {
        binary::read(self, bytes)
    }

    /// The partition hash of a value in text form; combine with [`crate::combine_hashes`].
    ///
    /// # Errors
    /// As [`KeyType::value_from_text`].
    pub fn hash_text(self, text: &[u8]) -> Result<u64, KeyError> {
        Ok(self.value_from_text(text)?.partition_hash())
    }

    /// The partition hash of a value in binary form; combine with [`crate::combine_hashes`].
    ///
    /// # Errors
    /// As [`KeyType::value_from_binary`].
    pub fn hash_binary(self, bytes: &[u8]) -> Result<u64, KeyError> {
        Ok(self.value_from_binary(bytes)?.partition_hash())
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A value of a sharding key in its one canonical form: values that Postgres holds equal are equal
/// here, and hash alike.
///
/// Ordered as Postgres orders them, but text by its bytes whatever the collation: that order is
/// what range rules cut. Values of different families are ordered by family, which means nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue<'a> {
    /// Of the integer types.
    Integer(i64),
    /// Of `text` and `character varying`: the bytes in the server's encoding.
    Text(Cow<'a, [u8]>),
    /// Of `character`: the bytes without trailing blanks.
    Bpchar(Cow<'a, [u8]>),
    /// Of `uuid`.
    Uuid([u8; 16]),
    /// Of `bytea`.
    Bytea(Cow<'a, [u8]>),
    /// Of `date`: days since 2000-01-01; the least and greatest `i32` are the infinities.
    Date(i32),
    /// Of `timestamp`: microseconds since 2000-01-01; the least and greatest `i64` are the
    /// infinities.
    Timestamp(i64),
    /// Of `timestamptz`: microseconds since 2000-01-01 UTC; the least and greatest `i64` are the
    /// infinities.
    Timestamptz(i64),
    /// Of `numeric`.
    Numeric(Numeric),
    /// Of `boolean`.
    Boolean(bool),
}

impl KeyValue<'_> {
    /// The family of the value's type.
    pub fn hash_family(&self) -> HashFamily {
        match self {
            Self::Integer(_) => HashFamily::Integer,
            Self::Text(_) => HashFamily::Text,
            Self::Bpchar(_) => HashFamily::Bpchar,
            Self::Uuid(_) => HashFamily::Uuid,
            Self::Bytea(_) => HashFamily::Bytea,
            Self::Date(_) => HashFamily::Date,
            Self::Timestamp(_) => HashFamily::Timestamp,
            Self::Timestamptz(_) => HashFamily::Timestamptz,
            Self::Numeric(_) => HashFamily::Numeric,
            Self::Boolean(_) => HashFamily::Boolean,
        }
    }

    /// What the type's extended hash function gives under the seed of hash partitioning.
    pub fn partition_hash(&self) -> u64 {
        match self {
            Self::Integer(value) | Self::Timestamp(value) | Self::Timestamptz(value) => {
                hash_i64(*value)
            }
            Self::Text(bytes) | Self::Bpchar(bytes) | Self::Bytea(bytes) => hash_bytes(bytes),
            Self::Uuid(bytes) => hash_bytes(bytes),
            Self::Date(days) => hash_u32(*days as u32),
            Self::Numeric(value) => value.partition_hash(),
            Self::Boolean(value) => hash_u32(u32::from(*value)),
        }
    }

    /// The value without ties to the bytes it was read from.
    pub fn into_owned(self) -> KeyValue<'static> {
        match self {
            Self::Integer(value) => KeyValue::Integer(value),
            Self::Text(bytes) => KeyValue::Text(Cow::Owned(bytes.into_owned())),
            Self::Bpchar(bytes) => KeyValue::Bpchar(Cow::Owned(bytes.into_owned())),
            Self::Uuid(bytes) => KeyValue::Uuid(bytes),
            Self::Bytea(bytes) => KeyValue::Bytea(Cow::Owned(bytes.into_owned())),
            Self::Date(days) => KeyValue::Date(days),
            Self::Timestamp(value) => KeyValue::Timestamp(value),
            Self::Timestamptz(value) => KeyValue::Timestamptz(value),
            Self::Numeric(value) => KeyValue::Numeric(value),
            Self::Boolean(value) => KeyValue::Boolean(value),
        }
    }

    /// The value that a column of this type and type modifier (`pg_attribute.atttypmod`, -1: none)
    /// stores for this one, after the assignment cast: 7.6 becomes 8 in an integer column, 7 becomes
    /// a `numeric`, and `varchar(3)` cuts the blanks off 'abc  '.
    ///
    /// # Errors
    /// [`KeyError::OutOfRange`] where the column's type does not hold it, [`KeyError::Changed`]
    /// where the column rounds it in a way that is not worked out here, or refuses it.
    pub fn stored(self, column: KeyType, modifier: i32) -> Result<Self, KeyError> {
        let value = match (self, column.hash_family()) {
            (Self::Numeric(value), HashFamily::Integer) => {
                Self::Integer(value.to_integer().ok_or(KeyError::OutOfRange(column))?)
            }
            (Self::Integer(value), HashFamily::Numeric) => Self::Numeric(Numeric::from(value)),
            (Self::Text(text), HashFamily::Text) => Self::Text(cut_blanks(text, modifier)?),
            (Self::Bpchar(text), HashFamily::Bpchar) => Self::Bpchar(cut_blanks(text, modifier)?),
            (value, family) if value.hash_family() == family => value,
            _ => return Err(KeyError::Changed),
        };
        if let Self::Integer(value) = value
            && !column.holds(value)
        {
            return Err(KeyError::OutOfRange(column));
        }
        value.fits(modifier)?;
        Ok(value)
    }

    /// Whether a column of type modifier `modifier` (`pg_attribute.atttypmod`, -1: none) stores
    /// the value as it is: `varchar(3)` cuts trailing blanks, `numeric(9, 2)` and `timestamp(0)`
    /// round, and the row would then lie where the value before that belongs.
    ///
    /// # Errors
    /// [`KeyError::Changed`] where Postgres would store another value or refuse this one.
    pub fn fits(&self, modifier: i32) -> Result<(), KeyError> {
        let fits = match self {
            _ if modifier < 0 => true,
            // the modifiers of character types and numeric count the length word before them
            Self::Text(bytes) | Self::Bpchar(bytes) => {
                let characters = bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
                usize::try_from(modifier - 4).is_ok_and(|limit| characters <= limit)
            }
            Self::Numeric(value) => value.fits(modifier - 4),
            Self::Timestamp(value) | Self::Timestamptz(value) => {
                let digits = u32::try_from(modifier).unwrap_or(6).min(6);
                datetime::is_infinite(*value) || value % 10_i64.pow(6 - digits) == 0
            }
            Self::Integer(_)
            | Self::Uuid(_)
            | Self::Bytea(_)
            | Self::Date(_)
            | Self::Boolean(_) => true,
        };
        if fits { Ok(()) } else { Err(KeyError::Changed) }
    }
}

/// What a column of characters stores of a longer text: blanks beyond its length are cut off.
fn cut_blanks(text: Cow<'_, [u8]>, modifier: i32) -> Result<Cow<'_, [u8]>, KeyError> {
    // the modifier counts the length word too
    let Ok(limit) = usize::try_from(modifier - 4) else {
        return Ok(text);
    };
    if modifier < 0 {
        return Ok(text);
    }
    let end = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte & 0xC0 != 0x80)
        .nth(limit)
        .map(|(end, _)| end);
    match end {
        None => Ok(text),
        Some(end) if text[end..].iter().all(|&byte| byte == b' ') => Ok(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        }),
        Some(_) => Err(KeyError::Changed),
    }
}

/// One column of a key as a statement gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyInput<'a> {
    /// NULL.
    Null,
    /// A literal (unescaped) or a parameter in text format, to be read as the type.
    Text(KeyType, &'a [u8]),
    /// A parameter in binary format, of the type.
    Binary(KeyType, &'a [u8]),
}

impl<'a> KeyInput<'a> {
    /// Whether the bytes mean another value where `client_encoding` is not the server's encoding:
    /// text beyond ASCII. The caller then refuses.
    pub fn depends_on_encoding(self) -> bool {
        match self {
            Self::Null => false,
            Self::Text(key_type, bytes) | Self::Binary(key_type, bytes) => {
                matches!(
                    key_type.hash_family(),
                    HashFamily::Text | HashFamily::Bpchar
                ) && !bytes.is_ascii()
            }
        }
    }

    /// The value; `None` for NULL.
    ///
    /// # Errors
    /// As [`KeyType::value_from_text`] and [`KeyType::value_from_binary`].
    pub fn value(self) -> Result<Option<KeyValue<'a>>, KeyError> {
        match self {
            Self::Null => Ok(None),
            Self::Text(key_type, text) => key_type.value_from_text(text).map(Some),
            Self::Binary(key_type, bytes) => key_type.value_from_binary(bytes).map(Some),
        }
    }
}

/// The columns of a key, without an allocation for the usual one.
pub type KeyValues<'a> = SmallVec<[KeyValue<'a>; 1]>;

/// Why no shard can be named for a key. The caller refuses the statement (0A000): it was not sent
/// anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Postgres would not accept it, or only some versions would.
    #[error("the sharding key is not valid input for type {0}")]
    Invalid(KeyType),
    /// Valid, but beyond what the type holds.
    #[error("the sharding key is out of range for type {0}")]
    OutOfRange(KeyType),
    /// Perhaps valid, but what it means depends on a setting (DateStyle, TimeZone, the client's
    /// encoding) or on the time of day, or is not worked out by pgherd.
    #[error(
        "what the sharding key means as {0} is not certain: dates and times are to be in ISO 8601, with time zone with their offset, bytea in hex format"
    )]
    Uncertain(KeyType),
    /// The column would round or cut the value as it stores it ([`KeyValue::fits`]).
    #[error("the sharding key would be stored as another value than was given")]
    Changed,
    /// A key of another number of columns than the rule has.
    #[error("the sharding key has {expected} columns, {given} were given")]
    Columns {
        /// As the rule has it.
        expected: usize,
        /// As the caller gave it.
        given: usize,
    },
    /// NULL under a list or range rule, which name no shard for it.
    #[error("no shard owns a NULL sharding key")]
    Null,
    /// A value that the list or the ranges leave out.
    #[error("no shard owns this sharding key")]
    Unowned,
    /// The values of a list or range rule are not valid for the type of the key.
    #[error("the rule's own values cannot be read as the type of its sharding key")]
    Rule,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn any_key_type() -> impl Strategy<Value = KeyType> {
        prop::sample::select(KeyType::ALL.to_vec())
    }

    #[test]
    fn a_type_is_found_by_its_oid_and_others_are_no_keys() {
        for key_type in KeyType::ALL {
            assert_eq!(KeyType::from_oid(key_type.oid()), Some(key_type));
        }
        // float8, interval, json, a user's
        for oid in [0, 701, 1186, 114, 16_384] {
            assert_eq!(KeyType::from_oid(oid), None);
        }
    }

    #[test]
    fn a_value_is_stored_as_the_assignment_cast_makes_it() {
        let numeric = |text: &'static str| KeyType::Numeric.value_from_text(text.as_bytes());
        for (text, stored) in [
            ("7.6", 8),
            ("2.5", 3),
            ("-2.5", -3),
            ("2.4999", 2),
            ("0.5", 1),
            ("0.4999", 0),
            ("-0.00001", 0),
            ("0.00005", 0),
            ("99999.5", 100_000),
            ("123456789012.5", 123_456_789_013),
            ("9223372036854775807.4", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("1e3", 1000),
        ] {
            let value = numeric(text).unwrap().stored(KeyType::Int8, -1).unwrap();
            assert_eq!(value, KeyValue::Integer(stored), "{text}");
        }
        for text in ["9223372036854775807.5", "1e30", "NaN", "Infinity"] {
            assert!(numeric(text).unwrap().stored(KeyType::Int8, -1).is_err());
        }
        assert!(
            numeric("32767.5")
                .unwrap()
                .stored(KeyType::Int2, -1)
                .is_err()
        );
        let integer = |value| KeyValue::Integer(value).stored(KeyType::Numeric, -1);
        for value in [0, 7, -7, 10_000, 123_456_789, i64::MAX, i64::MIN] {
            let text = value.to_string();
            let read = KeyType::Numeric.value_from_text(text.as_bytes()).unwrap();
            assert_eq!(integer(value).unwrap(), read.into_owned(), "{value}");
        }
        let varchar = |text: &'static str| {
            KeyValue::Text(Cow::Borrowed(text.as_bytes())).stored(KeyType::Varchar, 4 + 3)
        };
        assert_eq!(varchar("abc  ").unwrap(), varchar("abc").unwrap());
        assert_eq!(varchar("äöü ").unwrap(), varchar("äöü").unwrap());
        assert!(varchar("abcd").is_err());
        assert!(KeyValue::Integer(5).stored(KeyType::Text, -1).is_err());
        assert!(
            KeyValue::Integer(1 << 40)
                .stored(KeyType::Int4, -1)
                .is_err()
        );
    }

    #[test]
    fn a_column_that_would_cut_or_round_a_value_does_not_fit_it() {
        let fits = |key_type: KeyType, text: &str, modifier| {
            let value = key_type.value_from_text(text.as_bytes()).unwrap();
            value.fits(modifier).is_ok()
        };
        let varchar_3 = 3 + 4;
        assert!(fits(KeyType::Varchar, "äöü", varchar_3));
        assert!(!fits(KeyType::Varchar, "abc ", varchar_3));
        assert!(fits(KeyType::Bpchar, "abc ", varchar_3));
        assert!(fits(KeyType::Varchar, "abc ", -1));
        assert!(fits(KeyType::Timestamp, "2026-01-01 00:00:00.5", 1));
        assert!(!fits(KeyType::Timestamp, "2026-01-01 00:00:00.5", 0));
        assert!(fits(KeyType::Timestamp, "infinity", 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(
            key_type in any_key_type(),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            modifier in any::<i32>(),
        ) {
            let read = [key_type.value_from_text(&bytes), key_type.value_from_binary(&bytes)];
            for value in read.into_iter().flatten() {
                let _ = (value.partition_hash(), value.fits(modifier));
            }
        }

        #[test]
        fn no_text_that_looks_like_a_value_makes_a_reader_panic(
            key_type in any_key_type(),
            text in r"[-+]?[0-9]{0,12}[-.:eE ]?[0-9]{0,8}[-.:eET ]?[-+0-9.:]{0,12}( BC|Z)?",
            modifier in any::<i32>(),
        ) {
            if let Ok(value) = key_type.value_from_text(text.as_bytes()) {
                let _ = (value.partition_hash(), value.fits(modifier));
            }
        }
    }
}
