//! Runs a command beside three endpoints: a plain Postgres, pgherd over one shard, pgherd over two.
//!
//! ```text
//! endpoints COMMAND [ARGUMENT]...
//! ```
//!
//! The command finds the ports of 127.0.0.1 in the environment variables `PLAIN`, `UNSHARDED` and `SHARDED`. Everywhere there is a
//! database `shop` with the users `app` (password `app`) and the superuser `root` (password `root`). Both of pgherd's have a replica to each
//! primary and transaction pooling. The pool of a user on a server has 40 connections, since named statements and SETs keep theirs with their client;
//! `POOL_SIZE` changes it. What both logged is written to `LOGS` if that directory is named. Ends with the command's exit code.

use std::process::ExitCode;

use pgherd::herd::{Durability, Herd};
use pgherd_tests::command::run_beside;
use pgherd_tests::{Cluster, TestCluster};

/// How many clients a program may run as at once: the tables that the rules name are made for so many.
const CLIENTS: u16 = 8;
const SUPERUSER: &str = "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'root'";
const USERS: &str = "- { name: app, password: app }\n- { name: root, password: root }";
/// Another name for it, by which test suites connect to any Postgres.
const OTHERS: &str = "postgres: { like: shop }";

#[tokio::main]
async fn main() -> ExitCode {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let plain = Herd::builder()
        .directory(directory.path())
        .durability(Durability::Fast)
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let unsharded = endpoint(1, String::new()).await;
    let sharded = endpoint(2, sharding()).await;
    let servers = [&plain, unsharded.herd(), sharded.herd()]
        .into_iter()
        .flat_map(Herd::shards);
    for shard in servers {
        let made = shard.primary().sql(SUPERUSER).await;
        made.unwrap_or_else(|error| panic!("{error}"));
    }

    let ports = [
        ("PLAIN", plain.shards()[0].primary().port()),
        ("UNSHARDED", unsharded.configuration().port),
        ("SHARDED", sharded.configuration().port),
    ];
    run_beside(
        &ports,
        &[(&unsharded, "unsharded.log"), (&sharded, "sharded.log")],
    )
    .await
}

async fn endpoint(shards: u16, sharding: String) -> Cluster {
    let pool = std::env::var("POOL_SIZE").unwrap_or_else(|_| "40".into());
    TestCluster::new()
        .shards(shards)
        .replicas(1)
        // what one client wrote, another one reads on a replica: the programs' parts are clients of their own
        .servers(|herd| {
            herd.setting("synchronous_standby_names", "*")
                .setting("synchronous_commit", "remote_apply")
        })
        .configure(|configuration| {
            configuration.sharding = sharding;
            configuration.users = USERS.into();
            if shards == 1 {
                configuration.databases = OTHERS.into();
            }
            // clients that wait for each other's transactions wait long where machines are slow
            configuration.database = format!("pool: {{ size: {pool}, checkout_timeout: 30s }}");
        })
        .start()
        .await
}

/// `things_0`, `parts_0` and so on: each client of a program has its own.
fn sharding() -> String {
    let mut tables = String::from("tables:\n");
    for client in 0..CLIENTS {
        tables += &format!(
            "  things_{client}: {{ key: id }}\n  parts_{client}: {{ key: thing, with: things_{client} }}\n"
        );
    }
    tables + "unlisted: s0"
}
