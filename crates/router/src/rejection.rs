//! Why a statement is not run: what the client is told, and the label its metric carries.
//!
//! Owns the wording. Never decides what is refused. Main type: [`Rejection`].

use pgherd_protocol::SqlState;

/// A statement refused before anything was sent to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// 0A000 unless said otherwise.
    pub code: SqlState,
    /// One line, lower case, without a full stop, as Postgres words its own.
    pub message: Box<str>,
    /// Why: whole sentences that name the table, the column, the shards.
    pub detail: Option<Box<str>>,
    /// What would be accepted instead.
    pub hint: Option<Box<str>>,
    /// Where in the text, in characters from 1, where that is known.
    pub position: Option<u32>,
    /// The metric's label and the class of refusal; one of [`label`].
    pub label: &'static str,
}

/// The labels that a [`Rejection`] carries.
pub mod label {
    /// A name that the catalog does not hold: it may have been created since. See
    /// [`Rejection::catalog_may_help`](super::Rejection::catalog_may_help).
    pub const UNKNOWN_RELATION: &str = "unknown_relation";
    /// A function that the catalog does not hold.
    pub const UNKNOWN_FUNCTION: &str = "unknown_function";
    /// No equality fixes the sharding key.
    pub const NO_KEY: &str = "no_key";
    /// The key is fixed, but not in a way whose hash is certain.
    pub const KEY_VALUE: &str = "key_value";
    /// A key's parameter has a type that only the server can tell. See
    /// [`Rejection::parameter_types_may_help`](super::Rejection::parameter_types_may_help).
    pub const PARAMETER_TYPE: &str = "parameter_type";
    /// The statement concerns rows of several shards.
    pub const SEVERAL_SHARDS: &str = "several_shards";
    /// Tables that live on different shards in one statement.
    pub const MIXED_TABLES: &str = "mixed_tables";
    /// A write that would change the sharding key.
    pub const KEY_UPDATE: &str = "key_update";
    /// A write to a reference table whose copies might come to differ.
    pub const REFERENCE_WRITE: &str = "reference_write";
    /// A table that no rule places, where the configuration refuses those.
    pub const UNLISTED: &str = "unlisted";
    /// A view, trigger, rule, policy, partition or function that is not followed.
    pub const NOT_FOLLOWED: &str = "not_followed";
    /// DDL that cannot hold over shards.
    pub const DDL: &str = "ddl";
    /// A kind of statement that is not run over shards.
    pub const STATEMENT: &str = "statement";
    /// A text that could not be read.
    pub const UNPARSED: &str = "unparsed";
    /// A `/* pgherd: ... */` comment or `SET pgherd.*` that makes no sense.
    pub const HINT: &str = "hint";
    /// A shard was named, and the rows live elsewhere.
    pub const MISPLACED: &str = "misplaced";
    /// The shards' schemas differ.
    pub const DRIFT: &str = "drift";
}

impl Rejection {
    /// A rejection with any SQLSTATE.
    #[must_use]
    pub fn new(code: SqlState, label: &'static str, message: impl Into<Box<str>>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            label,
        }
    }

    /// SQLSTATE 0A000, `feature_not_supported`.
    #[must_use]
    pub fn unsupported(label: &'static str, message: impl Into<Box<str>>) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, label, message)
    }

    /// With the sentences that say why.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With what would be accepted.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the place in the text, in characters from 1.
    #[must_use]
    pub fn position(mut self, position: u32) -> Self {
        self.position = Some(position);
        self
    }

    /// Might the same text be planned after the catalog was read again? The session does that once
    /// and then answers with this rejection as it is.
    #[must_use]
    pub fn catalog_may_help(&self) -> bool {
        matches!(
            self.label,
            label::UNKNOWN_RELATION | label::UNKNOWN_FUNCTION | label::DRIFT
        )
    }

    /// Might the same text be planned with the parameter types that a server gives it
    /// (ParameterDescription)? They are then given as declared ones.
    #[must_use]
    pub fn parameter_types_may_help(&self) -> bool {
        self.label == label::PARAMETER_TYPE
    }

    /// SQLSTATE 42P01, as Postgres words it.
    pub(crate) fn unknown_relation(name: &str) -> Self {
        Self::new(
            SqlState::UNDEFINED_TABLE,
            label::UNKNOWN_RELATION,
            format!("relation \"{name}\" does not exist"),
        )
    }
}
