//! Cancel requests of one client: which request each is for, and when its servers may be told.
//!
//! Owns: the notes that a session and those who cancel leave for each other. Never does: I/O (`cancelling.rs`). Main type: [`CancelHandle`].

use std::sync::{Arc, MutexGuard};

use pgherd_pool::Canceller;

use super::{Call, CancelCause, Client, Holdings, Running};

impl Client {
    /// Notes whether its session looks for what an early cancel request is for, one that comes while nothing runs ([`Call::LookOut`]). The
    /// request that it is for may have been overtaken by it, and be in the socket already: the session is to read that, and then to begin a
    /// request or to say that there is [`Client::nothing_to_cancel`].
    pub fn look_out(&self, looks_out: bool) {
        let mut holdings = self.holdings();
        holdings.looks_out = looks_out;
        self.looked(holdings);
    }

    /// As with Postgres, nothing happens where nothing runs.
    pub fn nothing_to_cancel(&self) {
        self.looked(self.holdings());
    }

    pub(super) fn looked(&self, mut holdings: MutexGuard<'_, Holdings>) {
        // under the lock, as is what calls for it
        if self.is_called(Call::LookOut) {
            self.is_done(Call::LookOut);
        }
        if std::mem::take(&mut holdings.early_cancels) > 0 {
            holdings.looks += 1;
            drop(holdings);
            self.cancel_may_go_on.notify_waiters();
        }
    }

    /// Notes that something is asked of a server for its request.
    ///
    /// # Errors
    /// Where the request was cancelled: nothing more is to be asked.
    pub fn begin_sending(&self) -> Result<(), CancelCause> {
        let mut holdings = self.holdings();
        match holdings.cancelled {
            Some(cause) => Err(cause),
            None => {
                holdings.is_sent = false;
                Ok(())
            }
        }
    }

    /// Notes that what was asked is written: a server that is told to cancel it now has it.
    pub fn note_sent(&self) {
        let mut holdings = self.holdings();
        holdings.is_sent = true;
        self.let_cancels_go_on(holdings);
    }

    fn follows_a_request(&self) -> bool {
        let holdings = self.holdings();
        holdings.looks_out && holdings.running == Running::Request
    }

    fn run_on(&self, running: Running) {
        let mut holdings = self.holdings();
        holdings.running = running;
        self.let_cancels_go_on(holdings);
    }

    fn let_cancels_go_on(&self, holdings: MutexGuard<'_, Holdings>) {
        let waits = holdings.cancels > 0;
        drop(holdings);
        if waits {
            self.cancel_may_go_on.notify_waiters();
        }
    }

    /// Notes that its request is over: no cancel request is sent any more. Returns whether one is on its way; until
    /// [`Client::cancels_ended`] the servers must be asked nothing, for it would hit that.
    #[must_use]
    pub fn end_request(&self) -> bool {
        let mut holdings = self.holdings();
        holdings.running = Running::Nothing;
        holdings.cancelled = None;
        let on_their_way = holdings.cancels > 0;
        self.let_cancels_go_on(holdings);
        on_their_way
    }

    /// Waits until no cancel request is on its way. Returns whether each of them is known to have arrived. Cancel-safe.
    pub async fn cancels_ended(&self) -> bool {
        loop {
            let ended = self.cancels_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut holdings = self.holdings();
                if holdings.cancels == 0 {
                    return !std::mem::take(&mut holdings.cancels_unsure);
                }
            }
            ended.await;
        }
    }

    /// Nothing that comes from here on cancels its request; returns when what came before has ended. To be undone with
    /// [`Client::end_decision`].
    pub async fn begin_decision(&self) {
        self.run_on(Running::Decision);
        self.cancels_ended().await;
    }

    /// Its request may be cancelled again.
    pub fn end_decision(&self) {
        self.run_on(Running::Request);
    }

    /// Who wants its request to end, if anybody does.
    pub fn cancel_cause(&self) -> Option<CancelCause> {
        self.holdings().cancelled
    }

    /// Waits for its request to be cancelled, also by what came earlier: for a request that waits for a connection. Cancel-safe.
    pub async fn cancelled(&self) -> CancelCause {
        loop {
            let came = self.cancel_came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            if let Some(cause) = self.cancel_cause() {
                return cause;
            }
            came.await;
        }
    }

    /// Cancels what runs, or what its session finds to have been sent already: the handle says where.
    pub fn begin_cancel(self: &Arc<Self>, cause: CancelCause) -> CancelHandle {
        let mut holdings = self.holdings();
        let early =
            (holdings.running == Running::Nothing && holdings.looks_out).then_some(holdings.looks);
        match early {
            Some(_) => {
                holdings.early_cancels += 1;
                self.call(Call::LookOut);
            }
            None => holdings.cancels += 1,
        }
        if holdings.running == Running::Request {
            holdings.cancelled.get_or_insert(cause);
        }
        drop(holdings);
        self.cancel_came.notify_waiters();
        CancelHandle {
            client: Arc::clone(self),
            early,
        }
    }
}

/// A cancel request on its way to the servers that a client holds. While it lives, those servers are not given to anyone else, and the
/// request that it is for is followed by no other.
#[derive(Debug)]
pub struct CancelHandle {
    client: Arc<Client>,
    /// Where nothing ran when it came: how often the session had looked for what it is for.
    early: Option<u64>,
}

impl CancelHandle {
    /// The server connections to cancel, once they have been written what is to be cancelled: a server that is idle ignores a cancel
    /// request. None where the request ends before that, or has none yet: what is cancelled is not sent any more. Cancel-safe.
    pub async fn cancellers(&self) -> Vec<Arc<Canceller>> {
        loop {
            let goes_on = self.client.cancel_may_go_on.notified();
            tokio::pin!(goes_on);
            goes_on.as_mut().enable();
            {
                let holdings = self.client.holdings();
                match self.early {
                    Some(looks) if looks == holdings.looks => {}
                    // what the session has found begins as cancelled
                    Some(_) => return Vec::new(),
                    None if holdings.running != Running::Request || holdings.servers.is_empty() => {
                        return Vec::new();
                    }
                    None if holdings.is_sent => {
                        let servers = holdings.servers.iter();
                        return servers
                            .filter_map(|(_, server)| server.canceller.clone())
                            .collect();
                    }
                    None => {}
                }
            }
            goes_on.await;
        }
    }

    /// Waits until what it cancels is over, or cannot be cancelled any more; not at all where requests are relayed unread, and nobody knows
    /// when one ends. Cancel-safe.
    pub async fn request_ended(&self) {
        loop {
            let goes_on = self.client.cancel_may_go_on.notified();
            tokio::pin!(goes_on);
            goes_on.as_mut().enable();
            if self.early.is_some() || !self.client.follows_a_request() {
                return;
            }
            goes_on.await;
        }
    }

    /// Notes that a cancel request may still arrive.
    pub fn is_unsure(&self) {
        self.client.holdings().cancels_unsure = true;
    }

    /// The client whose request is cancelled.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for CancelHandle {
    fn drop(&mut self) {
        let mut holdings = self.client.holdings();
        if let Some(looks) = self.early {
            if looks == holdings.looks {
                holdings.early_cancels -= 1;
            }
            return;
        }
        holdings.cancels -= 1;
        let last = holdings.cancels == 0;
        drop(holdings);
        if last {
            self.client.cancels_ended.notify_waiters();
        }
    }
}
