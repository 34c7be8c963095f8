//! The connections of one user to one server: who has them, who waits, when new ones may be opened.
//!
//! Owns the bound, the order of waiting, and the back-off after a failure. Never does I/O and never awaits: it hands
//! out connections and the right to open one ([`Slot`]). Main type: [`NodePool`].
//!
//! # Invariants
//! - Every connection, open or being opened, is in `members`, and `members` is never longer than the bound, except
//!   after the bound was lowered.
//! - While somebody waits, nothing lies idle that he could have: what comes back goes to the first who waits
//!   ([`take_turn`]).
//! - Nothing that can come back here by being dropped ([`Checkout`], [`Slot`]) is dropped under the lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use pgherd_topology::{Address, Epoch};
use tokio::sync::oneshot;
use tracing::debug;

use super::checkout::Checkout;
use super::failure::Failure;
use super::queue::{Grant, Place, Slot, Waiter, take_turn};
use super::statistics::Counters;
use super::{Holding, Member, Shared};
use crate::budget::{Permit, Scope};
use crate::error::PoolError;
use crate::resolver::{Addresses, contains};
use crate::server::{Server, ServerConnection, UserLogin};

/// The connections of one user to one server.
#[derive(Debug)]
pub(crate) struct NodePool {
    /// Its number in the budget.
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) server: Arc<Server>,
    pub(super) user: Box<str>,
    pub(super) counters: Counters,
    state: Mutex<State>,
    next_waiter: AtomicU64,
}

#[derive(Debug)]
pub(super) struct State {
    /// What is used last is handed out first, so that the rest can age and go.
    #[allow(clippy::vec_box)] // moved about more often than looked into
    pub(super) idle: Vec<Box<ServerConnection>>,
    pub(super) members: Vec<Arc<Member>>,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) failure: Option<Failure>,
    /// Connections of older epochs are not handed out any more.
    pub(super) epoch: Epoch,
    /// Connections begun earlier are not handed out any more.
    pub(super) not_before: Option<Instant>,
    /// Nor are connections to other addresses than these, which the server's host name stands for; `None`: any will do.
    pub(super) addresses: Option<Addresses>,
    /// Who logged in last: what the maintenance opens connections with.
    pub(super) login: Arc<UserLogin>,
    pub(super) last_asked: Instant,
    /// How many are being opened to keep it warm.
    pub(super) warming: usize,
    /// Nothing is lent; who asks waits.
    pub(super) is_paused: bool,
    /// Why there are no more connections.
    pub(super) ended: Option<PoolError>,
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

impl State {
    /// The one used last of those that this thread's runtime drives, else of all.
    fn take_idle(&mut self) -> Option<Box<ServerConnection>> {
        let last = self.idle.last()?;
        if last.home().is_none() {
            return self.idle.pop();
        }
        let here = Some(thread::current().id());
        match self
            .idle
            .iter()
            .rposition(|connection| connection.home() == here)
        {
            Some(index) => Some(self.idle.remove(index)),
            None => self.idle.pop(),
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
            id: shared.budget.next_id(),
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
                addresses: None,
                login,
                last_asked: Instant::now(),
                warming: 0,
                is_paused: false,
                ended: None,
            }),
        }
    }

    /// The most connections it may have.
    pub(super) fn size(&self) -> usize {
        self.shared.settings.load().size_of(&self.user)
    }

    /// The most for those who wait now: with the reserve, once the first has waited for long.
    fn bound(&self, state: &State, now: Instant) -> usize {
        let settings = self.shared.settings.load();
        let size = settings.size_of(&self.user);
        match state.waiters.front() {
            Some(first) if now >= first.since + settings.reserve_after => {
                size.saturating_add(settings.reserve_of(&self.user))
            }
            _ => size,
        }
    }

    /// The counts that its connections belong to.
    pub(crate) fn scope(&self) -> Scope {
        let settings = self.shared.settings.load();
        Scope {
            pool: self.id,
            database: self.shared.id,
            database_limit: settings.max_connections,
            server: self.server.address.clone(),
            server_limit: settings.server_limits.get(&self.server.name).copied(),
        }
    }

    /// Has the budget know whether anybody waits for its room.
    fn claim(&self, state: &State, now: Instant) {
        let budget = &self.shared.budget;
        let backs_off = state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.is_active(now));
        match state.waiters.front() {
            Some(first)
                if !backs_off
                    && !state.is_paused
                    && state.ended.is_none()
                    && state.members.len() < self.bound(state, now) =>
            {
                budget.claim(self.scope(), first.since);
            }
            _ => budget.withdraw(self.id),
        }
    }

    /// A panic cannot leave the state half changed: nothing in here panics between two changes that belong together.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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
        if state.waiters.is_empty() && !state.is_paused {
            while let Some(connection) = state.take_idle() {
                if is_current(&connection, state) && !is_expired(&connection, now) {
                    connection.origin().member.hand(Holding::Running, now);
                    return Ok(Asked::Connection(connection));
                }
                remove_member(state, &connection.origin().member);
                outdated.push(connection);
            }
            if let Some(failure) = state
                .failure
                .as_ref()
                .filter(|failure| failure.is_active(now))
            {
                // where the server is full, one of those that are open comes back sooner than a new one opens
                if !failure.is_server_full() || state.members.is_empty() {
                    return Err(failure.as_error(now));
                }
            } else if state.members.len() < self.size()
                && let Some(permit) = self.shared.budget.acquire(&self.scope(), now)
            {
                return Ok(Asked::Slot(self.new_slot(state, permit)));
            }
        }
        let (sender, receiver) = oneshot::channel();
        let id = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        state.waiters.push_back(Waiter {
            id,
            epoch,
            since: now,
            thread: thread::current().id(),
            sender,
        });
        self.claim(state, now);
        Ok(Asked::Wait(Place {
            receiver,
            pool: Arc::clone(self),
            id,
        }))
    }

    /// A place in the queue was given up.
    pub(super) fn leave(&self, id: u64) {
        let mut state = self.state();
        // ids rise along the queue
        if let Ok(index) = state.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            state.waiters.remove(index);
            self.claim(&state, Instant::now());
        }
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
        member.set_pinned(false);
        let mut rejected = None;
        {
            let mut state = self.state();
            let surplus = state.members.len().saturating_sub(self.size());
            let fits = match state.waiters.front() {
                Some(_) => surplus <= self.reserve(),
                None => surplus == 0,
            };
            let budget = &self.shared.budget;
            let is_owed = budget.is_contended()
                && budget.is_owed(
                    &self.scope(),
                    state.waiters.front().map(|first| first.since),
                );
            if may_stay
                && fits
                && !is_owed
                && !state.is_paused
                && state.ended.is_none()
                && is_current(&connection, &state)
            {
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
        while let Some(waiter) = take_turn(&mut state.waiters, connection.home()) {
            connection.origin().member.hand(Holding::Running, now);
            let grant = Grant::Connection(Checkout::new(connection, Arc::clone(self)));
            match waiter.sender.send(grant) {
                Ok(()) => {
                    self.counters
                        .waited(now.saturating_duration_since(waiter.since));
                    self.claim(state, now);
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
    pub(super) fn release(self: &Arc<Self>, member: &Arc<Member>) {
        let mut state = self.state();
        remove_member(&mut state, member);
        self.pump(&mut state, Instant::now());
    }

    /// A server that was full has room for one more.
    pub(super) fn made_room(&self, state: &mut State) {
        if state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.is_server_full())
        {
            state.failure = None;
        }
    }

    /// Gives those who wait what they can have: the right to open connections, or the reason why they cannot.
    pub(super) fn pump(self: &Arc<Self>, state: &mut State, now: Instant) {
        self.pump_with(state, now, None);
        self.claim(state, now);
    }

    /// The budget has room for one more connection.
    pub(crate) fn take_permit(self: &Arc<Self>, permit: Permit) {
        let mut state = self.state();
        let now = Instant::now();
        self.pump_with(&mut state, now, Some(permit));
        self.claim(&state, now);
    }

    fn pump_with(self: &Arc<Self>, state: &mut State, now: Instant, mut permit: Option<Permit>) {
        while let Some(first) = state.waiters.front()
            && !state.is_paused
            && state.members.len() < self.bound(state, now)
        {
            let since = first.since;
            let failure = state
                .failure
                .as_ref()
                .filter(|failure| failure.is_active(now));
            let grant = match failure {
                // those that are open come back
                Some(failure) if failure.is_server_full() && !state.members.is_empty() => return,
                Some(failure) => Grant::Refused(failure.as_error(now)),
                None => {
                    let budget = &self.shared.budget;
                    match permit
                        .take()
                        .or_else(|| budget.acquire(&self.scope(), since))
                    {
                        Some(permit) => Grant::Slot(self.new_slot(state, permit)),
                        None => return,
                    }
                }
            };
            // the first, which was looked at above
            let Some(waiter) = state.waiters.pop_front() else {
                return;
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

    pub(super) fn new_slot(self: &Arc<Self>, state: &mut State, permit: Permit) -> Slot {
        let member = Arc::new(Member::opening(Some(permit), state.epoch));
        state.members.push(Arc::clone(&member));
        Slot(Some((Arc::clone(self), member)))
    }

    /// A connection was opened: the server is well.
    ///
    /// # Errors
    /// When nobody may have it any more: the shard has changed hands meanwhile, or the pool has ended.
    pub(super) fn note_success(&self, epoch: Epoch) -> Result<(), PoolError> {
        Counters::add(&self.counters.opened);
        let mut state = self.state();
        state.failure = None;
        self.learn_addresses(&mut state);
        let error = match &state.ended {
            Some(error) => error.clone(),
            None if epoch < state.epoch => self.superseded(epoch, state.epoch),
            None => return Ok(()),
        };
        Counters::add(&self.counters.closed);
        Err(error)
    }

    /// A connection could not be opened: for a while none is tried.
    pub(super) fn note_failure(&self, error: &PoolError) {
        Counters::add(&self.counters.failed);
        let mut state = self.state();
        state.failure = Some(Failure::after(
            state.failure.as_ref(),
            error.clone(),
            Instant::now(),
        ));
    }

    /// Takes notice of what the server's host name stands for now.
    pub(super) fn learn_addresses(&self, state: &mut State) {
        if let Address::Tcp { host, .. } = &self.server.address {
            let addresses = self.shared.settings.load().resolver.known(host);
            if state.addresses != addresses {
                state.addresses = addresses;
                // that was another machine
                state.failure = None;
            }
        }
    }

    fn superseded(&self, asked: Epoch, current: Epoch) -> PoolError {
        PoolError::Superseded {
            server: Server::clone(&self.server),
            asked,
            current,
        }
    }

    /// From now on only connections of this epoch; who waits for an older one is told to look again.
    pub(super) fn raise_epoch(&self, state: &mut State, epoch: Epoch) {
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

    /// How many connections there may be beyond the size.
    fn reserve(&self) -> usize {
        self.shared.settings.load().reserve_of(&self.user)
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
}

impl Drop for NodePool {
    fn drop(&mut self) {
        let checkouts = self.counters.checkouts.load(Ordering::Relaxed);
        self.shared
            .past_checkouts
            .fetch_add(checkouts, Ordering::Relaxed);
        self.shared.budget.forget(self.id);
    }
}

pub(super) fn remove_member(state: &mut State, member: &Arc<Member>) {
    if let Some(index) = state
        .members
        .iter()
        .position(|known| Arc::ptr_eq(known, member))
    {
        state.members.swap_remove(index);
    }
}

pub(super) fn is_current(connection: &ServerConnection, state: &State) -> bool {
    let begun = connection.origin().member.born();
    connection.epoch() >= state.epoch
        && state.not_before.is_none_or(|limit| begun >= limit)
        && is_at(connection, state.addresses.as_ref())
}

/// Whether a connection goes to one of these addresses; `None`: any will do.
pub(super) fn is_at(connection: &ServerConnection, addresses: Option<&Addresses>) -> bool {
    match (addresses, connection.origin().peer) {
        (Some(addresses), Some(peer)) => contains(addresses, peer.ip()),
        (None, _) | (_, None) => true,
    }
}

pub(super) fn is_expired(connection: &ServerConnection, now: Instant) -> bool {
    connection
        .origin()
        .expires
        .is_some_and(|expires| expires <= now)
}
