//! Connections that no pool lends, gives out again or counts: each belongs to who had it opened.
//!
//! Owns opening one with the pools' settings. Never keeps it. Extends [`super::Pools`].

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;

use super::member::Member;
use super::{Pools, Target};
use crate::error::PoolError;
use crate::server::{Opened, Origin, Server, ServerConnection, UserLogin, open};

impl Pools {
    /// Opens a connection beside the pools: outside their bounds and the budget, and closed when it is dropped. For what must hear of a server all the time,
    /// whoever is served meanwhile.
    ///
    /// Cancel-safe: dropped, the connection under way is closed.
    ///
    /// # Errors
    /// What opening a connection meets, [`PoolError::ConnectTimeout`] among it.
    pub async fn open_apart(
        &self,
        login: &UserLogin,
        target: &Target<'_>,
    ) -> Result<ServerConnection, PoolError> {
        let settings = self.settings();
        let server = Arc::new(Server {
            node: target.node.id,
            shard: target.shard,
            name: target.node.name.clone(),
            address: target.node.address.clone(),
        });
        let opened = timeout(settings.connect_timeout, open(&settings, &server, login)).await;
        let Opened {
            transport,
            parameters,
            pid,
            cancel_key,
        } = opened.map_err(|_| PoolError::ConnectTimeout {
            server: Server::clone(&server),
            after: settings.connect_timeout,
        })??;
        let origin = Origin {
            server,
            peer: transport.peer_socket(),
            tls: Arc::clone(&settings.tls),
            epoch: target.epoch,
            pid,
            cancel_key,
            created: Instant::now(),
            expires: None,
            home: None,
            member: Arc::new(Member::opening(None)),
            connect_query: None,
        };
        Ok(ServerConnection::new(transport, parameters, origin))
    }
}
