//! SQL in, plan out: which shard a statement belongs on, and whether a replica may serve it.
//!
//! A statement is proven to belong on one shard (or to be answerable by any, or to concern all), or
//! it is refused with SQLSTATE 0A000 and a detail that says why. There is no "probably".
//!
//! # Layout
//! - [`lexer`]: bytes to tokens, by Postgres' own rules; [`literal`]: the normalised literals
//! - [`Planner`] (`planner`, `cache`, `fingerprint`): one text to one cached [`QueryPlan`]
//! - [`QueryPlan`], [`StatementPlan`], [`Action`], [`Placement`] (`plan`, `action`): what is to be done
//! - [`StatementPlan::resolve`] (`resolve`): the plan and this execution's values to a [`Destination`]
//! - `parse`, `scope`, `predicate`, `functions`, `select`, `insert`, `update`: the proofs
//! - `utility`, `ddl`, ...: statements that are read by their key words
//! - [`Rejection`]: why not
//!
//! Nothing here does I/O, holds a lock across a call, or knows a connection.
//!
//! # The straight line
//! ```text
//! let planned  = planner.plan(sql, &context)?;              // a cache hit parses nothing
//! let resolved = planned.plan.statements[0].resolve(&values, &sharding, overrides)?;
//! match resolved.destination { Destination::Shard(shard) => ..., }
//! ```

mod action;
mod array;
mod cache;
mod census;
mod condition;
mod constant;
mod copy;
mod create_index;
mod create_view;
mod cursor;
mod database;
mod ddl;
mod explain;
mod fingerprint;
mod from;
mod functions;
mod hint;
mod insert;
mod key_value;
pub mod lexer;
mod list;
pub mod literal;
mod maintenance;
mod meaning;
mod merge;
mod output;
mod parse;
mod place;
mod plan;
mod planner;
mod predicate;
mod prepared;
mod query;
mod rejection;
mod resolve;
mod scope;
mod set_config;
mod setting;
mod statement;
mod survey;
mod table_change;
mod table_definition;
mod temporary;
mod tokens;
mod transaction;
mod unparsed;
mod update;
mod utility;
mod value;

pub use action::{
    Action, Argument, CopyDirection, CursorTarget, DdlPlan, IsolationLevel, OverrideName,
    SerialColumn, SettingAction, SettingScope, SettingValue, TransactionModes, TransactionScope,
};
pub use hint::{Hint, HintRole};
pub use lexer::BackslashReading;
pub use literal::{Literal, Literals};
pub use meaning::{ClientEncoding, MEANING_SETTINGS, SettingsDigest};
pub use plan::{
    Access, KeyOrigin, KeySet, KeySource, KeyUsage, KeyedPlacement, NamedCheck, Placement,
    PlanClass, Planned, QueryPlan, Residue, Span, StatementPlan,
};
pub use planner::{ContextKey, PlanContext, PlanSnapshot, Planner};
pub use rejection::{Rejection, label};
pub use resolve::{
    Destination, KeyExplanation, Overrides, ParameterFormat, ParameterSource, ParameterValue,
    Resolved, ValueEncoding, Values,
};
pub use set_config::{Given, SettingCall};
pub use setting::{LISTS_OF_NAMES, list_members};
pub use temporary::SCHEMA as TEMPORARY_SCHEMA;
