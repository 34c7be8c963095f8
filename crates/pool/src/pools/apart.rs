//! Connections that no pool lends, gives out again or counts: each belongs to who had it opened.
//!
//! Owns opening one with the pools' settings, and showing those that clients hold. Never keeps one. Extends [`super::Pools`].

use std::sync::{Arc, Weak};
use std::time::Instant;

use pgherd_topology::{Address, Epoch, NodeId};
use tokio::time::timeout;

use super::member::{Holding, Member};
use super::node_pool::is_at;
use super::statistics::ServerSnapshot;
use super::{Pools, Shared, Target};
use crate::error::PoolError;
use crate::server::{Beginning, Opened, Origin, Server, ServerConnection, UserLogin, open};

/// A connection that a client has for itself, for as long as it lives.
#[derive(Debug)]
pub(super) struct Guest {
    server: Arc<Server>,
    user: Box<str>,
    member: Weak<Member>,
}

impl Pools {
    /// Opens a connection beside the pools: outside their bounds and the budget, and closed when it is dropped. For what must hear of a server all the time,
    /// whoever is served meanwhile. The server's `pg_stat_activity` shows it under `name`, as `application_name`.
    ///
    /// Cancel-safe: dropped, the connection under way is closed.
    ///
    /// # Errors
    /// What opening a connection meets, [`PoolError::ConnectTimeout`] among it.
    pub async fn open_apart(
        &self,
        login: &UserLogin,
        target: &Target<'_>,
        name: &str,
    ) -> Result<ServerConnection, PoolError> {
        self.open_beside(login, target, Beginning::Named(name))
            .await
    }

    /// Whether the host name of a connection's server stands for other addresses by now than the one that it was opened to. Never where names are
    /// not looked up again.
    pub fn has_moved(&self, connection: &ServerConnection) -> bool {
        let Address::Tcp { host, .. } = &connection.server().address else {
            return false;
        };
        let resolver = &self.settings().resolver;
        resolver.refresh(host);
        !is_at(connection, resolver.known(host).as_ref())
    }

    /// Opens a connection for one client's replication, which begins with `parameters`, `replication` among them, instead of the settings'. As
    /// [`Self::open_apart`], but it is among [`Self::server_snapshots`].
    ///
    /// Cancel-safe: dropped, the connection under way is closed.
    ///
    /// # Errors
    /// As [`Self::open_apart`].
    pub async fn open_replication(
        &self,
        login: &UserLogin,
        target: &Target<'_>,
        parameters: &[(String, String)],
    ) -> Result<ServerConnection, PoolError> {
        let beginning = Beginning::Client(parameters);
        let connection = self.open_beside(login, target, beginning).await?;
        let member = &connection.origin().member;
        member.set_pid(connection.pid());
        member.hand(Holding::Running, Instant::now());
        let mut guests = self.0.shared.guests();
        guests.retain(|guest| guest.member.strong_count() > 0);
        guests.push(Guest {
            server: Arc::clone(connection.server()),
            user: login.name.clone(),
            member: Arc::downgrade(member),
        });
        Ok(connection)
    }

    async fn open_beside(
        &self,
        login: &UserLogin,
        target: &Target<'_>,
        beginning: Beginning<'_>,
    ) -> Result<ServerConnection, PoolError> {
        let settings = self.settings();
        let server = Arc::new(Server {
            node: target.node.id,
            shard: target.shard,
            name: target.node.name.clone(),
            address: target.node.address.clone(),
            synchronous: target.synchronous,
        });
        let opening = open(&settings, &server, login, beginning);
        let opened = timeout(settings.connect_timeout, opening).await;
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
            member: Arc::new(Member::opening(None, target.epoch)),
            connect_query: None,
        };
        Ok(ServerConnection::new(transport, parameters, origin))
    }
}

impl Shared {
    /// See [`Pools::cut_off`].
    pub(super) fn cut_off_guests(&self, node: NodeId, epoch: Epoch) {
        for guest in self
            .guests()
            .iter()
            .filter(|guest| guest.server.node == node)
        {
            if let Some(member) = guest.member.upgrade() {
                member.cut_off_before(epoch);
            }
        }
    }

    /// The connections that clients have for themselves.
    pub(super) fn guest_snapshots(&self, now: Instant) -> Vec<ServerSnapshot> {
        let guests = self.guests();
        guests
            .iter()
            .filter_map(|guest| {
                let member = guest.member.upgrade()?;
                Some(ServerSnapshot {
                    replicates: true,
                    ..ServerSnapshot::of(&guest.server, &guest.user, &member, now)
                })
            })
            .collect()
    }
}
