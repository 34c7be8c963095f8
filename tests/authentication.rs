//! Who may come in, by which proof, and how pgherd in turn proves itself to the servers.
#![allow(clippy::unwrap_used)]

use pgherd_tests::certificates::Certificates;
use pgherd_tests::{Cluster, TestCluster, sqlstate};

async fn unsharded(users: &str, change: impl FnOnce(TestCluster) -> TestCluster) -> Cluster {
    let users = users.to_owned();
    let cluster = TestCluster::new().shards(1).configure(|configuration| {
        configuration.sharding.clear();
        configuration.users = users;
    });
    change(cluster).start().await
}

/// The verifier that the servers keep for a role.
async fn verifier(cluster: &Cluster, role: &str) -> String {
    let query = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
    cluster.on_each_primary(&query).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_are_told_alike() {
    let cluster = unsharded("- { name: app, password: app }", |cluster| cluster).await;
    for (user, password) in [("app", "wrong"), ("nobody", "app")] {
        let url = cluster.url_to(user, password, "shop");
        let error = cluster.try_connect(&url).await.unwrap_err();
        assert_eq!(sqlstate(&error), "28P01");
        let said = error.as_db_error().unwrap();
        assert_eq!(
            said.message(),
            format!("password authentication failed for user \"{user}\"")
        );
        assert_eq!(said.severity(), "FATAL");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_database_is_told_as_postgres_tells_it() {
    let cluster = unsharded("- { name: app, password: app }", |cluster| cluster).await;
    let url = cluster.url_to("app", "app", "nowhere");
    let error = cluster.try_connect(&url).await.unwrap_err();
    let state = sqlstate(&error);
    // who asks for a database that is not there may be asked for a password first
    assert!(state == "3D000" || state == "28P01", "{error:?}");
    if state == "3D000" {
        assert_eq!(
            error.as_db_error().unwrap().message(),
            "database \"nowhere\" does not exist"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_too_many_is_refused_and_fits_again_later() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.listen = "max_clients: 3".into();
        })
        .start()
        .await;
    // those of the start-up checks are gone when they have been noticed gone
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.connect("app").await);
    }
    let error = cluster.try_connect(&cluster.url("app")).await.unwrap_err();
    assert_eq!(sqlstate(&error), "53300");
    assert_eq!(
        error.as_db_error().unwrap().message(),
        "sorry, too many clients already"
    );
    drop(clients);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    cluster.connect("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_lets_in_and_its_keys_open_the_servers() {
    // both sides keep the same verifier: pgherd never has the password, only what the client proves with it
    let mut cluster = unsharded("- { name: app, password: app }", |cluster| cluster).await;
    let kept = verifier(&cluster, "app").await;
    assert!(kept.starts_with("SCRAM-SHA-256$4096:"), "{kept}");
    cluster.rewrite(|configuration| {
        configuration.users = format!("- {{ name: app, password: \"{kept}\" }}");
    });
    cluster.restart_product().await;
    let client = cluster.connect("app").await;
    let row = client.query_one("SELECT current_user", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "app");
    let wrong = cluster.url_to("app", "wrong", "shop");
    let error = cluster.try_connect(&wrong).await.unwrap_err();
    assert_eq!(sqlstate(&error), "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn md5_lets_in_at_the_endpoint_and_at_the_servers() {
    let mut cluster = unsharded("- { name: app, password: app }", |cluster| {
        cluster.servers(|herd| herd.host_line("host all app 127.0.0.1/32 md5"))
    })
    .await;
    cluster
        .shard(0)
        .primary()
        .sql("SET password_encryption = 'md5'; ALTER ROLE app PASSWORD 'app'")
        .await
        .unwrap();
    let kept = verifier(&cluster, "app").await;
    assert!(kept.starts_with("md5"), "{kept}");
    assert_eq!(kept.len(), 35);
    cluster.rewrite(|configuration| {
        configuration.users = format!("- {{ name: app, password: \"{kept}\" }}");
    });
    cluster.restart_product().await;
    cluster
        .connect("app")
        .await
        .simple_query("SELECT 1")
        .await
        .unwrap();
    let wrong = cluster.url_to("app", "wrong", "shop");
    let error = cluster.try_connect(&wrong).await.unwrap_err();
    assert_eq!(sqlstate(&error), "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_ask_for_no_password_and_over_tls_for_a_plain_one() {
    for method in ["password", "trust"] {
        let certificates = Certificates::make("app");
        let line = format!("hostssl all app 127.0.0.1/32 {method}");
        let cluster = unsharded("- { name: app, password: app }", |cluster| {
            cluster.servers(|herd| {
                herd.tls(certificates.server.clone(), certificates.server_key.clone())
                    .host_line(line)
            })
        })
        .await;
        cluster
            .connect("app")
            .await
            .simple_query("SELECT 1")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_the_password_unencrypted_does_not_get_it() {
    let cluster = TestCluster::new()
        .shards(1)
        .servers(|herd| herd.host_line("host all app 127.0.0.1/32 password"))
        .configure(|configuration| configuration.sharding.clear())
        .start_unready()
        .await;
    let begun = std::time::Instant::now();
    // not before it has been tried
    while !cluster.product_log().contains("unencrypted") {
        assert!(begun.elapsed().as_secs() < 10, "{}", cluster.product_log());
        if let Ok(client) = cluster.try_connect(&cluster.url("app")).await {
            assert!(client.simple_query("SELECT 1").await.is_err());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_address_needs_no_password_and_another_does() {
    let cluster = unsharded(
        "- { name: app, password: app, trust: 127.0.0.1 }\n- { name: far, password: app, trust: 10.0.0.0/8 }",
        |cluster| cluster,
    )
    .await;
    let url = format!("postgresql://app@{}/shop", cluster.endpoint());
    let client = cluster.try_connect(&url).await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
    let url = cluster.url_to("far", "wrong", "shop");
    let error = cluster.try_connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&error), "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_login_on_the_servers_stands_for_all_users_where_configured() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.sharding.clear();
            configuration.users =
                "- { name: app, password: app }\n- { name: guest, password: guest }".into();
            configuration.database = "server_login: { user: app, password: app }".into();
        })
        .start()
        .await;
    let client = cluster.connect("guest").await;
    let row = client.query_one("SELECT current_user", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_each_user_is_itself_on_the_servers() {
    let cluster = unsharded(
        "- { name: app, password: app }\n- { name: reader, password: reader }",
        |cluster| cluster,
    )
    .await;
    cluster
        .shard(0)
        .primary()
        .sql("CREATE ROLE reader LOGIN PASSWORD 'reader'; CREATE TABLE secret (); ALTER TABLE secret OWNER TO app")
        .await
        .unwrap();
    let owner = cluster.connect("app").await;
    owner.simple_query("SELECT * FROM secret").await.unwrap();
    let reader = cluster.connect("reader").await;
    let error = reader
        .simple_query("SELECT * FROM secret")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "42501");
}
