//! The sharding rules of one database, and which shard they give a key.
//!
//! Owns tables, reference tables, co-location and what happens to the rest; never reads SQL or
//! system catalogs, except to check the rules against one. Main type: [`Sharding`].

mod functions;

use std::sync::Arc;

use crate::catalog::{Catalog, Collation};
use crate::hash::{bucket_of, combine_hashes};
use crate::ids::{BucketId, ShardId};
use crate::key::{HashFamily, KeyError, KeyInput, KeyValues};
use crate::name_index::{NameIndex, Named};
use crate::names::RelationName;
use crate::shard_map::ShardMap;

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
        ShardingBuilder {
            shards: shards.into_iter().map(Into::into).collect(),
            map: None,
            tables: Vec::new(),
            reference: Vec::new(),
            unlisted: Unlisted::Shard(ShardId(0)),
        }
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
        check_map(&map, &self.shards)?;
        Ok(Self {
            map,
            ..self.clone()
        })
    }

    /// What happens to tables that no rule names.
    pub fn unlisted(&self) -> Unlisted {
        self.unlisted
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

    /// The bucket and shard of a combined hash ([`combine_hashes`]).
    pub fn shard_of_hash(&self, combined: u64) -> (BucketId, ShardId) {
        let bucket = bucket_of(combined, self.map.buckets());
        (bucket, self.map.owner(bucket))
    }

    /// Where the row of a key lives, from what the statement gives for each column of the key in
    /// its order. Under a hash rule a NULL column does not count, as in Postgres.
    ///
    /// The caller has made sure that each input's type is of the hash family of its column
    /// ([`Catalog::key_type`]): equal values of other families hash otherwise.
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
        let values = || {
            key.iter()
                .map(|input| input.value()?.ok_or(KeyError::Null))
                .collect::<Result<KeyValues<'_>, _>>()
        };
        match &rule.function {
            ShardingFunction::Hash => {
                let mut combined = [None; MAX_KEY_COLUMNS];
                for (hash, input) in combined.iter_mut().zip(key) {
                    *hash = input.value()?.map(|value| value.partition_hash());
                }
                let (bucket, shard) = self.shard_of_hash(combine_hashes(combined));
                Ok(Location {
                    shard,
                    bucket: Some(bucket),
                })
            }
            ShardingFunction::List(list) => list.shard_of(values()?).map(Location::of_shard),
            ShardingFunction::Range(range) => range.shard_of(values()?).map(Location::of_shard),
        }
    }

    /// What the rules and a catalog say against each other: a table that is not there is no fault
    /// (it may be created yet), a key that cannot be one is.
    pub fn check_keys(&self, catalog: &Catalog) -> Vec<ShardingError> {
        let mut faults = Vec::new();
        for rule in self.tables() {
            match key_families(rule, catalog) {
                Ok(None) => {}
                Ok(Some(families)) => {
                    if let Err(fault) = self.check_families(rule, &families, catalog) {
                        faults.push(fault);
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    fn check_families(
        &self,
        rule: &TableRule,
        families: &[HashFamily],
        catalog: &Catalog,
    ) -> Result<(), ShardingError> {
        let readable = match &rule.function {
            ShardingFunction::Hash => true,
            ShardingFunction::List(list) => list.is_valid_for(families),
            ShardingFunction::Range(range) => range.is_valid_for(families),
        };
        if !readable {
            return Err(ShardingError::RuleValues(rule.table.clone()));
        }
        let Some(root) = &rule.with else {
            return Ok(());
        };
        let root = self.tables.find(&root.schema, &root.name);
        match root.map(|root| key_families(root, catalog)) {
            Some(Ok(Some(others))) if others != families => Err(ShardingError::KeyTypes {
                table: rule.table.clone(),
                with: rule.root().clone(),
            }),
            _ => Ok(()),
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

/// Postgres' `PARTITION_MAX_KEYS`.
pub const MAX_KEY_COLUMNS: usize = 32;

/// The families of a table's key columns; `None` where the table does not exist.
fn key_families(
    rule: &TableRule,
    catalog: &Catalog,
) -> Result<Option<Vec<HashFamily>>, ShardingError> {
    let Some(relation) = catalog.relation(&rule.table) else {
        return Ok(None);
    };
    let family = |name: &str| {
        let fault = |reason| ShardingError::KeyColumn {
            table: rule.table.clone(),
            column: name.into(),
            reason,
        };
        let column = relation
            .find_column(name)
            .ok_or_else(|| fault("does not exist"))?;
        if column.collation == Collation::Nondeterministic {
            return Err(fault("has a collation that is not deterministic"));
        }
        catalog
            .key_type(column.type_oid)
            .map(|key_type| key_type.hash_family())
            .ok_or_else(|| fault("has a type that cannot be a sharding key"))
    };
    rule.key
        .iter()
        .map(|name| family(name))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The rules contradict themselves, or the catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardingError {
    /// There must be from 1 to 65535 shards.
    #[error("there must be from 1 to 65535 shards, not {0}")]
    Shards(usize),
    /// Two shards of one name.
    #[error("there are two shards named {0:?}")]
    DuplicateShard(Box<str>),
    /// A table is listed twice, or as sharded and reference.
    #[error("table {0} is listed twice")]
    DuplicateTable(RelationName),
    /// A key must have from 1 to 32 columns, no column twice.
    #[error("the sharding key of {0} must have from 1 to 32 columns, each once")]
    Key(RelationName),
    /// Something names a shard that is not there.
    #[error("shard {0} does not exist")]
    UnknownShard(ShardId),
    /// Several shards and tables by hash, but no table of buckets.
    #[error("tables are sharded by hash, but there is no bucket table")]
    NoMap,
    /// `with:` names a table that is not sharded.
    #[error("{table} is co-located with {with}, which is not a sharded table")]
    UnknownWith {
        /// The table of the rule.
        table: RelationName,
        /// What its rule names.
        with: RelationName,
    },
    /// `with:` goes round in a circle.
    #[error("the co-location of {0} leads back to itself")]
    CircularWith(RelationName),
    /// Co-located tables must have keys of the same number of columns and the same function.
    #[error(
        "{table} is co-located with {with}, but its key has another number of columns or another function"
    )]
    UnlikeWith {
        /// The table of the rule.
        table: RelationName,
        /// The first table of its group.
        with: RelationName,
    },
    /// Co-located tables must have keys that hash alike.
    #[error("{table} is co-located with {with}, but the types of their keys do not hash alike")]
    KeyTypes {
        /// The table of the rule.
        table: RelationName,
        /// The first table of its group.
        with: RelationName,
    },
    /// A column cannot be a sharding key.
    #[error("the sharding key of {table}, column {column:?}, {reason}")]
    KeyColumn {
        /// The table of the rule.
        table: RelationName,
        /// The column.
        column: Box<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The values of a list or range rule do not suit its key.
    #[error(
        "the values of the rule of {0} are not valid for the type of its key, overlap, or differ in number of columns"
    )]
    RuleValues(RelationName),
}

/// Collects rules; [`ShardingBuilder::build`] checks them.
#[derive(Clone, Debug)]
pub struct ShardingBuilder {
    shards: Vec<Box<str>>,
    map: Option<Arc<ShardMap>>,
    tables: Vec<TableRule>,
    reference: Vec<RelationName>,
    unlisted: Unlisted,
}

impl ShardingBuilder {
    /// The table of buckets; needed as soon as a table is sharded by hash.
    pub fn map(mut self, map: Arc<ShardMap>) -> Self {
        self.map = Some(map);
        self
    }

    /// A sharded table.
    pub fn table(mut self, rule: TableRule) -> Self {
        self.tables.push(rule);
        self
    }

    /// A reference table.
    pub fn reference(mut self, table: RelationName) -> Self {
        self.reference.push(table);
        self
    }

    /// What happens to the rest; without a call it lives on the first shard.
    pub fn unlisted(mut self, unlisted: Unlisted) -> Self {
        self.unlisted = unlisted;
        self
    }

    /// The rules, checked; `with` of each rule now names the first table of its group.
    ///
    /// # Errors
    /// Where the rules contradict themselves.
    pub fn build(mut self) -> Result<Sharding, ShardingError> {
        check_shards(&self.shards)?;
        let map = match self.map.take() {
            Some(map) => map,
            None if self
                .tables
                .iter()
                .any(|rule| rule.function == ShardingFunction::Hash) =>
            {
                return Err(ShardingError::NoMap);
            }
            None => {
                Arc::new(ShardMap::single(ShardId(0), 1).expect("one bucket is a valid number"))
            }
        };
        check_map(&map, &self.shards)?;
        if let Unlisted::Shard(shard) = self.unlisted {
            check_shard(shard, &self.shards)?;
        }
        let mut tables: NameIndex<Arc<TableRule>> = NameIndex::default();
        for rule in &self.tables {
            check_key(rule)?;
            for shard in rule_shards(rule) {
                check_shard(shard, &self.shards)?;
            }
            if tables.find(&rule.table.schema, &rule.table.name).is_some() {
                return Err(ShardingError::DuplicateTable(rule.table.clone()));
            }
            let with = self.group_root(rule)?;
            tables.add(Arc::new(TableRule {
                with,
                ..rule.clone()
            }));
        }
        let mut reference: NameIndex<RelationName> = NameIndex::default();
        for table in self.reference {
            let (schema, name) = (&table.schema, &table.name);
            if tables.find(schema, name).is_some() || reference.find(schema, name).is_some() {
                return Err(ShardingError::DuplicateTable(table));
            }
            reference.add(table);
        }
        Ok(Sharding {
            shards: self.shards,
            map,
            tables,
            reference,
            unlisted: self.unlisted,
        })
    }

    /// Follows `with` to the first table of the group, which must be sharded the same way.
    fn group_root(&self, rule: &TableRule) -> Result<Option<RelationName>, ShardingError> {
        let mut current = rule;
        for _ in 0..=self.tables.len() {
            let Some(with) = &current.with else {
                let alike =
                    current.key.len() == rule.key.len() && current.function == rule.function;
                return match (alike, current.table == rule.table) {
                    (_, true) => Ok(None),
                    (true, false) => Ok(Some(current.table.clone())),
                    (false, false) => Err(ShardingError::UnlikeWith {
                        table: rule.table.clone(),
                        with: current.table.clone(),
                    }),
                };
            };
            let next = self.tables.iter().find(|other| other.table == *with);
            current = next.ok_or_else(|| ShardingError::UnknownWith {
                table: current.table.clone(),
                with: with.clone(),
            })?;
        }
        Err(ShardingError::CircularWith(rule.table.clone()))
    }
}

fn check_shards(shards: &[Box<str>]) -> Result<(), ShardingError> {
    if shards.is_empty() || shards.len() > usize::from(u16::MAX) {
        return Err(ShardingError::Shards(shards.len()));
    }
    let mut sorted: Vec<_> = shards.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ShardingError::DuplicateShard(pair[0].clone())),
        None => Ok(()),
    }
}

fn check_shard(shard: ShardId, shards: &[Box<str>]) -> Result<(), ShardingError> {
    if shard.index() < shards.len() {
        Ok(())
    } else {
        Err(ShardingError::UnknownShard(shard))
    }
}

fn check_map(map: &ShardMap, shards: &[Box<str>]) -> Result<(), ShardingError> {
    map.owners()
        .iter()
        .try_for_each(|&owner| check_shard(owner, shards))
}

fn check_key(rule: &TableRule) -> Result<(), ShardingError> {
    let repeated = |(index, column)| rule.key[..index].contains(column);
    if !(1..=MAX_KEY_COLUMNS).contains(&rule.key.len()) || rule.key.iter().enumerate().any(repeated)
    {
        return Err(ShardingError::Key(rule.table.clone()));
    }
    let columns = match &rule.function {
        ShardingFunction::Hash => return Ok(()),
        ShardingFunction::List(list) => list.columns(),
        ShardingFunction::Range(range) => range.columns(),
    };
    if columns == Some(rule.key.len()) {
        Ok(())
    } else {
        Err(ShardingError::RuleValues(rule.table.clone()))
    }
}

fn rule_shards(rule: &TableRule) -> Vec<ShardId> {
    match &rule.function {
        ShardingFunction::Hash => Vec::new(),
        ShardingFunction::List(list) => list.shards().collect(),
        ShardingFunction::Range(range) => range.shards().collect(),
    }
}
