//! Functions and operators. Main type: [`Function`].

use super::FIRST_USER_OID;

/// What a function may do and depend on (`pg_proc.provolatile`), from harmless to worst
/// ([documentation, 38.7](https://www.postgresql.org/docs/current/xfunc-volatility.html)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volatility {
    /// The same result for the same arguments, for ever.
    Immutable,
    /// The same within one statement; reads only.
    Stable,
    /// Anything, writes included.
    Volatile,
}

impl Volatility {
    /// From `pg_proc.provolatile`.
    pub fn from_provolatile(provolatile: u8) -> Option<Self> {
        Some(match provolatile {
            b'i' => Self::Immutable,
            b's' => Self::Stable,
            b'v' => Self::Volatile,
            _ => return None,
        })
    }
}

/// What is called and how (`pg_proc.prokind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// `f`
    Function,
    /// `p`
    Procedure,
    /// `a`
    Aggregate,
    /// `w`
    Window,
}

impl FunctionKind {
    /// From `pg_proc.prokind`.
    pub fn from_prokind(prokind: u8) -> Option<Self> {
        Some(match prokind {
            b'f' => Self::Function,
            b'p' => Self::Procedure,
            b'a' => Self::Aggregate,
            b'w' => Self::Window,
            _ => return None,
        })
    }
}

/// A row of `pg_proc`: one of the overloads of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its schema.
    pub schema: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its OID on the home shard.
    pub oid: u32,
    /// What it is.
    pub kind: FunctionKind,
    /// What it may do.
    pub volatility: Volatility,
    /// Whether it returns rows.
    pub returns_set: bool,
    /// The types of its input arguments.
    pub arguments: Box<[u32]>,
    /// The type of its result.
    pub result: u32,
}

impl Function {
    /// A function of `pg_catalog`, for tests.
    pub fn builtin(name: &str, volatility: Volatility) -> Self {
        Self {
            oid: 1,
            ..Self::of_user("pg_catalog", name, volatility)
        }
    }

    /// An aggregate of `pg_catalog`, for tests.
    pub fn builtin_aggregate(name: &str) -> Self {
        Self {
            kind: FunctionKind::Aggregate,
            ..Self::builtin(name, Volatility::Immutable)
        }
    }

    /// A function that a user wrote, for tests.
    pub fn of_user(schema: &str, name: &str, volatility: Volatility) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
            oid: FIRST_USER_OID,
            kind: FunctionKind::Function,
            volatility,
            returns_set: false,
            arguments: Box::default(),
            result: 0,
        }
    }

    /// Whether it came with Postgres: its body reads no table of users, unless it is given the
    /// query (`query_to_xml` and its kin).
    pub fn is_builtin(&self) -> bool {
        self.oid < FIRST_USER_OID
    }
}

/// A row of `pg_operator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its schema.
    pub schema: Box<str>,
    /// Its name, as in `=`.
    pub name: Box<str>,
    /// Its OID on the home shard.
    pub oid: u32,
    /// The type to the left; 0 for a prefix operator.
    pub left: u32,
    /// The type to the right.
    pub right: u32,
    /// The type of the result.
    pub result: u32,
    /// That of its function.
    pub volatility: Volatility,
}

impl Operator {
    /// Whether it came with Postgres.
    pub fn is_builtin(&self) -> bool {
        self.oid < FIRST_USER_OID
    }
}
