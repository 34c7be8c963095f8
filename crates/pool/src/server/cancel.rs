//! Cancelling what runs on a connection, by a connection of its own.
//!
//! Owns the CancelRequest. Never tells whether there was anything to cancel: Postgres does not say. Main type:
//! [`Canceller`]. Postgres documentation, chapter 55.2.8 (Canceling Requests in Progress).

use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::CancelKey;
use pgherd_protocol::startup::encode_cancel_request;
use pgherd_tls::ClientTls;
use tokio::time::timeout;

use super::Server;
use super::connect::{Encryption, attempts, open_transport};
use crate::error::PoolError;

/// Longest time for the whole of it.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What it takes to cancel a request on one connection. Outlives the connection: then nothing happens.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) server: Arc<Server>,
    pub(super) tls: Arc<ClientTls>,
    pub(super) pid: i32,
    pub(super) key: CancelKey,
}

impl Canceller {
    /// The server that the request runs on.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// See [`cancel`].
    ///
    /// # Errors
    /// See [`cancel`].
    pub async fn cancel(&self) -> Result<(), PoolError> {
        cancel(&self.server, &self.tls, self.pid, &self.key).await
    }
}

/// Asks a server to cancel what a backend runs, over a connection of its own, encrypted as the others are. Returns
/// when the server has taken the request (it closes the connection then), within 5 seconds.
///
/// The backend may have gone on to its next request by then, which is then hit instead: whoever shares connections
/// between clients must not give the connection away before this has returned and the request is answered.
///
/// # Errors
/// When the server cannot be reached.
pub async fn cancel(
    server: &Server,
    tls: &ClientTls,
    pid: i32,
    key: &CancelKey,
) -> Result<(), PoolError> {
    let all = async {
        let mut result = Ok(());
        for encryption in attempts(tls.mode(), &server.address) {
            result = send(server, tls, *encryption, pid, key).await;
            // `allow` and `prefer` go on to their other way only where TLS itself did not come about
            match &result {
                Err(PoolError::TlsHandshake { .. }) => {}
                Ok(()) | Err(_) => break,
            }
        }
        result
    };
    timeout(TIME_LIMIT, all).await.unwrap_or_else(|_| {
        Err(PoolError::ConnectTimeout {
            server: server.clone(),
            after: TIME_LIMIT,
        })
    })
}

async fn send(
    server: &Server,
    tls: &ClientTls,
    encryption: Encryption,
    pid: i32,
    key: &CancelKey,
) -> Result<(), PoolError> {
    let mut transport = open_transport(server, tls, encryption, TIME_LIMIT).await?;
    encode_cancel_request(&mut transport.outbox, pid, key);
    transport
        .flush()
        .await
        .map_err(|source| PoolError::lost(server, source))?;
    // the server answers nothing; its closing (or resetting) says that it has passed the signal on
    while let Ok(1..) = transport.fill().await {
        transport.inbox.clear();
    }
    Ok(())
}
