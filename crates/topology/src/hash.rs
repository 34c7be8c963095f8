//! Postgres' own partition hash: the same bytes give the same bucket here and on the servers.
//!
//! Owns the mixing of bytes and the combining of columns; what the bytes of a value are is the
//! business of [`crate::key`]. The algorithm is Bob Jenkins' lookup3 in the variant of 64 bits that
//! Postgres uses (`hash_bytes_extended`, src/common/hashfn.c), as a little-endian server computes
//! it. `satisfies_hash_partition` on a real server is what the tests compare with.

use crate::ids::BucketId;

/// `HASH_PARTITION_SEED`, src/include/catalog/partition.h.
pub const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// The constant of `hash_combine64`, src/include/common/hashfn.h.
const COMBINE: u64 = 0x49A0_F4DD_15E5_A8E3;

/// Where lookup3 starts, before the length is added: the golden ratio, and Postgres' own offset.
const START: u32 = 0x9E37_79B9_u32.wrapping_add(3_923_095);

/// The hash of a row's key from the hashes of its columns, in order; a NULL column (`None`) does
/// not count, as in `compute_partition_hash_value`.
///
/// A key of one column is its hash plus a constant; the empty key is 0.
pub fn combine_hashes(columns: impl IntoIterator<Item = Option<u64>>) -> u64 {
    columns.into_iter().flatten().fold(0, combine_hash)
}

/// One more column that is not NULL, behind those combined so far (0: none).
pub fn combine_hash(row: u64, column: u64) -> u64 {
    row ^ column
        .wrapping_add(COMBINE)
        .wrapping_add(row << 54)
        .wrapping_add(row >> 7)
}

/// The bucket of a row whose key hashes to `combined`, of `buckets` (at least 1): the remainder for
/// which `satisfies_hash_partition(table, buckets, remainder, key...)` is true.
///
/// # Panics
/// If `buckets` is 0.
pub fn bucket_of(combined: u64, buckets: u16) -> BucketId {
    let remainder = combined % u64::from(buckets);
    BucketId(u16::try_from(remainder).expect("a remainder is smaller than its divisor, a u16"))
}

/// The three words that lookup3 turns over each other.
struct Lookup3 {
    a: u32,
    b: u32,
    c: u32,
}

impl Lookup3 {
    /// Ready for `length` bytes under the partition seed. The length wraps beyond 4 GiB, which no
    /// value of Postgres reaches.
    fn new(length: usize) -> Self {
        let start = START.wrapping_add(length as u32);
        let mut words = Self {
            a: start.wrapping_add((PARTITION_SEED >> 32) as u32),
            b: start.wrapping_add(PARTITION_SEED as u32),
            c: start,
        };
        words.mix();
        words
    }

    /// One round in the middle: four words of rotation each way, reversible, so that no input is lost.
    fn mix(&mut self) {
        let Self { a, b, c } = self;
        for (first, second) in [(4, 6), (16, 19)] {
            *a = a.wrapping_sub(*c) ^ c.rotate_left(first);
            *c = c.wrapping_add(*b);
            *b = b.wrapping_sub(*a) ^ a.rotate_left(second);
            *a = a.wrapping_add(*c);
            let third = if first == 4 { 8 } else { 4 };
            *c = c.wrapping_sub(*b) ^ b.rotate_left(third);
            *b = b.wrapping_add(*a);
        }
    }

    /// The last round, and the result.
    fn finish(self) -> u64 {
        let Self {
            mut a,
            mut b,
            mut c,
        } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        u64::from(b) << 32 | u64::from(c)
    }
}

/// `hash_any_extended` under the partition seed.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut words = Lookup3::new(bytes.len());
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        words.a = words.a.wrapping_add(word(&block[..4]));
        words.b = words.b.wrapping_add(word(&block[4..8]));
        words.c = words.c.wrapping_add(word(&block[8..]));
        words.mix();
    }
    let rest = blocks.remainder();
    words.a = words.a.wrapping_add(word(&rest[..rest.len().min(4)]));
    words.b = words
        .b
        .wrapping_add(word(&rest[rest.len().min(4)..rest.len().min(8)]));
    // the lowest byte of the third word was taken by the length, in the algorithm's first version
    words.c = words.c.wrapping_add(word(&rest[rest.len().min(8)..]) << 8);
    words.finish()
}

/// `hash_uint32_extended` under the partition seed.
pub(crate) fn hash_u32(value: u32) -> u64 {
    let mut words = Lookup3::new(size_of::<u32>());
    words.a = words.a.wrapping_add(value);
    words.finish()
}

/// `hashint8extended`: folded so that a number hashes alike in 16, 32 and 64 bits.
pub(crate) fn hash_i64(value: i64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_u32(low ^ if value >= 0 { high } else { !high })
}

/// Up to four bytes as a little-endian number.
fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_column_is_its_hash_plus_a_constant() {
        assert_eq!(combine_hashes([Some(7)]), 7 + COMBINE);
        assert_eq!(combine_hashes([Some(u64::MAX)]), COMBINE - 1);
        let plain = (hash_i64(42) & 4095) + 2275;
        assert_eq!(
            u64::from(bucket_of(combine_hashes([Some(hash_i64(42))]), 4096).0),
            plain & 4095
        );
    }

    #[test]
    fn null_columns_do_not_count() {
        assert_eq!(combine_hashes([None, None]), 0);
        assert_eq!(combine_hashes([None, Some(5)]), combine_hashes([Some(5)]));
        assert_ne!(
            combine_hashes([Some(5), Some(6)]),
            combine_hashes([Some(6), Some(5)])
        );
    }

    #[test]
    fn a_number_hashes_alike_in_every_width() {
        for value in [0_i32, 1, -1, 7, i32::MIN, i32::MAX] {
            assert_eq!(
                hash_i64(i64::from(value)),
                hash_u32(value as u32),
                "{value}"
            );
        }
    }

    #[test]
    fn any_number_of_buckets_from_1_to_65535_works() {
        assert_eq!(bucket_of(u64::MAX, 1), BucketId(0));
        assert_eq!(bucket_of(u64::MAX, 4096), BucketId(4095));
        assert_eq!(bucket_of(65_534, u16::MAX), BucketId(65_534));
    }
}
