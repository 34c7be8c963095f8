//! What planning costs: a statement whose plan is cached, with its key resolved to a shard, and one
//! that must be parsed; and of it, reading the text's tokens, and finding a key's shard.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use pgherd_router::lexer::Lexer;
use pgherd_router::{
    BackslashReading, ClientEncoding, ContextKey, Overrides, ParameterFormat, ParameterSource,
    ParameterValue, PlanContext, Planner, SettingsDigest, ValueEncoding, Values,
};
use pgherd_topology::{
    Catalog, KeyInput, KeyType, RelationName, ShardId, ShardMap, Sharding, TableRule, Unlisted,
};

const INT4: u32 = 23;

struct Database {
    catalog: Catalog,
    sharding: Sharding,
    search_path: Vec<Box<str>>,
}

/// The tables of pgbench, sharded by account.
fn database() -> Database {
    let owners: Vec<ShardId> = (0..4096).map(|bucket| ShardId(bucket % 3)).collect();
    let map = ShardMap::new(1, owners).expect("4096 buckets are a valid number");
    let accounts = RelationName::new("public", "pgbench_accounts");
    let sharding = Sharding::builder(["s0", "s1", "s2"])
        .table(TableRule::hash(accounts, ["aid"]))
        .unlisted(Unlisted::Shard(ShardId(0)))
        .map(Arc::new(map))
        .build()
        .expect("the rules are consistent");
    let catalog = Catalog::builder()
        .with_builtins()
        .table(
            "pgbench_accounts",
            &[
                ("aid", INT4),
                ("bid", INT4),
                ("abalance", INT4),
                ("filler", 1042),
            ],
        )
        .build();
    Database {
        catalog,
        sharding,
        search_path: vec!["public".into()],
    }
}

struct One<'a>(&'a [u8]);

impl ParameterSource for One<'_> {
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>> {
        (index == 0).then_some(ParameterValue {
            format: ParameterFormat::Text,
            bytes: Some(self.0),
        })
    }
}

/// As a session does it, which keeps `key`.
fn route(planner: &Planner, context: &PlanContext<'_>, key: &ContextKey, sql: &str) -> ShardId {
    let planned = planner
        .cached(sql.as_bytes(), key, &[], false)
        .unwrap_or_else(|| {
            planner
                .plan(sql.as_bytes(), context)
                .expect("the statement is proven")
        });
    let values = Values {
        sql: sql.as_bytes(),
        literals: &planned.literals,
        parameters: Some(&One(b"12345")),
        encoding: ValueEncoding::SameAsServer,
    };
    let resolved = planned.plan.statements[0]
        .resolve(&values, context.sharding, Overrides::default())
        .expect("the key is an integer");
    match resolved.destination {
        pgherd_router::Destination::Shard(shard) => shard,
        other => panic!("{other:?}"),
    }
}

fn planning(criterion: &mut Criterion) {
    let database = database();
    let context = PlanContext {
        database: "shop",
        sharding: &database.sharding,
        rules_version: 1,
        catalog: &database.catalog,
        search_path: &database.search_path,
        backslash: BackslashReading::Literal,
        role: "app",
        settings: SettingsDigest::default(),
        encoding: ClientEncoding::ByteSafe,
        parameter_types: &[],
        named_shard: false,
    };
    let key = context.key();
    let planner = Planner::new(1024);
    let statements = [
        (
            "pgbench select",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
        ),
        (
            "pgbench select with a parameter",
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
        ),
        (
            "pgbench update",
            "UPDATE pgbench_accounts SET abalance = abalance + -4711 WHERE aid = 4711;",
        ),
        (
            "a list of ten",
            "SELECT abalance FROM pgbench_accounts WHERE aid IN (1, 1, 1, 1, 1, 1, 1, 1, 1, 1);",
        ),
    ];
    let mut hits = criterion.benchmark_group("plan from the cache, and resolve");
    for (name, sql) in statements {
        route(&planner, &context, &key, sql);
        hits.bench_function(name, |bencher| {
            bencher.iter(|| route(&planner, &context, &key, black_box(sql)));
        });
    }
    hits.finish();
    let mut misses = criterion.benchmark_group("plan anew, and resolve");
    for (name, sql) in statements {
        misses.bench_function(name, |bencher| {
            bencher.iter(|| route(&Planner::new(1), &context, &key, black_box(sql)));
        });
    }
    misses.finish();
    let mut tokens = criterion.benchmark_group("read the tokens");
    for (name, sql) in statements {
        tokens.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut lexer = Lexer::new(black_box(sql).as_bytes(), BackslashReading::Literal);
                let mut count = 0;
                while let Ok(Some(token)) = lexer.next_token() {
                    black_box(token);
                    count += 1;
                }
                count
            });
        });
    }
    tokens.finish();
    let accounts = database.sharding.tables().next().expect("there is a table");
    let binary = 4711_i32.to_be_bytes();
    let mut shards = criterion.benchmark_group("find the shard of a key");
    for (name, key) in [
        ("text", KeyInput::Text(KeyType::Int4, b"4711")),
        ("binary", KeyInput::Binary(KeyType::Int4, &binary)),
    ] {
        shards.bench_function(name, |bencher| {
            bencher.iter(|| {
                database
                    .sharding
                    .locate(accounts, black_box(&[key]))
                    .expect("every key has a shard")
            });
        });
    }
    shards.finish();
}

criterion_group!(benches, planning);
criterion_main!(benches);
