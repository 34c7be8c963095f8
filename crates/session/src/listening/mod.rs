//! LISTEN and NOTIFY without a server connection of one's own.
//!
//! Owns: one listening connection to each shard of a database, which hears for all of its clients, and what each client of it listens to. A LISTEN
//! passes to a server like any other statement, so that Postgres decides what it means in its transaction; what it did is followed here, and the
//! server that ran it forgets it before anybody else gets it. Never does: statements of other kinds.
//!
//! # Layout
//! - `changes`: what LISTEN and UNLISTEN of an open transaction will change. Pure.
//! - `channels`: who listens to what. Pure. `mailbox`: what a client has yet to be told, bounded.
//! - `senders`: which client a server process notifies for. `copies`: what a statement of every shard says once for each. Pure.
//! - `line`: one listening connection. `hub`: the task that has them all, and does what sessions ask for by [`Listening`].
//! - `subscriptions`: a session's side.
//!
//! # What holds
//! - LISTEN is answered once every shard's listening connection listens to the channel. As of then no notification is missed, and none
//!   comes that was committed before LISTEN was asked for.
//! - Notifications come in the order in which a shard committed them, outside of transaction blocks and between requests.
//! - A NOTIFY through this pgherd is answered once the listening connection has heard what it sent: who sent it is known for sure then (and it is
//!   the client's process id that listeners see), and a client that notifies itself finds that in the answer, as with Postgres.
//! - What a trigger or function sends without a word of `notify` in the client's statement carries the server's process id, or its negative
//!   where a client has that number; so does what was sent beside this pgherd. In a transaction that said LISTEN it is the client's own, which hears it.
//! - When a listening connection is lost, every client that listens is ended with 57P01: a gap is never silent.
//!
//! Channels belong to a database, and listening to one needs no right but to be connected: the connections are opened with the login of
//! whoever listens first.

mod changes;
mod channels;
mod copies;
mod hub;
mod line;
mod mailbox;
mod senders;
mod subscriptions;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgherd_pool::{Pools, UserLogin};
use pgherd_protocol::{PgError, SqlState};
use pgherd_telemetry::DatabaseMetrics;
use pgherd_topology::{ShardId, Topology};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::changes::Change;
pub(crate) use self::copies::Copies;
use self::hub::Hub;
use self::mailbox::Mailbox;
use self::senders::Senders;
pub(crate) use self::subscriptions::Subscriptions;
use crate::registry::{ClientId, ClientRegistry};

/// What a session asks of the hub.
#[derive(Debug)]
enum Command {
    /// Have every shard's connection listen to a channel; the client hears nothing of it yet.
    Reserve {
        client: ClientId,
        mailbox: Arc<Mailbox>,
        channel: Box<str>,
        login: Arc<UserLogin>,
        reply: Reply,
    },
    /// Hear what these shards (none: all) have committed so far, then do what a client's transaction has changed.
    Settle {
        client: ClientId,
        shards: Vec<ShardId>,
        changes: Vec<Change>,
        /// What was reserved and is not among the changes is given up.
        ends: bool,
        reply: Reply,
    },
    /// The client is gone.
    Leave { client: ClientId },
}

/// How the hub answers. Dropped unanswered: a listening connection was lost.
type Reply = oneshot::Sender<Result<(), Box<PgError>>>;

/// The listeners of one database.
#[derive(Debug, Default)]
pub struct Listening {
    shared: Arc<Shared>,
    hub: Mutex<Option<Commands>>,
}

/// The way to the hub. Unbounded, though what lies in it is not: a session waits for the answer to what it asked for.
type Commands = mpsc::UnboundedSender<Command>;

/// What sessions and the hub both look at.
#[derive(Debug, Default)]
struct Shared {
    senders: Senders,
    /// Whether anybody listens, or is about to.
    active: AtomicBool,
}

/// What the hub works with.
pub(crate) struct HubParts {
    pub(crate) pools: Pools,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) metrics: Arc<DatabaseMetrics>,
    pub(crate) clients: Arc<ClientRegistry>,
}

impl Listening {
    /// Whether anybody listens: only then it matters who notifies.
    fn is_active(&self) -> bool {
        self.shared.active.load(Ordering::Acquire)
    }

    /// The hub, if it was ever needed.
    fn commands(&self) -> Option<Commands> {
        self.hub().clone()
    }

    /// The hub, started if need be. It ends with the database and the sessions that used it.
    fn start(&self, parts: impl FnOnce() -> HubParts) -> Commands {
        let mut hub = self.hub();
        if let Some(running) = hub.as_ref().filter(|running| !running.is_closed()) {
            return running.clone();
        }
        let (commands, received) = mpsc::unbounded_channel();
        let task = Hub::new(Arc::clone(&self.shared), received, parts());
        tokio::spawn(task.run());
        *hub = Some(commands.clone());
        commands
    }

    fn hub(&self) -> std::sync::MutexGuard<'_, Option<Commands>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a client that listens is ended where a listening connection is lost.
fn lost(reason: &str) -> PgError {
    PgError::fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection because notifications may have been missed",
    )
    .detail(reason)
    .hint("Connect and LISTEN again, then look at what notifications would have told of.")
}
