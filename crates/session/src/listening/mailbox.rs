//! What one client has yet to be told.
//!
//! Owns: the bound on it, and why the client must be ended if that was passed or a gap arose. Never does: I/O.
//! Main types: [`Mailbox`], [`Message`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pgherd_protocol::{PgError, SqlState};
use pgherd_topology::{NodeId, ShardId};
use tokio::sync::Notify;

/// How many bytes of notifications may wait for one client: while it is in a transaction block, or does not read.
pub(super) const MAX_WAITING: usize = 8 * 1024 * 1024;

/// Above this the client is waited for a moment, once, until it is down to [`RELIEVED`].
const CROWDED: usize = MAX_WAITING / 2;
const RELIEVED: usize = MAX_WAITING / 4;

/// What keeping a notification takes beside its bytes.
const OVERHEAD: usize = 128;

/// A notification, the same one for all who hear it.
#[derive(Debug)]
pub(super) struct Message {
    /// NotificationResponse.
    pub(super) frame: Bytes,
    pub(super) channel: Box<str>,
    /// The shard that it comes from: what it tells of can be read there.
    pub(super) shard: ShardId,
    pub(super) node: NodeId,
}

impl Message {
    /// What it takes to keep it, in bytes, as though nobody else did.
    pub(super) fn size(&self) -> usize {
        self.frame.len() + OVERHEAD
    }
}

/// The queue of one client. The hub fills it, the session empties it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// What came of adding a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, or the client is to be ended anyway.
    Kept,
    /// It waits, and with it so much that the client should be given a moment to take it.
    Crowded,
    /// It was one too many: the client is to be ended, and nothing is kept for it.
    Overflowed,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// Whether the client was given its moment.
    was_waited_for: bool,
    end: Option<Box<PgError>>,
}

impl Mailbox {
    /// Adds a notification.
    pub(super) fn push(&self, message: &Arc<Message>) -> Pushed {
        let mut waiting = self.waiting();
        if waiting.end.is_some() {
            return Pushed::Kept;
        }
        let bytes = waiting.bytes + message.size();
        let pushed = if bytes > MAX_WAITING {
            waiting.end_with(too_slow());
            Pushed::Overflowed
        } else {
            waiting.bytes = bytes;
            waiting.messages.push_back(Arc::clone(message));
            if bytes > CROWDED && !waiting.was_waited_for {
                waiting.was_waited_for = true;
                Pushed::Crowded
            } else {
                Pushed::Kept
            }
        };
        drop(waiting);
        self.filled.notify_one();
        pushed
    }

    /// The client is to be ended. The first reason stays; what waits is dropped, as what follows it is not known.
    pub(super) fn end(&self, error: PgError) {
        self.waiting().end_with(error);
        self.filled.notify_one();
    }

    /// Drops what waits from a channel: the client has left it.
    pub(super) fn forget(&self, channel: &str) {
        let mut waiting = self.waiting();
        waiting
            .messages
            .retain(|message| *message.channel != *channel);
        waiting.bytes = waiting.messages.iter().map(|message| message.size()).sum();
    }

    /// The next notification.
    ///
    /// # Errors
    /// Why the client is to be ended.
    pub(super) fn take(&self) -> Result<Option<Arc<Message>>, Box<PgError>> {
        let mut waiting = self.waiting();
        if let Some(end) = &waiting.end {
            return Err(end.clone());
        }
        let message = waiting.messages.pop_front();
        waiting.bytes -= message.as_ref().map_or(0, |message| message.size());
        waiting.was_waited_for &= waiting.bytes > RELIEVED;
        Ok(message)
    }

    /// Whether the client has still to take some of what crowded it.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting().bytes > RELIEVED
    }

    /// Whether there is anything to do.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.messages.is_empty() && waiting.end.is_none()
    }

    /// Waits until something was added since the last time.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a client is ended for which too much waits.
pub(super) fn too_slow() -> PgError {
    PgError::fatal(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        "terminating connection because it does not take its notifications",
    )
    .detail(format!(
        "More than {MAX_WAITING} bytes of notifications waited for this client."
    ))
    .hint("Read from the connection all the time, and keep transactions short on one that listens.")
}

impl Waiting {
    fn end_with(&mut self, error: PgError) {
        self.end.get_or_insert_with(|| Box::new(error));
        self.messages = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(in super::super) fn message(channel: &str, payload: &'static [u8]) -> Arc<Message> {
        Arc::new(Message {
            frame: Bytes::from_static(payload),
            channel: channel.into(),
            shard: ShardId(0),
            node: NodeId(0),
        })
    }

    #[test]
    fn a_client_that_takes_nothing_is_ended_at_the_bound_and_costs_nothing_more() {
        static PAYLOAD: [u8; 1 << 20] = [0; 1 << 20];
        let mailbox = Mailbox::default();
        let big = message("a", &PAYLOAD);
        let pushed: Vec<Pushed> = (0..8).map(|_| mailbox.push(&big)).collect();
        assert_eq!(pushed[..3], [Pushed::Kept; 3]);
        assert_eq!(pushed[3], Pushed::Crowded);
        assert_eq!(pushed[4..7], [Pushed::Kept; 3]);
        assert_eq!(pushed[7], Pushed::Overflowed);
        assert_eq!(mailbox.push(&message("a", b"x")), Pushed::Kept);
        assert_eq!(Arc::strong_count(&big), 1);
        assert_eq!(
            mailbox.take().unwrap_err().code,
            SqlState::PROGRAM_LIMIT_EXCEEDED
        );
    }

    #[test]
    fn a_channel_that_was_left_is_heard_no_more() {
        let mailbox = Mailbox::default();
        mailbox.push(&message("a", b"1"));
        mailbox.push(&message("b", b"2"));
        mailbox.forget("a");
        assert_eq!(&*mailbox.take().unwrap().unwrap().channel, "b");
        assert!(mailbox.take().unwrap().is_none());
        assert!(mailbox.is_empty());
    }
}
