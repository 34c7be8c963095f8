//! One connection to one server: how it is opened, what is known of it, how a request on it is cancelled.
//!
//! Owns everything that needs no other connection to be decided. Never keeps or reuses one: [`crate::pools`] does.

mod cancel;
mod carried;
mod connect;
mod connection;
mod login;
mod own;
mod prepared;
mod shape;

use std::fmt;

use pgherd_protocol::Credential;
use pgherd_topology::{Address, NodeId, ShardId};

pub use self::cancel::Canceller;
pub use self::carried::{CarriedSettings, SetScope};
pub use self::connection::{Drawn, Parameters, ServerConnection};
pub(crate) use self::connection::{Origin, here};
pub(crate) use self::login::{Beginning, Opened, open};
pub(crate) use self::own::RunError;
pub use self::prepared::{PreparedStatements, STATEMENT_PREFIX, StatementId};
pub use self::shape::{Columns, Shape};

/// A server as connections know it. Displayed as `s0a (127.0.0.1:5501)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its id within the database.
    pub node: NodeId,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Where it listens.
    pub address: Address,
    /// Whether standbys acknowledge its commits: connections begin with `synchronous_commit = on`, whatever role, database and file say.
    pub synchronous: bool,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// Who logs in to the servers, and with what.
#[derive(Debug)]
pub struct UserLogin {
    /// The user's name on the servers.
    pub name: Box<str>,
    /// What proves it. Never shown by `Debug`.
    pub credential: Credential,
}
