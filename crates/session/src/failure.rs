//! Why a request could not be done, and what becomes of the client.
//!
//! Owns: the three ways a request ends early. Never does: telling the client (session).
//! Main type: [`Failure`].

use pgherd_pool::PoolError;
use pgherd_protocol::{MessageError, PgError, SqlState};
use pgherd_router::Rejection;

/// How a request failed.
#[derive(Debug)]
pub enum Failure {
    /// The client is told, and goes on.
    Refused(Box<PgError>),
    /// The client is told, and its connection ends.
    Fatal(Box<PgError>),
    /// There is nobody to tell.
    ClientGone,
}

impl From<Box<PgError>> for Failure {
    fn from(error: Box<PgError>) -> Self {
        Self::Refused(error)
    }
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        PgError::error(error.code(), error.to_string()).into()
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(Box::new(rejection_error(&rejection)))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::Refused(Box::new(error.to_pg_error()))
    }
}

/// A refusal as the client reads it.
pub fn rejection_error(rejection: &Rejection) -> PgError {
    let mut error = PgError::error(rejection.code, rejection.message.to_string());
    if let Some(detail) = &rejection.detail {
        error = error.detail(detail.to_string());
    }
    if let Some(hint) = &rejection.hint {
        error = error.hint(hint.to_string());
    }
    error
}

/// `0A000` with a detail and a hint.
pub fn not_supported(message: &str, detail: &str, hint: &str) -> Failure {
    PgError::error(SqlState::FEATURE_NOT_SUPPORTED, message)
        .detail(detail)
        .hint(hint)
        .into()
}

/// As Postgres words it, for anything but the end of a failed block.
pub fn block_failed() -> Failure {
    PgError::error(
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
    .into()
}
