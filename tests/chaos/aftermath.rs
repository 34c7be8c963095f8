//! What is left when all clients are gone: nothing but their rows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgherd_tests::Cluster;
use pgherd_tests::asking::{self, one};
use tokio::time::sleep;

use crate::model::{Rows, Table};
use crate::world::{POOL_SIZE, SETTINGS, USERS, World, listed};

/// Until when the last of them must be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session that did nothing must not see. Each is to be 0.
const NOTHING: [&str; 7] = [
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "SELECT count(*) FROM pg_listening_channels()",
    "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 's_'",
    "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'PREPARE s_ %'",
    "SELECT length(coalesce(current_setting('chaos.left', true), '') || coalesce(current_setting('chaos.own', true), ''))",
];

/// A row of a command of the console, by column; NULL is empty.
type Row = HashMap<String, String>;

/// The rows of a command of the console.
pub async fn console(cluster: &Cluster, command: &str) -> Vec<Row> {
    let console = cluster.console().await;
    let known = |row: asking::Row| {
        row.into_iter()
            .map(|(column, value)| (column, value.unwrap_or_default()))
            .collect()
    };
    asking::rows(&console, command)
        .await
        .into_iter()
        .map(known)
        .collect()
}

/// Waits until a condition holds; `what` says what is the matter otherwise.
async fn wait_for<Waited>(mut what: impl AsyncFnMut() -> Result<Waited, String>) -> Waited {
    let begun = Instant::now();
    loop {
        match what().await {
            Ok(value) => return value,
            Err(matter) => assert!(begun.elapsed() < PATIENCE, "{matter}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// pgherd knows of no client, no pin, and of nothing that is in use.
pub async fn nobody_is_there(cluster: &Cluster) {
    wait_for(async || {
        let clients = console(cluster, "SHOW CLIENTS").await;
        let pins = console(cluster, "SHOW PINS").await;
        let pools = console(cluster, "SHOW SERVER_POOLS").await;
        let used = pools.iter().any(|pool| {
            ["active", "kept", "opening", "waiting"]
                .iter()
                .any(|column| pool[*column] != "0")
        });
        // the console's own
        if clients.len() == 1 && pins.is_empty() && !used {
            return Ok(());
        }
        Err(format!("{clients:#?}\n{pins:#?}\n{pools:#?}"))
    })
    .await;
}

/// Postgres sees as many idle connections as pgherd does, none in a transaction, and not more than the pools may have. Those that listen for all
/// clients are no pool's.
pub async fn connections_are_idle(cluster: &Cluster) -> usize {
    let mut all = 0;
    for shard in cluster.herd().shards() {
        for user in USERS {
            all += wait_for(async || {
                let pools = console(cluster, "SHOW SERVER_POOLS").await;
                let idle: usize = pools
                    .iter()
                    .filter(|pool| pool["user"] == user && pool["shard"] == shard.name())
                    .map(|pool| pool["idle"].parse::<usize>().unwrap())
                    .sum();
                let sql = format!(
                    "SELECT count(*), count(*) FILTER (WHERE state = 'idle' AND xact_start IS NULL) \
                     FROM pg_stat_activity WHERE usename = '{user}' AND backend_type = 'client backend' \
                     AND application_name <> 'pgherd listening'"
                );
                let rows = shard.primary().sql(&sql).await.unwrap();
                let counts: Vec<usize> = rows[0]
                    .iter()
                    .map(|count| count.as_ref().unwrap().parse().unwrap())
                    .collect();
                if counts == [idle, idle] && idle <= POOL_SIZE {
                    return Ok(idle);
                }
                Err(format!("{user} on {}: {counts:?} connections, {idle} idle ones in the pool", shard.name()))
            })
            .await;
        }
    }
    all
}

/// Fresh clients on every connection of every pool at once see nothing of anybody's.
pub async fn connections_are_clean(cluster: &Cluster, world: &World) -> usize {
    let mut looked_at = 0;
    for shard in cluster.herd().shards() {
        for user in USERS {
            let mut holders = Vec::new();
            let mut pids = std::collections::HashSet::new();
            for _ in 0..POOL_SIZE {
                let client = cluster.connect(user).await;
                if world.is_sharded {
                    let to_shard = format!("SET pgherd.shard = '{}'", shard.name());
                    client.batch_execute(&to_shard).await.unwrap();
                }
                client.batch_execute("BEGIN").await.unwrap();
                pids.insert(one(&client, "SELECT pg_backend_pid()").await);
                assert_eq!(one(&client, "SELECT current_user").await, user);
                for (name, _) in SETTINGS {
                    let sql = format!("SELECT coalesce(current_setting('{name}', true), '')");
                    assert_eq!(one(&client, &sql).await, world.defaults[name], "{name}");
                }
                for sql in NOTHING {
                    assert_eq!(one(&client, sql).await, "0", "{user}: {sql}");
                }
                holders.push(client);
            }
            // that was every connection that the pool may have
            assert_eq!(pids.len(), POOL_SIZE);
            looked_at += pids.len();
            for client in holders {
                client.batch_execute("COMMIT").await.unwrap();
            }
        }
    }
    for question in [
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
        "SELECT count(*) FROM pg_prepared_xacts",
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE usename <> 'pgherd' AND pid <> pg_backend_pid()",
    ] {
        let counts = cluster.on_each_primary(question).await;
        assert!(
            counts.iter().all(|count| count == "0"),
            "{question}: {counts:?}"
        );
    }
    looked_at
}

/// Every row is there that was acknowledged, and none that was not. Returns how many there are.
pub async fn rows_are_right(cluster: &Cluster, world: &World) -> usize {
    let left = std::mem::take(&mut *world.left.lock().unwrap());
    let mut rows = 0;
    for table in Table::ALL {
        let sql = format!(
            "SELECT client, string_agg(n || '=' || value, ',' ORDER BY n), count(*) FROM {} GROUP BY client",
            table.name()
        );
        let mut found: HashMap<u64, String> = HashMap::new();
        // the one that no rule lists is on the home shard alone
        let most = if table == Table::Loose { 1 } else { usize::MAX };
        for (number, shard) in cluster.herd().shards().iter().take(most).enumerate() {
            for row in shard.primary().sql(&sql).await.unwrap() {
                let column = |index: usize| row[index].clone().unwrap();
                let (client, list) = (column(0).parse().unwrap(), column(1));
                if table == Table::Marks && number > 0 {
                    assert_eq!(found.get(&client), Some(&list), "on shard {number}");
                    continue;
                }
                rows += column(2).parse::<usize>().unwrap();
                let elsewhere = found.insert(client, list);
                assert_eq!(elsewhere, None, "client {client} has rows on two shards");
            }
            if table == Table::Marks {
                let clients = "SELECT count(DISTINCT client) FROM marks";
                let rows = shard.primary().sql(clients).await.unwrap();
                assert_eq!(rows[0][0], Some(found.len().to_string()));
            }
        }
        for life in &left {
            let is = found.remove(&life.client).unwrap_or_default();
            let may_be: Vec<String> = life
                .states
                .iter()
                .map(|rows: &Rows| listed(rows, table))
                .collect();
            assert!(
                may_be.contains(&is),
                "client {} left in {}: {is}\nnot one of {may_be:#?}",
                life.client,
                table.name()
            );
        }
        // those whose failure is reported elsewhere
        assert!(found.is_empty(), "nobody's rows: {found:?}");
    }
    rows
}

/// How many files a process has open, and how much memory it has, in KiB.
pub fn footprint(pid: u32) -> (usize, usize) {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|text| text.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    (files, resident.unwrap())
}
