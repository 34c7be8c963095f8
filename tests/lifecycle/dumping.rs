//! Large objects, and pg_dump through the endpoint.

use std::process::{Command, Output};

use pgherd_tests::Cluster;

use crate::unsharded;

fn run(program: &str, url: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .arg(url)
        .args(arguments)
        .env("LC_ALL", "C")
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
