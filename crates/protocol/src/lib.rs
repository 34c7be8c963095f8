//! The Postgres wire protocol, version 3.0 and 3.2, in both directions, without any I/O.
//!
//! A proxy stands on both ends of the protocol: it reads what clients send and writes what servers
//! send, and the reverse. This crate turns bytes into messages and messages into bytes, and it runs
//! the authentication exchanges of both ends. It never opens a socket, waits or logs.
//!
//! # Layout
//!
//! - [`frame`]: cuts a stream of bytes into whole messages, without looking inside.
//! - [`frontend`] and [`backend`]: every message a client and a server may send, zero-copy out of a frame.
//! - [`lists`]: the counted lists inside messages (format codes, OIDs, values).
//! - [`result_set`]: writes small results that pgherd itself gives.
//! - [`startup`]: what comes first on a connection, before frames have a tag.
//! - [`error`] and [`sqlstate`]: errors as Postgres tells them to a client.
//! - [`auth`]: SCRAM-SHA-256(-PLUS), md5 and plain passwords, for both ends.
//! - [`secret`] and [`cancel`]: what must never be printed.
//! - [`oid`]: the OIDs of built-in types.
//!
//! The protocol itself: <https://www.postgresql.org/docs/current/protocol.html>.
//!
//! # Trust
//!
//! Every length that came from the network is checked before it is believed, no parser panics on any
//! input, and every encoder checks what it writes: a string with a NUL in it or a message over 2 GiB
//! is an error and leaves the output as it was.

pub mod auth;
pub mod backend;
pub mod cancel;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod lists;
pub mod oid;
pub mod result_set;
pub mod secret;
pub mod sqlstate;
pub mod startup;
pub mod tag;
mod wire;

pub use auth::{AuthError, Credential, MockSecret, Verifier};
pub use backend::{Authentication, BackendMessage, TransactionStatus};
pub use cancel::CancelKey;
pub use error::{ErrorFields, PgError, Severity};
pub use frame::{Frame, FrameError, Header, peek_header, split_frame};
pub use frontend::{Bind, FrontendMessage, Parse, Target};
pub use lists::{Format, Formats, Oids, Values};
pub use result_set::ResultSet;
pub use secret::Secret;
pub use sqlstate::SqlState;
pub use startup::{FirstPacket, ProtocolVersion, StartupError, StartupMessage, read_first_packet};
pub use wire::MessageError;

/// Quoting of literals and identifiers for SQL that pgherd composes, from `postgres-protocol`.
pub use postgres_protocol::escape;
/// The wire formats of built-in types (binary arrays, ranges and the like), from `postgres-protocol`.
pub use postgres_protocol::types;
