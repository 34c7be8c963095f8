//! One connected client.
//!
//! Owns: what is shown of it, the servers it holds, and keeping those from others while a cancel request is on its way to them
//! (`cancels`). Its session updates it as it goes, mostly by atomics. Never does: I/O. Main type: [`Client`].

mod cancels;

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use atomic_waker::AtomicWaker;
use pgherd_pool::{Canceller, PeerAddress};
use pgherd_protocol::{CancelKey, PgError, ProtocolVersion, SqlState};
use pgherd_topology::{NodeId, ShardId};
use tokio::sync::Notify;

use crate::options::Replication;

pub use self::cancels::CancelHandle;

/// The number of a client, never used twice by one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// It has sent nothing that is not answered.
    Idle = 0,
    /// A request of its is being worked on.
    Active = 1,
    /// A transaction block is open, and nothing is asked.
    IdleInTransaction = 2,
    /// Its request waits for a server connection.
    Waiting = 3,
}

impl ClientState {
    /// The word of pg_stat_activity, where it has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::IdleInTransaction => "idle in transaction",
            Self::Waiting => "waiting",
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Active,
            2 => Self::IdleInTransaction,
            3 => Self::Waiting,
            _ => Self::Idle,
        }
    }
}

/// Why a server connection stays with a client beyond its transaction, and since when.
#[derive(Debug, Clone)]
pub struct Pin {
    /// What the client left on it (a setting, a prepared statement, an advisory lock ...).
    pub reason: Box<str>,
    /// When it was pinned.
    pub since: SystemTime,
}

/// A server connection that a client holds.
#[derive(Debug, Clone)]
pub struct HeldServer {
    /// Its shard.
    pub shard: ShardId,
    /// Its server.
    pub node: NodeId,
    /// The server's process id for it.
    pub pid: i32,
    /// How a request on it is cancelled; `None` where the server gave no key.
    pub canceller: Option<Arc<Canceller>>,
    /// Whether it is pinned, and why.
    pub pin: Option<Pin>,
}

/// Names one [`HeldServer`] of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeldId(u64);

/// Who wants a request to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelCause {
    /// The client itself.
    User,
    /// Its request has taken longer than `timeouts.query` allows.
    QueryTimeout,
    /// An operator, who ends the client.
    Operator,
}

impl CancelCause {
    /// What the client is told, as Postgres words it.
    pub fn message(self) -> &'static str {
        match self {
            Self::User => "canceling statement due to user request",
            Self::QueryTimeout => "canceling statement due to statement timeout",
            Self::Operator => "canceling statement due to administrator command",
        }
    }

    /// 57014.
    pub fn error(self) -> PgError {
        PgError::error(SqlState::QUERY_CANCELED, self.message())
    }
}

/// Whether a client's request may be cancelled.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Running {
    /// There is none.
    #[default]
    Nothing,
    /// It may.
    Request,
    /// It may not: its outcome is being decided over several servers.
    Decision,
}

/// What does not change while a client is connected.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// Where it comes from.
    pub peer: PeerAddress,
    /// Whether its connection is encrypted, and by which version of TLS.
    pub tls: Option<Box<str>>,
    /// The user it logged in as.
    pub user: Box<str>,
    /// The database it asked for.
    pub database: Box<str>,
    /// Its protocol version, which decides the length of its cancel key.
    pub version: ProtocolVersion,
    /// What it called itself at login.
    pub application_name: Box<str>,
    /// What it replicates, if it does.
    pub replication: Option<Replication>,
}

/// The part of a client that changes with its transactions.
#[derive(Debug, Default)]
struct Holdings {
    application_name: Box<str>,
    servers: Vec<(HeldId, HeldServer)>,
    held_before: u64,
    running: Running,
    /// Who wants what runs to end.
    cancelled: Option<CancelCause>,
    /// Cancel requests on their way to the servers above.
    cancels: usize,
    /// One of them failed midway: nobody knows when it arrives.
    cancels_unsure: bool,
    /// Whether what was asked last has been written to its server.
    is_sent: bool,
    /// Whether the session looks for a request that a cancel request has overtaken.
    looks_out: bool,
    /// Cancel requests that found nothing running, since the session last looked.
    early_cancels: usize,
    /// How often it has looked for them.
    looks: u64,
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    pid: i32,
    key: CancelKey,
    identity: ClientIdentity,
    connected: Instant,
    connected_at: SystemTime,
    state: AtomicU8,
    /// Microseconds after `connected`.
    last_request: AtomicU64,
    requests: AtomicU64,
    /// How many requests it had made when its session last rested; at first more than it can make.
    rested: AtomicU64,
    /// What its session is to do though the client asks for nothing: [`Call`]s.
    calls: AtomicU8,
    /// Wakes the session to that.
    bell: AtomicWaker,
    holdings: Mutex<Holdings>,
    /// The last cancel request on its way has ended.
    cancels_ended: Notify,
    /// What runs is to end.
    cancel_came: Notify,
    /// What a cancel request waits for has come: a look for what it is for, or the writing of that, or its end.
    cancel_may_go_on: Notify,
}

/// What a session is to do while its client asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// To look for the request that a cancel request has overtaken.
    LookOut = 1,
    /// To give back what only a request needs.
    Rest = 2,
    /// To end: an operator wants its client to go.
    Leave = 4,
}

/// Whether a client's servers may go back to their pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Release {
    /// They may.
    Released,
    /// A cancel request is on its way to them, and would hit whoever uses them next.
    CancelOnItsWay,
}

impl Client {
    pub(super) fn new(id: ClientId, pid: i32, identity: ClientIdentity) -> Self {
        Self {
            id,
            pid,
            key: CancelKey::random(identity.version),
            connected: Instant::now(),
            connected_at: SystemTime::now(),
            state: AtomicU8::new(ClientState::Idle as u8),
            last_request: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            rested: AtomicU64::new(u64::MAX),
            calls: AtomicU8::new(0),
            bell: AtomicWaker::new(),
            holdings: Mutex::new(Holdings {
                application_name: identity.application_name.clone(),
                ..Holdings::default()
            }),
            cancels_ended: Notify::new(),
            cancel_came: Notify::new(),
            cancel_may_go_on: Notify::new(),
            identity,
        }
    }

    /// Its number.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The process id that it was told (BackendKeyData).
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The secret that it was told with it.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }

    /// Who it is.
    pub fn identity(&self) -> &ClientIdentity {
        &self.identity
    }

    /// What it is doing.
    pub fn state(&self) -> ClientState {
        ClientState::from_number(self.state.load(Ordering::Relaxed))
    }

    /// Notes what it is doing.
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Notes that a request of its starts now: cancel requests are for this one, and so are those that came before it was read. Returns
    /// how long after the one before it starts, or after the login.
    pub fn begin_request(&self, now: Instant) -> Duration {
        let micros = u64::try_from(now.saturating_duration_since(self.connected).as_micros())
            .unwrap_or(u64::MAX);
        let before = self.last_request.swap(micros, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.set_state(ClientState::Active);
        let mut holdings = self.holdings();
        holdings.running = Running::Request;
        holdings.is_sent = false;
        if holdings.early_cancels > 0 {
            holdings.cancelled = Some(CancelCause::User);
        }
        self.looked(holdings);
        Duration::from_micros(micros.saturating_sub(before))
    }

    /// Has the session woken whenever it is to look at [`Client::is_called`] or at what else [`Client::ring`] is for. Of those who wait
    /// so, the last is woken.
    pub fn hear_bell(&self, waker: &Waker) {
        self.bell.register(waker);
    }

    /// Wakes its session, if that waits for the next request.
    pub fn ring(&self) {
        self.bell.wake();
    }

    /// Whether its session is to do this.
    pub fn is_called(&self, call: Call) -> bool {
        self.calls.load(Ordering::Acquire) & call as u8 != 0
    }

    /// Whether its session is to do anything of that.
    pub fn is_called_at_all(&self) -> bool {
        self.calls.load(Ordering::Acquire) != 0
    }

    /// Has its session end as soon as it is between two requests. What runs is to be cancelled besides ([`crate::Herd::send_away`]).
    pub(crate) fn call_to_leave(&self) {
        self.call(Call::Leave);
    }

    /// Waits until it is to leave: for who waits for its client alone. Cancel-safe.
    pub async fn sent_away(&self) {
        poll_fn(|context| {
            self.hear_bell(context.waker());
            if self.is_called(Call::Leave) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn call(&self, call: Call) {
        self.calls.fetch_or(call as u8, Ordering::Release);
        self.ring();
    }

    fn is_done(&self, call: Call) {
        self.calls.fetch_and(!(call as u8), Ordering::AcqRel);
    }

    /// Calls for rest where no request has come for so long since the session last rested.
    pub fn rest_after(&self, idle: Duration, now: Instant) {
        let asks = matches!(self.state(), ClientState::Active | ClientState::Waiting);
        let asked =
            self.connected + Duration::from_micros(self.last_request.load(Ordering::Relaxed));
        if !asks
            && now.saturating_duration_since(asked) >= idle
            && self.rested.load(Ordering::Relaxed) != self.requests()
        {
            self.call(Call::Rest);
        }
    }

    /// Notes that its session rests, and gives back the memory for servers that it does not hold.
    pub fn rest(&self) {
        self.rested.store(self.requests(), Ordering::Relaxed);
        self.is_done(Call::Rest);
        let mut holdings = self.holdings();
        if holdings.servers.is_empty() {
            holdings.servers = Vec::new();
        }
    }

    /// When it connected.
    pub fn connected_at(&self) -> SystemTime {
        self.connected_at
    }

    /// When its last request started, if it made any.
    pub fn last_request_at(&self) -> Option<SystemTime> {
        (self.requests() > 0).then(|| {
            self.connected_at + Duration::from_micros(self.last_request.load(Ordering::Relaxed))
        })
    }

    /// How many requests it made.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// What it calls itself now.
    pub fn application_name(&self) -> Box<str> {
        self.holdings().application_name.clone()
    }

    /// Notes what it calls itself.
    pub fn set_application_name(&self, name: &str) {
        self.holdings().application_name = name.into();
    }

    /// Notes that it holds a server connection: cancel requests of its reach that server from now on.
    #[must_use = "what is held is released by its id"]
    pub fn hold(&self, server: HeldServer) -> HeldId {
        let mut holdings = self.holdings();
        holdings.held_before += 1;
        let id = HeldId(holdings.held_before);
        holdings.servers.push((id, server));
        id
    }

    /// The server connections that it holds.
    pub fn held(&self) -> Vec<HeldServer> {
        let holdings = self.holdings();
        holdings
            .servers
            .iter()
            .map(|(_, server)| server.clone())
            .collect()
    }

    /// Notes that a server connection stays with it, and why.
    pub fn pin(&self, id: HeldId, reason: &str) {
        if let Some((_, server)) = self
            .holdings()
            .servers
            .iter_mut()
            .find(|(held, _)| *held == id)
        {
            let since = server
                .pin
                .take()
                .map_or_else(SystemTime::now, |pin| pin.since);
            server.pin = Some(Pin {
                reason: reason.into(),
                since,
            });
        }
    }

    /// Notes that a server connection is pinned no more.
    pub fn unpin(&self, id: HeldId) {
        if let Some((_, server)) = self
            .holdings()
            .servers
            .iter_mut()
            .find(|(held, _)| *held == id)
        {
            server.pin = None;
        }
    }

    /// Notes that it gives a server connection back. To be called before the connection goes to its pool; after
    /// [`Release::CancelOnItsWay`] it must be closed instead.
    pub fn try_release(&self, id: HeldId) -> Release {
        let mut holdings = self.holdings();
        holdings.servers.retain(|(held, _)| *held != id);
        if holdings.cancels == 0 {
            Release::Released
        } else {
            Release::CancelOnItsWay
        }
    }

    fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
