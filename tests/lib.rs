//! What the end-to-end tests share: a herd of real Postgres servers with the built `pgherd` in front of it.
//!
//! Owns the starting, the configuration file and the look into the servers' logs. Main types: [`TestCluster`], which describes,
//! and [`Cluster`], which runs.
//!
//! The proxy runs as a process of its own, as users run it: signals, reloads and exits are tested by what they do to it.

pub mod asking;
pub mod beside;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod configuration;
pub mod detour;
pub mod idle;
#[path = "oracle/mod.rs"]
pub mod oracle;
pub mod product;
pub mod wire;

pub use cluster::{Cluster, TestCluster, sqlstate};
