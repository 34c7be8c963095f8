//! What becomes of a COMMIT whose answer is lost while another server takes the primary's place. Both are one real Postgres here, reached by two
//! ways, of which the first is cut.
#![allow(clippy::unwrap_used)]

#[path = "resolved/answers.rs"]
mod answers;
#[path = "resolved/scene.rs"]
mod scene;
mod support;
#[path = "resolved/writes.rs"]
mod writes;

use std::time::Duration;

use scene::{Scene, Way};
use support::LONG;
use tokio::time::timeout;

/// Commits a row while the way changes, and returns the SQLSTATE that the client heard, if it was no success.
async fn commit(
    promotes: bool,
    way: Way,
    extended: bool,
    horizon: impl Fn(u64) -> Option<u64>,
) -> (Option<String>, i64) {
    let scene = Scene::start(promotes).await;
    let client = scene.client().await;
    for text in ["BEGIN", "INSERT INTO rows VALUES (1)"] {
        client.batch_execute(text).await.unwrap();
    }
    let prepared = client.prepare("COMMIT").await.unwrap();
    scene.detour.way.send_replace(way);
    let committing = async {
        if extended {
            client.execute(&prepared, &[]).await.map(drop)
        } else {
            client.batch_execute("COMMIT").await
        }
    };
    let (committed, ()) = timeout(LONG, async {
        tokio::join!(committing, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            scene.succeed(promotes, horizon).await;
        })
    })
    .await
    .unwrap();
    let heard = committed
        .err()
        .map(|error| error.code().unwrap().code().to_owned());
    let rows = scene.rows().await;
    // the client's block is over, and its session goes on
    client
        .batch_execute("INSERT INTO rows VALUES (2)")
        .await
        .unwrap();
    assert_eq!(scene.rows().await, rows + 1);
    (heard, rows)
}

#[tokio::test]
async fn a_commit_that_the_next_primary_has_is_a_success() {
    for extended in [false, true] {
        let heard = commit(true, Way::LosesAnswer, extended, Some).await;
        assert_eq!(heard, (None, 1), "extended: {extended}");
    }
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_a_serialization_failure() {
    for extended in [false, true] {
        let (heard, rows) = commit(true, Way::LosesCommit, extended, Some).await;
        assert_eq!((heard.as_deref(), rows), (Some("40001"), 0));
    }
    // an id that the next primary's history does not reach
    let (heard, _) = commit(true, Way::LosesAnswer, false, |_| Some(3)).await;
    assert_eq!(heard.as_deref(), Some("40001"));
}

#[tokio::test]
async fn a_commit_of_which_nobody_can_tell_is_in_doubt() {
    // nobody knows where the reign before ended
    let (heard, _) = commit(true, Way::LosesAnswer, false, |_| None).await;
    assert_eq!(heard.as_deref(), Some("08007"));
    // others promote: nothing is asked ahead of COMMIT
    let (heard, _) = commit(false, Way::LosesAll, false, Some).await;
    assert_eq!(heard.as_deref(), Some("08007"));
}
