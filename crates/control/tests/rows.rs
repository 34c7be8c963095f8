//! Rows on the wrong shard, found on real servers.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;

use pgherd_control::check_rows;
use pgherd_topology::{KeyInput, KeyType, ShardId, ShardMap, Sharding, TableRule};
use support::{TestServer, settings};

#[tokio::test]
async fn misplaced_rows_are_counted_and_shown() {
    let (first, second) = (TestServer::start(), TestServer::start());
    let owners: Vec<ShardId> = (0..64).map(|bucket| ShardId(bucket % 2)).collect();
    let sharding = Sharding::builder(["s0", "s1"])
        .map(Arc::new(ShardMap::new(1, owners).unwrap()))
        .table(TableRule::hash("users".parse().unwrap(), ["id"]))
        .table(TableRule::hash("\"Odd\"".parse().unwrap(), ["a b", "at"]))
        .table(TableRule::hash("absent".parse().unwrap(), ["id"]))
        .build()
        .unwrap();
    let rule = sharding.tables().next().unwrap().clone();
    let shard_of = |id: i64| {
        let text = id.to_string();
        sharding
            .locate(&rule, &[KeyInput::Text(KeyType::Int8, text.as_bytes())])
            .unwrap()
            .shard
    };
    for (server, shard) in [(&first, ShardId(0)), (&second, ShardId(1))] {
        let ids: Vec<String> = (0..1000)
            .filter(|id| shard_of(*id) == shard)
            .map(|id| format!("({id})"))
            .collect();
        server
            .sql(&format!(
                "CREATE DOMAIN id AS bigint; CREATE TABLE users (id id); INSERT INTO users VALUES {}; \
                 CREATE TABLE \"Odd\" (\"a b\" text, at timestamptz)",
                ids.join(", ")
            ))
            .await;
    }
    let settings = settings(&[&[&first], &[&second]], sharding.clone());
    assert_eq!(check_rows(&settings).await.unwrap(), []);
    let strays: Vec<i64> = (2000..)
        .filter(|id| shard_of(*id) == ShardId(1))
        .take(7)
        .collect();
    for stray in &strays {
        first
            .sql(&format!("INSERT INTO users VALUES ({stray})"))
            .await;
    }
    second.sql("INSERT INTO \"Odd\" SELECT 'x' || n, '2026-01-01 00:00:00+03'::timestamptz + n * interval '1 s' FROM generate_series(1, 100) n").await;
    let found = check_rows(&settings).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        (found[0].shard, found[0].count, found[0].samples.len()),
        (ShardId(0), 7, 5)
    );
    assert_eq!(found[0].samples[0].key, strays[0].to_string());
    assert_eq!(found[0].samples[0].owner.as_deref(), Some("s1"));
    assert!((20..80).contains(&found[1].count), "{found:?}");
    assert!(
        found[1].samples[0].key.starts_with('x')
            && found[1].samples[0].owner.as_deref() == Some("s0")
    );
}
