//! What the servers' system catalogs say, as far as planning needs it.
//!
//! Owns relations, functions, operators and types of one database, as its home shard has them, and
//! how the other shards' OIDs translate; never reads a server ([`reading`] makes one of what others
//! have read) and sees temporary tables only where a session adds its own ([`Catalog::with_temporary`]). What control publishes holds what is committed; a session whose open
//! block ran DDL has a catalog of its own until the block's end. Lookups take `&str` and allocate nothing. Main type: [`Catalog`].

mod builder;
mod function;
mod oid_map;
pub mod reading;
mod relation;
mod types;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::ids::ShardId;
use crate::key::KeyType;
use crate::name_index::{NameIndex, Named};
use crate::names::RelationName;

pub use builder::CatalogBuilder;
pub use function::{Function, FunctionKind, Operator, Volatility};
pub use oid_map::OidMap;
use reading::Reading;
pub use relation::{
    Collation, Column, ColumnDefault, ForeignKey, Persistence, ReferentialAction, Relation,
    RelationKind, UniqueKey,
};
pub use types::{CompositeField, TypeInfo, TypeKind};

/// OIDs from here on are given out by each server for itself (`FirstNormalObjectId`): what is below
/// came with Postgres and is the same everywhere.
pub const FIRST_USER_OID: u32 = 16_384;

/// How deep domains over domains and views over views are followed.
const MAX_DEPTH: usize = 64;

/// The catalog of one database at one moment.
///
/// A name without a schema is looked up along `search_path` as Postgres does: in `pg_catalog`
/// first, unless the path names that schema itself
/// ([documentation, 5.10.3](https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATH)).
#[derive(Clone, Debug)]
pub struct Catalog {
    version: u64,
    schemas: HashSet<Box<str>>,
    settings: ServerSettings,
    relations: NameIndex<Relation>,
    functions: NameIndex<Function>,
    operators: NameIndex<Operator>,
    types: NameIndex<TypeInfo>,
    relation_oids: HashMap<u32, RelationName>,
    type_oids: HashMap<u32, RelationName>,
    oid_maps: Vec<OidMap>,
    readings: Arc<[Option<Arc<Reading>>]>,
}

/// What the home shard's server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `server_version_num`, as in 150008.
    pub version_num: u32,
    /// `server_encoding`. Text keys hash as bytes of this encoding.
    pub encoding: Box<str>,
    /// `search_path` as the database gives it to a new session, before `$user` is resolved.
    pub search_path: Vec<Box<str>>,
    /// What `standard_conforming_strings` is in a new session.
    pub standard_conforming_strings: bool,
    /// What ALTER ROLE has set for some roles in this database instead.
    pub roles: HashMap<Box<str>, RoleSettings>,
}

/// The settings that a role's new sessions begin with, where it has its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleSettings {
    /// `search_path`, before `$user` is resolved.
    pub search_path: Option<Vec<Box<str>>>,
    /// `standard_conforming_strings`
    pub standard_conforming_strings: Option<bool>,
}

impl ServerSettings {
    /// The `search_path` of a role's new session, before `$user` is resolved.
    pub fn search_path_of(&self, role: &str) -> &[Box<str>] {
        self.roles
            .get(role)
            .and_then(|settings| settings.search_path.as_deref())
            .unwrap_or(&self.search_path)
    }

    /// The `standard_conforming_strings` of a role's new session.
    pub fn standard_conforming_strings_of(&self, role: &str) -> bool {
        self.roles
            .get(role)
            .and_then(|settings| settings.standard_conforming_strings)
            .unwrap_or(self.standard_conforming_strings)
    }
}

impl Default for ServerSettings {
    /// Postgres 15 as it is installed.
    fn default() -> Self {
        Self {
            version_num: 150_000,
            encoding: "UTF8".into(),
            search_path: vec!["$user".into(), "public".into()],
            standard_conforming_strings: true,
            roles: HashMap::new(),
        }
    }
}

impl Catalog {
    /// Starts an empty catalog; [`CatalogBuilder::with_builtins`] adds the usual types and functions.
    pub fn builder() -> CatalogBuilder {
        CatalogBuilder::default()
    }

    /// A catalog that knows nothing, of version 0: what there is before the first one was read.
    pub fn empty() -> Self {
        Self::builder().build()
    }

    /// The same with the temporary relations of one session besides, under a version of its own. They are found by name only.
    pub fn with_temporary(
        &self,
        relations: impl IntoIterator<Item = Relation>,
        version: u64,
    ) -> Self {
        let mut catalog = Self {
            version,
            ..self.clone()
        };
        for relation in relations {
            catalog.relations.replace(relation);
        }
        catalog
    }

    /// Rises with every change that control sees. No two catalogs of a database have the same one: a catalog of an open block
    /// has one that control never gives.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What it was made of, by shard; empty where it was made by hand. With some of them replaced, another
    /// catalog can be made of them.
    pub fn readings(&self) -> &[Option<Arc<Reading>>] {
        &self.readings
    }

    /// What the home shard's server says of itself.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// Whether a schema has anything in it.
    pub fn has_schema(&self, name: &str) -> bool {
        self.schemas.contains(name)
    }

    /// The relation of a full name.
    pub fn relation(&self, name: &RelationName) -> Option<&Relation> {
        self.relations.find(&name.schema, &name.name)
    }

    /// The relation of a schema and a name.
    pub fn relation_in(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.find(schema, name)
    }

    /// The relation that a name without a schema means under a search path.
    pub fn resolve_relation(&self, name: &str, search_path: &[Box<str>]) -> Option<&Relation> {
        first_on_path(&self.relations, name, search_path)
    }

    /// The relation of the home shard's OID.
    pub fn relation_by_oid(&self, oid: u32) -> Option<&Relation> {
        self.relation(self.relation_oids.get(&oid)?)
    }

    /// All relations.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter()
    }

    /// The functions, procedures and aggregates that a name may mean: those of the schema if one is
    /// given, else those on the search path. Which of the overloads runs depends on the types.
    pub fn functions<'a>(
        &'a self,
        schema: Option<&'a str>,
        name: &'a str,
        search_path: &'a [Box<str>],
    ) -> impl Iterator<Item = &'a Function> {
        on_path(&self.functions, schema, name, search_path)
    }

    /// The worst volatility over the functions that a name may mean; `None` where there is none
    /// (it may have been created since: the caller takes it for volatile).
    pub fn function_volatility(
        &self,
        schema: Option<&str>,
        name: &str,
        search_path: &[Box<str>],
    ) -> Option<Volatility> {
        on_path(&self.functions, schema, name, search_path)
            .map(|function| function.volatility)
            .max()
    }

    /// The operators that a name may mean, as [`Catalog::functions`].
    pub fn operators<'a>(
        &'a self,
        schema: Option<&'a str>,
        name: &'a str,
        search_path: &'a [Box<str>],
    ) -> impl Iterator<Item = &'a Operator> {
        on_path(&self.operators, schema, name, search_path)
    }

    /// The type of the home shard's OID.
    pub fn type_by_oid(&self, oid: u32) -> Option<&TypeInfo> {
        let name = self.type_oids.get(&oid)?;
        self.types.find(&name.schema, &name.name)
    }

    /// The type of a schema and a name, as `pg_type` spells it (`int8`, not `bigint`).
    pub fn type_in(&self, schema: &str, name: &str) -> Option<&TypeInfo> {
        self.types.find(schema, name)
    }

    /// The type that a name without a schema means under a search path, as `pg_type` spells it.
    pub fn resolve_type(&self, name: &str, search_path: &[Box<str>]) -> Option<&TypeInfo> {
        first_on_path(&self.types, name, search_path)
    }

    /// All types.
    pub fn types(&self) -> impl Iterator<Item = &TypeInfo> {
        self.types.iter()
    }

    /// How a value of a type hashes as a sharding key: domains are looked through, except those
    /// with a type modifier of their own, which would round or cut.
    pub fn key_type(&self, oid: u32) -> Option<KeyType> {
        let mut oid = oid;
        for _ in 0..MAX_DEPTH {
            if let Some(key_type) = KeyType::from_oid(oid) {
                return Some(key_type);
            }
            match &self.type_by_oid(oid)?.kind {
                TypeKind::Domain { base, modifier: -1 } => oid = *base,
                _ => return None,
            }
        }
        None
    }

    /// How a shard's OIDs translate to the home shard's and back. A shard of which nothing was read
    /// yet has the identity of the builtin OIDs, and knows no others.
    pub fn oid_map(&self, shard: ShardId) -> &OidMap {
        static UNKNOWN: std::sync::OnceLock<OidMap> = std::sync::OnceLock::new();
        self.oid_maps
            .get(shard.index())
            .unwrap_or_else(|| UNKNOWN.get_or_init(OidMap::default))
    }

    /// All relations that a statement on `name` reads or writes besides itself: the relations
    /// under a view, the partitions and children of a table, and theirs in turn. `None` where it
    /// cannot be said (too deep, or not in the catalog).
    pub fn relations_below(&self, name: &RelationName) -> Option<Vec<&Relation>> {
        let mut found: Vec<&Relation> = Vec::new();
        let mut open = vec![(self.relation(name)?, 0)];
        while let Some((relation, depth)) = open.pop() {
            if depth > MAX_DEPTH {
                return None;
            }
            for next in relation.children.iter().chain(&relation.depends_on) {
                let next = self.relation(next)?;
                if !found.iter().any(|seen| seen.name == next.name) {
                    found.push(next);
                    open.push((next, depth + 1));
                }
            }
        }
        Some(found)
    }
}

impl Named for Relation {
    fn schema(&self) -> &str {
        &self.name.schema
    }

    fn name(&self) -> &str {
        &self.name.name
    }
}

impl Named for Function {
    fn schema(&self) -> &str {
        &self.schema
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Operator {
    fn schema(&self) -> &str {
        &self.schema
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for TypeInfo {
    fn schema(&self) -> &str {
        &self.name.schema
    }

    fn name(&self) -> &str {
        &self.name.name
    }
}

const SYSTEM_SCHEMA: &str = "pg_catalog";

/// The position of a schema on the path, `pg_catalog` before all unless the path names it.
fn position_on_path(schema: &str, search_path: &[Box<str>]) -> Option<usize> {
    let position = search_path.iter().position(|entry| &**entry == schema);
    match position {
        Some(position) => Some(position + 1),
        None if schema == SYSTEM_SCHEMA => Some(0),
        None => None,
    }
}

fn first_on_path<'a, T: Named>(
    index: &'a NameIndex<T>,
    name: &str,
    search_path: &[Box<str>],
) -> Option<&'a T> {
    index
        .named(name)
        .filter_map(|entry| Some((position_on_path(entry.schema(), search_path)?, entry)))
        .min_by_key(|(position, _)| *position)
        .map(|(_, entry)| entry)
}

fn on_path<'a, T: Named>(
    index: &'a NameIndex<T>,
    schema: Option<&'a str>,
    name: &'a str,
    search_path: &'a [Box<str>],
) -> impl Iterator<Item = &'a T> {
    index.named(name).filter(move |entry| match schema {
        Some(schema) => entry.schema() == schema,
        None => position_on_path(entry.schema(), search_path).is_some(),
    })
}

#[cfg(test)]
mod tests;
