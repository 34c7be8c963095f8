//! Object ids of user types and tables, which differ between shards: a client is shown the home shard's.
//!
//! Owns: translating them where they stand in messages (Parse, ParameterDescription, RowDescription) and inside binary values (arrays, records,
//! ranges carry the ids of what they hold). Costs nothing on a shard whose ids are the home shard's. Never does: finding the ids
//! (control). Main type: [`Translation`].

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use pgherd_protocol::backend::{
    Field, RowDescription, encode_data_row, encode_parameter_description, encode_row_description,
};
use pgherd_protocol::frontend::{encode_bind, encode_parse};
use pgherd_protocol::{BackendMessage, Bind, Format, Frame, MessageError, Oids, Parse, oid};
use pgherd_topology::{Catalog, OidMap, ShardId, TypeKind};

/// How deep types are looked into: deeper nesting is passed as it is.
const MAX_DEPTH: u32 = 16;
/// Ids below are the same on every server.
const FIRST_USER_OID: u32 = 16_384;

/// Which way a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToHome,
    ToShard,
}

/// Translates between one shard and the home shard, for one connection.
#[derive(Debug)]
pub struct Translation {
    catalog: Arc<Catalog>,
    shard: ShardId,
    /// The home ids of the current result's columns, where a binary value of theirs holds ids.
    columns: Vec<Option<u32>>,
}

impl Translation {
    /// `None` where the shard's ids are the home shard's.
    pub fn for_shard(catalog: &Arc<Catalog>, shard: ShardId) -> Option<Self> {
        if catalog.oid_map(shard).is_identity() {
            return None;
        }
        Some(Self {
            catalog: Arc::clone(catalog),
            shard,
            columns: Vec::new(),
        })
    }

    /// Whether the rows of the current result hold ids.
    pub fn rows(&self) -> bool {
        self.columns.iter().any(Option::is_some)
    }

    /// Appends the description of a result as the home shard would give it, and remembers which columns hold ids.
    ///
    /// # Errors
    /// [`MessageError`] for what does not fit a message.
    pub fn row_description(
        &mut self,
        row: RowDescription<'_>,
        out: &mut BytesMut,
    ) -> Result<(), MessageError> {
        self.columns.clear();
        let mut fields = Vec::with_capacity(row.len());
        for field in row.fields() {
            let type_oid = self.home_type(field.type_oid);
            let table_oid = self.to_home(field.table_oid).unwrap_or(0);
            let holds = field.format == Format::Binary && self.holds_ids(type_oid, 0);
            self.columns.push(holds.then_some(type_oid));
            fields.push(Field {
                type_oid,
                table_oid,
                ..field
            });
        }
        encode_row_description(out, fields)
    }

    /// The rows to come hold no ids that are known of (text, or no rows at all).
    pub fn no_rows(&mut self) {
        self.columns.clear();
    }

    /// The home ids of a statement's parameters.
    pub fn parameters(&self, types: Oids<'_>) -> Vec<u32> {
        types
            .iter()
            .map(|shard_oid| self.home_type(shard_oid))
            .collect()
    }

    /// Appends a row as the home shard would send it. A value that cannot be read as its type is passed as it is.
    ///
    /// # Errors
    /// [`MessageError`] for what does not fit a message.
    pub fn data_row(&self, frame: &Frame, out: &mut BytesMut) -> Result<(), MessageError> {
        let BackendMessage::DataRow(row) = BackendMessage::parse(frame)? else {
            out.extend_from_slice(frame.bytes());
            return Ok(());
        };
        let values: Vec<Option<BytesMut>> = row
            .values()
            .enumerate()
            .map(|(index, value)| {
                let type_oid = self.columns.get(index).copied().flatten();
                value.map(|value| self.value(type_oid, value, Direction::ToHome))
            })
            .collect();
        encode_data_row(
            out,
            values.iter().map(|value| value.as_ref().map(AsRef::as_ref)),
        )
    }

    /// Appends a Parse with the shard's own ids. `types` are the parameters' home ids.
    ///
    /// # Errors
    /// [`MessageError`] for what does not fit a message.
    pub fn parse(
        &self,
        parse: &Parse<'_>,
        types: &[u32],
        out: &mut BytesMut,
    ) -> Result<(), MessageError> {
        // an id that the shard does not know is left to it to refuse
        let types = types
            .iter()
            .map(|&home| self.map().to_shard(home).unwrap_or(home));
        encode_parse(out, parse.name, parse.sql, types)
    }

    /// Appends a Bind whose binary values hold the shard's own ids. `types` are the parameters' home ids, 0 where not known.
    ///
    /// # Errors
    /// [`MessageError`] for what does not fit a message.
    pub fn bind(
        &self,
        bind: &Bind<'_>,
        types: &[u32],
        out: &mut BytesMut,
    ) -> Result<(), MessageError> {
        let values: Vec<Option<BytesMut>> = bind
            .parameters()
            .enumerate()
            .map(|(index, value)| {
                let type_oid = types.get(index).copied().filter(|&home| {
                    bind.parameter_format(index) == Format::Binary && self.holds_ids(home, 0)
                });
                value.map(|value| self.value(type_oid, value, Direction::ToShard))
            })
            .collect();
        encode_bind(
            out,
            bind.portal,
            bind.statement,
            bind.parameter_formats().iter(),
            values.iter().map(|value| value.as_ref().map(AsRef::as_ref)),
            bind.result_formats().iter(),
        )
    }

    fn map(&self) -> &OidMap {
        self.catalog.oid_map(self.shard)
    }

    /// The home id of a type, 705 (unknown) where it has none.
    pub fn home_type(&self, shard_oid: u32) -> u32 {
        self.to_home(shard_oid).unwrap_or(oid::UNKNOWN)
    }

    fn to_home(&self, shard_oid: u32) -> Option<u32> {
        self.map().to_home(shard_oid)
    }

    /// Whether a binary value of this type (a home id) holds ids that differ between shards.
    fn holds_ids(&self, type_oid: u32, depth: u32) -> bool {
        if type_oid == RECORD || type_oid == RECORD_ARRAY {
            return true;
        }
        if depth >= MAX_DEPTH {
            return false;
        }
        match self.catalog.type_by_oid(type_oid).map(|found| &found.kind) {
            Some(TypeKind::Array { element }) => {
                *element >= FIRST_USER_OID || self.holds_ids(*element, depth + 1)
            }
            Some(TypeKind::Composite { fields }) => fields.iter().any(|field| {
                field.type_oid >= FIRST_USER_OID || self.holds_ids(field.type_oid, depth + 1)
            }),
            Some(TypeKind::Domain { base, .. }) => self.holds_ids(*base, depth + 1),
            Some(TypeKind::Range { subtype }) => self.holds_ids(*subtype, depth + 1),
            Some(TypeKind::Multirange { range }) => self.holds_ids(*range, depth + 1),
            Some(TypeKind::Base | TypeKind::Enum | TypeKind::Pseudo) | None => false,
        }
    }

    fn value(&self, type_oid: Option<u32>, value: &[u8], direction: Direction) -> BytesMut {
        let mut out = BytesMut::with_capacity(value.len());
        let translated =
            type_oid.and_then(|type_oid| self.walk(type_oid, value, direction, &mut out, 0));
        if translated.is_none() {
            out.clear();
            out.extend_from_slice(value);
        }
        out
    }

    /// Copies a binary value, its ids translated. `None` where it is not built as its type says.
    fn walk(
        &self,
        type_oid: u32,
        mut value: &[u8],
        direction: Direction,
        out: &mut BytesMut,
        depth: u32,
    ) -> Option<()> {
        if depth >= MAX_DEPTH || !self.holds_ids(type_oid, 0) {
            out.extend_from_slice(value);
            return Some(());
        }
        if type_oid == RECORD {
            return self.walk_record(&mut value, direction, out, depth);
        }
        if type_oid == RECORD_ARRAY {
            return self.walk_array(&mut value, direction, out, depth);
        }
        match &self.catalog.type_by_oid(type_oid)?.kind {
            TypeKind::Array { .. } => self.walk_array(&mut value, direction, out, depth),
            TypeKind::Composite { .. } => self.walk_record(&mut value, direction, out, depth),
            TypeKind::Domain { base, .. } => self.walk(*base, value, direction, out, depth + 1),
            TypeKind::Range { subtype } => {
                self.walk_range(*subtype, &mut value, direction, out, depth)
            }
            TypeKind::Multirange { range } => {
                let count = take_i32(&mut value)?;
                out.put_i32(count);
                for _ in 0..count {
                    self.walk_item(*range, &mut value, direction, out, depth)?;
                }
                value.is_empty().then_some(())
            }
            TypeKind::Base | TypeKind::Enum | TypeKind::Pseudo => {
                out.extend_from_slice(value);
                Some(())
            }
        }
    }

    /// `array_send`: dimensions, flags, the element's id, the dimensions' sizes, the elements.
    fn walk_array(
        &self,
        value: &mut &[u8],
        direction: Direction,
        out: &mut BytesMut,
        depth: u32,
    ) -> Option<()> {
        let dimensions = take_i32(value)?;
        let flags = take_i32(value)?;
        let (element, home_element) = self.take_oid(value, direction)?;
        out.put_i32(dimensions);
        out.put_i32(flags);
        out.put_u32(element);
        for _ in 0..dimensions {
            let size = take(value, 8)?;
            out.extend_from_slice(size);
        }
        while !value.is_empty() {
            self.walk_item(home_element, value, direction, out, depth)?;
        }
        Some(())
    }

    /// `record_send`: the number of fields, then each one's id and value.
    fn walk_record(
        &self,
        value: &mut &[u8],
        direction: Direction,
        out: &mut BytesMut,
        depth: u32,
    ) -> Option<()> {
        let fields = take_i32(value)?;
        out.put_i32(fields);
        for _ in 0..fields {
            let (field, home_field) = self.take_oid(value, direction)?;
            out.put_u32(field);
            self.walk_item(home_field, value, direction, out, depth)?;
        }
        value.is_empty().then_some(())
    }

    /// `range_send`: flags, then those bounds that are there.
    fn walk_range(
        &self,
        subtype: u32,
        value: &mut &[u8],
        direction: Direction,
        out: &mut BytesMut,
        depth: u32,
    ) -> Option<()> {
        let flags = *take(value, 1)?.first()?;
        out.put_u8(flags);
        while !value.is_empty() {
            self.walk_item(subtype, value, direction, out, depth)?;
        }
        Some(())
    }

    /// A length (-1 for NULL) and a value of this type.
    fn walk_item(
        &self,
        type_oid: u32,
        value: &mut &[u8],
        direction: Direction,
        out: &mut BytesMut,
        depth: u32,
    ) -> Option<()> {
        let length = take_i32(value)?;
        let Ok(bytes) = usize::try_from(length) else {
            out.put_i32(length);
            return Some(());
        };
        let item = take(value, bytes)?;
        let at = out.len();
        out.put_i32(length);
        self.walk(type_oid, item, direction, out, depth + 1)?;
        let written = i32::try_from(out.len() - at - 4).ok()?;
        out.get_mut(at..at + 4)?
            .copy_from_slice(&written.to_be_bytes());
        Some(())
    }

    /// An id as it is to be sent on, and the same as the home shard's.
    fn take_oid(&self, value: &mut &[u8], direction: Direction) -> Option<(u32, u32)> {
        let there = take_i32(value)?.cast_unsigned();
        match direction {
            Direction::ToHome => {
                let home = self.map().to_home(there)?;
                Some((home, home))
            }
            Direction::ToShard => Some((self.map().to_shard(there)?, there)),
        }
    }
}

/// `record` and its array, which tell the types of their fields themselves.
const RECORD: u32 = 2249;
const RECORD_ARRAY: u32 = 2287;

/// Appends the description of a statement's parameters.
///
/// # Errors
/// [`MessageError`] for what does not fit a message.
pub fn describe_parameters(types: &[u32], out: &mut BytesMut) -> Result<(), MessageError> {
    encode_parameter_description(out, types.iter().copied())
}

fn take<'a>(value: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = value.split_at_checked(bytes)?;
    *value = rest;
    Some(taken)
}

fn take_i32(value: &mut &[u8]) -> Option<i32> {
    value.try_get_i32().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pgherd_topology::TypeInfo;

    const HOME_MOOD: u32 = 20_000;
    const HOME_MOODS: u32 = 20_001;
    const SHARD_MOOD: u32 = 30_000;
    const SHARD_MOODS: u32 = 30_001;

    fn translation() -> Translation {
        let catalog = Catalog::builder()
            .user_type(TypeInfo::base("public", "mood", HOME_MOOD).of_kind(TypeKind::Enum))
            .user_type(
                TypeInfo::base("public", "_mood", HOME_MOODS)
                    .of_kind(TypeKind::Array { element: HOME_MOOD }),
            )
            .oid_map(
                ShardId(1),
                OidMap::from_pairs([(SHARD_MOOD, HOME_MOOD), (SHARD_MOODS, HOME_MOODS)]),
            )
            .build();
        Translation::for_shard(&Arc::new(catalog), ShardId(1)).unwrap()
    }

    fn array(element: u32) -> BytesMut {
        let mut value = BytesMut::new();
        value.put_i32(1);
        value.put_i32(0);
        value.put_u32(element);
        value.put_i32(2);
        value.put_i32(1);
        for label in [&b"sad"[..], b"happy"] {
            value.put_i32(i32::try_from(label.len()).unwrap());
            value.put_slice(label);
        }
        value
    }

    #[test]
    fn an_array_carries_the_home_shards_element_id() {
        let translation = translation();
        assert_eq!(
            translation.value(Some(HOME_MOODS), &array(SHARD_MOOD), Direction::ToHome),
            array(HOME_MOOD)
        );
        assert_eq!(
            translation.value(Some(HOME_MOODS), &array(HOME_MOOD), Direction::ToShard),
            array(SHARD_MOOD)
        );
    }

    #[test]
    fn a_record_within_an_array_is_translated_too() {
        let record = |mood: u32| {
            let mut value = BytesMut::new();
            value.put_i32(2);
            value.put_u32(oid::INT4);
            value.put_i32(4);
            value.put_i32(7);
            value.put_u32(mood);
            value.put_i32(-1);
            value
        };
        let wrapped = |mood: u32| {
            let mut value = BytesMut::new();
            value.put_i32(1);
            value.put_i32(0);
            value.put_u32(RECORD);
            value.put_i32(1);
            value.put_i32(1);
            let record = record(mood);
            value.put_i32(i32::try_from(record.len()).unwrap());
            value.put_slice(&record);
            value
        };
        assert_eq!(
            translation().value(Some(RECORD_ARRAY), &wrapped(SHARD_MOOD), Direction::ToHome),
            wrapped(HOME_MOOD)
        );
    }

    #[test]
    fn what_is_not_built_as_its_type_says_passes_untouched() {
        let broken = BytesMut::from(&b"\0\0"[..]);
        assert_eq!(
            translation().value(Some(HOME_MOODS), &broken, Direction::ToHome),
            broken
        );
    }

    #[test]
    fn the_home_shard_needs_no_translation() {
        let catalog = Catalog::builder()
            .oid_map(ShardId(0), OidMap::identity())
            .build();
        assert!(Translation::for_shard(&Arc::new(catalog), ShardId(0)).is_none());
    }
}
