//! What a request of a client that asks without a pause allocates, from its text to the last byte of its answer, over a real server.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::BytesMut;
use pgherd_protocol::frontend::{encode_bind, encode_parse};
use pgherd_protocol::{FrontendMessage, Target, tag};
use pgherd_session::ListenSettings;
use support::server::Server;
use support::{Client, Front, database, scram};
use tokio::runtime::{Builder, Runtime};

const V3_0: u32 = 0x0003_0000;

/// After so many requests buffers have their size, and are kept.
const WARM: usize = 16;

/// So many are counted together.
const TIMES: usize = 20;

fn query(sql: &str) -> BytesMut {
    let mut bytes = BytesMut::new();
    let message = FrontendMessage::Query(sql.as_bytes());
    message.encode(&mut bytes).unwrap();
    bytes
}

/// Bind, Describe of the portal, Execute and Sync for a statement.
fn run(name: &[u8], value: &[u8], bytes: &mut BytesMut) {
    encode_bind(bytes, b"", name, [], [Some(value)], []).unwrap();
    let describe = FrontendMessage::Describe {
        target: Target::Portal,
        name: b"",
    };
    let execute = FrontendMessage::Execute {
        portal: b"",
        max_rows: 0,
    };
    for message in [describe, execute, FrontendMessage::Sync] {
        message.encode(bytes).unwrap();
    }
}

/// Sends a request so often, and waits for each answer. Allocates nothing itself.
async fn ask(client: &mut Client, request: &[u8], times: usize) {
    let ready = [tag::backend::READY_FOR_QUERY, 0, 0, 0, 5, b'I'];
    let mut buffer = [0; 4096];
    for _ in 0..times {
        client.send(request).await;
        let mut filled = 0;
        while !buffer[..filled].ends_with(&ready) {
            filled += client.read(&mut buffer[filled..]).await;
            assert_ne!(buffer[0], tag::backend::ERROR_RESPONSE);
        }
    }
}

/// What so many requests like this allocate, at best: a machine that is busy for long makes pauses of its own. Client, session and the
/// herd run on this thread.
fn allocations(runtime: &Runtime, client: &mut Client, request: &[u8]) -> u64 {
    let measure = |_| {
        runtime.block_on(ask(client, request, WARM));
        let measured =
            allocation_counter::measure(|| runtime.block_on(ask(client, request, TIMES)));
        measured.count_total
    };
    (0..10).map(measure).min().unwrap()
}

#[test]
fn a_request_allocates_no_more_than_the_work_on_it() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (_server, _front, mut client) = runtime.block_on(async {
        let server = Server::start().await;
        let sql = "CREATE ROLE app LOGIN PASSWORD 'right'; CREATE TABLE numbers AS SELECT 7 AS n";
        let own = server.connect().await;
        own.batch_execute(sql).await.unwrap();
        own.batch_execute("GRANT SELECT ON numbers TO app")
            .await
            .unwrap();
        let users = [support::user("app", "right")].into_iter().collect();
        let shop = database("shop", users, Some(server.tcp()));
        let front = Front::start(ListenSettings::default(), vec![shop])
            .await
            .serve();
        let mut client = front.connect().await;
        client
            .start(V3_0, &[("user", "app"), ("database", "shop")])
            .await;
        scram(&mut client, "right").await.unwrap();
        while client.frame().await.unwrap().tag() != tag::backend::READY_FOR_QUERY {}
        (server, front, client)
    });
    let mut extended = BytesMut::new();
    let by_number = b"SELECT n FROM numbers WHERE n = $1";
    encode_parse(&mut extended, b"", by_number, [23]).unwrap();
    run(b"", b"7", &mut extended);
    let mut prepare = BytesMut::new();
    encode_parse(&mut prepare, b"s", by_number, [23]).unwrap();
    FrontendMessage::Sync.encode(&mut prepare).unwrap();
    runtime.block_on(ask(&mut client, &prepare, 1));
    let mut prepared = BytesMut::new();
    run(b"s", b"7", &mut prepared);
    let simple = query("SELECT n FROM numbers WHERE n = 7");
    // the work on it, and what a Bind and a Parse leave with the session
    for (name, request, most) in [
        ("simple", simple, 1),
        ("prepared", prepared, 2),
        ("extended", extended, 7),
    ] {
        let counted = allocations(&runtime, &mut client, &request);
        // and a few of the runtime's
        let most = most * TIMES as u64 + 5;
        assert!(counted <= most, "{name}: {counted}");
    }
}
