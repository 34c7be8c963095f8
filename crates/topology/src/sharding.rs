//! The sharding rules of one database, and which shard they give a key.
//!
//! Owns tables, reference tables, co-location and what happens to the rest; never reads SQL or
//! system catalogs, except to check the rules against one. Main type: [`Sharding`].

mod builder;
mod catalog_check;
mod declarations;
mod error;
mod functions;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::hash::{bucket_of, combine_hash};
use crate::ids::{BucketId, ShardId};
use crate::key::{KeyError, KeyInput, KeyValue, KeyValues};
use crate::name_index::{NameIndex, Named};
use crate::names::RelationName;
use crate::shard_map::ShardMap;

pub use builder::{MAX_KEY_COLUMNS, ShardingBuilder};
pub use declarations::Declarations;
pub use error::ShardingError;
pub use functions::{ListFunction, RangeFunction, RangeRule};

/// How a key becomes a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardingFunction {
    /// Postgres' partition hash, a bucket, and the table of buckets.
    Hash,
    /// Each value is listed with its shard.
    List(Arc<ListFunction>),
    /// Each range of values has its shard.
    Range(Arc<RangeFunction>),
}

/// How one table is sharded.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRule {
    /// The table.
    pub table: RelationName,
    /// The columns of the sharding key, in order; at least one.
    pub key: Box<[Box<str>]>,
    /// How the key becomes a shard.
    pub function: ShardingFunction,
    /// The table this one is co-located with: rows of equal keys lie on one shard. Names the first
    /// of the group; `None` for that one, and for a table on its own.
    pub with: Option<RelationName>,
}

impl TableRule {
    /// A table by the hash of its key.
    pub fn hash<K: Into<Box<str>>>(table: RelationName, key: impl IntoIterator<Item = K>) -> Self {
        Self {
            table,
            key: key.into_iter().map(Into::into).collect(),
            function: ShardingFunction::Hash,
            with: None,
        }
    }

    /// The same under another function.
    pub fn by(self, function: ShardingFunction) -> Self {
        Self { function, ..self }
    }

    /// The same, co-located with another table.
    pub fn with(self, other: RelationName) -> Self {
        Self {
            with: Some(other),
            ..self
        }
    }

    /// The position of a column in the key.
    pub fn key_position(&self, column: &str) -> Option<usize> {
        self.key.iter().position(|name| &**name == column)
    }

    /// The first table of the group of co-located tables.
    fn root(&self) -> &RelationName {
        self.with.as_ref().unwrap_or(&self.table)
    }
}

/// What happens to tables that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// They live on this shard.
    Shard(ShardId),
    /// Statements that name one are refused.
    Refuse,
}

/// Where the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution<'a> {
    /// Spread by key.
    Sharded(&'a Arc<TableRule>),
    /// The same rows on every shard.
    Reference,
    /// All rows on this shard.
    Unsharded(ShardId),
    /// Named by no rule, and `unlisted: refuse` holds.
    Refused,
}

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The shard.
    pub shard: ShardId,
    /// The bucket, under a hash rule.
    pub bucket: Option<BucketId>,
}

/// The rules of one database. Immutable: a changed configuration or bucket table is a new one.
#[derive(Clone, Debug)]
pub struct Sharding {
    shards: Vec<Box<str>>,
    map: Arc<ShardMap>,
    tables: NameIndex<Arc<TableRule>>,
    reference: NameIndex<RelationName>,
    unlisted: Unlisted,
    declarations: Declarations,
}

impl Named for Arc<TableRule> {
    fn schema(&self) -> &str {
        &self.table.schema
    }

    fn name(&self) -> &str {
        &self.table.name
    }
}

impl Named for RelationName {
    fn schema(&self) -> &str {
        &self.schema
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Sharding {
    /// Starts rules for shards of these names, whose ids are their positions.
    pub fn builder<N: Into<Box<str>>>(shards: impl IntoIterator<Item = N>) -> ShardingBuilder {
        ShardingBuilder::new(shards.into_iter().map(Into::into).collect())
    }

    /// The rules of a database on one shard: all tables are whole and all statements go there.
    pub fn unsharded(shard: impl Into<Box<str>>) -> Self {
        let map = ShardMap::single(ShardId(0), 1).expect("one bucket is a valid number");
        Self {
            shards: vec![shard.into()],
            map: Arc::new(map),
            tables: NameIndex::default(),
            reference: NameIndex::default(),
            unlisted: Unlisted::Shard(ShardId(0)),
            declarations: Declarations::default(),
        }
    }

    /// The names of the shards, by id.
    pub fn shards(&self) -> &[Box<str>] {
        &self.shards
    }

    /// The ids of the shards, ascending.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u16::try_from(self.shards.len()).expect("build() bounds the shards")).map(ShardId)
    }

    /// The name of a shard.
    ///
    /// # Panics
    /// If the id is not one of these rules.
    pub fn shard_name(&self, shard: ShardId) -> &str {
        &self.shards[shard.index()]
    }

    /// The shard of a name.
    pub fn shard_by_name(&self, name: &str) -> Option<ShardId> {
        let index = self.shards.iter().position(|shard| &**shard == name)?;
        u16::try_from(index).ok().map(ShardId)
    }

    /// The table of buckets.
    pub fn map(&self) -> &Arc<ShardMap> {
        &self.map
    }

    /// The same rules over another table of buckets.
    ///
    /// # Errors
    /// Where the table names a shard that is not one of these rules.
    pub fn with_map(&self, map: Arc<ShardMap>) -> Result<Self, ShardingError> {
        builder::check_map(&map, &self.shards)?;
        Ok(Self {
            map,
            ..self.clone()
        })
    }

    /// What happens to tables that no rule names.
    pub fn unlisted(&self) -> Unlisted {
        self.unlisted
    }

    /// What the configuration vouches for.
    pub fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// The shard whose system catalogs clients see: that of the unlisted tables, or the first.
    pub fn home(&self) -> ShardId {
        match self.unlisted {
            Unlisted::Shard(shard) => shard,
            Unlisted::Refuse => ShardId(0),
        }
    }

    /// Whether there is one shard and no rule: every statement goes there whole.
    pub fn is_unsharded(&self) -> bool {
        self.shards.len() == 1 && self.tables.is_empty() && self.reference.is_empty()
    }

    /// The rules of the sharded tables, in the order of the configuration.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableRule>> {
        self.tables.iter()
    }

    /// The reference tables, in the order of the configuration.
    pub fn reference_tables(&self) -> impl Iterator<Item = &RelationName> {
        self.reference.iter()
    }

    /// Where the rows of a table are.
    pub fn distribution(&self, relation: &RelationName) -> Distribution<'_> {
        self.distribution_of(&relation.schema, &relation.name)
    }

    /// As [`Sharding::distribution`], by the parts of the name. System catalogs are read on the
    /// home shard, whatever happens to other tables without a rule.
    pub fn distribution_of(&self, schema: &str, name: &str) -> Distribution<'_> {
        if let Some(rule) = self.tables.find(schema, name) {
            return Distribution::Sharded(rule);
        }
        if self.reference.find(schema, name).is_some() {
            return Distribution::Reference;
        }
        match self.unlisted {
            Unlisted::Shard(shard) => Distribution::Unsharded(shard),
            Unlisted::Refuse
                if matches!(schema, "pg_catalog" | "information_schema" | "pg_toast") =>
            {
                Distribution::Unsharded(self.home())
            }
            Unlisted::Refuse => Distribution::Refused,
        }
    }

    /// Whether rows of equal keys of the two tables lie on one shard, by declaration.
    pub fn colocated(&self, left: &RelationName, right: &RelationName) -> bool {
        let rule = |name: &RelationName| self.tables.find(&name.schema, &name.name);
        match (rule(left), rule(right)) {
            (Some(left), Some(right)) => left.root() == right.root(),
            _ => false,
        }
    }

    /// The bucket and shard of a combined hash ([`crate::combine_hashes`]).
    pub fn shard_of_hash(&self, combined: u64) -> (BucketId, ShardId) {
        let bucket = bucket_of(combined, self.map.buckets());
        (bucket, self.map.owner(bucket))
    }

    /// Where the row of a key lives, from what the statement gives for each column of the key in
    /// its order. Under a hash rule a NULL column does not count, as in Postgres.
    ///
    /// The caller has made sure that each input's type is of the hash family of its column
    /// ([`crate::Catalog::key_type`]): equal values of other families hash otherwise.
    ///
    /// # Errors
    /// Where a value cannot be read for certain, or no shard owns the key.
    pub fn locate(&self, rule: &TableRule, key: &[KeyInput<'_>]) -> Result<Location, KeyError> {
        if key.len() != rule.key.len() {
            return Err(KeyError::Columns {
                expected: rule.key.len(),
                given: key.len(),
            });
        }
        let values = key
            .iter()
            .map(|input| input.value())
            .collect::<Result<SmallVec<[Option<KeyValue<'_>>; 1]>, _>>()?;
        self.locate_values(rule, values)
    }

    /// As [`Sharding::locate`], of values that were read already.
    ///
    /// # Errors
    /// Where no shard owns the key.
    pub fn locate_values<'k>(
        &self,
        rule: &TableRule,
        key: impl IntoIterator<Item = Option<KeyValue<'k>>>,
    ) -> Result<Location, KeyError> {
        let mut key = key.into_iter();
        let mut values = || {
            key.by_ref()
                .map(|value| value.ok_or(KeyError::Null))
                .collect::<Result<KeyValues<'_>, _>>()
        };
        match &rule.function {
            ShardingFunction::Hash => {
                let combined = key.flatten().fold(0, |combined, value| {
                    combine_hash(combined, value.partition_hash())
                });
                let (bucket, shard) = self.shard_of_hash(combined);
                Ok(Location {
                    shard,
                    bucket: Some(bucket),
                })
            }
            ShardingFunction::List(list) => list.shard_of(values()?).map(Location::of_shard),
            ShardingFunction::Range(range) => range.shard_of(values()?).map(Location::of_shard),
        }
    }
}

impl Location {
    fn of_shard(shard: ShardId) -> Self {
        Self {
            shard,
            bucket: None,
        }
    }
}

#[cfg(test)]
mod tests;
