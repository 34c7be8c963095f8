//! DDL and writes to reference tables reach all shards or none, whatever dies in between.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::{Cluster, TestCluster, sqlstate};

async fn exists(cluster: &Cluster, table: &str) -> Vec<String> {
    cluster
        .on_each_primary(&format!("SELECT to_regclass('public.{table}') IS NOT NULL"))
        .await
}

async fn prepared(cluster: &Cluster) -> u32 {
    cluster
        .on_each_primary("SELECT count(*) FROM pg_prepared_xacts")
        .await
        .iter()
        .map(|count| count.parse::<u32>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn sharded_and_reference_tables_are_made_on_every_shard_and_others_at_home() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    assert_eq!(exists(&cluster, "users").await, ["t", "t", "t"]);
    assert_eq!(exists(&cluster, "countries").await, ["t", "t", "t"]);
    assert_eq!(exists(&cluster, "settings").await, ["t", "f", "f"]);
    let client = cluster.connect("app").await;
    client
        .batch_execute("ALTER TABLE users ADD COLUMN age int DEFAULT 3")
        .await
        .unwrap();
    client
        .batch_execute("CREATE INDEX users_name ON users (name)")
        .await
        .unwrap();
    assert_eq!(exists(&cluster, "users_name").await, ["t", "t", "t"]);
    // the plan of the very next statement knows the new column
    client
        .batch_execute("INSERT INTO users (id, age) VALUES (1, 4)")
        .await
        .unwrap();
    client.batch_execute("DROP TABLE users").await.unwrap();
    assert_eq!(exists(&cluster, "users").await, ["f", "f", "f"]);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_that_fails_on_one_shard_happens_on_none() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    cluster
        .shard(1)
        .primary()
        .sql("CREATE TABLE documents (id int)")
        .await
        .unwrap();
    let client = cluster.connect("app").await;
    let error = client
        .batch_execute("CREATE TABLE documents (id uuid PRIMARY KEY)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "42P07");
    assert_eq!(exists(&cluster, "documents").await, ["f", "t", "f"]);
    assert_eq!(prepared(&cluster).await, 0);
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_in_a_block_commits_everywhere_or_nowhere() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    let migration = [
        "BEGIN",
        "CREATE TABLE documents (id uuid PRIMARY KEY, body text)",
        "ALTER TABLE users ADD COLUMN email text",
        "CREATE TABLE migrations (name text)",
    ];
    for (end, expected) in [("ROLLBACK", "f"), ("COMMIT", "t")] {
        for statement in migration {
            client.batch_execute(statement).await.unwrap();
        }
        client.batch_execute(end).await.unwrap();
        assert_eq!(exists(&cluster, "documents").await, [expected; 3], "{end}");
        let columns = cluster
            .on_each_primary(
                "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'email'",
            )
            .await;
        assert_eq!(columns, [expected; 3], "{end}");
    }
    let applied = client
        .query("SELECT name FROM migrations", &[])
        .await
        .unwrap();
    assert!(applied.is_empty());
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_shards_draw_themselves_never_meet() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    for table in [
        "CREATE TABLE users (id bigint PRIMARY KEY)",
        "CREATE TABLE orders (user_id bigint, id bigserial PRIMARY KEY)",
        "CREATE TABLE pairs (a int, b int, n int GENERATED ALWAYS AS IDENTITY, UNIQUE (a, b))",
    ] {
        client.batch_execute(table).await.unwrap();
    }
    let mut drawn = std::collections::HashSet::new();
    for user in 0..120 {
        let row = client
            .simple_query(&format!(
                "INSERT INTO orders (user_id) VALUES ({user}) RETURNING id"
            ))
            .await
            .unwrap();
        let id = row
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap();
        assert!(drawn.insert(id.clone()), "{id} twice");
    }
    let counts = cluster.on_each_primary("SELECT count(*) FROM orders").await;
    assert!(counts.iter().all(|count| count != "0"), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_one_shard_could_check_is_refused() {
    let cluster = TestCluster::new().shards(2).start().await;
    let client = cluster.connect("app").await;
    for table in [
        "CREATE TABLE users (id bigint PRIMARY KEY, email text UNIQUE)",
        "CREATE TABLE orders (user_id bigint, id bigint PRIMARY KEY)",
    ] {
        let error = client.batch_execute(table).await.unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{table}");
        assert!(error.as_db_error().unwrap().hint().is_some());
    }
    assert_eq!(exists(&cluster, "users").await, ["f", "f"]);
    assert_eq!(exists(&cluster, "orders").await, ["f", "f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_writes_are_the_same_everywhere_or_refused() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE TABLE currencies (code text PRIMARY KEY, rate numeric, at timestamptz, n serial)")
        .await
        .unwrap();
    client
        .batch_execute(
            "INSERT INTO currencies (code, rate, n) VALUES ('eur', 1.0, 1), ('usd', 1.1, 2)",
        )
        .await
        .unwrap();
    client
        .batch_execute("UPDATE currencies SET rate = rate * 2 WHERE code = 'usd'")
        .await
        .unwrap();
    for refused in [
        "INSERT INTO currencies (code, at, n) VALUES ('gbp', now(), 3)",
        "INSERT INTO currencies (code) VALUES ('gbp')",
        "UPDATE currencies SET rate = random()",
        "DELETE FROM currencies WHERE code IN (SELECT code FROM currencies LIMIT 1)",
    ] {
        let error = client.batch_execute(refused).await.unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{refused}");
    }
    let duplicate = client
        .batch_execute("INSERT INTO currencies (code, n) VALUES ('usd', 9)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&duplicate), "23505");
    let copies = cluster
        .on_each_primary("SELECT string_agg(code || rate, ' ' ORDER BY code) FROM currencies")
        .await;
    assert_eq!(copies, ["eur1.0 usd2.2"; 3]);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_killed_amid_ddl_leaves_all_shards_alike_and_no_lock() {
    let mut cluster = TestCluster::new().shards(3).shop().start().await;
    for round in 0..6 {
        let client = cluster.connect("app").await;
        let working = tokio::spawn(async move {
            for n in 0.. {
                let ddl = format!("ALTER TABLE users ADD COLUMN c{round}_{n} int");
                if client.batch_execute(&ddl).await.is_err() {
                    break;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(60 + 37 * round)).await;
        cluster.product().kill9();
        working.await.unwrap();
        cluster.restart_product().await;
        let begun = Instant::now();
        while prepared(&cluster).await > 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "prepared transactions are left"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let columns = cluster
            .on_each_primary(
                "SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0",
            )
            .await;
        assert!(
            columns.iter().all(|shard| *shard == columns[0]),
            "round {round}: {columns:?}"
        );
    }
    // nothing holds the table any more
    let client = cluster.connect("app").await;
    client
        .batch_execute("ALTER TABLE users ADD COLUMN last int")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_prepared_transactions_ddl_over_shards_is_refused() {
    let cluster = TestCluster::new()
        .servers(|herd| herd.setting("max_prepared_transactions", "0"))
        .start()
        .await;
    let client = cluster.connect("app").await;
    let error = client
        .batch_execute("CREATE TABLE users (id bigint PRIMARY KEY)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
    assert_eq!(exists(&cluster, "users").await, ["f", "f"]);
    assert!(
        cluster.product_log().contains("max_prepared_transactions"),
        "it says so at its start"
    );
}
