//! The oracle for SQL: one plain Postgres with the same rows.
//!
//! Random statements run on a plain database and through pgherd over several numbers of shards. What pgherd answers must be what the
//! plain one answers; what it refuses with 0A000 must have changed nothing.
//!
//! # Layout
//! - [`schema`]: the tables; [`world`]: servers, proxy and databases with them; [`watch`]: a look into all of them
//! - [`Node`] (`node`): a statement as a tree; [`Random`] (`random`)
//! - `generator`, `values`, `keys`, `expression`, `condition`, `select`, `from`, `write`, `merge`, `across`, `session`: the grammar
//! - [`client`], `encode`: a statement on the wire; [`comparison`]: whether two answers say the same
//! - [`runner`]: a round of statements on both sides; [`shrinking`]: a failing round made small; [`report`]: what was refused and why

mod across;
pub mod client;
pub mod comparison;
mod condition;
mod encode;
mod expression;
mod from;
mod generator;
mod keys;
mod merge;
mod node;
mod random;
pub mod report;
pub mod runner;
pub mod schema;
mod select;
mod session;
pub mod shrinking;
mod values;
pub mod watch;
pub mod world;
mod write;

pub use generator::Generator;
pub use node::{List, Node, Rendered, Value};
pub use random::Random;
