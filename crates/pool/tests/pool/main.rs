//! Pools against real Postgres servers.
#![allow(clippy::unwrap_used)]

mod authentication;
mod cancel;
mod checkout;
mod encryption;
mod lifecycle;
mod server;
