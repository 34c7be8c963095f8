//! Large objects, and pg_dump through the endpoint.

use std::process::{Command, Output};

use pgherd_tests::{Cluster, TestCluster};

use crate::unsharded;

fn run(program: &str, url: &str, arguments: &[&str]) -> Output {
    run_with("", program, url, arguments)
}

fn run_with(options: &str, program: &str, url: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .arg(url)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("PGOPTIONS", options)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output
}

/// What pg_dump prints, without what differs from run to run.
fn dump(url: &str) -> String {
    let output = run(
        "pg_dump",
        url,
        &["--no-owner", "--no-acl", "--exclude-schema=pgherd"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        // a random key of each run
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn directly(cluster: &Cluster) -> String {
    let port = cluster.shard(0).primary().port();
    format!("postgresql://app:app@127.0.0.1:{port}/shop")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_keep_no_connection_and_a_dump_is_as_from_the_server_itself() {
    let cluster = unsharded(|configuration| configuration.database = "pool: { size: 1 }".into())
        .start()
        .await;
    let url = cluster.url("app");
    let written = cluster.directory().join("written");
    let read = cluster.directory().join("read");
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&written, &bytes).unwrap();
    // one connection for two clients: what one left pinned would keep the other waiting
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT g, g::text FROM generate_series(1, 1000) g")
        .await
        .unwrap();
    let import = format!("\\lo_import {}", written.display());
    let export = format!("\\lo_export :LASTOID {}", read.display());
    let check = "SELECT count(*) FROM t";
    run("psql", &url, &["-X", "-c", &import, "-c", check]);
    let script = format!("{import}\nSELECT pg_sleep(0);\n{export}\n");
    let path = cluster.directory().join("script.sql");
    std::fs::write(&path, script).unwrap();
    run(
        "psql",
        &url,
        &["-X", "-v", "ON_ERROR_STOP=1", "-f", path.to_str().unwrap()],
    );
    assert_eq!(std::fs::read(&read).unwrap(), bytes);
    client.batch_execute(check).await.unwrap();

    let dumped = dump(&url);
    assert_eq!(dumped, dump(&directly(&cluster)));
    // and it goes in again by the endpoint
    client
        .batch_execute("DROP TABLE t; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
        .await
        .unwrap();
    std::fs::write(&path, &dumped).unwrap();
    run(
        "psql",
        &url,
        &["-X", "-v", "ON_ERROR_STOP=1", "-f", path.to_str().unwrap()],
    );
    assert_eq!(dump(&directly(&cluster)), dumped);
}

/// Restores a dump that is a folder.
fn restore(url: &str, folder: &str) {
    let output = Command::new("pg_restore")
        .args([
            "--no-owner",
            "--no-acl",
            "--exit-on-error",
            "-d",
            url,
            folder,
        ])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pg_restore: {said}");
}

const NAME_THE_SECOND: &str = "-c pgherd.shard=s1";

/// Of the shop's rows, what lies in a database of a server.
fn rows(url: &str) -> String {
    let mut all = String::new();
    for table in ["users", "orders", "countries"] {
        let query = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let output = run("psql", url, &["-X", "-A", "-t", "-c", &query]);
        all += &format!("{table}\n{}", String::from_utf8(output.stdout).unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_is_dumped_by_naming_it_and_restored_on_a_plain_postgres() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    for id in 1..60 {
        let insert = format!(
            "INSERT INTO users VALUES ({id}, 'user {id}', 'nz'); INSERT INTO orders VALUES ({id}, 1, {id}.5)"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    for statement in [
        "INSERT INTO countries VALUES ('nz', 'New Zealand')",
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * n'",
        "CREATE INDEX by_name ON users (name)",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let server = |shard: usize, database: &str| {
        let port = cluster.shard(shard).primary().port();
        format!("postgresql://app:app@127.0.0.1:{port}/{database}")
    };
    let stored = rows(&server(1, "shop"));
    let users = stored
        .lines()
        .filter(|line| line.contains("|user "))
        .count();
    assert!(users > 5 && users < 55, "{stored}");

    let url = cluster.url("app");
    let arguments = ["--no-owner", "--no-acl", "--exclude-schema=pgherd"];
    let script = cluster.directory().join("shard.sql");
    let folder = cluster.directory().join("shard.d");
    let dumped = run_with(NAME_THE_SECOND, "pg_dump", &url, &arguments);
    std::fs::write(&script, &dumped.stdout).unwrap();
    let in_two = ["-F", "directory", "-j", "2", "-f", folder.to_str().unwrap()];
    let in_two = [arguments.as_slice(), &in_two].concat();
    run_with(NAME_THE_SECOND, "pg_dump", &url, &in_two);

    for (name, program, from) in [
        ("whole", "psql", script.to_str().unwrap()),
        ("in_two", "pg_restore", folder.to_str().unwrap()),
    ] {
        let made = format!("CREATE DATABASE {name} OWNER app");
        cluster.shard(0).primary().sql(&made).await.unwrap();
        let restored = server(0, name);
        match program {
            "psql" => drop(run(
                "psql",
                &restored,
                &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", from],
            )),
            _ => restore(&restored, from),
        }
        assert_eq!(rows(&restored), stored, "{name}");
        let twice = run(
            "psql",
            &restored,
            &["-X", "-A", "-t", "-c", "SELECT twice(21), 'happy'::mood"],
        );
        assert_eq!(twice.stdout, b"42|happy\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsharded_database_is_dumped_by_several_connections_in_one_snapshot() {
    let cluster = unsharded(|_| {}).replicas(1).start().await;
    let client = cluster.connect("app").await;
    for table in ["users", "orders", "countries"] {
        let made = format!(
            "CREATE TABLE {table} AS SELECT g AS a, 'row ' || g AS b FROM generate_series(1, 2000) g"
        );
        client.batch_execute(&made).await.unwrap();
    }
    let folder = cluster.directory().join("dump.d");
    let folder = folder.to_str().unwrap();
    run(
        "pg_dump",
        &cluster.url("app"),
        &[
            "--exclude-schema=pgherd",
            "-F",
            "directory",
            "-j",
            "3",
            "-f",
            folder,
        ],
    );
    let server = cluster.shard(0).primary();
    server
        .sql("CREATE DATABASE restored OWNER app")
        .await
        .unwrap();
    let restored = format!("postgresql://app:app@127.0.0.1:{}/restored", server.port());
    restore(&restored, folder);
    assert_eq!(rows(&restored), rows(&directly(&cluster)));
}
