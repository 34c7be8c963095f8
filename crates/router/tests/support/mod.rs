//! The database that the plans of the tests are made for: three shards, tables of every kind.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use pgherd_router::{
    BackslashReading, ClientEncoding, ParameterFormat, ParameterSource, ParameterValue,
    PlanContext, SettingsDigest,
};
use pgherd_topology::{
    Catalog, Collation, Column, ColumnDefault, ForeignKey, Function, FunctionKind, ListFunction,
    OidMap, Operator, Persistence, ReferentialAction, Relation, RelationKind, RelationName,
    ShardId, ShardMap, Sharding, ShardingFunction, TableRule, TypeInfo, TypeKind, Unlisted,
    Volatility,
};

pub const INT4: u32 = 23;
pub const INT8: u32 = 20;
pub const TEXT: u32 = 25;
pub const VARCHAR: u32 = 1043;
pub const BPCHAR: u32 = 1042;
pub const NUMERIC: u32 = 1700;
pub const FLOAT8: u32 = 701;
pub const UUID: u32 = 2950;
pub const DATE: u32 = 1082;
pub const TIMESTAMPTZ: u32 = 1184;
pub const BOOL: u32 = 16;

/// A name of 63 bytes, the most that Postgres keeps.
pub const LONG_NAME: &str = "the_table_whose_name_is_as_long_as_a_name_of_postgres_may_be_63";

pub fn public(name: &str) -> RelationName {
    RelationName::new("public", name)
}

fn table(name: &str, columns: &[(&str, u32)]) -> Relation {
    columns
        .iter()
        .fold(Relation::table("public", name), |table, (name, oid)| {
            table.column(Column::new(name, *oid))
        })
}

fn foreign_key(column: &str, target: &str, to: &str, on_delete: ReferentialAction) -> ForeignKey {
    ForeignKey {
        columns: vec![column.into()],
        target: public(target),
        target_columns: vec![to.into()],
        on_delete,
        on_update: ReferentialAction::Refuse,
    }
}

fn user_operator(name: &str, volatility: Volatility) -> Operator {
    Operator {
        schema: "public".into(),
        name: name.into(),
        oid: 16_600,
        left: TEXT,
        right: TEXT,
        result: BOOL,
        volatility,
    }
}

/// The functions and relations that Postgres 15 comes with.
fn builtins() -> (Vec<Function>, Vec<Relation>) {
    let functions = include_str!("../data/functions.txt")
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let volatility = Volatility::from_provolatile(words.next().unwrap().as_bytes()[0]);
            let kind = FunctionKind::from_prokind(words.next().unwrap().as_bytes()[0]);
            Function {
                kind: kind.unwrap(),
                ..Function::builtin(words.next().unwrap(), volatility.unwrap())
            }
        })
        .collect();
    let relations = include_str!("../data/system_relations.txt")
        .lines()
        .map(|line| {
            let (schema, name) = line.split_once('.').unwrap();
            Relation::table(schema, name)
        })
        .collect();
    (functions, relations)
}

/// The catalog of the test database.
pub fn catalog() -> Catalog {
    let (functions, system) = builtins();
    let mut triggered = table("triggered", &[("id", INT8), ("note", TEXT)]);
    triggered.has_triggers = true;
    let mut secured = table("secured", &[("id", INT8), ("note", TEXT)]);
    secured.has_row_security = true;
    let mut drifted = table("drifted", &[("id", INT8)]);
    drifted.drifted = true;
    let mut ruled = table("ruled", &[("id", INT8)]);
    ruled.has_rules = true;
    let mut opaque_view = Relation::view("public", "opaque_view", [public("settings")]);
    opaque_view.is_opaque = true;
    let tells = || vec![public("tells")];
    let mut guarded = table("guarded", &[("id", INT8)]);
    (guarded.has_row_security, guarded.reading_calls) = (true, tells());
    let mut guarded_too = table("guarded_too", &[("id", INT8)]);
    (guarded_too.has_row_security, guarded_too.policies_read) = (true, vec![public("guarded")]);
    let mut checked = table("checked", &[("id", INT8)]);
    checked.writing_calls = tells();
    let mut unlogged = table("scratch", &[("id", INT8), ("note", TEXT)]);
    unlogged.persistence = Persistence::Unlogged;
    let owned = |name: &str, kind: RelationKind, owner: &str| Relation {
        depends_on: vec![public(owner)],
        ..Relation::new(public(name), kind)
    };
    let user_tables = [
        table(
            "users",
            &[
                ("name", TEXT),
                ("email", TEXT),
                ("balance", NUMERIC),
                ("score", FLOAT8),
                ("age", INT4),
                ("country", TEXT),
            ],
        ),
        table(
            "invoices",
            &[("region", TEXT), ("number", INT8), ("total", NUMERIC)],
        ),
        table("sessions", &[("token", UUID), ("data", TEXT)]),
        table(
            "metrics",
            &[("tenant", INT4), ("day", DATE), ("value", FLOAT8)],
        ),
        table("ledger", &[("amount", NUMERIC), ("note", TEXT)]),
        table("chars", &[("code", BPCHAR), ("note", TEXT)]),
        table("codes", &[("note", TEXT)]).column(Column::new("code", VARCHAR).modifier(4 + 5)),
        table("folded", &[("note", TEXT)])
            .column(Column::new("word", TEXT).collated(Collation::Nondeterministic)),
        table("moments", &[("at", TIMESTAMPTZ), ("note", TEXT)]),
        table("flags", &[("flag", BOOL), ("note", TEXT)]),
        table(
            "countries",
            &[("code", TEXT), ("name", TEXT), ("since", TIMESTAMPTZ)],
        )
        .column(Column::new("seq", INT8).default_of(ColumnDefault::Varying)),
        table("currencies", &[("code", TEXT), ("name", TEXT)])
            .column(Column::new("digits", INT4).default_of(ColumnDefault::Immutable)),
        table("settings", &[("key", TEXT), ("value", TEXT)]),
        table("logs", &[("id", INT8), ("user_id", INT8), ("note", TEXT)]),
        table("accounts", &[("note", TEXT)])
            .column(Column::new("id", INT8).default_of(ColumnDefault::IdentityAlways)),
        table("tickets", &[("note", TEXT)])
            .column(Column::new("id", INT8).default_of(ColumnDefault::IdentityByDefault)),
        table("made", &[("note", TEXT)])
            .column(Column::new("id", INT8).default_of(ColumnDefault::Generated)),
        table("days", &[("day", DATE), ("note", TEXT)]),
        table("clocks", &[("at", 1114), ("note", TEXT)]),
        table("prices", &[("note", TEXT)])
            .column(Column::new("price", NUMERIC).modifier(((9 << 16) | 2) + 4)),
        table("blobs", &[("data", 17)]),
        table(LONG_NAME, &[("id", INT8)]),
    ];
    // users.id stands first, as in its CREATE TABLE
    let user_tables = user_tables.into_iter().map(|mut relation| {
        if &*relation.name.name == "users" {
            relation
                .columns
                .insert(0, Column::new("id", INT8).not_null());
            relation = relation.primary_key(&["id"]);
        }
        relation
    });
    let orders = table("orders", &[])
        .column(
            Column::new("id", INT8)
                .not_null()
                .default_of(ColumnDefault::IdentityByDefault),
        )
        .column(Column::new("user_id", INT8).not_null())
        .column(Column::new("total", NUMERIC))
        .column(Column::new("status", TEXT))
        .column(Column::new("created", TIMESTAMPTZ).default_of(ColumnDefault::Varying))
        .column(Column::new("country", TEXT))
        .primary_key(&["user_id", "id"])
        .foreign_key(foreign_key(
            "user_id",
            "users",
            "id",
            ReferentialAction::Cascade,
        ))
        .foreign_key(foreign_key(
            "country",
            "countries",
            "code",
            ReferentialAction::Refuse,
        ));
    let items = table(
        "items",
        &[
            ("user_id", INT8),
            ("order_id", INT8),
            ("sku", TEXT),
            ("n", INT4),
        ],
    );
    let notes = table("notes", &[("id", INT8), ("session", UUID)]).foreign_key(foreign_key(
        "session",
        "sessions",
        "token",
        ReferentialAction::Cascade,
    ));
    Catalog::builder()
        .version(7)
        .with_builtins()
        .functions(functions)
        .relations(system)
        .relations(user_tables)
        .relations([
            orders,
            items,
            notes,
            triggered,
            secured,
            drifted,
            ruled,
            opaque_view,
            guarded,
            guarded_too,
            checked,
            unlogged,
        ])
        .relations([
            Relation::view("public", "user_view", [public("users")]),
            Relation::view(
                "public",
                "settings_view",
                [public("settings"), public("countries")],
            ),
            table("orders_2026", &[("id", INT8), ("user_id", INT8)]).child_of(public("orders")),
            owned("orders_id_seq", RelationKind::Sequence, "orders"),
            owned("orders_pkey", RelationKind::Index, "orders"),
            owned("logs_pkey", RelationKind::Index, "logs"),
            Relation::new(public("ticket_seq"), RelationKind::Sequence),
            Relation::table("other", "things").column(Column::new("id", INT8)),
        ])
        .functions([
            Function::of_user("public", "tax", Volatility::Immutable),
            Function::of_user("public", "award", Volatility::Volatile),
        ])
        .operators([
            user_operator("<=>", Volatility::Immutable),
            user_operator("#!#", Volatility::Volatile),
        ])
        .types([
            TypeInfo::base("public", "mood", 16_500).of_kind(TypeKind::Enum),
            TypeInfo::base("public", "positive", 16_501).of_kind(TypeKind::Domain {
                base: INT8,
                modifier: -1,
            }),
            TypeInfo {
                calls: tells(),
                ..TypeInfo::base("public", "told", 16_503).of_kind(TypeKind::Domain {
                    base: INT8,
                    modifier: -1,
                })
            },
            TypeInfo::base("public", "vector", 16_502),
        ])
        .oid_map(ShardId(0), OidMap::identity())
        .build()
}

/// The rules of the test database: shards s0, s1 and s2, 4096 buckets in turn.
pub fn sharding() -> Sharding {
    sharding_of(&["s0", "s1", "s2"], Unlisted::Shard(ShardId(0)))
}

pub fn sharding_of(shards: &[&str], unlisted: Unlisted) -> Sharding {
    let count = u16::try_from(shards.len()).unwrap();
    let owners: Vec<ShardId> = (0..4096).map(|bucket| ShardId(bucket % count)).collect();
    let regions = ListFunction::of_values([("eu", ShardId(0)), ("us", ShardId(count - 1))]);
    let hash = |name: &str, key: &[&str]| TableRule::hash(public(name), key.iter().copied());
    let builder = [
        hash("users", &["id"]),
        hash("orders", &["user_id"]).with(public("users")),
        hash("items", &["user_id"]).with(public("users")),
        hash("invoices", &["region"]).by(ShardingFunction::List(Arc::new(regions))),
        hash("sessions", &["token"]),
        hash("metrics", &["tenant", "day"]),
        hash("ledger", &["amount"]),
        hash("chars", &["code"]),
        hash("codes", &["code"]),
        hash("folded", &["word"]),
        hash("moments", &["at"]),
        hash("flags", &["flag"]),
        hash("triggered", &["id"]),
        hash("secured", &["id"]),
        hash("drifted", &["id"]),
        hash("ruled", &["id"]),
        hash("accounts", &["id"]),
        hash("tickets", &["id"]),
        hash("made", &["id"]),
        hash("days", &["day"]),
        hash("clocks", &["at"]),
        hash("prices", &["price"]),
        hash("blobs", &["data"]),
        hash(LONG_NAME, &["id"]),
        hash("planned", &["id"]),
        hash("planned_lines", &["planned_id"]).with(public("planned")),
    ]
    .into_iter()
    .fold(
        Sharding::builder(shards.iter().copied()),
        |builder, rule| builder.table(rule),
    );
    ["countries", "currencies", "planned_reference"]
        .into_iter()
        .fold(builder, |builder, name| builder.reference(public(name)))
        .unlisted(unlisted)
        .map(Arc::new(ShardMap::new(1, owners).unwrap()))
        .build()
        .unwrap()
}

/// One shard, no rules.
pub fn unsharded() -> Sharding {
    Sharding::unsharded("s0")
}

/// A context on the test database, with search_path public.
pub fn context<'a>(
    catalog: &'a Catalog,
    sharding: &'a Sharding,
    search_path: &'a [Box<str>],
    parameter_types: &'a [u32],
) -> PlanContext<'a> {
    PlanContext {
        database: "shop",
        sharding,
        rules_version: 1,
        catalog,
        search_path,
        backslash: BackslashReading::Literal,
        role: "app",
        settings: SettingsDigest::default(),
        encoding: ClientEncoding::ByteSafe,
        parameter_types,
        named_shard: false,
    }
}

/// Bound parameters.
pub struct Parameters<'a>(pub Vec<(ParameterFormat, Option<&'a [u8]>)>);

impl ParameterSource for Parameters<'_> {
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>> {
        let (format, bytes) = self.0.get(usize::from(index))?;
        Some(ParameterValue {
            format: *format,
            bytes: *bytes,
        })
    }
}
