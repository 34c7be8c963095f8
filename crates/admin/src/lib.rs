//! The operator's side: an SQL console and HTTP.
//!
//! # Layout
//! - [`command`]: what can be asked, read from text: [`AdminCommand`].
//! - [`commands`]: the answers, one file each.
//! - [`doing`]: what the commands share that change something; `ordering`: those about a shard's primary.
//! - [`answer`]: rows with types, in either wire format.
//! - [`operations`]: the process around the herd; [`statistics`]: figures over periods.
//! - [`console`]: [`serve_console`], one operator's connection, simple and extended protocol.
//! - [`http`]: [`serve_http`], `/metrics`, `/healthz` and `/readyz`; [`readiness`]: what the last one says.

pub mod answer;
pub mod command;
pub mod commands;
pub mod console;
pub mod doing;
pub mod gauges;
pub mod http;
pub mod operations;
mod ordering;
pub mod readiness;
pub mod statistics;

pub use command::AdminCommand;
pub use commands::Show;
pub use console::serve_console;
pub use doing::Doing;
pub use http::serve_http;
pub use operations::{ConfigEntry, Operations, Order, ProcessRequest, Shutdown};
