//! What is done to a pool from outside its daily business: retiring, tidying, warming, looking.
//!
//! Owns the rules by which connections go that nobody returns. Never lends one. Extends [`NodePool`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_topology::{Address, Epoch};

use super::node_pool::{NodePool, State, is_current, is_expired, remove_member};
use super::queue::{Grant, Slot};
use super::{Holding, Member};
use crate::error::{Holders, PoolError};
use crate::server::{ServerConnection, UserLogin};

/// So many connections of one pool are opened at once to keep it warm.
const WARMED_AT_ONCE: usize = 4;

/// As many connections of a pool are kept beyond their transactions as may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllPinned {
    /// How many that are.
    pub most: usize,
    /// The server's process ids of those that are.
    pub pids: Vec<i32>,
}

impl NodePool {
    /// Has the server's host name looked up again, where it is time to.
    pub(super) fn refresh_addresses(&self) {
        if let Address::Tcp { host, .. } = &self.server.address {
            self.shared.settings().resolver.refresh(host);
        }
    }

    /// One more of its connections may be kept beyond a transaction.
    ///
    /// # Errors
    /// Which ones are, where no more may be.
    pub(super) fn pin(&self, member: &Arc<Member>) -> Result<(), AllPinned> {
        if member.is_pinned() {
            return Ok(());
        }
        let most = self.max_pinned();
        let state = self.state();
        let pinned = state.members.iter().filter(|member| member.is_pinned());
        let pids: Vec<_> = pinned.map(|member| member.pid()).collect();
        if pids.len() >= most {
            return Err(AllPinned { most, pids });
        }
        member.set_pinned(true);
        Ok(())
    }

    pub(super) fn max_pinned(&self) -> usize {
        self.shared.settings.load().max_pinned_of(&self.user)
    }

    pub(super) fn retire_older_than(self: &Arc<Self>, epoch: Epoch) {
        self.raise_epoch(&mut self.state(), epoch);
        self.tidy(Instant::now());
    }

    /// The server was deposed in this epoch: what was opened before is of no use any more, whoever has it.
    pub(super) fn cut_off_before(self: &Arc<Self>, epoch: Epoch) {
        {
            let mut state = self.state();
            self.raise_epoch(&mut state, epoch);
            for member in &state.members {
                member.cut_off_before(epoch);
            }
        }
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

    /// Lends nothing until it is resumed: those who wait go on waiting, what is out is closed when it comes back.
    pub(super) fn pause(&self) {
        let idle = {
            let mut state = self.state();
            state.is_paused = true;
            self.shared.budget.withdraw(self.id);
            self.take_all_idle(&mut state)
        };
        self.close(idle);
    }

    /// Those who have waited come first. A failure is forgotten: the server may have been restarted meanwhile.
    pub(super) fn resume(self: &Arc<Self>) {
        let mut state = self.state();
        state.is_paused = false;
        state.failure = None;
        self.pump(&mut state, Instant::now());
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state().is_paused
    }

    /// How many connections were begun too early to be handed out once more.
    pub(super) fn outdated(&self) -> usize {
        let state = self.state();
        let limit = state.not_before;
        let members = state.members.iter();
        members
            .filter(|member| limit.is_some_and(|limit| member.born() < limit))
            .count()
    }

    #[allow(clippy::vec_box)]
    fn take_all_idle(&self, state: &mut State) -> Vec<Box<ServerConnection>> {
        let idle = std::mem::take(&mut state.idle);
        for connection in &idle {
            remove_member(state, &connection.origin().member);
        }
        idle
    }

    /// Ends the pool: those who wait are told why, what is out is closed when it comes back.
    pub(super) fn end(&self, why: &PoolError) {
        let idle = {
            let mut state = self.state();
            state.ended = Some(why.clone());
            for waiter in state.waiters.drain(..) {
                let _ = waiter.sender.send(Grant::Refused(why.clone()));
            }
            self.shared.budget.withdraw(self.id);
            self.take_all_idle(&mut state)
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
            self.learn_addresses(&mut state);
            let mut spare = state
                .members
                .len()
                .saturating_sub(settings.min_of(&self.user));
            let mut surplus = state.members.len().saturating_sub(self.size());
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

    /// The right to open one more connection where fewer are open than should be, and whom to log in. A few at a
    /// time: [`Self::warmed`] ends each.
    pub(super) fn start_warming(
        self: &Arc<Self>,
        now: Instant,
    ) -> Option<(Slot, Arc<UserLogin>, Epoch)> {
        let wanted = self.shared.settings().min_of(&self.user);
        let mut state = self.state();
        let failed = state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.is_active(now));
        if state.ended.is_some()
            || state.is_paused
            || state.warming >= WARMED_AT_ONCE
            || failed
            || state.members.len() >= wanted
        {
            return None;
        }
        let permit = self.shared.budget.acquire(&self.scope(), now)?;
        state.warming += 1;
        Some((
            self.new_slot(&mut state, permit),
            Arc::clone(&state.login),
            state.epoch,
        ))
    }

    pub(super) fn warmed(&self) {
        self.state().warming -= 1;
    }

    /// Whether nobody waits, and there is an idle connection or room for a new one.
    pub(super) fn is_at_hand(&self) -> bool {
        let state = self.state();
        !state.is_paused
            && state.waiters.is_empty()
            && (!state.idle.is_empty()
                || (state.members.len() < self.size()
                    && self.shared.budget.has_room(&self.scope())))
    }

    /// Who waits for long may have a connection of the reserve.
    pub(super) fn draw_reserve(self: &Arc<Self>) {
        self.pump(&mut self.state(), Instant::now());
    }

    /// Since when its longest idle connection has been so.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        state.idle.first().map(|connection| connection.last_used())
    }

    /// Makes room for another pool.
    pub(crate) fn close_longest_idle(&self) {
        let longest = {
            let mut state = self.state();
            if state.idle.is_empty() {
                return;
            }
            // what is used last lies last
            let longest = state.idle.remove(0);
            remove_member(&mut state, &longest.origin().member);
            longest
        };
        self.close(Some(longest));
    }

    /// As others are told who has the connections.
    pub(crate) fn title(&self) -> String {
        format!(
            "user \"{}\" of database \"{}\" on {}",
            self.user,
            self.shared.settings.load().database,
            self.server.name
        )
    }

    /// Whether nobody has asked for it for so long, and nothing is left of it.
    pub(super) fn is_forgotten(&self, now: Instant, after: Duration) -> bool {
        let is_kept_warm = self.shared.settings.load().min_of(&self.user) > 0;
        let state = self.state();
        !is_kept_warm
            && state.members.is_empty()
            && state.waiters.is_empty()
            && now.saturating_duration_since(state.last_asked) >= after
    }

    /// Who has the connections.
    pub(super) fn holders(&self) -> Holders {
        let now = Instant::now();
        let state = self.state();
        let mut holders = Holders {
            size: self.size(),
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
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.state().members.clone()
    }

    /// How long the first has waited, and the failure that keeps new connections from being tried.
    pub(super) fn troubles(&self, now: Instant) -> (Duration, Option<String>) {
        let state = self.state();
        let waiting = state.waiters.front().map_or(Duration::ZERO, |first| {
            now.saturating_duration_since(first.since)
        });
        let failure = state
            .failure
            .as_ref()
            .filter(|failure| failure.is_active(now));
        (waiting, failure.map(|failure| failure.error().to_string()))
    }
}
