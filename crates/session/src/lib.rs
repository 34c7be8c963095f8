//! One client from its first byte to its last.
//!
//! # Layout
//! - [`herd`]: what all sessions share: [`Herd`], [`Database`] and the channels from control.
//! - [`users`], [`lookup`], [`hba`], [`trust`], [`tls`]: who may connect, from where, and how encrypted.
//! - [`handshake`], [`options`], [`parameters`]: [`accept`], from a socket to a [`Login`] that has been greeted.
//! - [`registry`], [`limits`]: who is connected, what each holds, and how many there may be.
//! - `session`: [`run`], the loop of one client and what it keeps; `request`: its messages.
//! - `simple`, `extended`, `message`, `local`, `explain`: the kinds of request; `meaning`: what they change for what follows; `planning`: their plans; `route`, `choose`: where each goes.
//! - `committing`, `repeating`, `holding`, `insisting`, `watching`: what becomes of a request over a failover.
//! - `taking`, `bringing`, `joining`, `attempt`, `queue`, `legs`, `relay`, `script`, `copy`, `own`, `oids`: the server connections, and what passes
//!   over them; `effects`, `set_config`: what that changes. `pins`, `sequences`: what is left on them. `cancelling`, `timeouts`: what ends early.
//! - `parsed`: prepared statements, as the client and the servers know them; `prepare`: PREPARE and EXECUTE of SQL; `positions`: where errors are in a text that was replaced.
//! - `read_only`: what is refused where nothing may be written. `refusal`: what else is refused, and what Postgres itself would refuse. `transaction`, `block`, `definitions`, `temporary`, `beginning`, `settings`, `statements`, `tokens`: what the client believes to be so.
//! - `shape`: what the client was told of a statement's parameters and columns, and that it gets nothing else.
//! - `mode`: what the pool's mode asks beyond that.
//! - `everywhere`, `two_phase`: statements for every shard, all or none.
//! - `replication`: clients that replicate, each with a server connection of its own.
//! - `listening`: LISTEN and NOTIFY, over connections that all clients of a database share.
//!
//! # The straight line
//! ```text
//! let request = requests.next(&mut inbox)?;              // frames up to Sync or Flush
//! let planned = database.planner().plan(text, &context)?; // from the cache as a rule
//! let route   = place(statement, values)?;               // key -> bucket -> shard
//! let leg     = self.leg(shard, access).await?;          // the block's, or one from the pool
//! relay.run(&mut leg, &mut client).await?;               // writes and reads together
//! ```

pub mod handshake;
pub mod hba;
pub mod herd;
pub mod limits;
pub mod lookup;
pub mod options;
pub mod parameters;
pub mod registry;
pub mod tls;
pub mod trust;
pub mod users;
mod waiting;

mod attempt;
mod authentication;
mod beginning;
mod block;
mod bringing;
mod cancelling;
mod choose;
mod committing;
mod copy;
mod definitions;
mod effects;
mod everywhere;
mod explain;
mod extended;
mod failure;
mod holding;
mod insisting;
mod joining;
mod legs;
mod listening;
mod local;
mod meaning;
mod message;
mod mode;
mod oids;
mod own;
mod parsed;
mod pins;
mod planning;
mod positions;
mod prepare;
mod queue;
mod read_only;
mod refusal;
mod relay;
mod repeating;
mod replication;
mod request;
mod route;
mod script;
mod sequences;
mod session;
mod set_config;
mod settings;
mod shape;
mod simple;
mod statements;
mod taking;
mod temporary;
mod timeouts;
mod tokens;
mod transaction;
mod two_phase;
mod watching;

pub use handshake::{Accepted, CONSOLE_SERVER_VERSION, ConsoleLogin, Login, Refusal, accept};
pub use hba::{HbaError, HbaMethod, HbaRules};
pub use herd::{
    CatalogRequest, CatalogRequests, Consistency, ConsoleSettings, Database, DatabaseParts, Herd,
    ListenSettings, OnDemand, OnDemandLimits, Phase, ReadSettings, ReadsFrom, TwoPhase,
};
pub use limits::{ClientLimits, TooMany};
pub use lookup::{FoundRole, LookupRequest, UserLookup};
pub use options::Replication;
pub use read_only::SERVER_OPTIONS as READ_ONLY_OPTIONS;
pub use registry::{
    Call, Client, ClientId, ClientIdentity, ClientRegistry, ClientState, HeldId, HeldServer, Pin,
    Registration, Release,
};
pub use replication::{ReplicationLogin, replicate};
pub use session::run;
pub use timeouts::Timeouts;
pub use tls::{ListenTls, ListenTlsError, ListenTlsSettings};
pub use trust::{OriginError, TrustedOrigin};
pub use users::{ConsoleRight, PasswordExchange, User, Users};
