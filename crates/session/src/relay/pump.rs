//! Waiting for a server and a client at once.
//!
//! Owns: moving bytes in both directions while neither holds the other up, and what becomes of a request whose client goes away in its
//! midst. Never does: understanding what a server says (`relay.rs`). Main function: [`Relay::attend`].

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use pgherd_pool::{ServerConnection, Transport};
use tokio::time::timeout;

use super::{Pause, READ_AHEAD, Relay, RelayError, Step};

/// Above this many bytes that the client has not taken yet, no more is read from the server.
const HIGH_WATER: usize = 256 * 1024;
/// How long a server goes on for a client that is gone before its statement is cancelled: a short one is done, as with Postgres.
const AFTER_THE_CLIENT: Duration = Duration::from_millis(250);
/// How long a cancelled server may take to end its answer before its connection is closed.
const AFTER_THE_CANCEL: Duration = Duration::from_secs(5);

impl Relay<'_> {
    /// Follows a leg for a client; what runs for one that goes away is cancelled, and its answer read to the end.
    pub(super) async fn attend(
        &mut self,
        leg: &mut ServerConnection,
        client: &mut Transport,
        mut sink: Option<&mut BytesMut>,
    ) -> Result<Pause, RelayError> {
        self.count_requests(leg);
        match self.follow(leg, client, sink.as_deref_mut()).await {
            // boxed: seldom needed, and larger than all the rest of a request
            Err(RelayError::Client(gone)) => {
                Box::pin(self.finish_without(leg, client, sink, gone)).await
            }
            ended => ended,
        }
    }

    /// Reads the answer for a client that is `gone` to its end, which comes soon or after a cancel request.
    async fn finish_without(
        &mut self,
        leg: &mut ServerConnection,
        client: &mut Transport,
        mut sink: Option<&mut BytesMut>,
        gone: std::io::Error,
    ) -> Result<Pause, RelayError> {
        let rest = self.follow_without(leg, client, sink.as_deref_mut());
        if let Ok(ended) = timeout(AFTER_THE_CLIENT, rest).await {
            return ended;
        }
        self.abandoned = true;
        let canceller = leg.canceller();
        let cancelling = async {
            // it may have been too late, and where it was not, the time limit closes the connection
            match &canceller {
                Some(canceller) => canceller.cancel().await.is_ok(),
                None => false,
            }
        };
        let both = async {
            // together, so that nobody has the connection before the cancel request has ended
            tokio::join!(self.follow_without(leg, client, sink), cancelling)
        };
        match timeout(AFTER_THE_CANCEL, both).await {
            Ok((ended, _)) => ended,
            Err(_) => Err(RelayError::Client(gone)),
        }
    }

    /// Cancel-safe: a later call goes on from there.
    async fn follow(
        &mut self,
        leg: &mut ServerConnection,
        client: &mut Transport,
        mut sink: Option<&mut BytesMut>,
    ) -> Result<Pause, RelayError> {
        loop {
            let out = sink.as_deref_mut().unwrap_or(&mut client.outbox);
            match self.advance(leg, out)? {
                Step::Pause(pause) => return Ok(pause),
                Step::NeedMore => self.pump(leg, Some(client)).await?,
            }
        }
    }

    /// Follows a leg whose client is known to have gone. It may still read; what it does not take is dropped.
    async fn follow_without(
        &mut self,
        leg: &mut ServerConnection,
        client: &mut Transport,
        mut sink: Option<&mut BytesMut>,
    ) -> Result<Pause, RelayError> {
        loop {
            match self.follow(leg, client, sink.as_deref_mut()).await {
                // first its end was read, then writing failed
                Err(RelayError::Client(_)) => {}
                ended => return ended,
            }
        }
    }

    /// Tells the connection how many ReadyForQuery it owes, once.
    pub(super) fn count_requests(&mut self, leg: &mut ServerConnection) {
        for _ in 0..std::mem::take(&mut self.uncounted) {
            leg.note_request();
        }
    }

    /// Waits until the server sent something; writes what both sides have not taken yet.
    pub(super) async fn pump(
        &mut self,
        leg: &mut ServerConnection,
        client: Option<&mut Transport>,
    ) -> Result<(), RelayError> {
        let mut client = client;
        let is_held = self.hold;
        let unsent = &mut self.unsent;
        let server = &mut leg.transport;
        let written = server.bytes_written();
        let mut unwritable = false;
        let read = poll_fn(|context| {
            if !unwritable && !server.is_flushed() {
                // a server that went away may have said why: what it sent is read before the failure counts
                if let Poll::Ready(Err(_)) = server.poll_flush(context) {
                    unwritable = true;
                }
                if server.bytes_written() > written
                    && let Some(client) = unsent.take()
                {
                    client.note_sent();
                }
            }
            if let Some(client) = client.as_deref_mut().filter(|client| client.is_broken()) {
                client.outbox.clear();
            }
            let room = client
                .as_ref()
                .is_none_or(|client| is_held || client.outbox.len() < HIGH_WATER);
            if room && let Poll::Ready(read) = server.poll_fill(context) {
                return Poll::Ready(Ok(read.unwrap_or(0)));
            }
            if let Some(client) = client.as_deref_mut()
                && !client.is_flushed()
                && !is_held
            {
                match client.poll_flush(context) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Client(error))),
                    Poll::Ready(Ok(())) if !room => {
                        if let Poll::Ready(read) = server.poll_fill(context) {
                            return Poll::Ready(Ok(read.unwrap_or(0)));
                        }
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            if let Some(client) = client.as_deref_mut().filter(|client| !client.has_ended())
                && let Poll::Ready(error) = client.poll_ended(context, READ_AHEAD)
            {
                return Poll::Ready(Err(RelayError::Client(error)));
            }
            Poll::Pending
        })
        .await?;
        if read == 0 {
            Err(RelayError::Server {
                said: self.fatal.take(),
            })
        } else {
            Ok(())
        }
    }
}
