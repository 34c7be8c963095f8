//! What pgherd tells of itself: metrics for Prometheus and the log.
//!
//! Owns: the names of the metrics, the handles through which the other crates count, their rendering, and the set-up of logging. Never does:
//! HTTP (see `pgherd-admin`) or deciding what is worth telling.
//!
//! # Layout
//! - [`metrics`]: [`Metrics`] and the handles of a database, a route and a server.
//! - [`names`]: every metric, with its labels and meaning.
//! - [`logging`]: [`logging::start`], text or JSON on standard error.

pub mod logging;
pub mod metrics;
pub mod names;

pub use logging::{LogFormat, LogHandle, LogSettings, LoggingError};
pub use metrics::{DatabaseMetrics, Metrics, RouteMetrics, ServerRole, Totals};
