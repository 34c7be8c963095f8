//! Collects sharding rules and makes sure that they agree with each other.

use std::sync::Arc;

use super::{Declarations, Sharding, ShardingError, ShardingFunction, TableRule, Unlisted};
use crate::ids::ShardId;
use crate::name_index::NameIndex;
use crate::names::RelationName;
use crate::shard_map::ShardMap;

/// Postgres' `PARTITION_MAX_KEYS`.
pub const MAX_KEY_COLUMNS: usize = 32;

/// Collects rules; [`ShardingBuilder::build`] checks them.
#[derive(Clone, Debug)]
pub struct ShardingBuilder {
    shards: Vec<Box<str>>,
    map: Option<Arc<ShardMap>>,
    tables: Vec<TableRule>,
    reference: Vec<RelationName>,
    unlisted: Unlisted,
    declarations: Declarations,
}

impl ShardingBuilder {
    pub(super) fn new(shards: Vec<Box<str>>) -> Self {
        Self {
            shards,
            map: None,
            tables: Vec::new(),
            reference: Vec::new(),
            unlisted: Unlisted::Shard(ShardId(0)),
            declarations: Declarations::default(),
        }
    }

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

    /// What is vouched for; nothing without a call.
    pub fn declarations(mut self, declarations: Declarations) -> Self {
        self.declarations = declarations;
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
            declarations: self.declarations,
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

pub(super) fn check_map(map: &ShardMap, shards: &[Box<str>]) -> Result<(), ShardingError> {
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
    let count = rule.key.len();
    let agrees = match &rule.function {
        ShardingFunction::Hash => true,
        ShardingFunction::List(list) => list.has_columns(count),
        ShardingFunction::Range(range) => range.has_columns(count),
    };
    if agrees {
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
