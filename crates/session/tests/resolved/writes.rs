//! What becomes of a write without a block whose answer is lost while another server takes the primary's place.

use std::time::Duration;

use crate::scene::{Scene, Way};
use crate::support::LONG;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A row, and how long the column is that it returns.
fn insert(length: usize) -> String {
    format!("INSERT INTO rows VALUES (1) RETURNING n, repeat('x', {length})")
}

/// The first column of what a statement returns, or the SQLSTATE.
async fn run(client: &Client, text: &str, extended: bool) -> Result<Vec<String>, String> {
    let code = |error: tokio_postgres::Error| error.code().unwrap().code().to_owned();
    if extended {
        let rows = client.query(text, &[]).await.map_err(code)?;
        return Ok(rows
            .iter()
            .map(|row| row.get::<_, i32>(0).to_string())
            .collect());
    }
    let answer = client.simple_query(text).await.map_err(code)?;
    let mut rows = Vec::new();
    for message in answer {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row.get(0).unwrap().to_owned()),
            SimpleQueryMessage::CommandComplete(count) => assert_eq!(count, 1),
            _ => {}
        }
    }
    Ok(rows)
}

/// Inserts a row while the way changes. Returns what the client heard, and how many rows are there.
async fn write(
    promotes: bool,
    way: Way,
    length: usize,
    extended: bool,
    horizon: impl Fn(u64) -> Option<u64>,
) -> (Result<Vec<String>, String>, i64) {
    let scene = Scene::start(promotes).await;
    let client = scene.client().await;
    // so that all that the write needs goes in one write
    let text = insert(length);
    let prepared = client.prepare(&text).await.unwrap();
    client
        .query("DELETE FROM rows RETURNING n", &[])
        .await
        .unwrap();
    scene.detour.way.send_replace(way);
    let writing = async {
        if extended {
            let rows = client.query(&prepared, &[]).await;
            rows.map(|rows| {
                rows.iter()
                    .map(|row| row.get::<_, i32>(0).to_string())
                    .collect()
            })
            .map_err(|error| error.code().unwrap().code().to_owned())
        } else {
            run(&client, &text, false).await
        }
    };
    let (heard, ()) = timeout(LONG, async {
        tokio::join!(writing, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            scene.succeed(promotes, horizon).await;
        })
    })
    .await
    .unwrap();
    let rows = scene.rows().await;
    client
        .batch_execute("INSERT INTO rows VALUES (2)")
        .await
        .unwrap();
    assert_eq!(scene.rows().await, rows + 1);
    (heard, rows)
}

fn one_row() -> Result<Vec<String>, String> {
    Ok(vec!["1".into()])
}

#[tokio::test]
async fn a_write_that_the_next_primary_has_is_a_success() {
    for extended in [false, true] {
        for length in [10, 200_000] {
            let heard = write(true, Way::LosesReady, length, extended, Some).await;
            assert_eq!(heard, (one_row(), 1), "extended: {extended}, {length}");
        }
    }
}

#[tokio::test]
async fn a_write_that_was_not_committed_runs_again() {
    for extended in [false, true] {
        let heard = write(true, Way::LosesSync, 10, extended, Some).await;
        assert_eq!(heard, (one_row(), 1), "extended: {extended}");
        // an id that the next primary's history does not reach; what was is here all the same
        let heard = write(true, Way::LosesReady, 10, extended, |_| Some(3)).await;
        assert_eq!(heard, (one_row(), 2), "extended: {extended}");
    }
}

#[tokio::test]
async fn a_write_that_was_not_committed_is_not_run_again_once_rows_were_passed_on() {
    for extended in [false, true] {
        let (heard, rows) = write(true, Way::LosesReady, 200_000, extended, |_| Some(3)).await;
        assert_eq!((heard, rows), (Err("40001".into()), 1));
    }
}

#[tokio::test]
async fn a_write_of_which_nobody_can_tell_is_in_doubt() {
    for extended in [false, true] {
        let doubt = Err("08007".to_owned());
        // nobody knows where the reign before ended
        let (heard, _) = write(true, Way::LosesReady, 10, extended, |_| None).await;
        assert_eq!(heard, doubt);
        // the id was not told
        let (heard, _) = write(true, Way::LosesAll, 10, extended, Some).await;
        assert_eq!(heard, doubt);
        // others promote: it is not asked for
        let (heard, _) = write(false, Way::LosesAll, 10, extended, Some).await;
        assert_eq!(heard, doubt);
    }
}

/// A write whose commit takes a while: a trigger runs in it, which waits for a lock that is held until the connection is cut.
#[tokio::test]
async fn the_id_of_a_write_is_known_while_it_commits() {
    for (ended, rows) in [(false, 1), (true, 1)] {
        let scene = Scene::start(true).await;
        let own = scene.server.connect().await;
        own.batch_execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION wait();
            SELECT pg_advisory_lock(7)",
        )
        .await
        .unwrap();
        let client = scene.client().await;
        let text = insert(10);
        let writing = run(&client, &text, false);
        let failing = async {
            let waits = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            let pid: i32 = loop {
                match own.query_opt(waits, &[]).await.unwrap() {
                    Some(row) => break row.get(0),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            scene.detour.way.send_replace(Way::Cut);
            if ended {
                let end = "SELECT pg_terminate_backend($1, 10000)";
                own.query_one(end, &[&pid]).await.unwrap();
            }
            own.execute("SELECT pg_advisory_unlock(7)", &[])
                .await
                .unwrap();
            scene.succeed(true, Some).await;
        };
        let (heard, ()) = timeout(LONG, async { tokio::join!(writing, failing) })
            .await
            .unwrap();
        assert_eq!((heard, scene.rows().await), (one_row(), rows), "{ended}");
    }
}
