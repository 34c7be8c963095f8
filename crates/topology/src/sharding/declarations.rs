//! What the configuration vouches for where the catalog cannot tell.
//!
//! Owns the lists; what follows from them is the router's business. Main type: [`Declarations`].

use std::collections::{HashMap, HashSet};

use crate::names::RelationName;

/// What an operator has declared of functions, triggers, rules and policies. Nothing is declared by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    /// Functions (all that bear the name) with the tables whose rows they touch. Of sharded tables they touch only rows that lie with
    /// the keys which the calling statement fixes; reference tables they only read.
    pub functions: HashMap<RelationName, Box<[RelationName]>>,
    /// Functions (all that bear the name) that write nothing, leave nothing in the session, and answer the same on a
    /// replica.
    pub reading_functions: HashSet<RelationName>,
    /// Tables whose triggers, rules and row security policies concern no rows but such as lie with the same sharding key,
    /// leave sharding keys as they are and, on reference tables, do the same on every shard.
    pub local_triggers: HashSet<RelationName>,
}
