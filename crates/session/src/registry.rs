//! Who is connected.
//!
//! Owns: the clients of this process, what SHOW CLIENTS and SHOW PINS say of them, how many there may be of each kind, and which
//! server connections a cancel request of theirs must reach. A session updates its own [`Client`] as it goes, mostly by atomics.
//! Never does: talking to clients, or checking their passwords. Main types: [`ClientRegistry`], [`Client`].

mod client;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgherd_protocol::CancelKey;

pub use self::client::{
    Call, CancelCause, CancelHandle, Client, ClientId, ClientIdentity, ClientState, HeldId,
    HeldServer, Pin, Release,
};
use crate::limits::{Admission, Admissions, ClientLimits, TooMany};

/// How many connections may be logging in at once beyond the number of clients.
const SPARE_HANDSHAKES: usize = 100;

/// A connection that is not logged in yet, counted until this is dropped.
#[derive(Debug)]
pub struct HandshakePlace {
    handshakes: Arc<AtomicUsize>,
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The clients of this process.
#[derive(Debug, Default)]
pub struct ClientRegistry {
    admissions: Arc<Admissions>,
    clients: Mutex<HashMap<i32, Arc<Client>>>,
    next: AtomicU64,
    handshakes: Arc<AtomicUsize>,
}

impl ClientRegistry {
    /// Counts a connection that is not logged in yet. `None`: there are as many already as there may be clients (and some more, for
    /// those that only come to cancel), so that half-open connections cannot take all sockets.
    pub fn begin_handshake(&self, max_clients: usize) -> Option<HandshakePlace> {
        let before = self.handshakes.fetch_add(1, Ordering::Relaxed);
        let place = HandshakePlace {
            handshakes: Arc::clone(&self.handshakes),
        };
        (before < max_clients.saturating_add(SPARE_HANDSHAKES)).then_some(place)
    }

    /// Lets one more client in, as far as the limit for all of them goes. Not asked of the console's users.
    ///
    /// # Errors
    /// [`TooMany`] (53300).
    pub fn admit(&self, max_clients: usize) -> Result<Admission, TooMany> {
        self.admissions.admit(max_clients)
    }

    /// Lets one in who counts towards no limit: a user of the console.
    pub fn admit_operator(&self) -> Admission {
        self.admissions.admit_operator()
    }

    /// Counts an admitted client towards its database and user.
    ///
    /// # Errors
    /// [`TooMany`] (53300).
    pub fn admit_to(
        &self,
        admission: &mut Admission,
        database: &str,
        user: &str,
        limits: ClientLimits,
    ) -> Result<(), TooMany> {
        self.admissions.admit_to(admission, database, user, limits)
    }

    /// Registers a client that has logged in, until what is returned is dropped.
    pub fn register(
        self: &Arc<Self>,
        admission: Admission,
        identity: ClientIdentity,
    ) -> Registration {
        let mut clients = self.clients();
        let (id, pid) = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            // positive, as process ids are
            let pid = i32::try_from(number & 0x7fff_ffff).unwrap_or(0);
            if pid != 0 && !clients.contains_key(&pid) {
                break (ClientId(number), pid);
            }
        };
        let client = Arc::new(Client::new(id, pid, identity));
        clients.insert(pid, Arc::clone(&client));
        drop(clients);
        Registration {
            registry: Arc::clone(self),
            client,
            _admission: admission,
        }
    }

    /// Cancels what runs for the client that a cancel request names, if its key is right (compared in constant time). Its servers stay with
    /// it, and its next request waits, until the handle is dropped.
    pub fn cancel(&self, pid: i32, key: &CancelKey) -> Option<CancelHandle> {
        let client = self.clients().get(&pid).cloned()?;
        (*client.key() == *key).then(|| client.begin_cancel(CancelCause::User))
    }

    /// All clients, the longest connected first.
    pub fn snapshot(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.clients().values().cloned().collect();
        clients.sort_unstable_by_key(|client| client.id());
        clients
    }

    /// Has all sessions look whether anything has changed for them.
    pub fn ring_all(&self) {
        for client in self.clients().values() {
            client.ring();
        }
    }

    /// Has sessions give back what only a request needs, where none has come for so long.
    pub fn rest_after(&self, idle: Duration) {
        let now = Instant::now();
        for client in self.clients().values() {
            client.rest_after(idle, now);
        }
    }

    /// Whether a client was told this process id.
    pub fn has_process(&self, pid: i32) -> bool {
        self.clients().contains_key(&pid)
    }

    /// How many clients are logged in, the console's users among them.
    pub fn len(&self) -> usize {
        self.clients().len()
    }

    /// Whether nobody is logged in.
    pub fn is_empty(&self) -> bool {
        self.clients().is_empty()
    }

    /// How many connections are not logged in yet.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// How many clients of a database count towards its limit.
    pub fn count_of_database(&self, database: &str) -> usize {
        self.admissions.count_of_database(database)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<i32, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the registry, given up when dropped.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<ClientRegistry>,
    client: Arc<Client>,
    _admission: Admission,
}

impl Registration {
    /// The client, to be kept by what outlives the session.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl std::ops::Deref for Registration {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.clients().remove(&self.client.pid());
        self.client.look_out(false);
    }
}
