//! What is known of one open server connection.
//!
//! Owns the decision whether the connection may serve another client: [`ServerConnection::is_clean`]. Never reads
//! the protocol itself: the session that holds it reports what it sent and what came. Main type:
//! [`ServerConnection`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Instant;

use pgherd_protocol::{CancelKey, TransactionStatus};
use pgherd_tls::ClientTls;
use pgherd_topology::{Epoch, NodeId, ShardId};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Canceller, CarriedSettings, PreparedStatements, Server, SetScope};
use crate::pools::{Holding, Member};
use crate::transport::{Available, Transport};

/// What takes back whatever code of a client's may have left on a connection.
const CLEANING: [&str; 8] = [
    // what follows is for the login's role to do, and RESET ALL leaves the role alone
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ROLE",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
];

/// Which clients may have drawn numbers from sequences on a connection, since it last forgot them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drawn {
    /// None has.
    #[default]
    ByNobody,
    /// This one alone.
    By(u64),
    /// Several.
    BySeveral,
}

impl Drawn {
    /// A client may draw, too.
    pub fn add(&mut self, client: u64) {
        *self = match *self {
            Self::ByNobody => Self::By(client),
            Self::By(before) if before == client => Self::By(client),
            Self::By(_) | Self::BySeveral => Self::BySeveral,
        }
    }

    /// Whether another client than this one may have drawn.
    pub fn by_others(self, client: u64) -> bool {
        match self {
            Self::ByNobody => false,
            Self::By(before) => before != client,
            Self::BySeveral => true,
        }
    }
}

/// A connection to a Postgres server, logged in.
#[derive(Debug)]
pub struct ServerConnection {
    /// The bytes. Whoever puts a request on its outbox tells [`Self::note_request`].
    pub transport: Transport,
    /// The statements prepared here. The pool leaves them, for whoever wants the same ones.
    pub prepared: PreparedStatements,
    /// The settings that it has beyond its login's, as of its last commit; `None` is none. The pool leaves them: who takes the connection
    /// brings it to his own ([`Self::statements_to`]).
    pub carried: Option<Arc<CarriedSettings>>,
    /// The client for which code ran here that was not read: whatever it left is for nobody else.
    pub tainted_by: Option<u64>,
    /// Of whose numbers `currval` and `lastval` speak here.
    pub drawn: Drawn,
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
    canceller: Option<Arc<Canceller>>,
    origin: Origin,
}

/// What never changes while a connection lives.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) server: Arc<Server>,
    /// Where it leads; `None` is a Unix socket.
    pub(crate) peer: Option<SocketAddr>,
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
    pub(crate) fn new(mut transport: Transport, parameters: Parameters, origin: Origin) -> Self {
        transport.end_with(origin.member.cutoff());
        let settled_at = transport.bytes_written();
        let canceller = origin.cancel_key.clone().map(|key| {
            Arc::new(Canceller {
                server: Arc::clone(&origin.server),
                peer: origin.peer,
                tls: Arc::clone(&origin.tls),
                pid: origin.pid,
                key,
            })
        });
        Self {
            transport,
            canceller,
            prepared: PreparedStatements::default(),
            carried: None,
            tainted_by: None,
            drawn: Drawn::default(),
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
    pub fn canceller(&self) -> Option<Arc<Canceller>> {
        self.canceller.clone()
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

    /// Of what was put on the outbox, so many Queries are not answered: an error ahead of them makes the server skip them.
    pub fn forget_requests(&mut self, queries: u32) {
        self.owed = self.owed.saturating_sub(queries);
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

    /// Nothing is left on it of what [`Self::mark_changed`] was told of: it was reset, or the client took it back.
    pub fn mark_unchanged(&mut self) {
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

    /// The statements that bring it from what it has to what `client` wants, to be sent one by one within one transaction. What another
    /// client's code may have left goes first.
    #[must_use]
    pub fn statements_to(&self, client: u64, wanted: Option<&Arc<CarriedSettings>>) -> Vec<String> {
        let tainted = self.tainted_by.is_some_and(|owner| owner != client);
        if !tainted && self.carried.as_ref() == wanted {
            return Vec::new();
        }
        let none = CarriedSettings::default();
        let wanted = wanted.map_or(&none, AsRef::as_ref);
        let has = match &self.carried {
            Some(carried) if !tainted => carried,
            Some(_) | None => &none,
        };
        let connect_query = self.origin.connect_query.as_deref();
        let mut statements = Vec::new();
        if tainted {
            statements.extend(
                CLEANING
                    .iter()
                    .copied()
                    .chain(connect_query)
                    .map(Into::into),
            );
        }
        statements.append(&mut has.statements_over(connect_query, wanted, SetScope::Session));
        statements
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The thread whose runtime drives it, where each thread has its own.
    pub(crate) fn home(&self) -> Option<ThreadId> {
        self.origin.home
    }

    /// Has the current thread's runtime drive it: an answer that comes by way of another thread costs more than this does once. To be called
    /// after [`Self::is_alive`], which only knows what the runtime has seen.
    pub(crate) fn move_home(&mut self) {
        let home = self.origin.home;
        if home.is_none() || home == Some(thread::current().id()) {
            return;
        }
        match self.transport.adopt() {
            Ok(()) => self.origin.home = here(),
            Err(error) => {
                tracing::debug!(pid = self.pid(), %error, "a server connection stays with another thread");
            }
        }
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

/// The current thread, where its runtime is its own.
pub(crate) fn here() -> Option<ThreadId> {
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then(|| thread::current().id())
}

/// Those of a server's parameters that a session's settings change, so that its client is to hear of them. The rest is said once, at login.
const REPORTED: [&str; 10] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "standard_conforming_strings",
    "TimeZone",
];

/// A server's reported parameters (ParameterStatus): `server_version`, `TimeZone`, `standard_conforming_strings`
/// and the like. A dozen or so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    values: Vec<(Box<str>, Box<str>)>,
    /// A digest of those that a session's settings change.
    digest: u64,
}

impl Parameters {
    /// The value last reported.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| &**value)
    }

    /// Replaces or adds one.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.values.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) if **old == *value => return,
            Some((_, old)) => {
                self.digest ^= digest(name, old);
                *old = value.into();
            }
            None => self.values.push((name.into(), value.into())),
        }
        self.digest ^= digest(name, value);
    }

    /// All, in the order in which they first came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Those that a session's settings change.
    pub fn reported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(name, _)| REPORTED.contains(name))
    }

    /// Whether those that a session's settings change are the same.
    #[must_use]
    pub fn is_reported_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// Of one parameter; the sum of several does not depend on their order.
fn digest(name: &str, value: &str) -> u64 {
    if !REPORTED.contains(&name) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (name, value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_parameter_is_replaced_by_what_is_reported_last() {
        let mut parameters = Parameters::default();
        parameters.set("TimeZone", "UTC");
        parameters.set("TimeZone", "Europe/Berlin");
        assert_eq!(parameters.value("TimeZone"), Some("Europe/Berlin"));
        assert_eq!(parameters.iter().count(), 1);
        assert_eq!(parameters.value("timezone"), None);
    }

    #[test]
    fn only_what_a_session_sets_is_compared() {
        let mut one = Parameters::default();
        one.set("TimeZone", "UTC");
        one.set("server_version", "15.1");
        let mut other = Parameters::default();
        other.set("in_hot_standby", "on");
        other.set("TimeZone", "Europe/Berlin");
        assert!(!one.is_reported_as(&other));
        other.set("TimeZone", "UTC");
        assert!(one.is_reported_as(&other));
    }
}
