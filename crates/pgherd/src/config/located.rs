//! Values that remember where in the YAML they stood.
//!
//! Owns [`At`], the wrapper that every value of the raw configuration wears, so that a rule broken only when the
//! whole file is understood (two servers of one name, a table on a shard that does not exist) can still point at its
//! line. Never decides whether a value is right. The scalars ([`Text`], [`Number`], [`Span`], [`Size`]) keep their
//! text as written: `${ENV}` is replaced, and the meaning read, when the file is converted.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A place in the configuration file: lines and columns count from 1, in characters. Line 0 means "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters the value is long; 0 where it is not known.
    pub length: usize,
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        let number = |value: u64| usize::try_from(value).unwrap_or(0);
        Self {
            line: number(location.line()),
            column: number(location.column()),
            length: location.span().len() as usize,
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value itself.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            place: spanned.referenced.into(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Declares a scalar that keeps its text as written; the macro's arms differ in the JSON Schema alone.
macro_rules! scalar {
    ($(#[$documentation:meta])* $name:ident, $schema:expr) => {
        $(#[$documentation])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let schema: Schema = $schema;
                schema
            }
        }
    };
}

scalar!(
    /// Any text. `${NAME}` stands for an environment variable, `$$` for a dollar sign.
    Text,
    json_schema!({ "type": ["string", "number", "boolean"] })
);

scalar!(
    /// A whole number, or `${NAME}`.
    Number,
    json_schema!({ "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^([0-9]+|\\$\\{[A-Za-z_][A-Za-z0-9_]*\\})$" },
    ] })
);

scalar!(
    /// A span of time: `250us`, `5ms`, `30s`, `10m`, `1h`, `7d`.
    Span,
    json_schema!({ "type": ["string", "integer"], "pattern": "^([0-9]+ *(us|ms|s|m|min|h|d)|0|\\$\\{[A-Za-z_][A-Za-z0-9_]*\\})$" })
);

scalar!(
    /// An amount of memory: `512B`, `64KiB`, `16MiB`, `1GiB`.
    Size,
    json_schema!({ "type": ["string", "integer"], "pattern": "^([0-9]+ *(B|KiB|MiB|GiB)|0|\\$\\{[A-Za-z_][A-Za-z0-9_]*\\})$" })
);

/// A password, or where it is found. Its text never appears in [`fmt::Debug`], in an error or in a snippet.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number"] })
    }
}

/// One value, or a list of them: `key: id` and `key: [a, b]`.
#[derive(Clone, Debug)]
pub enum OneOrMany<T> {
    /// A value alone.
    One(T),
    /// A list, in its order.
    Many(Vec<At<T>>),
}

impl<T: Clone> At<OneOrMany<T>> {
    /// The values with their places, whichever way they were written.
    pub fn each(&self) -> Vec<At<T>> {
        match &self.value {
            OneOrMany::One(value) => vec![At {
                value: value.clone(),
                place: self.place,
            }],
            OneOrMany::Many(values) => values.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany<Text> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany<Text>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(Text(value.to_owned())))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(Text(value.to_string())))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(Text(value.to_string())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element::<At<Text>>()? {
                    values.push(value);
                }
                Ok(OneOrMany::Many(values))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// The word `only`, or a mapping: `reads: only` and `reads: { from: primary }`.
#[derive(Clone, Debug)]
pub enum OnlyOr<T> {
    /// The word.
    Only,
    /// The mapping.
    Mapping(T),
}

impl<T> OnlyOr<T> {
    /// The mapping, if it is one.
    pub fn mapping(&self) -> Option<&T> {
        match self {
            Self::Only => None,
            Self::Mapping(mapping) => Some(mapping),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OnlyOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OnlyOr<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a mapping, or `only`")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
                match value {
                    "only" => Ok(OnlyOr::Only),
                    other => Err(E::unknown_variant(other, &["only"])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let mapping = serde::de::value::MapAccessDeserializer::new(map);
                T::deserialize(mapping).map(OnlyOr::Mapping)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OnlyOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OnlyOr_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mapping = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [mapping, { "const": "only" }] })
    }
}

/// A mapping whose keys the operator chooses (databases, tables), in the file's order, each key with its place.
#[derive(Clone, Debug)]
pub struct Named<V>(pub Vec<(At<Text>, V)>);

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Named<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Named<V>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a mapping from names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(At<Text>, V)> = Vec::new();
                while let Some(key) = map.next_key::<At<Text>>()? {
                    if entries.iter().any(|(known, _)| known.value == key.value) {
                        return Err(A::Error::custom(format!(
                            "`{}` is given twice",
                            key.value.0
                        )));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<V: JsonSchema> JsonSchema for Named<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<V>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}
