//! All servers of one database, and which of them takes writes now.
//!
//! Owns the list; who is primary is the topology's word. Main type: [`Servers`].

use std::sync::Arc;

use pgherd_topology::{Epoch, Health, NodeId, ShardId, Topology};

use crate::error::ControlError;
use crate::login::Server;
use crate::settings::ControlSettings;

/// The servers of one database, by [`NodeId`].
#[derive(Debug, Clone)]
pub(crate) struct Servers(Arc<[Arc<Server>]>);

impl Servers {
    /// Opens no connection.
    pub(crate) fn new(settings: &ControlSettings) -> Self {
        let mut servers = Vec::new();
        for (index, shard) in settings.shards.iter().enumerate() {
            let id = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            for server in &shard.servers {
                let node = NodeId(u16::try_from(servers.len()).unwrap_or(u16::MAX));
                let server = Server::new(
                    node,
                    (id, shard),
                    server,
                    &settings.login,
                    settings.pace.patience,
                );
                servers.push(Arc::new(server));
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

    /// Ends the pooled connections.
    pub(crate) fn close(&self) {
        self.0.iter().for_each(|server| server.close());
    }
}
