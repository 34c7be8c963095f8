//! What the configuration vouches for: functions, and the triggers, rules and policies of tables.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pgherd_router::{
    Access, BackslashReading, ClientEncoding, PlanClass, PlanContext, Planned, Planner, Rejection,
    Residue, SettingsDigest,
};
use pgherd_topology::{
    Catalog, Declarations, Function, RelationName, ShardId, ShardMap, Sharding, TableRule,
    Volatility,
};

fn public(name: &str) -> RelationName {
    RelationName::new("public", name)
}

fn catalog() -> Catalog {
    let mut triggered = pgherd_topology::Relation::table("public", "audited")
        .column(pgherd_topology::Column::new("id", 20))
        .column(pgherd_topology::Column::new("note", 25));
    triggered.has_triggers = true;
    triggered.has_row_security = true;
    let mut guarded = pgherd_topology::Relation::table("public", "guarded");
    guarded.reading_calls = vec![public("slug")];
    guarded.writing_calls = vec![public("mystery")];
    Catalog::builder()
        .with_builtins()
        .relation(guarded)
        .table("users", &[("id", 20), ("name", 25)])
        .table("orders", &[("user_id", 20), ("total", 1700)])
        .table("invoices", &[("id", 20)])
        .table("settings", &[("name", 25)])
        .table("countries", &[("code", 25)])
        .relation(triggered)
        .functions(
            ["slug", "spent", "config", "country", "mystery"]
                .map(|name| Function::of_user("public", name, Volatility::Volatile)),
        )
        .build()
}

fn sharding(declarations: Declarations) -> Sharding {
    let owners: Vec<ShardId> = (0..64).map(|bucket| ShardId(bucket % 3)).collect();
    Sharding::builder(["s0", "s1", "s2"])
        .map(Arc::new(ShardMap::new(1, owners).unwrap()))
        .table(TableRule::hash(public("users"), ["id"]))
        .table(TableRule::hash(public("orders"), ["user_id"]).with(public("users")))
        .table(TableRule::hash(public("audited"), ["id"]).with(public("users")))
        .table(TableRule::hash(public("invoices"), ["id"]))
        .reference(public("countries"))
        .declarations(declarations)
        .build()
        .unwrap()
}

fn declared() -> Declarations {
    let functions: HashMap<RelationName, Box<[RelationName]>> = [
        ("slug", vec![]),
        ("spent", vec![public("orders")]),
        ("config", vec![public("settings")]),
        ("country", vec![public("countries")]),
    ]
    .map(|(function, tables)| (public(function), tables.into()))
    .into();
    Declarations {
        functions,
        reading_functions: HashSet::from([public("slug"), public("spent")]),
        local_triggers: HashSet::from([public("audited")]),
    }
}

fn plan(sql: &str, declarations: Declarations) -> Result<Planned, Rejection> {
    plan_with(sql, &sharding(declarations))
}

fn plan_with(sql: &str, sharding: &Sharding) -> Result<Planned, Rejection> {
    let catalog = catalog();
    let context = PlanContext {
        database: "shop",
        sharding,
        rules_version: 1,
        catalog: &catalog,
        search_path: &["public".into()],
        backslash: BackslashReading::Literal,
        parameter_types: &[],
        named_shard: false,
        role: "app",
        settings: SettingsDigest::default(),
        encoding: ClientEncoding::ByteSafe,
    };
    Planner::new(10).plan(sql.as_bytes(), &context)
}

#[test]
fn a_declared_function_runs_where_its_tables_are() {
    for (sql, class, access) in [
        ("SELECT slug('a')", PlanClass::AnyShard, Access::Read),
        ("SELECT country('de')", PlanClass::AnyShard, Access::Write),
        ("SELECT config('a')", PlanClass::HomeShard, Access::Write),
        (
            "SELECT slug(name) FROM users WHERE id = 7",
            PlanClass::SingleShard,
            Access::Read,
        ),
        (
            "SELECT spent(id) FROM users WHERE id = 7",
            PlanClass::SingleShard,
            Access::Read,
        ),
        (
            "INSERT INTO settings VALUES (slug('a'))",
            PlanClass::HomeShard,
            Access::Write,
        ),
    ] {
        let planned = plan(sql, declared()).unwrap();
        let statement = &planned.plan.statements[0];
        assert_eq!(
            (statement.class(), statement.access),
            (class, access),
            "{sql}"
        );
        let refused = plan(sql, Declarations::default()).unwrap_err();
        assert_eq!(refused.code.as_str(), "0A000", "{sql}");
        assert!(refused.hint.is_some(), "{sql}");
    }
}

#[test]
fn a_declared_function_behind_a_table_leaves_nothing() {
    let residue = |sql, declarations| {
        let sharding = Sharding::builder(["s0"])
            .declarations(declarations)
            .build()
            .unwrap();
        plan_with(sql, &sharding).unwrap().plan.statements[0].residue
    };
    let (reads, writes) = ("SELECT * FROM guarded", "DELETE FROM guarded");
    assert_eq!(residue(reads, declared()), Residue::NONE);
    assert_eq!(residue(reads, Declarations::default()), Residue::OPAQUE);
    assert_eq!(residue(writes, declared()), Residue::OPAQUE);
}

#[test]
fn a_declared_function_is_refused_where_its_rows_may_be_elsewhere() {
    for sql in [
        "SELECT spent(7)",
        "SELECT spent(1) FROM settings",
        "SELECT spent(id) FROM invoices WHERE id = 7",
        "SELECT config(name) FROM users WHERE id = 7",
        "SELECT slug(name) FROM users",
        "SELECT slug(mystery()) FROM users WHERE id = 7",
        "UPDATE countries SET code = slug(code)",
    ] {
        let refused = plan(sql, declared()).unwrap_err();
        assert_eq!(refused.code.as_str(), "0A000", "{sql}");
    }
}

#[test]
fn a_table_with_triggers_or_policies_is_used_only_where_they_are_declared() {
    for sql in [
        "SELECT note FROM audited WHERE id = 7",
        "INSERT INTO audited (id, note) VALUES (7, 'a')",
        "DELETE FROM audited WHERE id = 7",
    ] {
        let planned = plan(sql, declared()).unwrap();
        assert_eq!(planned.plan.statements[0].class(), PlanClass::SingleShard);
        let refused = plan(sql, Declarations::default()).unwrap_err();
        assert!(refused.hint.unwrap().contains("sharding.triggers"), "{sql}");
    }
}
