//! What can go wrong between the control plane and the servers.
//!
//! Owns the crate's one error type. Never holds a password: the client library's errors do not, and ours add names only.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Any failure of the control plane.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No connection to the server: refused, a wrong login, TLS.
    #[error("cannot connect to server {server}: {}", Cause(.source))]
    Connect {
        /// Its name in the configuration.
        server: Box<str>,
        /// What the client library says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement of ours failed.
    #[error("server {server}: cannot {action}: {}", Cause(.source))]
    Statement {
        /// Its name in the configuration.
        server: Box<str>,
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// What the server says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time. A retry is safe: nothing of ours relies on an unanswered statement.
    #[error("server {server}: no answer within {after:?} to: {action}")]
    Silent {
        /// Its name in the configuration.
        server: Box<str>,
        /// What was tried.
        action: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The open connection answers, but nobody new is let in.
    #[error("lets nobody in although an open connection answers: {source}")]
    Refused {
        /// What the fresh login met.
        source: Box<ControlError>,
    },
    /// A server answered something that no server of a supported version answers.
    #[error("server {server}: unexpected answer to: {action}: {detail}")]
    Unexpected {
        /// Its name in the configuration.
        server: Box<str>,
        /// What was asked.
        action: &'static str,
        /// What is wrong with the answer.
        detail: String,
    },
    /// Nobody is known to be the shard's primary now.
    #[error("shard {shard} has no primary")]
    NoPrimary {
        /// Its name in the configuration.
        shard: Box<str>,
    },
    /// Not everything was there in time.
    #[error("not ready after {after:?}: {missing}")]
    NotReady {
        /// How long was waited.
        after: Duration,
        /// What is missing.
        missing: String,
    },
    /// The catalog was not read anew in time, or the last attempt failed.
    #[error("the catalog was not reloaded: {0}")]
    Reload(String),
    /// The control plane of this database was shut down.
    #[error("the control plane of this database has been shut down")]
    Stopped,
    /// The state file cannot be read or written.
    #[error("state file {}: cannot {action}: {source}", path.display())]
    StateFile {
        /// Where it is.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The state file is there, but is not one that this program wrote. Never overwritten: it says where rows are.
    #[error("state file {} is damaged: {detail}; restore it from a copy, or move it away if no shard holds a row", path.display())]
    StateDamaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Another process holds the state file.
    #[error("state file {} is in use by another pgherd", path.display())]
    StateInUse {
        /// Where it is.
        path: PathBuf,
    },
    /// What the store keeps is not what this process has read: somebody put another file in its place.
    #[error(
        "the state store was changed by somebody else: it has version {found}, not {expected}; start pgherd anew to go by it"
    )]
    StateConflict {
        /// What is kept.
        found: u64,
        /// What this process knows.
        expected: u64,
    },
    /// A shard is in another reign than the one acted for.
    #[error("shard {shard} is no longer in epoch {epoch}")]
    Superseded {
        /// Its name in the configuration.
        shard: Box<str>,
        /// The epoch acted for.
        epoch: u64,
    },
    /// A command of the operator's failed.
    #[error("{hook}: {detail}")]
    Hook {
        /// The setting that has it.
        hook: &'static str,
        /// How.
        detail: String,
    },
    /// Something an operator asked for, or a change of primary, is not possible as things are.
    #[error("{0}")]
    NotNow(String),
    /// The store was opened to be read only.
    #[error("the state store was opened for reading only")]
    StateReadOnly,
}

impl ControlError {
    /// The SQLSTATE, where it was a server that refused.
    pub fn sql_state(&self) -> Option<&tokio_postgres::error::SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Statement { source, .. } => source.code(),
            Self::Silent { .. }
            | Self::Refused { .. }
            | Self::Unexpected { .. }
            | Self::NoPrimary { .. }
            | Self::NotReady { .. }
            | Self::Reload(_)
            | Self::Stopped
            | Self::StateFile { .. }
            | Self::StateDamaged { .. }
            | Self::StateInUse { .. }
            | Self::StateConflict { .. }
            | Self::Superseded { .. }
            | Self::Hook { .. }
            | Self::NotNow(_)
            | Self::StateReadOnly => None,
        }
    }
}

/// The client library's own text leaves out what the server said; this adds it.
struct Cause<'a>(&'a tokio_postgres::Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = self.0.as_db_error() {
            write!(formatter, "{} ({})", error.message(), error.code().code())?;
            return match error.hint() {
                Some(hint) => write!(formatter, "; {hint}"),
                None => Ok(()),
            };
        }
        write!(formatter, "{}", self.0)?;
        match std::error::Error::source(self.0) {
            Some(source) => write!(formatter, ": {source}"),
            None => Ok(()),
        }
    }
}
