//! What idle clients cost: starts a Postgres and the pgherd that `PGHERD_BINARY` names, lets clients in, and prints the proxy's memory.
//!
//! ```text
//! make bench-idle             idle_clients [trust]
//! ```
//!
//! Each client logs in by SCRAM as a driver does, runs one query and sits idle; once without TLS, once with. `trust` lets them in without a
//! password, which is quicker where the clients are not optimised and makes no difference to what is left of a login. The figures are the process's
//! resident memory, so that nothing is left out, what the allocator keeps included; the kernel's sockets are not in them.
#![allow(clippy::print_stdout)]

use pgherd_tests::TestCluster;
use pgherd_tests::certificates::Certificates;
use pgherd_tests::idle::{Crowd, Encryption, raise_open_files, settled_memory};

const TRUSTED: &str = "- { name: app, password: app, trust: 127.0.0.1 }";
const STEPS: [u64; 3] = [1_000, 5_000, 10_000];

#[tokio::main]
async fn main() {
    let files = raise_open_files().expect("the limit of open files can be raised");
    let most = STEPS[STEPS.len() - 1];
    assert!(
        files > most + 1_000,
        "ulimit -n {files} is too low for {most} clients"
    );
    let certificates = Certificates::make("app");
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    for (name, text) in [
        ("server.crt", &certificates.server),
        ("server.key", &certificates.server_key),
    ] {
        std::fs::write(path(name), text).expect("the directory is ours");
    }
    let listen = format!(
        "max_clients: {}\ntls: {{ mode: prefer, certificate: {}, key: {} }}",
        most + 100,
        path("server.crt"),
        path("server.key")
    );
    let trust = std::env::args().any(|argument| argument == "trust");
    println!("| clients | | resident memory | for each |\n|---:|---|---:|---:|");
    for (word, encryption) in [
        ("plain", Encryption::Plain),
        ("TLS", Encryption::Tls(certificates.authority.clone())),
    ] {
        let mut cluster = TestCluster::new()
            .shards(1)
            .configure(|configuration| {
                configuration.sharding.clear();
                configuration.listen.clone_from(&listen);
                if trust {
                    configuration.users = TRUSTED.into();
                }
            })
            .start()
            .await;
        let pid = cluster.product().pid();
        let mut crowd = Crowd::new(&cluster, &encryption);
        let empty = settled_memory(pid).await;
        println!("| 0 | {word} | {} KiB | |", empty / 1024);
        for number in STEPS {
            crowd.grow_to(number).await;
            let memory = settled_memory(pid).await;
            let each = memory.saturating_sub(empty) / number;
            println!("| {number} | {word} | {} KiB | {each} B |", memory / 1024);
        }
    }
}
