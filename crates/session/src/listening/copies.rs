//! What a statement that runs on one shard after the other notifies of on each, to be heard once.
//!
//! Owns: counting. A statement that says something twice on one shard is heard twice. (A statement that is all or none on several shards cannot
//! notify: Postgres does not prepare a transaction that has.) Never does: I/O. Main type: [`Copies`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pgherd_topology::ShardId;

/// The notifications of one statement, on however many shards.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<HashMap<Bytes, Heard>>);

/// How often the same was heard.
#[derive(Debug, Default)]
struct Heard {
    on: HashMap<ShardId, usize>,
    passed_on: usize,
}

impl Copies {
    /// Whether a notification is a new one, and not another shard's copy of one that was passed on. `notification` is its frame.
    pub(super) fn is_new(&self, shard: ShardId, notification: &Bytes) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.entry(notification.clone()).or_default();
        let here = heard.on.entry(shard).or_default();
        *here += 1;
        let is_new = *here > heard.passed_on;
        heard.passed_on += usize::from(is_new);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_shard_says_is_heard_once_and_what_one_says_twice_is_heard_twice() {
        let copies = Copies::default();
        let (news, other) = (Bytes::from_static(b"news"), Bytes::from_static(b"other"));
        assert!(copies.is_new(ShardId(0), &news));
        assert!(copies.is_new(ShardId(0), &news));
        assert!(!copies.is_new(ShardId(1), &news));
        assert!(copies.is_new(ShardId(1), &other));
        assert!(!copies.is_new(ShardId(1), &news));
        assert!(copies.is_new(ShardId(1), &news));
        assert!(!copies.is_new(ShardId(2), &other));
    }
}
