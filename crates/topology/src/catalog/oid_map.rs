//! How one shard's OIDs of users' types and relations translate to the home shard's.
//!
//! Main type: [`OidMap`].

use std::collections::HashMap;

use super::FIRST_USER_OID;

/// The translation between one shard and the home shard, both ways, by qualified name. OIDs below
/// 16384 are the same everywhere and need no lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OidMap {
    to_home: HashMap<u32, u32>,
    to_shard: HashMap<u32, u32>,
    scope: Scope,
}

/// Which OIDs of users the map speaks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    /// Those it holds.
    #[default]
    Listed,
    /// All: it is the home shard's own, where each OID means itself.
    Everything,
}

impl OidMap {
    /// The home shard's own: every OID means itself.
    pub fn identity() -> Self {
        Self {
            scope: Scope::Everything,
            ..Self::default()
        }
    }

    /// From pairs of the shard's OID and the home shard's. Types and relations may be mixed: one
    /// server gives an OID to only one of either, except where the counter has wrapped; then keep
    /// two maps.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut map = Self::default();
        for (shard, home) in pairs {
            if shard >= FIRST_USER_OID || home >= FIRST_USER_OID {
                map.to_home.insert(shard, home);
                map.to_shard.insert(home, shard);
            }
        }
        map
    }

    /// The home shard's OID for this shard's; `None` where it is not known, as of a type that was
    /// created since: wait for a newer catalog, or refuse.
    pub fn to_home(&self, shard_oid: u32) -> Option<u32> {
        self.translate(&self.to_home, shard_oid)
    }

    /// This shard's OID for the home shard's; `None` where it is not known.
    pub fn to_shard(&self, home_oid: u32) -> Option<u32> {
        self.translate(&self.to_shard, home_oid)
    }

    /// Whether every OID it knows means itself: rows may pass untouched.
    pub fn is_identity(&self) -> bool {
        self.to_home.iter().all(|(shard, home)| shard == home)
    }

    fn translate(&self, map: &HashMap<u32, u32>, oid: u32) -> Option<u32> {
        if oid < FIRST_USER_OID {
            return Some(oid);
        }
        match (map.get(&oid), self.scope) {
            (Some(&other), _) => Some(other),
            (None, Scope::Everything) => Some(oid),
            (None, Scope::Listed) => None,
        }
    }
}
