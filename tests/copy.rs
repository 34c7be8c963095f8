//! COPY by both protocols: pgherd answers as a plain Postgres does, whatever goes wrong in the middle.
#![allow(clippy::unwrap_used)]

use pgherd_tests::beside::{Beside, Talk, Until};
use pgherd_tests::wire::{
    copy_data, copy_done, copy_fail, execute, flush, frame, parse, query, sync, unnamed,
};

const MISSING_BY_MESSAGES: &str = "a table that is not there, by messages";
const COPY_IN: &str = "COPY settings FROM STDIN";

fn talks() -> Vec<(&'static str, Talk)> {
    let count = || query("SELECT count(*), max(value) FROM settings");
    let large = "x".repeat(3_000_000);
    vec![
        (
            "in and out by a simple query",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([
                    copy_data("a\t1\n"),
                    copy_data("b\t2\nc\t"),
                    copy_data("3\n"),
                    copy_done(),
                ])
                .ready([query("COPY settings TO STDOUT")])
                .ready([query(
                    "COPY (SELECT name FROM settings ORDER BY name) TO STDOUT (FORMAT csv)",
                )])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "in and out by messages",
            Talk::new()
                .ready([unnamed(COPY_IN), copy_data("a\t1\n"), copy_done(), sync()])
                .ready([
                    unnamed("COPY settings TO STDOUT"),
                    unnamed("SELECT 1"),
                    sync(),
                ])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "a trigger's notices between the data",
            Talk::new()
                .ready([query(
                    "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN RAISE NOTICE 'told'; RETURN new; END $$",
                )])
                .ready([query(
                    "CREATE TRIGGER told BEFORE INSERT ON settings FOR EACH STATEMENT EXECUTE FUNCTION tell()",
                )])
                .quiet([query(COPY_IN)])
                .quiet([copy_data("a\t1\n")])
                .ready([copy_data("b\t2\n"), copy_done()])
                .ready([count()])
                .ready([query("DROP FUNCTION tell CASCADE")])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "data after the answer, and the Sync after the data",
            Talk::new()
                .quiet([unnamed(COPY_IN), flush()])
                .quiet([copy_data("a\t1\n"), copy_done(), flush()])
                .ready([sync()])
                .ready([count()])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "the Sync that came with Execute counts for nothing",
            Talk::new()
                .quiet([unnamed(COPY_IN), sync()])
                .quiet([
                    copy_data("a\t1\n"),
                    sync(),
                    copy_data("b\t1\n"),
                    flush(),
                    copy_done(),
                    flush(),
                ])
                .ready([sync()])
                .ready([count()])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "the client gives up",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([copy_data("a\t1\n"), copy_fail("no more")])
                .quiet([unnamed(COPY_IN), sync()])
                .quiet([copy_data("a\t1\n"), copy_fail("no more")])
                .ready([sync()])
                .ready([count()]),
        ),
        (
            "the server refuses a row while more comes",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([
                    copy_data("a\t1\tnonsense\n"),
                    copy_data("b\t2\n"),
                    copy_data("c\t2\n"),
                    copy_done(),
                ])
                .ready([count()])
                .quiet([unnamed(COPY_IN), flush()])
                .quiet([copy_data("a\t1\tnonsense\n"), copy_done()])
                .ready([sync()])
                .ready([count()]),
        ),
        (
            "the server refuses a row of a large COPY",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([
                    copy_data("a\t1\tnonsense\n"),
                    copy_data(&format!("b\t{large}\n")),
                    copy_data(&format!("c\t{large}\n")),
                    copy_done(),
                ])
                .ready([count()]),
        ),
        (
            "large pieces",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([
                    copy_data(&format!("b\t{large}\n")),
                    copy_data(&format!("c\t{large}\n")),
                    copy_done(),
                ])
                .ready([query("SELECT count(*), sum(length(value)) FROM settings")])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "a table that is not there",
            Talk::new()
                .ready([query("COPY missing FROM STDIN")])
                .ready([copy_data("a\t1\n"), copy_done(), query("SELECT 1")])
                .ready([count()]),
        ),
        (
            MISSING_BY_MESSAGES,
            Talk::new()
                .ready([
                    unnamed("COPY missing FROM STDIN"),
                    copy_data("a\t1\n"),
                    copy_done(),
                    sync(),
                ])
                .ready([count()]),
        ),
        (
            "data outside of COPY is discarded",
            Talk::new().ready([copy_data("a"), copy_done(), query("SELECT 1")]),
        ),
        (
            "another message in the middle",
            Talk::new()
                .quiet([query(COPY_IN)])
                .ready([copy_data("a\t1\n"), query("SELECT 1")])
                .ready([query("SELECT 2")]),
        ),
        (
            "several COPYs in one query string",
            Talk::new()
                .quiet([query(
                    "COPY settings FROM STDIN; SELECT 1; COPY settings FROM STDIN; SELECT 2",
                )])
                .quiet([copy_data("a\t1\n"), copy_done()])
                .ready([copy_data("b\t1\n"), copy_done()])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "within a block",
            Talk::new()
                .ready([query("BEGIN")])
                .quiet([query(COPY_IN)])
                .ready([copy_data("a\t1\n"), copy_done()])
                .ready([count()])
                .ready([query("ROLLBACK")])
                .ready([count()]),
        ),
        (
            "executed again, and described",
            Talk::new()
                .ready([
                    parse("c", COPY_IN, &[]),
                    pgherd_tests::wire::describe('S', "c"),
                    sync(),
                ])
                .ready([
                    pgherd_tests::wire::bind("", "c", &[]),
                    execute("", 0),
                    copy_data("a\t1\n"),
                    copy_done(),
                    sync(),
                ])
                .ready([
                    pgherd_tests::wire::bind("", "c", &[]),
                    execute("", 1),
                    copy_data("b\t1\n"),
                    copy_done(),
                    sync(),
                ])
                .ready([query("DELETE FROM settings")]),
        ),
        (
            "the client leaves in the middle",
            Talk::new()
                .quiet([query(COPY_IN)])
                .say([copy_data("a\t1\n"), frame(b'X', &[])], Until::Closed),
        ),
        ("nothing of that was kept", Talk::new().ready([count()])),
    ]
}

async fn differences(beside: &Beside, may_refuse: bool) -> Vec<String> {
    let mut differ = Vec::new();
    for (name, talk) in talks() {
        // on a sharded database Parse tells it already
        if may_refuse && name == MISSING_BY_MESSAGES {
            continue;
        }
        differ.extend(beside.difference(name, &talk, may_refuse).await);
    }
    differ
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsharded_database_copies_as_postgres_does() {
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
async fn a_sharded_database_copies_as_postgres_does_or_refuses() {
    let beside = Beside::sharded().await;
    let differ = differences(&beside, true).await;
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}
