//! Transactions: on one shard as on one Postgres; what would need several is refused before it does half of it.
#![allow(clippy::unwrap_used)]

use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Two user ids that live on different shards.
async fn ids_apart(cluster: &Cluster, client: &Client) -> (i64, i64) {
    let mut first = None;
    for id in 1..200 {
        let traced = cluster
            .trace(client, &format!("SELECT id FROM users WHERE id = {id}"))
            .await
            .unwrap();
        let shard = traced.servers[0][..2].to_owned();
        match &first {
            None => first = Some((id, shard)),
            Some((other, elsewhere)) if *elsewhere != shard => return (*other, id),
            Some(_) => {}
        }
    }
    panic!("two hundred ids on one shard");
}

async fn users(cluster: &Cluster) -> u32 {
    let counts = cluster.on_each_primary("SELECT count(*) FROM users").await;
    counts
        .iter()
        .map(|count| count.parse::<u32>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_acts_in_a_role_commits_over_shards_and_stays_in_it() {
    let cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.database = "pool: { size: 1 }".into())
        .start()
        .await;
    for shard in cluster.herd().shards() {
        let role = "CREATE ROLE other; GRANT other TO app; GRANT ALL ON countries TO other";
        shard.primary().sql(role).await.unwrap();
    }
    let client = cluster.connect("app").await;
    let asks = async |client: &Client, sql: &str| {
        let messages = client.simple_query(sql).await.unwrap();
        messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    };
    for number in 0..2 {
        client.batch_execute("SET ROLE other").await.unwrap();
        let insert = format!("INSERT INTO countries VALUES ('a{number}', 'A')");
        client.batch_execute(&insert).await.unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        let insert = format!("INSERT INTO countries VALUES ('b{number}', 'B')");
        client.batch_execute(&insert).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        for shard in ["s0", "s1"] {
            let there = format!("SET pgherd.shard = '{shard}'");
            client.batch_execute(&there).await.unwrap();
            let role = asks(&client, "SELECT current_user").await;
            assert_eq!(role.as_deref(), Some("other"), "{shard}");
            // on the same connection, which is the only one
            let nobody = cluster.connect("app").await;
            nobody.batch_execute(&there).await.unwrap();
            let role = asks(&nobody, "SELECT current_user").await;
            assert_eq!(role.as_deref(), Some("app"), "{shard}");
        }
        client.batch_execute("RESET pgherd.shard").await.unwrap();
    }
    let count = "SELECT count(*) FROM countries";
    assert_eq!(cluster.on_each_primary(count).await, ["4", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_commits_rolls_back_and_keeps_savepoints() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("BEGIN; INSERT INTO users (id) VALUES (1); ROLLBACK")
        .await
        .unwrap();
    assert_eq!(users(&cluster).await, 0);
    for statement in [
        "BEGIN",
        "INSERT INTO users (id) VALUES (1)",
        "SAVEPOINT one",
        "UPDATE users SET name = 'lost' WHERE id = 1",
        "ROLLBACK TO one",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    assert_eq!(users(&cluster).await, 0, "not committed yet");
    client.batch_execute("COMMIT").await.unwrap();
    let row = client
        .query_one("SELECT name FROM users WHERE id = 1", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<&str>>(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_the_block_refuses_all_until_its_end() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    let division = client
        .batch_execute("UPDATE users SET id = id, name = (1 / 0)::text WHERE id = 1")
        .await;
    let state = division.map_err(|error| sqlstate(&error)).unwrap_err();
    assert!(["22012", "0A000"].contains(&state.as_str()), "{state}");
    let refused = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&refused), "25P02");
    let messages = client.simple_query("COMMIT").await.unwrap();
    assert!(
        matches!(messages[0], SimpleQueryMessage::CommandComplete(_)),
        "COMMIT of a failed block answers ROLLBACK"
    );
    assert_eq!(users(&cluster).await, 0);
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_a_second_shard_is_refused_and_leaves_the_block_failed() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let (here, there) = ids_apart(&cluster, &client).await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute(&format!("INSERT INTO users (id) VALUES ({here})"))
        .await
        .unwrap();
    // others may join for reads
    client
        .batch_execute(&format!("SELECT name FROM users WHERE id = {there}"))
        .await
        .unwrap();
    let refused = client
        .batch_execute(&format!("INSERT INTO users (id) VALUES ({there})"))
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    let failed = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&failed), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(users(&cluster).await, 0);
}

/// Whichever shard answers a SHOW, the block may write on another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_a_block_asks_for_makes_no_shard_its_writer() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let (one, other) = ids_apart(&cluster, &client).await;
    for id in [one, other].repeat(3) {
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SHOW transaction_read_only")
            .await
            .unwrap();
        let update = format!("UPDATE users SET name = 'x' WHERE id = {id}");
        client.batch_execute(&update).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_string_for_one_server_passes_whole_and_one_for_several_is_refused() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let (here, there) = ids_apart(&cluster, &client).await;
    client
        .batch_execute(&format!(
            "INSERT INTO users (id) VALUES ({here}); UPDATE users SET name = 'both' WHERE id = {here}"
        ))
        .await
        .unwrap();
    assert_eq!(users(&cluster).await, 1);
    let refused = client
        .batch_execute(&format!(
            "DELETE FROM users WHERE id = {here}; DELETE FROM users WHERE id = {there}"
        ))
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    assert_eq!(users(&cluster).await, 1, "nothing of it ran");
    // one string is one transaction
    let error = client
        .batch_execute(&format!(
            "DELETE FROM users WHERE id = {here}; SELECT 1 / (SELECT 0) FROM users WHERE id = {here}; INSERT INTO users (id) VALUES ({here}), ({here})"
        ))
        .await;
    assert!(error.is_err());
    assert_eq!(users(&cluster).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_under_one_sync_is_one_transaction() {
    use pgherd_tests::wire::{RawClient, sync, unnamed};
    let cluster = TestCluster::new()
        .shop()
        .configure(|configuration| {
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
        })
        .start()
        .await;
    let client = cluster.connect("app").await;
    let (here, there) = ids_apart(&cluster, &client).await;
    let mut raw = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let mut pipeline = unnamed(&format!("INSERT INTO users (id) VALUES ({here})"));
    pipeline.extend_from_slice(&unnamed(&format!("INSERT INTO users (id) VALUES ({here})")));
    pipeline.extend_from_slice(&sync());
    raw.send(&pipeline).await;
    let answer = raw.until_ready().await;
    let tags: String = answer.iter().map(|m| char::from(m.tag)).collect();
    assert_eq!(tags, "12C12EZ", "the second breaks the key");
    assert_eq!(users(&cluster).await, 0);

    let mut pipeline = unnamed(&format!("INSERT INTO users (id) VALUES ({here})"));
    pipeline.extend_from_slice(&unnamed(&format!(
        "INSERT INTO users (id) VALUES ({there})"
    )));
    pipeline.extend_from_slice(&sync());
    raw.send(&pipeline).await;
    let answer = raw.until_ready().await;
    let error = answer.iter().find(|m| m.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').unwrap(), "0A000");
    assert_eq!(users(&cluster).await, 0);

    let mut pipeline = unnamed(&format!("INSERT INTO users (id) VALUES ({here})"));
    pipeline.extend_from_slice(&sync());
    pipeline.extend_from_slice(&unnamed(&format!(
        "INSERT INTO users (id) VALUES ({there})"
    )));
    pipeline.extend_from_slice(&sync());
    raw.send(&pipeline).await;
    assert_eq!(raw.until_ready().await.last().unwrap().body, b"I");
    assert_eq!(raw.until_ready().await.last().unwrap().body, b"I");
    assert_eq!(users(&cluster).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_sets_stays_with_it_alone() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| configuration.sharding.clear())
        .start()
        .await;
    let first = cluster.connect("app").await;
    first
        .batch_execute("SET statement_timeout = '77s'")
        .await
        .unwrap();
    // temporary tables want a shard named on a sharded database
    first
        .batch_execute("SET pgherd.shard = 's0'")
        .await
        .unwrap();
    first
        .batch_execute("CREATE TEMP TABLE mine (id int)")
        .await
        .unwrap();
    first
        .batch_execute("INSERT INTO mine VALUES (1)")
        .await
        .unwrap();
    let show = async |client: &Client| {
        client
            .query_one("SELECT current_setting('statement_timeout')", &[])
            .await
            .unwrap()
            .get::<_, String>(0)
    };
    for _ in 0..5 {
        let other = cluster.connect("app").await;
        assert_eq!(show(&other).await, "0");
        assert!(other.batch_execute("SELECT * FROM mine").await.is_err());
    }
    assert_eq!(show(&first).await, "77s");
    let rows = first.query("SELECT id FROM mine", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    drop(first);
    let later = cluster.connect("app").await;
    assert_eq!(show(&later).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_seen_by_others_only_when_committed() {
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .shop()
        .start()
        .await;
    let writer = cluster.connect("app").await;
    let reader = cluster.connect("app").await;
    writer.batch_execute("BEGIN").await.unwrap();
    writer
        .batch_execute("INSERT INTO users (id) VALUES (5)")
        .await
        .unwrap();
    let seen = reader
        .query("SELECT id FROM users WHERE id = 5", &[])
        .await
        .unwrap();
    assert!(seen.is_empty());
    let own = writer
        .query("SELECT id FROM users WHERE id = 5", &[])
        .await
        .unwrap();
    assert_eq!(own.len(), 1);
    writer.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_with_startup_settings_share_few_connections() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.database = "pool: { size: 2, checkout_timeout: 3s }".into();
        })
        .start()
        .await;
    let connect = async |name: &str, options: &str| {
        let url = format!(
            "{}?application_name={name}&options={options}",
            cluster.url("app")
        );
        cluster.try_connect(&url).await.unwrap()
    };
    let mut clients = Vec::new();
    for number in 0..12 {
        let zone = ["-cTimeZone%3DAsia/Tokyo", "-cDateStyle%3DGerman", ""][number % 3];
        clients.push((number, connect(&format!("client{number}"), zone).await));
    }
    // whoever had the connection before, each finds its own settings and nobody else's
    for round in 0..3 {
        for (number, client) in &clients {
            let messages = client
                .simple_query(
                    "SELECT current_setting('application_name'), current_setting('TimeZone') = 'Asia/Tokyo', \
                     current_setting('DateStyle') LIKE 'German%'",
                )
                .await
                .unwrap();
            let Some(SimpleQueryMessage::Row(row)) = messages
                .iter()
                .find(|message| matches!(message, SimpleQueryMessage::Row(_)))
            else {
                panic!("no row");
            };
            let is = |expected: bool| Some(if expected { "t" } else { "f" });
            assert_eq!(row.get(0), Some(&*format!("client{number}")), "{round}");
            assert_eq!(row.get(1), is(number % 3 == 0), "{round} {number}");
            assert_eq!(row.get(2), is(number % 3 == 1), "{round} {number}");
        }
    }
    // a client without any is greeted with the server's own
    let output = cluster
        .psql(&["SELECT current_setting('DateStyle') LIKE 'ISO%', current_setting('TimeZone') <> 'Asia/Tokyo'"])
        .await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "t|t\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_constraints_and_chains_hold_over_several_shards() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute(
            "CREATE TABLE currencies (code text PRIMARY KEY, country text REFERENCES countries (code) DEFERRABLE INITIALLY DEFERRED)",
        )
        .await
        .unwrap();
    let count = async |table: &str| {
        cluster
            .on_each_primary(&format!("SELECT count(*) FROM {table}"))
            .await
    };
    for statement in [
        "BEGIN",
        "SAVEPOINT one",
        "INSERT INTO currencies VALUES ('chf', 'ch')",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let violated = client.batch_execute("COMMIT").await.unwrap_err();
    assert_eq!(sqlstate(&violated), "23503");
    assert_eq!(count("currencies").await, ["0"; 3]);

    for statement in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "INSERT INTO currencies VALUES ('chf', 'ch')",
        "INSERT INTO countries VALUES ('ch', 'Switzerland')",
        "COMMIT AND CHAIN",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    assert_eq!(
        count("currencies").await,
        ["1"; 3],
        "the first is committed"
    );
    let level = client
        .query_one("SHOW transaction_isolation", &[])
        .await
        .unwrap();
    assert_eq!(level.get::<_, &str>(0), "repeatable read");
    client
        .batch_execute("INSERT INTO currencies VALUES ('eur', 'ch')")
        .await
        .unwrap();
    client.batch_execute("ROLLBACK AND CHAIN").await.unwrap();
    client
        .batch_execute("INSERT INTO currencies VALUES ('jpy', 'ch')")
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let codes = cluster
        .on_each_primary("SELECT string_agg(code, ',' ORDER BY code) FROM currencies")
        .await;
    assert_eq!(codes, ["chf,jpy"; 3]);
    let prepared = count("pg_prepared_xacts").await;
    assert_eq!(prepared, ["0"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_has_one_moment_also_where_a_default_tells_it() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let (here, there) = ids_apart(&cluster, &client).await;
    client
        .batch_execute("ALTER TABLE users ADD COLUMN joined timestamptz DEFAULT now()")
        .await
        .unwrap();
    for statement in [
        "BEGIN".to_owned(),
        format!("INSERT INTO users (id) VALUES ({here})"),
        format!("SELECT joined = now() FROM users WHERE id = {here}"),
        format!("SELECT name FROM users WHERE id = {there}"),
    ] {
        client.batch_execute(&statement).await.unwrap();
    }
    let refused = client
        .batch_execute(&format!("SELECT now() FROM users WHERE id = {there}"))
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_block_is_told_so_by_whichever_shard_it_would_write_on() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let (one, other) = ids_apart(&cluster, &client).await;
    let refused = async |sql: &str| {
        let error = client.batch_execute(sql).await.unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        (sqlstate(&error).to_owned(), message)
    };
    let updates = [one, other].map(|id| {
        let update = format!("UPDATE users SET name = 'x' WHERE id = {id}");
        (update, "UPDATE")
    });
    let create = ("CREATE TABLE made_here (a int)".to_owned(), "CREATE TABLE");
    for (sql, command) in updates.into_iter().chain([create]) {
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .unwrap();
        client
            .batch_execute("SHOW transaction_isolation")
            .await
            .unwrap();
        let message = format!("cannot execute {command} in a read-only transaction");
        assert_eq!(refused(&sql).await, ("25006".to_owned(), message));
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // one that has become READ WRITE still writes on one shard only
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    for sql in [
        "SET transaction_read_only = off".to_owned(),
        format!("INSERT INTO users (id) VALUES ({one})"),
    ] {
        client.batch_execute(&sql).await.unwrap();
    }
    let (code, _) = refused(&format!("INSERT INTO users (id) VALUES ({other})")).await;
    assert_eq!(code, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(users(&cluster).await, 0);
}
