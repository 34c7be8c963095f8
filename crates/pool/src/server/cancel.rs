//! Cancelling what runs on a connection, by a connection of its own.
//!
//! Owns the CancelRequest. Never tells whether there was anything to cancel: Postgres does not say. Main type:
//! [`Canceller`]. Postgres documentation, chapter 55.2.8 (Canceling Requests in Progress).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::CancelKey;
use pgherd_protocol::startup::encode_cancel_request;
use pgherd_tls::ClientTls;
use tokio::time::timeout;

use super::Server;
use super::connect::{Destination, Encryption, Way, attempts, open_transport};
use crate::error::PoolError;
use crate::resolver::Resolver;
use crate::stream::TcpSettings;

/// Longest time for the whole of it.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// What it takes to cancel a request on one connection. Outlives the connection: then nothing happens.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) server: Arc<Server>,
    /// Where the connection leads: the name may stand for another machine by now. `None` is a Unix socket.
    pub(super) peer: Option<SocketAddr>,
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

    /// Asks the server to cancel what the backend runs, over a connection of its own to the same address, encrypted as the others are. Returns
    /// when the server has taken the request (it closes the connection then), within 5 seconds.
    ///
    /// The backend may have gone on to its next request by then, which is then hit instead: whoever shares connections
    /// between clients must not give the connection away before this has returned and the request is answered.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn cancel(&self) -> Result<(), PoolError> {
        let all = async {
            let mut result = Ok(());
            for encryption in attempts(self.tls.mode(), &self.server.address) {
                result = self.send(*encryption).await;
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
                server: Server::clone(&self.server),
                after: TIME_LIMIT,
            })
        })
    }

    async fn send(&self, encryption: Encryption) -> Result<(), PoolError> {
        let server = &*self.server;
        let anywhere = Resolver::default();
        let way = Way {
            server,
            to: self
                .peer
                .map_or(Destination::Any(&anywhere), Destination::Same),
            tcp: &TcpSettings::default(),
            tls: &self.tls,
        };
        let mut transport = open_transport(way, encryption, TIME_LIMIT).await?;
        encode_cancel_request(&mut transport.outbox, self.pid, &self.key);
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
}
