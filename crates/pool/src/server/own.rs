//! Statements of pgherd's own on a connection that nobody else uses at the moment.
//!
//! Owns: running one to its end, and taking away what a client has left. Never relays anything. Main functions:
//! [`ServerConnection::run`], [`ServerConnection::reset`].

use std::io;

use pgherd_protocol::{
    BackendMessage, FrontendMessage, PgError, SqlState, TransactionStatus, split_frame,
};

use super::{Drawn, ServerConnection};
use crate::transport::Exchanged;

/// Longest message of a server in answer, in bytes.
const MAX_FRAME: usize = 1024 * 1024;

/// Why a statement of pgherd's own came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The server refused it; the connection goes on.
    #[error("{}", .0.message)]
    Refused(Box<PgError>),
    /// The connection broke.
    #[error(transparent)]
    Lost(#[from] io::Error),
    /// The server does not speak as the protocol has it, or wants data that there is none of.
    #[error("{0}")]
    Protocol(Box<str>),
}

impl ServerConnection {
    /// Runs a query string to its end; rows and notices are passed over.
    ///
    /// Not cancel-safe: dropped, the connection is one that waits for an answer, and is closed when it is given back.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), RunError> {
        let protocol = |what: String| RunError::Protocol(what.into());
        // a simple query takes the place of the unnamed statement
        self.prepared.forget_unnamed();
        FrontendMessage::Query(sql.as_bytes())
            .encode(&mut self.transport.outbox)
            .map_err(|error| protocol(error.to_string()))?;
        self.note_request();
        let mut refusal = None;
        while self.owed() > 0 {
            let frame = split_frame(&mut self.transport.inbox, MAX_FRAME)
                .map_err(|error| protocol(error.to_string()))?;
            let Some(frame) = frame else {
                match self.transport.exchange().await? {
                    Exchanged::Closed => {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    Exchanged::Sent | Exchanged::Received(_) => continue,
                }
            };
            match BackendMessage::parse(&frame).map_err(|error| protocol(error.to_string()))? {
                BackendMessage::ReadyForQuery(status) => self.note_ready(status),
                BackendMessage::ParameterStatus { name, value } => self.note_parameter(
                    &String::from_utf8_lossy(name),
                    &String::from_utf8_lossy(value),
                ),
                BackendMessage::ErrorResponse(fields) => {
                    let error = PgError::from(fields);
                    refusal.get_or_insert(Box::new(error));
                }
                BackendMessage::CopyInResponse(_) | BackendMessage::CopyBothResponse(_) => {
                    return Err(protocol("it waits for COPY data".to_owned()));
                }
                _ => {}
            }
        }
        refusal.map_or(Ok(()), |error| Err(RunError::Refused(error)))
    }

    /// Brings it to what it was when it was opened: rolls an open transaction back, and then `DISCARD ALL`. Nothing
    /// is sent where it cannot help: on a connection that is marked as dirty, or whose answers are still to come.
    ///
    /// Afterwards [`Self::is_clean`] says whether it worked; a connection on which it did not is closed when it is
    /// given back. Put a time limit on it. Dropped, the connection is closed.
    pub async fn reset(&mut self) {
        if self.dirty().is_some() || self.unsettled().is_some() {
            return;
        }
        match self.try_reset().await {
            Ok(()) => self.mark_unchanged(),
            Err(error) => {
                tracing::debug!(server = %self.server(), pid = self.pid(), %error, "could not reset a server connection");
                self.mark_dirty("it could not be reset");
            }
        }
    }

    async fn try_reset(&mut self) -> Result<(), RunError> {
        if self.status() != TransactionStatus::Idle {
            self.run("ROLLBACK").await?;
        }
        self.run("DISCARD ALL").await?;
        self.prepared.clear();
        self.carried = None;
        self.tainted_by = None;
        self.drawn = Drawn::default();
        self.run_connect_query().await
    }

    /// Runs what is configured to run on each new connection.
    pub(crate) async fn run_connect_query(&mut self) -> Result<(), RunError> {
        if let Some(query) = self.origin().connect_query.clone() {
            self.run(&query).await?;
        }
        match self.status() {
            TransactionStatus::Idle => Ok(()),
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                Err(RunError::Refused(Box::new(PgError::error(
                    SqlState::ACTIVE_SQL_TRANSACTION,
                    "connect_query left a transaction open",
                ))))
            }
        }
    }
}
