//! Between requests: waiting for the next one.
//!
//! Owns: what may end that wait (the client, its servers, notifications, cancel requests, the drain), and giving back what only a request
//! needs. Never does: the request. Main function: [`Session::next_request`].

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Instant;

use pgherd_protocol::{PgError, SqlState};
use pgherd_topology::NodeId;
use tokio::time::{Duration, sleep_until, timeout};

use crate::failure::Failure;
use crate::herd::Phase;
use crate::pins::state_lost;
use crate::registry::Call;
use crate::relay::Relay;
use crate::request::Request;
use crate::script::Script;
use crate::session::Session;

/// How long the runtime may take to see what has come by a client's socket.
const OVERTAKEN_LIMIT: Duration = Duration::from_secs(1);

/// Requests that start within so short a time of each other come without a pause.
const QUICK: Duration = Duration::from_millis(100);

/// After so many of them, what a request needs is kept for the next ([`Herd::tend`]).
const MANY_REQUESTS: u8 = 4;

/// What ended a wait.
enum Event {
    Client,
    Server(NodeId),
    Phase,
    Mail,
    Cancel,
    Rest,
}

impl Session {
    /// Notes how long after the one before it a request starts.
    pub(crate) fn note_pace(&mut self, after: Duration) {
        self.in_quick_succession = if after < QUICK {
            self.in_quick_succession.saturating_add(1)
        } else {
            0
        };
    }

    /// The next request; what held servers send meanwhile (notifications, their end) is seen to.
    pub(crate) async fn next_request(&mut self) -> Result<Request, Failure> {
        let max_message = self.herd.max_message();
        let idle_since = Instant::now();
        let mut rests = self.in_quick_succession < MANY_REQUESTS;
        loop {
            if self.may_hear() {
                self.pass_on_mail()?;
            }
            let next = self
                .requests
                .next(&mut self.client.inbox, max_message)
                .map_err(|error| {
                    Failure::Fatal(Box::new(PgError::fatal(error.code(), error.to_string())))
                })?;
            if let Some(request) = next {
                return Ok(request);
            }
            if self.registration.is_called_at_all() {
                if self.registration.is_called(Call::Leave) {
                    return Err(sent_away());
                }
                if self.registration.is_called(Call::LookOut) {
                    self.look_for_overtaken().await?;
                    continue;
                }
            }
            self.check_drain()?;
            if rests {
                self.rest();
            }
            match self.wait(idle_since).await? {
                Event::Client => {}
                Event::Server(node) => {
                    rests = true;
                    self.hear(node)?;
                }
                Event::Rest => rests = true,
                // seen to above
                Event::Phase | Event::Mail | Event::Cancel => {}
            }
        }
    }

    /// Gives back what only a request needs: the client may be silent for long, and there are many of them.
    fn rest(&mut self) {
        self.registration.rest();
        self.client.release_buffers();
        self.script.rest();
        self.requests.rest();
        self.spare_steps = Vec::new();
        self.legs.rest();
    }

    /// A cancel request came while nothing ran. What it is for may be there though the runtime has not told of it.
    async fn look_for_overtaken(&mut self) -> Result<(), Failure> {
        if self.client.stream().has_unread()
            && let Ok(filled) = timeout(OVERTAKEN_LIMIT, self.client.fill()).await
        {
            return match filled {
                Ok(0) | Err(_) => Err(Failure::ClientGone),
                Ok(_) => Ok(()),
            };
        }
        self.registration.nothing_to_cancel();
        Ok(())
    }

    /// Waits for bytes from the client or from a held server; writes what the client has not taken yet.
    async fn wait(&mut self, idle_since: Instant) -> Result<Event, Failure> {
        let patience = self.patience();
        let overdue = async {
            match patience {
                Some(patience) => {
                    // boxed, as most clients may take as long as they like
                    Box::pin(sleep_until((idle_since + patience.limit).into())).await;
                    let error = PgError::fatal(patience.code, patience.message);
                    Failure::Fatal(Box::new(error))
                }
                None => pending().await,
            }
        };
        let may_hear = self.may_hear();
        let Self {
            client,
            legs,
            phase,
            open_run,
            subscriptions,
            registration,
            ..
        } = self;
        let quiet = open_run.is_none();
        let from_peers = poll_fn(|context| {
            if !client.is_flushed()
                && let Poll::Ready(Err(_)) = client.poll_flush(context)
            {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            registration.hear_bell(context.waker());
            if registration.is_called_at_all() {
                return Poll::Ready(Ok(if registration.is_called(Call::Rest) {
                    Event::Rest
                } else {
                    Event::Cancel
                }));
            }
            match phase.has_changed() {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Ok(Event::Phase)),
                // the herd outlives its sessions; were it gone, this one would drain too
                Err(_) => return Poll::Ready(Err(Failure::ClientGone)),
            }
            if may_hear && Self::takes_mail(&client.outbox) && subscriptions.has_mail() {
                return Poll::Ready(Ok(Event::Mail));
            }
            if let Poll::Ready(read) = client.poll_fill(context) {
                return Poll::Ready(match read {
                    Ok(0) | Err(_) => Err(Failure::ClientGone),
                    Ok(_) => Ok(Event::Client),
                });
            }
            for leg in legs.iter_mut().filter(|_| quiet) {
                if leg.connection.transport.poll_fill(context).is_ready() {
                    return Poll::Ready(Ok(Event::Server(leg.node)));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            event = from_peers => event,
            () = subscriptions.mail(), if may_hear => Ok(Event::Mail),
            failure = overdue => Err(failure),
        }
    }

    /// A session that is idle ends when pgherd drains; one in a block goes on to its end.
    fn check_drain(&mut self) -> Result<(), Failure> {
        if *self.phase.borrow_and_update() == Phase::Draining
            && self.block.is_none()
            && self.open_run.is_none()
            && !self.skipping
        {
            return Err(sent_away());
        }
        Ok(())
    }

    /// What a held server sent between requests.
    fn hear(&mut self, node: NodeId) -> Result<(), Failure> {
        let shard = self.legs.at(node).shard;
        let mut script = Script::default();
        let leg = self.legs.at(node);
        let hears = leg.hears;
        let mut relay = Relay::new(&mut script, None, false);
        relay.hearing(hears, &leg.listened);
        match relay.hear(&mut leg.connection, &mut self.client.outbox) {
            Ok(notified) => {
                if notified {
                    self.tokens.observe(shard, node, Instant::now());
                }
                Ok(())
            }
            Err(error) => {
                let sticky = self.legs.at(node).sticky;
                let in_block = self.legs.at(node).in_block;
                let failure = self.lost(node, error);
                if (sticky && !in_block) || matches!(failure, Failure::Fatal(_)) {
                    return Err(state_lost(failure));
                }
                Ok(())
            }
        }
    }
}

/// As Postgres words it.
fn sent_away() -> Failure {
    Failure::Fatal(Box::new(PgError::fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )))
}
