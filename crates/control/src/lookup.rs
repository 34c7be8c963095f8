//! What the servers know of a role that wants to log in.
//!
//! Owns the question (the operator's query or the default one) and the connections that it is asked on: a few, opened when the first is needed. Asks
//! the primary of the first shard, and its replicas where that does not answer. Never remembers an answer. Main type: [`RoleLookup`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::Secret;
use pgherd_topology::{Health, NodeId, Topology};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::ControlError;
use crate::login::Server;
use crate::servers::Servers;
use crate::settings::ControlSettings;

/// The question where the operator has none of his own. A password that is no longer valid is none, and who may not log in is nobody.
pub const DEFAULT_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL ELSE rolpassword END \
     FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin";

const ACTION: &str = "say who may log in";

/// How long a server that answers is waited for.
const SERVER_WAIT: Duration = Duration::from_secs(4);

/// Asks one database's servers about roles.
#[derive(Debug)]
pub struct RoleLookup {
    servers: Servers,
    topology: watch::Receiver<Arc<Topology>>,
    query: Box<str>,
}

impl RoleLookup {
    /// Opens nothing yet. Of the settings, the shards (with the database to ask in as their `server_database`), the login and the patience count; the
    /// topology is that of the same servers.
    pub fn new(
        settings: &ControlSettings,
        query: Box<str>,
        topology: watch::Receiver<Arc<Topology>>,
    ) -> Self {
        Self {
            servers: Servers::new(settings),
            topology,
            query,
        }
    }

    /// The password kept for a role, which may be none (`Some(None)`); `None` where there is no such role. Cancel-safe.
    ///
    /// # Errors
    /// No server could be asked, or the query fails or answers what makes no sense.
    pub async fn password(&self, role: &str) -> Result<Option<Option<Secret>>, ControlError> {
        let mut failure = ControlError::NotReady {
            after: SERVER_WAIT,
            missing: "no server of the first shard answers".to_owned(),
        };
        for server in self.candidates().await {
            // a connection that lay in the pool may have died unnoticed: the second try opens another
            for _ in 0..2 {
                match self.ask(&server, role).await {
                    Err(error) if is_unanswered(&error) => failure = error,
                    answer => return answer,
                }
            }
        }
        Err(failure)
    }

    /// The first shard's servers that answer, its primary first. Where none does, as in the moment after a start, one is waited for.
    async fn candidates(&self) -> Vec<Arc<Server>> {
        let mut topology = self.topology.clone();
        let found = topology.wait_for(|topology| !answering(topology).is_empty());
        let nodes = match timeout(SERVER_WAIT, found).await {
            Ok(Ok(topology)) => answering(&topology),
            // control has ended, or nobody answers
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        nodes
            .into_iter()
            .filter_map(|node| self.servers.iter().find(|server| server.id == node))
            .map(Arc::clone)
            .collect()
    }

    async fn ask(
        &self,
        server: &Server,
        role: &str,
    ) -> Result<Option<Option<Secret>>, ControlError> {
        let lease = server.lease().await?;
        let parameters: [&(dyn ToSql + Sync); 1] = [&role];
        let asked = lease.query(&*self.query, &parameters);
        let rows = server.within(server.patience(), ACTION, asked).await?;
        lease.give_back();
        match rows.as_slice() {
            [] => Ok(None),
            [row] => read(server, row, role).map(Some),
            _ => Err(server.unexpected(ACTION, "the query answers with several rows")),
        }
    }
}

fn answering(topology: &Topology) -> Vec<NodeId> {
    let Some(shard) = topology.shards.first() else {
        return Vec::new();
    };
    let mut nodes: Vec<NodeId> = shard
        .nodes
        .iter()
        .filter(|node| node.health == Health::Up)
        .map(|node| node.id)
        .collect();
    nodes.sort_by_key(|node| shard.primary != Some(*node));
    nodes
}

impl Drop for RoleLookup {
    fn drop(&mut self) {
        self.servers.close();
    }
}

/// Whether another server, or another connection, may answer.
fn is_unanswered(error: &ControlError) -> bool {
    match error {
        ControlError::Connect { source, .. } | ControlError::Statement { source, .. } => source
            .code()
            // class 57 is the server's own troubles: a shutdown, a start
            .is_none_or(|code| code.code().starts_with("57")),
        ControlError::Silent { .. } => true,
        _ => false,
    }
}

/// A name and a password. The name is compared, so that a query that forgot its condition lets nobody in as another.
fn read(server: &Server, row: &Row, role: &str) -> Result<Option<Secret>, ControlError> {
    let unexpected = |what: String| server.unexpected(ACTION, what);
    if row.len() != 2 {
        return Err(unexpected(format!(
            "the query answers with {} columns instead of a name and a password",
            row.len()
        )));
    }
    let name: &str = row
        .try_get(0)
        .map_err(|error| unexpected(format!("the first column is no name: {error}")))?;
    if name != role {
        return Err(unexpected(format!(
            "asked about \"{role}\", the query answers about \"{name}\""
        )));
    }
    let password: Option<&str> = row
        .try_get(1)
        .map_err(|error| unexpected(format!("the second column is no password: {error}")))?;
    Ok(password
        .filter(|password| !password.is_empty())
        .map(Secret::from))
}
