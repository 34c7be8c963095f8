//! Types of users have other object ids on each shard; a client is shown the home shard's, wherever they stand.
#![allow(clippy::unwrap_used)]

use bytes::BufMut;
use pgherd_tests::wire::{
    Message, RawClient, bind, bind_in, describe, execute, flush, parse, query, sync,
};
use pgherd_tests::{Cluster, TestCluster};

const TYPES: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE TYPE pair AS (number int, mood mood, moods mood[])",
    "CREATE TYPE moodrange AS RANGE (subtype = mood)",
    "CREATE DOMAIN pairs AS pair[]",
    "CREATE TABLE documents (id bigint PRIMARY KEY, mood mood, moods mood[], pair pair, pairs pairs, \
     span moodrange, spans moodmultirange, rows pair[])",
];
const VALUES: &str = "'ok', '{sad,NULL,happy}', '(7,happy,\"{sad,ok}\")', '{\"(1,sad,\\\"{ok}\\\")\",NULL}', \
     '[sad,happy)', '{[sad,ok)}', '{\"(2,,)\"}'";
const COLUMNS: &str =
    "mood, moods, pair, pairs, span, spans, rows, ROW(mood, moods, 1), ARRAY[pair]";
const IDS: std::ops::Range<i64> = 1..9;

async fn cluster() -> Cluster {
    let cluster = TestCluster::new()
        .shards(3)
        .configure(|configuration| {
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
        })
        .start()
        .await;
    for (number, shard) in cluster.herd().shards().iter().enumerate() {
        for name in 0..number * 3 {
            let junk = format!("CREATE TYPE junk{name} AS (a int); DROP TYPE junk{name}");
            shard.primary().sql(&junk).await.unwrap();
        }
    }
    let client = cluster.connect("app").await;
    for statement in TYPES {
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    for id in IDS {
        client
            .batch_execute(&format!("INSERT INTO documents VALUES ({id}, {VALUES})"))
            .await
            .unwrap();
    }
    let differ = cluster.on_each_primary("SELECT 'mood'::regtype::oid").await;
    assert!(
        differ[0] != differ[1] && differ[1] != differ[2],
        "{differ:?}"
    );
    cluster
}

/// The first value of each row of an answer that has no error.
fn rows(answers: &[Message]) -> Vec<&[u8]> {
    assert!(
        answers.iter().all(|answer| answer.tag != b'E'),
        "{:?}",
        answers.iter().find_map(|answer| answer.field(b'M'))
    );
    answers
        .iter()
        .filter(|answer| answer.tag == b'D')
        .map(|row| row.body.as_slice())
        .collect()
}

/// The values of a DataRow.
fn values(mut row: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    row = &row[2..];
    while let Some((length, rest)) = row.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        values.push(rest[..length].to_vec());
        row = &rest[length..];
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shard_answers_with_the_same_bytes() {
    let cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE id = $1");
    for results in [&[0][..], &[1][..]] {
        let mut first: Option<Vec<Message>> = None;
        for id in IDS {
            client.send(&parse("", &sql, &[20])).await;
            client.send(&describe('S', "")).await;
            let id = id.to_string();
            client
                .send(&bind_in("", "", &[], &[id.as_bytes()], results))
                .await;
            client.send(&describe('P', "")).await;
            client.send(&execute("", 0)).await;
            client.send(&sync()).await;
            let answers = client.until_ready().await;
            assert_eq!(rows(&answers).len(), 1);
            match &first {
                None => first = Some(answers),
                Some(first) => assert_eq!(*first, answers, "id {id} in formats {results:?}"),
            }
        }
    }
    // by a simple query too
    let mut first: Option<Vec<Message>> = None;
    for id in IDS {
        let answers = client
            .query(&format!("SELECT {COLUMNS} FROM documents WHERE id = {id}"))
            .await;
        assert_eq!(rows(&answers).len(), 1);
        assert_eq!(*first.get_or_insert_with(|| answers.clone()), answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_description_are_translated_too() {
    let cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let sql = format!("SELECT {COLUMNS} FROM documents WHERE id = $1");
    client.send(&parse("known", &sql, &[20])).await;
    client.send(&sync()).await;
    client.until_ready().await;
    let mut first: Option<Vec<Message>> = None;
    for id in IDS {
        let id = id.to_string();
        client
            .send(&bind_in("p", "known", &[], &[id.as_bytes()], &[1]))
            .await;
        // in portions, across a Flush
        client.send(&flush()).await;
        client.send(&execute("p", 1)).await;
        client.send(&execute("p", 1)).await;
        client.send(&sync()).await;
        let answers = client.until_ready().await;
        assert_eq!(rows(&answers).len(), 1);
        assert_eq!(*first.get_or_insert_with(|| answers.clone()), answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_parameters_reach_every_shard_with_its_own_ids() {
    let cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let columns = "moods, pair, pairs, span, spans, rows";
    let select = format!("SELECT {columns} FROM documents WHERE id = 1");
    client.send(&parse("", &select, &[])).await;
    client.send(&bind_in("", "", &[], &[], &[1])).await;
    client.send(&describe('P', "")).await;
    client.send(&execute("", 0)).await;
    client.send(&sync()).await;
    let answers = client.until_ready().await;
    let given = values(rows(&answers)[0]);
    let update = "UPDATE documents SET moods = $2, pair = $3, pairs = $4, span = $5, spans = $6, rows = $7 WHERE id = $1";
    for described in [true, false] {
        for id in IDS {
            let sql = format!(
                "UPDATE documents SET moods = NULL, pair = NULL, rows = NULL WHERE id = {id}"
            );
            rows(&client.query(&sql).await);
            client.send(&parse("u", update, &[20])).await;
            if described {
                client.send(&describe('S', "u")).await;
                client.send(&sync()).await;
                let answers = client.until_ready().await;
                rows(&answers);
            }
            let mut key = Vec::new();
            key.put_i64(id);
            let mut all: Vec<&[u8]> = vec![&key];
            all.extend(given.iter().map(Vec::as_slice));
            client.send(&bind_in("", "u", &[1], &all, &[])).await;
            client.send(&execute("", 0)).await;
            client.send(&pgherd_tests::wire::close('S', "u")).await;
            client.send(&sync()).await;
            let answers = client.until_ready().await;
            rows(&answers);
            let stored = client
                .query(&format!(
                    "SELECT ROW({columns})::text FROM documents WHERE id = {id}"
                ))
                .await;
            let text = String::from_utf8_lossy(rows(&stored)[0]).into_owned();
            assert!(
                text.contains("sad,NULL,happy"),
                "id {id}, described {described}: {text}"
            );
            assert!(
                text.contains("(2,,)"),
                "id {id}, described {described}: {text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_types_are_the_home_shards() {
    let cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let home = cluster.on_each_primary("SELECT 'mood'::regtype::oid").await[0]
        .parse()
        .unwrap();
    for id in IDS {
        client
            .send(&parse(
                "",
                "SELECT count(*) FROM documents WHERE id = $1 AND mood = $2",
                &[20, home],
            ))
            .await;
        client.send(&describe('S', "")).await;
        let id = id.to_string();
        client.send(&bind("", "", &[&id, "ok"])).await;
        client.send(&execute("", 0)).await;
        client.send(&sync()).await;
        let answers = client.until_ready().await;
        assert_eq!(values(rows(&answers)[0]), [b"1"]);
        let described = answers.iter().find(|answer| answer.tag == b't').unwrap();
        assert_eq!(described.body[6..10], home.to_be_bytes());
    }
    client.send(&query("SELECT 1")).await;
    rows(&client.until_ready().await);
}
