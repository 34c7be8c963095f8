//! What a client hears of its simple queries where writes are watched: byte for byte what it hears where they are not, but for the columns of
//! a RETURNING that fails before its first row, which Postgres tells of a SELECT alone.

use pgherd_protocol::FrontendMessage;

use crate::scene::Scene;
use crate::support::{Client, scram};

const TABLES: &str = "
    CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION noisy(n int) RETURNS int LANGUAGE plpgsql AS
        'BEGIN RAISE NOTICE ''before''; INSERT INTO rows VALUES (n); RETURN n; END';
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE NOTICE ''at the end''; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION late();
    CREATE TABLE ruled (n int);
    CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO rows VALUES (NEW.n);
    GRANT ALL ON once, ruled TO app";

const TEXTS: &[&str] = &[
    "INSERT INTO rows VALUES (1)",
    "/* a */ insert into rows values (2), (3) RETURNING n, 'x' AS y, NULL ; -- end",
    "UPDATE rows SET n = 2 WHERE false",
    "UPDATE rows SET n = n + 1 RETURNING *",
    "WITH a AS (INSERT INTO rows VALUES (4) RETURNING n) SELECT * FROM a",
    "SELECT n FROM rows ORDER BY n FOR UPDATE",
    "SELECT noisy(5)",
    "INSERT INTO ruled VALUES (6)",
    "INSERT INTO rows SELECT generate_series(1, 20000) RETURNING n",
    "DELETE FROM rows",
    // errors: when it is parsed, while it runs, and when it commits
    "INSERT INTO nowhere VALUES (1)",
    "INSERT INTO rows VALUES ('x')",
    "INSERT INTO rows VALUES ($1)",
    "INSERT INTO rows VALUES (1 / (SELECT count(*) FROM once))",
    "INSERT INTO rows SELECT 1 / (3 - n) FROM generate_series(1, 3) n RETURNING n",
    "INSERT INTO once VALUES (1), (1) RETURNING n",
    "INSERT INTO once VALUES (1), (1)",
    "INSERT INTO once",
    // what is not sent otherwise
    "INSERT INTO rows VALUES (7); INSERT INTO rows VALUES (8)",
    "DO 'BEGIN INSERT INTO rows VALUES (9); END'",
    "VACUUM rows",
    "SELECT count(*) FROM rows",
];

/// Tags and bodies.
type Answer = Vec<(u8, Vec<u8>)>;

/// The answers to all texts.
async fn answers(promotes: bool) -> Vec<Answer> {
    let scene = Scene::start(promotes).await;
    scene
        .server
        .connect()
        .await
        .batch_execute(TABLES)
        .await
        .unwrap();
    let mut client: Client = scene.front.connect().await;
    client
        .start(3 << 16, &[("user", "app"), ("database", "shop")])
        .await;
    scram(&mut client, "right").await.unwrap();
    while client.frame().await.unwrap().tag() != b'Z' {}
    let mut all = Vec::new();
    for text in TEXTS {
        let mut query = bytes::BytesMut::new();
        FrontendMessage::Query(text.as_bytes())
            .encode(&mut query)
            .unwrap();
        client.send(&query).await;
        let mut answer = Vec::new();
        loop {
            let frame = client.frame().await.unwrap();
            answer.push((frame.tag(), frame.body().to_vec()));
            if frame.tag() == b'Z' {
                break;
            }
        }
        // columns, and an error behind them
        if let [(b'T', _), (b'E', _), ..] = answer.as_slice() {
            answer.remove(0);
        }
        all.push(answer);
    }
    all
}

#[tokio::test]
async fn the_answer_to_a_watched_write_is_that_to_any_query() {
    let (watched, plain) = (answers(true).await, answers(false).await);
    for ((text, watched), plain) in TEXTS.iter().zip(watched).zip(plain) {
        let shown = |answer: &[(u8, Vec<u8>)]| {
            let all = answer.iter().take(20);
            all.map(|(tag, body)| format!("{} {}", char::from(*tag), String::from_utf8_lossy(body)))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&watched), shown(&plain), "{text}");
        assert_eq!(watched, plain, "{text}");
    }
}
