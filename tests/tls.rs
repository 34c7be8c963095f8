//! TLS on both sides, tried with libpq: its modes, its channel binding, its certificates.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::process::Output;
use std::time::Duration;

use pgherd_tests::certificates::{Certificates, begin_tls, connector};
use pgherd_tests::{Cluster, TestCluster};
use tokio::net::TcpSocket;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};

const QUERY: &str = "SELECT 'through'";

async fn cluster(tls: &str, certificates: &Certificates, users: &str) -> Cluster {
    // next to nothing is known of the cluster's directory before it starts, so the files get one of their own
    let files = tempfile::Builder::new()
        .prefix("certificates-")
        .tempdir()
        .unwrap()
        .keep();
    for (name, text) in [
        ("ca.crt", &certificates.authority),
        ("server.crt", &certificates.server),
        ("server.key", &certificates.server_key),
        ("client.crt", &certificates.client),
        ("client.key", &certificates.client_key),
    ] {
        let path = files.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let files = files.display().to_string();
    let listen = format!(
        "tls: {{ mode: {tls}, certificate: {files}/server.crt, key: {files}/server.key, root_certificate: {files}/ca.crt }}"
    );
    TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.listen = listen;
            configuration.users = users.into();
        })
        .start_unready()
        .await
}

/// Where the certificates of a cluster lie.
fn files(cluster: &Cluster) -> String {
    let listen = &cluster.configuration().listen;
    let start = listen.find("certificate: ").unwrap() + "certificate: ".len();
    let end = listen[start..].find("/server.crt").unwrap();
    listen[start..start + end].to_owned()
}

async fn psql(cluster: &Cluster, parameters: &str) -> Output {
    let endpoint = cluster.endpoint();
    let port = endpoint.rsplit(':').next().unwrap();
    let connection =
        format!("host=localhost hostaddr=127.0.0.1 port={port} dbname=shop {parameters}");
    // the first connections may come before the proxy listens
    for _ in 0..100 {
        let output = tokio::process::Command::new("psql")
            .args([&connection, "-XAtc", QUERY])
            .env("PGSSLCERT", "/nonexistent")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let early = said.contains("Connection refused")
            || said.contains("57P03")
            || said.contains("starting up");
        if !early {
            return output;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("pgherd does not listen: {}", cluster.product_log());
}

fn passed(output: &Output) -> bool {
    output.status.success() && output.stdout == b"through\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_tls_in_every_mode_of_libpq() {
    let certificates = Certificates::make("app");
    let cluster = cluster("prefer", &certificates, "- { name: app, password: app }").await;
    let authority = format!("{}/ca.crt", files(&cluster));
    for mode in ["disable", "allow", "prefer", "require"] {
        let output = psql(&cluster, &format!("user=app password=app sslmode={mode}")).await;
        assert!(passed(&output), "{mode}: {output:?}");
    }
    for mode in ["verify-ca", "verify-full"] {
        let output = psql(
            &cluster,
            &format!("user=app password=app sslmode={mode} sslrootcert={authority}"),
        )
        .await;
        assert!(passed(&output), "{mode}: {output:?}");
    }
    // SCRAM-SHA-256-PLUS: the exchange is bound to this very connection
    let output = psql(
        &cluster,
        "user=app password=app sslmode=require channel_binding=require",
    )
    .await;
    assert!(passed(&output), "{output:?}");
    let output = psql(
        &cluster,
        "user=app password=wrong sslmode=require channel_binding=require",
    )
    .await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("password authentication failed for user \"app\""),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tls_is_required_plaintext_is_refused() {
    let certificates = Certificates::make("app");
    let cluster = cluster("require", &certificates, "- { name: app, password: app }").await;
    let output = psql(&cluster, "user=app password=app sslmode=require").await;
    assert!(passed(&output), "{output:?}");
    let output = psql(&cluster, "user=app password=app sslmode=disable").await;
    assert!(!output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_takes_the_place_of_a_password() {
    let certificates = Certificates::make("somebody");
    let cluster = cluster(
        "verify-ca",
        &certificates,
        "- { name: app, password: app, certificate: somebody }\n- { name: other, password: app, certificate: another }",
    )
    .await;
    let files = files(&cluster);
    let client = format!("sslmode=require sslcert={files}/client.crt sslkey={files}/client.key");
    let output = psql(&cluster, &format!("user=app {client}")).await;
    assert!(passed(&output), "{output:?}");
    let output = psql(&cluster, &format!("user=other {client}")).await;
    assert!(
        !output.status.success(),
        "the name in it is not that user's"
    );
    let output = psql(&cluster, "user=app password=app sslmode=require").await;
    assert!(!output.status.success(), "verify-ca wants a certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_spoken_to_over_tls_and_checked() {
    let certificates = Certificates::make("app");
    let files = tempfile::tempdir().unwrap();
    let authority = files.path().join("ca.crt");
    std::fs::write(&authority, &certificates.authority).unwrap();
    let server_tls = format!(
        "server_tls: {{ mode: verify-full, root_certificate: {} }}",
        authority.display()
    );
    let cluster = TestCluster::new()
        .shards(1)
        .servers(|herd| {
            herd.tls(certificates.server.clone(), certificates.server_key.clone())
                // nobody but over TLS
                .host_line("hostssl all app 127.0.0.1/32 scram-sha-256")
                .host_line("hostnossl all app 0.0.0.0/0 reject")
        })
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.database = server_tls;
        })
        .start()
        .await;
    let client = cluster.connect("app").await;
    let row = client
        .query_one(
            "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "TLSv1.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_is_of_a_stranger_is_not_spoken_to() {
    let certificates = Certificates::make("app");
    let strangers = Certificates::make("app");
    let files = tempfile::tempdir().unwrap();
    let authority = files.path().join("ca.crt");
    std::fs::write(&authority, &strangers.authority).unwrap();
    let server_tls = format!(
        "server_tls: {{ mode: verify-ca, root_certificate: {} }}",
        authority.display()
    );
    let cluster = TestCluster::new()
        .shards(1)
        .servers(|herd| herd.tls(certificates.server.clone(), certificates.server_key.clone()))
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.database = server_tls;
        })
        .start_unready()
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let outcome = match cluster.try_connect(&cluster.url("app")).await {
        Ok(client) => client.simple_query("SELECT 1").await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "it was spoken to");
}

/// What TLS has taken and the socket has not must follow, though the buffer before it is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_gets_all_of_it() {
    let certificates = Certificates::make("app");
    let cluster = cluster("require", &certificates, "- { name: app, password: app }").await;
    let output = psql(&cluster, "user=app password=app sslmode=require").await;
    assert!(passed(&output), "{output:?}");

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let socket = socket.connect(cluster.endpoint().parse().unwrap()).await;
    let stream = begin_tls(socket.unwrap(), &connector(&certificates.authority)).await;
    let connected = Config::new()
        .user("app")
        .password("app")
        .dbname("shop")
        .ssl_mode(SslMode::Disable)
        .connect_raw(stream, NoTls)
        .await;
    let (client, mut connection) = connected.unwrap();
    // some of them end just behind what the sockets have room for, which is some 3 MB
    for size in (25..=75).map(|step| step * 60_000) {
        let sql = format!("SELECT pg_sleep(0.02), repeat('x', {size})");
        let mut answer = pin!(client.simple_query(&sql));
        let mut both = async |limit| {
            tokio::time::timeout(limit, async {
                tokio::select! {
                    answer = answer.as_mut() => answer.unwrap().len(),
                    ended = &mut connection => panic!("{ended:?}"),
                }
            })
            .await
        };
        // it is sent, and nothing is read while the answer comes, unless that was quicker than a timer
        if both(Duration::from_millis(10)).await.is_ok() {
            continue;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let answer = both(Duration::from_secs(20)).await;
        assert!(answer.is_ok(), "the end of {size} bytes does not come");
    }
}
