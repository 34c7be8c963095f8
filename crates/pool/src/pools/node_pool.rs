//! The connections of one user to one server: who has them, who waits, when new ones may be opened.
//!
//! Owns the bound, the order of waiting, and the back-off after a failure. Never does I/O and never awaits: it hands
//! out connections and the right to open one ([`Slot`]). Main type: [`NodePool`].
//!
//! # Invariants
//! - Every connection, open or being opened, is in `members`, and `members` is never longer than the bound, except
//!   after the bound was lowered.
//! - While somebody waits, nothing lies idle that he could have: what comes back goes to the first who waits.
//! - Nothing that can come back here by being dropped ([`Checkout`], [`Slot`]) is dropped under the lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgherd_topology::Epoch;
use tokio::sync::oneshot;
use tracing::debug;

use super::checkout::Checkout;
use super::statistics::Counters;
use super::{Holding, Member, Shared};
use crate::error::{Holders, PoolError};
use crate::server::{Server, ServerConnection, UserLogin};

/// The first pause after a failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The connections of one user to one server.
#[derive(Debug)]
pub(super) struct NodePool {
    pub(super) shared: Arc<Shared>,
    pub(super) server: Arc<Server>,
    pub(super) user: Box<str>,
    pub(super) counters: Counters,
    state: Mutex<State>,
    next_waiter: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What is used last is handed out first, so that the rest can age and go.
    #[allow(clippy::vec_box)] // moved about more often than looked into
    idle: Vec<Box<ServerConnection>>,
    members: Vec<Arc<Member>>,
    waiters: VecDeque<Waiter>,
    failure: Option<Failure>,
    /// Connections of older epochs are not handed out any more.
    epoch: Epoch,
    /// Connections begun earlier are not handed out any more.
    not_before: Option<Instant>,
    /// Who logged in last: what the maintenance opens connections with.
    login: Arc<UserLogin>,
    last_asked: Instant,
    warming: bool,
    /// Why there are no more connections.
    ended: Option<PoolError>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    epoch: Epoch,
    since: Instant,
    sender: oneshot::Sender<Grant>,
}

#[derive(Debug)]
struct Failure {
    error: PoolError,
    until: Instant,
    pause: Duration,
}

/// What one who waits is given. Dropped unread, it goes back to the pool by itself.
#[derive(Debug)]
pub(super) enum Grant {
    Connection(Checkout),
    Slot(Slot),
    Refused(PoolError),
}

/// What asking for a connection gives at once.
pub(super) enum Asked {
    /// One that lay idle.
    Connection(Box<ServerConnection>),
    /// The right to open one.
    Slot(Slot),
    /// A place in the queue.
    Wait(Place),
}

/// A place in the queue; dropped, it is given up.
pub(super) struct Place {
    pub(super) receiver: oneshot::Receiver<Grant>,
    pool: Arc<NodePool>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.receiver.close();
        let mut state = self.pool.state();
        // ids rise along the queue
        if let Ok(index) = state
            .waiters
            .binary_search_by_key(&self.id, |waiter| waiter.id)
        {
            state.waiters.remove(index);
        }
    }
}

/// The right to one of the pool's connections. Dropped, it goes to the next who waits.
#[derive(Debug)]
pub(super) struct Slot(Option<(Arc<NodePool>, Arc<Member>)>);

impl Slot {
    /// Turns the right into the thing.
    pub(super) fn fill(mut self, connection: Box<ServerConnection>) -> Option<Checkout> {
        let (pool, _) = self.0.take()?;
        Some(Checkout::new(connection, pool))
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.0.as_ref().map(|(_, member)| member)
    }

    /// Gives up the right without its being handed on: the caller has the lock and does so itself.
    fn defuse(mut self) -> Option<Arc<Member>> {
        self.0.take().map(|(_, member)| member)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((pool, member)) = self.0.take() {
            pool.release(&member);
        }
    }
}

impl NodePool {
    pub(super) fn new(
        shared: Arc<Shared>,
        server: Arc<Server>,
        login: Arc<UserLogin>,
        epoch: Epoch,
    ) -> Self {
        Self {
            shared,
            server,
            user: login.name.clone(),
            counters: Counters::default(),
            next_waiter: AtomicU64::new(0),
            state: Mutex::new(State {
                idle: Vec::new(),
                members: Vec::new(),
                waiters: VecDeque::new(),
                failure: None,
                epoch,
                not_before: None,
                login,
                last_asked: Instant::now(),
                warming: false,
                ended: None,
            }),
        }
    }

    /// A panic cannot leave the state half changed: nothing in here panics between two changes that belong together.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, the right to open one, or a place in the queue. The connection may be dead: look.
    pub(super) fn ask(
        self: &Arc<Self>,
        login: &Arc<UserLogin>,
        epoch: Epoch,
    ) -> Result<Asked, PoolError> {
        let now = Instant::now();
        let mut outdated = Vec::new();
        let result = {
            let mut state = self.state();
            self.ask_locked(&mut state, login, epoch, now, &mut outdated)
        };
        self.close(outdated);
        result
    }

    #[allow(clippy::vec_box)]
    fn ask_locked(
        self: &Arc<Self>,
        state: &mut State,
        login: &Arc<UserLogin>,
        epoch: Epoch,
        now: Instant,
        outdated: &mut Vec<Box<ServerConnection>>,
    ) -> Result<Asked, PoolError> {
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        if epoch < state.epoch {
            return Err(self.superseded(epoch, state.epoch));
        }
        self.raise_epoch(state, epoch);
        if !Arc::ptr_eq(&state.login, login) {
            state.login = Arc::clone(login);
        }
        state.last_asked = now;
        if state.waiters.is_empty() {
            while let Some(connection) = state.idle.pop() {
                if is_current(&connection, state) && !is_expired(&connection, now) {
                    connection.origin().member.hand(Holding::Running, now);
                    return Ok(Asked::Connection(connection));
                }
                remove_member(state, &connection.origin().member);
                outdated.push(connection);
            }
            if let Some(failure) = state.failure.as_ref().filter(|failure| failure.until > now) {
                // where the server is full, one of those that are open comes back sooner than a new one opens
                if !failure.error.is_server_full() || state.members.is_empty() {
                    return Err(failure.as_error(now));
                }
            } else if state.members.len() < self.shared.size() {
                return Ok(Asked::Slot(self.new_slot(state)));
            }
        }
        let (sender, receiver) = oneshot::channel();
        let id = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        state.waiters.push_back(Waiter {
            id,
            epoch,
            since: now,
            sender,
        });
        Ok(Asked::Wait(Place {
            receiver,
            pool: Arc::clone(self),
            id,
        }))
    }

    /// Takes back what was handed out: to the first who waits, to the idle ones, or to be closed.
    pub(super) fn give_back(self: &Arc<Self>, mut connection: Box<ServerConnection>) {
        let now = Instant::now();
        let unclean = connection.unclean();
        if let Some(reason) = unclean {
            Counters::add(&self.counters.closed_unclean);
            debug!(server = %self.server, user = %self.user, pid = connection.pid(), reason, "closing a server connection");
        }
        let may_stay = unclean.is_none() && !is_expired(&connection, now);
        connection.touch(now);
        let member = Arc::clone(&connection.origin().member);
        let mut rejected = None;
        {
            let mut state = self.state();
            let fits = state.members.len() <= self.shared.size();
            if may_stay && fits && state.ended.is_none() && is_current(&connection, &state) {
                rejected = self.pass_on(&mut state, connection, now).err();
            } else {
                remove_member(&mut state, &member);
                self.made_room(&mut state);
                self.pump(&mut state, now);
                rejected.replace(connection);
            }
        }
        self.close(rejected);
    }

    /// To the first who waits, else to the idle ones.
    fn pass_on(
        self: &Arc<Self>,
        state: &mut State,
        mut connection: Box<ServerConnection>,
        now: Instant,
    ) -> Result<(), Box<ServerConnection>> {
        while let Some(waiter) = state.waiters.pop_front() {
            connection.origin().member.hand(Holding::Running, now);
            let grant = Grant::Connection(Checkout::new(connection, Arc::clone(self)));
            match waiter.sender.send(grant) {
                Ok(()) => {
                    self.counters
                        .waited(now.saturating_duration_since(waiter.since));
                    return Ok(());
                }
                Err(Grant::Connection(checkout)) => connection = checkout.into_connection(),
                // what was not taken comes back as it was given
                Err(Grant::Slot(_) | Grant::Refused(_)) => return Ok(()),
            }
        }
        connection.origin().member.hand(Holding::Idle, now);
        state.idle.push(connection);
        Ok(())
    }

    /// A connection was closed or did not come about.
    fn release(self: &Arc<Self>, member: &Arc<Member>) {
        let mut state = self.state();
        remove_member(&mut state, member);
        self.pump(&mut state, Instant::now());
    }

    /// A server that was full has room for one more.
    fn made_room(&self, state: &mut State) {
        if state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.error.is_server_full())
        {
            state.failure = None;
        }
    }

    /// Gives those who wait what they can have: the right to open connections, or the reason why they cannot.
    fn pump(self: &Arc<Self>, state: &mut State, now: Instant) {
        while !state.waiters.is_empty() && state.members.len() < self.shared.size() {
            let refusal = match state.failure.as_ref().filter(|failure| failure.until > now) {
                // those that are open come back
                Some(failure) if failure.error.is_server_full() && !state.members.is_empty() => {
                    return;
                }
                Some(failure) => Some(failure.as_error(now)),
                None => None,
            };
            let Some(waiter) = state.waiters.pop_front() else {
                return;
            };
            let grant = match refusal {
                Some(error) => Grant::Refused(error),
                None => Grant::Slot(self.new_slot(state)),
            };
            match waiter.sender.send(grant) {
                Ok(()) => self
                    .counters
                    .waited(now.saturating_duration_since(waiter.since)),
                Err(Grant::Slot(slot)) => {
                    if let Some(member) = slot.defuse() {
                        remove_member(state, &member);
                    }
                }
                Err(Grant::Connection(_) | Grant::Refused(_)) => {}
            }
        }
    }

    fn new_slot(self: &Arc<Self>, state: &mut State) -> Slot {
        let member = Arc::new(Member::opening());
        state.members.push(Arc::clone(&member));
        Slot(Some((Arc::clone(self), member)))
    }

    /// A connection was opened: the server is well.
    pub(super) fn note_success(&self) {
        Counters::add(&self.counters.opened);
        self.state().failure = None;
    }

    /// A connection could not be opened: for a while none is tried.
    pub(super) fn note_failure(&self, error: &PoolError) {
        Counters::add(&self.counters.failed);
        let mut state = self.state();
        let pause = match &state.failure {
            Some(failure) => (failure.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        state.failure = Some(Failure {
            error: error.clone(),
            until: Instant::now() + pause,
            pause,
        });
    }

    fn superseded(&self, asked: Epoch, current: Epoch) -> PoolError {
        PoolError::Superseded {
            server: Server::clone(&self.server),
            asked,
            current,
        }
    }

    /// From now on only connections of this epoch; who waits for an older one is told to look again.
    fn raise_epoch(&self, state: &mut State, epoch: Epoch) {
        if epoch <= state.epoch {
            return;
        }
        state.epoch = epoch;
        for waiter in std::mem::take(&mut state.waiters) {
            if waiter.epoch < epoch {
                // a refusal that nobody reads has nothing to give back
                let _ = waiter
                    .sender
                    .send(Grant::Refused(self.superseded(waiter.epoch, epoch)));
            } else {
                state.waiters.push_back(waiter);
            }
        }
    }

    pub(super) fn retire_older_than(self: &Arc<Self>, epoch: Epoch) {
        self.raise_epoch(&mut self.state(), epoch);
        self.tidy(Instant::now());
    }

    /// What was opened before now is not handed out any more. A failure is forgotten: something changed.
    pub(super) fn retire(self: &Arc<Self>) {
        let now = Instant::now();
        {
            let mut state = self.state();
            state.not_before = Some(now);
            state.failure = None;
        }
        self.tidy(now);
    }

    /// Ends the pool: those who wait are told why, what is out is closed when it comes back.
    pub(super) fn end(&self, why: &PoolError) {
        let idle = {
            let mut state = self.state();
            state.ended = Some(why.clone());
            for waiter in state.waiters.drain(..) {
                let _ = waiter.sender.send(Grant::Refused(why.clone()));
            }
            let idle = std::mem::take(&mut state.idle);
            for connection in &idle {
                remove_member(&mut state, &connection.origin().member);
            }
            idle
        };
        self.close(idle);
    }

    /// Closes what need not or must not stay: outdated, expired, dead, beyond the bound, or idle for too long. And
    /// after the bound was raised, lets those in who wait.
    pub(super) fn tidy(self: &Arc<Self>, now: Instant) {
        let settings = self.shared.settings();
        let mut leaving = Vec::new();
        {
            let mut state = self.state();
            let mut spare = state.members.len().saturating_sub(settings.min);
            let mut surplus = state.members.len().saturating_sub(self.shared.size());
            // the ones that were not used for longest come first
            for mut connection in std::mem::take(&mut state.idle) {
                let idle_for = now.saturating_duration_since(connection.last_used());
                let unwanted = idle_for >= settings.idle_timeout && spare > 0;
                if unwanted
                    || surplus > 0
                    || !is_current(&connection, &state)
                    || is_expired(&connection, now)
                    || !connection.is_alive()
                {
                    spare = spare.saturating_sub(1);
                    surplus = surplus.saturating_sub(1);
                    remove_member(&mut state, &connection.origin().member);
                    leaving.push(connection);
                } else {
                    state.idle.push(connection);
                }
            }
            if !leaving.is_empty() {
                self.made_room(&mut state);
            }
            self.pump(&mut state, now);
        }
        self.close(leaving);
    }

    /// The right to open one more connection where fewer are open than should be, and whom to log in. One at a
    /// time: [`Self::warmed`] ends it.
    pub(super) fn start_warming(
        self: &Arc<Self>,
        now: Instant,
    ) -> Option<(Slot, Arc<UserLogin>, Epoch)> {
        let settings = self.shared.settings();
        let mut state = self.state();
        let failed = state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.until > now);
        let wanted = settings.min.min(self.shared.size());
        if state.ended.is_some() || state.warming || failed || state.members.len() >= wanted {
            return None;
        }
        state.warming = true;
        Some((
            self.new_slot(&mut state),
            Arc::clone(&state.login),
            state.epoch,
        ))
    }

    pub(super) fn warmed(&self) {
        self.state().warming = false;
    }

    /// Whether nobody has asked for it for so long, and nothing is left of it.
    pub(super) fn is_forgotten(&self, now: Instant, after: Duration) -> bool {
        let state = self.state();
        state.members.is_empty()
            && state.waiters.is_empty()
            && now.saturating_duration_since(state.last_asked) >= after
    }

    pub(super) fn close(&self, connections: impl IntoIterator<Item = Box<ServerConnection>>) {
        for connection in connections {
            Counters::add(&self.counters.closed);
            connection.close_at_once();
        }
    }

    /// A connection that [`Self::ask`] gave turned out to be dead.
    pub(super) fn discard(self: &Arc<Self>, connection: Box<ServerConnection>) {
        self.release(&connection.origin().member);
        self.close(Some(connection));
    }

    /// Who has the connections.
    pub(super) fn holders(&self) -> Holders {
        let now = Instant::now();
        let state = self.state();
        let mut holders = Holders {
            size: self.shared.size(),
            waiting: state.waiters.len(),
            ..Holders::default()
        };
        for member in &state.members {
            let holding = member.holding();
            *match holding {
                Holding::Opening => &mut holders.opening,
                Holding::Idle => &mut holders.idle,
                Holding::Running => &mut holders.running,
                Holding::InTransaction => &mut holders.in_transaction,
                Holding::Failed => &mut holders.failed,
                Holding::Kept => &mut holders.kept,
            } += 1;
            if holding != Holding::Idle {
                holders.longest = holders.longest.max(member.held_for(now));
            }
        }
        holders
    }

    /// Every connection.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.state().members.clone()
    }

    /// How long the first has waited, and the failure that keeps new connections from being tried.
    pub(super) fn troubles(&self, now: Instant) -> (Duration, Option<String>) {
        let state = self.state();
        let waiting = state.waiters.front().map_or(Duration::ZERO, |first| {
            now.saturating_duration_since(first.since)
        });
        let failure = state.failure.as_ref().filter(|failure| failure.until > now);
        (waiting, failure.map(|failure| failure.error.to_string()))
    }
}

impl Failure {
    fn as_error(&self, now: Instant) -> PoolError {
        PoolError::BackingOff {
            failure: Box::new(self.error.clone()),
            retry_in: self.until.saturating_duration_since(now),
        }
    }
}

fn remove_member(state: &mut State, member: &Arc<Member>) {
    if let Some(index) = state
        .members
        .iter()
        .position(|known| Arc::ptr_eq(known, member))
    {
        state.members.swap_remove(index);
    }
}

fn is_current(connection: &ServerConnection, state: &State) -> bool {
    let begun = connection.origin().member.born();
    connection.epoch() >= state.epoch && state.not_before.is_none_or(|limit| begun >= limit)
}

fn is_expired(connection: &ServerConnection, now: Instant) -> bool {
    connection
        .origin()
        .expires
        .is_some_and(|expires| expires <= now)
}
