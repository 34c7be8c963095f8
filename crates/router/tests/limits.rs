//! Texts that are long, deep or broken: planned or refused in bounded time, never a panic.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use pgherd_router::{Placement, Planned, Planner, Rejection};
use pgherd_topology::Sharding;
use proptest::prelude::*;

fn plan_on(sharding: &Sharding, sql: &str) -> Result<Planned, Rejection> {
    let catalog = support::catalog();
    let path = ["public".into()];
    let context = support::context(&catalog, sharding, &path, &[]);
    Planner::new(16).plan(sql.as_bytes(), &context)
}

fn plan(sql: &str) -> Result<Planned, Rejection> {
    plan_on(&support::sharding(), sql)
}

/// Runs on a thread with the stack of a tokio worker.
fn on_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

fn within(limit: Duration, sql: String) {
    on_small_stack(move || {
        let begun = Instant::now();
        let sharded = plan(&sql).is_ok();
        let unsharded = plan_on(&support::unsharded(), &sql);
        assert!(unsharded.is_ok(), "an unsharded database takes any text");
        let spent = begun.elapsed();
        let start: String = sql.chars().take(40).collect();
        assert!(spent < limit, "{start}: {spent:?} ({sharded})");
    });
}

#[test]
fn deep_nesting_is_refused_and_does_not_crash() {
    let limit = Duration::from_secs(10);
    for depth in [100, 300, 10_000, 200_000] {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        within(limit, format!("SELECT {open}1{close}"));
        within(
            limit,
            format!("SELECT * FROM users WHERE id = 7 AND {open}true{close}"),
        );
        within(limit, format!("{open}SELECT 1{close}"));
        within(limit, format!("SELECT {}1{close}", "abs(".repeat(depth)));
        within(
            limit,
            format!("SELECT {}1{close}", "(SELECT ".repeat(depth)),
        );
        within(
            limit,
            format!("SELECT {}1{}", "ARRAY[".repeat(depth), "]".repeat(depth)),
        );
        within(
            limit,
            format!(
                "SELECT {}1{}",
                "CASE WHEN true THEN ".repeat(depth),
                " END".repeat(depth)
            ),
        );
        within(limit, open);
        within(limit, close);
    }
}

#[test]
fn long_chains_of_operators_do_not_overflow_the_stack() {
    let limit = Duration::from_secs(10);
    for length in [1_000, 1_400, 1_600, 100_000] {
        let chain = |item: &str, joint: &str| vec![item; length].join(joint);
        within(limit, format!("SELECT {}", chain("1", " + ")));
        within(
            limit,
            format!(
                "SELECT * FROM users WHERE id = 7 AND {}",
                chain("age = 1", " AND ")
            ),
        );
        within(
            limit,
            format!("SELECT * FROM users WHERE {}", chain("id = 7", " OR ")),
        );
        within(limit, chain("SELECT 1", " UNION ALL "));
        within(limit, format!("SELECT {}1", "- ".repeat(length)));
        within(limit, format!("SELECT {}true", "NOT ".repeat(length)));
        within(limit, format!("SELECT 1{}", "::int".repeat(length)));
        within(limit, format!("SELECT a{}", "[1]".repeat(length)));
        within(limit, format!("SELECT a{}", ".b".repeat(length)));
        within(limit, format!("SELECT * FROM {}", chain("users", " JOIN ")));
        within(
            limit,
            format!("SELECT * FROM {}", chain("users", " NATURAL JOIN ")),
        );
        within(limit, format!("SELECT 1{}", " IS NULL".repeat(length)));
        within(limit, format!("SELECT 1{}", " COLLATE x".repeat(length)));
        within(
            limit,
            format!("SELECT 1{}", " AT TIME ZONE x".repeat(length)),
        );
        within(limit, format!("SELECT 1{}", " !".repeat(length)));
        within(limit, format!("SELECT 1{}", " ISNULL".repeat(length)));
        within(
            limit,
            format!("SELECT 1{}", " BETWEEN 1 AND 2".repeat(length)),
        );
    }
}

#[test]
fn ten_megabytes_are_planned_in_bounded_time() {
    let limit = Duration::from_secs(60);
    let text = "x".repeat(10 << 20);
    within(
        limit,
        format!("INSERT INTO users (id, name) VALUES (7, '{text}')"),
    );
    within(limit, format!("SELECT {text}"));
    within(limit, format!("SELECT 1 /* {text} */"));
    within(limit, format!("SELECT '{text}"));
    within(
        limit,
        format!(
            "INSERT INTO users (id, name) VALUES {}(1, 'b')",
            "(1, 'a'), ".repeat(1 << 20)
        ),
    );
    within(
        limit,
        format!(
            "SELECT * FROM users WHERE id IN ({}1)",
            "1, ".repeat(3 << 20)
        ),
    );
    within(limit, "SELECT 1; ".repeat(1 << 20));
    within(limit, format!("SELECT 1{}", " ".repeat(10 << 20)));
    within(limit, "$".repeat(10 << 20));
    within(limit, "$a$".repeat(3 << 20));
    within(limit, "/*".repeat(5 << 20));
    within(limit, "'\n".repeat(5 << 20));
}

#[test]
fn a_long_insert_is_still_placed_by_its_key() {
    let planned = plan(&format!(
        "INSERT INTO users (id, name) VALUES {}(7, 'z')",
        "(7, 'a'), (7, NULL), ".repeat(1_000)
    ))
    .unwrap();
    let Placement::Keyed(keyed) = &planned.plan.statements[0].placement else {
        panic!("{:?}", planned.plan.statements[0].placement);
    };
    assert_eq!(keyed.keys.len(), 2_001);
}

/// Words that statements are made of: enough to get deep into every reader.
const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "users",
    "orders",
    "WHERE",
    "id",
    "=",
    "7",
    "$1",
    "'x'",
    "AND",
    "OR",
    "(",
    ")",
    ",",
    ";",
    "JOIN",
    "LEFT",
    "ON",
    "user_id",
    "INSERT",
    "INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE",
    "CREATE",
    "TABLE",
    "planned",
    "INDEX",
    "UNIQUE",
    "ALTER",
    "ADD",
    "COLUMN",
    "DROP",
    "WITH",
    "AS",
    "x",
    "bigint",
    "PRIMARY",
    "KEY",
    "REFERENCES",
    "countries",
    "settings",
    "EXPLAIN",
    "ROUTE",
    "COPY",
    "TO",
    "STDOUT",
    "STDIN",
    "BEGIN",
    "COMMIT",
    "AND",
    "CHAIN",
    "DECLARE",
    "CURSOR",
    "FOR",
    "FETCH",
    "c",
    "VACUUM",
    "GRANT",
    "ON",
    "REVOKE",
    "COMMENT",
    "IS",
    "NULL",
    "NOT",
    "EXISTS",
    "UNION",
    "ALL",
    "ONLY",
    "*",
    ".",
    "::",
    "[",
    "]",
    "OPERATOR",
    "pg_catalog",
    "LIMIT",
    "RETURNING",
    "USING",
    "DEFAULT",
    "SHOW",
    "RESET",
    "pgherd",
    "shard",
    "LOCAL",
    "ROLE",
    "TIME",
    "ZONE",
    "LISTEN",
    "PREPARE",
    "VIEW",
    "U&\"a\"",
    "UESCAPE",
    "E'\\n'",
    "$$a$$",
    "-",
    "--\n",
    "/* pgherd: shard=s1 */",
    "OVERRIDING",
    "USER",
    "VALUE",
    "CONFLICT",
    "DO",
    "NOTHING",
    "LATERAL",
    "BETWEEN",
    "SYMMETRIC",
    "UPDATE",
    "NO",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_words_are_planned_or_refused_without_a_panic(
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..30),
    ) {
        let sql = words.join(" ");
        let catalog = catalog();
        let path = ["public".into()];
        let planner = Planner::new(16);
        for sharding in shardings() {
            let mut context = support::context(catalog, sharding, &path, &[]);
            let first = planner.plan(sql.as_bytes(), &context);
            let second = planner.plan(sql.as_bytes(), &context);
            match (first, second) {
                (Ok(first), Ok(second)) => prop_assert_eq!(first.plan, second.plan),
                (Err(first), Err(second)) => prop_assert_eq!(first, second),
                _ => prop_assert!(false, "planned once and refused once: {}", sql),
            }
            context.named_shard = true;
            let _ = planner.plan(sql.as_bytes(), &context);
        }
    }

    #[test]
    fn any_bytes_are_planned_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let path = ["public".into()];
        let context = support::context(catalog(), &shardings()[0], &path, &[]);
        let _ = Planner::new(16).plan(&bytes, &context);
    }
}

fn catalog() -> &'static pgherd_topology::Catalog {
    static CATALOG: std::sync::OnceLock<pgherd_topology::Catalog> = std::sync::OnceLock::new();
    CATALOG.get_or_init(support::catalog)
}

fn shardings() -> &'static [Sharding; 2] {
    static SHARDINGS: std::sync::OnceLock<[Sharding; 2]> = std::sync::OnceLock::new();
    SHARDINGS.get_or_init(|| [support::sharding(), support::unsharded()])
}
