//! Input that no driver sends: the proxy answers as Postgres would or hangs up, and serves everybody else meanwhile.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgherd_tests::wire::{RawClient, frame, query, startup, sync, unnamed};
use pgherd_tests::{Cluster, TestCluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROTOCOL_3: u32 = 3 << 16;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;

async fn cluster() -> Cluster {
    TestCluster::new()
        .shop()
        .configure(|configuration| {
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
        })
        .start()
        .await
}

/// Waits for the other side to hang up.
async fn hangs_up(client: &mut RawClient, after: &str) {
    let reading = async {
        let mut rest = Vec::new();
        // a reset is a hang-up too
        let _ = client.stream().read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap_or_else(|_| panic!("no hang-up after {after}"));
}

async fn still_serves(cluster: &mut Cluster) {
    let client = cluster.connect("app").await;
    client
        .simple_query("SELECT value FROM settings")
        .await
        .unwrap();
    assert_eq!(cluster.product().ended(), None, "the process lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_a_startup_ends_that_connection_alone() {
    let mut cluster = cluster().await;
    let bystander = cluster.connect("app").await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for length in [1, 4, 7, 8, 9, 100, 5_000, 70_000] {
        let garbage: Vec<u8> = (0..length)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[3]
            })
            .collect();
        let mut client = RawClient::connect(&cluster.endpoint()).await;
        client.send(&garbage).await;
        client.stream().shutdown().await.unwrap_or_default();
        hangs_up(&mut client, &format!("{length} bytes of garbage")).await;
    }
    bystander.simple_query("SELECT 1").await.unwrap();
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_cannot_be_are_refused_before_anything_is_allocated() {
    let mut cluster = cluster().await;
    // as the first packet
    for length in [0_u32, 3, 7, 10_005, 0x7fff_ffff, 0xffff_ffff] {
        let mut client = RawClient::connect(&cluster.endpoint()).await;
        let mut packet = BytesMut::new();
        packet.put_u32(length);
        packet.put_u32(PROTOCOL_3);
        client.send(&packet).await;
        hangs_up(&mut client, &format!("a first packet of {length}")).await;
    }
    // as a message after the login
    for length in [0_u32, 3, 0x7fff_ffff, 0xffff_ffff] {
        let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
        let mut message = BytesMut::new();
        message.put_u8(b'Q');
        message.put_u32(length);
        message.put_slice(b"SELECT 1\0");
        client.send(&message).await;
        hangs_up(&mut client, &format!("a message of {length}")).await;
    }
    let memory = resident_mebibytes(cluster.product().pid());
    assert!(memory < 300, "{memory} MiB");
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_broken_inside_are_protocol_violations() {
    let mut cluster = cluster().await;
    for message in [
        frame(b'Q', b"no end of string"),
        frame(b'P', b"\0"),
        frame(b'B', b"\0\0\0"),
        frame(b'B', b"\0\0\0\0\xff\xff\0\0"),
        frame(b'D', b"X\0"),
        frame(b'E', b"\0"),
        frame(b'z', b""),
        frame(b'p', b"password\0"),
        frame(b'd', b"copy data"),
    ] {
        let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
        client.send(&message).await;
        client.send(&sync()).await;
        client.stream().shutdown().await.unwrap_or_default();
        let answer = tokio::time::timeout(Duration::from_secs(10), client.until_ready())
            .await
            .unwrap_or_else(|_| panic!("no end after {message:?}"));
        if let Some(error) = answer.iter().find(|answer| answer.tag == b'E') {
            let state = error.field(b'C').unwrap();
            assert!(
                state.starts_with("08") || state.starts_with('2') || state.starts_with('3'),
                "{message:?}: {state}"
            );
        }
    }
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_login_little_is_read() {
    let mut cluster = TestCluster::new().shop().start().await;
    let mut client = RawClient::connect(&cluster.endpoint()).await;
    client.send(&startup(PROTOCOL_3, "app", "shop")).await;
    // an answer to the authentication request of more than 64 KiB
    client.send(&frame(b'p', &vec![b'x'; 1_000_000])).await;
    hangs_up(&mut client, "a megabyte for a password").await;
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_sent_along_with_an_ssl_request_is_refused() {
    let mut cluster = cluster().await;
    let mut client = RawClient::connect(&cluster.endpoint()).await;
    let mut packet = BytesMut::new();
    packet.put_u32(8);
    packet.put_u32(SSL_REQUEST);
    let mut first = packet.clone();
    first.extend_from_slice(&startup(PROTOCOL_3, "app", "shop"));
    client.send(&first).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(
        Duration::from_secs(3),
        client.stream().read_to_end(&mut answer),
    )
    .await;
    // without TLS configured the answer is N and what follows is an ordinary login; with it, nothing may be taken over
    assert!(
        answer.is_empty() || answer[0] == b'N' || answer[0] == b'E',
        "{answer:?}"
    );
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_clients_cost_the_others_nothing_and_are_sent_away() {
    let mut cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.listen = "authentication_timeout: 1s".into())
        .start()
        .await;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut client = RawClient::connect(&cluster.endpoint()).await;
        match n % 3 {
            0 => {}
            1 => client.send(&[0, 0]).await,
            _ => client.send(&startup(PROTOCOL_3, "app", "shop")).await,
        }
        silent.push(client);
    }
    still_serves(&mut cluster).await;
    for mut client in silent {
        hangs_up(&mut client, "silence").await;
    }
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_mid_message_takes_no_server_along() {
    let mut cluster = cluster().await;
    for _ in 0..50 {
        let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
        client.send(&query("BEGIN")).await;
        client.send(b"Q\0\0\x10\0SELECT").await;
        // dropped here, in a transaction and in a message
    }
    still_serves(&mut cluster).await;
    let begun = std::time::Instant::now();
    loop {
        let open = cluster
            .on_each_primary(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in transaction%'",
            )
            .await;
        if open.iter().all(|count| count == "0") {
            break;
        }
        assert!(
            begun.elapsed().as_secs() < 10,
            "transactions left: {open:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_ten_megabytes_arrives_whole() {
    let mut cluster = cluster().await;
    let client = cluster.connect("app").await;
    let long = "x".repeat(10_000_000);
    let traced = client
        .query_one(&format!("SELECT length('{long}')"), &[])
        .await
        .unwrap();
    assert_eq!(traced.get::<_, i32>(0), 10_000_000);
    client
        .simple_query(&format!(
            "INSERT INTO users (id, name) VALUES (1, '{long}')"
        ))
        .await
        .unwrap();
    let back = client
        .query_one("SELECT name FROM users WHERE id = 1", &[])
        .await
        .unwrap();
    assert_eq!(back.get::<_, &str>(0).len(), 10_000_000);
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_parentheses_break_nothing() {
    let mut cluster = cluster().await;
    let client = cluster.connect("app").await;
    for statement in [
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!(
            "SELECT id FROM users WHERE id = {}1{}",
            "(".repeat(10_000),
            ")".repeat(10_000)
        ),
        format!("SELECT {}1", "(".repeat(10_000)),
        format!("SELECT {}1", "- ".repeat(10_000)),
        format!("SELECT {}1", "NOT ".repeat(10_000)),
        format!("SELECT 1{}", " + 1".repeat(10_000)),
        format!("SELECT {}", "CASE WHEN true THEN ".repeat(10_000)),
        format!("SELECT * FROM {}", "(SELECT * FROM ".repeat(10_000)),
        format!("{}SELECT 1", "EXPLAIN ".repeat(10_000)),
        "/*".repeat(10_000),
        format!("SELECT $a${}", "$b$".repeat(10_000)),
    ] {
        // an error is fine; a connection that ends is not
        if let Err(error) = client.simple_query(&statement).await {
            assert!(error.code().is_some(), "{error:?}");
        }
        client.simple_query("SELECT 1").await.unwrap();
    }
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_twenty_megabytes_is_answered_while_it_is_sent() {
    const STATEMENTS: usize = 200;
    let mut cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let long = "y".repeat(100_000);
    let mut pipeline = BytesMut::new();
    for n in 0..STATEMENTS {
        pipeline.extend_from_slice(&unnamed(&format!("SELECT '{long}', {n}")));
        pipeline.extend_from_slice(&sync());
    }
    assert!(pipeline.len() > 20_000_000);
    let (mut reading, mut writing) = client.stream().split();
    let write = async {
        writing.write_all(&pipeline).await.unwrap();
    };
    let read = async {
        let mut rows = 0;
        let mut ready = 0;
        while ready < STATEMENTS {
            let mut header = [0; 5];
            reading.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4;
            let mut body = vec![0; length];
            reading.read_exact(&mut body).await.unwrap();
            match header[0] {
                b'D' => rows += 1,
                b'Z' => ready += 1,
                b'E' => panic!("{}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
        rows
    };
    let both = async { tokio::join!(write, read) };
    let ((), rows) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("neither side waits for the other");
    assert_eq!(rows, STATEMENTS);
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_twenty_megabytes_under_one_sync_is_answered_or_refused() {
    let mut cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let long = "y".repeat(100_000);
    let mut pipeline = BytesMut::new();
    for n in 0..200 {
        pipeline.extend_from_slice(&unnamed(&format!("SELECT '{long}', {n}")));
    }
    pipeline.extend_from_slice(&sync());
    let (mut reading, mut writing) = client.stream().split();
    let write = async {
        // refused while it is still being sent, it may be cut off
        let _ = writing.write_all(&pipeline).await;
    };
    let read = async {
        let mut rows = 0;
        let mut error = None;
        loop {
            let mut header = [0; 5];
            if reading.read_exact(&mut header).await.is_err() {
                break;
            }
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4;
            let mut body = vec![0; length];
            if reading.read_exact(&mut body).await.is_err() {
                break;
            }
            match header[0] {
                b'D' => rows += 1,
                b'E' => error = Some(String::from_utf8_lossy(&body).into_owned()),
                b'Z' => break,
                _ => {}
            }
        }
        (rows, error)
    };
    let both = async { tokio::join!(write, read) };
    let ((), (rows, error)) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("neither side waits for the other");
    assert!(rows == 200 || error.is_some(), "{rows} rows and no error");
    still_serves(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_itself_alone() {
    let mut cluster = cluster().await;
    let mut lazy = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    lazy.send(&query(
        "SELECT repeat('z', 10000) FROM generate_series(1, 20000)",
    ))
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let memory = resident_mebibytes(cluster.product().pid());
    assert!(
        memory < 150,
        "{memory} MiB: the answer of 200 MB is not to be held for it"
    );
    still_serves(&mut cluster).await;
}

/// From `/proc/<pid>/status`.
fn resident_mebibytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes / 1024
}
