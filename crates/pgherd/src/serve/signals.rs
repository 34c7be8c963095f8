//! The signals that pgherd listens to.
//!
//! Owns their meaning: SIGHUP reads the configuration again, SIGTERM and SIGINT end. Main type: [`Signals`].

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServeError;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Read the configuration again.
    Reload,
    /// End.
    End,
}

/// The signals, from when this is made on: none that comes later is lost or kills the process.
#[derive(Debug)]
pub(super) struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen.
    pub(super) fn listen() -> Result<Self, ServeError> {
        let listen = |kind| {
            signal(kind).map_err(|source| ServeError::Process {
                what: "cannot listen to signals",
                source,
            })
        };
        Ok(Self {
            hang_up: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hang_up.recv() => Request::Reload,
            _ = self.terminate.recv() => Request::End,
            _ = self.interrupt.recv() => Request::End,
        }
    }

    /// Waits until one asks for the end; others are passed over. Cancel-safe.
    pub(super) async fn end(&mut self) {
        while self.next().await != Request::End {}
    }
}
