//! What `pgherd check --servers` and `--rows` find on real servers.
#![allow(clippy::unwrap_used)]

use pgherd::check::{check_rows, check_servers};
use pgherd::config;
use pgherd::herd::Herd;
use pgherd::serve::Server;

/// A configuration in front of a herd; every shard on the first one's servers where wanted.
fn configuration(herd: &Herd, users: &str, same_servers: bool) -> String {
    let mut source = format!(
        "listen: {{ address: \"127.0.0.1:0\" }}\nstate: {{ file: state.json }}\ndatabases:\n  shop:\n    users: [{users}]\n    \
         control_login: {{ user: pgherd, password: pgherd }}\n    \
         sharding: {{ tables: {{ users: {{ key: id }} }} }}\n    shards:\n"
    );
    for shard in herd.shards() {
        source += &format!("      - name: {}\n        servers:\n", shard.name());
        let shard = if same_servers {
            &herd.shards()[0]
        } else {
            shard
        };
        for server in shard.servers() {
            // two names of one host, so that the addresses differ
            let host = if same_servers && source.contains("name: n1") {
                "localhost"
            } else {
                "127.0.0.1"
            };
            let name = format!("n{}", source.matches("address").count());
            source += &format!(
                "          - {{ name: {name}, address: \"{host}:{}\" }}\n",
                server.port()
            );
        }
    }
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_rows_are_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let herd = Herd::builder()
        .shards(2)
        .replicas(1)
        .directory(directory.path().join("herd"))
        .start()
        .await
        .unwrap();
    let path = directory.path().join("pgherd.yaml");
    let load = |source: &str| {
        std::fs::write(&path, source).unwrap();
        config::load(&path).unwrap_or_else(|error| panic!("{error}"))
    };

    let loaded = load(&configuration(&herd, "{ name: app, password: app }", false));
    let found = check_servers(&loaded.config).await.unwrap();
    assert_eq!(found.errors, Vec::<String>::new());
    assert_eq!(
        found
            .lines
            .iter()
            .filter(|line| line.contains(": replica,"))
            .count(),
        2,
        "{found:?}"
    );
    assert!(
        found
            .lines
            .iter()
            .any(|line| line.contains("user `app` can log in")),
        "{found:?}"
    );

    let found = check_rows(&loaded.config).await.unwrap();
    assert!(found.errors[0].contains("nothing was served"), "{found:?}");

    // the first start stores where buckets are
    let server = Server::start(&path, loaded.clone()).await.unwrap();
    server.shutdown().await;
    for shard in herd.shards() {
        let primary = shard.primary();
        primary
            .sql("CREATE TABLE users (id bigint PRIMARY KEY); GRANT SELECT ON users TO pgherd")
            .await
            .unwrap();
    }
    let found = check_rows(&loaded.config).await.unwrap();
    assert_eq!(found.errors, Vec::<String>::new());
    let found = check_servers(&loaded.config).await.unwrap();
    assert_eq!(found.errors, Vec::<String>::new());
    // a key whose type is no key's on one shard
    let first = herd.shards()[0].primary();
    let change =
        "ALTER TABLE users DROP CONSTRAINT users_pkey, ALTER id TYPE point USING point(id, id)";
    first.sql(change).await.unwrap();
    let found = check_servers(&loaded.config).await.unwrap();
    assert!(
        found
            .errors
            .iter()
            .any(|error| error.contains("whose type cannot be one"))
            && found
                .errors
                .iter()
                .any(|error| error.contains("not defined alike")),
        "{found:?}"
    );
    let back = "ALTER TABLE users ALTER id TYPE bigint USING id[0]::bigint, ADD PRIMARY KEY (id)";
    first.sql(back).await.unwrap();
    // the same rows on both: each is misplaced on one of them
    for shard in herd.shards() {
        shard
            .primary()
            .sql("INSERT INTO users SELECT generate_series(1, 20)")
            .await
            .unwrap();
    }
    let found = check_rows(&loaded.config).await.unwrap();
    assert_eq!(found.errors.len(), 2, "{found:?}");
    assert!(found.errors[0].contains("belongs to s1"), "{found:?}");
    let counts: Vec<u32> = found
        .errors
        .iter()
        .map(|error| error.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    assert_eq!(counts.iter().sum::<u32>(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_servers_is_said_without_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let herd = Herd::builder()
        .shards(2)
        .replicas(0)
        .directory(directory.path().join("herd"))
        .start()
        .await
        .unwrap();
    let path = directory.path().join("pgherd.yaml");
    let source = configuration(&herd, "{ name: app, password: hunter2 }", false);
    std::fs::write(&path, source).unwrap();
    let loaded = config::load(&path).unwrap();
    herd.shards()[1].primary().stop().await;
    let found = check_servers(&loaded.config).await.unwrap();
    let text = found.errors.join("\n");
    assert!(text.contains("shop/n1: user `app`"), "{text}");
    assert!(text.contains("shop/s1/n2 at 127.0.0.1:"), "{text}");
    assert!(
        text.contains("shop/s1: no server that answers is a primary"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");

    // one server under two names is found by its system identifier
    let source = configuration(&herd, "{ name: app, password: app }", true);
    std::fs::write(&path, source).unwrap();
    let loaded = config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let found = check_servers(&loaded.config).await.unwrap();
    let text = found.errors.join("\n");
    assert!(text.contains("the same data as shard s0"), "{text}");
}
