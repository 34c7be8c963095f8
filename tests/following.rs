//! What follows a client from one server connection to the next: settings, prepared statements, and nothing of anybody else's.
//!
//! Several clients share a pool's connections, and each must hear what it would hear from a Postgres of its own.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use pgherd_tests::asking::unsharded;
use pgherd_tests::beside::{Beside, Talk};
use pgherd_tests::wire::{
    RawClient, bind, close, describe, execute, flush, parse, query, sync, unnamed,
};
use pgherd_tests::{Cluster, TestCluster, sqlstate};

/// Talks with their names.
type Talks = Vec<(&'static str, Talk)>;

fn show(name: &str) -> BytesMut {
    query(&format!("SHOW {name}"))
}

/// What SET does, in and out of transactions.
fn settings() -> Talks {
    vec![
        (
            "a setting holds, and RESET takes it back",
            Talk::new()
                .ready([query("SET work_mem = '5MB'")])
                .ready([show("work_mem")])
                .ready([query("SET work_mem TO DEFAULT")])
                .ready([show("work_mem")]),
        ),
        (
            "a rolled back SET is undone",
            Talk::new()
                .ready([query("SET datestyle = 'German'")])
                .ready([query("BEGIN")])
                .ready([query("SET datestyle = 'SQL, DMY'")])
                .ready([show("datestyle")])
                .ready([query("ROLLBACK")])
                .ready([show("datestyle")])
                .ready([query("SELECT '2024-02-01'::date")]),
        ),
        (
            "a SET in a query string that fails is undone",
            Talk::new()
                .ready([query("SET work_mem = '6MB'; SELECT 1/0")])
                .ready([show("work_mem")])
                .ready([query("SET work_mem = '6MB'; COMMIT; SET work_mem = '7MB'; SELECT 1/0")])
                .ready([show("work_mem")]),
        ),
        (
            "a SET in a pipeline that fails is undone",
            Talk::new()
                .ready([unnamed("SET work_mem = '6MB'"), unnamed("SELECT 1/0"), sync()])
                .ready([show("work_mem")])
                .ready([unnamed("SET work_mem = '6MB'"), sync()])
                .ready([show("work_mem")]),
        ),
        (
            "BEGIN in a query string takes in what came before it",
            Talk::new()
                .ready([query("SET work_mem = '6MB'; BEGIN; SET work_mem = '8MB'")])
                .ready([show("work_mem")])
                .ready([query("ROLLBACK")])
                .ready([show("work_mem")]),
        ),
        (
            "a savepoint brings settings back",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("SET work_mem = '6MB'")])
                .ready([query("SAVEPOINT a")])
                .ready([query("SET work_mem = '7MB'")])
                .ready([query("SET LOCAL timezone = 'Europe/Berlin'")])
                .ready([query("ROLLBACK TO a")])
                .ready([show("work_mem"), ])
                .ready([show("timezone")])
                .ready([query("COMMIT")])
                .ready([show("work_mem")]),
        ),
        (
            "SET LOCAL ends with its transaction",
            Talk::new()
                .ready([query("SET timezone = 'Asia/Tokyo'")])
                .ready([query("BEGIN")])
                .ready([query("SET LOCAL timezone = 'Europe/Berlin'")])
                .ready([show("timezone")])
                .ready([query("COMMIT")])
                .ready([show("timezone")]),
        ),
        (
            "DateStyle takes half of itself",
            Talk::new()
                .ready([query("SET datestyle = 'DMY'")])
                .ready([query("SET datestyle = 'SQL'")])
                .ready([show("datestyle")])
                .ready([query("SET datestyle = german")])
                .ready([show("datestyle")])
                .ready([query("SET datestyle = ISO, mdy")])
                .ready([query("SELECT '03/04/2024'::date")]),
        ),
        (
            "set_config is SET",
            Talk::new()
                .ready([query("SELECT set_config('work_mem', '9MB', false)")])
                .ready([show("work_mem")])
                .ready([query("SELECT pg_catalog.set_config('search_path', 'pg_catalog, \"A b\"', false)")])
                .ready([show("search_path")]),
        ),
        (
            "set_config beside other columns, with what a Bind gives, as a driver sends it around its own queries",
            Talk::new()
                .ready([query("SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new")])
                .ready([show("jit")])
                .ready([
                    parse("", "SELECT set_config('jit', $1, false)", &[]),
                    bind("", "", &["on"]),
                    execute("", 1),
                    sync(),
                ])
                .ready([show("jit")])
                .ready([
                    parse("c", "SELECT set_config($1, $2, $3)", &[]),
                    bind("", "c", &["work_mem", "6MB", "f"]),
                    execute("", 0),
                    bind("", "c", &["my.own", "x", "true"]),
                    execute("", 0),
                    sync(),
                ])
                .ready([show("work_mem")])
                .ready([query("SELECT coalesce(current_setting('my.own', true), '')")])
                .ready([close('S', "c"), sync()]),
        ),
        (
            "several calls of set_config, of which the last one counts",
            Talk::new()
                .ready([query("SELECT set_config('work_mem', '6MB'::text, 'f'), set_config('my.own', 'a' || 'b', false), set_config('work_mem', '7MB', NULL)")])
                .ready([show("work_mem")])
                .ready([show("my.own")])
                .ready([query("SELECT set_config('work_mem', NULL, false)")])
                .ready([show("work_mem")])
                .ready([query("SELECT set_config(NULL, 'x', false)")])
                .ready([query("SELECT set_config('work_mem', 'much', false)")])
                .ready([show("work_mem")]),
        ),
        (
            "set_config in transactions",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("SELECT set_config('work_mem', '6MB', false), set_config('timezone', 'Asia/Tokyo', true)")])
                .ready([show("timezone")])
                .ready([query("COMMIT")])
                .ready([show("timezone")])
                .ready([show("work_mem")])
                .ready([query("BEGIN")])
                .ready([query("SELECT set_config('work_mem', '8MB', false)")])
                .ready([query("ROLLBACK")])
                .ready([show("work_mem")])
                .ready([query("SELECT set_config('work_mem', '9MB', false); SELECT 1/0")])
                .ready([show("work_mem")]),
        ),
        (
            "defaults of transactions",
            Talk::new()
                .ready([query("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")])
                .ready([show("transaction_isolation")])
                .ready([query("INSERT INTO settings VALUES ('x', 'y')")])
                .ready([query("BEGIN READ WRITE; SHOW transaction_read_only; COMMIT")]),
        ),
        (
            "a setting that is refused changes nothing",
            Talk::new()
                .ready([query("SET work_mem = 'much'")])
                .ready([query("SET nothing_like_it = 1")])
                .ready([query("SET ROLE nobody_here")])
                .ready([show("work_mem")])
                .ready([query("SELECT current_user")]),
        ),
        (
            "RESET ALL",
            Talk::new()
                .ready([query("SET work_mem = '6MB'")])
                .ready([query("SET timezone = 'Asia/Tokyo'")])
                .ready([query("RESET ALL")])
                .ready([show("work_mem")])
                .ready([show("timezone")]),
        ),
    ]
}

/// Statements with names, of the protocol and of SQL.
fn statements() -> Talks {
    vec![
        (
            "a named statement is there until it is closed",
            Talk::new()
                .ready([
                    parse("s", "SELECT $1::int + 1", &[]),
                    describe('S', "s"),
                    sync(),
                ])
                .ready([bind("", "s", &["41"]), execute("", 0), sync()])
                .ready([parse("s", "SELECT 2", &[]), sync()])
                .ready([close('S', "s"), sync()])
                .ready([bind("", "s", &["41"]), execute("", 0), sync()])
                .ready([parse("s", "SELECT 2", &[]), sync()])
                .ready([bind("", "s", &[]), execute("", 0), sync()]),
        ),
        (
            "a Parse that is skipped prepares nothing",
            Talk::new()
                .ready([parse("a", "SELECT 7", &[]), sync()])
                .ready([
                    unnamed("SELECT 1/0"),
                    parse("b", "SELECT 7", &[]),
                    parse("c", "SELECT 8", &[]),
                    sync(),
                ])
                .ready([bind("", "b", &[]), execute("", 0), sync()])
                .ready([bind("", "c", &[]), execute("", 0), sync()])
                .ready([bind("", "a", &[]), execute("", 0), sync()]),
        ),
        (
            "literals are read again under another search path, by the settings of then",
            ["DMY", "MDY", "DMY"]
                .into_iter()
                .fold(Talk::new(), |talk, order| {
                    talk.ready([query(
                        "SET search_path = public; SET datestyle = 'ISO, MDY'",
                    )])
                    .ready([
                        parse("d", "SELECT '01/02/2024'::date::text, 'x'", &[]),
                        query("PREPARE p AS SELECT '01/02/2024'::date::text, 'y'"),
                    ])
                    .ready([parse("e", "EXECUTE p", &[]), sync()])
                    .ready([query(&format!(
                        "SET search_path = public, pg_catalog; SET datestyle = 'ISO, {order}'"
                    ))])
                    .ready([bind("", "d", &[]), execute("", 0), sync()])
                    .ready([bind("", "e", &[]), execute("", 0), sync()])
                    .ready([query("SET datestyle = 'ISO, YMD'")])
                    .ready([bind("", "d", &[]), execute("", 0), sync()])
                    .ready([query("EXECUTE p")])
                    .ready([query("DEALLOCATE ALL")])
                }),
        ),
        (
            "literals are read when they are parsed",
            Talk::new()
                .ready([query("SET datestyle = 'SQL, DMY'")])
                .ready([
                    parse("d", "SELECT '01/02/2024'::date::text, $1::int", &[]),
                    sync(),
                ])
                .ready([query("SET datestyle = 'ISO, MDY'")])
                .ready([bind("", "d", &["1"]), execute("", 0), sync()])
                .ready([
                    parse("e", "SELECT '01/02/2024'::date::text, $1::int", &[]),
                    sync(),
                ])
                .ready([bind("", "e", &["1"]), execute("", 0), sync()])
                .ready([bind("", "d", &["1"]), execute("", 0), sync()]),
        ),
        (
            "PREPARE, EXECUTE and DEALLOCATE",
            Talk::new()
                .ready([query("PREPARE p (int) AS SELECT $1 + 1")])
                .ready([query("EXECUTE p(1)")])
                .ready([query("PREPARE p AS SELECT 1")])
                .ready([query("EXECUTE p(2); EXECUTE p(3)")])
                .ready([bind("", "p", &["5"]), execute("", 0), sync()])
                .ready([query("DEALLOCATE p")])
                .ready([query("EXECUTE p(1)")])
                .ready([query("DEALLOCATE p")])
                .ready([query(
                    "PREPARE \"Q q\" AS SELECT 9; EXECUTE \"Q q\"; DEALLOCATE PREPARE \"Q q\"",
                )])
                .ready([query("EXECUTE \"Q q\"")]),
        ),
        (
            "SQL executes what the protocol prepared",
            Talk::new()
                .ready([parse("x", "SELECT $1::text || '!'", &[]), sync()])
                .ready([query("EXECUTE x('a')")])
                .ready([query("DEALLOCATE ALL")])
                .ready([query("EXECUTE x('a')")])
                .ready([bind("", "x", &["a"]), sync()]),
        ),
        (
            "PREPARE by the extended protocol",
            Talk::new()
                .ready([unnamed("PREPARE p (int) AS SELECT $1 + 1"), sync()])
                .ready([unnamed("EXECUTE p(1)"), sync()])
                .ready([parse("n", "EXECUTE p(4)", &[]), sync()])
                .ready([bind("", "n", &[]), execute("", 0), sync()])
                .ready([unnamed("DEALLOCATE p"), sync()])
                .ready([query("EXECUTE p(1)")]),
        ),
        (
            "a statement that fails to parse in a block, found by Flush",
            Talk::new()
                .ready([query("BEGIN")])
                .quiet([
                    parse("s", "SELECT nothing", &[]),
                    describe('S', "s"),
                    flush(),
                ])
                .ready([sync()])
                .ready([query("ROLLBACK")])
                .ready([query("SELECT 1")]),
        ),
        (
            "a portal that is closed in the pipeline that bound it, twice",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([
                    parse("", "SELECT 7", &[]),
                    bind("p", "", &[]),
                    execute("p", 0),
                    close('P', "p"),
                    sync(),
                ])
                .ready([
                    parse("", "SELECT 8", &[]),
                    bind("p", "", &[]),
                    execute("p", 0),
                    close('P', "p"),
                    sync(),
                ])
                .ready([query("COMMIT")]),
        ),
        (
            "a statement that is parsed in a block, as by Flush, and then run",
            Talk::new()
                .ready([query("BEGIN")])
                .quiet([
                    parse(
                        "f",
                        "UPDATE settings SET value = $1 WHERE name = 'none'",
                        &[],
                    ),
                    describe('S', "f"),
                    flush(),
                ])
                .ready([bind("", "f", &["v"]), execute("", 0), sync()])
                .ready([query("COMMIT")])
                .ready([close('S', "f"), sync()]),
        ),
        (
            "code that deallocates takes nothing from who prepared",
            Talk::new()
                .ready([
                    parse("k", "SELECT 11", &[]),
                    parse("l", "SELECT 12", &[]),
                    sync(),
                ])
                .ready([bind("", "k", &[]), execute("", 0), sync()])
                .ready([bind("", "l", &[]), execute("", 0), sync()])
                .ready([query("DO $$ BEGIN EXECUTE 'EXECUTE nothing_here'; END $$")])
                .ready([bind("", "k", &[]), execute("", 0), sync()])
                .ready([bind("", "l", &[]), execute("", 0), sync()]),
        ),
        (
            "a definition changes what a statement returns",
            Talk::new()
                .ready([query("CREATE TABLE changing (a int)")])
                .ready([
                    parse("c", "SELECT * FROM changing", &[]),
                    describe('S', "c"),
                    sync(),
                ])
                .ready([bind("", "c", &[]), execute("", 0), sync()])
                .ready([query("ALTER TABLE changing ADD b text")])
                .ready([bind("", "c", &[]), execute("", 0), sync()])
                .ready([query("DROP TABLE changing")]),
        ),
        (
            "DISCARD ALL",
            Talk::new()
                .ready([query("SET work_mem = '6MB'")])
                .ready([parse("s", "SELECT 1", &[]), sync()])
                .ready([query("DISCARD ALL")])
                .ready([show("work_mem")])
                .ready([bind("", "s", &[]), sync()]),
        ),
    ]
}

/// PREPARE TRANSACTION, which ends a block as COMMIT does, and a failed one as ROLLBACK does.
fn prepared_transactions() -> Talks {
    let prepared = || query("SELECT count(*) FROM pg_prepared_xacts");
    vec![
        (
            "PREPARE TRANSACTION of a failed block",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("SELECT 1/0")])
                .ready([query("PREPARE TRANSACTION 'failed'")])
                .ready([prepared()])
                .ready([query("BEGIN")])
                .ready([unnamed("SELECT 1/0"), sync()])
                .ready([unnamed("PREPARE TRANSACTION 'failed'"), sync()])
                .ready([prepared()]),
        ),
        (
            "PREPARE TRANSACTION without a block",
            Talk::new()
                .ready([query("PREPARE TRANSACTION 'none'")])
                .ready([unnamed("PREPARE TRANSACTION 'none'"), sync()])
                .ready([prepared()]),
        ),
        (
            "PREPARE TRANSACTION of an empty block",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("PREPARE TRANSACTION 'empty'")])
                .ready([prepared()])
                .ready([query("BEGIN")])
                .ready([query("PREPARE TRANSACTION 'empty'")])
                .ready([query("ROLLBACK PREPARED 'empty'")]),
        ),
        (
            "settings of a block that is prepared hold",
            Talk::new()
                .ready([query("SET work_mem = '6MB'")])
                .ready([query("BEGIN")])
                .ready([query("SET work_mem = '8MB'")])
                .ready([query("INSERT INTO settings VALUES ('prepared', 'x')")])
                .ready([query("PREPARE TRANSACTION 'set'")])
                .ready([show("work_mem")])
                .ready([query("COMMIT PREPARED 'set'")])
                .ready([query("DELETE FROM settings")]),
        ),
    ]
}

/// Names that are wrong, or come to stand for something else, within pipelines: each message is answered in its turn.
fn names_in_pipelines() -> Talks {
    vec![
        (
            "a name that stands for nothing fails in its turn",
            Talk::new()
                .ready([
                    unnamed("SELECT 1"),
                    unnamed("EXECUTE nothing"),
                    unnamed("SELECT 2"),
                    sync(),
                ])
                .ready([unnamed("SELECT 1"), unnamed("DEALLOCATE nothing"), sync()])
                .ready([query("BEGIN")])
                .ready([unnamed("SELECT 1"), unnamed("EXECUTE nothing"), sync()])
                .ready([query("SELECT 3")])
                .ready([query("ROLLBACK")])
                .ready([query("SELECT 4")]),
        ),
        (
            "what one message prepares, the next one executes",
            Talk::new()
                .ready([
                    unnamed("PREPARE q AS SELECT 5"),
                    unnamed("EXECUTE q"),
                    unnamed("PREPARE q AS SELECT 6"),
                    unnamed("SELECT 7"),
                    sync(),
                ])
                .ready([unnamed("EXECUTE q"), sync()])
                .ready([
                    unnamed("DEALLOCATE q"),
                    unnamed("PREPARE q AS SELECT 8"),
                    unnamed("EXECUTE q"),
                    unnamed("DEALLOCATE q"),
                    unnamed("DEALLOCATE q"),
                    sync(),
                ])
                .ready([query("EXECUTE q")]),
        ),
        (
            "EXECUTE is parsed before what it names is prepared, and after that has changed",
            Talk::new()
                .ready([parse("later", "EXECUTE r(1)", &[]), sync()])
                .ready([bind("", "later", &[]), execute("", 0), sync()])
                .ready([query("PREPARE r(int) AS SELECT $1 + 10")])
                .ready([
                    bind("", "later", &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ])
                .ready([query("DEALLOCATE r")])
                .ready([query("PREPARE r(text) AS SELECT $1 || '!'")])
                .ready([bind("", "later", &[]), execute("", 0), sync()])
                .ready([query("DEALLOCATE r")])
                .ready([close('S', "later"), sync()]),
        ),
        (
            "as many arguments as parameters",
            Talk::new()
                .ready([query("PREPARE n(int, text) AS SELECT $1")])
                .ready([query("EXECUTE n(1)")])
                .ready([query("EXECUTE n")])
                .ready([unnamed("SELECT 1"), unnamed("EXECUTE n(1, 'a', 2)"), sync()])
                .ready([query("EXECUTE n(-1, NULL)")])
                .ready([bind("", "n", &["3", "x"]), execute("", 0), sync()])
                .ready([query("DEALLOCATE n")]),
        ),
    ]
}

/// Prepared statements within others.
fn executed_within() -> Talks {
    vec![(
        "EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE",
        Talk::new()
            .ready([query("PREPARE w(int) AS SELECT $1 AS a")])
            .ready([query("EXPLAIN (COSTS OFF) EXECUTE w(1)")])
            .ready([query("CREATE TABLE made AS EXECUTE w(3)")])
            .ready([query("SELECT * FROM made")])
            .ready([query("DROP TABLE made")])
            .ready([query("EXPLAIN EXECUTE nothing")])
            .ready([query("DEALLOCATE w")]),
    )]
}

/// What a prepared statement does that is more than answering.
fn effects_of_execute() -> Talks {
    vec![(
        "a prepared set_config is SET",
        Talk::new()
            .ready([query(
                "PREPARE c(text) AS SELECT set_config('work_mem', $1, false)",
            )])
            .ready([query("EXECUTE c('6MB')")])
            .ready([show("work_mem")])
            .ready([query("BEGIN")])
            .ready([query("EXECUTE c('7MB')")])
            .ready([query("ROLLBACK")])
            .ready([show("work_mem")])
            .ready([unnamed("EXECUTE c('8' || 'MB')"), sync()])
            .ready([show("work_mem")])
            .ready([query(
                "DEALLOCATE c; PREPARE c AS SELECT set_config('work_mem', '9MB', false); EXECUTE c",
            )])
            .ready([show("work_mem")]),
    )]
}

/// Statements whose arguments decide where they go.
fn statements_over_shards() -> Talks {
    vec![
        (
            "what is prepared goes where its arguments say",
            Talk::new()
                .ready([query(
                    "PREPARE i (bigint, text) AS INSERT INTO users VALUES ($1, $2)",
                )])
                .ready([query("EXECUTE i(101, 'one')")])
                .ready([query("EXECUTE i('102', 'two')")])
                .ready([unnamed("EXECUTE i(-103, NULL)"), sync()])
                .ready([query("PREPARE u AS SELECT name FROM users WHERE id = $1")])
                .ready([query("EXECUTE u(101)")])
                .ready([query("EXECUTE u(102)")])
                .ready([query("EXECUTE u(-103)")])
                .ready([unnamed("EXECUTE u(101)"), sync()])
                .ready([
                    parse("s", "EXECUTE u(102)", &[]),
                    describe('S', "s"),
                    sync(),
                ])
                .ready([
                    bind("", "s", &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ])
                .ready([bind("", "u", &["101"]), execute("", 0), sync()])
                .ready([query("BEGIN")])
                .ready([query("EXECUTE u(101)")])
                .ready([query("EXECUTE u(102)")])
                .ready([query("EXECUTE i(101, 'again')")])
                .ready([query("EXECUTE u(101)")])
                .ready([query("ROLLBACK")])
                .ready([query("EXECUTE u(101); EXECUTE u(101)")])
                .ready([query(
                    "PREPARE d AS DELETE FROM users WHERE id = $1; EXECUTE d(101)",
                )])
                .ready([query("EXECUTE d(102)")])
                .ready([query("EXECUTE d(-103)")])
                .ready([query("DEALLOCATE ALL")])
                .ready([query("EXECUTE u(101)")]),
        ),
        (
            "reference tables and those of the home shard",
            Talk::new()
                .ready([query("PREPARE c AS INSERT INTO countries VALUES ($1, $2)")])
                .ready([query("EXECUTE c('de', 'Germany')")])
                .ready([query("EXECUTE c('de', 'again')")])
                .ready([query("PREPARE g AS SELECT * FROM countries")])
                .ready([query("EXECUTE g")])
                .ready([unnamed("EXECUTE g"), sync()])
                .ready([query(
                    "PREPARE h AS SELECT count(*) FROM settings WHERE name = $1",
                )])
                .ready([query("EXECUTE h('none')")])
                .ready([query("DELETE FROM countries")])
                .ready([query("DEALLOCATE ALL")]),
        ),
        (
            "SQL executes what the protocol prepared, on any shard",
            Talk::new()
                .ready([
                    parse("x", "SELECT count(*) FROM users WHERE id = $1", &[20]),
                    sync(),
                ])
                .ready([query("EXECUTE x(1)")])
                .ready([query("EXECUTE x(2)")])
                .ready([query("EXECUTE x(3)")])
                .ready([query("EXECUTE x(1, 2)")])
                .ready([query("DEALLOCATE x")]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_of_sql_go_where_they_belong() {
    let beside = Beside::sharded().await;
    let mut differences = String::new();
    for _ in 0..2 {
        let talks = statements_over_shards().into_iter();
        for (name, talk) in talks.chain(names_in_pipelines()) {
            if let Some(difference) = beside.difference(name, &talk, false).await {
                differences.push_str(&difference);
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_statements_are_as_on_a_postgres_of_ones_own() {
    let beside = Beside::unsharded().await;
    let mut differences = String::new();
    // twice: the second time the connections have all that the first one left
    for _ in 0..2 {
        let talks = settings().into_iter().chain(statements());
        let talks = talks.chain(names_in_pipelines()).chain(executed_within());
        for (name, talk) in talks
            .chain(effects_of_execute())
            .chain(prepared_transactions())
        {
            if let Some(difference) = beside.difference(name, &talk, false).await {
                differences.push_str(&difference);
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// What one of several clients does next. Everything that it says is answered by one ReadyForQuery.
fn random_step(random: &mut Random, state: &mut ClientState) -> BytesMut {
    const SETTINGS: [(&str, [&str; 3]); 8] = [
        ("work_mem", ["'3MB'", "4096", "'5MB'"]),
        ("timezone", ["'Europe/Berlin'", "'UTC'", "-7"]),
        ("datestyle", ["'DMY'", "'SQL'", "'ISO, MDY'"]),
        (
            "search_path",
            ["public, pg_catalog", "'public'", "\"$user\", public"],
        ),
        ("my.own", ["'a'", "'it''s'", "'c\\d'"]),
        ("extra_float_digits", ["0", "1", "3"]),
        ("bytea_output", ["hex", "escape", "'hex'"]),
        ("application_name", ["'one'", "'two'", "three"]),
    ];
    let (name, values) = SETTINGS[random.below(SETTINGS.len())];
    let value = values[random.below(values.len())];
    let statement = format!("s{}", random.below(4));
    const CALLED: [(&str, [&str; 3]); 5] = [
        ("work_mem", ["'3MB'", "'4096'", "NULL"]),
        ("timezone", ["'Europe/Berlin'", "'UTC'::text", "'-7'"]),
        ("datestyle", ["'DMY'", "'SQL'", "'ISO, ' || 'MDY'"]),
        (
            "search_path",
            ["'public, pg_catalog'", "'public'", "'\"$user\", public'"],
        ),
        ("my.own", ["'a'", "'it''s'", "upper('b')"]),
    ];
    let (called, given) = CALLED[random.below(CALLED.len())];
    let given = given[random.below(given.len())];
    let is_local = ["false", "true", "'f'"][random.below(3)];
    match random.below(31) {
        0..=4 => query(&format!("SET {name} = {value}")),
        5 => unnamed_and_sync(&format!("SET {name} TO {value}")),
        6 => query(&format!("SET LOCAL {name} = {value}")),
        7 => query(&format!("RESET {name}")),
        8 => query(["RESET ALL", "DISCARD ALL", "RESET ALL"][random.below(3)]),
        9 => query(&format!("SET {name} = {value}; SELECT 1/0")),
        10 => query(if state.in_block { "COMMIT" } else { "BEGIN" }),
        11 => query(if state.in_block { "ROLLBACK" } else { "BEGIN" }),
        12 => query(["SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"][random.below(3)]),
        13 => joined([
            parse(
                &statement,
                "SELECT '01/02/2024'::date::text, '1 12:00'::interval::text, $1::text",
                &[],
            ),
            describe('S', &statement),
            sync(),
        ]),
        14 | 15 => joined([bind("", &statement, &["x"]), execute("", 0), sync()]),
        16 => joined([close('S', &statement), sync()]),
        17 => query(&format!(
            "PREPARE {statement} AS SELECT now() > '01/02/2024'::date, $1::text"
        )),
        18 => query(&format!("EXECUTE {statement} ('y')")),
        19 => query(&format!("DEALLOCATE {statement}")),
        26 => joined([
            unnamed("SELECT 1"),
            unnamed(&format!("DEALLOCATE {statement}")),
            unnamed(&format!(
                "PREPARE {statement} AS SELECT '01/02/2024'::date::text, $1::text"
            )),
            unnamed(&format!("EXECUTE {statement} ('z')")),
            sync(),
        ]),
        27 => joined([unnamed(&format!("EXECUTE {statement} ('w')")), sync()]),
        20 => query("SET ROLE other"),
        21 => query(&format!(
            "SELECT set_config('{called}', {given}, {is_local})"
        )),
        22 => query(&format!(
            "SELECT coalesce(current_setting('{called}', true), ''), set_config('{called}', {given}, {is_local}) AS new"
        )),
        23 => joined([
            parse("", "SELECT set_config($1, $2, $3), 1", &[]),
            bind("", "", &["work_mem", "5MB", is_local.trim_matches('\'')]),
            execute("", 0),
            sync(),
        ]),
        24 => query(NEXTVAL),
        25 if state.drew => query("SELECT currval('numbers'), lastval()"),
        25 => query("SELECT setval('numbers', nextval('numbers') + 2)"),
        _ => query(
            "SELECT current_user, current_setting('work_mem'), current_setting('timezone'), current_setting('datestyle'), \
             current_setting('search_path'), coalesce(current_setting('my.own', true), ''), current_setting('extra_float_digits'), \
             current_setting('bytea_output'), current_setting('application_name')",
        ),
    }
}

fn joined(parts: impl IntoIterator<Item = BytesMut>) -> BytesMut {
    parts.into_iter().fold(BytesMut::new(), |mut all, part| {
        all.extend_from_slice(&part);
        all
    })
}

fn unnamed_and_sync(sql: &str) -> BytesMut {
    joined([unnamed(sql), sync()])
}

/// Draws a number.
const NEXTVAL: &str = "SELECT nextval('numbers')";

#[derive(Debug, Default)]
struct ClientState {
    in_block: bool,
    /// Whether it has drawn a number in its block: what `currval` says outside of one depends on the connection.
    drew: bool,
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % bound
    }
}

/// What matters of an answer: not when a parameter was reported.
async fn answer(client: &mut RawClient, said: &[u8]) -> Vec<String> {
    client.send(said).await;
    let messages = client.until_ready().await;
    messages
        .iter()
        .filter(|message| message.tag != b'S' && message.tag != b'N')
        .map(|message| match message.tag {
            b'E' => format!("E {:?}", message.field(b'C')),
            b'T' => "T".to_owned(),
            tag => format!("{} {}", char::from(tag), message.body.escape_ascii()),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_on_few_connections_hear_each_what_a_postgres_of_its_own_says() {
    const CLIENTS: usize = 5;
    const STEPS: usize = 1500;
    let seed = std::env::var("SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    let beside = Beside::unsharded().await;
    beside
        .sql_on_both(
            "CREATE ROLE other; GRANT other TO app; CREATE SEQUENCE numbers; GRANT ALL ON SEQUENCE numbers TO PUBLIC",
        )
        .await;
    let mut random = Random(seed);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push((
            RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await,
            RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await,
            ClientState::default(),
            Vec::<String>::new(),
        ));
    }
    for step in 0..STEPS {
        let (plain, ours, state, history) = &mut clients[random.below(CLIENTS)];
        let said = random_step(&mut random, state);
        history.push(said.escape_ascii().to_string());
        let (expected, got) = (answer(plain, &said).await, answer(ours, &said).await);
        let recent = history.len().saturating_sub(25);
        assert_eq!(
            got,
            expected,
            "step {step} of seed {seed}:\n{}",
            history[recent..].join("\n")
        );
        let ready = expected.last().map_or("", String::as_str);
        state.in_block = ready != "Z I";
        state.drew &= state.in_block;
        state.drew |= ready == "Z T" && said == query(NEXTVAL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_of_the_startup_message_hold_and_nobody_else_is_authorized() {
    let cluster = TestCluster::new().shop().start().await;
    let url = format!("{}?options=-c%20pgherd.shard%3Ds1", cluster.url("app"));
    let client = cluster.try_connect(&url).await.unwrap();
    let shown = client.query_one("SHOW pgherd.shard", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "s1");
    let refused = client
        .batch_execute("SET SESSION AUTHORIZATION app")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    let url = format!("{}?options=-c%20pgherd.shard%3Ds9", cluster.url("app"));
    let refused = cluster.try_connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "22023");
}

/// `"$user"` is the schema of the role in force, where a table may have the name of one that is sharded elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_role_comes_first_while_it_is_in_force() {
    let beside = Beside::sharded().await;
    beside
        .sql_on_both(
            "CREATE ROLE other; GRANT other TO app; GRANT ALL ON users TO other; \
             CREATE SCHEMA app AUTHORIZATION app; CREATE TABLE app.users (id bigint, name text); ALTER TABLE app.users OWNER TO app; \
             CREATE SCHEMA other AUTHORIZATION other; CREATE TABLE other.users (id bigint, name text); ALTER TABLE other.users OWNER TO other",
        )
        .await;
    // a name that is not known makes the catalog be read
    let mut talk = Talk::new().ready([query("SELECT name FROM app.users")]);
    for (role, whose) in [
        ("ROLE other", "its"),
        ("ROLE none", "mine"),
        ("ROLE other", "its"),
        ("SESSION AUTHORIZATION DEFAULT", "mine"),
        ("ROLE other", "its"),
    ] {
        talk = talk.ready([query(&format!("SET {role}"))]);
        for id in 1..=6 {
            talk = talk
                .ready([query(&format!(
                    "INSERT INTO users VALUES ({id}, '{whose}')"
                ))])
                .ready([query(&format!("SELECT name FROM users WHERE id = {id}"))]);
        }
    }
    talk = talk
        .ready([query("RESET ROLE")])
        .ready([query("SELECT count(*) FROM users")])
        .ready([query("SELECT count(*) FROM public.users WHERE id = 1")]);
    // within one pipeline what follows a SET is read under it
    talk = talk
        .ready([query("BEGIN")])
        .ready([query("SELECT count(*) FROM app.users")]);
    for (path, id) in [("other", 2), ("app", 2), ("other", 3)] {
        talk = talk.ready([
            unnamed(&format!("SET search_path = {path}")),
            unnamed(&format!(
                "SELECT count(*), min(name) FROM users WHERE id = {id}"
            )),
            sync(),
        ]);
    }
    talk = talk.ready([query("ROLLBACK")]);
    let difference = beside.difference("roles", &talk, false).await;
    assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    let mut client = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    let mut plain = RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await;
    for (path, id) in [
        ("public", 2),
        ("app", 2),
        ("other", 2),
        ("public", 3),
        ("app", 3),
    ] {
        let said = joined([
            unnamed(&format!("SET search_path = {path}")),
            unnamed(&format!("SELECT count(*) FROM users WHERE id = {id}")),
            sync(),
        ]);
        let (expected, got) = (
            answer(&mut plain, &said).await,
            answer(&mut client, &said).await,
        );
        // the SET may have gone to another shard
        let refused = got.iter().any(|line| line.contains("0A000"));
        assert!(
            got == expected || refused,
            "{path}: {got:?}, and not {expected:?}"
        );
    }
    answer(&mut client, &query("RESET ALL")).await;
    // a query string is planned as a whole
    for (before, refused) in [
        (
            "",
            "SET search_path = public; SELECT name FROM users WHERE id = 2",
        ),
        (
            "SET search_path = public",
            "SELECT 1; RESET ALL; SELECT name FROM users WHERE id = 2",
        ),
        (
            "RESET ALL",
            "SET LOCAL search_path = public; INSERT INTO users VALUES (2, 'x')",
        ),
        (
            "",
            "SET search_path = other; COMMIT; SELECT name FROM users WHERE id = 2",
        ),
        (
            "PREPARE named AS SELECT name FROM users WHERE id = 2",
            "SET search_path = public; EXECUTE named",
        ),
        (
            "",
            "SELECT set_config('role', 'other', false); SELECT name FROM users WHERE id = 2",
        ),
        (
            "BEGIN; SET LOCAL search_path = public",
            "COMMIT; SELECT name FROM users WHERE id = 2",
        ),
        (
            "BEGIN; SET search_path = public",
            "ROLLBACK; SELECT name FROM users WHERE id = 2",
        ),
    ] {
        answer(&mut client, &query(before)).await;
        let answers = answer(&mut client, &query(refused)).await;
        assert!(answers[0].contains("0A000"), "{refused}: {answers:?}");
        answer(&mut client, &query("ROLLBACK")).await;
    }
    for passed in [
        "BEGIN; SET LOCAL search_path = app; SET LOCAL timezone = 'UTC'",
        "COMMIT; BEGIN",
        "COMMIT",
        "SET work_mem = '3MB'; SELECT name FROM public.users WHERE id = 2",
        "SELECT name FROM public.users WHERE id = 2; RESET ALL",
        "SET search_path = app; SELECT name FROM public.users WHERE id = 2",
        "SET timezone = 'Asia/Tokyo'; SELECT name FROM users WHERE id = 2",
        "BEGIN; SET LOCAL timezone = 'Asia/Tokyo'; INSERT INTO users VALUES (2, 'x'); COMMIT",
        // as pools clean a connection
        "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES",
    ] {
        let answers = answer(&mut client, &query(passed)).await;
        assert!(
            !answers.iter().any(|line| line.starts_with('E')),
            "{passed}: {answers:?}"
        );
    }
}

/// EXECUTE is held to a shard that is named as its statement would be.
#[tokio::test(flavor = "multi_thread")]
async fn execute_goes_to_the_shard_that_is_named_but_never_misplaces_a_row() {
    let cluster = TestCluster::new().shards(2).shop().start().await;
    let client = cluster.connect("app").await;
    let prepare = "PREPARE i (bigint) AS INSERT INTO users (id) VALUES ($1); \
                   PREPARE c AS SELECT count(*) FROM users";
    for statement in prepare.split("; ") {
        // tables that lie on several shards are counted where one is named only
        let done = client.batch_execute(statement).await;
        assert_eq!(done.is_err(), statement.contains("count"), "{statement}");
    }
    let home = cluster
        .trace(&client, "EXECUTE i(1)")
        .await
        .unwrap()
        .servers[0]
        .clone();
    let other = if home == "s0a" { "s1" } else { "s0" };
    client
        .batch_execute(&format!("SET pgherd.shard = '{other}'"))
        .await
        .unwrap();
    client
        .batch_execute("PREPARE c AS SELECT count(*) FROM users")
        .await
        .unwrap();
    let counted = cluster.trace(&client, "EXECUTE c").await.unwrap();
    assert_eq!(counted.servers, [format!("{other}a")]);
    assert_eq!(counted.rows, [["0"]]);
    for misplaced in ["EXECUTE i(1)", "EXECUTE i(0 + 1)"] {
        let refused = client.batch_execute(misplaced).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "0A000", "{misplaced}");
    }
    client.batch_execute("RESET pgherd.shard").await.unwrap();
    for refused in ["EXECUTE c", "EXECUTE i(0 + 2)"] {
        let refused = client.batch_execute(refused).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "0A000");
    }
    let again = client.batch_execute("EXECUTE i(1)").await.unwrap_err();
    assert_eq!(sqlstate(&again), "23505");
}

/// The protocol can prepare an EXECUTE, which SQL cannot.
#[tokio::test(flavor = "multi_thread")]
async fn execute_of_an_execute_is_refused_and_breaks_nothing() {
    let beside = Beside::unsharded().await;
    let mut client = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    answer(&mut client, &query("PREPARE inner_one AS SELECT 7")).await;
    let outer = joined([parse("outer_one", "EXECUTE inner_one", &[]), sync()]);
    answer(&mut client, &outer).await;
    for said in [
        query("EXECUTE outer_one"),
        unnamed_and_sync("EXECUTE outer_one"),
        query("SELECT 1; EXECUTE outer_one"),
        query("EXPLAIN EXECUTE outer_one"),
    ] {
        let answers = answer(&mut client, &said).await;
        assert!(
            answers.contains(&"E Some(\"0A000\")".to_owned()),
            "{}: {answers:?}",
            said.escape_ascii()
        );
        let run = joined([bind("", "outer_one", &[]), execute("", 0), sync()]);
        let answers = answer(&mut client, &run).await;
        assert!(answers[1].ends_with('7'), "{answers:?}");
    }
}

/// A client that is told of the columns with each execution does not hear of a definition that changed them, as it had its own statement made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_made_anew_for_who_asks_for_its_columns() {
    let beside = Beside::unsharded().await;
    let mut client = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    answer(&mut client, &query("CREATE TABLE changing (a int)")).await;
    let prepare = joined([parse("c", "SELECT * FROM changing", &[]), sync()]);
    answer(&mut client, &prepare).await;
    let run = joined([
        bind("", "c", &[]),
        describe('P', ""),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer(&mut client, &run).await.len(), 4);
    // not through pgherd, which is then told of it later
    beside
        .sql_on_both("CREATE TABLE IF NOT EXISTS changing (a int)")
        .await;
    beside.sql_on_both("ALTER TABLE changing ADD b text").await;
    let answers = answer(&mut client, &run).await;
    assert_eq!(answers.last().unwrap(), "Z I");
    assert!(
        !answers.iter().any(|line| line.starts_with('E')),
        "{answers:?}"
    );
}

/// Servers know a shared statement by a name that no client has chosen.
#[tokio::test(flavor = "multi_thread")]
async fn errors_name_a_statement_as_its_client_does() {
    let beside = Beside::unsharded().await;
    let mut client = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    let prepare = joined([parse("few", "SELECT $1::int + 31", &[]), sync()]);
    answer(&mut client, &prepare).await;
    answer(&mut client, &query("PREPARE less AS SELECT $1::int + 32")).await;
    let wrong = [
        (
            joined([bind("", "few", &[]), execute("", 0), sync()]),
            "bind message supplies 0 parameters, but prepared statement \"few\" requires 1",
        ),
        (
            query("EXECUTE less"),
            "wrong number of parameters for prepared statement \"less\"",
        ),
    ];
    for (said, words) in wrong {
        client.send(&said).await;
        let answers = client.until_ready().await;
        let error = answers.iter().find(|message| message.tag == b'E');
        assert_eq!(error.unwrap().field(b'M').as_deref(), Some(words));
    }
}

/// DEALLOCATE ALL by code that is not read: what clients have prepared is made anew, one statement and the other.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_code_has_deallocated_are_made_anew() {
    let beside = Beside::unsharded().await;
    let mut client = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    let run = |name: &str| joined([bind("", name, &[]), execute("", 0), sync()]);
    for (name, sql) in [("a", "SELECT 21"), ("b", "SELECT 22")] {
        answer(&mut client, &joined([parse(name, sql, &[]), sync()])).await;
        assert!(answer(&mut client, &run(name)).await.len() > 2);
    }
    let code = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$";
    let done = answer(&mut client, &query(code)).await;
    assert_eq!(done.last().unwrap(), "Z I", "{done:?}");
    for name in ["a", "b", "a", "b"] {
        let answers = answer(&mut client, &run(name)).await;
        assert!(answers[1].starts_with('D'), "{name}: {answers:?}");
    }
}

/// The name in the server's text is another one, and longer.
#[tokio::test(flavor = "multi_thread")]
async fn errors_in_prepare_are_where_the_client_wrote_them() {
    let beside = Beside::unsharded().await;
    let mut plain = RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await;
    let mut ours = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    for sql in [
        "PREPARE p1 AS SELECT $1a",
        "SELECT 1; PREPARE \"é\" (int) AS SELECT 'ä', nothing",
        "PREPARE p2 (int) AS SELECT $1; EXECUTE p2(nothing)",
        "PREPARE p3 (int) AS SELECT $1; EXECUTE p3(1); EXECUTE p3(2); SELECT nothing",
    ] {
        let mut told = Vec::new();
        for client in [&mut plain, &mut ours] {
            let answers = client.query(sql).await;
            let error = answers.iter().find(|message| message.tag == b'E').unwrap();
            told.push((error.field(b'M'), error.field(b'P')));
        }
        assert!(told[0].1.is_some(), "{sql}: {told:?}");
        assert_eq!(told[0], told[1], "{sql}");
    }
}

/// What a client's code leaves on a connection, and what another client sees of it there.
#[tokio::test(flavor = "multi_thread")]
async fn what_code_leaves_on_a_connection_is_seen_by_nobody_else() {
    const LEAVES: &str = "CREATE FUNCTION leave_things() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
          PERFORM set_config('my.own', 'mine', false);
          PERFORM set_config('work_mem', '7MB', false);
          PERFORM set_config('role', 'other', false);
          CREATE TEMP TABLE IF NOT EXISTS left_here (a int);
          PERFORM pg_advisory_lock(4711);
          PERFORM nextval('numbers');
          EXECUTE 'LISTEN left_here';
        END $$";
    const SEES: &str = "SELECT coalesce(current_setting('my.own', true), ''), current_setting('work_mem') = '7MB', current_user, \
        to_regclass('pg_temp.left_here'), pg_try_advisory_lock(4711), pg_advisory_unlock(4711), \
        (SELECT count(*) FROM pg_listening_channels())";
    let cluster = one_connection().await;
    for sql in [
        "CREATE ROLE other",
        "GRANT other TO app",
        "CREATE SEQUENCE numbers",
        "GRANT ALL ON SEQUENCE numbers TO app, other",
        "GRANT TEMPORARY ON DATABASE shop TO other",
        LEAVES,
        "CREATE FUNCTION leaves() RETURNS int LANGUAGE sql AS 'SELECT leave_things(); SELECT 1'",
        "CREATE TABLE filled AS SELECT 1 AS one",
        "ALTER TABLE filled OWNER TO app",
        "CREATE FUNCTION triggered() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM leave_things(); RETURN NEW; END'",
        "CREATE TABLE watched AS SELECT 1 AS one",
        "ALTER TABLE watched OWNER TO app",
        "CREATE TRIGGER leaves BEFORE UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION triggered()",
        "CREATE TABLE guarded AS SELECT 1 AS one",
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY leaves ON guarded USING (leaves() = one)",
        "CREATE TABLE guarded_too AS SELECT 1 AS one",
        "ALTER TABLE guarded_too ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY leaves ON guarded_too USING (one IN (SELECT one FROM guarded))",
        "CREATE TABLE defaulting (one int, a int DEFAULT leaves())",
        "CREATE TABLE checked (one int CHECK (leaves() = one))",
        "CREATE DOMAIN checked_int AS int CHECK (leaves() = VALUE)",
        "CREATE TABLE of_domains (one checked_int[])",
        "GRANT ALL ON guarded, guarded_too, defaulting, checked, of_domains TO app",
    ] {
        cluster.shard(0).primary().sql(sql).await.unwrap();
    }
    let mut leaver = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let mut seer = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let definition =
        "ALTER TABLE filled DROP IF EXISTS a; ALTER TABLE filled ADD a int DEFAULT leaves()";
    let statements = [
        "SELECT leave_things()",
        definition,
        "UPDATE watched SET one = one + 1",
        "SELECT * FROM guarded",
        "SELECT * FROM guarded_too",
        "INSERT INTO defaulting VALUES (1)",
        "INSERT INTO checked VALUES (1)",
        "INSERT INTO of_domains VALUES ('{1}')",
        "SELECT '1'::checked_int",
        "SELECT pg_advisory_lock(4711), 1 / (one - one) FROM filled",
        "SELECT leave_things(), 1 / (one - one) FROM filled",
    ];
    for leaving in statements.repeat(2) {
        let left = answer(&mut leaver, &query(leaving)).await;
        assert_eq!(left.last().unwrap(), "Z I", "{left:?}");
        // a pool of one connection: it is the same one, or this would wait
        let last = answer(&mut seer, &query("BEGIN; SELECT lastval()")).await;
        assert!(last.contains(&"E Some(\"55000\")".to_owned()), "{last:?}");
        answer(&mut seer, &query("ROLLBACK")).await;
        let seen = answer(&mut seer, &query(SEES)).await;
        let row = seen.iter().find(|line| line.starts_with('D')).unwrap();
        assert!(row.contains("app"), "{row}");
        assert!(!row.contains("mine"), "{row}");
        assert!(!row.contains("left_here"), "{row}");
        let values: Vec<&str> = row.split("\\x00\\x00\\x00\\x01").collect();
        // not his work_mem, the lock is free, nothing is listened to
        assert_eq!(values.len(), 5, "{row}");
        assert!(values[1].starts_with('f'), "{row}");
        assert!(
            values[2].starts_with('t') && values[3].starts_with('t'),
            "{row}"
        );
        assert_eq!(values[4], "0", "{row}");
    }
}

/// So many clients on so few connections, none of which stays with a client.
async fn keep_nothing(cluster: &Cluster) {
    const CLIENTS: usize = 8;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(RawClient::log_in(&cluster.endpoint(), "app", "shop").await);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let value = ["on", "off"][index % 2];
        let saved = "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new";
        let restored = joined([
            parse("", "SELECT set_config('jit', $1, false)", &[]),
            bind("", "", &[value]),
            execute("", 0),
            sync(),
        ]);
        for said in [query(saved), restored, query(NEXTVAL)] {
            let answers = answer(client, &said).await;
            assert!(
                answers.iter().any(|line| line.starts_with('D')),
                "client {index}: {answers:?}"
            );
        }
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let shown = answer(client, &show("jit")).await;
        let value = ["on", "off"][index % 2];
        assert!(shown[1].ends_with(value), "client {index}: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_set_config_nor_nextval_keeps_a_connection() {
    for shards in [1, 3] {
        let cluster = TestCluster::new()
            .shards(shards)
            .shop()
            .configure(move |configuration| {
                if shards == 1 {
                    configuration.sharding = String::new();
                }
                configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
                configuration.database = "pool: { size: 2 }".into();
            })
            .start()
            .await;
        let home = cluster.shard(0).primary();
        home.sql("CREATE SEQUENCE numbers; GRANT ALL ON SEQUENCE numbers TO PUBLIC")
            .await
            .unwrap();
        keep_nothing(&cluster).await;
    }
}

/// The shop on one server, and a pool of one connection for all clients.
async fn one_connection() -> Cluster {
    unsharded(|configuration| {
        configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
        configuration.database = "pool: { size: 1 }".into();
    })
    .shop()
    .start()
    .await
}

/// Two clients on one connection: each finds the numbers that it drew in its transaction, and none that the other drew.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_another_client_has_drawn_are_not_told() {
    const UNDEFINED: &str = "E Some(\"55000\")";
    let cluster = one_connection().await;
    let mut one = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let mut other = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    for sql in [
        "CREATE SEQUENCE numbers",
        "CREATE SEQUENCE others",
        "CREATE TABLE drawn (id serial, note text)",
    ] {
        let made = answer(&mut one, &query(sql)).await;
        assert_eq!(made.last().unwrap(), "Z I", "{made:?}");
    }
    let rows = |answers: &[String]| -> Vec<String> {
        let rows = answers.iter().filter(|line| line.starts_with('D'));
        rows.cloned().collect()
    };
    for _ in 0..3 {
        let drawn = answer(&mut one, &query("SELECT nextval('numbers')")).await;
        assert_eq!(rows(&drawn).len(), 1, "{drawn:?}");
        for asks in ["SELECT lastval()", "SELECT currval('numbers')"] {
            let told = answer(&mut other, &query(asks)).await;
            assert!(told.contains(&UNDEFINED.to_owned()), "{asks}: {told:?}");
        }
        // what is drawn for a column's default counts too
        answer(&mut one, &query("BEGIN")).await;
        let insert = "INSERT INTO drawn (note) VALUES ('x') RETURNING id";
        let drawn = answer(&mut one, &query(insert)).await;
        let told = answer(&mut one, &query("SELECT lastval()::int")).await;
        assert_eq!(rows(&told), rows(&drawn), "{told:?}");
        answer(&mut one, &query("COMMIT")).await;
        let text = "SELECT nextval('others'); SELECT currval('others')";
        let told = rows(&answer(&mut other, &query(text)).await);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0], told[1]);
        let asks = query("SELECT currval('drawn_id_seq')");
        let told = answer(&mut other, &asks).await;
        assert!(told.contains(&UNDEFINED.to_owned()), "{told:?}");
    }
}
