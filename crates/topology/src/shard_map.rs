//! The table of buckets: which shard owns each.
//!
//! Owns the table and the form in which it is stored; who proposes it is [`crate::ring`].
//! Main type: [`ShardMap`].

use crate::ids::{BucketId, ShardId};

/// Which shard owns each bucket. One array index is all that a query costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    version: u64,
    owners: Box<[ShardId]>,
}

/// The table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardMapError {
    /// There must be from 1 to 65535 buckets.
    #[error("there must be from 1 to 65535 buckets, not {0}")]
    Buckets(usize),
    /// A stored run names a shard that the stored list does not have, or is empty.
    #[error("the stored bucket table is damaged: run {0} names no shard or no bucket")]
    Run(usize),
    /// A shard owns buckets, and so rows, but is not configured any more.
    #[error("shard {name:?} owns {buckets} buckets in the stored table but is not configured")]
    MissingShard {
        /// The shard's stored name.
        name: Box<str>,
        /// How many buckets it owns.
        buckets: usize,
    },
    /// There must be a shard to give buckets to, and its weight must not be 0.
    #[error("no shard has a weight above 0")]
    NoShard,
}

impl ShardMap {
    /// A table from the owner of each bucket, in order.
    ///
    /// # Errors
    /// [`ShardMapError::Buckets`] where there is none, or more than 65535.
    pub fn new(version: u64, owners: impl Into<Box<[ShardId]>>) -> Result<Self, ShardMapError> {
        let owners = owners.into();
        if owners.is_empty() || owners.len() > usize::from(u16::MAX) {
            return Err(ShardMapError::Buckets(owners.len()));
        }
        Ok(Self { version, owners })
    }

    /// A table in which one shard owns all.
    ///
    /// # Errors
    /// [`ShardMapError::Buckets`] where `buckets` is 0.
    pub fn single(owner: ShardId, buckets: u16) -> Result<Self, ShardMapError> {
        Self::new(1, vec![owner; usize::from(buckets)])
    }

    /// Rises with every change of the table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The number of buckets, from 1 to 65535.
    pub fn buckets(&self) -> u16 {
        u16::try_from(self.owners.len()).expect("new() takes no more than 65535 owners")
    }

    /// The shard that owns a bucket.
    ///
    /// # Panics
    /// If the bucket is not below [`ShardMap::buckets`]; [`crate::bucket_of`] under that number
    /// never gives one.
    pub fn owner(&self, bucket: BucketId) -> ShardId {
        self.owners[bucket.index()]
    }

    /// The owner of each bucket, in order.
    pub fn owners(&self) -> &[ShardId] {
        &self.owners
    }

    /// The buckets of a shard, ascending.
    pub fn buckets_of(&self, shard: ShardId) -> impl Iterator<Item = BucketId> {
        (0..self.buckets())
            .map(BucketId)
            .filter(move |&bucket| self.owner(bucket) == shard)
    }

    /// The form to be stored; `names` are the shards by id.
    ///
    /// # Panics
    /// If a bucket's owner has no name.
    pub fn store(&self, names: &[Box<str>]) -> StoredShardMap {
        let runs = self
            .owners
            .chunk_by(|left, right| left == right)
            .map(|run| {
                let length = u16::try_from(run.len()).expect("a run is not longer than the table");
                assert!(run[0].index() < names.len(), "every owner has a name");
                (run[0].0, length)
            })
            .collect();
        StoredShardMap {
            version: self.version,
            shards: names.to_vec(),
            runs,
        }
    }
}

/// The table as it is written to the state store: it names shards by name, so that the order of
/// the configuration may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredShardMap {
    /// See [`ShardMap::version`].
    pub version: u64,
    /// The names that the runs count.
    pub shards: Vec<Box<str>>,
    /// Runs of buckets with one owner, in order: an index into `shards`, and the run's length.
    pub runs: Vec<(u16, u16)>,
}

impl StoredShardMap {
    /// The table for the shards as they are configured now.
    ///
    /// # Errors
    /// [`ShardMapError::MissingShard`] where a shard that owns buckets is not in `names`: its rows
    /// would be out of reach; [`ShardMapError::Run`] and [`ShardMapError::Buckets`] where what is
    /// stored is damaged.
    pub fn load(&self, names: &[Box<str>]) -> Result<ShardMap, ShardMapError> {
        let mut owners = Vec::new();
        for (index, &(shard, length)) in self.runs.iter().enumerate() {
            let stored = self.shards.get(usize::from(shard));
            let name = stored
                .filter(|_| length > 0)
                .ok_or(ShardMapError::Run(index))?;
            let present = names.iter().position(|candidate| candidate == name);
            let present = present.and_then(|index| u16::try_from(index).ok());
            let Some(present) = present else {
                return Err(ShardMapError::MissingShard {
                    name: name.clone(),
                    buckets: self.owned(shard),
                });
            };
            owners.extend(std::iter::repeat_n(ShardId(present), usize::from(length)));
            if owners.len() > usize::from(u16::MAX) {
                return Err(ShardMapError::Buckets(owners.len()));
            }
        }
        ShardMap::new(self.version, owners)
    }

    fn owned(&self, shard: u16) -> usize {
        self.runs
            .iter()
            .filter(|(owner, _)| *owner == shard)
            .map(|(_, length)| usize::from(*length))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|&name| name.into()).collect()
    }

    fn table(owners: &[u16]) -> ShardMap {
        ShardMap::new(7, owners.iter().copied().map(ShardId).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_stored_table_loads_again_whatever_the_order_of_the_shards() {
        let map = table(&[0, 0, 1, 1, 1, 2, 0]);
        let stored = map.store(&names(&["a", "b", "c"]));
        assert_eq!(stored.runs, [(0, 2), (1, 3), (2, 1), (0, 1)]);
        assert_eq!(stored.load(&names(&["a", "b", "c"])).unwrap(), map);
        assert_eq!(
            stored.load(&names(&["x", "c", "b", "a"])).unwrap(),
            table(&[3, 3, 2, 2, 2, 1, 3])
        );
    }

    #[test]
    fn a_stored_table_whose_shard_is_gone_is_not_loaded() {
        let stored = table(&[0, 1, 1, 0]).store(&names(&["a", "b"]));
        assert_eq!(
            stored.load(&names(&["a"])),
            Err(ShardMapError::MissingShard {
                name: "b".into(),
                buckets: 2
            })
        );
        // a shard that owns nothing may go
        let stored = table(&[0, 0]).store(&names(&["a", "b"]));
        assert!(stored.load(&names(&["a"])).is_ok());
    }

    #[test]
    fn a_damaged_stored_table_is_not_loaded() {
        let stored = |runs: &[(u16, u16)]| StoredShardMap {
            version: 1,
            shards: names(&["a"]),
            runs: runs.to_vec(),
        };
        let load = |runs: &[(u16, u16)]| stored(runs).load(&names(&["a"]));
        assert_eq!(load(&[]), Err(ShardMapError::Buckets(0)));
        assert_eq!(load(&[(0, 1), (1, 1)]), Err(ShardMapError::Run(1)));
        assert_eq!(load(&[(0, 0)]), Err(ShardMapError::Run(0)));
        assert_eq!(
            load(&[(0, 65_535), (0, 1)]),
            Err(ShardMapError::Buckets(65_536))
        );
        assert!(load(&[(0, 65_535)]).is_ok());
    }

    #[test]
    fn the_buckets_of_a_shard_are_those_it_owns() {
        let map = table(&[0, 1, 0, 1]);
        let of = |shard| {
            map.buckets_of(ShardId(shard))
                .map(|bucket| bucket.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(1), [1, 3]);
        assert_eq!(of(2), [] as [u16; 0]);
        assert_eq!(map.owner(BucketId(2)), ShardId(0));
        assert_eq!(map.buckets(), 4);
    }
}
