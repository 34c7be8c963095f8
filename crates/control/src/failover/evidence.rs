//! What is known of one server, and since when.
//!
//! Owns how answers and failures add up over time. Never asks a server, never decides. Main type: [`Evidence`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ControlError;
use crate::testimony::Testimony;

/// Over this long, restarts are counted.
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);

/// More of them than this need not be told apart.
const RESTARTS_KEPT: usize = 16;

/// What the last attempt to reach a server met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Nothing was tried yet.
    Untried,
    /// It answered, and let a new connection in where that was tried.
    Answered {
        /// How long it took.
        took: Duration,
    },
    /// Nobody listens, or the connection broke.
    Refused,
    /// No answer in time, or no way there.
    Silent,
    /// 53300: it lives, and has no connection left.
    NoRoom,
    /// 57P03: it starts, or recovers from a crash.
    Starting,
    /// It answered with another error: it lives.
    Failed,
}

impl Contact {
    /// What a failure to connect or to be answered says about the server.
    pub(crate) fn of(error: &ControlError) -> Self {
        match error {
            ControlError::Silent { .. } => Self::Silent,
            ControlError::Refused { source } => Self::of(source),
            ControlError::Connect { source, .. } | ControlError::Statement { source, .. } => {
                Self::of_client(source)
            }
            _ => Self::Failed,
        }
    }

    fn of_client(error: &tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        if let Some(state) = error.code() {
            return match state {
                state if *state == SqlState::TOO_MANY_CONNECTIONS => Self::NoRoom,
                state if *state == SqlState::CANNOT_CONNECT_NOW => Self::Starting,
                // it goes down, or has
                state
                    if *state == SqlState::ADMIN_SHUTDOWN || *state == SqlState::CRASH_SHUTDOWN =>
                {
                    Self::Refused
                }
                _ => Self::Failed,
            };
        }
        if error.is_closed() {
            return Self::Refused;
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(cause) = cause.downcast_ref::<std::io::Error>() {
                use std::io::ErrorKind;
                return match cause.kind() {
                    ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
                    // of a Unix socket
                    | ErrorKind::NotFound => Self::Refused,
                    _ => Self::Silent,
                };
            }
            source = cause.source();
        }
        Self::Failed
    }

    /// Whether two are of one kind, however long they took.
    fn goes_on(self, next: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&next)
    }
}

/// One server, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What it met last, and how often in a row.
    pub(crate) contact: Contact,
    /// When that began.
    pub(crate) since: Instant,
    /// How often it was met without anything else between, at least 1 once anything was tried.
    pub(crate) times: u32,
    /// What it last said, and when.
    pub(crate) said: Option<(Instant, Testimony)>,
    restarts: VecDeque<Instant>,
}

impl Evidence {
    /// Nothing is known.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            contact: Contact::Untried,
            since: now,
            times: 0,
            said: None,
            restarts: VecDeque::new(),
        }
    }

    /// Adds what was met now.
    pub(crate) fn note(&mut self, now: Instant, contact: Contact, said: Option<Testimony>) {
        if self.contact.goes_on(contact) {
            self.times = self.times.saturating_add(1);
        } else {
            self.since = now;
            self.times = 1;
        }
        self.contact = contact;
        let Some(said) = said else { return };
        let before = self.said.as_ref().and_then(|(_, before)| before.begun);
        if let (Some(before), Some(begun)) = (before, said.begun)
            && before != begun
        {
            if self.restarts.len() == RESTARTS_KEPT {
                self.restarts.pop_front();
            }
            self.restarts.push_back(now);
        }
        self.said = Some((now, said));
    }

    /// Whether it answers.
    pub(crate) fn answers(&self) -> bool {
        matches!(self.contact, Contact::Answered { .. })
    }

    /// How long what it meets has gone on.
    pub(crate) fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// How often it has restarted, or a crash of a backend made it recover, within the last minute.
    pub(crate) fn restarts(&self, now: Instant) -> usize {
        let recent = |at: &&Instant| now.saturating_duration_since(**at) <= RESTARTS_WITHIN;
        self.restarts.iter().filter(recent).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testimony::{Replication, Standing};

    fn begun(at: i64) -> Option<Testimony> {
        Some(Testimony {
            standing: Standing::Claimant { timeline: 1 },
            system_identifier: 1,
            max_prepared_transactions: 0,
            version: 150_000,
            begun: Some(at),
            reign: None,
            replication: Replication::Sends {
                synchronous_standby_names: "".into(),
            },
        })
    }

    const ANSWERED: Contact = Contact::Answered {
        took: Duration::ZERO,
    };

    #[test]
    fn what_goes_on_is_counted_from_its_beginning() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut evidence = Evidence::new(start);
        evidence.note(at(1), Contact::Refused, None);
        evidence.note(at(2), Contact::Refused, None);
        assert_eq!(
            (evidence.times, evidence.lasted(at(3))),
            (2, Duration::from_secs(2))
        );
        evidence.note(at(4), Contact::Silent, None);
        assert_eq!(
            (evidence.times, evidence.lasted(at(4))),
            (1, Duration::ZERO)
        );
        let slow = Contact::Answered {
            took: Duration::from_secs(1),
        };
        evidence.note(at(5), ANSWERED, begun(1));
        evidence.note(at(6), slow, begun(1));
        assert_eq!(evidence.times, 2);
    }

    #[test]
    fn restarts_count_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut evidence = Evidence::new(start);
        for (second, when) in [(0, 1), (10, 2), (20, 2), (30, 3)] {
            evidence.note(at(second), ANSWERED, begun(when));
        }
        assert_eq!(evidence.restarts(at(30)), 2);
        assert_eq!(evidence.restarts(at(75)), 1);
        assert_eq!(evidence.restarts(at(120)), 0);
    }
}
