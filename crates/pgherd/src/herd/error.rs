//! What may go wrong with a herd, each in one line that a person at a terminal can act on.

use std::path::PathBuf;

/// Why a herd could not be started or one of its servers not be steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HerdError {
    /// No server binaries were found.
    #[error(
        "no Postgres server found in PATH or /usr/lib/postgresql/*/bin: install it (Debian, Ubuntu: apt-get install postgresql)"
    )]
    PostgresMissing,
    /// The directory was made by a major version whose binaries are gone.
    #[error("{} was made by Postgres {major}, which is not installed here", directory.display())]
    VersionMissing {
        /// The herd's directory.
        directory: PathBuf,
        /// The major version that made it.
        major: u32,
    },
    /// Servers cannot run as root, and there is nobody else to run them as.
    #[error(
        "Postgres does not run as root, and there is no user `postgres` to run it as: create one, or run pgherd as another user"
    )]
    NoServerUser,
    /// Another herd runs on the directory.
    #[error("another herd is running in {}", directory.display())]
    Locked {
        /// The herd's directory.
        directory: PathBuf,
    },
    /// The server's user cannot get to the directory.
    #[error(
        "the user `postgres`, who runs the servers, cannot enter {}: choose a directory that it can reach",
        directory.display()
    )]
    Unreachable {
        /// The herd's directory.
        directory: PathBuf,
    },
    /// The directory holds a herd of another shape.
    #[error("{} holds a herd of {found}, not of {asked}: ask for that, or choose another directory", directory.display())]
    OtherShape {
        /// The herd's directory.
        directory: PathBuf,
        /// What is there.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// The shape asked for cannot be.
    #[error("{0}")]
    Shape(&'static str),
    /// No free ports.
    #[error("no {count} free ports found between 15000 and 32000 on 127.0.0.1")]
    NoPorts {
        /// How many were needed.
        count: usize,
    },
    /// A program that prepares a server failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines of what it said.
        output: String,
    },
    /// A server did not come up.
    #[error("server {server} did not start: {reason}")]
    Start {
        /// Its name.
        server: String,
        /// The last lines of its log.
        reason: String,
    },
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// `herd.json` is not what we wrote.
    #[error("{}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A server refused a statement of ours.
    #[error("server {server}: {}", sql_message(source))]
    Sql {
        /// Its name.
        server: String,
        /// Its answer.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// The server's own words where it answered: tokio-postgres prints only "db error".
fn sql_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{}: {}", answer.code().code(), answer.message()),
        None => error.to_string(),
    }
}

/// Names the operation in an I/O error.
pub(super) trait Naming<T> {
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, HerdError>;
}

impl<T> Naming<T> for std::io::Result<T> {
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, HerdError> {
        self.map_err(|source| HerdError::Io {
            what: what(),
            source,
        })
    }
}
