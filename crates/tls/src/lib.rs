//! TLS as Postgres' clients mean it: libpq's modes, roots, certificates, and what SCRAM binds to.
//!
//! What the pools' connections, the control plane's and the listener have in common, so that a mode means the same
//! everywhere. Reads certificate files; opens no connection.
//!
//! # Layout
//! - `client`: towards servers: [`SslMode`], [`TlsSettings`], [`ClientTls`].
//! - `verifier`: which server certificates are accepted, per mode.
//! - `binding`: [`server_end_point`], for SCRAM-SHA-256-PLUS.
//! - `files`: PEM files.

mod binding;
mod client;
mod files;
mod verifier;

pub use binding::server_end_point;
pub use client::{
    ALPN, ClientCertificate, ClientTls, Negotiation, Roots, SslMode, TlsError, TlsSettings,
    crypto_provider,
};
pub use files::{read_certificates, read_private_key};
