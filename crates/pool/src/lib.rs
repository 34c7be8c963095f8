//! Connections: the network transport that clients and servers share, and the pools of server connections.
//!
//! Owns sockets, TLS towards servers, logging in to servers, and the lending of server connections to one client
//! after another. Never decides where a request goes, and never looks into one.
//!
//! # Layout
//! - `stream`, `transport`: bytes in and out, cancel-safe and without deadlock. Used for clients as well.
//! - `server`: one connection: connecting, logging in, cancelling, and what is known of it.
//! - `pools`: many: [`Pools`], [`Checkout`].
//! - `cutoff`: ending a connection that somebody else reads.
//! - `budget`: how many there may be over all pools: [`Budget`].
//! - `resolver`: what servers' host names stand for: [`Resolver`].
//! - `settings`, `error`: what comes in, and what goes wrong.

mod budget;
mod cutoff;
mod error;
mod pools;
mod resolver;
mod server;
mod settings;
mod stream;
mod transport;

pub use budget::{Budget, Reservation};
pub use error::{Holders, PoolError};
pub use pools::{AllPinned, Checkout, Holding, PoolSnapshot, Pools, ServerSnapshot, Target};
pub use resolver::Resolver;
pub use server::{
    Canceller, CarriedSettings, Columns, Drawn, Parameters, PreparedStatements, STATEMENT_PREFIX,
    Server, ServerConnection, SetScope, Shape, StatementId, UserLogin,
};
pub use settings::{CleartextPassword, PoolMode, PoolSettings, UserPool};
pub use stream::{PeerAddress, Stream, TcpSettings};
pub use transport::{Available, Exchanged, KEEP, MAX_READ, MIN_READ, Transport};
