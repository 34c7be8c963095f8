//! What `pgherd check --servers` and `--rows` find on real servers.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use pgherd::check::{check_rows, check_servers};
use pgherd::config;
use pgherd::herd::{Durability, Herd, Server as HerdServer};
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

/// What `pgherd check --servers` exits with, prints and complains of, for one shard of these servers.
fn run_check(path: &Path, failover: &str, servers: &[HerdServer]) -> (Option<i32>, String, String) {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| {
            let (name, port) = (server.name().as_str(), server.port());
            format!("{{ name: {name}, address: \"127.0.0.1:{port}\" }}")
        })
        .collect();
    let source = format!(
        "databases:\n  shop:\n    users: [{{ name: app, password: app }}]\n    \
         control_login: {{ user: pgherd, password: pgherd }}\n    failover: {failover}\n    \
         shards: [{{ name: s0, servers: [{}] }}]\n",
        servers.join(", ")
    );
    std::fs::write(path, source).unwrap();
    // it holds passwords, which others must not read
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(["check", "--servers", "--config"])
        .arg(path)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_failover_is_an_error_where_pgherd_is_to_promote() {
    let directory = tempfile::tempdir().unwrap();
    let herd = Herd::builder()
        .shards(1)
        .replicas(1)
        .durability(Durability::Durable)
        .directory(directory.path().join("herd"))
        .start()
        .await
        .unwrap();
    let path = directory.path().join("pgherd.yaml");
    let shard = &herd.shards()[0];
    let check = |failover: &str| run_check(&path, failover, shard.servers());
    let right = "shop: every shard has what a failover needs\n";

    let (code, said, complaints) = check("{ mode: promote, sync: { acks: 1 } }");
    assert_eq!(code, Some(0), "{complaints}");
    assert!(said.contains(right), "{said}");
    let spare = "warning: shop, shard s0: for failover: writes wait as soon as one of its 2 servers is away";
    assert!(complaints.contains(spare), "{complaints}");
    let (code, said, complaints) = check("{ mode: observe }");
    assert_eq!((code, &*complaints), (Some(0), ""));
    assert!(!said.contains("failover"), "{said}");

    let revoke = "REVOKE EXECUTE ON FUNCTION pg_promote(boolean, integer) FROM pgherd";
    shard.primary().sql(revoke).await.unwrap();
    let gone =
        "SELECT NOT has_function_privilege('pgherd', 'pg_promote(boolean, integer)', 'EXECUTE')";
    shard.replica().wait_until(gone).await.unwrap();
    let missing = "`pgherd` may not run pg_promote(boolean, integer): \
                   GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO pgherd on the primary, in database shop\n";
    let (code, said, complaints) = check("{ mode: promote }");
    assert_eq!(code, Some(1));
    assert!(!said.contains(right), "{said}");
    let error = format!("error: shop, every server: no failover: {missing}");
    assert!(complaints.contains(&error), "{complaints}");

    let (code, _, complaints) = check("{ mode: observe, sync: { acks: 2 } }");
    assert_eq!(code, Some(0));
    let warning = format!(
        "warning: shop: failover would need these to be put right:\n  \
         shard s0: it has 2 servers, and acks: 2 takes 3: add servers to the shard, or lower acks\n  \
         every server: {missing}"
    );
    assert!(complaints.contains(&warning), "{complaints}");

    // one server that is only observed could never be failed over, and need not be
    let alone = std::slice::from_ref(shard.primary());
    let (code, _, complaints) = run_check(&path, "{ mode: observe }", alone);
    assert_eq!((code, &*complaints), (Some(0), ""));
    let (code, _, complaints) = run_check(&path, "{ mode: promote }", alone);
    assert_eq!(code, Some(1));
    let error = "error: shop, shard s0: no failover: it has 1 server, and none to take over: add servers to the shard\n";
    assert!(complaints.contains(error), "{complaints}");
}
