//! pgherd: one Postgres endpoint over a herd of Postgres servers.
//!
//! Owns the assembly: the command line ([`cli`]), the configuration ([`config`]) and the wiring of the other crates.
//! Knows no SQL and no protocol.

pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod hash_password;
pub mod herd;
pub mod schema;
pub mod serve;
