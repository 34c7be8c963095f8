//! What cannot be compared with one Postgres value by value: moments, ids that servers draw, and what one client leaves to the next.

use pgherd_tests::oracle::client::{Answer, Connection, Part};
use pgherd_tests::oracle::comparison::describe;
use pgherd_tests::oracle::watch::Watch;
use pgherd_tests::oracle::world::Pair;

use super::Keys;

/// All of them; what is wrong.
pub async fn check(pair: &Pair, watch: &mut Watch, keys: &Keys) -> Vec<String> {
    watch.reset().await;
    let mut wrong = Vec::new();
    wrong.extend(now_is_one_moment(pair, keys).await);
    wrong.extend(drawn_ids_are_unique(pair).await);
    wrong.extend(reference_copies_agree(pair).await);
    wrong.extend(nothing_is_left_to_the_next_client(pair, keys).await);
    wrong.extend(a_transaction_is_alone_with_its_lock(pair).await);
    watch.reset().await;
    wrong
}

fn rows(answer: &Answer) -> Vec<String> {
    answer
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Row(values) => Some(
                values
                    .iter()
                    .map(|value| match value {
                        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        None => "NULL".into(),
                    })
                    .collect::<Vec<_>>()
                    .join("|"),
            ),
            _ => None,
        })
        .collect()
}

/// The rows, or `None` where the statement was refused.
async fn ask(client: &mut Connection, sql: &str, wrong: &mut Vec<String>) -> Option<Vec<String>> {
    let answer = client.simple(sql).await;
    if answer.is_refused() {
        return None;
    }
    if answer.failure().is_some() {
        wrong.push(format!("{sql}\n{}", describe(&answer)));
        return None;
    }
    Some(rows(&answer))
}

async fn now_is_one_moment(pair: &Pair, keys: &Keys) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut client = pair.client().await;
    for moment in [
        "now()",
        "current_timestamp",
        "transaction_timestamp()",
        "current_date + now()::time",
    ] {
        ask(&mut client, "BEGIN", &mut wrong).await;
        let mut seen = Vec::new();
        for key in ["{a}", "{b}"] {
            let query = keys.fill(&format!("SELECT {moment} FROM users WHERE id = {key}"));
            seen.push(ask(&mut client, &query, &mut wrong).await);
        }
        ask(&mut client, "ROLLBACK", &mut wrong).await;
        if let [Some(one), Some(other)] = seen.as_slice()
            && one != other
        {
            wrong.push(format!(
                "{moment} is {one:?} and {other:?} in one transaction"
            ));
        }
    }
    wrong
}

async fn drawn_ids_are_unique(pair: &Pair) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut client = pair.client().await;
    let mut ids = Vec::new();
    for owner in 0..40 {
        let insert = format!("INSERT INTO things (owner) VALUES ({owner}) RETURNING id");
        ids.extend(
            ask(&mut client, &insert, &mut wrong)
                .await
                .unwrap_or_default(),
        );
    }
    let drawn = ids.len();
    ids.sort();
    ids.dedup();
    if ids.len() < drawn {
        wrong.push(format!("of {drawn} serial ids only {} differ", ids.len()));
    }
    wrong
}

async fn reference_copies_agree(pair: &Pair) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut client = pair.client().await;
    for insert in [
        "INSERT INTO stamps VALUES ('now', now())",
        "INSERT INTO stamps VALUES ('default', DEFAULT)",
        "INSERT INTO stamps (code) VALUES ('left out')",
        "INSERT INTO stamps VALUES ('word', 'now')",
        "INSERT INTO stamps VALUES ('cast', 'today'::date)",
        "INSERT INTO stamps VALUES ('clock', clock_timestamp())",
        "INSERT INTO counted VALUES ('a', DEFAULT)",
        "INSERT INTO counted (code) VALUES ('b')",
        "UPDATE countries SET name = random()::text WHERE code = 'de'",
        "UPDATE countries SET name = gen_random_uuid()::text WHERE code = 'fr'",
    ] {
        ask(&mut client, insert, &mut wrong).await;
    }
    for table in ["stamps", "counted", "countries"] {
        let mut copies = Vec::new();
        for server in &pair.servers {
            let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
            copies.push(pair.values(server, &query).await);
        }
        if copies.windows(2).any(|pair| pair[0] != pair[1]) {
            wrong.push(format!("the copies of {table} differ: {copies:?}"));
        }
    }
    wrong
}

/// Each is said by a client that then leaves; the next looks.
async fn nothing_is_left_to_the_next_client(pair: &Pair, keys: &Keys) -> Vec<String> {
    const LEFT: &[(&str, &str, &str)] = &[
        ("SET work_mem = '7MB'", "SHOW work_mem", "4MB"),
        (
            "SET DateStyle = 'German'",
            "SELECT '2024-02-01'::date::text FROM users WHERE id = {b}",
            "2024-02-01",
        ),
        (
            "SET search_path TO archive",
            "SELECT count(*) FROM users WHERE id = {b} AND active IS NOT NULL",
            "1",
        ),
        (
            "SET ROLE app",
            "SELECT current_user FROM users WHERE id = {b}",
            "app",
        ),
        (
            "CREATE TEMP TABLE countries (x int)",
            "SELECT count(*) FROM countries WHERE code = 'de'",
            "1",
        ),
        (
            "SELECT pg_advisory_lock(4711)",
            "SELECT pg_try_advisory_xact_lock(4711)",
            "t",
        ),
        (
            "PREPARE left_over AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_over'",
            "0",
        ),
        (
            "LISTEN someone",
            "SELECT count(*) FROM pg_listening_channels()",
            "0",
        ),
        (
            "BEGIN; UPDATE users SET age = 77 WHERE id = {b}",
            "SELECT count(*) FROM users WHERE id = {b} AND age = 77",
            "0",
        ),
        (
            "SELECT set_config('extra_float_digits', '-3', false)",
            "SHOW extra_float_digits",
            "1",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SHOW transaction_read_only",
            "off",
        ),
        (
            "SET statement_timeout = '1ms'",
            "SHOW statement_timeout",
            "0",
        ),
    ];
    let mut wrong = Vec::new();
    for (said, look, expected) in LEFT {
        let (said, look) = (keys.fill(said), keys.fill(look));
        let mut leaver = pair.client().await;
        let answer = leaver.simple(&said).await;
        let refused = answer.is_refused();
        // another client while it is there, and one when it has gone
        let mut beside = pair.client().await;
        let holds = said.contains("lock");
        if !holds {
            let seen = ask(&mut beside, &look, &mut wrong).await;
            if seen
                .as_ref()
                .is_some_and(|seen| seen[..] != [(*expected).to_owned()])
            {
                wrong.push(format!("while another had said {said}, {look} is {seen:?}"));
            }
        }
        drop(leaver);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        for _ in 0..3 {
            let mut next = pair.client().await;
            let seen = ask(&mut next, &look, &mut wrong).await;
            if seen
                .as_ref()
                .is_some_and(|seen| seen[..] != [(*expected).to_owned()])
            {
                wrong.push(format!(
                    "after another said {said} (refused: {refused}), {look} is {seen:?}"
                ));
            }
        }
    }
    wrong
}

/// What one client holds for its transaction, another cannot have.
async fn a_transaction_is_alone_with_its_lock(pair: &Pair) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut one = pair.client().await;
    let mut other = pair.client().await;
    ask(&mut one, "BEGIN", &mut wrong).await;
    let held = ask(&mut one, "SELECT pg_advisory_xact_lock(12)", &mut wrong).await;
    let got = ask(
        &mut other,
        "SELECT pg_try_advisory_xact_lock(12)",
        &mut wrong,
    )
    .await;
    if held.is_some() && got.is_some_and(|got| got != ["f"]) {
        wrong.push("two clients hold one advisory lock".into());
    }
    ask(&mut one, "ROLLBACK", &mut wrong).await;
    wrong
}

/// The same texts, one after the other, in databases whose rows lie on different shards.
pub async fn two_databases_are_told_apart(pairs: &[Pair]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut clients = Vec::new();
    for pair in pairs {
        let mut watch = pair.watch().await;
        watch.reset().await;
        clients.push(pair.client().await);
    }
    for id in 0..14 {
        for (client, pair) in clients.iter_mut().zip(pairs) {
            let shards = pair.shards;
            let insert = format!("UPDATE users SET name = 'over {shards}' WHERE id = {id}");
            ask(client, &insert, &mut wrong).await;
        }
        for (client, pair) in clients.iter_mut().zip(pairs) {
            let query = format!("SELECT name FROM users WHERE id = {id}");
            let expected = vec![format!("over {}", pair.shards)];
            let seen = ask(client, &query, &mut wrong).await;
            if seen.as_ref() != Some(&expected) {
                wrong.push(format!("over {} shards {query} is {seen:?}", pair.shards));
            }
        }
    }
    wrong
}
