//! What pgherd cannot prove to answer as one Postgres would, it refuses with 0A000 and a hint, before anything ran.
#![allow(clippy::unwrap_used)]

use pgherd_tests::beside::{Beside, Talk};
use pgherd_tests::wire::{RawClient, parse, query, sync, unnamed};
use pgherd_tests::{TestCluster, sqlstate};

/// `{a}` and `{b}` are ids on different shards.
const REFUSED: &[&str] = &[
    "SELECT * FROM users LIMIT 10",
    "SELECT * FROM users OFFSET 5",
    "SELECT country, count(*) FROM users GROUP BY country ORDER BY count(*) LIMIT 2",
    "INSERT INTO users (id) VALUES ({a}00001), ({a}00002), ({a}00003), ({a}00004), ({a}00005), ({a}00006), ({a}00007), ({a}00008)",
    "INSERT INTO users (name) VALUES ('nobody')",
    "INSERT INTO users (id, name) SELECT id + 1000, name FROM users",
    "SELECT name FROM users WHERE id = {a} UNION SELECT name FROM users WHERE id = {b}",
    "SELECT count(*) FROM users WHERE EXISTS (SELECT FROM orders WHERE user_id = {a})",
    "SELECT count(*) FROM users WHERE id IN (SELECT user_id FROM orders WHERE id = {a})",
    "SELECT sum(CASE WHEN id = {a} THEN 1 END) FROM users",
    "SELECT count(*) FROM users a LEFT JOIN users b ON b.id = {a}",
    "SELECT name FROM users WHERE id IN ({a}, length(name))",
    "SELECT name FROM users WHERE id = {a} OR id = {b}",
    "SELECT name FROM users WHERE id = ANY(ARRAY[{a}, {b}])",
    "SELECT coalesce(sum(id), 0) FROM users",
    "SELECT count(DISTINCT name)::int FROM users",
    "SELECT count(*) OVER () FROM users",
    "SELECT name FROM users GROUP BY name HAVING count(*) > 1",
    "SELECT name FROM users ORDER BY name",
    "SELECT DISTINCT ON (country) name FROM users",
    "SELECT count(*) FROM users u JOIN orders o ON o.id = u.id",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM users",
    "UPDATE users SET id = {b} WHERE id = {a}",
    "UPDATE users SET name = 'all'",
    "DELETE FROM orders",
    "DELETE FROM settings USING users",
    "SELECT avg(amount) FROM orders",
    "SELECT name FROM users WHERE id = {a}::float8",
    "SELECT name FROM users WHERE id <> {a}",
    "SELECT name FROM users WHERE NOT id = {a}",
    "SELECT name FROM users WHERE id = {a} OR true",
    "SELECT name FROM users WHERE name = 'u{a}'",
    "SELECT everyone.name FROM everyone WHERE id = {a}",
    "COPY users FROM STDIN",
    "COPY users TO STDOUT",
    "MERGE INTO users u USING orders o ON u.id = o.user_id WHEN MATCHED THEN DELETE",
    "TABLE users",
    "SELECT u FROM users u",
    "SELECT how_many()",
    "CREATE TEMP TABLE scratch (a int); INSERT INTO scratch VALUES (1); SELECT * FROM scratch",
    "CREATE TABLE public.made (a int); INSERT INTO public.made VALUES (1)",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unprovable_is_answered_and_nothing_of_it_runs() {
    let cluster = TestCluster::new().shards(2).shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE VIEW everyone AS SELECT * FROM users")
        .await
        .unwrap_or_default();
    client
        .batch_execute(
            "CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM users'",
        )
        .await
        .unwrap_or_default();
    let mut shards: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
    for id in 1..30 {
        let traced = cluster
            .trace(
                &client,
                &format!("INSERT INTO users VALUES ({id}, 'u{id}', 'de')"),
            )
            .await
            .unwrap();
        shards[usize::from(traced.servers[0] == "s1a")].push(id);
        client
            .batch_execute(&format!("INSERT INTO orders VALUES ({id}, {id}, 1)"))
            .await
            .unwrap();
    }
    let checksum = "SELECT md5(string_agg(u::text, ',' ORDER BY id)) || (SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o) FROM users u";
    let before = cluster.on_each_primary(checksum).await;
    let mut answered = Vec::new();
    for statement in REFUSED {
        let statement = statement
            .replace("{a}", &shards[0][0].to_string())
            .replace("{b}", &shards[1][0].to_string());
        // also within a block whose only server has not all tables
        let elsewhere = format!("SELECT name FROM users WHERE id = {}", shards[1][0]);
        for ahead in [&[][..], &["BEGIN", &elsewhere]] {
            for text in ahead {
                client.simple_query(text).await.unwrap();
            }
            match client.simple_query(&statement).await {
                Ok(_) => answered.push(statement.clone()),
                Err(error) => {
                    let state = sqlstate(&error);
                    let hint = error.as_db_error().and_then(|error| error.hint());
                    if state != "0A000" || hint.is_none() {
                        answered.push(format!("{ahead:?} {statement}  -- {error:?}"));
                    }
                }
            }
            client.simple_query("ROLLBACK").await.unwrap();
            let connected = client.simple_query("SELECT 1").await;
            assert!(connected.is_ok(), "after {statement}: {connected:?}");
        }
    }
    assert!(answered.is_empty(), "not refused:\n{}", answered.join("\n"));
    assert_eq!(cluster.on_each_primary(checksum).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_written_as_a_fraction_lies_where_its_rounded_value_is_looked_for() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    for n in 0..20 {
        let insert = format!("INSERT INTO users (id) VALUES ({n}.6)");
        if let Err(error) = client.batch_execute(&insert).await {
            assert_eq!(sqlstate(&error), "0A000");
            continue;
        }
        let rows = client
            .query(&format!("SELECT id FROM users WHERE id = {}", n + 1), &[])
            .await
            .unwrap();
        assert_eq!(rows.len(), 1, "{insert}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_named_nowhere_are_refused_where_so_configured() {
    let cluster = TestCluster::new()
        .configure(|configuration| {
            configuration.sharding = "
tables:
  users: { key: id }
unlisted: refuse"
                .into();
        })
        .start()
        .await;
    let client = cluster.connect("app").await;
    let error = client
        .batch_execute("CREATE TABLE stray (id int)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
}

/// What is wrong on any Postgres is told in its words, with its SQLSTATE and the position in the client's text.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_anywhere_is_said_as_postgres_says_it() {
    const WRONG: &[&str] = &[
        "SELECT * FROM nothing_here",
        "SELECT id FROM users WHERE nothing_here = 1",
        "SELECT nothing_here FROM users",
        "SELECT u.nothing_here FROM users u WHERE id = 1",
        "SELECT nothing_here(1)",
        "SELECT lower(id) FROM users",
        "SELEC 1",
        "SELECT * FROM users WHERE",
        "SELECT 'ä', * FROM users WHERE id = = 1",
        "INSERT INTO users (id, nothing_here) VALUES (1, 2)",
        "INSERT INTO nothing_here VALUES (1)",
        "UPDATE users SET nothing_here = 1",
        "DELETE FROM users WHERE nothing_here",
        "SELECT 'x'::int FROM users",
        "SELECT id::nothing_here FROM users",
        "SELECT count(*) FROM users ORDER BY nothing_here",
        "SELECT id, count(*) FROM users",
        "CREATE TABLE made (a int,, b int)",
        "SELECT * FROM nothing_here.users",
        "SELECT 1 FROM users u, orders u",
    ];
    let beside = Beside::sharded().await;
    let mut plain = RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await;
    let mut ours = RawClient::log_in(&beside.cluster.endpoint(), "app", "shop").await;
    let mut different = String::new();
    for prefix in ["", "BEGIN"] {
        for sql in WRONG {
            let unnamed = [parse("", sql, &[]), sync()].concat();
            for said in [query(sql).to_vec(), unnamed] {
                let mut heard = Vec::new();
                for client in [&mut plain, &mut ours] {
                    if !prefix.is_empty() {
                        client.query(prefix).await;
                    }
                    client.send(&said).await;
                    let answers = client.until_ready().await;
                    let error = answers.iter().find(|message| message.tag == b'E').unwrap();
                    heard.push(b"CMP".map(|field| error.field(field)));
                    client.query("ROLLBACK").await;
                }
                if heard[0] != heard[1] {
                    different += &format!(
                        "{prefix} {sql}\n  Postgres {:?}\n  pgherd   {:?}\n",
                        heard[0], heard[1]
                    );
                }
            }
        }
    }
    assert!(different.is_empty(), "{different}");
}

/// Messages ahead of one that is wrong are carried out first, also within a block.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_something_wrong_is_answered() {
    let beside = Beside::sharded().await;
    for begin in ["SELECT 1", "BEGIN"] {
        let talk = Talk::new()
            .ready([query(begin)])
            .ready([
                unnamed("SELECT 7"),
                unnamed("SELECT nothing_here FROM users"),
                unnamed("SELECT 8"),
                sync(),
            ])
            .ready([query("ROLLBACK")])
            .ready([query("SELECT 9")]);
        let difference = beside.difference(begin, &talk, false).await;
        assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
}
