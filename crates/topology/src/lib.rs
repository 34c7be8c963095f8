//! What exists, and which shard owns what: plain data without I/O.
//!
//! # Layout
//! - [`ids`], [`names`], [`address`]: newtypes for everything that is counted or named.
//! - [`key`], [`hash`]: a sharding key from a client's bytes to Postgres' own partition hash.
//! - [`ring`], [`shard_map`]: where buckets should go, and where they are.
//! - [`sharding`]: the rules of one database, and the shard of a key under them.
//! - [`catalog`]: what the servers' system catalogs say, as far as planning needs it.
//! - [`commit_protocol`]: how a transaction over shards is committed, for session and control alike.
//! - [`state`], [`samples`]: which servers there are now, and how far each had come when. [`outlook`]: what would come of a failover;
//!   [`continuity`]: what clients are promised meanwhile; [`chronicle`]: what has happened.
//!
//! Nothing here talks to a server or waits. Whoever changes something builds a new value with a
//! higher version and publishes it behind an `Arc`; the one exception are the samples and the load
//! counters of a server, which live through versions.

pub mod address;
pub mod catalog;
pub mod chronicle;
pub mod commit_protocol;
pub mod continuity;
pub mod hash;
pub mod ids;
pub mod key;
mod name_index;
pub mod names;
pub mod outlook;
pub mod ring;
pub mod samples;
pub mod shard_map;
pub mod sharding;
pub mod state;

pub use address::{Address, AddressError};
pub use catalog::{
    Catalog, CatalogBuilder, Collation, Column, ColumnDefault, CompositeField, ForeignKey,
    Function, FunctionKind, OidMap, Operator, Persistence, ReferentialAction, Relation,
    RelationKind, RoleSettings, ServerSettings, TypeInfo, TypeKind, UniqueKey, Volatility,
};
pub use chronicle::{ChangeReport, Chronicle, Event, Standing};
pub use continuity::{Continuity, CutLedger, CutParty, Fate, Horizon};
pub use hash::{bucket_of, combine_hash, combine_hashes};
pub use ids::{BucketId, Epoch, Lsn, LsnError, NodeId, ShardId};
pub use key::{HashFamily, KeyError, KeyInput, KeyType, KeyValue, Numeric};
pub use names::{NameError, RelationName, quote_identifier};
pub use outlook::{Outlook, OutlookCell, StandbyOutlook};
pub use ring::{WeightedShard, propose};
pub use samples::{Sample, SampleLog};
pub use shard_map::{ShardMap, ShardMapError, StoredShardMap};
pub use sharding::{
    Declarations, Distribution, ListFunction, Location, RangeFunction, RangeRule, Sharding,
    ShardingBuilder, ShardingError, ShardingFunction, TableRule, Unlisted,
};
pub use state::{Health, NodeState, Role, ShardState, Topology, TwoPhase};
