//! Runs a command beside four endpoints, for Postgres' own regression tests: pgherd in mode transaction and in mode session, and a plain Postgres
//! to compare each with.
//!
//! ```text
//! regress_endpoints COMMAND [ARGUMENT]...
//! ```
//!
//! The command finds the ports of 127.0.0.1 in the environment variables `TRANSACTION`, `TRANSACTION_PLAIN`, `SESSION` and `SESSION_PLAIN`. Each is a cluster
//! of its own with an empty database `regression`, to which the superuser `postgres` (password `postgres`) connects; pgherd's pools have four connections. What
//! pgherd logged is written to `LOGS` if that directory is named. Ends with the command's exit code.

use std::process::ExitCode;

use pgherd::herd::{Durability, Herd, HerdBuilder, Server};
use pgherd_tests::command::run_beside;
use pgherd_tests::{Cluster, TestCluster};

/// In this order, one by one.
const STATEMENTS: [&str; 8] = [
    "ALTER ROLE postgres PASSWORD 'postgres'",
    // as pg_regress makes it
    "DROP DATABASE regression WITH (FORCE)",
    "CREATE DATABASE regression TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'",
    "ALTER DATABASE regression SET lc_messages TO 'C'",
    "ALTER DATABASE regression SET lc_monetary TO 'C'",
    "ALTER DATABASE regression SET lc_numeric TO 'C'",
    "ALTER DATABASE regression SET lc_time TO 'C'",
    "ALTER DATABASE regression SET timezone_abbreviations TO 'Default'",
];

#[tokio::main]
async fn main() -> ExitCode {
    let (transaction, session) = (endpoint("transaction").await, endpoint("session").await);
    let directories =
        [(); 2].map(|()| tempfile::tempdir().expect("there is a temporary directory"));
    let mut plain = Vec::new();
    for directory in &directories {
        let herd = servers(Herd::builder())
            .durability(Durability::Fast)
            .directory(directory.path())
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        prepare(herd.shards()[0].primary()).await;
        plain.push(herd);
    }
    let environment = [
        ("TRANSACTION", transaction.configuration().port),
        ("TRANSACTION_PLAIN", plain[0].shards()[0].primary().port()),
        ("SESSION", session.configuration().port),
        ("SESSION_PLAIN", plain[1].shards()[0].primary().port()),
    ];
    run_beside(
        &environment,
        &[(&transaction, "transaction.log"), (&session, "session.log")],
    )
    .await
}

async fn endpoint(mode: &str) -> Cluster {
    let cluster = TestCluster::new()
        .shards(1)
        .servers(servers)
        .configure(|configuration| {
            configuration.sharding = String::new();
            configuration.database = "server_database: regression".into();
            configuration.databases = format!(
                "regression:\n  like: shop\n  users: [{{ name: postgres, password: postgres }}]\n  pool: {{ mode: {mode}, size: 4 }}"
            );
        })
        .start()
        .await;
    prepare(cluster.shard(0).primary()).await;
    cluster
}

/// What the tests' outputs depend on.
fn servers(herd: HerdBuilder) -> HerdBuilder {
    herd.database("regression")
        .host_line("host all postgres 127.0.0.1/32 scram-sha-256")
        .setting("wal_level", "replica")
        .setting("max_prepared_transactions", "2")
        .setting("shared_buffers", "128MB")
        .setting("log_statement", "none")
        // tables are analyzed and vacuumed when the tests say so, at both
        .setting("autovacuum", "off")
}

async fn prepare(server: &Server) {
    for statement in STATEMENTS {
        let done = server.sql_in("postgres", statement).await;
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}
