//! The extended protocol: pgherd answers the very bytes that a plain Postgres gets as that one does, message by message.
#![allow(clippy::unwrap_used)]

use pgherd_tests::beside::{Beside, Talk, Until};
use pgherd_tests::wire::{
    RawClient, bind, bind_in, close, describe, execute, flush, frame, parse, query, sync, unnamed,
};

const SERIES: &str = "SELECT generate_series(1, 5)";

/// Talks with their names.
type Talks = Vec<(&'static str, Talk)>;

/// Errors, and what is skipped after them.
fn errors() -> Talks {
    vec![
        (
            "an error skips to the next Sync",
            Talk::new()
                .ready([
                    unnamed("SELECT 1"),
                    unnamed("SELECT 1/0"),
                    unnamed("SELECT 2"),
                    sync(),
                ])
                .ready([unnamed("SELECT 3"), sync()]),
        ),
        (
            "an error in one pipeline leaves the next one alone",
            Talk::new().say(
                [unnamed("SELECT 1/0"), sync(), unnamed("SELECT 2"), sync()],
                Until::Ready(2),
            ),
        ),
        (
            "an error after a Flush is skipped from until Sync",
            Talk::new()
                .quiet([unnamed("SELECT 1"), flush()])
                .quiet([unnamed("SELECT 1/0"), flush()])
                .quiet([unnamed("SELECT 2"), flush()])
                .ready([unnamed("SELECT 3"), sync()])
                .ready([unnamed("SELECT 4"), sync()]),
        ),
        (
            "a simple query is skipped too",
            Talk::new()
                .quiet([unnamed("SELECT 1/0"), flush()])
                .quiet([query("SELECT 1")])
                .ready([sync()])
                .ready([query("SELECT 2")]),
        ),
        (
            "Terminate is heard while skipping",
            Talk::new()
                .quiet([unnamed("SELECT 1/0"), flush()])
                .say([frame(b'X', &[])], Until::Closed),
        ),
        (
            "a pipeline that fails keeps nothing of what it did",
            Talk::new()
                .ready([
                    unnamed("INSERT INTO settings VALUES ('gone', '1')"),
                    unnamed("SELECT 1/0"),
                    sync(),
                ])
                .ready([query("SELECT count(*) FROM settings WHERE name = 'gone'")]),
        ),
        (
            "a flushed pipeline that fails keeps nothing of what it did",
            Talk::new()
                .quiet([
                    unnamed("INSERT INTO settings VALUES ('gone', '1')"),
                    flush(),
                ])
                .ready([unnamed("SELECT 1/0"), sync()])
                .ready([query("SELECT count(*) FROM settings WHERE name = 'gone'")]),
        ),
        (
            "syntax errors and what does not exist",
            Talk::new()
                .ready([parse("", "SELEC 1", &[]), sync()])
                .ready([bind("", "missing", &[]), sync()])
                .ready([describe('S', "missing"), sync()])
                .ready([describe('P', "missing"), sync()])
                .ready([execute("missing", 0), sync()])
                .ready([close('S', "missing"), close('P', "missing"), sync()])
                .ready([parse("", "SELECT 1; SELECT 2", &[]), sync()])
                .ready([
                    parse("a", "SELECT 1", &[]),
                    parse("a", "SELECT 2", &[]),
                    sync(),
                ])
                .ready([parse("", "SELECT 1", &[]), bind("", "", &["1"]), sync()])
                .ready([bind("", "", &[]), execute("", 0), sync()]),
        ),
        (
            "a statement whose Parse was skipped is not known",
            Talk::new()
                .ready([
                    unnamed("SELECT 1/0"),
                    parse("late", "SELECT 1", &[]),
                    sync(),
                ])
                .ready([bind("", "late", &[]), execute("", 0), sync()])
                .ready([
                    parse("late", "SELECT 2", &[]),
                    bind("", "late", &[]),
                    execute("", 0),
                    sync(),
                ]),
        ),
        (
            "a failed Parse of the unnamed statement leaves none",
            Talk::new()
                .ready([unnamed("SELECT 1"), sync()])
                .ready([parse("", "SELECT nothing", &[]), sync()])
                .ready([bind("", "", &[]), execute("", 0), sync()]),
        ),
        (
            "an error within a block fails it",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([unnamed("SELECT 1/0"), sync()])
                .ready([unnamed("SELECT 1"), sync()])
                .ready([
                    parse("", "ROLLBACK", &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ])
                .ready([unnamed("SELECT 1"), sync()]),
        ),
        (
            "a block within a pipeline that fails stays failed",
            Talk::new()
                .ready([
                    unnamed("BEGIN"),
                    unnamed("SELECT 1/0"),
                    unnamed("COMMIT"),
                    sync(),
                ])
                .ready([unnamed("COMMIT"), sync()]),
        ),
        (
            "malformed messages",
            Talk::new()
                .ready([frame(b'E', b"x"), sync()])
                .ready([frame(b'D', b"Zx\0"), sync()])
                .ready([query("SELECT 1")]),
        ),
    ]
}

/// Flush, portals and rows in portions.
fn portals() -> Talks {
    vec![
        (
            "Flush brings the answers so far",
            Talk::new()
                .quiet([parse("f", "SELECT $1::int", &[]), flush()])
                .quiet([describe('S', "f"), flush()])
                .quiet([bind("", "f", &["7"]), flush()])
                .quiet([describe('P', ""), flush()])
                .quiet([execute("", 0), flush()])
                .quiet([flush()])
                .ready([sync()])
                .ready([sync()]),
        ),
        (
            "rows come in portions",
            Talk::new()
                .ready([
                    parse("", SERIES, &[]),
                    bind("", "", &[]),
                    execute("", 2),
                    execute("", 2),
                    execute("", 2),
                    execute("", 2),
                    sync(),
                ])
                .ready([execute("", 2), sync()]),
        ),
        (
            "a portal lives across Flush",
            Talk::new()
                .quiet([
                    parse("", SERIES, &[]),
                    bind("p", "", &[]),
                    execute("p", 2),
                    flush(),
                ])
                .quiet([execute("p", 2), flush()])
                .quiet([execute("p", 2), flush()])
                .quiet([close('P', "p"), flush()])
                .ready([execute("p", 2), sync()]),
        ),
        (
            "a named portal lives until its block ends",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([
                    parse("s", SERIES, &[]),
                    bind("p", "s", &[]),
                    execute("p", 2),
                    sync(),
                ])
                .ready([query("SELECT 1")])
                .ready([describe('P', "p"), execute("p", 2), sync()])
                .ready([bind("p", "s", &[]), sync()])
                .ready([query("ROLLBACK")])
                .ready([execute("p", 2), sync()]),
        ),
        (
            "a portal does not survive COMMIT in a pipeline",
            Talk::new().ready([
                unnamed("BEGIN"),
                parse("s", SERIES, &[]),
                bind("p", "s", &[]),
                execute("p", 2),
                unnamed("COMMIT"),
                execute("p", 2),
                sync(),
            ]),
        ),
        (
            "a bound portal is executed after its statement was closed",
            Talk::new().ready([
                parse("s", SERIES, &[]),
                bind("p", "s", &[]),
                close('S', "s"),
                execute("p", 0),
                sync(),
            ]),
        ),
        (
            "a cursor of SQL is a portal of the protocol",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("DECLARE c CURSOR FOR SELECT generate_series(1, 5)")])
                .ready([describe('P', "c"), sync()])
                .ready([query("FETCH 2 FROM c")])
                .ready([execute("c", 2), sync()])
                .ready([close('P', "c"), sync()])
                .ready([query("FETCH 2 FROM c")])
                .ready([query("ROLLBACK")])
                .ready([describe('P', "c"), sync()]),
        ),
        (
            "empty queries",
            Talk::new()
                .ready([
                    parse("", "", &[]),
                    bind("", "", &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ])
                .ready([parse("e", " -- nothing", &[]), describe('S', "e"), sync()])
                .ready([query("")])
                .ready([query(" ; ; ")]),
        ),
        (
            "parameters of types that the server tells",
            Talk::new()
                .ready([
                    parse(
                        "u",
                        "SELECT name FROM users WHERE id = $1 AND name <> $2",
                        &[],
                    ),
                    describe('S', "u"),
                    sync(),
                ])
                .ready([
                    bind("", "u", &["1", "x"]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ])
                .ready([
                    parse("i", "INSERT INTO users VALUES ($1, $2, $3)", &[]),
                    describe('S', "i"),
                    sync(),
                ])
                .ready([
                    bind("", "i", &["1", "a", "b"]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ])
                .ready([
                    bind_in("", "u", &[1, 0], &[&[0, 0, 0, 0, 0, 0, 0, 1], b"x"], &[1]),
                    execute("", 0),
                    sync(),
                ])
                .ready([bind("", "i", &["x", "a", "b"]), execute("", 0), sync()])
                .ready([query("DELETE FROM users WHERE id = 1")]),
        ),
        (
            "a statement is prepared, used, closed and prepared again",
            Talk::new()
                .ready([parse("s", "SELECT 1", &[]), sync()])
                .ready([bind("", "s", &[]), execute("", 0), sync()])
                .ready([close('S', "s"), sync()])
                .ready([bind("", "s", &[]), execute("", 0), sync()])
                .ready([
                    parse("s", "SELECT 'two'", &[]),
                    bind("", "s", &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ]),
        ),
        (
            "many statements under the unnamed one's name, with Describe before Bind",
            Talk::new().ready([
                parse("", "SELECT $1::text", &[]),
                describe('S', ""),
                bind("", "", &["a"]),
                execute("", 0),
                parse("", "SELECT $1::int8, 2", &[]),
                describe('S', ""),
                bind("", "", &["3"]),
                execute("", 0),
                sync(),
            ]),
        ),
        (
            "prepared by SQL, used by messages, and the other way",
            Talk::new()
                .ready([query("PREPARE q AS SELECT 1")])
                .ready([bind("", "q", &[]), execute("", 0), sync()])
                .ready([parse("m", "SELECT 2", &[]), sync()])
                .ready([query("EXECUTE m")])
                .ready([query("DEALLOCATE m")])
                .ready([bind("", "m", &[]), execute("", 0), sync()])
                .ready([query("DEALLOCATE ALL")])
                .ready([query("EXECUTE q")]),
        ),
    ]
}

/// Transactions in pipelines, simple queries of several statements, and messages that come by themselves.
fn transactions() -> Talks {
    vec![
        (
            "a block in one pipeline",
            Talk::new()
                .ready([
                    unnamed("BEGIN"),
                    unnamed("INSERT INTO settings VALUES ('b', '1')"),
                    unnamed("SAVEPOINT s"),
                    unnamed("UPDATE settings SET value = '2' WHERE name = 'b'"),
                    unnamed("ROLLBACK TO s"),
                    unnamed("COMMIT"),
                    sync(),
                ])
                .ready([query("SELECT value FROM settings WHERE name = 'b'")])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "BEGIN and COMMIT alone",
            Talk::new()
                .ready([unnamed("BEGIN"), sync()])
                .ready([unnamed("BEGIN"), sync()])
                .ready([unnamed("COMMIT"), sync()])
                .ready([unnamed("COMMIT"), sync()])
                .ready([unnamed("ROLLBACK"), sync()])
                .ready([unnamed("SAVEPOINT a"), sync()]),
        ),
        (
            "BEGIN in a flushed pipeline",
            Talk::new()
                .quiet([unnamed("BEGIN"), flush()])
                .quiet([unnamed("INSERT INTO settings VALUES ('c', '1')"), flush()])
                .quiet([unnamed("COMMIT"), flush()])
                .ready([sync()])
                .ready([query("DELETE FROM settings WHERE name = 'c'")]),
        ),
        (
            "a block over several pipelines",
            Talk::new()
                .ready([unnamed("BEGIN ISOLATION LEVEL SERIALIZABLE"), sync()])
                .ready([unnamed("SHOW transaction_isolation"), sync()])
                .ready([
                    unnamed("SET LOCAL work_mem = '1MB'"),
                    unnamed("SHOW work_mem"),
                    sync(),
                ])
                .ready([unnamed("ROLLBACK AND CHAIN"), sync()])
                .ready([
                    unnamed("SHOW transaction_isolation"),
                    unnamed("COMMIT"),
                    sync(),
                ]),
        ),
        (
            "what a pipeline without a block cannot do",
            Talk::new()
                .ready([unnamed("SAVEPOINT a"), unnamed("SELECT 1"), sync()])
                .ready([unnamed("SELECT 1"), unnamed("SAVEPOINT a"), sync()])
                .ready([
                    unnamed("SELECT 1"),
                    unnamed("COMMIT"),
                    unnamed("SELECT 2"),
                    sync(),
                ]),
        ),
        (
            "several statements in one simple query",
            Talk::new()
                .ready([query("SELECT 1; SELECT 2")])
                .ready([query("SELECT 1; SELECT 1/0; SELECT 2")])
                .ready([query("INSERT INTO settings VALUES ('d', '1'); SELECT 1/0")])
                .ready([query("SELECT count(*) FROM settings")])
                .ready([query(
                    "BEGIN; INSERT INTO settings VALUES ('d', '1'); ROLLBACK; SELECT 1",
                )])
                .ready([query("BEGIN; SELECT 1/0; SELECT 2")])
                .ready([query("SELECT 1")])
                .ready([query("ROLLBACK; SELECT 3")])
                .ready([query("SELECT 1; SELEC 2")])
                .ready([query(
                    "INSERT INTO settings VALUES ('e', '1'); COMMIT; SELECT 1",
                )])
                .ready([query("DELETE FROM settings; SELECT 4;")]),
        ),
        (
            "notices",
            Talk::new().ready([query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")]),
        ),
        (
            "settings and notifications",
            Talk::new()
                .ready([query("SET application_name = 'other'")])
                .ready([
                    unnamed("SET DateStyle = 'German'"),
                    unnamed("SELECT date '2020-02-01'"),
                    sync(),
                ])
                .ready([query("RESET DateStyle")])
                .ready([query("LISTEN news")])
                .ready([query("NOTIFY news, 'one'")])
                .ready([unnamed("NOTIFY news, 'two'"), unnamed("SELECT 1"), sync()])
                .ready([query("UNLISTEN *")]),
        ),
        (
            "a simple query within a pipeline",
            Talk::new()
                .say(
                    [
                        unnamed("INSERT INTO settings VALUES ('q', '1')"),
                        query("SELECT count(*) FROM settings"),
                    ],
                    Until::Ready(1),
                )
                .ready([sync()])
                .say(
                    [
                        unnamed("SELECT 1"),
                        flush(),
                        query("DELETE FROM settings"),
                        sync(),
                    ],
                    Until::Ready(2),
                )
                .ready([query("SELECT count(*) FROM settings")]),
        ),
        (
            "a function call",
            Talk::new()
                // int4pl(int4, int4), binary
                .ready([frame(
                    b'F',
                    &[
                        0, 0, 0, 177, 0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0,
                        0, 4, 0, 1,
                    ],
                )])
                // no such function
                .ready([frame(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0])])
                .ready([query("SELECT 1")]),
        ),
    ]
}

/// Talks that differ, in text.
async fn differences(beside: &Beside, may_refuse: bool) -> Vec<String> {
    let mut differ = Vec::new();
    for (name, talk) in errors().into_iter().chain(portals()).chain(transactions()) {
        differ.extend(beside.difference(name, &talk, may_refuse).await);
    }
    differ
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsharded_database_answers_every_message_as_postgres_does() {
    let beside = Beside::unsharded().await;
    let differ = differences(&beside, false).await;
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_database_answers_every_message_as_postgres_does_or_refuses() {
    let beside = Beside::sharded().await;
    let differ = differences(&beside, true).await;
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_server_connection_is_ended_hears_so_and_goes_on() {
    let beside = Beside::unsharded().await;
    let endpoint = beside.cluster.endpoint();
    let mut client = RawClient::log_in(&endpoint, "app", "shop").await;
    let answers = client
        .query("SELECT pg_terminate_backend(pg_backend_pid())")
        .await;
    let error = answers.iter().find(|answer| answer.tag == b'E').unwrap();
    // its server says so before anything is completed: nothing of it is kept, however often it is tried
    assert_eq!(error.field(b'C').as_deref(), Some("40001"));
    let answers = client.query("SELECT 1").await;
    assert!(
        answers.iter().all(|answer| answer.tag != b'E'),
        "{answers:?}"
    );

    // what only that connection held cannot be made again
    client.query("CREATE TEMP TABLE held ()").await;
    let answers = client.query("SELECT pg_backend_pid()").await;
    let row = answers.iter().find(|answer| answer.tag == b'D').unwrap();
    let process = String::from_utf8_lossy(&row.body[6..]).into_owned();
    let other = beside.cluster.connect("app").await;
    other
        .batch_execute(&format!("SELECT pg_terminate_backend({process})"))
        .await
        .unwrap();
    let said = client.message().await.unwrap();
    assert_eq!(said.field(b'C').as_deref(), Some("57P01"));
    assert_eq!(client.message().await, None);
}
