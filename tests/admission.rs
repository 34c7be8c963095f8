//! Who gets in where the configuration does not name everybody and everything: the servers' roles, databases that are only read, databases made
//! on demand, rules by origin, and what of it a reload changes.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgherd_tests::asking::{one, unsharded};
use pgherd_tests::certificates::Certificates;
use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::{Client, Error};

/// How long a reload may take to be seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs statements on the only server, as its superuser.
async fn on_server(cluster: &Cluster, statements: &str) {
    let server = cluster.shard(0).primary();
    server
        .sql(statements)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn refused(cluster: &Cluster, user: &str, password: &str, database: &str) -> Error {
    let url = cluster.url_to(user, password, database);
    cluster.try_connect(&url).await.unwrap_err()
}

fn message(error: &Error) -> String {
    error.as_db_error().unwrap().message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_the_servers_log_in_with_the_password_kept_there_and_become_themselves() {
    let cluster = unsharded(|configuration| configuration.database = "auth: {}".into())
        .start()
        .await;
    on_server(
        &cluster,
        "ALTER ROLE pgherd SUPERUSER;
         CREATE ROLE joe LOGIN PASSWORD 'right';
         CREATE ROLE late LOGIN PASSWORD 'right' VALID UNTIL '2001-01-01';
         CREATE ROLE early LOGIN PASSWORD 'right' VALID UNTIL 'infinity';
         CREATE ROLE nologin PASSWORD 'right';
         CREATE ROLE bare LOGIN",
    )
    .await;
    for user in ["joe", "early"] {
        let url = cluster.url_to(user, "right", "shop");
        let client = cluster.try_connect(&url).await.unwrap();
        assert_eq!(one(&client, "SELECT session_user").await, user);
    }
    for user in ["late", "nologin", "bare", "nobody"] {
        let error = refused(&cluster, user, "right", "shop").await;
        assert_eq!(sqlstate(&error), "28P01", "{user}");
        assert_eq!(
            message(&error),
            format!("password authentication failed for user \"{user}\"")
        );
    }
    let error = refused(&cluster, "joe", "wrong", "shop").await;
    assert_eq!(sqlstate(&error), "28P01");
    // the same words as for a database that is there, unless the password is right
    let error = refused(&cluster, "joe", "right", "nowhere").await;
    assert_eq!(sqlstate(&error), "3D000");
    // whom the configuration names is not asked for
    cluster.connect("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_known_once_the_old_one_has_failed() {
    let cluster = unsharded(|configuration| configuration.database = "auth: { cache: 1h }".into())
        .start()
        .await;
    on_server(
        &cluster,
        "ALTER ROLE pgherd SUPERUSER; CREATE ROLE joe LOGIN PASSWORD 'first'",
    )
    .await;
    let first = cluster.url_to("joe", "first", "shop");
    cluster.try_connect(&first).await.unwrap();
    on_server(&cluster, "ALTER ROLE joe PASSWORD 'second'").await;
    let second = cluster.url_to("joe", "second", "shop");
    // SCRAM has no second try on one connection
    if let Err(error) = cluster.try_connect(&second).await {
        assert_eq!(sqlstate(&error), "28P01");
    }
    let client = cluster.try_connect(&second).await.unwrap();
    assert_eq!(one(&client, "SELECT session_user").await, "joe");
    let error = refused(&cluster, "joe", "first", "shop").await;
    assert_eq!(sqlstate(&error), "28P01");
    // one that was just made was not remembered to be missing
    let error = refused(&cluster, "new", "new", "shop").await;
    assert_eq!(sqlstate(&error), "28P01");
    on_server(&cluster, "CREATE ROLE new LOGIN PASSWORD 'new'").await;
    cluster.connect("new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_md5_password_that_was_changed_works_at_the_first_try() {
    let cluster = unsharded(|configuration| configuration.database = "auth: { cache: 1h }".into())
        .servers(|herd| herd.host_line("host all joe 127.0.0.1/32 md5"))
        .start()
        .await;
    on_server(
        &cluster,
        "ALTER ROLE pgherd SUPERUSER; SET password_encryption = 'md5'; CREATE ROLE joe LOGIN PASSWORD 'first'",
    )
    .await;
    let first = cluster.url_to("joe", "first", "shop");
    cluster.try_connect(&first).await.unwrap();
    on_server(
        &cluster,
        "SET password_encryption = 'md5'; ALTER ROLE joe PASSWORD 'second'",
    )
    .await;
    let second = cluster.url_to("joe", "second", "shop");
    let client = cluster.try_connect(&second).await.unwrap();
    assert_eq!(one(&client, "SELECT session_user").await, "joe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_ones_own_needs_no_superuser() {
    let mut cluster = unsharded(|_| {}).start().await;
    on_server(
        &cluster,
        "CREATE ROLE joe LOGIN PASSWORD 'joe';
         CREATE ROLE asker LOGIN PASSWORD 'asker'",
    )
    .await;
    let server = cluster.shard(0).primary();
    server
        .sql_in(
            "shop",
            "CREATE FUNCTION public.password_of(name, OUT usename name, OUT passwd text) RETURNS SETOF record
             LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
             $$ SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1 $$",
        )
        .await
        .unwrap();
    let auth = |query: &str| {
        format!(
            "auth: {{ query: \"{query}\", user: asker, password: asker, database: shop, cache: 0s }}"
        )
    };
    cluster
        .reload(|configuration| {
            configuration.database = auth("SELECT * FROM public.password_of($1)");
        })
        .await;
    let client = cluster.connect("joe").await;
    assert_eq!(one(&client, "SELECT session_user").await, "joe");
    // a query that answers about somebody else, or about too many, lets nobody in
    for query in [
        "SELECT usename, passwd FROM public.password_of('joe') WHERE $1::text IS NOT NULL",
        "SELECT rolname, 'x'::text FROM pg_catalog.pg_roles WHERE $1::text IS NOT NULL",
        "SELECT passwd FROM public.password_of($1)",
        "SELECT nonsense FROM nowhere WHERE x = $1",
    ] {
        cluster
            .reload(|configuration| {
                configuration.database = auth(query);
            })
            .await;
        let error = refused(&cluster, "asker", "asker", "shop").await;
        assert_eq!(sqlstate(&error), "57P03", "{query}");
        cluster.connect("app").await;
    }
}

/// A database that is only read beside the one that is written.
async fn with_read_only(replicas: u16) -> Cluster {
    let cluster = TestCluster::new()
        .replicas(replicas)
        .configure(|configuration| {
            configuration.databases =
                "shop_ro: { like: shop, reads: only, users: [{ name: app, password: app }] }"
                    .into();
        })
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    for id in 1..=4 {
        let insert = format!("INSERT INTO users VALUES ({id}, 'u', 'de')");
        client.batch_execute(&insert).await.unwrap();
    }
    cluster.wait_for_replay().await;
    cluster
}

async fn read_only(cluster: &Cluster) -> Client {
    let url = cluster.url_to("app", "app", "shop_ro");
    cluster.try_connect(&url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_only_reads_nothing_is_written_and_replicas_answer() {
    let cluster = with_read_only(1).await;
    let client = read_only(&cluster).await;
    let traced = cluster
        .trace(&client, "SELECT name FROM users WHERE id = 1")
        .await
        .unwrap();
    assert_eq!(traced.rows, [["u"]]);
    assert!(
        traced.servers.iter().all(|server| server.ends_with('b')),
        "{traced:?}"
    );
    for write in [
        "INSERT INTO users VALUES (9, 'x', 'de')",
        "UPDATE users SET name = 'x' WHERE id = 1",
        "DELETE FROM users WHERE id = 1",
        "/* a comment */ delete from users where id = 1",
        "CREATE TABLE t (id int)",
        "DROP TABLE users",
        "TRUNCATE users",
        "COPY settings FROM STDIN",
        "WITH gone AS (DELETE FROM users WHERE id = 1 RETURNING id) SELECT * FROM gone",
        "SELECT * FROM users WHERE id = 1 FOR UPDATE",
        "INSERT INTO countries VALUES ('xx', 'x')",
        "VACUUM users",
    ] {
        let error = client.simple_query(write).await.unwrap_err();
        assert_eq!(sqlstate(&error), "25006", "{write}: {error:?}");
    }
    let error = client
        .execute("UPDATE users SET name = $1 WHERE id = 1", &[&"x"])
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    assert_eq!(
        one(&client, "SELECT name FROM users WHERE id = 1").await,
        "u"
    );
    // in a block too a replica answers
    client.batch_execute("BEGIN").await.unwrap();
    let traced = cluster
        .trace(&client, "SELECT name FROM users WHERE id = 2")
        .await
        .unwrap();
    assert!(
        traced.servers.iter().all(|server| server.ends_with('b')),
        "{traced:?}"
    );
    client.batch_execute("COMMIT").await.unwrap();
}

/// One catalog for all entries to a database: a plan by an older one would read the view as if it called nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_defined_through_one_entry_is_known_to_another_at_once() {
    let cluster = unsharded(|configuration| {
        configuration.databases = "shop_ro: { like: shop, reads: only }".into();
    })
    .start()
    .await;
    let writer = cluster.connect("app").await;
    let opens = "CREATE FUNCTION opens() RETURNS text LANGUAGE sql AS $$ SELECT set_config('transaction_read_only', 'off', false) $$";
    writer.batch_execute(opens).await.unwrap();
    let reader = read_only(&cluster).await;
    for number in 1..=20 {
        let make = format!(
            "CREATE TABLE made_{number} (id int); INSERT INTO made_{number} VALUES ({number})"
        );
        for statement in make.split(';') {
            writer.batch_execute(statement).await.unwrap();
        }
        let read = format!("SELECT id FROM made_{number}");
        assert_eq!(one(&reader, &read).await, number.to_string());
        let view = format!("CREATE VIEW calls_{number} AS SELECT opens()");
        writer.batch_execute(&view).await.unwrap();
        let read = format!("SELECT * FROM calls_{number}");
        let error = reader.simple_query(&read).await.unwrap_err();
        assert_eq!(sqlstate(&error), "25006", "{read}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_to_writes_cannot_be_opened_from_within() {
    let mut cluster = unsharded(|configuration| {
        configuration.databases = "shop_ro: { like: shop, reads: only }".into();
    })
    .start()
    .await;
    let writer = cluster.connect("app").await;
    writer
        .batch_execute(
            "CREATE TABLE t (id int);
             CREATE FUNCTION opens() RETURNS text LANGUAGE sql AS $$ SELECT set_config('default_transaction_read_only', 'off', false) $$;
             CREATE FUNCTION two() RETURNS int LANGUAGE sql STABLE AS $$ SELECT 2 $$",
        )
        .await
        .unwrap();
    let client = read_only(&cluster).await;
    for opener in [
        "SET default_transaction_read_only = off",
        "SET default_transaction_read_only TO 'false'",
        "SET SESSION default_transaction_read_only = 0",
        "SET transaction_read_only = off",
        "RESET transaction_read_only",
        "BEGIN READ WRITE",
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT 1, set_config('default_transaction_read_only', 'off', false)",
        "SELECT opens()",
        "DO $$ BEGIN PERFORM set_config('default_transaction_read_only', 'off', false); END $$",
        "PREPARE p AS SELECT opens()",
        "SELECT query_to_xml('SELECT opens()', true, true, '')",
        "EXPLAIN ANALYZE SELECT opens()",
        "DECLARE c CURSOR WITH HOLD FOR SELECT opens()",
        "COPY (SELECT opens()) TO STDOUT",
    ] {
        let error = client.simple_query(opener).await.unwrap_err();
        assert_eq!(sqlstate(&error), "25006", "{opener}: {error:?}");
    }
    client.batch_execute("BEGIN").await.unwrap();
    let error = client
        .batch_execute("SET TRANSACTION READ WRITE")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    client.batch_execute("ROLLBACK").await.unwrap();
    let name = "default_transaction_read_only";
    let error = client
        .query("SELECT set_config($1, 'off', false)", &[&name])
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    let url = cluster.url_to("app", "app", "shop_ro");
    let opened = format!("{url}?options=-c%20default_transaction_read_only%3Doff");
    let error = cluster.try_connect(&opened).await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    // what is no door stays open
    for statement in [
        "SET default_transaction_read_only = on",
        "RESET default_transaction_read_only",
        "BEGIN READ ONLY; SELECT 1; COMMIT",
        "SET work_mem = '5MB'",
        "SELECT random(), now()",
        "SELECT count(*) FROM pg_stat_activity",
        "SHOW ALL",
        "EXPLAIN SELECT * FROM t",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        if let Err(error) = client.simple_query(statement).await {
            panic!("{statement}: {error:?}");
        }
        assert_eq!(
            one(&client, "SHOW default_transaction_read_only").await,
            "on"
        );
    }
    // a function that is declared to read is one
    let error = client.simple_query("SELECT two()").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    cluster
        .reload(|configuration| {
            configuration.database = "reads: { functions: [two] }".into();
        })
        .await;
    // this entry reads the catalog for itself, once a second
    let begun = Instant::now();
    while let Err(error) = client.simple_query("SELECT two()").await {
        assert!(begun.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(one(&client, "SELECT two()").await, "2");
}

/// A cluster whose server's databases are served by the template `*`.
async fn on_demand(limits: &'static str) -> Cluster {
    let mut cluster = unsharded(move |configuration| {
        configuration.databases = format!(
            "\"*\":
  users: [{{ name: app, password: app }}]
  control_login: {{ user: pgherd, password: pgherd }}
  on_demand: {limits}
  shards: [{{ name: s0, servers: [{{ name: s0a, address: 127.0.0.1:1 }}] }}]"
        );
    })
    .start_unready()
    .await;
    let port = cluster.shard(0).primary().port();
    cluster.rewrite(|configuration| {
        configuration.databases = configuration
            .databases
            .replace("127.0.0.1:1 ", &format!("127.0.0.1:{port} "));
    });
    cluster.restart_product().await;
    cluster
}

/// As on Postgres: a database can be dropped, renamed and copied once the last client has left it, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_client_uses_can_be_dropped() {
    let cluster = on_demand("{ idle_timeout: 1h }").await;
    on_server(&cluster, "ALTER ROLE app CREATEDB").await;
    let url = |name: &str| cluster.url_to("app", "app", name);
    let owner = cluster.try_connect(&url("postgres")).await.unwrap();
    let visit = async |name: &str| {
        let client = cluster.try_connect(&url(name)).await.unwrap();
        assert_eq!(one(&client, "SELECT current_database()").await, name);
        client
    };
    for _ in 0..3 {
        for (statement, visited) in [
            ("CREATE DATABASE one", "one"),
            ("ALTER DATABASE one RENAME TO two", "two"),
            ("CREATE DATABASE three TEMPLATE two", "three"),
        ] {
            owner.batch_execute(statement).await.unwrap();
            drop(visit(visited).await);
        }
        owner.batch_execute("DROP DATABASE two").await.unwrap();
        owner.execute("DROP DATABASE three", &[]).await.unwrap();
    }
    owner.batch_execute("CREATE DATABASE one").await.unwrap();
    let client = visit("one").await;
    let error = owner.batch_execute("DROP DATABASE one").await.unwrap_err();
    assert_eq!(sqlstate(&error), "55006");
    assert_eq!(one(&client, "SELECT current_database()").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_named_nowhere_are_made_when_asked_for() {
    let cluster = on_demand("{ databases: 2, idle_timeout: 1s }").await;
    for name in ["one", "two", "three"] {
        on_server(&cluster, &format!("CREATE DATABASE {name} OWNER app")).await;
    }
    let url = |name: &str| cluster.url_to("app", "app", name);
    let client = cluster.try_connect(&url("one")).await.unwrap();
    assert_eq!(one(&client, "SELECT current_database()").await, "one");
    client
        .batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let again = cluster.try_connect(&url("one")).await.unwrap();
    assert_eq!(one(&again, "SELECT count(*) FROM t").await, "1");
    // what is not there is told in Postgres' own words, and takes no place
    for name in ["nowhere", "neither", "*"] {
        let error = cluster.try_connect(&url(name)).await.unwrap_err();
        assert_eq!(sqlstate(&error), "3D000", "{name}");
        assert_eq!(
            message(&error),
            format!("database \"{name}\" does not exist")
        );
    }
    // nobody without a password has one made
    let error = refused(&cluster, "app", "wrong", "two").await;
    assert_eq!(sqlstate(&error), "28P01");
    let second = cluster.try_connect(&url("two")).await.unwrap();
    assert_eq!(one(&second, "SELECT current_database()").await, "two");
    let error = cluster.try_connect(&url("three")).await.unwrap_err();
    assert_eq!(sqlstate(&error), "53300");
    // named ones go on beside, and the console shows all
    cluster.connect("app").await;
    let console = cluster.console().await;
    let shown = console.simple_query("SHOW DATABASES").await.unwrap();
    let names: Vec<String> = shown
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    for name in ["one", "shop", "two"] {
        assert!(names.iter().any(|shown| shown == name), "{names:?}");
    }
    // a place is free once nobody uses it
    drop(second);
    let begun = Instant::now();
    while let Err(error) = cluster.try_connect(&url("three")).await {
        assert!(begun.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((client, again));
    // and what nobody uses for long is closed
    cluster.wait_for_log(0, "nobody uses the database").await;
    let client = cluster.try_connect(&url("one")).await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "1");
    let (status, _) = cluster.http("/readyz").await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_say_who_may_connect_and_a_reload_changes_them() {
    let mut cluster = unsharded(|configuration| {
        configuration.listen = "hba:
  - hostssl all all all scram-sha-256
  - host pgherd admin all md5
  - host shop app 127.0.0.0/8 scram-sha-256
  - host shop easy samehost trust
  - host all nobody all trust
  - host all banned all reject"
            .into();
        configuration.users = "- { name: app, password: app }
- { name: easy, password: easy }
- { name: banned, password: banned }
- { name: other, password: other }"
            .into();
        configuration.database = "server_login: { user: app, password: app }".into();
    })
    .start()
    .await;
    cluster.console().await;
    let url = format!("postgresql://easy@{}/shop", cluster.endpoint());
    let client = cluster.try_connect(&url).await.unwrap();
    assert_eq!(one(&client, "SELECT 1").await, "1");
    let error = refused(&cluster, "banned", "banned", "shop").await;
    assert_eq!(sqlstate(&error), "28000");
    assert_eq!(
        message(&error),
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"banned\", database \"shop\", no encryption"
    );
    let error = refused(&cluster, "other", "other", "shop").await;
    assert_eq!(sqlstate(&error), "28000");
    assert_eq!(
        message(&error),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"other\", database \"shop\", no encryption"
    );
    let error = refused(&cluster, "nobody", "x", "shop").await;
    assert_eq!(sqlstate(&error), "28000");
    assert_eq!(message(&error), "role \"nobody\" does not exist");
    let error = refused(&cluster, "app", "wrong", "shop").await;
    assert_eq!(sqlstate(&error), "28P01");

    let file = cluster.directory().join("hba.conf");
    std::fs::write(
        &file,
        "# TYPE DATABASE USER ADDRESS METHOD\nhost all all 127.0.0.1 255.255.255.255 md5\n",
    )
    .unwrap();
    cluster
        .reload(|configuration| {
            configuration.listen = "hba_file: hba.conf".into();
        })
        .await;
    cluster.connect("other").await;
    assert!(cluster.try_connect(&url).await.is_err());
    // a wrong file changes nothing, and the check names the line
    let before = cluster.product_log().len();
    std::fs::write(&file, "host all app all md5\n\nhost all +staff all md5\n").unwrap();
    cluster.product().signal(Signal::SIGHUP);
    cluster.wait_for_log(before, "line 3").await;
    cluster.connect("other").await;
    let check = std::process::Command::new(pgherd_tests::product::binary())
        .args(["check", "--config"])
        .arg(cluster.configuration_path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(2), "{said}");
    assert!(
        said.contains("hba.conf, line 3") && said.contains("+staff"),
        "{said}"
    );
    std::fs::write(&file, "host all app all md5\n").unwrap();
    cluster.reload(|_| {}).await;
    let error = refused(&cluster, "other", "other", "shop").await;
    assert_eq!(sqlstate(&error), "28000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_settings_are_in_force_and_ignored_parameters_are_not() {
    let cluster = unsharded(|configuration| {
        configuration.users = "- name: app
  password: app
  settings: { statement_timeout: 77s, search_path: \"a, b\", application_name: configured }"
            .into();
        configuration.listen = "ignore_startup_parameters: [nonsense, Work_Mem]".into();
    })
    .start()
    .await;
    let client = cluster.connect("app").await;
    for _ in 0..3 {
        assert_eq!(one(&client, "SHOW statement_timeout").await, "77s");
        assert_eq!(one(&client, "SHOW search_path").await, "a, b");
        assert_eq!(one(&client, "SHOW application_name").await, "configured");
    }
    client
        .batch_execute("SET statement_timeout = '3s'")
        .await
        .unwrap();
    assert_eq!(one(&client, "SHOW statement_timeout").await, "3s");
    client
        .batch_execute("RESET statement_timeout")
        .await
        .unwrap();
    let url = format!(
        "{}?options=-c%20statement_timeout%3D5s%20-c%20nonsense%3D1%20-c%20work_mem%3D9MB",
        cluster.url("app")
    );
    let client = cluster.try_connect(&url).await.unwrap();
    assert_eq!(one(&client, "SHOW statement_timeout").await, "5s");
    assert_eq!(one(&client, "SHOW search_path").await, "a, b");
    assert_eq!(one(&client, "SHOW work_mem").await, "4MB");
    let url = format!("{}?options=-c%20gibberish%3D1", cluster.url("app"));
    let error = cluster.try_connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&error), "42704");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_see_a_new_certificate_after_a_reload_and_a_broken_one_changes_nothing() {
    let old = Certificates::make("app");
    let new = Certificates::make("app");
    let files = tempfile::tempdir().unwrap();
    let write = |certificates: &Certificates| {
        std::fs::write(files.path().join("server.crt"), &certificates.server).unwrap();
        std::fs::write(files.path().join("server.key"), &certificates.server_key).unwrap();
    };
    write(&old);
    for (name, authority) in [("old.crt", &old.authority), ("new.crt", &new.authority)] {
        std::fs::write(files.path().join(name), authority).unwrap();
    }
    let directory = files.path().display().to_string();
    let mut cluster = unsharded(|configuration| {
        configuration.listen = format!(
            "tls: {{ mode: prefer, certificate: {directory}/server.crt, key: {directory}/server.key }}"
        );
    })
    .start()
    .await;
    let trusts = async |cluster: &Cluster, authority: &str| {
        let port = cluster.endpoint();
        let port = port.rsplit(':').next().unwrap();
        let connection = format!(
            "host=localhost hostaddr=127.0.0.1 port={port} dbname=shop user=app password=app sslmode=verify-full sslrootcert={directory}/{authority}"
        );
        let psql = tokio::process::Command::new("psql")
            .args([&connection, "-XAtc", "SELECT 1"])
            .output();
        psql.await.unwrap().status.success()
    };
    assert!(trusts(&cluster, "old.crt").await);
    assert!(!trusts(&cluster, "new.crt").await);
    let client = cluster.connect("app").await;

    write(&new);
    cluster.reload(|_| {}).await;
    assert!(trusts(&cluster, "new.crt").await);
    assert!(!trusts(&cluster, "old.crt").await);
    assert_eq!(one(&client, "SELECT 1").await, "1");

    let before = cluster.product_log().len();
    std::fs::write(files.path().join("server.key"), "no key").unwrap();
    cluster.product().signal(Signal::SIGHUP);
    cluster.wait_for_log(before, "was not reloaded").await;
    let log = cluster.product_log();
    assert!(log[before..].contains("ERROR"), "{log}");
    assert!(trusts(&cluster, "new.crt").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_come_change_and_go_with_a_reload_and_their_clients_stay() {
    let mut cluster = unsharded(|_| {}).start().await;
    let port = cluster.shard(0).primary().port();
    on_server(&cluster, "CREATE DATABASE other OWNER app").await;
    let read_only = cluster.url_to("app", "app", "shop_ro");
    let other = cluster.url_to("app", "app", "other");
    for url in [&read_only, &other] {
        assert!(cluster.try_connect(url).await.is_err());
    }
    let entries = |users: &str| {
        format!(
            "shop_ro: {{ like: shop, reads: only, users: [{users}] }}
\"*\":
  users: [{users}]
  control_login: {{ user: pgherd, password: pgherd }}
  shards: [{{ name: s0, servers: [{{ name: s0a, address: 127.0.0.1:{port} }}] }}]"
        )
    };
    cluster
        .reload(|configuration| {
            configuration.databases = entries("{ name: app, password: app }");
        })
        .await;
    let reader = cluster.try_connect(&read_only).await.unwrap();
    let error = reader.batch_execute("CREATE TABLE t ()").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    let client = cluster.try_connect(&other).await.unwrap();
    assert_eq!(one(&client, "SELECT current_database()").await, "other");
    // other users, of entries that stay
    cluster
        .reload(|configuration| {
            configuration.databases = entries("{ name: app, password: changed }");
        })
        .await;
    for database in ["shop_ro", "other"] {
        let error = refused(&cluster, "app", "app", database).await;
        assert_eq!(sqlstate(&error), "28P01", "{database}");
    }
    // the entry may write from now on
    cluster
        .reload(|configuration| {
            configuration.databases = "shop_ro: { like: shop, reads: { from: primary } }".into();
        })
        .await;
    let error = refused(&cluster, "app", "app", "other").await;
    assert_eq!(sqlstate(&error), "3D000");
    reader.batch_execute("CREATE TABLE t ()").await.unwrap();
    assert_eq!(one(&client, "SELECT current_database()").await, "other");
    // and all go
    cluster
        .reload(|configuration| configuration.databases.clear())
        .await;
    assert!(cluster.try_connect(&read_only).await.is_err());
    assert_eq!(one(&reader, "SELECT count(*) FROM t").await, "0");
    drop((reader, client));
    cluster.wait_for_log(0, "the last session ended").await;
    let client = cluster.connect("app").await;
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_the_servers_come_to_databases_that_are_named_nowhere() {
    let mut cluster = unsharded(|_| {}).start().await;
    let port = cluster.shard(0).primary().port();
    on_server(
        &cluster,
        "ALTER ROLE pgherd SUPERUSER; CREATE ROLE joe LOGIN PASSWORD 'joe' CREATEDB",
    )
    .await;
    on_server(&cluster, "CREATE DATABASE joe OWNER joe").await;
    cluster
        .reload(|configuration| {
            configuration.databases = format!(
                "\"*\":
  auth: {{}}
  control_login: {{ user: pgherd, password: pgherd }}
  shards: [{{ name: s0, servers: [{{ name: s0a, address: 127.0.0.1:{port} }}] }}]"
            );
        })
        .await;
    let url = cluster.url_to("joe", "joe", "joe");
    let client = cluster.try_connect(&url).await.unwrap();
    assert_eq!(
        one(&client, "SELECT current_user || current_database()").await,
        "joejoe"
    );
    // a change of the template reaches databases that are there
    cluster
        .reload(|configuration| {
            configuration.databases = configuration
                .databases
                .replace("auth: {}", "auth: {}\n  max_clients: 1");
        })
        .await;
    let error = refused(&cluster, "joe", "joe", "joe").await;
    assert_eq!(sqlstate(&error), "53300");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_may_demand_a_certificate_or_over_tls_the_password_itself() {
    let certificates = Certificates::make("app");
    let files = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("ca.crt", &certificates.authority),
        ("server.crt", &certificates.server),
        ("server.key", &certificates.server_key),
        ("client.crt", &certificates.client),
        ("client.key", &certificates.client_key),
    ] {
        use std::os::unix::fs::PermissionsExt;
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let directory = files.path().display().to_string();
    let cluster = unsharded(|configuration| {
        configuration.listen = format!(
            "tls: {{ mode: prefer, certificate: {directory}/server.crt, key: {directory}/server.key, root_certificate: {directory}/ca.crt }}
hba:
  - hostssl all app,easy all cert
  - host all app all scram-sha-256
  - host all open all password"
        );
        configuration.users = "- { name: app, password: app }
- { name: easy, password: easy }
- { name: open, password: open }"
            .into();
        configuration.database = "server_login: { user: app, password: app }".into();
    })
    .start()
    .await;
    let psql = async |parameters: &str| {
        let endpoint = cluster.endpoint();
        let port = endpoint.rsplit(':').next().unwrap();
        let connection =
            format!("host=localhost hostaddr=127.0.0.1 port={port} dbname=shop {parameters}");
        let output = tokio::process::Command::new("psql")
            .args([&connection, "-XAtwc", "SELECT 1"])
            .env("PGSSLCERT", "/nonexistent")
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let certificate =
        format!("sslmode=require sslcert={directory}/client.crt sslkey={directory}/client.key");
    assert_eq!(psql(&format!("user=app {certificate}")).await, "");
    let said = psql(&format!("user=easy password=easy {certificate}")).await;
    assert!(
        said.contains("certificate authentication failed for user \"easy\""),
        "{said}"
    );
    let said = psql("user=easy password=easy sslmode=require").await;
    assert!(
        said.contains("connection requires a valid client certificate"),
        "{said}"
    );
    assert_eq!(psql("user=open password=open sslmode=require").await, "");
    let said = psql("user=open password=open sslmode=disable").await;
    assert!(said.contains("needs an encrypted connection"), "{said}");
    let said = psql("user=open password=wrong sslmode=require").await;
    assert!(said.contains("password authentication failed"), "{said}");
}
