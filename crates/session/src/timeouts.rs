//! How long a client may take for what.
//!
//! Owns: the limits, and ending what exceeds them: a request is cancelled, a client that is idle for too long is sent away.
//! Main type: [`Timeouts`].

use std::sync::Arc;

use pgherd_protocol::{SqlState, TransactionStatus};
use tokio::time::{Duration, timeout};

use crate::cancelling::forward;
use crate::failure::Failure;
use crate::registry::CancelCause;
use crate::request::Request;
use crate::session::Session;

/// Limits of a database or a user. `None` says nothing, zero that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// For a request, the wait for a server connection among it: it is cancelled (57014).
    pub query: Option<Duration>,
    /// For the next request within a transaction block: the client is disconnected (25P03).
    pub idle_in_transaction: Option<Duration>,
    /// For the next request outside of one: the client is disconnected (57P05).
    pub client_idle: Option<Duration>,
}

impl Timeouts {
    /// What is said here, and the rest as there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            query: self.query.or(other.query),
            idle_in_transaction: self.idle_in_transaction.or(other.idle_in_transaction),
            client_idle: self.client_idle.or(other.client_idle),
        }
    }
}

/// How long a client may take to ask for something, and what it is told if it does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) limit: Duration,
    pub(crate) code: SqlState,
    pub(crate) message: &'static str,
}

impl Session {
    fn timeouts(&self) -> Timeouts {
        self.user_timeouts.or(self.database.timeouts())
    }

    /// One request, its errors told; one that takes too long is cancelled.
    pub(crate) async fn answer_in_time(&mut self, request: Request) -> Result<(), Failure> {
        let Some(limit) = self.timeouts().query.filter(|limit| !limit.is_zero()) else {
            return self.answer(request).await;
        };
        let client = Arc::clone(self.registration.client());
        let mut answering = Box::pin(self.answer(request));
        if let Ok(answered) = timeout(limit, answering.as_mut()).await {
            return answered;
        }
        tokio::spawn(forward(client.begin_cancel(CancelCause::QueryTimeout)));
        answering.await
    }

    /// How long the next request may take to come, if there is a limit.
    pub(crate) fn patience(&self) -> Option<Patience> {
        let timeouts = self.timeouts();
        let (limit, code, message) = match self.status() {
            // a pipeline that has begun is a transaction too
            TransactionStatus::Idle if self.open_run.is_none() => (
                timeouts.client_idle,
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to idle-session timeout",
            ),
            _ => (
                timeouts.idle_in_transaction,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
        };
        let limit = limit.filter(|limit| !limit.is_zero())?;
        Some(Patience {
            limit,
            code,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_may_goes_before_what_a_database_allows() {
        let second = Some(Duration::from_secs(1));
        let user = Timeouts {
            query: Some(Duration::ZERO),
            client_idle: second,
            ..Timeouts::default()
        };
        let database = Timeouts {
            query: second,
            idle_in_transaction: second,
            client_idle: None,
        };
        let both = user.or(database);
        assert_eq!(both.query, Some(Duration::ZERO));
        assert_eq!(
            (both.idle_in_transaction, both.client_idle),
            (second, second)
        );
    }
}
