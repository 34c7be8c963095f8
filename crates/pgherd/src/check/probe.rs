//! One look at one server, through the very connection that clients' queries would take.
//!
//! Owns the one query that is asked, and reading its answer. Changes nothing on the server. Main function: [`look`].

use pgherd_pool::{Pools, ServerConnection, Target, UserLogin};
use pgherd_protocol::{BackendMessage, FrontendMessage, PgError, split_frame};
use std::sync::Arc;

/// Longest message of the answer, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// `pg_monitor` lets health checks see at once which timeline a standby receives; CREATE makes the schema `pgherd`.
const QUESTION: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num'), \
    split_part(current_setting('server_version'), ' ', 1), current_setting('max_prepared_transactions'), \
    (SELECT system_identifier FROM pg_control_system()), \
    has_database_privilege(current_database(), 'CREATE'), pg_has_role(current_user, 'pg_monitor', 'MEMBER')";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether it is a standby.
    pub standby: bool,
    /// As `server_version_num`: 150004 is 15.4.
    pub version_number: u32,
    /// As people write it.
    pub version: String,
    /// How many transactions can be prepared at once.
    pub max_prepared_transactions: u32,
    /// The same on all servers of one shard, and on no other.
    pub system_identifier: String,
    /// Whether the login may create a schema in the database.
    pub may_create: bool,
    /// Whether the login may see all of the replication's state.
    pub monitors: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection, or no login.
    #[error("{0}")]
    Pool(#[from] pgherd_pool::PoolError),
    /// The server refused the question.
    #[error("{}", .0.message)]
    Refused(Box<PgError>),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// What came is no answer of a Postgres server.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

/// Logs in and asks. Cancel-safe.
///
/// # Errors
/// [`ProbeError`].
pub async fn look(
    pools: &Pools,
    login: &Arc<UserLogin>,
    target: &Target<'_>,
) -> Result<Look, ProbeError> {
    let mut connection = pools.checkout(login, target, None).await?;
    let row = ask(&mut connection).await?;
    read(&row).ok_or_else(|| ProbeError::Unreadable(format!("{row:?}")))
}

/// Sends the question and reads up to ReadyForQuery; the columns of the one row.
async fn ask(connection: &mut ServerConnection) -> Result<Vec<String>, ProbeError> {
    let unreadable = |error: &dyn std::fmt::Display| ProbeError::Unreadable(error.to_string());
    FrontendMessage::Query(QUESTION.as_bytes())
        .encode(&mut connection.transport.outbox)
        .map_err(|error| unreadable(&error))?;
    connection.note_request();
    connection.transport.flush().await?;
    let mut row = Vec::new();
    let mut refusal = None;
    loop {
        let frame = split_frame(&mut connection.transport.inbox, MAX_MESSAGE)
            .map_err(|error| unreadable(&error))?;
        let Some(frame) = frame else {
            if connection.transport.fill().await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            continue;
        };
        match BackendMessage::parse(&frame).map_err(|error| unreadable(&error))? {
            BackendMessage::DataRow(data) => {
                row = data
                    .values()
                    .map(|value| String::from_utf8_lossy(value.unwrap_or_default()).into_owned())
                    .collect();
            }
            BackendMessage::ErrorResponse(fields) => {
                refusal = Some(ProbeError::Refused(Box::new(PgError::from(fields))));
            }
            BackendMessage::ReadyForQuery(status) => {
                connection.note_ready(status);
                return refusal.map_or(Ok(row), Err);
            }
            _ => {}
        }
    }
}

fn read(row: &[String]) -> Option<Look> {
    let [
        standby,
        number,
        version,
        prepared,
        identifier,
        create,
        monitors,
    ] = row
    else {
        return None;
    };
    Some(Look {
        standby: standby == "t",
        version_number: number.parse().ok()?,
        version: version.clone(),
        max_prepared_transactions: prepared.parse().ok()?,
        system_identifier: identifier.clone(),
        may_create: create == "t",
        monitors: monitors == "t",
    })
}
