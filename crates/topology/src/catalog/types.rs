//! Types. Main type: [`TypeInfo`].

use super::FIRST_USER_OID;
use crate::names::RelationName;

/// A row of `pg_type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    /// Its schema and name, as `pg_type` spells it (`_int8` for an array of `int8`).
    pub name: RelationName,
    /// Its OID on the home shard.
    pub oid: u32,
    /// How its values are built, which is where OIDs stand within their binary form.
    pub kind: TypeKind,
    /// Functions of users that run where a value becomes one of it: those of domains' constraints. Without those that are IMMUTABLE or
    /// written in C.
    pub calls: Vec<RelationName>,
}

/// How the values of a type are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// Of one piece: builtin, or of an extension.
    Base,
    /// Labels.
    Enum,
    /// `typelem` of a true array: values carry their element's OID.
    Array {
        /// The OID of the element's type.
        element: u32,
    },
    /// A row type: values carry the OIDs of their fields.
    Composite {
        /// The columns that are not dropped.
        fields: Box<[CompositeField]>,
    },
    /// Another type under conditions: values look like the base's.
    Domain {
        /// The OID of the base type, which may be a domain.
        base: u32,
        /// `typtypmod`; -1: none.
        modifier: i32,
    },
    /// Two bounds of a type.
    Range {
        /// The OID of the bounds' type.
        subtype: u32,
    },
    /// Ranges.
    Multirange {
        /// The OID of the range type.
        range: u32,
    },
    /// `record`, `anyelement`, `trigger` and their like.
    Pseudo,
}

/// A field of a row type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeField {
    /// Its name.
    pub name: Box<str>,
    /// The OID of its type on the home shard.
    pub type_oid: u32,
}

impl TypeInfo {
    /// A type of one piece.
    pub fn base(schema: &str, name: &str, oid: u32) -> Self {
        Self {
            name: RelationName::new(schema, name),
            oid,
            kind: TypeKind::Base,
            calls: Vec::new(),
        }
    }

    /// The same, built otherwise.
    pub fn of_kind(self, kind: TypeKind) -> Self {
        Self { kind, ..self }
    }

    /// Whether it came with Postgres and has the same OID everywhere.
    pub fn is_builtin(&self) -> bool {
        self.oid < FIRST_USER_OID
    }
}
