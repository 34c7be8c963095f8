//! What a client was told of a statement holds on every server connection: rows of another shape never reach it.
//!
//! A statement is prepared and described on one connection, a definition changes, and the statement is run on another connection, which has
//! to be given it first. A plain Postgres says what the client must hear.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use pgherd_tests::beside::{Beside, summary};
use pgherd_tests::wire::{
    RawClient, bind, bind_in, close, describe, execute, flush, parse, query, sync,
};

/// What happens next.
enum Step {
    /// The client says this, and waits for ReadyForQuery.
    Say(Vec<BytesMut>),
    /// The client says this, and reads so many messages.
    Hear(Vec<BytesMut>, usize),
    /// The other connection serves the client from here on.
    Move,
    /// A superuser changes a definition, not through pgherd.
    Sql(&'static str),
}

use Step::{Hear, Move, Say, Sql};

/// Keeps one of the two connections busy.
struct Mover {
    busy: RawClient,
    free: RawClient,
}

impl Mover {
    async fn new(endpoint: &str) -> Self {
        let mut busy = RawClient::log_in(endpoint, "app", "shop").await;
        busy.query("BEGIN; SELECT 1").await;
        let free = RawClient::log_in(endpoint, "app", "shop").await;
        Self { busy, free }
    }

    async fn change(&mut self) {
        self.free.query("BEGIN; SELECT 1").await;
        self.busy.query("COMMIT").await;
        std::mem::swap(&mut self.busy, &mut self.free);
    }
}

async fn said(client: &mut RawClient, parts: &[BytesMut], messages: Option<usize>) -> Vec<String> {
    client.send(&parts.concat()).await;
    let answer = match messages {
        None => client.until_ready().await,
        Some(count) => {
            let mut answer = Vec::new();
            for _ in 0..count {
                answer.extend(client.message().await);
            }
            answer
        }
    };
    answer
        .iter()
        .filter(|message| message.tag != b'S')
        .map(|message| match message.field(b'C') {
            // drivers go by the function that raises it
            Some(code) if message.tag == b'E' && code == "0A000" => {
                format!("{} {:?}", summary(message), message.field(b'R'))
            }
            _ => summary(message),
        })
        .collect()
}

/// Runs a scenario on the plain server and on pgherd, which must answer alike. Returns what both have said.
async fn alike(beside: &Beside, mover: &mut Mover, name: &str, steps: Vec<Step>) -> String {
    let mut plain = RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await;
    let mut ours = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    let mut heard = Vec::new();
    for (index, step) in steps.into_iter().enumerate() {
        let (parts, messages) = match step {
            Move => {
                mover.change().await;
                continue;
            }
            Sql(sql) => {
                beside.sql_on_both(sql).await;
                continue;
            }
            Say(parts) => (parts, None),
            Hear(parts, messages) => (parts, Some(messages)),
        };
        let expected = said(&mut plain, &parts, messages).await;
        let got = said(&mut ours, &parts, messages).await;
        assert_eq!(
            got,
            expected,
            "{name}, step {index}; before that:\n{}",
            heard.join("\n")
        );
        heard.extend(expected);
    }
    heard.join("\n")
}

const STALE: &str = "E 0A000 cached plan must not change result type";

fn prepared(name: &str, sql: &str) -> Step {
    Say(vec![parse(name, sql, &[]), describe('S', name), sync()])
}

fn run(name: &str) -> Step {
    Say(vec![bind("", name, &[]), execute("", 0), sync()])
}

fn asked(sql: &str) -> Step {
    Say(vec![query(sql)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_returns_what_was_described_on_every_connection() {
    let beside = Beside::two_connections().await;
    let mut mover = Mover::new(&beside.cluster.endpoint()).await;
    let heard = alike(
        &beside,
        &mut mover,
        "a read",
        vec![
            asked("CREATE TABLE a (id int); INSERT INTO a VALUES (1)"),
            prepared("s", "SELECT * FROM a"),
            run("s"),
            Move,
            run("s"),
            Move,
            Sql("ALTER TABLE a ADD more text"),
            run("s"),
            Say(vec![close('S', "s"), sync()]),
            prepared("s", "SELECT * FROM a"),
            run("s"),
            Move,
            run("s"),
            asked("DROP TABLE a"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 1, "{heard}");

    let heard = alike(
        &beside,
        &mut mover,
        "a connection that never had it",
        vec![
            asked("CREATE TABLE b (id int, value varchar(5)); INSERT INTO b VALUES (1, 'one')"),
            prepared("s", "SELECT id, value FROM b"),
            run("s"),
            Move,
            Sql("ALTER TABLE b ALTER value TYPE varchar(9)"),
            run("s"),
            // it stays so until the statement is prepared again
            run("s"),
            Move,
            Say(vec![describe('S', "s"), sync()]),
            Sql("ALTER TABLE b ALTER value TYPE varchar(5)"),
            run("s"),
            Move,
            run("s"),
            asked("DROP TABLE b"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 3, "{heard}");

    let heard = alike(
        &beside,
        &mut mover,
        "within a block",
        vec![
            asked("CREATE TABLE c (id int)"),
            prepared("s", "SELECT * FROM c"),
            prepared("i", "INSERT INTO c VALUES (1) RETURNING *"),
            Move,
            Sql("ALTER TABLE c ADD more text"),
            asked("BEGIN"),
            asked("INSERT INTO c VALUES (7)"),
            asked("SAVEPOINT a"),
            run("s"),
            run("s"),
            asked("ROLLBACK TO a"),
            run("i"),
            asked("ROLLBACK TO a"),
            asked("SELECT * FROM c"),
            asked("COMMIT"),
            asked("BEGIN"),
            run("s"),
            asked("COMMIT"),
            asked("SELECT * FROM c"),
            asked("DROP TABLE c"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 3, "{heard}");

    let heard = alike(
        &beside,
        &mut mover,
        "the unnamed statement",
        vec![
            asked("CREATE TABLE d (id int)"),
            prepared("", "SELECT * FROM d"),
            Move,
            Sql("ALTER TABLE d ADD more text"),
            run(""),
            asked("DROP TABLE d"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 1, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_that_is_reported_as_failed() {
    let beside = Beside::two_connections().await;
    let mut mover = Mover::new(&beside.cluster.endpoint()).await;
    let heard = alike(
        &beside,
        &mut mover,
        "a write that returns rows",
        vec![
            asked("CREATE TABLE a (id serial)"),
            prepared("i", "INSERT INTO a DEFAULT VALUES RETURNING *"),
            prepared("j", "INSERT INTO a DEFAULT VALUES RETURNING id"),
            run("i"),
            Move,
            Sql("ALTER TABLE a ADD more text"),
            run("i"),
            run("j"),
            Move,
            run("i"),
            asked("SELECT * FROM a"),
            asked("SELECT last_value FROM a_id_seq"),
            asked("DROP TABLE a"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 2, "{heard}");

    let heard = alike(
        &beside,
        &mut mover,
        "a pipeline that writes behind a read",
        vec![
            asked("CREATE TABLE b (id int); CREATE TABLE c (id int)"),
            prepared("i", "INSERT INTO b VALUES (1)"),
            prepared("s", "SELECT * FROM c"),
            Move,
            Sql("ALTER TABLE c ADD more text"),
            Say(vec![
                bind("", "s", &[]),
                execute("", 0),
                parse("never", "SELECT 1", &[]),
                bind("", "i", &[]),
                execute("", 0),
                sync(),
            ]),
            Say(vec![parse("never", "SELECT 1", &[]), sync()]),
            asked("SELECT count(*) FROM b"),
            asked("DROP TABLE b, c"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 1, "{heard}");

    let heard = alike(
        &beside,
        &mut mover,
        "a pipeline that is flushed",
        vec![
            asked("CREATE TABLE d (id int); CREATE TABLE e (id int)"),
            prepared("i", "INSERT INTO d VALUES (1)"),
            prepared("s", "SELECT * FROM e"),
            Move,
            Sql("ALTER TABLE e ADD more text"),
            Hear(vec![bind("", "i", &[]), execute("", 0), flush()], 2),
            Say(vec![bind("", "s", &[]), execute("", 0), sync()]),
            Hear(vec![bind("", "s", &[]), execute("", 0), flush()], 1),
            Say(vec![sync()]),
            asked("SELECT count(*) FROM d"),
            asked("DROP TABLE d, e"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 2, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_stay_what_they_were_described_as() {
    let beside = Beside::two_connections().await;
    let mut mover = Mover::new(&beside.cluster.endpoint()).await;
    // binary, as who was told of an int sends it
    let with_one = |name: &str| {
        Say(vec![
            bind_in("", name, &[1], &[&[0, 0, 0, 1]], &[]),
            execute("", 0),
            sync(),
        ])
    };
    let heard = alike(
        &beside,
        &mut mover,
        "a parameter's column becomes wider, then a text",
        vec![
            asked("CREATE TABLE a (id int, done bool); INSERT INTO a VALUES (1, false)"),
            prepared("u", "UPDATE a SET done = true WHERE id = $1"),
            with_one("u"),
            Move,
            Sql("ALTER TABLE a ALTER id TYPE bigint"),
            with_one("u"),
            asked("SELECT * FROM a"),
            Move,
            with_one("u"),
            Sql("ALTER TABLE a ALTER id TYPE text"),
            with_one("u"),
            Move,
            with_one("u"),
            asked("DROP TABLE a"),
        ],
    )
    .await;
    assert_eq!(heard.matches("E 42883").count(), 2, "{heard}");
    assert_eq!(heard.matches("UPDATE 1").count(), 3, "{heard}");
}

/// Drivers that describe a portal once and go by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_was_described_once_tells_of_its_statement() {
    let beside = Beside::two_connections().await;
    let mut mover = Mover::new(&beside.cluster.endpoint()).await;
    let heard = alike(
        &beside,
        &mut mover,
        "a portal",
        vec![
            asked("CREATE TABLE a (id int); INSERT INTO a VALUES (1)"),
            Say(vec![
                parse("s", "SELECT * FROM a", &[]),
                bind("", "s", &[]),
                describe('P', ""),
                execute("", 0),
                sync(),
            ]),
            run("s"),
            Move,
            Sql("ALTER TABLE a ADD more text"),
            run("s"),
            asked("DROP TABLE a"),
        ],
    )
    .await;
    assert_eq!(heard.matches(STALE).count(), 1, "{heard}");
}

/// A table that is made and dropped between two looks at the catalog was never in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_has_defined_is_its_own() {
    let beside = Beside::two_connections().await;
    let mut mover = Mover::new(&beside.cluster.endpoint()).await;
    let mut steps = Vec::new();
    for (name, made) in [("a", "int"), ("b", "text"), ("c", "numeric(5, 2)")] {
        steps.extend([
            asked("BEGIN"),
            asked("SAVEPOINT s"),
            asked("CREATE TABLE fleeting (x date)"),
            prepared(&format!("{name}1"), "SELECT x FROM fleeting"),
            asked("ROLLBACK TO s"),
            Say(vec![query(&format!("CREATE TABLE fleeting (x {made})"))]),
            prepared(name, "SELECT x FROM fleeting"),
            run(name),
            asked("ALTER TABLE fleeting ALTER x TYPE varchar(7)"),
            prepared(&format!("{name}2"), "SELECT x FROM fleeting"),
            run(&format!("{name}2")),
            asked("COMMIT"),
            run(&format!("{name}2")),
            asked("DROP TABLE fleeting"),
        ]);
    }
    let heard = alike(&beside, &mut mover, "a block's own table", steps).await;
    assert_eq!(heard.matches("E 0A000").count(), 0, "{heard}");
}
