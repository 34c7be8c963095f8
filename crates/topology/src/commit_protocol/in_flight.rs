//! Which transactions over shards this process is committing now, so that its own recovery leaves them alone.
//!
//! Owns the registry. Never talks to a server. Main type: [`InFlight`].

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TransactionName;

/// The registry, shared by every session and by recovery; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    names: Mutex<HashSet<TransactionName>>,
    abandoned: AtomicU64,
}

impl InFlight {
    /// Before the first PREPARE is sent. The transaction is the session's until the guard goes; a guard that goes without
    /// [`InFlightGuard::finish`] hands it to recovery, at once.
    #[must_use = "recovery takes the transaction when the guard is dropped"]
    pub fn register(&self, name: TransactionName) -> InFlightGuard {
        self.names().insert(name.clone());
        InFlightGuard {
            registry: self.clone(),
            name,
            end: End::Abandoned,
        }
    }

    /// Whether a session of this process still works on it.
    ///
    /// Ask only after `pg_prepared_xacts` was read: a half that is listed and no longer in flight has been given up or
    /// finished, while the other order would see one that was not yet prepared as given up.
    pub fn contains(&self, name: &TransactionName) -> bool {
        self.names().contains(name)
    }

    /// How many transactions sessions have handed to recovery since the start; recovery wakes when it rises.
    pub fn abandoned(&self) -> u64 {
        self.0.abandoned.load(Ordering::Acquire)
    }

    // The set is valid between any two of its operations, so a thread that panicked elsewhere does not spoil it.
    fn names(&self) -> MutexGuard<'_, HashSet<TransactionName>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One transaction's entry in the registry.
#[derive(Debug)]
pub struct InFlightGuard {
    registry: InFlight,
    name: TransactionName,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Abandoned,
}

impl InFlightGuard {
    /// Every half is known to be finished: nothing is left for recovery.
    pub fn finish(mut self) {
        self.end = End::Finished;
    }

    /// The transaction that this entry stands for.
    pub const fn name(&self) -> &TransactionName {
        &self.name
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.registry.names().remove(&self.name);
        match self.end {
            End::Finished => {}
            End::Abandoned => {
                self.registry.0.abandoned.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::commit_protocol::{CommitSecret, HerdId, ProxyId};

    #[test]
    fn only_a_guard_that_was_not_finished_wakes_recovery() {
        let in_flight = InFlight::default();
        let name = TransactionName::new(
            HerdId(1),
            ProxyId(2),
            &CommitSecret::from_random([3; 32]),
            "s0",
        )
        .unwrap();
        let guard = in_flight.register(name.clone());
        assert!(in_flight.contains(&name));
        guard.finish();
        assert!(!in_flight.contains(&name));
        assert_eq!(in_flight.abandoned(), 0);
        drop(in_flight.register(name.clone()));
        assert!(!in_flight.contains(&name));
        assert_eq!(in_flight.abandoned(), 1);
    }
}
