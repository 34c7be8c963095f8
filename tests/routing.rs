//! Each statement runs where the key, the table and the kind of access say: seen in the servers' own logs.
#![allow(clippy::unwrap_used)]

use pgherd_tests::{TestCluster, sqlstate};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_written_and_read_on_the_shard_of_its_key_and_nowhere_else() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    for id in 0..60 {
        let insert = format!("INSERT INTO users (id, name) VALUES ({id}, 'u{id}')");
        let written = cluster.trace(&client, &insert).await.unwrap();
        assert_eq!(written.servers.len(), 1, "{id}: {written:?}");
        let select = format!("SELECT name FROM users WHERE id = {id}");
        let read = cluster.trace(&client, &select).await.unwrap();
        assert_eq!(read.rows, [[format!("u{id}")]]);
        assert_eq!(read.servers, written.servers);
        let update = format!("UPDATE users SET name = 'v' WHERE id = {id}");
        let updated = cluster.trace(&client, &update).await.unwrap();
        assert_eq!(updated.servers, written.servers);
    }
    // Postgres itself says which of the 4096 buckets each row is in: no bucket has rows on two shards
    let buckets = cluster
        .on_each_primary(
            "SELECT string_agg(DISTINCT (((hashint8extended(id, 8816678312871386365) & 4095) + 2275) & 4095)::text, ',') FROM users",
        )
        .await;
    let mut seen = std::collections::HashSet::new();
    for bucket in buckets.iter().flat_map(|list| list.split(',')) {
        assert!(seen.insert(bucket), "bucket {bucket} is on two shards");
    }
    let counts = cluster.on_each_primary("SELECT count(*) FROM users").await;
    assert!(counts.iter().all(|count| count != "0"), "{counts:?}");
    assert_eq!(
        counts
            .iter()
            .map(|count| count.parse::<u32>().unwrap())
            .sum::<u32>(),
        60
    );
    let names = cluster
        .on_each_primary("SELECT count(*) FROM users WHERE name <> 'v'")
        .await;
    assert_eq!(names, ["0", "0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_route_as_literals_do_in_text_and_in_binary() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    let insert = client
        .prepare("INSERT INTO users (id, name) VALUES ($1, $2)")
        .await
        .unwrap();
    let select = client
        .prepare("SELECT name FROM users WHERE id = $1")
        .await
        .unwrap();
    for id in 0..40_i64 {
        // tokio-postgres binds in binary
        assert_eq!(client.execute(&insert, &[&id, &"binary"]).await.unwrap(), 1);
        let rows = client.query(&select, &[&id]).await.unwrap();
        assert_eq!(rows.len(), 1);
        let literal = client
            .simple_query(&format!("SELECT name FROM users WHERE id = {id}"))
            .await
            .unwrap();
        assert!(
            literal
                .iter()
                .any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))),
            "{id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn co_located_tables_join_on_the_shard_of_their_key() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO countries VALUES ('de', 'Germany')")
        .await
        .unwrap();
    for id in 0..20 {
        client
            .batch_execute(&format!("INSERT INTO users VALUES ({id}, 'u{id}', 'de')"))
            .await
            .unwrap();
        client
            .batch_execute(&format!(
                "INSERT INTO orders VALUES ({id}, 1, 9.50), ({id}, 2, 0.50)"
            ))
            .await
            .unwrap();
        let joined = cluster
            .trace(
                &client,
                &format!(
                    "SELECT u.name, c.name, sum(o.amount) FROM users u \
                     JOIN orders o ON o.user_id = u.id JOIN countries c ON c.code = u.country \
                     WHERE u.id = {id} GROUP BY u.name, c.name"
                ),
            )
            .await
            .unwrap();
        assert_eq!(
            joined.rows,
            [[format!("u{id}"), "Germany".into(), "10.00".into()]]
        );
        assert_eq!(joined.servers.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_text_uuid_and_two_columns_find_their_rows_again() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    for table in [
        "CREATE TABLE notes (name text PRIMARY KEY, body text)",
        "CREATE TABLE documents (id uuid PRIMARY KEY, body text)",
        "CREATE TABLE pairs (a int, b text, body text, PRIMARY KEY (a, b))",
    ] {
        client.batch_execute(table).await.unwrap();
    }
    for n in 0..30 {
        let uuid = format!("00000000-0000-4000-8000-{n:012}");
        for (insert, select) in [
            (
                format!("INSERT INTO notes VALUES ('ключ {n}', 'x')"),
                format!("SELECT body FROM notes WHERE name = 'ключ {n}'"),
            ),
            (
                format!("INSERT INTO documents VALUES ('{uuid}', 'x')"),
                format!("SELECT body FROM documents WHERE id = '{uuid}'"),
            ),
            (
                format!("INSERT INTO pairs VALUES ({n}, 'b{n}', 'x')"),
                format!("SELECT body FROM pairs WHERE b = 'b{n}' AND a = {n}"),
            ),
        ] {
            let written = cluster.trace(&client, &insert).await.unwrap();
            let read = cluster.trace(&client, &select).await.unwrap();
            assert_eq!(read.rows, [["x"]], "{select}");
            assert_eq!(read.servers, written.servers, "{select}");
        }
    }
    for table in ["notes", "documents", "pairs"] {
        let counts = cluster
            .on_each_primary(&format!("SELECT count(*) FROM {table}"))
            .await;
        assert!(
            counts.iter().all(|count| count != "0"),
            "{table} {counts:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_to_replicas_and_all_else_to_primaries() {
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .shop()
        .start()
        .await;
    let writer = cluster.connect("app").await;
    for id in 0..10 {
        let traced = cluster
            .trace(&writer, &format!("INSERT INTO users (id) VALUES ({id})"))
            .await
            .unwrap();
        assert!(traced.servers[0].ends_with('a'), "{traced:?}");
    }
    cluster.wait_for_replay().await;
    let reader = cluster.connect("app").await;
    let where_it_runs = async |statement: &str| {
        let traced = cluster.trace(&reader, statement).await.unwrap();
        assert_eq!(traced.servers.len(), 1, "{statement}: {traced:?}");
        traced.servers[0].chars().last().unwrap()
    };
    for read in [
        "SELECT id FROM users WHERE id = 3",
        "SELECT value FROM settings",
        "SELECT name FROM countries",
        "SELECT upper(name) FROM users WHERE id = 4 ORDER BY 1",
        "WITH u AS (SELECT id FROM users WHERE id = 5) SELECT count(*) FROM u",
    ] {
        assert_eq!(where_it_runs(read).await, 'b', "{read}");
    }
    writer
        .batch_execute("CREATE SEQUENCE numbers")
        .await
        .unwrap();
    for write in [
        "SELECT id FROM users WHERE id = 3 FOR UPDATE",
        "SELECT id FROM users WHERE id = 3 FOR NO KEY UPDATE",
        "SELECT nextval('numbers')",
        "WITH gone AS (DELETE FROM users WHERE id = 9 RETURNING id) SELECT id FROM gone",
        "INSERT INTO settings VALUES ('a', 'b')",
        "DELETE FROM users WHERE id = 8",
    ] {
        assert_eq!(where_it_runs(write).await, 'a', "{write}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_block_all_goes_to_the_primary_unless_it_is_read_only() {
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .shop()
        .start()
        .await;
    for (begin, expected) in [("BEGIN", 'a'), ("BEGIN READ ONLY", 'b')] {
        // a session that has just read the primary may not read a replica that could be behind it
        let client = cluster.connect("app").await;
        client.batch_execute(begin).await.unwrap();
        let traced = cluster
            .trace(&client, "SELECT id FROM users WHERE id = 3")
            .await
            .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(traced.servers.len(), 1, "{traced:?}");
        assert!(traced.servers[0].ends_with(expected), "{begin}: {traced:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unlisted_tables_live_on_the_home_shard_and_reference_tables_on_all() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    let traced = cluster
        .trace(&client, "INSERT INTO settings VALUES ('k', 'v')")
        .await
        .unwrap();
    assert_eq!(traced.servers, ["s0a"]);
    let traced = cluster
        .trace(&client, "INSERT INTO countries VALUES ('fr', 'France')")
        .await
        .unwrap();
    assert_eq!(traced.servers, ["s0a", "s1a", "s2a"]);
    let copies = cluster
        .on_each_primary("SELECT name FROM countries WHERE code = 'fr'")
        .await;
    assert_eq!(copies, ["France"; 3]);
    let read = cluster
        .trace(&client, "SELECT name FROM countries")
        .await
        .unwrap();
    assert_eq!(read.servers.len(), 1, "one copy is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_route_names_the_shard_that_then_runs_the_statement() {
    let cluster = TestCluster::new()
        .shards(3)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    for statement in [
        "SELECT id FROM users WHERE id = 7",
        "SELECT id FROM users WHERE id = 8",
        "INSERT INTO users (id) VALUES (11)",
        "SELECT value FROM settings WHERE name = 'x'",
        "DELETE FROM orders WHERE user_id = 12 AND id = 1",
    ] {
        let said = explain(&client, &format!("EXPLAIN (ROUTE) {statement}")).await;
        let traced = cluster.trace(&client, statement).await.unwrap();
        assert_eq!(traced.servers.len(), 1, "{statement}");
        let shard = &traced.servers[0][..2];
        assert!(said.contains(shard), "{statement}: {said} but {traced:?}");
        let role = if traced.servers[0].ends_with('a') {
            "primary"
        } else {
            "replica"
        };
        assert!(said.contains(role), "{statement}: {said} but {traced:?}");
    }
    // it runs nothing
    let before = cluster.on_each_primary("SELECT count(*) FROM users").await;
    explain(
        &client,
        "EXPLAIN (ROUTE) INSERT INTO users (id) VALUES (500)",
    )
    .await;
    assert_eq!(
        cluster.on_each_primary("SELECT count(*) FROM users").await,
        before
    );
}

/// The servers that an explanation names: `Shard: s1`, `Shards: s0, s1 (all or none)`, `Shard: any, now s0`.
fn shards_in(explanation: &str) -> Vec<String> {
    let line = explanation
        .split("QUERY PLAN=")
        .find(|line| line.starts_with("Shard"))
        .unwrap_or_default();
    let (_, names) = line.split_once(": ").unwrap_or_default();
    let names = names.split(" (").next().unwrap_or_default();
    names
        .split([',', ' '])
        .filter(|word| word.len() == 2 && word.starts_with('s'))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_each_class_runs_where_its_explanation_says() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("DECLARE c CURSOR FOR SELECT id FROM users WHERE id = 7")
        .await
        .unwrap();
    let fetched = cluster.trace(&client, "FETCH ALL FROM c").await.unwrap();
    let said = explain(&client, "EXPLAIN (ROUTE) FETCH ALL FROM c").await;
    assert!(said.contains("Plan: cursor"), "{said}");
    assert_eq!(
        shards_in(&said),
        fetched
            .servers
            .iter()
            .map(|server| server[..2].to_owned())
            .collect::<Vec<_>>()
    );
    client.batch_execute("COMMIT").await.unwrap();

    for (class, statement) in [
        ("session", "SHOW pgherd.shard"),
        ("any shard", "SELECT name FROM countries WHERE code = 'de'"),
        ("home shard", "INSERT INTO settings VALUES ('a', 'b')"),
        ("single shard", "INSERT INTO users (id) VALUES (7)"),
        (
            "all shards",
            "INSERT INTO countries VALUES ('de', 'Germany')",
        ),
        ("all shards", "ALTER TABLE users ADD COLUMN age int"),
        ("each shard in turn", "VACUUM users"),
    ] {
        let said = explain(&client, &format!("EXPLAIN (ROUTE) {statement}")).await;
        assert!(
            said.contains(&format!("Plan: {class} ")),
            "{statement}: {said}"
        );
        let traced = cluster.trace(&client, statement).await.unwrap();
        let ran: Vec<&str> = traced.servers.iter().map(|server| &server[..2]).collect();
        if class == "any shard" {
            // it takes turns
            assert_eq!(ran.len(), 1, "{statement}: {traced:?}");
        } else {
            assert_eq!(ran, shards_in(&said), "{statement}: {said}");
        }
    }
    client
        .batch_execute("SET pgherd.shard = 's1'")
        .await
        .unwrap();
    let said = explain(&client, "EXPLAIN (ROUTE) SELECT count(*) FROM users").await;
    assert!(said.contains("Plan: named shard"), "{said}");
    let traced = cluster
        .trace(&client, "SELECT count(*) FROM users")
        .await
        .unwrap();
    assert_eq!(traced.servers, ["s1a"]);
    assert_eq!(shards_in(&said), ["s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_name_a_shard_and_a_role_but_never_misplace_a_row() {
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    let home = cluster
        .trace(&client, "INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap()
        .servers[0][..2]
        .to_owned();
    let other = if home == "s0" { "s1" } else { "s0" };
    client
        .batch_execute(&format!("SET pgherd.shard = '{other}'"))
        .await
        .unwrap();
    let elsewhere = cluster
        .trace(&client, "SELECT count(*) FROM users")
        .await
        .unwrap();
    assert_eq!(&elsewhere.servers[0][..2], other);
    assert_eq!(elsewhere.rows, [["0"]]);
    let misplaced = client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap_err();
    assert_ne!(sqlstate(&misplaced), "23505", "it was refused, not tried");
    client.batch_execute("RESET pgherd.shard").await.unwrap();
    let traced = cluster
        .trace(&client, "SELECT count(*) FROM users WHERE id = 1")
        .await
        .unwrap();
    assert_eq!(&traced.servers[0][..2], home);

    client
        .batch_execute("SET pgherd.role = 'primary'")
        .await
        .unwrap();
    let traced = cluster
        .trace(&client, "SELECT count(*) FROM users WHERE id = 1")
        .await
        .unwrap();
    assert!(traced.servers[0].ends_with('a'));
    client.batch_execute("RESET pgherd.role").await.unwrap();

    let hinted =
        format!("/* pgherd: shard={other} role=primary */ SELECT 'hinted', count(*) FROM users");
    client.simple_query(&hinted).await.unwrap();
    assert_eq!(cluster.ran_on("SELECT 'hinted'"), [format!("{other}a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_one_shard_passes_everything_through() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| configuration.sharding.clear())
        .start()
        .await;
    let client = cluster.connect("app").await;
    client
        .batch_execute(
            "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) SELECT g::text FROM generate_series(1, 100) g",
        )
        .await
        .unwrap();
    let rows = client
        .query(
            "SELECT v, count(*) OVER () FROM t WHERE id > $1 ORDER BY id LIMIT 5 OFFSET 1",
            &[&10_i32],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0].get::<_, &str>(0), "12");
    assert_eq!(rows[0].get::<_, i64>(1), 90);
    client
        .batch_execute("DO $$ BEGIN PERFORM 1; END $$; VACUUM t")
        .await
        .unwrap_err();
    client.batch_execute("VACUUM t").await.unwrap();
}

async fn explain(client: &tokio_postgres::Client, statement: &str) -> String {
    let messages = client.simple_query(statement).await.unwrap();
    messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| {
                        format!(
                            "{}={} ",
                            row.columns()[column].name(),
                            row.get(column).unwrap_or("")
                        )
                    })
                    .collect::<String>(),
            ),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_read_as_the_type_that_the_server_gives_it() {
    let cluster = TestCluster::new().shards(3).start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE TABLE users (id bigint PRIMARY KEY, score float8)")
        .await
        .unwrap();
    // $1 is a bigint by its first use, and a double by its second
    let by_key = "SELECT score FROM users WHERE id = $1 AND score = $1";
    let by_score = "SELECT id FROM users WHERE score = $1 AND id = $1";
    for id in 0..20_i64 {
        client
            .batch_execute(&format!("INSERT INTO users VALUES ({id}, {id})"))
            .await
            .unwrap();
        // tokio-postgres binds in binary: eight bytes either way
        let rows = client.query(by_key, &[&id]).await.unwrap();
        assert_eq!(rows.len(), 1, "{id}");
    }
    let refused = client.query(by_score, &[&7.0_f64]).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    let unsound = client
        .prepare("SELECT id FROM users WHERE id = $1 AND score = $1 AND nothing = $1")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&unsound), "42703");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_mean_what_the_role_s_own_search_path_makes_them_mean() {
    let cluster = TestCluster::new().shards(3).shop().start().await;
    let before = cluster.connect("app").await;
    for id in 0..12 {
        before
            .batch_execute(&format!("INSERT INTO users (id) VALUES ({id})"))
            .await
            .unwrap();
    }
    // behind the proxy's back, on the home shard: a table that a search path may put before the sharded one
    for statement in [
        "CREATE SCHEMA other AUTHORIZATION app",
        "CREATE TABLE other.users (id bigint)",
        "INSERT INTO other.users SELECT generate_series(1, 5)",
        "GRANT SELECT ON other.users TO app",
    ] {
        cluster.shard(0).primary().sql(statement).await.unwrap();
    }
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql("ALTER ROLE app SET search_path = other, public")
            .await
            .unwrap();
    }
    let count = "SELECT count(*) FROM users";
    // who was there keeps what it began with
    let refused = before.batch_execute(count).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    // who comes once the change is known begins with it, on whichever connection
    let mut tries = 0;
    loop {
        let after = cluster.connect("app").await;
        if let Ok(messages) = after.simple_query(count).await {
            assert!(
                messages.iter().any(|message| matches!(
                    message,
                    tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("5")
                )),
                "{messages:?}"
            );
            after
                .batch_execute("SET search_path = public")
                .await
                .unwrap();
            let refused = after.batch_execute(count).await.unwrap_err();
            assert_eq!(sqlstate(&refused), "0A000");
            after.batch_execute("RESET search_path").await.unwrap();
            after.batch_execute(count).await.unwrap();
            break;
        }
        tries += 1;
        assert!(tries < 100, "the change is not noticed");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let still = before.batch_execute(count).await.unwrap_err();
    assert_eq!(sqlstate(&still), "0A000");
}
