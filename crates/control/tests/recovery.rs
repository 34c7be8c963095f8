//! Transactions over shards that a dead proxy left behind, on real servers.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use pgherd_control::{Control, ControlSettings};
use pgherd_topology::commit_protocol::{
    BECOME_LOGIN, CommitSecret, Gid, OUTCOME, ProxyId, RECORD, Record, TransactionName,
};
use pgherd_topology::{Epoch, Sharding, TwoPhase};
use support::{TestServer, ready, settings, until};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// Two shards that differ in nothing, `app` as the clients' login.
async fn herd() -> (TestServer, TestServer, ControlSettings) {
    let (first, second) = (TestServer::start(), TestServer::start());
    for server in [&first, &second] {
        server
            .sql("CREATE ROLE app LOGIN; CREATE TABLE t (x int); GRANT ALL ON t TO app")
            .await;
    }
    let sharding = Sharding::builder(["s0", "s1"]).build().unwrap();
    let settings = settings(&[&[&first], &[&second]], sharding);
    (first, second, settings)
}

async fn recovering(settings: ControlSettings) -> Control {
    let control = ready(settings).await;
    until(&control, "two-phase", |topology| {
        topology
            .shards
            .iter()
            .all(|shard| shard.two_phase == TwoPhase::Ready)
    })
    .await;
    control
}

/// A session that commits over `s0`, the anchor, and `s1`.
struct Session {
    secret: CommitSecret,
    name: TransactionName,
    half: Gid,
    anchor: Client,
    other: Client,
}

impl Session {
    async fn begin(
        settings: &ControlSettings,
        proxy: ProxyId,
        anchor: &TestServer,
        other: &TestServer,
    ) -> Self {
        let secret = CommitSecret::from_random(rand::random());
        let name = TransactionName::new(settings.herd, proxy, &secret, "s0").unwrap();
        let half = name.half("s1", Epoch(1)).unwrap();
        let (anchor, other) = (
            anchor.connect_as("app").await,
            other.connect_as("app").await,
        );
        for client in [&anchor, &other] {
            client
                .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
                .await
                .unwrap();
        }
        Self {
            secret,
            name,
            half,
            anchor,
            other,
        }
    }

    async fn record(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let record = Record {
            secret: &self.secret,
            transaction: &self.name,
            epoch: Epoch(1),
            participants: &["s0", "s1"],
        };
        // The test's client speaks binary only: the same values in its own types.
        let [_, name, epoch, _] = record.parameters();
        let statement = client
            .prepare_typed(
                RECORD,
                &[Type::BYTEA, Type::TEXT, Type::INT8, Type::TEXT_ARRAY],
            )
            .await?;
        let shown = hex(&self.secret.parameter());
        let epoch: i64 = epoch.parse().unwrap();
        client
            .query(
                &statement,
                &[&shown, &name, &epoch, &["s0", "s1"].as_slice()],
            )
            .await
            .map(drop)
    }

    async fn prepare_other(&self) {
        self.other.batch_execute(BECOME_LOGIN).await.unwrap();
        self.record(&self.other).await.unwrap();
        self.other
            .batch_execute(&self.half.prepare())
            .await
            .unwrap();
    }
}

fn hex(parameter: &str) -> Vec<u8> {
    let digits = parameter.strip_prefix("\\x").unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

async fn prepared(server: &TestServer) -> u32 {
    server
        .value("SELECT count(*) FROM pg_prepared_xacts")
        .await
        .unwrap()
        .parse()
        .unwrap()
}

async fn rows(server: &TestServer) -> u32 {
    server
        .value("SELECT count(*) FROM t")
        .await
        .unwrap()
        .parse()
        .unwrap()
}

async fn until_finished(server: &TestServer) {
    let begun = Instant::now();
    while prepared(server).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "still prepared");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const DEAD: ProxyId = ProxyId(0xdead);

#[tokio::test]
async fn what_was_prepared_without_a_decision_is_rolled_back() {
    let (first, second, settings) = herd().await;
    let control = recovering(settings.clone()).await;
    let session = Session::begin(&settings, DEAD, &first, &second).await;
    session.prepare_other().await;
    until_finished(&second).await;
    assert_eq!((rows(&first).await, rows(&second).await), (0, 0));
    // The session was only slow: it hears of it at its decision, and not before.
    let error = session.record(&session.anchor).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    control.shutdown().await;
}

#[tokio::test]
async fn what_the_anchor_has_committed_is_committed() {
    let (first, second, settings) = herd().await;
    let control = recovering(settings.clone()).await;
    let session = Session::begin(&settings, settings.proxy, &first, &second).await;
    let guard = settings.in_flight.register(session.name.clone());
    session.prepare_other().await;
    session.record(&session.anchor).await.unwrap();
    session.anchor.batch_execute("COMMIT").await.unwrap();
    // As long as the session is at work, nobody interferes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(prepared(&second).await, 1);
    let given_up = Instant::now();
    drop(guard);
    until_finished(&second).await;
    assert!(
        given_up.elapsed() < Duration::from_secs(1),
        "{:?}",
        given_up.elapsed()
    );
    assert_eq!((rows(&first).await, rows(&second).await), (1, 1));
    // The other half's row is what a session looks for after 42704.
    let (shown, name) = (hex(&session.secret.parameter()), session.name.to_string());
    let outcome = session
        .other
        .query_one(OUTCOME, &[&shown, &name])
        .await
        .unwrap();
    assert_eq!(outcome.get::<_, &str>(0), "commit");
    control.shutdown().await;
}

#[tokio::test]
async fn while_the_anchor_is_deciding_nothing_is_guessed() {
    let (first, second, settings) = herd().await;
    let control = recovering(settings.clone()).await;
    let session = Session::begin(&settings, DEAD, &first, &second).await;
    // The anchor's row is there before recovery looks, and its transaction stays open.
    session.record(&session.anchor).await.unwrap();
    session.prepare_other().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(prepared(&second).await, 1);
    session.anchor.batch_execute("COMMIT").await.unwrap();
    until_finished(&second).await;
    assert_eq!((rows(&first).await, rows(&second).await), (1, 1));
    control.shutdown().await;
}

#[tokio::test]
async fn many_recoverers_at_once_agree() {
    let (first, second, settings) = herd().await;
    let mut sessions = Vec::new();
    let control = recovering(settings.clone()).await;
    control.shutdown().await;
    for number in 0..10 {
        let session = Session::begin(&settings, DEAD, &first, &second).await;
        session.prepare_other().await;
        if number % 2 == 0 {
            session.record(&session.anchor).await.unwrap();
            session.anchor.batch_execute("COMMIT").await.unwrap();
        }
        sessions.push(session);
    }
    let recoverers = tokio::join!(
        ready(settings.clone()),
        ready(settings.clone()),
        ready(settings.clone()),
    );
    until_finished(&second).await;
    drop(sessions);
    assert_eq!((rows(&first).await, rows(&second).await), (5, 5));
    tokio::join!(
        recoverers.0.shutdown(),
        recoverers.1.shutdown(),
        recoverers.2.shutdown()
    );
}

#[tokio::test]
async fn strangers_are_left_alone_and_own_halves_are_finished_without_a_superuser() {
    let (first, second, mut settings) = herd().await;
    for server in [&first, &second] {
        server.sql("CREATE ROLE control LOGIN; GRANT CREATE ON DATABASE postgres TO control; GRANT app TO control").await;
    }
    settings.login.user = "control".into();
    let control = recovering(settings.clone()).await;
    let mut foreign = settings.clone();
    foreign.herd = pgherd_topology::commit_protocol::HerdId(settings.herd.0 ^ 1);
    let stranger = Session::begin(&foreign, DEAD, &first, &second).await;
    stranger.prepare_other().await;
    second
        .sql("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'somebody else'")
        .await;
    let session = Session::begin(&settings, DEAD, &first, &second).await;
    session.prepare_other().await;
    session.record(&session.anchor).await.unwrap();
    session.anchor.batch_execute("COMMIT").await.unwrap();
    let begun = Instant::now();
    while rows(&second).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "not finished");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(prepared(&second).await, 2);
    control.shutdown().await;
}

#[tokio::test]
async fn an_anchor_that_failed_over_since_gets_no_tombstone() {
    let (first, second, settings) = herd().await;
    let control = recovering(settings.clone()).await;
    control.shutdown().await;
    // s1's half is committed and s0, the anchor, has lost its row: what is left on s0 must be committed.
    let witness = Session::begin(&settings, DEAD, &second, &first).await;
    witness.record(&witness.anchor).await.unwrap();
    witness.anchor.batch_execute("COMMIT").await.unwrap();
    let lost = witness.name.half("s0", Epoch(0)).unwrap();
    witness.record(&witness.other).await.unwrap();
    witness.other.batch_execute(&lost.prepare()).await.unwrap();
    // Nobody has anything of this one.
    let nothing = Session::begin(&settings, DEAD, &second, &first).await;
    let undecided = nothing.name.half("s0", Epoch(0)).unwrap();
    nothing.record(&nothing.other).await.unwrap();
    nothing
        .other
        .batch_execute(&undecided.prepare())
        .await
        .unwrap();
    let control = recovering(settings.clone()).await;
    until_finished(&first).await;
    assert_eq!((rows(&first).await, rows(&second).await), (1, 1));
    assert_eq!(
        first
            .value("SELECT count(*) FROM pgherd.commit_log WHERE outcome = 'abort'")
            .await
            .unwrap(),
        "0"
    );
    control.shutdown().await;
}

#[tokio::test]
async fn old_decisions_are_cleared_away_once_every_half_is_seen() {
    let (first, second, mut settings) = herd().await;
    settings.pace.log_retention = Duration::from_secs(1);
    let control = recovering(settings.clone()).await;
    let done = Session::begin(&settings, DEAD, &first, &second).await;
    done.record(&done.anchor).await.unwrap();
    done.anchor.batch_execute("COMMIT").await.unwrap();
    done.record(&done.other).await.unwrap();
    done.other.batch_execute("COMMIT").await.unwrap();
    let half = Session::begin(&settings, DEAD, &first, &second).await;
    half.record(&half.anchor).await.unwrap();
    half.anchor.batch_execute("COMMIT").await.unwrap();
    let aborted = Session::begin(&settings, DEAD, &first, &second).await;
    aborted.prepare_other().await;
    let old = first.connect().await;
    old.batch_execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    let log = |server: &TestServer| {
        let port = server.port;
        async move {
            let text = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
            let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls)
                .await
                .unwrap();
            tokio::spawn(connection);
            let rows = client
                .query(
                    "SELECT gid || outcome FROM pgherd.commit_log ORDER BY 1",
                    &[],
                )
                .await
                .unwrap();
            rows.iter()
                .map(|row| row.get::<_, String>(0))
                .collect::<Vec<_>>()
        }
    };
    until_finished(&second).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut kept = vec![
        format!("{}commit", half.name),
        format!("{}abort", aborted.name),
    ];
    kept.sort();
    assert_eq!(log(&first).await, kept);
    assert_eq!(log(&second).await, [""; 0]);
    // The tombstone goes when nobody can run into it any more.
    old.batch_execute("COMMIT").await.unwrap();
    aborted.anchor.batch_execute("ROLLBACK").await.unwrap();
    half.other.batch_execute("ROLLBACK").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(log(&first).await, [format!("{}commit", half.name)]);
    control.shutdown().await;
}
