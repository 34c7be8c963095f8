//! What the session does with a statement beside sending it.
//!
//! Owns the vocabulary; the readers of statements fill it in. Never decides where a statement goes:
//! that is [`Placement`](crate::Placement). Main type: [`Action`].

use pgherd_topology::RelationName;

use crate::plan::Span;
use crate::set_config::SettingCall;

/// What a statement asks of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send it and relay the answer.
    Run,
    /// BEGIN, START TRANSACTION
    Begin(TransactionModes),
    /// COMMIT, END
    Commit {
        /// AND CHAIN: a new transaction begins with the same modes.
        chain: bool,
    },
    /// ROLLBACK, ABORT
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT name
    Savepoint(Box<str>),
    /// `RELEASE [SAVEPOINT] name`
    Release(Box<str>),
    /// `ROLLBACK TO [SAVEPOINT] name`
    RollbackTo(Box<str>),
    /// PREPARE TRANSACTION
    PrepareTransaction,
    /// SET TRANSACTION and SET SESSION CHARACTERISTICS AS TRANSACTION
    SetTransaction(TransactionScope, TransactionModes),
    /// SET of anything else, SET ROLE and SET SESSION AUTHORIZATION among them, and RESET.
    Set(SettingAction),
    /// A query that reads no table and calls `set_config` in its select list, once or several times: SET by another name, as far as
    /// [`SettingCall::read`] can read it.
    SetConfig(Box<[SettingCall]>),
    /// SHOW pgherd.name: the session answers it with one text column of that name.
    ShowOverride(OverrideName),
    /// SHOW of a setting that a server tells.
    Show,
    /// DISCARD ALL
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES or TEMP
    Discard,
    /// COPY from the client or to it. COPY of a file on the server is [`Action::Run`].
    Copy {
        /// Who sends the data.
        direction: CopyDirection,
    },
    /// A definition. After it has succeeded (in a block: after COMMIT) the catalog is to be read again.
    Ddl(DdlPlan),
    /// A write to reference tables: first on the lowest shard, then on the others, all or none;
    /// tags and rows must agree.
    ReferenceWrite {
        /// Does it answer with rows?
        returning: bool,
    },
    /// EXPLAIN (ROUTE [, ANALYZE]): the session plans `statement`'s text by itself and shows the plan.
    ExplainRoute {
        /// Run it too, and show times.
        analyze: bool,
        /// The explained statement within the query string.
        statement: Span,
    },
    /// LISTEN channel
    Listen(Box<str>),
    /// UNLISTEN channel; `None` is UNLISTEN *
    Unlisten(Option<Box<str>>),
    /// NOTIFY
    Notify,
    /// PREPARE name (types) AS ...
    Prepare {
        /// The statement's name.
        name: Box<str>,
        /// The types that it declares, 0 for one that is left open.
        parameter_types: Box<[u32]>,
    },
    /// EXECUTE name (arguments): placed by the session, as the prepared statement with these values.
    Execute {
        /// The statement's name.
        name: Box<str>,
        /// Its arguments.
        arguments: Box<[Argument]>,
    },
    /// DEALLOCATE name; `None` is DEALLOCATE ALL. Names made by the protocol's Parse count too.
    Deallocate(Option<Box<str>>),
    /// DECLARE name CURSOR: the session notes the shard that the statement went to.
    Declare {
        /// The cursor.
        cursor: Box<str>,
        /// WITH HOLD: it outlives the transaction.
        hold: bool,
    },
    /// FETCH or MOVE: to the shard where the cursor is.
    Fetch(Box<str>),
    /// CLOSE name, or CLOSE ALL
    Close(CursorTarget),
}

/// An argument of EXECUTE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// NULL
    Null,
    /// TRUE or FALSE
    Boolean(bool),
    /// The literal in a slot.
    Literal {
        /// The slot.
        slot: u32,
        /// With a minus sign before it.
        is_negative: bool,
    },
    /// Anything else.
    Computed,
}

/// Which cursors a CLOSE concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CursorTarget {
    /// One, by name.
    Named(Box<str>),
    /// Every one of the session.
    All,
}

/// The modes of BEGIN, START TRANSACTION and SET TRANSACTION; `None` is the session's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// READ ONLY is `Some(true)`, READ WRITE `Some(false)`.
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL
    pub isolation: Option<IsolationLevel>,
    /// DEFERRABLE is `Some(true)`, NOT DEFERRABLE `Some(false)`.
    pub deferrable: Option<bool>,
}

/// Postgres' isolation levels, as named in the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Read as READ COMMITTED by Postgres.
    ReadUncommitted,
    /// The default.
    ReadCommitted,
    /// One snapshot for the transaction.
    RepeatableRead,
    /// Serializable; such a read is not for a replica.
    Serializable,
}

/// How far a transaction's modes reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionScope {
    /// SET TRANSACTION: the running one.
    Current,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION: all later ones.
    Session,
}

/// SET or RESET of one setting, or RESET ALL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingAction {
    /// SET LOCAL or not.
    pub scope: SettingScope,
    /// The setting, in lower case; `None` is RESET ALL.
    pub name: Option<Box<str>>,
    /// What it becomes.
    pub value: SettingValue,
    /// Set where the name is one of pgherd's own: no server hears of it.
    pub override_name: Option<OverrideName>,
}

/// Until when a SET holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingScope {
    /// Until the session ends, unless the transaction is rolled back.
    Session,
    /// Until the transaction ends.
    Local,
}

/// What a setting becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// SET x TO DEFAULT, RESET x
    Default,
    /// The values as texts, unquoted; several for a list such as `search_path`.
    Texts(Box<[Box<str>]>),
    /// A value that only the server can read (`SET TIME ZONE INTERVAL ...`, SET x FROM CURRENT).
    Opaque,
}

/// pgherd's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverrideName {
    /// `pgherd.shard`
    Shard,
    /// `pgherd.sharding_key`
    ShardingKey,
    /// `pgherd.role`
    Role,
    /// `pgherd.token`
    Token,
    /// `pgherd.unchecked`
    Unchecked,
}

impl OverrideName {
    /// The setting of this name (in any case of letters, `pgherd.` included), if there is one.
    #[must_use]
    pub fn from_setting(name: &str) -> Option<Self> {
        let (prefix, rest) = name.split_once('.')?;
        if !prefix.eq_ignore_ascii_case("pgherd") {
            return None;
        }
        [
            Self::Shard,
            Self::ShardingKey,
            Self::Role,
            Self::Token,
            Self::Unchecked,
        ]
        .into_iter()
        .find(|known| known.as_str()["pgherd.".len()..].eq_ignore_ascii_case(rest))
    }

    /// The setting's full name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shard => "pgherd.shard",
            Self::ShardingKey => "pgherd.sharding_key",
            Self::Role => "pgherd.role",
            Self::Token => "pgherd.token",
            Self::Unchecked => "pgherd.unchecked",
        }
    }
}

/// Who sends a COPY's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    /// COPY ... FROM STDIN
    FromClient,
    /// COPY ... TO STDOUT
    ToClient,
}

/// What a definition asks for beyond running it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DdlPlan {
    /// Serial and identity columns that the statement creates on sharded tables: after it each shard
    /// is to give the sequence behind the column its own remainder
    /// (`pg_get_serial_sequence(table, column)`).
    pub serial_columns: Vec<SerialColumn>,
    /// It defines something of the whole server (a role, a right on a tablespace): where several
    /// shards live in one server it must run once there.
    pub server_wide: bool,
}

/// A column whose values a sequence makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialColumn {
    /// Its table.
    pub table: RelationName,
    /// Its name, folded.
    pub column: Box<str>,
}
