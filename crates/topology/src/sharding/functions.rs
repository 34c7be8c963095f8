//! Sharding by lists and ranges of values.
//!
//! The configuration gives values as text, before anybody knows the type of the key; they are read
//! as that type when the first key comes, and kept. A key that no entry covers has no shard: it is
//! never sent to all. Main types: [`ListFunction`], [`RangeFunction`].

use std::cmp::Ordering;
use std::sync::OnceLock;

use crate::ids::ShardId;
use crate::key::{HashFamily, KeyError, KeyType, KeyValue, KeyValues};

/// The columns of a key as the configuration spells them.
type KeyText = Box<[Box<str>]>;

/// Each key is listed with its shard.
#[derive(Debug)]
pub struct ListFunction {
    entries: Vec<(KeyText, ShardId)>,
    read: OnceLock<ReadList>,
}

/// The entries read as types of these families, sorted by key.
#[derive(Debug)]
struct ReadList {
    families: Vec<HashFamily>,
    entries: Result<Vec<(Vec<KeyValue<'static>>, ShardId)>, KeyError>,
}

impl ListFunction {
    /// From each key (one text a column) and its shard.
    pub fn new(entries: Vec<(KeyText, ShardId)>) -> Self {
        Self {
            entries,
            read: OnceLock::new(),
        }
    }

    /// From the values of a key of one column.
    pub fn of_values<V: Into<Box<str>>>(values: impl IntoIterator<Item = (V, ShardId)>) -> Self {
        let values = values.into_iter();
        Self::new(
            values
                .map(|(value, shard)| (Box::from([value.into()]), shard))
                .collect(),
        )
    }

    /// The shard of a key.
    ///
    /// # Errors
    /// [`KeyError::Unowned`] where the key is not listed, [`KeyError::Rule`] where the listed values
    /// are not valid for the types of the key.
    pub fn shard_of(&self, key: KeyValues<'_>) -> Result<ShardId, KeyError> {
        let families: KeyFamilies = key.iter().map(KeyValue::hash_family).collect();
        let read = self.read.get_or_init(|| self.read_as(&families));
        if read.families == families.as_slice() {
            return find_listed(read, &key);
        }
        // the column's type was changed since: slower, and right
        find_listed(&self.read_as(&families), &key)
    }

    /// Whether there is an entry, and each has so many columns.
    pub(super) fn has_columns(&self, count: usize) -> bool {
        !self.entries.is_empty() && self.entries.iter().all(|(key, _)| key.len() == count)
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.entries.iter().map(|(_, shard)| *shard)
    }

    /// Whether the values can be read as these types, each key once.
    pub(super) fn is_valid_for(&self, families: &[HashFamily]) -> bool {
        self.read_as(families).entries.is_ok()
    }

    fn read_as(&self, families: &[HashFamily]) -> ReadList {
        let entries = || {
            let mut entries = Vec::with_capacity(self.entries.len());
            for (key, shard) in &self.entries {
                entries.push((read_key(key, families)?, *shard));
            }
            entries.sort();
            // two spellings of one value, with the same shard or another
            if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(KeyError::Rule);
            }
            Ok(entries)
        };
        ReadList {
            families: families.to_vec(),
            entries: entries(),
        }
    }
}

impl Clone for ListFunction {
    fn clone(&self) -> Self {
        Self::new(self.entries.clone())
    }
}

impl PartialEq for ListFunction {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

type KeyFamilies = smallvec::SmallVec<[HashFamily; 4]>;

fn find_listed(list: &ReadList, key: &KeyValues<'_>) -> Result<ShardId, KeyError> {
    let entries = list.entries.as_ref().map_err(|error| *error)?;
    entries
        .binary_search_by(|(listed, _)| listed.as_slice().cmp(key.as_slice()))
        .map(|index| entries[index].1)
        .map_err(|_| KeyError::Unowned)
}

/// The keys from `from` to below `to` are this shard's; without a bound, all below or above.
/// Keys of several columns are compared column by column, as rows are in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRule {
    /// The first key, one text a column; `None`: from the least.
    pub from: Option<KeyText>,
    /// The first key that is not in the range; `None`: to the greatest.
    pub to: Option<KeyText>,
    /// The shard.
    pub shard: ShardId,
}

/// Each range of keys has its shard; ranges may leave gaps and must not overlap.
#[derive(Debug)]
pub struct RangeFunction {
    ranges: Vec<RangeRule>,
    read: OnceLock<ReadRanges>,
}

#[derive(Debug)]
struct ReadRanges {
    families: Vec<HashFamily>,
    ranges: Result<Vec<ReadRange>, KeyError>,
}

#[derive(Debug)]
struct ReadRange {
    from: Option<Vec<KeyValue<'static>>>,
    to: Option<Vec<KeyValue<'static>>>,
    shard: ShardId,
}

impl RangeFunction {
    /// From the ranges, in any order.
    pub fn new(ranges: Vec<RangeRule>) -> Self {
        Self {
            ranges,
            read: OnceLock::new(),
        }
    }

    /// The shard of a key. Text is compared by its bytes.
    ///
    /// # Errors
    /// [`KeyError::Unowned`] where no range holds the key, [`KeyError::Rule`] where the bounds are
    /// not valid for the types of the key, or overlap.
    pub fn shard_of(&self, key: KeyValues<'_>) -> Result<ShardId, KeyError> {
        let families: KeyFamilies = key.iter().map(KeyValue::hash_family).collect();
        let read = self.read.get_or_init(|| self.read_as(&families));
        if read.families == families.as_slice() {
            return find_range(read, &key);
        }
        // the column's type was changed since: slower, and right
        find_range(&self.read_as(&families), &key)
    }

    /// Whether there is a range, and each bound has so many columns.
    pub(super) fn has_columns(&self, count: usize) -> bool {
        let mut bounds = self
            .ranges
            .iter()
            .flat_map(|range| [&range.from, &range.to])
            .flatten();
        !self.ranges.is_empty() && bounds.all(|key| key.len() == count)
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.ranges.iter().map(|range| range.shard)
    }

    /// Whether the bounds can be read as these types, and do not overlap.
    pub(super) fn is_valid_for(&self, families: &[HashFamily]) -> bool {
        self.read_as(families).ranges.is_ok()
    }

    fn read_as(&self, families: &[HashFamily]) -> ReadRanges {
        let ranges = || {
            let bound =
                |key: &Option<KeyText>| key.as_ref().map(|key| read_key(key, families)).transpose();
            let mut ranges = Vec::with_capacity(self.ranges.len());
            for range in &self.ranges {
                ranges.push(ReadRange {
                    from: bound(&range.from)?,
                    to: bound(&range.to)?,
                    shard: range.shard,
                });
            }
            // no lower bound (None) sorts first, which is where it belongs
            ranges.sort_by(|left, right| left.from.cmp(&right.from));
            let empty = |range: &ReadRange| match (&range.from, &range.to) {
                (Some(from), Some(to)) => from >= to,
                _ => false,
            };
            let overlap = |pair: &[ReadRange]| match (&pair[0].to, &pair[1].from) {
                (Some(to), Some(from)) => to > from,
                _ => true,
            };
            if ranges.iter().any(empty) || ranges.windows(2).any(overlap) {
                return Err(KeyError::Rule);
            }
            Ok(ranges)
        };
        ReadRanges {
            families: families.to_vec(),
            ranges: ranges(),
        }
    }
}

impl Clone for RangeFunction {
    fn clone(&self) -> Self {
        Self::new(self.ranges.clone())
    }
}

impl PartialEq for RangeFunction {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

fn find_range(read: &ReadRanges, key: &KeyValues<'_>) -> Result<ShardId, KeyError> {
    let ranges = read.ranges.as_ref().map_err(|error| *error)?;
    let key = key.as_slice();
    ranges
        .binary_search_by(|range| match (&range.from, &range.to) {
            (Some(from), _) if from.as_slice() > key => Ordering::Greater,
            (_, Some(to)) if to.as_slice() <= key => Ordering::Less,
            _ => Ordering::Equal,
        })
        .map(|index| ranges[index].shard)
        .map_err(|_| KeyError::Unowned)
}

fn read_key(key: &KeyText, families: &[HashFamily]) -> Result<Vec<KeyValue<'static>>, KeyError> {
    if key.len() != families.len() {
        return Err(KeyError::Rule);
    }
    key.iter()
        .zip(families)
        .map(|(text, &family)| {
            widest(family)
                .value_from_text(text.as_bytes())
                .map(KeyValue::into_owned)
                .map_err(|_| KeyError::Rule)
        })
        .collect()
}

/// The type that holds every value of its family.
fn widest(family: HashFamily) -> KeyType {
    match family {
        HashFamily::Integer => KeyType::Int8,
        HashFamily::Text => KeyType::Text,
        HashFamily::Bpchar => KeyType::Bpchar,
        HashFamily::Uuid => KeyType::Uuid,
        HashFamily::Bytea => KeyType::Bytea,
        HashFamily::Date => KeyType::Date,
        HashFamily::Timestamp => KeyType::Timestamp,
        HashFamily::Timestamptz => KeyType::Timestamptz,
        HashFamily::Numeric => KeyType::Numeric,
        HashFamily::Boolean => KeyType::Boolean,
    }
}
