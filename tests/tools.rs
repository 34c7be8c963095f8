//! What drivers, psql and applications do all day, through the endpoint.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::{Cluster, TestCluster, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_tables_as_on_one_postgres() {
    let cluster = TestCluster::new()
        .shards(3)
        .replicas(1)
        .shop()
        .start()
        .await;
    for (command, expected) in [
        ("\\d", &["users", "orders", "countries", "settings"][..]),
        ("\\dt+", &["users", "orders"]),
        ("\\d users", &["id", "bigint", "users_pkey"]),
        ("\\d+ orders", &["user_id", "numeric(10,2)"]),
        ("\\di", &["users_pkey"]),
        ("\\dn", &["public"]),
        ("\\l", &["shop"]),
        ("\\du", &["app"]),
        ("\\df", &[]),
        ("\\dx", &["plpgsql"]),
        ("\\conninfo", &["shop"]),
        ("SHOW server_version", &[]),
        ("SHOW search_path", &["\"$user\", public"]),
        ("SELECT version()", &["PostgreSQL"]),
        ("SELECT current_database()", &["shop"]),
    ] {
        // with the footers that -t would leave out
        let output = cluster.psql(&["\\pset tuples_only off", command]).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command}: {output:?}");
        for word in expected {
            assert!(said.contains(word), "{command}: no {word} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_runs_a_transaction_and_reads_it_back_at_once() {
    let cluster = TestCluster::new().replicas(1).shop().start().await;
    let output = cluster
        .psql(&[
            "BEGIN",
            "INSERT INTO users (id, name) VALUES (42, 'Ada')",
            "UPDATE users SET name = 'Ada L.' WHERE id = 42",
            "COMMIT",
            "SELECT name FROM users WHERE id = 42",
            "INSERT INTO orders VALUES (42, 1, 9.5) RETURNING amount",
            "SELECT amount FROM orders WHERE user_id = 42",
        ])
        .await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "BEGIN\nINSERT 0 1\nUPDATE 1\nCOMMIT\nAda L.\n9.50\nINSERT 0 1\n9.50\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_can_be_cancelled() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let token = client.cancel_token();
    let begun = Instant::now();
    let cancelling = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    let error = client
        .simple_query("SELECT pg_sleep(30)")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    assert!(begun.elapsed() < Duration::from_secs(10));
    cancelling.await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_goes_to_and_from_a_table_on_one_shard() {
    use std::io::Write;
    let cluster = TestCluster::new().shop().start().await;
    let file = cluster.directory().join("settings.tsv");
    let mut rows = std::fs::File::create(&file).unwrap();
    for n in 0..20_000 {
        writeln!(rows, "name {n}\tvalue {n}").unwrap();
    }
    drop(rows);
    let copy_in = format!("\\copy settings FROM '{}'", file.display());
    let output = cluster
        .psql(&[&copy_in, "SELECT count(*) FROM settings"])
        .await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "COPY 20000\n20000\n"
    );
    let output = cluster.psql(&["COPY settings TO STDOUT"]).await;
    assert_eq!(output.stdout, std::fs::read(&file).unwrap());
    let broken = cluster.directory().join("broken.tsv");
    std::fs::write(&broken, "one\ttwo\tthree\n").unwrap();
    let output = cluster
        .psql(&[&format!("\\copy settings FROM '{}'", broken.display())])
        .await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("extra data"));
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_give_rows_in_portions() {
    let cluster = TestCluster::new().shop().start().await;
    let mut client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings SELECT n::text, 'v' FROM generate_series(1, 10) n")
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction
        .bind("SELECT name FROM settings ORDER BY length(name), name", &[])
        .await
        .unwrap();
    let mut sizes = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 4).await.unwrap();
        sizes.push(rows.len());
        if rows.len() < 4 {
            break;
        }
    }
    assert_eq!(sizes, [4, 4, 2]);
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_of_the_protocol_run_on_the_primary_and_on_replicas() {
    let cluster = TestCluster::new().replicas(1).shop().start().await;
    let client = cluster.connect("app").await;
    let insert = client
        .prepare("INSERT INTO settings VALUES ($1, $2)")
        .await
        .unwrap();
    let select = client
        .prepare("SELECT value FROM settings WHERE name = $1")
        .await
        .unwrap();
    assert_eq!(select.columns()[0].name(), "value");
    for n in 0..20 {
        let name = format!("k{n}");
        client.execute(&insert, &[&name, &"v"]).await.unwrap();
        let rows = client.query(&select, &[&name]).await.unwrap();
        assert_eq!(rows.len(), 1, "{name}");
    }
    client
        .batch_execute("ALTER TABLE settings ADD COLUMN more int")
        .await
        .unwrap();
    let rows = client.query(&select, &[&"k3"]).await.unwrap();
    assert_eq!(rows.len(), 1, "the same columns as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_prepared_by_sql_stay_with_their_session() {
    let cluster = unsharded().await;
    let client = cluster.connect("app").await;
    for statement in [
        "CREATE TABLE t (name text, value text)",
        "INSERT INTO t VALUES ('k', 'v')",
        "PREPARE p (text) AS SELECT value FROM t WHERE name = $1",
        "EXECUTE p ('k')",
    ] {
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let stranger = cluster.connect("app").await;
    let error = stranger.batch_execute("EXECUTE p ('k')").await.unwrap_err();
    assert_eq!(sqlstate(&error), "26000");
    for statement in ["EXECUTE p ('k')", "DEALLOCATE p", "DISCARD ALL"] {
        client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let error = client.batch_execute("EXECUTE p ('k')").await.unwrap_err();
    assert_eq!(sqlstate(&error), "26000");
}

/// A server with nothing sharded: everything passes.
async fn unsharded() -> Cluster {
    TestCluster::new()
        .shards(1)
        .configure(|configuration| configuration.sharding.clear())
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_reach_who_listens() {
    let cluster = TestCluster::new().shop().start().await;
    let output = {
        let listening = cluster.psql(&["LISTEN news", "NOTIFY news, 'to myself'", "SELECT 1"]);
        tokio::time::timeout(Duration::from_secs(10), listening)
            .await
            .unwrap()
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("Asynchronous notification \"news\""),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_users_look_the_same_from_every_shard() {
    let cluster = TestCluster::new()
        .shards(3)
        .configure(|configuration| configuration.sharding += "\n")
        .start()
        .await;
    // the shards count their OIDs differently
    for (number, shard) in cluster.herd().shards().iter().enumerate() {
        for n in 0..number * 3 {
            shard
                .primary()
                .sql(&format!("CREATE TABLE filler_{n} ()"))
                .await
                .unwrap();
        }
    }
    let client = cluster.connect("app").await;
    let made = client
        .batch_execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
        .await;
    if made.is_err() {
        // a type lives where unlisted things live until types are spread: make it where it is needed
        panic!("{made:?}");
    }
    let everywhere = cluster
        .on_each_primary("SELECT to_regtype('mood') IS NOT NULL")
        .await;
    assert_eq!(everywhere, ["t", "t", "t"]);
    client
        .batch_execute("CREATE TABLE users (id bigint PRIMARY KEY, mood mood, moods mood[])")
        .await
        .unwrap();
    let mut types = std::collections::HashSet::new();
    for id in 0..30_i64 {
        client
            .batch_execute(&format!(
                "INSERT INTO users VALUES ({id}, 'ok', '{{sad,happy}}')"
            ))
            .await
            .unwrap();
        let row = client
            .query_one(
                &format!("SELECT mood, moods, mood::text FROM users WHERE id = {id}"),
                &[],
            )
            .await
            .unwrap();
        types.insert((
            row.columns()[0].type_().oid(),
            row.columns()[1].type_().oid(),
        ));
        assert_eq!(row.get::<_, &str>(2), "ok");
    }
    assert_eq!(types.len(), 1, "one type, one OID: {types:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_and_parameter_changes_pass() {
    let cluster = unsharded().await;
    let output = cluster
        .psql(&["DO $$ BEGIN RAISE NOTICE 'heard'; END $$"])
        .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("NOTICE:  heard"), "{output:?}");
    let output = cluster
        .psql(&["SET client_encoding = 'LATIN1'", "\\encoding"])
        .await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "SET\nLATIN1\n");
    let url = format!(
        "{}?options=-c%20statement_timeout%3D33s&application_name=tests",
        cluster.url("app")
    );
    let client = cluster.try_connect(&url).await.unwrap();
    let row = client
        .query_one(
            "SELECT current_setting('statement_timeout'), current_setting('application_name')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "33s");
    assert_eq!(row.get::<_, &str>(1), "tests");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_shadow_others_for_their_session_alone() {
    let cluster = TestCluster::new()
        .shards(3)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    let other = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO users (id, name) VALUES (7, 'lasting')")
        .await
        .unwrap();
    let names = async |client: &tokio_postgres::Client| {
        let messages = client
            .simple_query("SELECT name FROM users WHERE id = 7")
            .await?;
        Ok::<_, tokio_postgres::Error>(
            messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        )
    };
    for statement in [
        "CREATE TEMP TABLE scratch (id bigint, note text)",
        "INSERT INTO scratch SELECT n, 'note ' || n FROM generate_series(1, 100) n",
        "CREATE TEMPORARY TABLE users (id bigint, name text)",
        "INSERT INTO users VALUES (7, 'passing'), (8, 'too'), (9, 'each on a shard of its own otherwise')",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    // without a key: it is an ordinary table of this session's now
    let counted = client
        .query_one(
            "SELECT count(*) FROM users u JOIN scratch s USING (id)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(counted.get::<_, i64>(0), 3);
    assert_eq!(names(&client).await.unwrap(), ["passing"]);
    assert_eq!(names(&other).await.unwrap(), ["lasting"]);
    let elsewhere = other.batch_execute("SELECT * FROM scratch").await;
    assert_eq!(sqlstate(&elsewhere.unwrap_err()), "42P01");
    // its rows and those of a shard do not meet in one statement
    let mixed = client
        .batch_execute("SELECT * FROM scratch s JOIN public.users u ON u.id = s.id WHERE u.id = 7")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&mixed), "0A000");
    let copied = client
        .batch_execute("CREATE TEMP TABLE all_users AS SELECT * FROM public.users")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&copied), "0A000");

    // what a block makes ends with it
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("DROP TABLE users").await.unwrap();
    assert_eq!(names(&client).await.unwrap(), ["lasting"]);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(names(&client).await.unwrap(), ["passing"]);
    for statement in [
        "BEGIN",
        "CREATE TEMP TABLE short (n int) ON COMMIT DROP",
        "INSERT INTO short VALUES (1)",
        "SELECT * FROM short",
        "COMMIT",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let gone = client.batch_execute("SELECT * FROM short").await;
    assert_eq!(sqlstate(&gone.unwrap_err()), "42P01");
    client.batch_execute("DROP TABLE users").await.unwrap();
    assert_eq!(names(&client).await.unwrap(), ["lasting"]);
    client.batch_execute("DISCARD ALL").await.unwrap();
    let gone = client.batch_execute("SELECT * FROM scratch").await;
    assert_eq!(sqlstate(&gone.unwrap_err()), "42P01");
}
