//! What follows a client from one server connection to the next: settings, prepared statements, and nothing of anybody else's.
//!
//! Several clients share a pool's connections, and each must hear what it would hear from a Postgres of its own.
#![allow(clippy::unwrap_used)]

use pgherd_tests::beside::{Beside, Talk};
use pgherd_tests::wire::{bind, close, describe, execute, flush, parse, query, sync, unnamed};

/// Talks with their names.
type Talks = Vec<(&'static str, Talk)>;

fn show(name: &str) -> bytes::BytesMut {
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
                .ready([unnamed("EXECUTE p(1)"), sync()]),
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

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_statements_are_as_on_a_postgres_of_ones_own() {
    let beside = Beside::unsharded().await;
    let mut differences = String::new();
    // twice: the second time the connections have all that the first one left
    for _ in 0..2 {
        for (name, talk) in settings().into_iter().chain(statements()) {
            if let Some(difference) = beside.difference(name, &talk, false).await {
                differences.push_str(&difference);
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
