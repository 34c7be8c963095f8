//! One client from its first byte to its last.
//!
//! # Layout
//! - [`herd`]: what all sessions share: [`Herd`], [`Database`] and the channels from control.
//! - [`users`], [`trust`], [`tls`]: who may connect, from where, and how encrypted.
//! - [`handshake`], [`options`], [`parameters`]: [`accept`], from a socket to a [`Login`] that has been greeted.
//! - [`registry`], [`limits`]: who is connected, what each holds, and how many there may be.

pub mod handshake;
pub mod herd;
pub mod limits;
pub mod options;
pub mod parameters;
pub mod registry;
pub mod tls;
pub mod trust;
pub mod users;

mod authentication;
mod pending;

pub use handshake::{Accepted, ConsoleLogin, Login, Refusal, accept};
pub use herd::{
    CatalogRequest, CatalogRequests, Consistency, ConsoleSettings, Database, DatabaseParts, Herd,
    ListenSettings, Phase, ReadSettings, ReadsFrom, TwoPhase,
};
pub use limits::{ClientLimits, TooMany};
pub use registry::{
    Client, ClientId, ClientRegistry, ClientState, HeldId, HeldServer, Pin, Registration, Release,
};
pub use tls::{ListenTls, ListenTlsError, ListenTlsSettings};
pub use trust::{OriginError, TrustedOrigin};
pub use users::{PasswordExchange, User, Users};
