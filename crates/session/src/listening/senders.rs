//! Which client a server process notifies for.
//!
//! Owns: the clients that are about to notify, by the server connection they do it on. A session enters itself before its statement is sent, and
//! takes itself out once what it sent was heard: who a notification comes from is never guessed. Never does: I/O. Main type: [`Senders`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgherd_topology::NodeId;

use super::copies::Copies;
use crate::registry::ClientId;

/// A client that may notify.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) client: ClientId,
    /// The process id that it was told.
    pub(super) pid: i32,
    /// What it runs on every shard, if it does.
    pub(super) copies: Option<Arc<Copies>>,
}

/// Clients by the server process that notifies for them.
#[derive(Debug, Default)]
pub(super) struct Senders(Mutex<HashMap<(NodeId, i32), Sender>>);

impl Senders {
    pub(super) fn enter(&self, node: NodeId, process: i32, sender: Sender) {
        self.senders().insert((node, process), sender);
    }

    pub(super) fn take_out(&self, node: NodeId, process: i32) {
        self.senders().remove(&(node, process));
    }

    pub(super) fn find(&self, node: NodeId, process: i32) -> Option<Sender> {
        self.senders().get(&(node, process)).cloned()
    }

    fn senders(&self) -> MutexGuard<'_, HashMap<(NodeId, i32), Sender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
