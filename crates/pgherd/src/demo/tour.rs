//! A few telling statements: where each went, and how long it took.
//!
//! Main function: [`run`].

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use super::DemoError;
use super::endpoint::Endpoint;

/// How often reads are run before they are measured: often enough to meet every replica.
const WARMING_ROUNDS: usize = 4;

/// What is shown, and the statement.
const STOPS: [(&str, &str); 9] = [
    (
        "one user, by the sharding key",
        "SELECT name FROM users WHERE id = 42",
    ),
    (
        "another user, perhaps elsewhere",
        "SELECT name FROM users WHERE id = 4711",
    ),
    (
        "a join with the orders that lie with the user",
        "SELECT u.name, count(*), sum(o.amount) FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 42 GROUP BY u.name",
    ),
    (
        "a join with a reference table, of which every shard has a copy",
        "SELECT u.name, c.name FROM users u JOIN countries c ON c.code = u.country WHERE u.id = 42",
    ),
    (
        "a write goes to the primary; the order's number is the shard's own",
        "INSERT INTO orders (user_id, amount) VALUES (42, 19.90) RETURNING id",
    ),
    (
        "and is read back at once: on a replica that has it already, else on the primary",
        "SELECT count(*) FROM orders WHERE user_id = 42",
    ),
    (
        "a table named nowhere lives on the home shard",
        "SELECT value FROM settings WHERE name = 'currency'",
    ),
    (
        "a write to a reference table reaches all shards or none",
        "UPDATE countries SET name = 'Aotearoa New Zealand' WHERE code = 'NZ'",
    ),
    (
        "what no shard can answer alone is refused, not answered wrongly",
        "SELECT country, count(*) FROM users GROUP BY country",
    ),
];

/// Runs the statements on one connection and prints what came of each.
pub(super) async fn run(endpoint: &Endpoint) -> Result<(), DemoError> {
    let client = endpoint
        .connect()
        .await
        .map_err(DemoError::client("connecting"))?;
    println!("\nWhere statements go, by EXPLAIN (ROUTE), and how long they take");
    // the first to come to a server waits for a connection to it: shown are the times after that
    for (_, statement) in STOPS.iter().filter(|(_, text)| text.starts_with("SELECT")) {
        for _ in 0..WARMING_ROUNDS {
            // those that are refused are shown below
            let _ = client.simple_query(statement).await;
        }
    }
    for (number, (what, statement)) in STOPS.iter().enumerate() {
        let stop = visit(&client, statement).await?;
        println!("\n{:>2}. {what}\n    {statement}\n    {stop}", number + 1);
    }
    Ok(())
}

/// Asks where a statement goes, then runs it; in one line.
async fn visit(client: &Client, statement: &str) -> Result<String, DemoError> {
    let failed = || DemoError::client(format!("EXPLAIN (ROUTE) {statement}"));
    let route = match client
        .simple_query(&format!("EXPLAIN (ROUTE) {statement}"))
        .await
    {
        Ok(messages) => route_in(&messages),
        Err(error) => return refusal(&error).ok_or_else(|| failed()(error)),
    };
    let begun = Instant::now();
    match client.simple_query(statement).await {
        Ok(messages) => Ok(format!(
            "-> {route}   {}   {}",
            milliseconds(begun.elapsed()),
            result_in(&messages)
        )),
        Err(error) => refusal(&error).ok_or_else(|| failed()(error)),
    }
}

/// An answer of the proxy that it does not run this; `None` for any other error.
fn refusal(error: &tokio_postgres::Error) -> Option<String> {
    let answer = error.as_db_error()?;
    if answer.code().code() != "0A000" {
        return None;
    }
    let hint = answer
        .hint()
        .map(|hint| format!("\n       hint: {hint}"))
        .unwrap_or_default();
    Some(format!("-> refused: {}{hint}", answer.message()))
}

/// The lines of an explanation that say where: `Shard: s1` and `Role: replica (now s1b)`.
fn route_in(messages: &[SimpleQueryMessage]) -> String {
    let said: Vec<&str> = rows(messages)
        .filter_map(|row| row.get(0))
        .filter_map(|line| {
            let (label, text) = line.split_once(": ")?;
            ["Shard", "Shards", "Role"].contains(&label).then_some(text)
        })
        .collect();
    said.join(", ")
}

/// The first row, or how many rows were touched.
fn result_in(messages: &[SimpleQueryMessage]) -> String {
    if let Some(row) = rows(messages).next() {
        let values: Vec<&str> = (0..row.len())
            .map(|column| row.get(column).unwrap_or("NULL"))
            .collect();
        return values.join(" | ");
    }
    let touched = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(count) => Some(*count),
        _ => None,
    });
    format!("{} row(s)", touched.unwrap_or(0))
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &tokio_postgres::SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
