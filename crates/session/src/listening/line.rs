//! One listening connection.
//!
//! Owns: what it was asked and has not answered yet, in order, and reading it. Never does: deciding what to listen to, or who hears what.
//! Main type: [`Line`].

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pgherd_pool::ServerConnection;
use pgherd_protocol::{
    Frame, FrontendMessage, MessageError, PgError, Severity, TransactionStatus, split_frame, tag,
};

/// The longest message taken, in bytes. Payloads are below 8,000.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Names what waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(pub(super) u64);

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// A NotificationResponse.
    Notification(Frame),
    /// What was asked under this ticket is answered; everything that the server had committed before is heard.
    Answer(Option<Ticket>, Option<Box<PgError>>),
    /// The connection is at its end.
    End(String),
}

/// A connection that listens.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: ServerConnection,
    /// A ReadyForQuery each, the oldest first.
    owed: VecDeque<(Option<Ticket>, Instant)>,
    error: Option<Box<PgError>>,
}

impl Line {
    pub(super) fn new(connection: ServerConnection) -> Self {
        Self {
            connection,
            owed: VecDeque::new(),
            error: None,
        }
    }

    /// Queues a statement, or an empty one. The answer comes under the ticket, if anyone waits for it.
    ///
    /// # Errors
    /// Where the text is longer than a message can be.
    pub(super) fn ask(&mut self, sql: &str, ticket: Option<Ticket>) -> Result<(), MessageError> {
        FrontendMessage::Query(sql.as_bytes()).encode(&mut self.connection.transport.outbox)?;
        self.connection.note_request();
        self.owed.push_back((ticket, Instant::now()));
        Ok(())
    }

    /// How long the oldest question has waited.
    pub(super) fn waits_for(&self) -> Option<Duration> {
        self.owed.front().map(|(_, since)| since.elapsed())
    }

    /// The next that comes; writes what was not written yet.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match split_frame(&mut self.connection.transport.inbox, MAX_MESSAGE) {
                Ok(Some(frame)) => {
                    if let Some(heard) = self.hear(frame) {
                        return Poll::Ready(heard);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Heard::End(error.to_string())),
            }
            let transport = &mut self.connection.transport;
            if !transport.is_flushed()
                && let Poll::Ready(Err(error)) = transport.poll_flush(context)
            {
                return Poll::Ready(Heard::End(error.to_string()));
            }
            match transport.poll_fill(context) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Heard::End(
                        "The server closed the connection unexpectedly.".to_owned(),
                    ));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Heard::End(error.to_string())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn hear(&mut self, frame: Frame) -> Option<Heard> {
        match frame.tag() {
            tag::backend::NOTIFICATION_RESPONSE => Some(Heard::Notification(frame)),
            tag::backend::READY_FOR_QUERY => {
                self.connection.note_ready(TransactionStatus::Idle);
                let ticket = self.owed.pop_front().and_then(|(ticket, _)| ticket);
                Some(Heard::Answer(ticket, self.error.take()))
            }
            tag::backend::ERROR_RESPONSE => match PgError::parse(frame.body()) {
                Ok(error) if error.severity == Severity::Error => {
                    self.error = Some(Box::new(error));
                    None
                }
                Ok(error) => Some(Heard::End(error.message)),
                Err(error) => Some(Heard::End(error.to_string())),
            },
            _ => None,
        }
    }
}
