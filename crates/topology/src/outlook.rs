//! What would come of a failover now.
//!
//! Owns the plain data that control publishes and operators look at; never decides anything. Main type: [`Outlook`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{Lsn, NodeId};

/// A shard's prospects if its primary were given up now, as far as its servers have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// What is to be thought of the primary, in a sentence.
    pub verdict: Box<str>,
    /// Whether it counts as dead.
    pub dead: bool,
    /// Whose acknowledgement a commit waits for.
    pub acknowledged_by: Box<str>,
    /// The other servers, in the order of the configuration.
    pub standbys: Vec<StandbyOutlook>,
    /// Who would be promoted.
    pub candidate: Option<NodeId>,
    /// What would be lost, in a sentence; where `safe`, that nothing would.
    pub loss: Box<str>,
    /// Whether it is proven that the candidate has each write that was acknowledged.
    pub safe: bool,
}

/// A server that could follow the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyOutlook {
    /// Its id.
    pub node: NodeId,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Whether it answers, and streams, in words.
    pub state: Box<str>,
    /// The timeline it has come to.
    pub timeline: Option<u32>,
    /// The end of the WAL that it has.
    pub reached: Option<Lsn>,
    /// The end of what it has replayed.
    pub replayed: Option<Lsn>,
    /// Its rank among candidates.
    pub priority: u32,
    /// The name by which it acknowledges commits.
    pub application_name: Option<Box<str>>,
}

/// The newest [`Outlook`] of a shard, shared by all versions of the topology: it changes with each answer of a server, of which sessions
/// need not hear.
#[derive(Debug, Default)]
pub struct OutlookCell(Mutex<Option<Arc<Outlook>>>);

impl OutlookCell {
    /// The newest; `None` while no primary was ever known.
    pub fn latest(&self) -> Option<Arc<Outlook>> {
        self.lock().clone()
    }

    /// Replaces it.
    pub fn publish(&self, outlook: Option<Arc<Outlook>>) {
        *self.lock() = outlook;
    }

    // replaced as a whole, so that a panic elsewhere cannot leave it half changed
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Outlook>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
