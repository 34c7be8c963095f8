//! The values of a key at execution: read from literals and parameters, converted as they are stored,
//! and located.
//!
//! Owns which keys a [`KeySet`] stands for in one execution. Never decides whether several may meet:
//! that is `resolve`'s.

use std::borrow::Cow;

use pgherd_protocol::SqlState;
use pgherd_topology::{HashFamily, KeyError, KeyInput, KeyType, KeyValue, Location, Sharding};
use smallvec::SmallVec;

use crate::array::{binary_elements, text_elements};
use crate::literal::Literal;
use crate::plan::{KeyOrigin, KeySet, KeySource, KeyUsage};
use crate::rejection::{Rejection, label};
use crate::resolve::{ParameterFormat, ParameterValue, ValueEncoding, Values};

/// As many keys as one statement may stand for where its columns' lists are combined.
const MAX_COMBINATIONS: usize = 1 << 16;

/// A key's value as bytes.
#[derive(Debug, Clone)]
pub(crate) enum SourceText<'a> {
    Text(Cow<'a, [u8]>),
    Negated(SmallVec<[u8; 24]>),
    Integer(i64),
    /// Of this type, which may be another one of the source's family.
    Binary(KeyType, Cow<'a, [u8]>),
    Null,
}

/// What one source stands for.
type Texts<'a> = SmallVec<[SourceText<'a>; 1]>;

impl KeySet {
    /// Hands each key of this execution to `found`, with its place. A comparison with NULL finds no
    /// row, and is left out.
    pub(crate) fn locate<'a>(
        &self,
        values: &Values<'a>,
        sharding: &Sharding,
        mut found: impl FnMut(Location, &[&SourceText<'a>]) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        let mut columns: SmallVec<[Texts<'a>; 1]> = SmallVec::new();
        for (position, source) in self.columns.iter().enumerate() {
            columns.push(source.read(values, || self.column_name(position))?);
        }
        let rows = if self.by_row {
            columns.iter().map(SmallVec::len).max().unwrap_or(0)
        } else {
            columns
                .iter()
                .try_fold(1_usize, |rows, texts| rows.checked_mul(texts.len()))
                .filter(|rows| *rows <= MAX_COMBINATIONS)
                .ok_or_else(too_many)?
        };
        for row in 0..rows {
            let mut rest = row;
            let mut key: SmallVec<[&SourceText<'a>; 1]> = SmallVec::new();
            for texts in &columns {
                let at = match (self.by_row, texts.len()) {
                    (_, 1) => 0,
                    (true, _) => row,
                    (false, count) => {
                        let at = rest % count;
                        rest /= count;
                        at
                    }
                };
                key.push(texts.get(at).ok_or_else(too_many)?);
            }
            if let Some(location) = self.place(&key, sharding)? {
                found(location, &key)?;
            }
        }
        Ok(())
    }

    fn place(
        &self,
        key: &[&SourceText<'_>],
        sharding: &Sharding,
    ) -> Result<Option<Location>, Rejection> {
        let mut read: SmallVec<[Option<KeyValue<'_>>; 1]> = SmallVec::new();
        for (position, (text, source)) in key.iter().zip(&self.columns).enumerate() {
            let column = || self.column_name(position);
            let value = text
                .value(source.key_type)
                .map_err(|error| unusable(&column(), error))?;
            read.push(match (value, source.usage) {
                (None, KeyUsage::Compared) => return Ok(None),
                (value, KeyUsage::Compared) => value,
                (None, KeyUsage::Stored { .. }) => return Err(null_key(&column())),
                (
                    Some(value),
                    KeyUsage::Stored {
                        column: stored,
                        modifier,
                    },
                ) => {
                    let value = value.stored(stored, modifier);
                    Some(value.map_err(|error| unusable(&column(), error))?)
                }
            });
        }
        sharding
            .locate_values(&self.rule, read)
            .map(Some)
            .map_err(|error| unusable(&self.column_name(0), error))
    }

    fn column_name(&self, position: usize) -> String {
        let column = self.rule.key.get(position).map_or("?", |name| name);
        format!("{}.{column}", self.rule.table)
    }
}

impl KeySource {
    /// All that the source stands for.
    fn read<'a>(
        &self,
        values: &Values<'a>,
        column: impl Fn() -> String,
    ) -> Result<Texts<'a>, Rejection> {
        let mut texts = Texts::new();
        match self.origin {
            KeyOrigin::Literal(slot) => {
                for literal in values.literals.elements(slot) {
                    texts.push(SourceText::Text(literal_value(values, literal, &column)?));
                }
            }
            KeyOrigin::Negated(slot) => {
                for literal in values.literals.elements(slot) {
                    let mut text = SmallVec::from_slice(b"-");
                    text.extend_from_slice(&literal_value(values, literal, &column)?);
                    texts.push(SourceText::Negated(text));
                }
            }
            KeyOrigin::Boolean(value) => {
                let text: &[u8] = if value { b"true" } else { b"false" };
                texts.push(SourceText::Text(Cow::Borrowed(text)));
            }
            KeyOrigin::Integer(value) => texts.push(SourceText::Integer(value)),
            KeyOrigin::Parameter(index) => {
                let parameter = parameter(values, index)?;
                texts.push(match (parameter.bytes, parameter.format) {
                    (None, _) => SourceText::Null,
                    (Some(bytes), ParameterFormat::Text) => SourceText::Text(Cow::Borrowed(bytes)),
                    (Some(bytes), ParameterFormat::Binary) => {
                        SourceText::Binary(self.key_type, Cow::Borrowed(bytes))
                    }
                });
            }
            KeyOrigin::ArrayLiteral(slot) => {
                for literal in values.literals.elements(slot) {
                    let text = literal_value(values, literal, &column)?;
                    let elements = text_elements(&text).ok_or_else(|| unread_array(&column()))?;
                    texts.extend(elements.into_iter().map(|element| match element {
                        None => SourceText::Null,
                        Some(text) => SourceText::Text(Cow::Owned(text.into_owned())),
                    }));
                }
            }
            KeyOrigin::ArrayParameter(index) => {
                let parameter = parameter(values, index)?;
                self.read_array(parameter, &mut texts)
                    .ok_or_else(|| unread_array(&column()))?;
            }
        }
        let converted = values.encoding == ValueEncoding::Converted && self.is_character_type();
        if converted && !texts.iter().all(SourceText::is_ascii) {
            return Err(Rejection::unsupported(
                label::KEY_VALUE,
                "the sharding key would be converted to another encoding",
            )
            .detail(format!(
                "The value for {} holds characters beyond ASCII, and the client's encoding is not the server's.",
                column()
            ))
            .hint("Set client_encoding to the server's encoding."));
        }
        Ok(texts)
    }

    fn read_array<'a>(&self, array: ParameterValue<'a>, texts: &mut Texts<'a>) -> Option<()> {
        let Some(bytes) = array.bytes else {
            return Some(());
        };
        match array.format {
            ParameterFormat::Text => texts.extend(
                text_elements(bytes)?
                    .into_iter()
                    .map(|element| element.map_or(SourceText::Null, SourceText::Text)),
            ),
            ParameterFormat::Binary => {
                let (oid, elements) = binary_elements(bytes)?;
                let element_type = KeyType::from_oid(oid)
                    .filter(|found| found.hash_family() == self.key_type.hash_family())?;
                texts.extend(elements.into_iter().map(|element| {
                    element.map_or(SourceText::Null, |bytes| {
                        SourceText::Binary(element_type, bytes)
                    })
                }));
            }
        }
        Some(())
    }

    fn is_character_type(&self) -> bool {
        matches!(
            self.key_type.hash_family(),
            HashFamily::Text | HashFamily::Bpchar
        )
    }
}

impl SourceText<'_> {
    fn value(&self, key_type: KeyType) -> Result<Option<KeyValue<'_>>, KeyError> {
        match self {
            Self::Text(text) => KeyInput::Text(key_type, text).value(),
            Self::Negated(text) => KeyInput::Text(key_type, text).value(),
            Self::Integer(value) => Ok(Some(KeyValue::Integer(*value))),
            Self::Binary(key_type, bytes) => KeyInput::Binary(*key_type, bytes).value(),
            Self::Null => Ok(None),
        }
    }

    /// The value as EXPLAIN (ROUTE) shows it.
    pub(crate) fn in_words(&self, key_type: KeyType) -> String {
        match self {
            Self::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Self::Negated(text) => String::from_utf8_lossy(text).into_owned(),
            Self::Integer(value) => value.to_string(),
            Self::Binary(..) => match self.value(key_type) {
                Ok(Some(KeyValue::Integer(value))) => value.to_string(),
                Ok(Some(KeyValue::Text(text) | KeyValue::Bpchar(text))) => {
                    String::from_utf8_lossy(&text).into_owned()
                }
                _ => "binary".to_owned(),
            },
            Self::Null => "NULL".to_owned(),
        }
    }

    fn is_ascii(&self) -> bool {
        match self {
            Self::Text(text) => text.is_ascii(),
            Self::Binary(_, bytes) => bytes.is_ascii(),
            Self::Negated(_) | Self::Integer(_) | Self::Null => true,
        }
    }
}

fn literal_value<'a>(
    values: &Values<'a>,
    literal: &Literal,
    column: &impl Fn() -> String,
) -> Result<Cow<'a, [u8]>, Rejection> {
    literal.value(values.sql).ok_or_else(|| {
        Rejection::unsupported(label::KEY_VALUE, "the sharding key cannot be read")
            .detail(format!(
                "The literal for {} holds escapes that only the server can read.",
                column()
            ))
            .hint("Write the value without escapes, or send it as a parameter.")
    })
}

fn parameter<'a>(values: &Values<'a>, index: u16) -> Result<ParameterValue<'a>, Rejection> {
    values
        .parameters
        .and_then(|parameters| parameters.parameter(index))
        .ok_or_else(|| {
            Rejection::new(
                SqlState::UNDEFINED_PARAMETER,
                label::KEY_VALUE,
                format!("there is no parameter ${}", u32::from(index) + 1),
            )
        })
}

fn too_many() -> Rejection {
    Rejection::unsupported(
        label::SEVERAL_SHARDS,
        "the statement has too many sharding keys",
    )
    .detail(format!(
        "Its lists of values stand for more than {MAX_COMBINATIONS} keys."
    ))
}

fn unread_array(column: &str) -> Rejection {
    Rejection::unsupported(label::KEY_VALUE, "the sharding key cannot be read")
        .detail(format!(
            "The array that {column} is compared with is not an array of one dimension of its type."
        ))
        .hint("Send an array without bounds, or compare with IN.")
}

fn null_key(column: &str) -> Rejection {
    Rejection::unsupported(label::KEY_VALUE, "the sharding key is NULL")
        .detail(format!("A row without {column} belongs on no shard."))
}

fn unusable(column: &str, error: KeyError) -> Rejection {
    Rejection::unsupported(label::KEY_VALUE, "the sharding key names no shard")
        .detail(format!("For {column}: {error}."))
        .hint("Send the key as a value of its column's type, in that type's usual form.")
}
