//! All servers of one database, and which of them takes writes now.
//!
//! Owns the list; who is primary is the topology's word. Main type: [`Servers`].

use std::sync::Arc;

use pgherd_topology::{Epoch, Health, NodeId, ShardId, Topology};

use crate::error::ControlError;
use crate::login::{OpenConnection, Server};
use crate::settings::ControlSettings;

/// The servers of one database, by [`NodeId`], or those of one of its shards.
#[derive(Debug, Clone)]
pub(crate) struct Servers(Arc<[Arc<Server>]>);

impl Servers {
    /// Opens no connection.
    pub(crate) fn new(settings: &ControlSettings) -> Self {
        Self::of_shards(settings, |_| true)
    }

    /// Those of one shard. Opens no connection.
    pub(crate) fn of_shard(settings: &ControlSettings, shard: ShardId) -> Self {
        Self::of_shards(settings, |id| id == shard)
    }

    fn of_shards(settings: &ControlSettings, wanted: impl Fn(ShardId) -> bool) -> Self {
        let mut servers = Vec::new();
        let mut node = 0;
        for (index, shard) in settings.shards.iter().enumerate() {
            let id = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            for server in &shard.servers {
                if wanted(id) {
                    let server = Server::new(
                        NodeId(node),
                        (id, shard),
                        server,
                        &settings.login,
                        settings.pace.patience,
                    );
                    servers.push(Arc::new(server));
                }
                node = node.saturating_add(1);
            }
        }
        Self(servers.into())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.0.iter()
    }

    /// The primary of a shard and the epoch it reigns in, if it answers.
    pub(crate) fn primary(
        &self,
        topology: &Topology,
        shard: ShardId,
    ) -> Result<(&Arc<Server>, Epoch), ControlError> {
        let state = topology.shard(shard);
        let name = || ControlError::NoPrimary {
            shard: state.map_or_else(Box::default, |state| state.name.clone()),
        };
        let primary = state
            .and_then(|state| state.primary())
            .filter(|node| node.health == Health::Up)
            .ok_or_else(name)?;
        let server = self.0.get(primary.id.index()).ok_or_else(name)?;
        Ok((server, state.map_or(Epoch(0), |state| state.epoch)))
    }

    /// Asks a shard's servers which of them is the primary, where no monitor runs that would know.
    pub(crate) async fn find_primary(
        &self,
        shard: ShardId,
        name: &str,
    ) -> Result<(Arc<Server>, OpenConnection), ControlError> {
        let mut primary = None;
        for server in self.iter().filter(|server| server.shard == shard) {
            let connection = match server.open().await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "looking for the primary");
                    continue;
                }
            };
            let asked = connection.query_one("SELECT pg_is_in_recovery()", &[]);
            let row = server
                .within(server.patience(), "say whether it is in recovery", asked)
                .await?;
            let standby: bool = row.try_get(0).map_err(|error| {
                server.unexpected("say whether it is in recovery", error.to_string())
            })?;
            if !standby {
                // Which of two is right is for the running proxy to know; here a wrong one could only mislead.
                if primary.is_some() {
                    return Err(ControlError::NoPrimary {
                        shard: format!("{name} (several servers claim to be it)").into(),
                    });
                }
                primary = Some((Arc::clone(server), connection));
            }
        }
        primary.ok_or_else(|| ControlError::NoPrimary { shard: name.into() })
    }

    /// Ends the pooled connections.
    pub(crate) fn close(&self) {
        self.0.iter().for_each(|server| server.close());
    }
}
