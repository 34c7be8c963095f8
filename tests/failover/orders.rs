//! What operators ask for.

use std::time::Duration;

use crate::checker::Verdict;
use crate::scene::Scene;

/// Changes of primary one after another; the one before rejoins each time.
pub async fn switched_over(rounds: usize) -> Verdict {
    let mut scene = Scene::new().await;
    scene.fault_begins();
    for _ in 0..rounds {
        let old = scene.primary_name();
        scene.order("SWITCHOVER SHARD s0").await.unwrap();
        scene.promoted_after(&old).await;
        scene.writes_flow().await;
        scene.rejoin(&old).await;
        scene.wait_until_acknowledged_by(2).await;
    }
    assert_eq!(scene.promotions().await, rounds);
    scene.end().await
}

/// Sessions that wait for an acknowledgement are ended on the server, by `pg_cancel_backend` or `pg_terminate_backend`: Postgres then shows what
/// no standby has. The primary dies before one gets it.
pub async fn cancelled_while_waiting(function: &str) -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    scene.primary().freeze_walsenders();
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' HAVING count(*) > 4";
    scene.primary().wait_until(waiting).await.unwrap();
    let end = format!("SELECT {function}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    scene.primary().sql(&end).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.fault_begins();
    scene.server(&old).kill9();
    scene.promoted_after(&old).await;
    scene.end().await
}
