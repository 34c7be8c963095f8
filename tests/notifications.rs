//! LISTEN and NOTIFY: what a client hears, when, from whom, and what it costs.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::beside::{Beside, Talk, Until};
use pgherd_tests::wire::{
    Message, RawClient, bind, execute, flush, parse, query, startup, sync, unnamed,
};
use pgherd_tests::{Cluster, TestCluster, sqlstate};

/// So long a notification that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long one that must not come is waited for.
const QUIET: Duration = Duration::from_millis(300);

/// What any single client sees of its own notifications, byte for byte but for the process id.
fn talks() -> Vec<(&'static str, Talk)> {
    let simple = |texts: &[&str]| {
        texts
            .iter()
            .fold(Talk::new(), |talk, text| talk.ready([query(text)]))
    };
    vec![
        (
            "one notifies itself",
            simple(&[
                "LISTEN a",
                "NOTIFY a",
                "NOTIFY a, 'x'",
                "NOTIFY b",
                "UNLISTEN a",
                "NOTIFY a",
            ]),
        ),
        (
            "names are folded and quoted",
            simple(&[
                "LISTEN Mixed",
                "NOTIFY \"mixed\"",
                "NOTIFY \"Mixed\"",
                "LISTEN \"We\"\"ird\"",
                "NOTIFY \"We\"\"ird\", 'x'",
            ]),
        ),
        (
            "a transaction hears nothing until it has ended",
            simple(&[
                "LISTEN a",
                "BEGIN",
                "NOTIFY a, '1'",
                "SELECT 1",
                "NOTIFY a, '2'",
                "NOTIFY a, '1'",
                "COMMIT",
                "SELECT 1",
            ]),
        ),
        (
            "LISTEN takes effect at COMMIT and hears what its transaction sends",
            simple(&[
                "BEGIN",
                "LISTEN a",
                "NOTIFY a, 'mine'",
                "COMMIT",
                "NOTIFY a, 'later'",
            ]),
        ),
        (
            "NOTIFY before LISTEN in one transaction",
            simple(&["BEGIN", "NOTIFY a, 'mine'", "LISTEN a", "COMMIT"]),
        ),
        (
            "ROLLBACK takes LISTEN and UNLISTEN back",
            simple(&[
                "BEGIN",
                "LISTEN a",
                "ROLLBACK",
                "NOTIFY a",
                "LISTEN b",
                "BEGIN",
                "UNLISTEN *",
                "ROLLBACK",
                "NOTIFY b",
            ]),
        ),
        (
            "savepoints",
            simple(&[
                "BEGIN",
                "LISTEN a",
                "SAVEPOINT s",
                "LISTEN b",
                "UNLISTEN a",
                "ROLLBACK TO s",
                "LISTEN c",
                "RELEASE s",
                "COMMIT",
                "NOTIFY a",
                "NOTIFY b",
                "NOTIFY c",
            ]),
        ),
        (
            "UNLISTEN in a transaction that notifies",
            simple(&[
                "LISTEN a",
                "BEGIN",
                "NOTIFY a",
                "UNLISTEN a",
                "COMMIT",
                "NOTIFY a",
                "LISTEN a",
                "NOTIFY a, 'again'",
            ]),
        ),
        (
            "an error in the transaction",
            simple(&[
                "BEGIN",
                "LISTEN a",
                "SELECT 1/0",
                "COMMIT",
                "NOTIFY a",
                "LISTEN a",
                "BEGIN",
                "NOTIFY a",
                "SELECT 1/0",
                "NOTIFY a",
                "ROLLBACK",
            ]),
        ),
        (
            "AND CHAIN",
            simple(&[
                "BEGIN",
                "LISTEN a",
                "NOTIFY a, '1'",
                "COMMIT AND CHAIN",
                "NOTIFY a, '2'",
                "LISTEN b",
                "ROLLBACK AND CHAIN",
                "NOTIFY b",
                "COMMIT",
            ]),
        ),
        (
            "several statements in one text",
            simple(&[
                "LISTEN a; LISTEN b; NOTIFY a, 'x'; NOTIFY b",
                "LISTEN c; SELECT 1/0",
                "NOTIFY c",
                "BEGIN; LISTEN d; COMMIT; NOTIFY d; SELECT 1",
                "LISTEN e; COMMIT; SELECT 1/0",
                "NOTIFY e",
                "BEGIN; LISTEN f",
                "COMMIT",
                "NOTIFY f",
                "UNLISTEN *; NOTIFY a",
            ]),
        ),
        (
            "the statements that end a session's use in a pool",
            simple(&[
                "LISTEN a",
                "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
                "NOTIFY a",
            ]),
        ),
        (
            "DISCARD ALL",
            simple(&["LISTEN a", "DISCARD ALL", "NOTIFY a"]),
        ),
        (
            "extended messages",
            Talk::new()
                .ready([unnamed("LISTEN a"), sync()])
                .ready([unnamed("NOTIFY a, 'one'"), sync()])
                .ready([
                    unnamed("LISTEN b"),
                    unnamed("NOTIFY b"),
                    unnamed("SELECT 1"),
                    sync(),
                ])
                .ready([unnamed("LISTEN c"), unnamed("SELECT 1/0"), sync()])
                .ready([unnamed("NOTIFY c"), sync()])
                .ready([
                    unnamed("BEGIN"),
                    unnamed("LISTEN d"),
                    unnamed("NOTIFY d"),
                    unnamed("COMMIT"),
                    sync(),
                ])
                .ready([unnamed("UNLISTEN *"), sync()])
                .ready([unnamed("NOTIFY a"), sync()]),
        ),
        (
            "a pipeline of transactions",
            Talk::new().say(
                [
                    unnamed("LISTEN a"),
                    sync(),
                    unnamed("NOTIFY a, '1'"),
                    sync(),
                    query("NOTIFY a, '2'"),
                    unnamed("SELECT 1"),
                    sync(),
                    query("UNLISTEN a"),
                    query("NOTIFY a, '3'"),
                ],
                Until::Ready(6),
            ),
        ),
        (
            "a prepared LISTEN",
            Talk::new()
                .ready([parse("l", "LISTEN a", &[]), sync()])
                .ready([bind("", "l", &[]), execute("", 0), sync()])
                .ready([query("NOTIFY a")]),
        ),
        (
            "a pipeline that is flushed",
            Talk::new()
                .quiet([unnamed("LISTEN a"), flush()])
                .quiet([unnamed("NOTIFY a"), flush()])
                .ready([sync()])
                .ready([query("NOTIFY a, 'x'")]),
        ),
    ]
}

async fn compare(beside: &Beside, more: &[(&str, Talk)]) {
    let mut differences = Vec::new();
    for (name, talk) in talks().iter().chain(more) {
        differences.extend(beside.difference(name, talk, false).await);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let pins = beside.cluster.console().await;
    let pins = pins.simple_query("SHOW PINS").await.unwrap();
    // clients that are gone have none, and nobody is pinned for listening
    assert!(!format!("{pins:?}").contains("listen"), "{pins:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_itself_as_from_postgres() {
    let beside = Beside::unsharded().await;
    let more = [
        (
            "mistakes",
            [
                "LISTEN",
                "LISTEN 'a'",
                "NOTIFY a, b",
                "UNLISTEN never",
                "UNLISTEN *",
                "NOTIFY a, 'x', 'y'",
            ]
            .iter()
            .fold(Talk::new(), |talk, text| talk.ready([query(text)])),
        ),
        (
            "pg_notify",
            Talk::new()
                .ready([query("LISTEN a")])
                .ready([query("SELECT pg_notify('a', 'x')")])
                .ready([query(
                    "SELECT pg_notify('a', n::text) FROM generate_series(1, 3) n",
                )]),
        ),
        (
            "another encoding",
            Talk::new()
                .ready([query("SET client_encoding = 'LATIN1'")])
                .ready([query("LISTEN a")])
                .ready([query("NOTIFY a, 'x'")]),
        ),
        (
            "LISTEN in a block, and another one that cannot be read",
            Talk::new()
                .ready([query("BEGIN")])
                .ready([query("LISTEN a")])
                .ready([query("NOTIFY a, 'x'")])
                .ready([query("DO $$ BEGIN EXECUTE 'LISTEN b'; END $$")])
                .ready([query("COMMIT")])
                .ready([query("UNLISTEN *")]),
        ),
        (
            "LISTEN that cannot be read",
            Talk::new()
                .ready([query("DO $$ BEGIN EXECUTE 'LISTEN a'; END $$")])
                .ready([query("NOTIFY a")])
                .ready([query("UNLISTEN a")])
                .ready([query("NOTIFY a")]),
        ),
        (
            "LISTEN beside code that cannot be read",
            Talk::new()
                .ready([query("LISTEN a; DO $$ BEGIN EXECUTE 'LISTEN b'; END $$")])
                .ready([query("NOTIFY a")])
                .ready([query("NOTIFY b")])
                .ready([query("UNLISTEN *")])
                .ready([query("NOTIFY a; NOTIFY b")]),
        ),
    ];
    compare(&beside, &more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_sharded_database_hears_itself_as_from_postgres() {
    let beside = Beside::sharded().await;
    let more = [(
        "NOTIFY goes with what its transaction writes",
        Talk::new()
            .ready([query("LISTEN a")])
            .ready([query("BEGIN")])
            .ready([query("INSERT INTO users (id) VALUES (1)")])
            .ready([query("NOTIFY a, '1'")])
            .ready([query("COMMIT")])
            .ready([query("INSERT INTO users (id) VALUES (2); NOTIFY a, '2'")])
            .ready([query("INSERT INTO users (id) VALUES (3); NOTIFY a, '3'")])
            .ready([
                unnamed("INSERT INTO users (id) VALUES (4)"),
                unnamed("NOTIFY a, '4'"),
                sync(),
            ])
            .ready([query("BEGIN; NOTIFY a, '5'")])
            .ready([query("INSERT INTO users (id) VALUES (5)")])
            .ready([query("LISTEN b")])
            .ready([query("COMMIT")])
            .ready([query("NOTIFY b")]),
    )];
    compare(&beside, &more).await;
}

/// A client with the process id that it was told.
async fn log_in(cluster: &Cluster) -> (RawClient, i32) {
    let mut client = RawClient::connect(&cluster.endpoint()).await;
    client.send(&startup(3 << 16, "app", "shop")).await;
    let greeting = client.until_ready().await;
    let key = greeting.iter().find(|message| message.tag == b'K').unwrap();
    (client, number(&key.body))
}

fn number(body: &[u8]) -> i32 {
    i32::from_be_bytes(body[..4].try_into().unwrap())
}

/// Process id, channel and payload.
fn notification(message: &Message) -> (i32, String, String) {
    assert_eq!(message.tag, b'A', "{message:?}");
    let mut texts = message.body[4..].split(|byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(texts.next().unwrap()).into_owned();
    (number(&message.body), text(), text())
}

async fn hears(client: &mut RawClient) -> (i32, String, String) {
    let message = tokio::time::timeout(PATIENCE, client.message())
        .await
        .expect("a notification comes");
    notification(&message.expect("the connection is open"))
}

async fn hears_nothing(client: &mut RawClient) {
    let message = tokio::time::timeout(QUIET, client.message()).await;
    assert!(message.is_err(), "{message:?}");
}

fn trusting(cluster: TestCluster) -> TestCluster {
    cluster.configure(|configuration| {
        configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
    })
}

fn is_refused(answers: &[Message]) -> bool {
    answers.iter().any(|answer| answer.tag == b'E')
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_listen_over_one_connection_and_hear_who_notified() {
    let cluster = trusting(TestCluster::new().shards(1))
        .configure(|configuration| {
            configuration.sharding.clear();
            // fewer than clients that listen
            configuration.database = "pool: { size: 2 }".into();
        })
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (mut client, pid) = log_in(&cluster).await;
        assert!(!is_refused(&client.query("LISTEN news").await));
        clients.push((client, pid));
    }
    let console = cluster.console().await;
    let pins = console.simple_query("SHOW PINS").await.unwrap();
    assert!(!format!("{pins:?}").contains("listen"), "{pins:?}");
    for sender in 0..10 {
        let pid = clients[sender].1;
        let answers = clients[sender].0.query("NOTIFY news, 'hello'").await;
        let own = answers.iter().find(|message| message.tag == b'A').unwrap();
        let expected = (pid, "news".to_owned(), "hello".to_owned());
        assert_eq!(notification(own), expected);
        for (index, (client, _)) in clients.iter_mut().enumerate() {
            if index != sender {
                assert_eq!(hears(client).await, expected);
            }
        }
    }
    // one connection listens, and no pooled one is left doing so
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    let rows = cluster.shard(0).primary().sql(listening).await.unwrap();
    let count: usize = rows[0][0].as_deref().unwrap().parse().unwrap();
    assert!(count <= 3, "{count} connections");
    for (client, _) in clients.iter_mut().take(3) {
        let answers = client
            .query("SELECT count(*) FROM pg_listening_channels()")
            .await;
        let row = answers.iter().find(|answer| answer.tag == b'D').unwrap();
        assert_eq!(row.body.last(), Some(&b'0'));
    }
    let (_, metrics) = cluster.http("/metrics").await;
    assert!(
        metrics.contains("pgherd_listened_channels{database=\"shop\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_hears_of_others_when_it_has_ended() {
    let cluster = trusting(TestCluster::new().shop()).start().await;
    let (mut listener, _) = log_in(&cluster).await;
    let (mut sender, pid) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    listener.query("BEGIN").await;
    listener.query("SELECT 1").await;
    sender.query("NOTIFY news, 'within'").await;
    hears_nothing(&mut listener).await;
    assert_eq!(listener.query("SELECT 1").await.len(), 4);
    let answers = listener.query("COMMIT").await;
    let tags: Vec<u8> = answers.iter().map(|message| message.tag).collect();
    assert_eq!(tags, *b"CAZ");
    assert_eq!(
        notification(&answers[1]),
        (pid, "news".into(), "within".into())
    );
    // nor within a pipeline that is not at its end
    listener.send(&unnamed("SELECT 1")).await;
    listener.send(&flush()).await;
    for _ in 0..4 {
        listener.message().await.unwrap();
    }
    sender.query("NOTIFY news, 'between'").await;
    hears_nothing(&mut listener).await;
    listener.send(&sync()).await;
    let answers = listener.until_ready().await;
    assert_eq!(notification(&answers[0]).2, "between");
    // and what was committed before LISTEN is not heard
    sender.query("NOTIFY other, 'early'").await;
    listener.query("LISTEN other").await;
    sender.query("NOTIFY other, 'late'").await;
    assert_eq!(hears(&mut listener).await.2, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shard_is_heard_and_only_the_own_process_id_is_a_clients() {
    let cluster = trusting(TestCluster::new().shards(3).shop()).start().await;
    let (mut listener, own) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    for shard in cluster.herd().shards() {
        let said = format!("NOTIFY news, '{}'", shard.name());
        shard.primary().sql(&said).await.unwrap();
        let (pid, _, payload) = hears(&mut listener).await;
        assert_eq!(payload, shard.name());
        assert_ne!(pid, own);
    }
    // a function that tells of each row, whichever shard it lies on
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql(
                "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 PERFORM pg_notify('news', NEW.id::text); RETURN NEW; END $$; \
                 CREATE TRIGGER tell AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION tell()",
            )
            .await
            .unwrap();
    }
    // also within the transaction that begins to listen
    let (mut begins, _) = log_in(&cluster).await;
    for id in [101, 102] {
        begins.query("BEGIN").await;
        begins.query("LISTEN news").await;
        let insert = format!("INSERT INTO users (id) VALUES ({id})");
        begins.query(&insert).await;
        let mut answers = begins.query("COMMIT").await;
        answers.retain(|answer| answer.tag == b'A');
        let heard = match answers.pop() {
            Some(message) => notification(&message),
            None => hears(&mut begins).await,
        };
        assert_eq!(heard.2, id.to_string());
        assert_eq!(hears(&mut listener).await.2, id.to_string());
        begins.query("UNLISTEN *").await;
    }
    let client = cluster.connect("app").await;
    for id in 1..=9 {
        let insert = format!("INSERT INTO users (id) VALUES ({id})");
        client.batch_execute(&insert).await.unwrap();
        assert_eq!(hears(&mut listener).await.2, id.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_over_several_shards_hears_itself_on_a_connection_of_its_own() {
    let cluster = trusting(TestCluster::new().shards(3).shop())
        .configure(|configuration| {
            configuration.sharding.push_str("\nfunctions: { hear: [] }");
        })
        .start()
        .await;
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql("CREATE FUNCTION hear() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'LISTEN others'; END $$")
            .await
            .unwrap();
    }
    let (mut client, _) = log_in(&cluster).await;
    client.query("LISTEN before").await;
    client.query("BEGIN").await;
    for id in 1..=9 {
        let read = format!("SELECT name FROM users WHERE id = {id}");
        client.query(&read).await;
    }
    client.query("SELECT hear()").await;
    for sql in ["LISTEN news", "LISTEN before"] {
        client.query(sql).await;
    }
    for sql in ["NOTIFY news", "NOTIFY before", "NOTIFY others"] {
        client.query(sql).await;
    }
    let mut heard = Vec::new();
    for message in client.query("COMMIT").await {
        if message.tag == b'A' {
            heard.push(notification(&message).1);
        }
    }
    while heard.len() < 3 {
        heard.push(hears(&mut client).await.1);
    }
    heard.sort();
    assert_eq!(heard, ["before", "news", "others"]);
    hears_nothing(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_every_shard_notifies_once() {
    let cluster = trusting(TestCluster::new().shards(3).shop()).start().await;
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql(
                "CREATE FUNCTION tell(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
                 PERFORM pg_notify('news', 'indexed'); RETURN $1; END $$; \
                 CREATE INDEX ON users (tell(name)); \
                 INSERT INTO users (id, name) VALUES (1, 'one')",
            )
            .await
            .unwrap();
    }
    let (mut listener, own) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    let client = cluster.connect("app").await;
    client.batch_execute("REINDEX TABLE users").await.unwrap();
    let (pid, _, payload) = hears(&mut listener).await;
    assert_eq!(payload, "indexed");
    assert_ne!(pid, own);
    hears_nothing(&mut listener).await;
    // what is all or none cannot notify on every shard: Postgres says so, and nothing is kept
    let error = client
        .batch_execute("CREATE INDEX other ON users (tell(name))")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "0A000", "{error:?}");
    hears_nothing(&mut listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_listening_connection_ends_those_who_listen_and_nobody_else() {
    let cluster = trusting(TestCluster::new().shards(2)).start().await;
    let (mut listener, _) = log_in(&cluster).await;
    let (mut in_block, _) = log_in(&cluster).await;
    let (mut left, _) = log_in(&cluster).await;
    let (mut never, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    in_block.query("LISTEN news").await;
    in_block.query("BEGIN").await;
    in_block.query("SELECT 1").await;
    left.query("LISTEN news").await;
    left.query("UNLISTEN *").await;
    never.query("SELECT 1").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE usename = 'app' AND application_name = 'pgherd listening'";
    let rows = cluster.shard(1).primary().sql(end).await.unwrap();
    assert_eq!(rows.len(), 1);
    let said = listener.message().await.unwrap();
    assert_eq!(said.field(b'S').as_deref(), Some("FATAL"));
    assert_eq!(said.field(b'C').as_deref(), Some("57P01"));
    assert!(said.field(b'M').unwrap().contains("may have been missed"));
    assert_eq!(listener.message().await, None);
    // a transaction may end first
    hears_nothing(&mut in_block).await;
    let answers = in_block.query("COMMIT").await;
    assert_eq!(answers[0].tag, b'C');
    let said = in_block.message().await.unwrap();
    assert_eq!(said.field(b'C').as_deref(), Some("57P01"));
    for client in [&mut left, &mut never] {
        assert!(!is_refused(&client.query("SELECT 1").await));
    }
    // and listening begins anew
    assert!(!is_refused(&never.query("LISTEN news").await));
    left.query("NOTIFY news").await;
    assert_eq!(hears(&mut never).await.1, "news");
    let (_, metrics) = cluster.http("/metrics").await;
    assert!(
        metrics.contains("reason=\"connection_lost\"} 2"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_primary_ends_those_who_listen() {
    let cluster = trusting(TestCluster::new().shards(1).replicas(1))
        .start()
        .await;
    let (mut listener, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    cluster.shard(0).primary().kill9();
    let said = listener.message().await.unwrap();
    assert_eq!(said.field(b'C').as_deref(), Some("57P01"));
    cluster.shard(0).promote("s0b").await.unwrap();
    let begun = Instant::now();
    loop {
        let (mut listener, pid) = log_in(&cluster).await;
        if !is_refused(&listener.query("LISTEN news").await) {
            let answers = listener.query("NOTIFY news").await;
            assert_eq!(notification(&answers[1]).0, pid);
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_ended() {
    let cluster = trusting(TestCluster::new().shards(1)).start().await;
    let (mut listener, _) = log_in(&cluster).await;
    let (mut good, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    listener.query("BEGIN").await;
    good.query("LISTEN other").await;
    let client = cluster.connect("app").await;
    for round in 0..3 {
        let many = format!(
            "SELECT count(pg_notify('news', repeat('x', 7000) || n || '-' || {round})) FROM generate_series(1, 500) n"
        );
        client.batch_execute(&many).await.unwrap();
    }
    client.batch_execute("NOTIFY other").await.unwrap();
    assert_eq!(hears(&mut good).await.1, "other");
    let answers = listener.query("COMMIT").await;
    assert_eq!(answers[0].tag, b'C');
    let said = listener.message().await.unwrap();
    assert_eq!(said.field(b'C').as_deref(), Some("54000"));
    assert!(
        said.field(b'M')
            .unwrap()
            .contains("does not take its notifications")
    );
    assert_eq!(listener.message().await, None);
    let (_, metrics) = cluster.http("/metrics").await;
    assert!(metrics.contains("reason=\"too_slow\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_hears_more_than_may_wait_at_once() {
    let cluster = trusting(TestCluster::new().shards(1)).start().await;
    let (mut listener, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    let client = cluster.connect("app").await;
    let many =
        "SELECT count(pg_notify('news', repeat('x', 7000) || n)) FROM generate_series(1, 8000) n";
    let sent = tokio::spawn(async move { client.batch_execute(many).await });
    for n in 1..=8000 {
        let (_, _, payload) = hears(&mut listener).await;
        assert!(payload.ends_with(&format!("x{n}")), "{n}");
    }
    sent.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_notified_is_never_mistaken_however_busy_the_pool_is() {
    let cluster = trusting(TestCluster::new().shards(1))
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.database = "pool: { size: 3 }".into();
        })
        .start()
        .await;
    let (mut listener, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    let mut senders = tokio::task::JoinSet::new();
    for index in 0..12 {
        let (mut sender, pid) = log_in(&cluster).await;
        senders.spawn(async move {
            for round in 0..20 {
                let said = format!("'{pid}-{round}'");
                match (index + round) % 4 {
                    0 => drop(sender.query(&format!("NOTIFY news, {said}")).await),
                    1 => drop(
                        sender
                            .query(&format!("SELECT pg_notify('news', {said})"))
                            .await,
                    ),
                    2 => {
                        for text in ["BEGIN", &format!("NOTIFY news, {said}"), "COMMIT"] {
                            sender.query(text).await;
                        }
                    }
                    _ => {
                        sender.send(&unnamed(&format!("NOTIFY news, {said}"))).await;
                        sender.send(&sync()).await;
                        sender.until_ready().await;
                        // comes and goes, on the connections that others notify on
                        sender.query("LISTEN other").await;
                        sender.query("BEGIN; NOTIFY news, 'never'; ROLLBACK").await;
                        sender.query("UNLISTEN other").await;
                    }
                }
            }
        });
    }
    let mut last = std::collections::HashMap::new();
    for _ in 0..12 * 20 {
        let (pid, _, payload) = hears(&mut listener).await;
        let (said, round) = payload.split_once('-').unwrap();
        assert_eq!(said, pid.to_string());
        // and in the order in which each one sent
        let round: i32 = round.parse().unwrap();
        let before = last.insert(pid, round).unwrap_or(-1);
        assert_eq!(round, before + 1);
    }
    senders.join_all().await;
    hears_nothing(&mut listener).await;
    // no connection of the pool is left listening
    let mut pooled = Vec::new();
    for _ in 0..3 {
        let (mut client, _) = log_in(&cluster).await;
        client.query("BEGIN").await;
        let answers = client
            .query("SELECT count(*) FROM pg_listening_channels()")
            .await;
        let row = answers.iter().find(|answer| answer.tag == b'D').unwrap();
        assert_eq!(row.body.last(), Some(&b'0'));
        pooled.push(client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_ended_though_it_is_idle() {
    let cluster = trusting(TestCluster::new().shards(1)).start().await;
    let (mut listener, _) = log_in(&cluster).await;
    listener.query("LISTEN news").await;
    let client = cluster.connect("app").await;
    let mut round = 0;
    loop {
        let many = format!(
            "SELECT count(pg_notify('news', repeat('x', 7000) || n || '-' || {round})) FROM generate_series(1, 500) n"
        );
        client.batch_execute(&many).await.unwrap();
        let (_, metrics) = cluster.http("/metrics").await;
        if metrics.contains("reason=\"too_slow\"} 1") {
            break;
        }
        round += 1;
        assert!(round < 20, "the sockets cannot hold so much");
    }
    let mut heard = 0;
    loop {
        let message = listener.message().await.expect("it is told why");
        if message.tag == b'E' {
            assert_eq!(message.field(b'C').as_deref(), Some("54000"));
            break;
        }
        let (_, _, payload) = notification(&message);
        // without a gap up to there
        let expected = format!("x{}-{}", heard % 500 + 1, heard / 500);
        assert!(payload.ends_with(&expected), "{expected}");
        heard += 1;
    }
    assert_eq!(listener.message().await, None);
}
