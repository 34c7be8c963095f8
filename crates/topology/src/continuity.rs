//! What clients are promised while a shard changes its primary.
//!
//! Owns the plain data that control publishes for it, and the ledger in which everybody who relays says that nothing more is read from a
//! deposed primary. Never decides anything, never waits. Main types: [`Continuity`], [`CutLedger`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::Epoch;

/// What a shard promises to clients over a change of its primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuity {
    /// For how long work that has not begun is held while there is no primary that could do it; zero: not at all.
    pub hold: Duration,
    /// Whether pgherd itself promotes here: only then is it known what became of transactions whose answer was lost.
    pub promotes: bool,
    /// Whether commits are acknowledged by standbys too: each connection to the primary then insists on `synchronous_commit = on`.
    pub synchronous: bool,
    /// Where earlier reigns ended, oldest first.
    pub horizons: Arc<[Horizon]>,
    /// The first reign since which they tell everything: before it a primary may have crashed and given out the same ids again, or an operator
    /// may have named another one.
    pub complete_since: Epoch,
}

impl Continuity {
    /// What became of a transaction whose connection was opened in `opened_in`, if pgherd has changed the primary since.
    pub fn fate(&self, opened_in: Epoch, xid: u64) -> Option<Fate> {
        if opened_in < self.complete_since {
            return None;
        }
        let ended = self
            .horizons
            .iter()
            .find(|horizon| horizon.epoch > opened_in)?;
        Some(if xid < ended.xid {
            Fate::Recorded
        } else {
            Fate::NeverArrived
        })
    }
}

/// The first transaction id that the history of a new primary does not know of when its reign begins: those from there on that another
/// primary gave out never arrived, and are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The reign that began there.
    pub epoch: Epoch,
    /// A full transaction id (`xid8`).
    pub xid: u64,
}

/// What the present primary can say about a transaction of an earlier reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// `pg_xact_status` there tells, once a row written there afterwards is acknowledged.
    Recorded,
    /// Its id means nothing there: it did not commit.
    NeverArrived,
}

/// Who relays a shard's answers, and from which reign on each of them does so: nothing is read any more from a connection that was opened in an
/// earlier one. Shared by all versions of the topology.
#[derive(Debug, Default)]
pub struct CutLedger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    parties: Vec<(u64, Epoch)>,
}

/// One that relays, as long as it lives.
#[derive(Debug)]
pub struct CutParty {
    ledger: Arc<CutLedger>,
    id: u64,
}

impl CutLedger {
    /// Enters one that relays answers from connections of `epoch` and later only.
    pub fn enter(self: &Arc<Self>, epoch: Epoch) -> CutParty {
        let mut entries = self.entries();
        let id = entries.next;
        entries.next += 1;
        entries.parties.push((id, epoch));
        drop(entries);
        CutParty {
            ledger: Arc::clone(self),
            id,
        }
    }

    /// Whether nobody relays anything from a connection of a reign before `epoch` any more.
    pub fn is_cut(&self, epoch: Epoch) -> bool {
        self.entries()
            .parties
            .iter()
            .all(|(_, relays)| *relays >= epoch)
    }

    // each change is one assignment
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CutParty {
    /// From now on nothing is relayed from connections of reigns before `epoch`.
    pub fn confirm(&self, epoch: Epoch) {
        let mut entries = self.ledger.entries();
        if let Some((_, relays)) = entries.parties.iter_mut().find(|(id, _)| *id == self.id) {
            *relays = epoch.max(*relays);
        }
    }
}

impl Drop for CutParty {
    fn drop(&mut self) {
        self.ledger
            .entries()
            .parties
            .retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_judged_by_the_end_of_the_reign_that_it_began_in() {
        let horizon = |epoch, xid| Horizon {
            epoch: Epoch(epoch),
            xid,
        };
        let continuity = Continuity {
            horizons: [horizon(2, 100), horizon(5, 300)].into(),
            ..Continuity::default()
        };
        assert_eq!(continuity.fate(Epoch(1), 99), Some(Fate::Recorded));
        // the second reign gave out 100 again
        assert_eq!(continuity.fate(Epoch(1), 100), Some(Fate::NeverArrived));
        assert_eq!(continuity.fate(Epoch(2), 100), Some(Fate::Recorded));
        assert_eq!(continuity.fate(Epoch(4), 300), Some(Fate::NeverArrived));
        assert_eq!(continuity.fate(Epoch(5), 1), None);
        let crashed = Continuity {
            complete_since: Epoch(2),
            ..continuity
        };
        assert_eq!(crashed.fate(Epoch(1), 99), None);
        assert_eq!(crashed.fate(Epoch(2), 99), Some(Fate::Recorded));
    }

    #[test]
    fn a_reign_is_cut_off_once_everybody_who_relays_has_said_so() {
        let ledger = Arc::new(CutLedger::default());
        assert!(ledger.is_cut(Epoch(2)));
        let one = ledger.enter(Epoch(1));
        let other = ledger.enter(Epoch(1));
        one.confirm(Epoch(2));
        assert!(!ledger.is_cut(Epoch(2)));
        drop(other);
        assert!(ledger.is_cut(Epoch(2)));
        assert!(!ledger.is_cut(Epoch(3)));
    }
}
