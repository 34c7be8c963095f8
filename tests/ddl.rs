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
        "INSERT INTO migrations VALUES ('0001_initial')",
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
    let applied: Vec<&str> = applied.iter().map(|row| row.get(0)).collect();
    assert_eq!(applied, ["0001_initial"]);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_sees_the_tables_keys_and_types_that_it_has_made() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    let migration = [
        "BEGIN",
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL)",
        "INSERT INTO countries VALUES ('ch', 'Switzerland'), ('jp', 'Japan')",
        "CREATE TABLE users (id bigint PRIMARY KEY, country text REFERENCES countries (code))",
        "CREATE TABLE orders (user_id bigint REFERENCES users (id), id bigint, PRIMARY KEY (user_id, id))",
        "CREATE INDEX users_by_country ON users (country)",
        "CREATE TABLE articles (id int PRIMARY KEY, body text)",
        "CREATE TABLE tags (article int REFERENCES articles (id), word text)",
        "ALTER TABLE users ADD COLUMN mood mood",
        "INSERT INTO articles VALUES (1, 'first')",
        "INSERT INTO tags VALUES (1, 'new')",
    ];
    for statement in migration {
        client.batch_execute(statement).await.expect(statement);
    }
    let insert = client
        .prepare("INSERT INTO users (id, country, mood) VALUES ($1, $2, $3)")
        .await
        .unwrap();
    assert_eq!(insert.params()[2].name(), "mood");
    let select = client
        .prepare("SELECT mood::text, ARRAY[mood]::mood[] AS moods FROM users WHERE id = $1")
        .await
        .unwrap();
    assert_eq!(select.columns()[1].type_().name(), "_mood");
    for id in 0..8_i64 {
        let text = format!("INSERT INTO users (id, country, mood) VALUES ({id}, 'ch', 'happy')");
        client.batch_execute(&text).await.unwrap();
        let order = format!("INSERT INTO orders VALUES ({id}, 1)");
        client.batch_execute(&order).await.unwrap();
        let found = client.query_one(&select, &[&id]).await.unwrap();
        assert_eq!(found.get::<_, &str>(0), "happy");
    }
    let orphan = client
        .batch_execute("INSERT INTO orders VALUES (99, 1)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&orphan), "23503");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(exists(&cluster, "users").await, ["f"; 3]);

    for statement in migration {
        client.batch_execute(statement).await.expect(statement);
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(exists(&cluster, "users").await, ["t"; 3]);
    assert_eq!(exists(&cluster, "articles").await, ["t", "f", "f"]);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_savepoint_takes_back_is_unknown_again() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    for statement in [
        "BEGIN",
        "CREATE TABLE documents (id uuid PRIMARY KEY)",
        "SAVEPOINT before",
        "ALTER TABLE documents ADD COLUMN body text",
        "INSERT INTO documents VALUES ('00000000-0000-0000-0000-000000000001', 'kept?')",
        "CREATE TABLE migrations (name text)",
        "SAVEPOINT inner_one",
        "INSERT INTO migrations VALUES ('one')",
        "RELEASE SAVEPOINT inner_one",
        "ROLLBACK TO SAVEPOINT before",
        "INSERT INTO documents VALUES ('00000000-0000-0000-0000-000000000002')",
        "SAVEPOINT wrong",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    let gone = client
        .batch_execute("INSERT INTO migrations VALUES ('two')")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&gone), "42P01");
    client
        .batch_execute("ROLLBACK TO SAVEPOINT wrong")
        .await
        .unwrap();
    let gone = client
        .batch_execute(
            "INSERT INTO documents (id, body) VALUES ('00000000-0000-0000-0000-000000000003', '')",
        )
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&gone), "42703");
    for statement in [
        "ROLLBACK TO SAVEPOINT wrong",
        "CREATE TABLE migrations (name text, at int)",
        "INSERT INTO migrations (name, at) VALUES ('two', 2)",
        "COMMIT",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    let counts = cluster
        .on_each_primary("SELECT count(*) FROM documents")
        .await;
    let kept: u32 = counts.iter().map(|n| n.parse::<u32>().unwrap()).sum();
    assert_eq!(kept, 1);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_prepared_before_ddl_are_planned_anew_in_its_block() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let mut client = cluster.connect("app").await;
    let read = client
        .prepare("SELECT name FROM users WHERE id = $1")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO users (id, name) VALUES (7, 'seven')")
        .await
        .unwrap();
    let block = client.transaction().await.unwrap();
    block
        .execute("CREATE TABLE migrations (name text)", &[])
        .await
        .unwrap();
    block
        .execute("INSERT INTO migrations VALUES ($1)", &[&"0001"])
        .await
        .unwrap();
    block
        .execute("ALTER TABLE users ADD COLUMN email text", &[])
        .await
        .unwrap();
    let found = block.query_one(&read, &[&7_i64]).await.unwrap();
    assert_eq!(found.get::<_, &str>(0), "seven");
    block
        .execute("UPDATE users SET email = $1 WHERE id = 7", &[&"7@b"])
        .await
        .unwrap();
    block.commit().await.unwrap();
    let found = client
        .query_one("SELECT email FROM users WHERE id = $1", &[&7_i64])
        .await
        .unwrap();
    assert_eq!(found.get::<_, &str>(0), "7@b");
    let applied = client
        .query("SELECT name FROM migrations", &[])
        .await
        .unwrap();
    assert_eq!(applied.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_function_makes_are_seen_by_its_block() {
    let cluster = TestCluster::new().shards(2).shop().start().await;
    let client = cluster.connect("app").await;
    for statement in [
        "BEGIN",
        "SET LOCAL pgherd.shard = 's0'",
        "DO $$ BEGIN CREATE TABLE made (id int); END $$",
        "SET LOCAL pgherd.shard = ''",
        "INSERT INTO made VALUES (1)",
        "COMMIT",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    let rows = client.query("SELECT id FROM made", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
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

/// What Django sends as it connects and as it migrates, with the shop's tables.
#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_an_orm_pass_from_the_connection_to_the_migration() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    for statement in [
        "SELECT set_config('TimeZone', 'UTC', false)",
        "BEGIN",
        "CREATE TABLE \"countries\" (\"code\" varchar(2) NOT NULL PRIMARY KEY, \"name\" varchar(80) NOT NULL)",
        "CREATE TABLE \"users\" (\"id\" bigint NOT NULL PRIMARY KEY, \"name\" varchar(80) NOT NULL, \"country_id\" varchar(2) NULL)",
        "CREATE TABLE \"orders\" (\"id\" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, \"amount\" numeric(10, 2) NOT NULL, \"user_id\" bigint NOT NULL)",
        "CREATE TABLE \"articles\" (\"id\" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, \"slug\" varchar(50) NOT NULL UNIQUE)",
        "ALTER TABLE \"users\" ADD CONSTRAINT \"users_country_fk\" FOREIGN KEY (\"country_id\") REFERENCES \"countries\" (\"code\") DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE \"orders\" ADD CONSTRAINT \"orders_user_fk\" FOREIGN KEY (\"user_id\") REFERENCES \"users\" (\"id\") DEFERRABLE INITIALLY DEFERRED",
        "CREATE INDEX \"countries_code_like\" ON \"countries\" (\"code\" varchar_pattern_ops)",
        "CREATE TABLE \"django_migrations\" (\"id\" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, \"app\" varchar(255) NOT NULL, \"applied\" timestamp with time zone NOT NULL)",
        "INSERT INTO \"django_migrations\" (\"app\", \"applied\") VALUES ('shop', '2026-11-25T00:00:00+00:00'::timestamptz) RETURNING \"django_migrations\".\"id\"",
        "COMMIT",
        "BEGIN",
        "ALTER TABLE \"users\" ADD COLUMN \"email\" varchar(100) DEFAULT '' NOT NULL",
        "ALTER TABLE \"users\" ALTER COLUMN \"email\" DROP DEFAULT",
        "ALTER TABLE \"articles\" ADD COLUMN \"body\" text NULL",
        "ALTER TABLE \"articles\" RENAME COLUMN \"slug\" TO \"handle\"",
        "UPDATE \"articles\" SET \"body\" = 'x' WHERE \"articles\".\"handle\" = 'a'",
        "SAVEPOINT \"s1_x1\"",
        "INSERT INTO \"countries\" (\"code\", \"name\") VALUES ('CH', 'Switzerland')",
        "RELEASE SAVEPOINT \"s1_x1\"",
        "INSERT INTO \"users\" (\"id\", \"name\", \"country_id\", \"email\") VALUES (1, 'a', 'CH', 'a@b'), (2, 'b', 'CH', '')",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET CONSTRAINTS ALL DEFERRED",
        "COMMIT",
    ] {
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let zone = client.query_one("SHOW timezone", &[]).await.unwrap();
    assert_eq!(zone.get::<_, &str>(0), "UTC");
    assert_eq!(exists(&cluster, "orders").await, ["t"; 3]);
    assert_eq!(exists(&cluster, "django_migrations").await, ["t", "f", "f"]);
    assert_eq!(prepared(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_all_shards_is_timed_on_each() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    let messages = client
        .simple_query("EXPLAIN (ROUTE, ANALYZE) INSERT INTO countries VALUES ('fr', 'France')")
        .await
        .unwrap();
    let legs: Vec<&str> = messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .filter(|line| line.starts_with("Leg: "))
        .collect();
    assert_eq!(legs.len(), 3, "{legs:?}");
    for (leg, server) in legs.iter().zip(["s0 on s0a", "s1 on s1a", "s2 on s2a"]) {
        assert!(leg.contains(server) && leg.ends_with(" ms"), "{leg}");
    }
    let copies = cluster
        .on_each_primary("SELECT name FROM countries WHERE code = 'fr'")
        .await;
    assert_eq!(copies, ["France"; 3]);
    // a view over what only the home shard has is made there
    client
        .batch_execute("CREATE SEQUENCE counter; ")
        .await
        .unwrap();
    client
        .batch_execute("CREATE VIEW next_number AS SELECT nextval('counter') AS n")
        .await
        .unwrap();
    assert_eq!(exists(&cluster, "next_number").await, ["t", "f", "f"]);
}
