//! Any text as a query string: planned or refused, the same twice, and resolved without a panic.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pgherd_router::{
    BackslashReading, ClientEncoding, Overrides, PlanContext, Planner, SettingsDigest, ValueEncoding,
    Values,
};
use pgherd_topology::{Catalog, RelationName, ShardId, ShardMap, Sharding, TableRule, Unlisted};

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    Catalog::builder()
        .with_builtins()
        .table("users", &[("id", 20), ("name", 25), ("score", 701)])
        .table("orders", &[("id", 20), ("user_id", 20), ("total", 1700)])
        .table("countries", &[("code", 25), ("name", 25)])
        .table("settings", &[("key", 25), ("value", 25)])
        .build()
});

static SHARDINGS: LazyLock<[Sharding; 2]> = LazyLock::new(|| {
    let name = |name: &str| RelationName::new("public", name);
    let owners: Vec<ShardId> = (0..64).map(|bucket| ShardId(bucket % 3)).collect();
    let map = ShardMap::new(1, owners).expect("64 buckets are a valid number");
    let sharded = Sharding::builder(["s0", "s1", "s2"])
        .table(TableRule::hash(name("users"), ["id"]))
        .table(TableRule::hash(name("orders"), ["user_id"]).with(name("users")))
        .reference(name("countries"))
        .unlisted(Unlisted::Shard(ShardId(0)))
        .map(Arc::new(map))
        .build()
        .expect("the rules are consistent");
    [sharded, Sharding::unsharded("s0")]
});

fuzz_target!(|input: (bool, bool, [u32; 2], &[u8])| {
    let (named_shard, escape, parameter_types, sql) = input;
    let backslash = if escape {
        BackslashReading::Escape
    } else {
        BackslashReading::Literal
    };
    let search_path = ["public".into()];
    for sharding in &*SHARDINGS {
        let planner = Planner::new(8);
        let context = PlanContext {
            database: "shop",
            sharding,
            rules_version: 1,
            catalog: &CATALOG,
            search_path: &search_path,
            backslash,
            role: "app",
            settings: SettingsDigest::default(),
            encoding: ClientEncoding::ByteSafe,
            parameter_types: &parameter_types,
            named_shard,
        };
        let first = planner.plan(sql, &context);
        let second = planner.plan(sql, &context);
        let planned = match (first, second) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first.plan, second.plan);
                assert_eq!(first.spans.len(), first.plan.statements.len());
                second
            }
            (Err(first), Err(second)) => {
                assert_eq!(first, second);
                continue;
            }
            _ => panic!("planned once and refused once"),
        };
        let values = Values {
            sql,
            literals: &planned.literals,
            parameters: None,
            encoding: ValueEncoding::SameAsServer,
        };
        let overrides = Overrides {
            shard: named_shard.then_some(ShardId(0)),
            unchecked: false,
        };
        for statement in &planned.plan.statements {
            let _ = statement.resolve(&values, sharding, overrides);
            let _ = statement.explain_keys(&values, sharding);
        }
    }
});
