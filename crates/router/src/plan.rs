//! What the planner found out about a query string: cached, shared, free of any execution's values.
//!
//! Owns the plan's types. Never reads SQL. Main types: [`QueryPlan`], [`StatementPlan`], [`Placement`].

use std::ops::BitOr;
use std::sync::Arc;

use pgherd_topology::{KeyType, RelationName, ShardId, TableRule};
use smallvec::SmallVec;

use crate::action::Action;
use crate::hint::Hint;
use crate::literal::Literals;
use crate::rejection::Rejection;

/// The answer of [`Planner::plan`](crate::Planner::plan): a shared plan, and what belongs to this text alone.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The plan, shared with every text of the same fingerprint.
    pub plan: Arc<QueryPlan>,
    /// The literals of this text, by slot.
    pub literals: Literals,
    /// Where each statement of this text is, one for each of `plan.statements`, without the `;`.
    pub spans: SmallVec<[Span; 2]>,
    /// Did the plan come from the cache?
    pub cached: bool,
    /// The leading comment, if it is for us.
    pub hint: Option<Hint>,
}

/// A byte range of the query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The text within `sql`.
    #[must_use]
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// The plan of a query string.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryPlan {
    /// xxh3, 128 bits, of the normalised text: literals by kind, blanks and comments folded.
    pub fingerprint: u128,
    /// Its statements in order; none for an empty string.
    pub statements: Vec<StatementPlan>,
}

/// The plan of one statement.
#[derive(Debug, Clone, PartialEq)]
pub struct StatementPlan {
    /// What the session does.
    pub action: Action,
    /// Where it runs.
    pub placement: Placement,
    /// Whether a replica may serve it.
    pub access: Access,
    /// What it may leave on the server connection.
    pub residue: Residue,
    /// One sentence: why it is placed so. Shown by EXPLAIN (ROUTE).
    pub reason: Box<str>,
    /// The relations named, once each, in the order of the text.
    pub relations: Box<[RelationName]>,
    /// The number of parameters: the highest `$n`.
    pub parameters: u16,
    /// A value that reads the clock (`'now'`, `'today'`) would make the copies of a reference table
    /// differ: [`StatementPlan::resolve`] refuses such literals and text parameters.
    pub checks_clock_words: bool,
    /// It reads the moment at which its transaction began (`now()`), of which each server has its own.
    pub reads_moment: bool,
    /// A database that it takes away, renames, moves or copies: Postgres refuses that (55006) while anybody else is connected to it.
    pub vacates: Option<Box<str>>,
}

impl StatementPlan {
    /// The class of plan, for EXPLAIN (ROUTE) and metrics.
    #[must_use]
    pub fn class(&self) -> PlanClass {
        match &self.placement {
            Placement::Nowhere => PlanClass::Session,
            Placement::Any => PlanClass::AnyShard,
            Placement::One(_) => PlanClass::HomeShard,
            Placement::Keyed(_) => PlanClass::SingleShard,
            Placement::All => PlanClass::AllShards,
            Placement::EachInTurn => PlanClass::EachInTurn,
            Placement::WhereCursorIs => PlanClass::Cursor,
            Placement::Named(_) => PlanClass::NamedShard,
        }
    }
}

/// Where a statement runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Placement {
    /// On no server: the session answers.
    Nowhere,
    /// On any shard: reference tables only, or no table. The session takes one it already has.
    Any,
    /// On this shard: tables that no rule places, catalogs, an unsharded database.
    One(ShardId),
    /// On the shard that the keys of this execution give.
    Keyed(KeyedPlacement),
    /// On every shard, all or none.
    All,
    /// On every shard, one after the other, without a transaction over them (VACUUM, ANALYZE).
    EachInTurn,
    /// On the shard where the session's cursor is; its name is in the [`Action`].
    WhereCursorIs,
    /// On the shard that the client named.
    Named(NamedCheck),
}

/// What is still to be checked where the client named the shard: an override never misplaces a row.
#[derive(Debug, Clone, PartialEq)]
pub enum NamedCheck {
    /// Nothing: it writes no sharding key.
    Free,
    /// The keys that it writes must live on the named shard.
    Keys(KeyedPlacement),
    /// It adds rows to a table that lives on this shard alone.
    OnlyOn(ShardId),
    /// It cannot be checked: refused with this, unless `pgherd.unchecked` is on.
    Impossible(Box<Rejection>),
}

/// Keys that must all resolve to one shard.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedPlacement {
    /// At least one: for each way in which the key of a table is fixed.
    pub keys: SmallVec<[KeySet; 1]>,
}

/// One sharding key: a source for each of its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySet {
    /// The rule that places rows of this key.
    pub rule: Arc<TableRule>,
    /// The sources, in the order of the rule's key columns. One that stands for several values
    /// (a list, an array) stands for each: what holds for any of the keys is proven for all.
    pub columns: SmallVec<[KeySource; 1]>,
    /// The columns' lists are rows of one VALUES: the first values are one key, the second ones the
    /// next. Otherwise every value of a column may meet every value of another.
    pub by_row: bool,
}

/// Where the value of one key column comes from at execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySource {
    /// The literal or parameter.
    pub origin: KeyOrigin,
    /// The type it is read as: its own, of the column's hash family, or one that is converted to the
    /// column's as it is stored. Of an array: the type of its elements.
    pub key_type: KeyType,
    /// What the statement does with it.
    pub usage: KeyUsage,
}

impl KeySource {
    /// Is `other` the same value, held to no more than this one?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.origin == other.origin
            && self.key_type == other.key_type
            && (self.usage == other.usage || other.usage == KeyUsage::Compared)
    }
}

/// What a key's value is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The literal in this slot, or each of them where the slot is a list.
    Literal(u32),
    /// The literal in this slot, with a minus sign before it.
    Negated(u32),
    /// A parameter, from 0: `$1` is 0.
    Parameter(u16),
    /// `true` or `false`, which are key words and not literals.
    Boolean(bool),
    /// A number that was worked out while planning, as `3 + 4`: the literals in it are guards.
    Integer(i64),
    /// Each element of the array that the literal in this slot is: `= ANY ('{1,2}')`.
    ArrayLiteral(u32),
    /// Each element of an array parameter, from 0: `= ANY ($1)`.
    ArrayParameter(u16),
}

/// What a statement does with a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUsage {
    /// Rows are found by it. NULL finds none, on any shard.
    Compared,
    /// It is stored in a column: hashed as the assignment cast leaves it, and never NULL.
    Stored {
        /// The column's type.
        column: KeyType,
        /// The column's type modifier (`pg_attribute.atttypmod`).
        modifier: i32,
    },
}

/// Whether a statement only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A proven read: a replica may serve it.
    Read,
    /// Everything else: to the primary.
    Write,
}

/// The class of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlanClass {
    /// The session answers it.
    Session,
    /// Any shard can answer it.
    AnyShard,
    /// The shard of unlisted tables, or the only one.
    HomeShard,
    /// One shard, by key.
    SingleShard,
    /// Every shard, all or none.
    AllShards,
    /// Every shard, one after the other.
    EachInTurn,
    /// Where a cursor is.
    Cursor,
    /// The shard that the client named.
    NamedShard,
}

impl PlanClass {
    /// A short name, for EXPLAIN (ROUTE), SHOW PLANS and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::AnyShard => "any shard",
            Self::HomeShard => "home shard",
            Self::SingleShard => "single shard",
            Self::AllShards => "all shards",
            Self::EachInTurn => "each shard in turn",
            Self::Cursor => "cursor",
            Self::NamedShard => "named shard",
        }
    }
}

/// A set of things that a statement may leave behind on its server connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Residue(u16);

impl Residue {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A setting of the session (SET, set_config(.., false)).
    pub const SETTING: Self = Self(1);
    /// A prepared statement (PREPARE).
    pub const PREPARED: Self = Self(1 << 1);
    /// A temporary table, view or sequence.
    pub const TEMPORARY: Self = Self(1 << 2);
    /// An advisory lock of the session.
    pub const ADVISORY_LOCK: Self = Self(1 << 3);
    /// A channel listened to.
    pub const LISTEN: Self = Self(1 << 4);
    /// A cursor WITH HOLD.
    pub const HOLD_CURSOR: Self = Self(1 << 5);
    /// What currval and lastval answer: a number may have been drawn from a sequence.
    pub const SEQUENCE: Self = Self(1 << 6);
    /// Anything: code that was not read (DO, CALL, user functions).
    pub const OPAQUE: Self = Self(1 << 7);
    /// Anything, an open transaction too: text that was not read.
    pub const UNREAD: Self = Self(1 << 8);
    /// A library (LOAD), which only the connection's end takes away.
    pub const LIBRARY: Self = Self(1 << 9);
    /// Nothing, but it asks for what [`Self::SEQUENCE`] has left: currval and lastval.
    pub const ASKS_SEQUENCE: Self = Self(1 << 10);
    /// Nothing, and maybe less: the statement may take away temporary relations, cursors or advisory locks. It has no name.
    pub const RELEASE: Self = Self(1 << 11);

    /// Is every member of `other` in here?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any member of `other` in here?
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What is in here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Is it nothing?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The names of those of its members that may keep a connection with its client, for EXPLAIN (ROUTE) and SHOW PINS.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (Self::SETTING, "setting"),
            (Self::PREPARED, "prepared statement"),
            (Self::TEMPORARY, "temporary table"),
            (Self::ADVISORY_LOCK, "advisory lock"),
            (Self::LISTEN, "listen"),
            (Self::HOLD_CURSOR, "cursor with hold"),
            (Self::OPAQUE, "opaque call"),
            (Self::UNREAD, "unread text"),
            (Self::LIBRARY, "library"),
        ]
        .into_iter()
        .filter(move |(member, _)| self.contains(*member))
        .map(|(_, name)| name)
    }
}

impl BitOr for Residue {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Residue {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
