//! Processes that live and do not answer, or do not go on.

use std::time::Duration;

use crate::checker::Verdict;
use crate::scene::Scene;

/// Longer than a silent primary is waited for.
const LONGER_THAN_SILENCE: Duration = Duration::from_secs(12);

/// What is written to it when it thaws, by who was connected to it or connects, is not acknowledged.
pub async fn frozen() -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    let connected = scene.direct(&old).await.unwrap();
    scene.fault_begins();
    scene.server(&old).freeze();
    scene.promoted_after(&old).await;
    scene.server(&old).thaw();
    let write = connected.batch_execute("INSERT INTO marks VALUES (901, 1)");
    let written = tokio::time::timeout(Duration::from_secs(3), write).await;
    assert!(!matches!(written, Ok(Ok(()))), "it was acknowledged");
    if let Ok(late) = scene.direct(&old).await {
        let write = late.batch_execute("INSERT INTO marks VALUES (901, 2)");
        let written = tokio::time::timeout(Duration::from_secs(3), write).await;
        assert!(!matches!(written, Ok(Ok(()))), "it was acknowledged");
    }
    scene.end().await
}

/// Who is connected goes on, and the standbys stream.
pub async fn postmaster_frozen() -> Verdict {
    let mut scene = Scene::new().await;
    scene.fault_begins();
    scene.primary().freeze_postmaster();
    tokio::time::sleep(LONGER_THAN_SILENCE).await;
    assert_eq!(scene.promotions().await, 0, "{}", scene.account().await);
    scene.primary().thaw();
    scene.end().await
}

/// Also pgherd's own, which it had: it is not let in again.
pub async fn full() -> Verdict {
    let mut scene = Scene::new().await;
    let name = scene.primary_name();
    scene.fault_begins();
    let mut taken = Vec::new();
    while let Ok(client) = scene.direct(&name).await {
        taken.push(client);
    }
    let of_control = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgherd' AND backend_type = 'client backend'";
    scene.primary().sql(of_control).await.unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < LONGER_THAN_SILENCE {
        match scene.direct(&name).await {
            Ok(client) => taken.push(client),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    assert_eq!(scene.promotions().await, 0, "{}", scene.account().await);
    drop(taken);
    scene.end().await
}

/// Of the two standbys either may have acknowledged what the other has not.
pub async fn unproven() -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    let frozen = scene.standby_names().pop().unwrap();
    scene.fault_begins();
    scene.server(&frozen).freeze();
    scene.server(&old).kill9();
    scene.event("refusal", "could be lost").await;
    assert_eq!(scene.promotions().await, 0, "{}", scene.account().await);
    scene.server(&frozen).thaw();
    scene.promoted_after(&old).await;
    scene.end().await
}

/// One is paused by an operator, the other held up by a long read.
pub async fn replay_paused() -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    let standbys = scene.standby_names();
    scene
        .primary()
        .sql("CREATE TABLE vacuumed AS SELECT generate_series(1, 1000) AS id")
        .await
        .unwrap();
    scene.cluster.wait_for_replay().await;
    scene.server(&standbys[0]).pause_replay().await.unwrap();
    let grant = "GRANT SELECT ON vacuumed TO app";
    scene.primary().sql(grant).await.unwrap();
    let granted = "SELECT 1 WHERE has_table_privilege('app', 'vacuumed', 'SELECT')";
    scene
        .server(&standbys[1])
        .wait_until(granted)
        .await
        .unwrap();
    let reader = scene.direct(&standbys[1]).await.unwrap();
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM vacuumed")
        .await
        .unwrap();
    scene.primary().sql("DELETE FROM vacuumed").await.unwrap();
    scene.primary().sql("VACUUM vacuumed").await.unwrap();
    scene.writes_flow().await;
    scene.fault_begins();
    scene.server(&old).kill9();
    scene.promoted_after(&old).await;
    drop(reader);
    scene.end().await
}
