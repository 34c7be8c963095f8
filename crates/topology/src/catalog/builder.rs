//! Fills a [`Catalog`]: from readings of the system catalogs, or by hand in tests.

use std::collections::HashSet;
use std::sync::Arc;

use super::reading::Reading;
use super::{
    Catalog, Column, Function, FunctionKind, OidMap, Operator, ReferentialAction, Relation,
    ServerSettings, TypeInfo, TypeKind, Volatility,
};
use crate::ids::ShardId;
use crate::name_index::{NameIndex, Named};
use crate::names::RelationName;

/// Collects what is in a catalog. An entry replaces an earlier one of the same name; functions and
/// operators are overloaded and add up.
#[derive(Clone, Debug, Default)]
pub struct CatalogBuilder {
    version: u64,
    settings: ServerSettings,
    relations: NameIndex<Relation>,
    functions: NameIndex<Function>,
    operators: NameIndex<Operator>,
    types: NameIndex<TypeInfo>,
    oid_maps: Vec<OidMap>,
    readings: Arc<[Option<Arc<Reading>>]>,
}

impl CatalogBuilder {
    /// See [`Catalog::version`].
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// See [`Catalog::settings`].
    pub fn settings(mut self, settings: ServerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a relation.
    pub fn relation(mut self, relation: Relation) -> Self {
        self.relations.replace(relation);
        self
    }

    /// Adds relations.
    pub fn relations(self, relations: impl IntoIterator<Item = Relation>) -> Self {
        relations.into_iter().fold(self, Self::relation)
    }

    /// Adds a table of `public`: `.table("users", &[("id", 20), ("name", 25)])`.
    pub fn table(self, name: &str, columns: &[(&str, u32)]) -> Self {
        let table = Relation::table("public", name);
        let add =
            |table: Relation, (name, oid): &(&str, u32)| table.column(Column::new(name, *oid));
        self.relation(columns.iter().fold(table, add))
    }

    /// Adds one overload of a function.
    pub fn function(mut self, function: Function) -> Self {
        self.functions.add(function);
        self
    }

    /// Adds functions.
    pub fn functions(self, functions: impl IntoIterator<Item = Function>) -> Self {
        functions.into_iter().fold(self, Self::function)
    }

    /// Adds operators.
    pub fn operators(mut self, operators: impl IntoIterator<Item = Operator>) -> Self {
        for operator in operators {
            self.operators.add(operator);
        }
        self
    }

    /// Adds a type.
    pub fn user_type(mut self, user_type: TypeInfo) -> Self {
        self.types.replace(user_type);
        self
    }

    /// Adds types.
    pub fn types(self, types: impl IntoIterator<Item = TypeInfo>) -> Self {
        types.into_iter().fold(self, Self::user_type)
    }

    /// Sets how a shard's OIDs translate.
    pub fn oid_map(mut self, shard: ShardId, map: OidMap) -> Self {
        if self.oid_maps.len() <= shard.index() {
            self.oid_maps.resize(shard.index() + 1, OidMap::default());
        }
        self.oid_maps[shard.index()] = map;
        self
    }

    /// See [`Catalog::readings`].
    pub fn readings(mut self, readings: Arc<[Option<Arc<Reading>>]>) -> Self {
        self.readings = readings;
        self
    }

    /// Adds some builtin types, functions, aggregates and catalogs under which most statements can
    /// be planned: for tests without a server.
    pub fn with_builtins(self) -> Self {
        let types = BUILTIN_TYPES
            .iter()
            .map(|&(name, oid)| TypeInfo::base("pg_catalog", name, oid));
        let records = [("record", 2249), ("void", 2278), ("anyelement", 2283)]
            .map(|(name, oid)| TypeInfo::base("pg_catalog", name, oid).of_kind(TypeKind::Pseudo));
        let functions = BUILTIN_FUNCTIONS.iter().flat_map(|(volatility, names)| {
            names
                .iter()
                .map(|name| Function::builtin(name, *volatility))
        });
        let aggregates = BUILTIN_AGGREGATES
            .iter()
            .map(|name| Function::builtin_aggregate(name));
        let windows = ["row_number", "rank", "dense_rank", "lag", "lead"].map(|name| Function {
            kind: FunctionKind::Window,
            ..Function::builtin(name, Volatility::Immutable)
        });
        let catalogs = [
            "pg_class",
            "pg_namespace",
            "pg_attribute",
            "pg_type",
            "pg_proc",
            "pg_database",
        ]
        .map(|name| Relation::table("pg_catalog", name));
        self.types(types)
            .types(records)
            .functions(functions)
            .functions(aggregates)
            .functions(windows)
            .relations(catalogs)
            .relation(Relation::view("information_schema", "tables", []))
    }

    /// The catalog, with the links back filled in: children of tables, and tables that change with
    /// the ones they reference.
    pub fn build(mut self) -> Catalog {
        let mut children = Vec::new();
        let mut cascades = Vec::new();
        for relation in self.relations.iter() {
            if let Some(parent) = &relation.parent {
                children.push((parent.clone(), relation.name.clone()));
            }
            for foreign_key in &relation.foreign_keys {
                let actions = [foreign_key.on_delete, foreign_key.on_update];
                if actions
                    .iter()
                    .any(|action| *action != ReferentialAction::Refuse)
                {
                    cascades.push((foreign_key.target.clone(), relation.name.clone()));
                }
            }
        }
        for (parent, child) in children {
            link(&mut self.relations, &parent, child, |parent| {
                &mut parent.children
            });
        }
        for (target, source) in cascades {
            link(&mut self.relations, &target, source, |target| {
                &mut target.cascades_to
            });
        }
        let relation_oids = self
            .relations
            .iter()
            .map(|relation| (relation.oid, relation.name.clone()));
        let type_oids = self
            .types
            .iter()
            .map(|entry| (entry.oid, entry.name.clone()));
        let relations = self.relations.iter().map(Named::schema);
        let functions = self.functions.iter().map(Named::schema);
        let types = self.types.iter().map(Named::schema);
        let schemas: HashSet<&str> = relations.chain(functions).chain(types).collect();
        Catalog {
            version: self.version,
            schemas: schemas.into_iter().map(Into::into).collect(),
            relation_oids: relation_oids.filter(|(oid, _)| *oid != 0).collect(),
            type_oids: type_oids.collect(),
            settings: self.settings,
            relations: self.relations,
            functions: self.functions,
            operators: self.operators,
            types: self.types,
            oid_maps: self.oid_maps,
            readings: self.readings,
        }
    }
}

fn link(
    relations: &mut NameIndex<Relation>,
    at: &RelationName,
    name: RelationName,
    links: fn(&mut Relation) -> &mut Vec<RelationName>,
) {
    if let Some(relation) = relations.find_mut(&at.schema, &at.name) {
        let links = links(relation);
        if !links.contains(&name) {
            links.push(name);
        }
    }
}

#[rustfmt::skip]
const BUILTIN_TYPES: &[(&str, u32)] = &[
    ("bool", 16), ("bytea", 17), ("char", 18), ("name", 19), ("int8", 20), ("int2", 21),
    ("int4", 23), ("text", 25), ("oid", 26), ("json", 114), ("float4", 700), ("float8", 701),
    ("unknown", 705), ("bpchar", 1042), ("varchar", 1043), ("date", 1082), ("time", 1083),
    ("timestamp", 1114), ("timestamptz", 1184), ("interval", 1186), ("numeric", 1700),
    ("regclass", 2205), ("uuid", 2950), ("jsonb", 3802),
];

/// Each with the worst volatility over its overloads.
#[rustfmt::skip]
const BUILTIN_FUNCTIONS: &[(Volatility, &[&str])] = &[
    (
        Volatility::Immutable,
        &["abs", "lower", "upper", "round", "floor", "ceil", "substr", "replace", "md5"],
    ),
    (
        Volatility::Stable,
        &["now", "current_setting", "to_char", "to_timestamp", "concat", "concat_ws", "version",
          "pg_table_is_visible", "current_database", "current_schema", "generate_series", "length"],
    ),
    (
        Volatility::Volatile,
        &["random", "nextval", "setval", "currval", "clock_timestamp", "gen_random_uuid",
          "set_config", "pg_sleep", "pg_advisory_lock", "pg_advisory_xact_lock", "pg_try_advisory_lock", "pg_notify",
          "pg_is_in_recovery", "timeofday"],
    ),
];

#[rustfmt::skip]
const BUILTIN_AGGREGATES: &[&str] =
    &["count", "sum", "min", "max", "avg", "bool_and", "bool_or", "string_agg", "array_agg"];
