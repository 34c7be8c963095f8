//! Proposes which shard should own which bucket.
//!
//! Owns the consistent hash ring and the bounds on what a shard takes. What it gives is a plan:
//! where rows are already in place, a bucket changes its owner in the table only once its rows
//! have moved. Main function: [`propose`].
//!
//! Placement must come out the same on every machine and in every version: shards enter the ring
//! by name and buckets by number, both as fixed bytes under a hash with a fixed seed, and a golden
//! test holds the outcome.

use std::hash::{BuildHasher, Hash, Hasher};

use consistent_hash_ring::{Ring, RingBuilder};
use xxhash_rust::xxh3::Xxh3;

use crate::ids::{BucketId, ShardId};
use crate::shard_map::{ShardMap, ShardMapError};

/// Points on the ring for the shard of least weight. With the 10 that the ring's own default gives,
/// shares are off by a third and more.
const POINTS: u64 = 256;
/// Points of all shards together, beyond which weights are left to the bounds alone: building the
/// ring costs the square of them (0.1 s for 64 shards of one weight, 1.5 s for 256, unoptimised).
const MAX_POINTS: u64 = 32_768;
/// Never to be changed: every stored table was laid out under it.
const SEED: u64 = 0x7067_6865_7264_2031;

/// A shard as [`propose`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedShard<'a> {
    /// The id that the table will name.
    pub id: ShardId,
    /// The name by which it enters the ring.
    pub name: &'a str,
    /// Its part of the buckets, relative to the others'; 0: none.
    pub weight: u32,
}

/// Lays out `buckets` over the shards, each its weight's share (rounded up or down), starting from
/// `current`: only buckets of shards that have too many, or that are gone, change their owner.
///
/// The version is that of `current` plus one, or 1. The same arguments give the same table on
/// every machine.
///
/// # Errors
/// Where there are no buckets, or no shard of a weight above 0.
pub fn propose(
    shards: &[WeightedShard<'_>],
    buckets: u16,
    current: Option<&ShardMap>,
) -> Result<ShardMap, ShardMapError> {
    let members: Vec<_> = shards.iter().filter(|shard| shard.weight > 0).collect();
    if members.is_empty() {
        return Err(ShardMapError::NoShard);
    }
    if buckets == 0 {
        return Err(ShardMapError::Buckets(0));
    }
    let ring = build_ring(&members);
    // a table of another number of buckets says nothing about this one
    let current = current.filter(|map| map.buckets() == buckets);
    let mut owners: Vec<Option<usize>> = (0..buckets)
        .map(|bucket| {
            let owner = current?.owner(BucketId(bucket));
            members.iter().position(|member| member.id == owner)
        })
        .collect();
    let mut held = vec![0_usize; members.len()];
    for member in owners.iter().flatten() {
        held[*member] += 1;
    }
    let quotas = quotas(&members, usize::from(buckets), &held);
    release_surplus(&ring, &quotas, &mut held, &mut owners);
    for (bucket, owner) in owners.iter_mut().enumerate() {
        if owner.is_none() {
            let member = ring
                .replicas(BucketPoint(bucket))
                .map(|member| member.index)
                .find(|&member| held[member] < quotas[member])
                .expect("the quotas add up to the buckets, so one has room");
            held[member] += 1;
            *owner = Some(member);
        }
    }
    let owners: Vec<_> = owners
        .into_iter()
        .flatten()
        .map(|member| members[member].id)
        .collect();
    ShardMap::new(current.map_or(1, |map| map.version() + 1), owners)
}

/// How many buckets each member shall have: its share rounded down, and one more for as many as it
/// takes to give out all; first for those that hold more anyway, so that less moves.
fn quotas(members: &[&WeightedShard<'_>], buckets: usize, held: &[usize]) -> Vec<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let share = |index: usize| buckets as u64 * u64::from(members[index].weight);
    let mut quotas: Vec<usize> = (0..members.len())
        .map(|index| (share(index) / total) as usize)
        .collect();
    let mut rounded: Vec<usize> = (0..members.len())
        .filter(|&index| share(index) % total > 0)
        .collect();
    rounded.sort_by_key(|&index| {
        (
            held[index] <= quotas[index],
            std::cmp::Reverse(share(index) % total),
            members[index].name,
        )
    });
    let left = buckets - quotas.iter().sum::<usize>();
    for &index in rounded.iter().take(left) {
        quotas[index] += 1;
    }
    quotas
}

/// Takes buckets from members above their quota: first those that the ring gives to somebody who
/// has room, then, where these are too few, from the highest bucket down.
fn release_surplus(
    ring: &Ring<Member, PinnedHasher>,
    quotas: &[usize],
    held: &mut [usize],
    owners: &mut [Option<usize>],
) {
    let has_room: Vec<bool> = held
        .iter()
        .zip(quotas)
        .map(|(held, quota)| held < quota)
        .collect();
    let wanted = |bucket: usize| {
        ring.try_get(BucketPoint(bucket))
            .is_some_and(|member| has_room[member.index])
    };
    let mut order: Vec<usize> = (0..owners.len()).rev().collect();
    order.sort_by_cached_key(|&bucket| !wanted(bucket));
    for bucket in order {
        if let Some(member) = owners[bucket]
            && held[member] > quotas[member]
        {
            held[member] -= 1;
            owners[bucket] = None;
        }
    }
}

fn build_ring(members: &[&WeightedShard<'_>]) -> Ring<Member, PinnedHasher> {
    let least = members
        .iter()
        .map(|member| member.weight)
        .min()
        .unwrap_or(1);
    let points =
        |member: &WeightedShard<'_>| POINTS * u64::from(member.weight) / u64::from(least.max(1));
    let all: u64 = members.iter().map(|member| points(member)).sum();
    let mut builder = RingBuilder::new(PinnedHasher);
    for (index, member) in members.iter().enumerate() {
        let points = if all > MAX_POINTS {
            POINTS
        } else {
            points(member)
        };
        builder = builder.weighted_node(
            Member {
                index,
                name: member.name.into(),
            },
            points as usize,
        );
    }
    builder.build()
}

/// A shard on the ring: hashed by its name and nothing else.
#[derive(Clone, PartialEq, Eq)]
struct Member {
    index: usize,
    name: Box<str>,
}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"shard:");
        state.write(self.name.as_bytes());
    }
}

/// A bucket on the ring: hashed by its number.
struct BucketPoint(usize);

impl Hash for BucketPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"bucket:");
        state.write_u64(self.0 as u64);
    }
}

/// XXH3 with a fixed seed, that writes numbers in one byte order on every machine.
#[derive(Clone, Copy)]
struct PinnedHasher;

impl BuildHasher for PinnedHasher {
    type Hasher = PinnedState;

    fn build_hasher(&self) -> PinnedState {
        PinnedState(Xxh3::with_seed(SEED))
    }
}

struct PinnedState(Xxh3);

impl Hasher for PinnedState {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn shards<'a>(names: &[&'a str], weights: &[u32]) -> Vec<WeightedShard<'a>> {
        names
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(index, (name, &weight))| WeightedShard {
                id: ShardId(index as u16),
                name,
                weight,
            })
            .collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("s{index}")).collect()
    }

    fn equal(names: &[String]) -> Vec<WeightedShard<'_>> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        shards(&names, &vec![1; names.len()])
    }

    fn moved(before: &ShardMap, after: &ShardMap) -> usize {
        let pairs = before.owners().iter().zip(after.owners());
        pairs.filter(|(before, after)| before != after).count()
    }

    /// Each shard's buckets differ from its share by less than one.
    fn assert_balanced(map: &ShardMap, shards: &[WeightedShard<'_>]) {
        let total: u64 = shards.iter().map(|shard| u64::from(shard.weight)).sum();
        for shard in shards {
            let held = map.buckets_of(shard.id).count() as f64;
            let share = f64::from(map.buckets()) * f64::from(shard.weight) / total as f64;
            assert!(
                (held - share).abs() < 1.0,
                "{}: {held} of {share}",
                shard.name
            );
        }
    }

    #[test]
    fn placement_never_changes() {
        let map = propose(&shards(&["s0", "s1", "s2"], &[1, 1, 2]), 4096, None).unwrap();
        let bytes: Vec<u8> = map
            .owners()
            .iter()
            .flat_map(|owner| owner.0.to_le_bytes())
            .collect();
        let start: Vec<u16> = map.owners()[..24].iter().map(|owner| owner.0).collect();
        assert_eq!(start, GOLDEN_START);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), GOLDEN_DIGEST);
    }

    const GOLDEN_START: [u16; 24] = [
        0, 0, 1, 1, 0, 2, 2, 0, 1, 2, 2, 2, 0, 2, 0, 1, 1, 2, 2, 2, 2, 2, 2, 0,
    ];
    const GOLDEN_DIGEST: u64 = 17_868_293_003_745_804_129;

    #[test]
    fn every_shard_gets_its_share_within_one_bucket() {
        for count in [1, 2, 3, 7, 64, 100] {
            let names = names(count);
            let map = propose(&equal(&names), 4096, None).unwrap();
            assert_balanced(&map, &equal(&names));
        }
    }

    #[test]
    fn an_added_shard_takes_its_share_and_nothing_else_moves() {
        for count in [1, 2, 3, 10, 63, 64] {
            let names = names(count + 1);
            let before = propose(&equal(&names[..count]), 4096, None).unwrap();
            let after = propose(&equal(&names), 4096, Some(&before)).unwrap();
            assert_balanced(&after, &equal(&names));
            assert_eq!(after.version(), 2);
            let newcomer = after.buckets_of(ShardId(count as u16)).count();
            assert_eq!(moved(&before, &after), newcomer, "{count} shards");
            assert!((newcomer as f64) <= 4096.0 / (count + 1) as f64 * 1.1 + 1.0);
        }
    }

    #[test]
    fn a_removed_shard_gives_away_its_buckets_and_no_others_move() {
        for count in [2, 3, 10, 64, 65] {
            let names = names(count);
            let before = propose(&equal(&names), 4096, None).unwrap();
            let mut left = equal(&names);
            let gone = left.remove(count / 2);
            let after = propose(&left, 4096, Some(&before)).unwrap();
            assert_balanced(&after, &left);
            assert_eq!(moved(&before, &after), before.buckets_of(gone.id).count());
        }
    }

    #[test]
    fn the_order_of_the_shards_does_not_matter() {
        let names = names(7);
        let mut all = equal(&names);
        let map = propose(&all, 4096, None).unwrap();
        all.reverse();
        assert_eq!(propose(&all, 4096, None).unwrap(), map);
        all.rotate_left(3);
        assert_eq!(propose(&all, 4096, None).unwrap(), map);
    }

    #[test]
    fn a_table_that_fits_is_left_as_it_is() {
        let names = names(5);
        let before = propose(&equal(&names), 4096, None).unwrap();
        let again = propose(&equal(&names), 4096, Some(&before)).unwrap();
        assert_eq!(before.owners(), again.owners());
    }

    #[test]
    fn without_shards_or_buckets_there_is_nothing_to_propose() {
        assert_eq!(propose(&[], 4096, None), Err(ShardMapError::NoShard));
        assert_eq!(
            propose(&shards(&["a"], &[0]), 1, None),
            Err(ShardMapError::NoShard)
        );
        assert_eq!(
            propose(&shards(&["a"], &[1]), 0, None),
            Err(ShardMapError::Buckets(0))
        );
    }

    #[test]
    fn extreme_weights_and_more_shards_than_buckets_are_laid_out() {
        let all = shards(&["a", "b", "c"], &[1, u32::MAX, 0]);
        let map = propose(&all, 4096, None).unwrap();
        assert_balanced(&map, &all);
        let names = names(20);
        let map = propose(&equal(&names), 7, None).unwrap();
        assert_balanced(&map, &equal(&names));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn weights_are_kept_through_additions_and_removals(
            weights in prop::collection::vec(1_u32..6, 2..12),
            buckets in 64_u16..1024,
            gone in any::<prop::sample::Index>(),
        ) {
            let names = names(weights.len());
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let all = shards(&names, &weights);
            let (_, fewer) = all.split_last().unwrap();
            let before = propose(fewer, buckets, None).unwrap();
            assert_balanced(&before, fewer);
            let after = propose(&all, buckets, Some(&before)).unwrap();
            assert_balanced(&after, &all);

            let mut left = all.clone();
            let gone = left.remove(gone.index(left.len()));
            let last = propose(&left, buckets, Some(&after)).unwrap();
            assert_balanced(&last, &left);
            prop_assert_eq!(moved(&after, &last), after.buckets_of(gone.id).count());
        }
    }
}
