//! What can be wrong with sharding rules.

use crate::ids::ShardId;
use crate::names::RelationName;

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
