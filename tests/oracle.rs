//! One plain Postgres with the same rows is the oracle: what pgherd answers, it answers as that one does.
//!
//! Statements are put together at random (always the same ones: the seed is fixed). Each runs on both sides. pgherd may refuse with
//! 0A000, which changes nothing on either side; anything else must be equal, errors included.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use pgherd::herd::{Durability, Herd};
use pgherd_tests::TestCluster;
use pgherd_tests::cluster::SHOP;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const STATEMENTS: usize = 3_000;
const SEED: u64 = 0x5851_f42d_4c95_7f2d;

/// What a statement came to: its rows in a form that can be compared, and how many it touched; or an SQLSTATE.
type Outcome = Result<(Vec<String>, u64), String>;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_answered_as_one_postgres_would() {
    let directory = tempfile::tempdir().unwrap();
    let plain = Herd::builder()
        .directory(directory.path())
        .durability(Durability::Fast)
        .start()
        .await
        .unwrap();
    let port = plain.shards()[0].primary().port();
    let url = format!("postgresql://app:app@127.0.0.1:{port}/shop");
    let (oracle, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    oracle.batch_execute(SHOP).await.unwrap();
    let cluster = TestCluster::new()
        .shards(3)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;

    let mut random = Random(SEED);
    let mut answered = 0;
    let mut wrong = Vec::new();
    for _ in 0..STATEMENTS {
        let statement = statement(&mut random);
        let is_ordered = statement.contains("ORDER BY");
        let ours = run(&client, &statement, is_ordered).await;
        if ours.as_ref().is_err_and(|state| state == "0A000") {
            continue;
        }
        answered += 1;
        let theirs = run(&oracle, &statement, is_ordered).await;
        if ours != theirs {
            wrong.push(format!(
                "{statement}\n  pgherd   {ours:?}\n  Postgres {theirs:?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        answered > STATEMENTS / 3,
        "only {answered} of {STATEMENTS} were answered at all"
    );

    for table in ["users", "orders", "settings"] {
        let query = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t");
        let exists = format!("SELECT to_regclass('{table}') IS NOT NULL");
        let mut rows = Vec::new();
        for shard in cluster.herd().shards() {
            if shard.primary().sql(&exists).await.unwrap()[0][0].as_deref() == Some("t") {
                let all = shard
                    .primary()
                    .sql(&query)
                    .await
                    .unwrap()
                    .remove(0)
                    .remove(0);
                rows.extend(
                    all.unwrap()
                        .split(' ')
                        .filter(|r| !r.is_empty())
                        .map(str::to_owned),
                );
            }
        }
        rows.sort();
        let theirs = run(&oracle, &query, true).await.unwrap().0.remove(0);
        let mut expected: Vec<&str> = theirs.split(' ').filter(|r| !r.is_empty()).collect();
        expected.sort_unstable();
        assert_eq!(rows, expected, "{table}");
    }
    let copies = "SELECT coalesce(string_agg(t::text, ' ' ORDER BY code), '') FROM countries t";
    let expected = run(&oracle, copies, true).await.unwrap().0.remove(0);
    let copies = cluster.on_each_primary(copies).await;
    assert!(
        copies.iter().all(|copy| *copy == expected),
        "{copies:?} {expected}"
    );
}

async fn run(client: &Client, statement: &str, is_ordered: bool) -> Outcome {
    let messages = client.simple_query(statement).await.map_err(|error| {
        let code = error.code().map(|code| code.code().to_owned());
        code.unwrap_or_else(|| format!("{error:?}"))
    })?;
    let mut rows = Vec::new();
    let mut touched = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> = (0..row.len())
                    .map(|column| row.get(column).unwrap_or("NULL"))
                    .collect();
                rows.push(values.join("|"));
            }
            SimpleQueryMessage::CommandComplete(count) => touched += count,
            _ => {}
        }
    }
    if !is_ordered {
        rows.sort();
    }
    Ok((rows, touched))
}

/// A generator of numbers that are the same on every machine (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn choose<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).unwrap()]
    }

    fn id(&mut self) -> u64 {
        self.below(40)
    }
}

fn statement(random: &mut Random) -> String {
    match random.below(14) {
        10..=12 => across(random),
        13 => write_across(random),
        0 | 1 => insert(random),
        2 => update(random),
        3 => delete(random),
        4 => other_tables(random),
        _ => select(random),
    }
}

fn insert(random: &mut Random) -> String {
    let (id, other) = (random.id(), random.id());
    let country = random.choose(&["'de'", "'fr'", "NULL"]);
    match random.below(6) {
        0 => format!("INSERT INTO users VALUES ({id}, 'u{other}', {country})"),
        1 => format!(
            "INSERT INTO users (name, id) VALUES ('u{id}', {id}) ON CONFLICT (id) DO NOTHING"
        ),
        2 => format!(
            "INSERT INTO users (id, country) VALUES ({id}, {country}) ON CONFLICT (id) DO UPDATE SET country = excluded.country RETURNING id, name"
        ),
        3 => format!("INSERT INTO users (id) VALUES ({id}), ({other})"),
        4 => format!("INSERT INTO orders VALUES ({id}, {other}, {other}.5) RETURNING *"),
        _ => format!(
            "INSERT INTO orders VALUES ({id}, 1, 1), ({id}, 2, 2), ({id}, {other}, 3) ON CONFLICT DO NOTHING"
        ),
    }
}

fn update(random: &mut Random) -> String {
    let (id, other) = (random.id(), random.id());
    let condition = condition(random, "id", "name");
    match random.below(5) {
        0 => format!("UPDATE users SET name = 'v{other}' WHERE id = {id} RETURNING name"),
        1 => format!("UPDATE users SET id = {other} WHERE id = {id}"),
        2 => format!("UPDATE users SET country = 'de' WHERE {condition}"),
        3 => format!("UPDATE orders SET amount = amount + 1 WHERE user_id = {id} AND id < {other}"),
        _ => format!(
            "UPDATE orders o SET amount = 0 FROM users u WHERE u.id = o.user_id AND u.id = {id} AND u.name = 'u{other}'"
        ),
    }
}

fn delete(random: &mut Random) -> String {
    let (id, other) = (random.id(), random.id());
    match random.below(4) {
        0 => format!("DELETE FROM users WHERE id = {id}"),
        1 => format!("DELETE FROM orders WHERE user_id = {id} AND id = {other} RETURNING amount"),
        2 => format!("DELETE FROM orders WHERE id = {other}"),
        _ => format!("DELETE FROM orders USING users WHERE users.id = user_id AND users.id = {id}"),
    }
}

fn other_tables(random: &mut Random) -> String {
    let id = random.below(8);
    match random.below(7) {
        0 => format!(
            "INSERT INTO settings VALUES ('s{id}', 'x') ON CONFLICT (name) DO UPDATE SET value = settings.value || 'y'"
        ),
        1 => format!("DELETE FROM settings WHERE name = 's{id}'"),
        2 => "SELECT count(*), max(value) FROM settings".to_owned(),
        3 => format!("INSERT INTO countries VALUES ('c{id}', 'n{id}')"),
        4 => format!("UPDATE countries SET name = name || '!' WHERE code = 'c{id}'"),
        5 => format!("DELETE FROM countries WHERE code = 'c{id}'"),
        _ => "SELECT code, name FROM countries ORDER BY code".to_owned(),
    }
}

fn select(random: &mut Random) -> String {
    let joined = random.below(3);
    let (from, id, name) = match joined {
        0 => ("users u".to_owned(), "u.id", "u.name"),
        1 => {
            let join = random.choose(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
            let on = random.choose(&[
                "o.user_id = u.id",
                "o.user_id = u.id AND o.amount > 1",
                "o.id = u.id",
                "u.id = o.user_id OR o.id = 1",
            ]);
            (format!("users u {join} orders o ON {on}"), "u.id", "u.name")
        }
        _ => {
            let join = random.choose(&["JOIN", "LEFT JOIN", "CROSS JOIN"]);
            let on = if join == "CROSS JOIN" {
                ""
            } else {
                " ON c.code = u.country"
            };
            (format!("users u {join} countries c{on}"), "u.id", "c.name")
        }
    };
    let condition = condition(random, id, name);
    let mut text = String::new();
    match random.below(5) {
        0 => write!(text, "SELECT count(*), min({id}), max({name}) FROM {from} WHERE {condition}"),
        1 => write!(text, "SELECT {name}, count(*) FROM {from} WHERE {condition} GROUP BY {name} ORDER BY count(*), {name}"),
        2 => write!(text, "SELECT DISTINCT {name} FROM {from} WHERE {condition}"),
        3 => write!(
            text,
            "SELECT {id}, {name} FROM {from} WHERE {condition} ORDER BY {id}, {name} LIMIT {}",
            random.below(4)
        ),
        _ => write!(text, "SELECT {id}, {name} FROM {from} WHERE {condition}"),
    }
    .unwrap();
    text
}

/// Keys that are proven across lists, subqueries, WITH and VALUES.
fn across(random: &mut Random) -> String {
    let (one, two) = (random.id(), random.id());
    let few = random.choose(&["", " LIMIT 2", " ORDER BY 1 LIMIT 1"]);
    let join = random.choose(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let fixed = condition(random, "id", "name");
    match random.below(16) {
        0 => format!("SELECT * FROM (SELECT * FROM users{few}) u WHERE {fixed}"),
        1 => format!(
            "SELECT u.id, o.id FROM (SELECT id FROM users WHERE id = {one}) u {join} orders o ON o.user_id = u.id"
        ),
        2 => format!(
            "SELECT u.name, n.n FROM users u {join} (SELECT user_id, count(*) AS n FROM orders GROUP BY user_id) n ON n.user_id = u.id WHERE u.id = {one}"
        ),
        3 => format!("WITH u AS (SELECT * FROM users) SELECT * FROM u WHERE {fixed}"),
        4 => format!(
            "WITH u AS (SELECT * FROM users) SELECT a.id, b.id FROM u a {join} u b ON a.id = b.id WHERE a.id = {one}"
        ),
        5 => format!(
            "SELECT u.id, v.x FROM users u {join} (VALUES ({one}, 'a'), ({two}, 'b')) v (id, x) ON v.id = u.id"
        ),
        6 => format!(
            "SELECT u.id, v.x FROM users u {join} (VALUES ({one}, 'a')) v (id, x) ON v.id = u.id WHERE v.x = 'a'"
        ),
        7 => format!("SELECT id FROM users WHERE id = ANY ('{{{one},{one}}}') OR id = {one} + 0"),
        8 => format!(
            "SELECT id FROM users WHERE id = ANY (ARRAY[{one}, {two}]) AND id IN (SELECT user_id FROM orders{few})"
        ),
        9 => {
            format!("SELECT id FROM users WHERE id = {one} AND id IN (SELECT user_id FROM orders)")
        }
        10 => format!(
            "SELECT id FROM users WHERE id = {one} AND id NOT IN (SELECT user_id FROM orders WHERE user_id = {two})"
        ),
        11 => format!(
            "SELECT * FROM (SELECT id FROM users UNION ALL SELECT user_id FROM orders{few}) x WHERE id = {one}"
        ),
        12 => format!(
            "SELECT * FROM (SELECT id FROM users EXCEPT SELECT user_id FROM orders) x WHERE id = {one}"
        ),
        13 => format!(
            "SELECT u.id, (SELECT count(*) FROM orders o WHERE o.user_id = u.id) FROM users u WHERE u.id IN ({one}, {one})"
        ),
        14 => format!(
            "SELECT o.user_id, u.name FROM (SELECT DISTINCT user_id FROM orders) o {join} users u ON u.id = o.user_id WHERE o.user_id = {one}"
        ),
        _ => format!(
            "SELECT id, name FROM users WHERE (id, name) IN (({one}, 'u{two}'), ({one}, 'v{two}')) OR (id = {one} AND name IS NULL)"
        ),
    }
}

fn write_across(random: &mut Random) -> String {
    let (one, two) = (random.id(), random.id());
    match random.below(9) {
        0 => format!(
            "MERGE INTO users u USING (VALUES ({one}, 'm{two}')) v (id, name) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)"
        ),
        1 => format!(
            "MERGE INTO orders o USING (SELECT id FROM users WHERE id = {one}) u ON o.user_id = u.id AND o.id = {two} WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (u.id, {two}, 1)"
        ),
        2 => format!(
            "MERGE INTO users u USING countries c ON u.country = c.code AND u.id = {one} WHEN MATCHED THEN UPDATE SET name = c.name"
        ),
        3 => format!(
            "INSERT INTO orders SELECT id, {two}, 1 FROM users WHERE id = {one} ON CONFLICT DO NOTHING"
        ),
        4 => format!(
            "INSERT INTO orders SELECT v.id, v.n, 2 FROM (VALUES ({one}, {two}), ({one}, 3)) v (id, n) ON CONFLICT DO NOTHING"
        ),
        5 => format!(
            "UPDATE users u SET name = v.name FROM (VALUES ({one}, 'x'), ({one}, 'x')) v (id, name) WHERE u.id = v.id"
        ),
        6 => format!(
            "WITH gone AS (DELETE FROM orders WHERE user_id = {one} AND id = {two} RETURNING *) UPDATE users SET name = 'gone' WHERE id = {one} AND EXISTS (SELECT FROM gone)"
        ),
        7 => {
            format!("INSERT INTO users (id, name) VALUES ({one}.5, 'half') ON CONFLICT DO NOTHING")
        }
        _ => format!("DELETE FROM orders WHERE user_id IN ({one}, {one}) AND id IN ({two}, 3)"),
    }
}

fn condition(random: &mut Random, id: &str, name: &str) -> String {
    let (one, two) = (random.id(), random.id());
    match random.below(16) {
        0..=5 => format!("{id} = {one}"),
        6 => format!("{id} = {one} AND {name} <> 'u{two}'"),
        7 => format!("{id} = {one} OR {id} = {two}"),
        8 => format!("{id} IN ({one}, {two})"),
        9 => format!("{id} = {one} AND {id} = {two}"),
        10 => format!("NOT {id} = {one}"),
        11 => format!("{id} = '{one}' AND ({name} IS NULL OR {name} LIKE 'u%')"),
        12 => format!("{id} = {one}::int AND {id} BETWEEN 0 AND {two}"),
        13 => format!("{one} = {id}"),
        14 => format!("({id}, {name}) = ({one}, 'u{two}')"),
        _ => format!("{id} IN (SELECT user_id FROM orders WHERE user_id = {one})"),
    }
}
