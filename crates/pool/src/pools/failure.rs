//! A server that failed is left alone for a while.
//!
//! Owns the pauses between attempts. Never tries anything itself. Main type: [`Failure`].

use std::time::{Duration, Instant};

use crate::error::PoolError;

/// The first pause after a failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The last attempt to open a connection failed.
#[derive(Debug)]
pub(super) struct Failure {
    error: PoolError,
    until: Instant,
    pause: Duration,
}

impl Failure {
    /// Once more, or for the first time.
    pub(super) fn after(previous: Option<&Self>, error: PoolError, now: Instant) -> Self {
        let pause = match previous {
            // begun before that was known
            Some(failure) if failure.is_active(now) => failure.pause,
            Some(failure) => (failure.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        Self {
            error,
            until: now + pause,
            pause,
        }
    }

    /// Whether the server is left alone.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.until > now
    }

    /// Whether the server has no room for one more connection, while those that are open go on.
    pub(super) fn is_server_full(&self) -> bool {
        self.error.is_server_full()
    }

    /// What happened.
    pub(super) fn error(&self) -> &PoolError {
        &self.error
    }

    /// As those are told who ask meanwhile.
    pub(super) fn as_error(&self, now: Instant) -> PoolError {
        PoolError::BackingOff {
            failure: Box::new(self.error.clone()),
            retry_in: self.until.saturating_duration_since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgherd_topology::{Address, NodeId, ShardId};

    use super::*;
    use crate::server::Server;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let server = Server {
            node: NodeId(0),
            shard: ShardId(0),
            name: "s0a".into(),
            address: Address::Tcp {
                host: "localhost".into(),
                port: 1,
            },
            synchronous: false,
        };
        let now = Instant::now();
        let error = PoolError::protocol(&server, "a test");
        let mut failure = Failure::after(None, error.clone(), now);
        assert!(failure.is_active(now) && !failure.is_active(now + FIRST_PAUSE));
        let mut now = now;
        failure = Failure::after(Some(&failure), error.clone(), now);
        assert!(
            !failure.is_active(now + FIRST_PAUSE),
            "not a further attempt"
        );
        for _ in 0..10 {
            now += LONGEST_PAUSE;
            failure = Failure::after(Some(&failure), error.clone(), now);
        }
        assert!(!failure.is_active(now + LONGEST_PAUSE));
        assert!(failure.is_active(now + LONGEST_PAUSE - Duration::from_millis(1)));
    }
}
