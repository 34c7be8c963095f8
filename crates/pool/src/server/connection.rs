//! What is known of one open server connection.
//!
//! Owns the decision whether the connection may serve another client: [`ServerConnection::is_clean`]. Never reads
//! the protocol itself: the session that holds it reports what it sent and what came. Main type:
//! [`ServerConnection`].

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use pgherd_protocol::{CancelKey, TransactionStatus};
use pgherd_tls::ClientTls;
use pgherd_topology::{Epoch, NodeId, ShardId};

use super::{Canceller, Server};
use crate::pools::{Holding, Member};
use crate::transport::{Available, Transport};

/// A connection to a Postgres server, logged in.
#[derive(Debug)]
pub struct ServerConnection {
    /// The bytes. Whoever puts a request on its outbox tells [`Self::note_request`].
    pub transport: Transport,
    /// The statements prepared here. The pool leaves them; who prepares them sees to it that they can stay.
    pub prepared: PreparedStatements,
    /// What a client's startup message asked for and the connection was brought to. The pool leaves it: who takes the connection keeps it
    /// where it is what he wants, or undoes it.
    pub carried: Option<Arc<CarriedSettings>>,
    parameters: Parameters,
    status: TransactionStatus,
    /// ReadyForQuery messages still to come.
    owed: u32,
    /// What was written when the last owed ReadyForQuery came.
    settled_at: u64,
    dirty: Option<&'static str>,
    /// What a reset takes away again.
    changed: Option<&'static str>,
    last_used: Instant,
    origin: Origin,
}

/// Settings that a connection can go from one client to the next with.
#[derive(Debug, PartialEq, Eq)]
pub struct CarriedSettings {
    /// The statements that make them.
    pub apply: Box<str>,
    /// The statements that bring back what the connection was opened with.
    pub undo: Box<str>,
}

/// What never changes while a connection lives.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) server: Arc<Server>,
    pub(crate) tls: Arc<ClientTls>,
    pub(crate) epoch: Epoch,
    pub(crate) pid: i32,
    pub(crate) cancel_key: Option<CancelKey>,
    pub(crate) created: Instant,
    pub(crate) expires: Option<Instant>,
    /// The thread whose runtime drives it, where each thread has its own.
    pub(crate) home: Option<ThreadId>,
    pub(crate) member: Arc<Member>,
    pub(crate) connect_query: Option<Arc<str>>,
}

impl ServerConnection {
    pub(crate) fn new(transport: Transport, parameters: Parameters, origin: Origin) -> Self {
        let settled_at = transport.bytes_written();
        Self {
            transport,
            prepared: PreparedStatements::default(),
            carried: None,
            parameters,
            status: TransactionStatus::Idle,
            owed: 0,
            settled_at,
            dirty: None,
            changed: None,
            last_used: origin.created,
            origin,
        }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.origin.server
    }

    /// The server's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.origin.server.node
    }

    /// The shard that the server belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.origin.server.shard
    }

    /// The shard's epoch when the connection was opened.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.origin.epoch
    }

    /// The backend's process id; 0 if the server gave none.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.origin.pid
    }

    /// What it takes to cancel what runs here, independent of the connection's life. `None` if the server gave no
    /// key.
    #[must_use]
    pub fn canceller(&self) -> Option<Canceller> {
        Some(Canceller {
            server: Arc::clone(&self.origin.server),
            tls: Arc::clone(&self.origin.tls),
            pid: self.origin.pid,
            key: self.origin.cancel_key.clone()?,
        })
    }

    /// When it was opened.
    #[must_use]
    pub fn created(&self) -> Instant {
        self.origin.created
    }

    /// When it was last given back to its pool.
    #[must_use]
    pub fn last_used(&self) -> Instant {
        self.last_used
    }

    /// The server's parameters as last reported.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Takes [`Self::carried`] away: the statements that bring back what the connection was opened with.
    pub fn undo_carried(&mut self) -> Option<String> {
        let carried = self.carried.take()?;
        let undo = &carried.undo;
        Some(match &self.origin.connect_query {
            // it may end in a comment, and other statements follow
            Some(query) => format!("{undo}{query}\n;\n"),
            None => undo.to_string(),
        })
    }

    /// A ParameterStatus came.
    pub fn note_parameter(&mut self, name: &str, value: &str) {
        self.parameters.set(name, value);
    }

    /// A Query, Sync or FunctionCall was put on the outbox: one more ReadyForQuery is owed.
    pub fn note_request(&mut self) {
        self.owed = self.owed.saturating_add(1);
        self.origin.member.hold(match self.status {
            TransactionStatus::Idle => Holding::Running,
            TransactionStatus::InTransaction => Holding::InTransaction,
            TransactionStatus::Failed => Holding::Failed,
        });
    }

    /// A ReadyForQuery came.
    pub fn note_ready(&mut self, status: TransactionStatus) {
        self.status = status;
        self.owed = self.owed.saturating_sub(1);
        if self.owed == 0 {
            self.settled_at = self.transport.bytes_written();
        }
        self.origin.member.hold(match status {
            TransactionStatus::Idle if self.owed == 0 => Holding::Kept,
            TransactionStatus::Idle => Holding::Running,
            TransactionStatus::InTransaction => Holding::InTransaction,
            TransactionStatus::Failed => Holding::Failed,
        });
    }

    /// Where the last ReadyForQuery left the transaction.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// How many ReadyForQuery messages are still to come.
    #[must_use]
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// The connection must not serve another client: it is closed when given back. The first reason stays; it
    /// is counted and logged.
    pub fn mark_dirty(&mut self, reason: &'static str) {
        self.dirty.get_or_insert(reason);
    }

    /// A client left something on it: it must not serve another one before [`Self::reset`]. The first reason stays.
    pub fn mark_changed(&mut self, reason: &'static str) {
        self.changed.get_or_insert(reason);
    }

    /// It was reset.
    pub(super) fn mark_unchanged(&mut self) {
        self.changed = None;
    }

    /// Why it must not serve another client, if so.
    #[must_use]
    pub fn dirty(&self) -> Option<&'static str> {
        self.dirty
    }

    /// Whether another client may have it: every request that was sent is answered, no transaction is open, no
    /// byte waits in either direction, and nobody marked it.
    ///
    /// Bytes that were sent without [`Self::note_request`] count as unanswered, too: one answer too many would be
    /// read by the next client as its own.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unclean().is_none()
    }

    /// Why another client may not have it.
    pub(crate) fn unclean(&self) -> Option<&'static str> {
        if let Some(reason) = self.dirty.or(self.changed) {
            return Some(reason);
        }
        match self.status {
            TransactionStatus::Idle => {}
            TransactionStatus::InTransaction => return Some("a transaction was left open"),
            TransactionStatus::Failed => return Some("a failed transaction was left open"),
        }
        self.unsettled()
    }

    /// What is still to be sent or to come.
    pub(super) fn unsettled(&self) -> Option<&'static str> {
        if !self.transport.is_flushed() {
            return Some("a request was not sent to its end");
        }
        if self.owed > 0 || self.transport.bytes_written() != self.settled_at {
            return Some("a request was left unanswered");
        }
        if !self.transport.inbox.is_empty() {
            return Some("an answer was left unread");
        }
        None
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// Whether an unused connection is still good for use: the server closed it not, nor said anything, which it
    /// does only to say that it ends. Costs no system call unless something came.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.transport.try_fill(), Ok(Available::Nothing))
    }

    /// Closes without waiting. Terminate is only sent where the server is at a message's beginning: after half a
    /// message it would be read as the rest of it.
    pub(crate) fn close_at_once(mut self) {
        const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
        if self.transport.is_flushed() {
            self.transport.outbox.extend_from_slice(&TERMINATE);
        } else {
            self.transport.outbox.clear();
        }
        self.transport.close_at_once();
    }
}

/// A server's reported parameters (ParameterStatus): `server_version`, `TimeZone`, `standard_conforming_strings`
/// and the like. A dozen or so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(Box<str>, Box<str>)>);

impl Parameters {
    /// The value last reported.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| &**value)
    }

    /// Replaces or adds one.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) if **old == *value => {}
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name.into(), value.into())),
        }
    }

    /// All, in the order in which they first came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// The statements prepared on a connection, each with the generation of the text it was prepared from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedStatements {
    named: HashMap<Box<[u8]>, u64>,
    unnamed: Option<u64>,
}

impl PreparedStatements {
    /// The generation that stands under a name; the empty name is the unnamed statement.
    #[must_use]
    pub fn generation(&self, name: &[u8]) -> Option<u64> {
        if name.is_empty() {
            self.unnamed
        } else {
            self.named.get(name).copied()
        }
    }

    /// A statement was prepared under a name.
    pub fn insert(&mut self, name: &[u8], generation: u64) {
        if name.is_empty() {
            self.unnamed = Some(generation);
        } else if let Some(old) = self.named.get_mut(name) {
            *old = generation;
        } else {
            self.named.insert(name.into(), generation);
        }
    }

    /// A statement was closed, or its preparation failed. Returns what stood there.
    pub fn remove(&mut self, name: &[u8]) -> Option<u64> {
        if name.is_empty() {
            self.unnamed.take()
        } else {
            self.named.remove(name)
        }
    }

    /// Everything was closed (`DISCARD ALL`, `DEALLOCATE ALL`).
    pub fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    /// How many named statements there are.
    #[must_use]
    pub fn named_len(&self) -> usize {
        self.named.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_empty_name_is_a_statement_of_its_own() {
        let mut prepared = PreparedStatements::default();
        prepared.insert(b"", 1);
        prepared.insert(b"a", 2);
        assert_eq!(
            (prepared.generation(b""), prepared.generation(b"a")),
            (Some(1), Some(2))
        );
        prepared.insert(b"a", 3);
        assert_eq!(prepared.remove(b"a"), Some(3));
        assert_eq!(prepared.generation(b""), Some(1));
        prepared.clear();
        assert_eq!(prepared, PreparedStatements::default());
    }

    #[test]
    fn a_parameter_is_replaced_by_what_is_reported_last() {
        let mut parameters = Parameters::default();
        parameters.set("TimeZone", "UTC");
        parameters.set("TimeZone", "Europe/Berlin");
        assert_eq!(parameters.value("TimeZone"), Some("Europe/Berlin"));
        assert_eq!(parameters.iter().count(), 1);
        assert_eq!(parameters.value("timezone"), None);
    }
}
