//! Processes that die.

use std::time::Duration;

use pgherd_tests::asking::one;

use crate::checker::Verdict;
use crate::scene::{Replication, Scene};

/// What a backend is busy with for some seconds: a row that it writes afterwards.
const BUSY: &str = "INSERT INTO marks SELECT 900, count(*) FROM generate_series(1, 4000) a, generate_series(1, 8000) b";

/// Kills the primary and waits for the next one. Returns the names of both.
async fn fail_over(scene: &mut Scene) -> (String, String) {
    let old = scene.primary_name();
    scene.fault_begins();
    scene.primary().kill9();
    let new = scene.promoted_after(&old).await;
    (old, new)
}

pub async fn killed() -> Verdict {
    killed_on(Scene::new().await).await
}

pub async fn killed_asynchronous() -> Verdict {
    killed_on(Scene::of(Replication::Asynchronous).await).await
}

async fn killed_on(mut scene: Scene) -> Verdict {
    fail_over(&mut scene).await;
    scene.end().await
}

pub async fn orphaned() -> Verdict {
    let scene = Scene::new().await;
    orphaned_on(scene, Replication::Synchronous).await
}

pub async fn orphaned_asynchronous() -> Verdict {
    let scene = Scene::of(Replication::Asynchronous).await;
    orphaned_on(scene, Replication::Asynchronous).await
}

/// The backend commits while, or after, another server becomes the primary.
async fn orphaned_on(mut scene: Scene, replication: Replication) -> Verdict {
    let busy = scene.cluster.connect("app").await;
    let writing = tokio::spawn(async move { busy.batch_execute(BUSY).await });
    let begun = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT INTO marks SELECT 900%'";
    scene.primary().wait_until(begun).await.unwrap();
    let old = scene.primary_name();
    scene.fault_begins();
    scene.primary().kill_postmaster();
    scene.promoted_after(&old).await;
    let written = writing.await.unwrap();
    println!("       the busy write was told {written:?}");
    let found = scene
        .primary()
        .sql("SELECT 1 FROM marks WHERE writer = 900")
        .await
        .unwrap();
    if replication == Replication::Synchronous {
        assert!(written.is_err() || !found.is_empty(), "it was acknowledged");
    }
    scene.end().await
}

pub async fn returned_and_rejoined() -> Verdict {
    let mut scene = Scene::new().await;
    let (old, new) = fail_over(&mut scene).await;
    scene.server(&old).start().await.unwrap();
    scene.event("quarantine", &format!("{old} is fenced")).await;
    // for some seconds nothing else is known
    for _ in 0..100 {
        assert_eq!(scene.reigning().await, [new.as_str()]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let around = scene.direct(&old).await.unwrap();
    let refused = around.batch_execute("INSERT INTO marks VALUES (901, 1)");
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("25006"));
    scene.rejoin(&old).await;
    scene.wait_until_acknowledged_by(2).await;
    scene.end().await
}

/// Its own return wins, or a promotion does.
pub async fn restarted() -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    scene.fault_begins();
    scene.server(&old).kill_postmaster();
    tokio::time::sleep(Duration::from_millis(600)).await;
    scene.server(&old).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.end().await
}

pub async fn killed_twice() -> Verdict {
    let mut scene = Scene::new().await;
    let (first, _) = fail_over(&mut scene).await;
    scene.wait_until_acknowledged_by(1).await;
    scene.writes_flow().await;
    fail_over(&mut scene).await;
    // nobody is left that could acknowledge
    scene.rejoin(&first).await;
    scene.end().await
}

/// The second dies before anything is known to be acknowledged under it: somebody is promoted where nothing can be lost, else nobody.
pub async fn killed_at_once() -> Verdict {
    let mut scene = Scene::new().await;
    let (first, second) = fail_over(&mut scene).await;
    scene.server(&second).kill9();
    let mut third = None;
    for _ in 0..200 {
        let reigning = scene.reigning().await;
        third = reigning.into_iter().find(|server| *server != second);
        if third.is_some() || scene.has_event("refusal", "").await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("       after the second death: {third:?}");
    match third {
        Some(third) => scene.cluster.shard(0).note_primary(&third).unwrap(),
        None => scene.server(&second).start().await.unwrap(),
    }
    scene.wait_until_one_reigns().await;
    scene.rejoin(&first).await;
    scene.end().await
}

pub async fn flapping() -> Verdict {
    let mut scene = Scene::new().await;
    let old = scene.primary_name();
    scene.fault_begins();
    for _ in 0..3 {
        scene.server(&old).kill9();
        scene.server(&old).start().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    scene.end().await
}

/// Postgres ends all sessions and recovers.
pub async fn backend_killed() -> Verdict {
    let mut scene = Scene::new().await;
    scene.fault_begins();
    scene.primary().kill_a_backend().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let client = scene.cluster.connect("app").await;
    assert_eq!(one(&client, "SELECT 1").await, "1");
    scene.end().await
}
