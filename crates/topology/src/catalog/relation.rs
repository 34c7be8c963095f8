//! Relations and their columns. Main type: [`Relation`].

use crate::names::RelationName;

/// A row of `pg_class`, with what hangs on it.
///
/// Built by hand: `Relation::table("public", "users").column(Column::new("id", 20).not_null())`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its name.
    pub name: RelationName,
    /// Its OID on the home shard.
    pub oid: u32,
    /// What it is.
    pub kind: RelationKind,
    /// How long it lives.
    pub persistence: Persistence,
    /// Its columns in their order, without dropped and system columns.
    pub columns: Vec<Column>,
    /// Its primary key and unique constraints and indexes (without partial and expression indexes).
    pub unique_keys: Vec<UniqueKey>,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Tables whose foreign keys reference this one and change rows with it (any action but
    /// [`ReferentialAction::Refuse`]). Filled by the builder.
    pub cascades_to: Vec<RelationName>,
    /// Whether it has triggers of users (not those behind constraints), of its own or, on a
    /// partitioned table, of any partition.
    pub has_triggers: bool,
    /// Whether it has rewrite rules besides that of a view.
    pub has_rules: bool,
    /// Whether row level security is enabled, whatever its policies.
    pub has_row_security: bool,
    /// The table it is a partition or INHERITS child of (the first, where there are several).
    pub parent: Option<RelationName>,
    /// Its partitions and INHERITS children. Filled by the builder from `parent`.
    pub children: Vec<RelationName>,
    /// What the definition of a view reads, from `pg_depend`; empty for tables.
    pub depends_on: Vec<RelationName>,
    /// Whether the definition of a view calls a function that is volatile or written by a user: it
    /// may write, or read what `depends_on` does not name.
    pub is_opaque: bool,
    /// Functions of users that reading it runs though the statement does not name them: those of its policies, where row level security is
    /// enabled. Without those that are IMMUTABLE or written in C.
    pub reading_calls: Vec<RelationName>,
    /// The same for writing: those of defaults, CHECK constraints, its columns' domains and what policies check.
    pub writing_calls: Vec<RelationName>,
    /// Tables and views that its policies read.
    pub policies_read: Vec<RelationName>,
    /// Whether the shards disagree on its columns or kind: statements on it are refused.
    pub drifted: bool,
}

/// What a relation is (`pg_class.relkind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelationKind {
    /// `r`
    Table,
    /// `p`
    PartitionedTable,
    /// `v`
    View,
    /// `m`
    MaterializedView,
    /// `S`
    Sequence,
    /// `f`
    ForeignTable,
    /// `i`
    Index,
    /// `I`
    PartitionedIndex,
    /// `c`
    CompositeType,
    /// `t`
    Toast,
}

impl RelationKind {
    /// From `pg_class.relkind`.
    pub fn from_relkind(relkind: u8) -> Option<Self> {
        Some(match relkind {
            b'r' => Self::Table,
            b'p' => Self::PartitionedTable,
            b'v' => Self::View,
            b'm' => Self::MaterializedView,
            b'S' => Self::Sequence,
            b'f' => Self::ForeignTable,
            b'i' => Self::Index,
            b'I' => Self::PartitionedIndex,
            b'c' => Self::CompositeType,
            b't' => Self::Toast,
            _ => return None,
        })
    }
}

/// How long a relation lives (`pg_class.relpersistence`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// `p`
    Permanent,
    /// `u`: not on replicas.
    Unlogged,
    /// `t`: of one session.
    Temporary,
}

impl Persistence {
    /// From `pg_class.relpersistence`.
    pub fn from_relpersistence(relpersistence: u8) -> Option<Self> {
        Some(match relpersistence {
            b'p' => Self::Permanent,
            b'u' => Self::Unlogged,
            b't' => Self::Temporary,
            _ => return None,
        })
    }
}

/// A row of `pg_attribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Box<str>,
    /// The OID of its type on the home shard.
    pub type_oid: u32,
    /// `atttypmod`; -1: none. A key about to be written must fit it ([`crate::KeyValue::fits`]).
    pub modifier: i32,
    /// How its values compare.
    pub collation: Collation,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// What an INSERT that leaves the column out stores.
    pub default: ColumnDefault,
}

/// How values of a column compare, by its collation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collation {
    /// The type has no collation.
    NotApplicable,
    /// C, POSIX, C.UTF-8 and their like: by bytes.
    Bytewise,
    /// Another, under which only equal bytes are equal.
    Deterministic,
    /// Different bytes may be equal: no sharding key.
    Nondeterministic,
}

/// What an INSERT that leaves a column out stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnDefault {
    /// NULL.
    Null,
    /// The value of an immutable expression: the same on every shard.
    Immutable,
    /// Anything else: `nextval`, `now()`, `gen_random_uuid()`.
    Varying,
    /// `GENERATED ALWAYS AS IDENTITY`
    IdentityAlways,
    /// `GENERATED BY DEFAULT AS IDENTITY`
    IdentityByDefault,
    /// `GENERATED ALWAYS AS (expression)`, which is immutable.
    Generated,
}

/// Columns whose values together are unique on each server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    /// The columns.
    pub columns: Vec<Box<str>>,
    /// Whether it is the primary key.
    pub is_primary: bool,
}

/// A row of `pg_constraint` with contype `f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The referencing columns.
    pub columns: Vec<Box<str>>,
    /// The referenced table.
    pub target: RelationName,
    /// The referenced columns, in the order of `columns`.
    pub target_columns: Vec<Box<str>>,
    /// What happens here when a referenced row goes.
    pub on_delete: ReferentialAction,
    /// What happens here when a referenced key changes.
    pub on_update: ReferentialAction,
}

/// What a foreign key does when its referenced row goes or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferentialAction {
    /// `NO ACTION` and `RESTRICT`: the statement fails.
    Refuse,
    /// `CASCADE`
    Cascade,
    /// `SET NULL`
    SetNull,
    /// `SET DEFAULT`
    SetDefault,
}

impl ReferentialAction {
    /// From `confdeltype` or `confupdtype`.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            b'a' | b'r' => Self::Refuse,
            b'c' => Self::Cascade,
            b'n' => Self::SetNull,
            b'd' => Self::SetDefault,
            _ => return None,
        })
    }
}

impl Relation {
    /// A relation of a kind, without columns.
    pub fn new(name: RelationName, kind: RelationKind) -> Self {
        Self {
            name,
            oid: 0,
            kind,
            persistence: Persistence::Permanent,
            columns: Vec::new(),
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            cascades_to: Vec::new(),
            has_triggers: false,
            has_rules: false,
            has_row_security: false,
            parent: None,
            children: Vec::new(),
            depends_on: Vec::new(),
            is_opaque: false,
            reading_calls: Vec::new(),
            writing_calls: Vec::new(),
            policies_read: Vec::new(),
            drifted: false,
        }
    }

    /// A table without columns.
    pub fn table(schema: &str, name: &str) -> Self {
        Self::new(RelationName::new(schema, name), RelationKind::Table)
    }

    /// A view over relations.
    pub fn view(
        schema: &str,
        name: &str,
        depends_on: impl IntoIterator<Item = RelationName>,
    ) -> Self {
        Self {
            depends_on: depends_on.into_iter().collect(),
            ..Self::new(RelationName::new(schema, name), RelationKind::View)
        }
    }

    /// The same with an OID.
    pub fn oid(self, oid: u32) -> Self {
        Self { oid, ..self }
    }

    /// The same with one more column.
    pub fn column(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    /// The same with a primary key.
    pub fn primary_key(self, columns: &[&str]) -> Self {
        self.unique_key(columns, true)
    }

    /// The same with a unique key.
    pub fn unique(self, columns: &[&str]) -> Self {
        self.unique_key(columns, false)
    }

    fn unique_key(mut self, columns: &[&str], is_primary: bool) -> Self {
        self.unique_keys.push(UniqueKey {
            columns: columns.iter().map(|&column| column.into()).collect(),
            is_primary,
        });
        self
    }

    /// The same with a foreign key.
    pub fn foreign_key(mut self, foreign_key: ForeignKey) -> Self {
        self.foreign_keys.push(foreign_key);
        self
    }

    /// The same as partition or child of a table.
    pub fn child_of(self, parent: RelationName) -> Self {
        Self {
            parent: Some(parent),
            ..self
        }
    }

    /// The column of a name.
    pub fn find_column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The position of a column, from 0, in the order of `SELECT *`.
    pub fn column_position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }

    /// Whether it is a table, a partitioned table, a foreign table or anything else rows are read
    /// from by name: not an index, a composite type or a toast table.
    pub fn is_readable(&self) -> bool {
        match self.kind {
            RelationKind::Table
            | RelationKind::PartitionedTable
            | RelationKind::View
            | RelationKind::MaterializedView
            | RelationKind::Sequence
            | RelationKind::ForeignTable
            | RelationKind::Toast => true,
            RelationKind::Index | RelationKind::PartitionedIndex | RelationKind::CompositeType => {
                false
            }
        }
    }
}

impl Column {
    /// A nullable column of a type, under a deterministic collation if the type (one of the
    /// builtin ones) has any.
    pub fn new(name: &str, type_oid: u32) -> Self {
        // "char" has none; text, name, bpchar, varchar
        let collation = match type_oid {
            25 | 1042 | 1043 => Collation::Deterministic,
            19 => Collation::Bytewise,
            _ => Collation::NotApplicable,
        };
        Self {
            name: name.into(),
            type_oid,
            modifier: -1,
            collation,
            not_null: false,
            default: ColumnDefault::Null,
        }
    }

    /// The same, NOT NULL.
    pub fn not_null(self) -> Self {
        Self {
            not_null: true,
            ..self
        }
    }

    /// The same with a default.
    pub fn default_of(self, default: ColumnDefault) -> Self {
        Self { default, ..self }
    }

    /// The same with another collation.
    pub fn collated(self, collation: Collation) -> Self {
        Self { collation, ..self }
    }

    /// The same with a type modifier.
    pub fn modifier(self, modifier: i32) -> Self {
        Self { modifier, ..self }
    }
}
