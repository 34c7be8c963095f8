//! One plan, many executions: the same key leads to the same shard however it is sent.

#![allow(clippy::unwrap_used)]

mod support;

use pgherd_router::{
    Destination, Overrides, ParameterFormat, Planned, Planner, Rejection, Resolved, ValueEncoding,
    Values,
};
use pgherd_topology::{KeyInput, KeyType, RelationName, ShardId, Sharding};
use support::Parameters;

/// 7 as an int4.
const SEVEN: [u8; 4] = 7_i32.to_be_bytes();

struct Execution<'a> {
    sql: &'a str,
    types: &'a [u32],
    parameters: Vec<(ParameterFormat, Option<&'a [u8]>)>,
    encoding: ValueEncoding,
    overrides: Overrides,
}

impl<'a> Execution<'a> {
    fn of(sql: &'a str) -> Self {
        Self {
            sql,
            types: &[],
            parameters: Vec::new(),
            encoding: ValueEncoding::SameAsServer,
            overrides: Overrides::default(),
        }
    }

    fn text(mut self, value: &'a str) -> Self {
        self.parameters
            .push((ParameterFormat::Text, Some(value.as_bytes())));
        self
    }

    fn binary(mut self, value: &'a [u8]) -> Self {
        self.parameters.push((ParameterFormat::Binary, Some(value)));
        self
    }

    fn null(mut self) -> Self {
        self.parameters.push((ParameterFormat::Text, None));
        self
    }

    fn types(self, types: &'a [u32]) -> Self {
        Self { types, ..self }
    }

    fn converted(self) -> Self {
        Self {
            encoding: ValueEncoding::Converted,
            ..self
        }
    }

    fn named(self, shard: u16, unchecked: bool) -> Self {
        let overrides = Overrides {
            shard: Some(ShardId(shard)),
            unchecked,
        };
        Self { overrides, ..self }
    }

    fn run(self) -> Result<Resolved, Rejection> {
        let sharding = support::sharding();
        self.run_on(&sharding)
    }

    fn run_on(self, sharding: &Sharding) -> Result<Resolved, Rejection> {
        let planned = self.plan(sharding)?;
        let parameters = Parameters(self.parameters.clone());
        let values = self.values(&planned, &parameters);
        planned.plan.statements[0].resolve(&values, sharding, self.overrides)
    }

    fn plan(&self, sharding: &Sharding) -> Result<Planned, Rejection> {
        let catalog = support::catalog();
        let path = ["public".into()];
        let mut context = support::context(&catalog, sharding, &path, self.types);
        context.named_shard = self.overrides.shard.is_some();
        Planner::new(4).plan(self.sql.as_bytes(), &context)
    }

    fn values<'v>(&self, planned: &'v Planned, parameters: &'v Parameters<'v>) -> Values<'v>
    where
        'a: 'v,
    {
        Values {
            sql: self.sql.as_bytes(),
            literals: &planned.literals,
            parameters: Some(parameters),
            encoding: self.encoding,
        }
    }
}

fn owner(table: &str, key: &[KeyInput<'_>]) -> ShardId {
    let sharding = support::sharding();
    let rule = sharding
        .tables()
        .find(|rule| rule.table == RelationName::new("public", table))
        .unwrap();
    sharding.locate(rule, key).unwrap().shard
}

fn user(id: i64) -> ShardId {
    owner(
        "users",
        &[KeyInput::Text(KeyType::Int8, id.to_string().as_bytes())],
    )
}

/// Two ids of one shard, and one of another.
fn ids() -> (i64, i64, i64) {
    let one = 1;
    let same = (2..).find(|id| user(*id) == user(one)).unwrap();
    let other = (2..).find(|id| user(*id) != user(one)).unwrap();
    (one, same, other)
}

#[test]
fn a_key_leads_to_one_shard_however_it_is_written() {
    for id in [0, 1, 7, -7, 42, i64::MAX, i64::MIN, i64::from(i32::MIN)] {
        let expected = Destination::Shard(user(id));
        let sql = format!("SELECT * FROM users WHERE id = {id}");
        assert_eq!(
            Execution::of(&sql).run().unwrap().destination,
            expected,
            "{sql}"
        );
        let sql = format!("SELECT * FROM users WHERE id = '{id}'");
        assert_eq!(
            Execution::of(&sql).run().unwrap().destination,
            expected,
            "{sql}"
        );
        let sql = "SELECT * FROM users WHERE id = $1";
        let (text, bytes) = (id.to_string(), id.to_be_bytes());
        let resolved = Execution::of(sql).text(&text).run().unwrap();
        assert_eq!(resolved.destination, expected, "{id} as text");
        assert!(resolved.bucket.is_some());
        let resolved = Execution::of(sql).binary(&bytes).run().unwrap();
        assert_eq!(resolved.destination, expected, "{id} in binary");
        let sql = "INSERT INTO users (id) VALUES ($1)";
        let resolved = Execution::of(sql).binary(&bytes).run().unwrap();
        assert_eq!(resolved.destination, expected, "{id} inserted");
    }
}

#[test]
fn a_binary_parameter_is_read_as_its_declared_type() {
    let sql = "SELECT * FROM users WHERE id = $1";
    let resolved = Execution::of(sql).types(&[support::INT4]).binary(&SEVEN);
    assert_eq!(
        resolved.run().unwrap().destination,
        Destination::Shard(user(7))
    );
    let wrong = Execution::of(sql).types(&[support::INT8]).binary(&SEVEN);
    assert!(wrong.run().is_err());
}

#[test]
fn keys_must_meet_on_one_shard_at_every_execution() {
    let (one, same, other) = ids();
    let insert = "INSERT INTO users (id) VALUES ($1), ($2)";
    let (one, same, other) = (one.to_string(), same.to_string(), other.to_string());
    let together = Execution::of(insert).text(&one).text(&same).run().unwrap();
    assert_eq!(together.destination, Destination::Shard(user(1)));
    let apart = Execution::of(insert)
        .text(&one)
        .text(&other)
        .run()
        .unwrap_err();
    assert_eq!(apart.code.as_str(), "0A000");
    let detail = apart.detail.unwrap();
    assert!(detail.contains("\"s"), "{detail}");
    let union = format!(
        "SELECT * FROM users WHERE id = {one} UNION SELECT * FROM users WHERE id = {other}"
    );
    assert!(Execution::of(&union).run().is_err());
}

#[test]
fn a_parameter_that_is_null_finds_nothing_and_is_never_stored() {
    let found = Execution::of("SELECT * FROM users WHERE id = $1")
        .null()
        .run();
    assert!(matches!(found.unwrap().destination, Destination::Shard(_)));
    let stored = Execution::of("INSERT INTO users (id) VALUES ($1)")
        .null()
        .run();
    assert!(stored.unwrap_err().message.contains("NULL"));
}

#[test]
fn a_list_rule_refuses_what_no_shard_owns() {
    let sql = |region: &str| format!("SELECT * FROM invoices WHERE region = '{region}'");
    let eu = sql("eu");
    assert_eq!(
        Execution::of(&eu).run().unwrap().destination,
        Destination::Shard(ShardId(0))
    );
    let us = sql("us");
    assert_eq!(
        Execution::of(&us).run().unwrap().destination,
        Destination::Shard(ShardId(2))
    );
    let mars = sql("mars");
    assert!(Execution::of(&mars).run().is_err());
    // nothing equals NULL: any shard finds no row
    let null = Execution::of("SELECT * FROM invoices WHERE region = $1").null();
    assert!(null.run().is_ok());
}

#[test]
fn composite_keys_take_each_column_in_its_place() {
    let expected = owner(
        "metrics",
        &[
            KeyInput::Text(KeyType::Int4, b"3"),
            KeyInput::Text(KeyType::Date, b"2026-01-02"),
        ],
    );
    for sql in [
        "SELECT * FROM metrics WHERE tenant = 3 AND day = '2026-01-02'",
        "SELECT * FROM metrics WHERE day = date '2026-01-02' AND tenant = '3'",
        "INSERT INTO metrics (day, value, tenant) VALUES ('2026-01-02', 1, 3)",
    ] {
        let resolved = Execution::of(sql).run().unwrap();
        assert_eq!(resolved.destination, Destination::Shard(expected), "{sql}");
    }
}

#[test]
fn a_value_that_is_stored_as_another_is_refused() {
    assert!(
        Execution::of("INSERT INTO codes (code) VALUES ('abcde')")
            .run()
            .is_ok()
    );
    assert!(
        Execution::of("INSERT INTO codes (code) VALUES ('abcdef')")
            .run()
            .is_err()
    );
    // blanks beyond the column's length are cut off
    let stored = |sql| Execution::of(sql).run().unwrap().bucket;
    assert_eq!(
        stored("INSERT INTO codes (code) VALUES ('abcde  ')"),
        stored("INSERT INTO codes (code) VALUES ('abcde')")
    );
    // but it may be looked for: no row has it
    assert!(
        Execution::of("SELECT * FROM codes WHERE code = 'abcdefgh'")
            .run()
            .is_ok()
    );
}

#[test]
fn values_whose_meaning_is_uncertain_are_refused() {
    for sql in [
        "SELECT * FROM users WHERE id = 99999999999999999999",
        "SELECT * FROM users WHERE id = 'seven'",
        "SELECT * FROM users WHERE id = '0x10'",
        r"SELECT * FROM invoices WHERE region = E'\x65u'",
        r"SELECT * FROM invoices WHERE region = U&'\0065u'",
        "SELECT * FROM metrics WHERE tenant = 3 AND day = '1/2/2026'",
        "SELECT * FROM metrics WHERE tenant = 3 AND day = 'today'",
        "SELECT * FROM moments WHERE at = '2026-01-02 03:04:05'",
    ] {
        assert!(Execution::of(sql).run().is_err(), "{sql}");
    }
    let missing = Execution::of("SELECT * FROM users WHERE id = $1").run();
    assert_eq!(missing.unwrap_err().code.as_str(), "42P02");
}

#[test]
fn another_encoding_forbids_keys_beyond_ascii() {
    let list = "SELECT * FROM codes WHERE code = $1";
    assert!(Execution::of(list).text("é").run().is_ok());
    assert!(Execution::of(list).text("é").converted().run().is_err());
    assert!(Execution::of(list).text("e").converted().run().is_ok());
}

#[test]
fn a_named_shard_takes_only_rows_that_are_its_own() {
    let (one, _, other) = ids();
    let insert = format!("INSERT INTO users (id) VALUES ({one})");
    let home = user(one);
    let elsewhere = user(other);
    let right = Execution::of(&insert).named(home.0, false).run().unwrap();
    assert_eq!(right.destination, Destination::Shard(home));
    let wrong = Execution::of(&insert).named(elsewhere.0, false).run();
    assert!(wrong.unwrap_err().message.contains("does not belong"));
    let forced = Execution::of(&insert)
        .named(elsewhere.0, true)
        .run()
        .unwrap();
    assert_eq!(forced.destination, Destination::Shard(elsewhere));
    let unlisted = Execution::of("INSERT INTO settings VALUES ('a', 'b')").named(1, false);
    assert!(unlisted.run().is_err());
    let moved = Execution::of("UPDATE users SET id = 8 WHERE id = 7").named(1, false);
    assert!(
        moved
            .run()
            .unwrap_err()
            .message
            .contains("cannot be updated")
    );
    let read = Execution::of("SELECT * FROM users")
        .named(1, false)
        .run()
        .unwrap();
    assert_eq!(read.destination, Destination::Shard(ShardId(1)));
}

#[test]
fn the_clock_is_not_read_by_each_copy_of_a_reference_table() {
    let sql = "INSERT INTO countries (code, since, seq) VALUES ($1, $2, 1)";
    let fixed = Execution::of(sql).text("de").text("2026-01-02");
    assert_eq!(fixed.run().unwrap().destination, Destination::All);
    let clock = Execution::of(sql).text("de").text(" NOW");
    assert!(clock.run().unwrap_err().detail.unwrap().contains("now"));
    let literal = "UPDATE countries SET since = 'tomorrow'";
    assert!(Execution::of(literal).run().is_err());
    let no_times = "UPDATE currencies SET name = 'now'";
    assert!(Execution::of(no_times).run().is_ok());
}

#[test]
fn the_key_is_explained_in_words() {
    let sharding = support::sharding();
    let execution =
        Execution::of("SELECT * FROM orders WHERE user_id = $1").binary(&[0, 0, 0, 0, 0, 0, 0, 9]);
    let planned = execution.plan(&sharding).unwrap();
    let parameters = Parameters(execution.parameters.clone());
    let values = execution.values(&planned, &parameters);
    let explained = planned.plan.statements[0]
        .explain_keys(&values, &sharding)
        .unwrap();
    assert_eq!(explained.len(), 1);
    assert_eq!(explained[0].key, "public.orders (user_id)");
    assert_eq!(explained[0].value, "9");
    assert_eq!(explained[0].shard, user(9));
}

#[test]
fn every_element_of_a_list_must_live_on_one_shard() {
    let (one, same, other) = ids();
    let here = Destination::Shard(user(one));
    for (sql, meets) in [
        (
            format!("SELECT * FROM users WHERE id IN ({one}, {same})"),
            true,
        ),
        (
            format!("SELECT * FROM users WHERE id IN ({one}, {same}, {other})"),
            false,
        ),
        (
            format!("SELECT * FROM users WHERE id = ANY ('{{{one}, {same}}}')"),
            true,
        ),
        (
            format!("SELECT * FROM users WHERE id = ANY ('{{{one}, {other}}}')"),
            false,
        ),
        (
            format!("SELECT * FROM users WHERE id = ANY ('{{{one}, NULL}}')"),
            true,
        ),
        (
            format!("SELECT * FROM users WHERE id = {one} OR id = {same}"),
            true,
        ),
        (
            format!("SELECT * FROM users WHERE id = {one} OR id = {other}"),
            false,
        ),
        (
            format!("INSERT INTO users (id, name) VALUES ({one}, 'a'), ({same}, 'b')"),
            true,
        ),
        (
            format!("INSERT INTO users (id, name) VALUES ({one}, 'a'), ({other}, 'b')"),
            false,
        ),
        (
            format!("INSERT INTO users (id, name) VALUES ({one}, 'a'), ({same}, NULL)"),
            true,
        ),
        (
            format!("SELECT * FROM users u JOIN (VALUES ({one}), ({other})) v (id) USING (id)"),
            false,
        ),
        (
            format!("SELECT * FROM users WHERE id = {} + 1", one - 1),
            true,
        ),
    ] {
        let resolved = Execution::of(&sql).run();
        match (resolved, meets) {
            (Ok(resolved), true) => assert_eq!(resolved.destination, here, "{sql}"),
            (Err(rejection), false) => assert_eq!(rejection.code.as_str(), "0A000", "{sql}"),
            (resolved, _) => panic!("{sql}: {resolved:?}"),
        }
    }
}

#[test]
fn every_element_of_an_array_parameter_must_live_on_one_shard() {
    let (one, same, other) = ids();
    let sql = "SELECT * FROM users WHERE id = ANY ($1)";
    let here = Destination::Shard(user(one));
    let array = |oid: u32, elements: &[i64]| {
        let mut bytes = Vec::new();
        let count = i32::try_from(elements.len()).unwrap();
        for number in [1, 0, oid.cast_signed(), count, 1] {
            bytes.extend_from_slice(&i32::to_be_bytes(number));
        }
        for element in elements {
            bytes.extend_from_slice(&8_i32.to_be_bytes());
            bytes.extend_from_slice(&element.to_be_bytes());
        }
        bytes
    };
    let together = format!("{{{one},{same}}}");
    let resolved = Execution::of(sql).text(&together).run().unwrap();
    assert_eq!(resolved.destination, here);
    let apart = format!("{{{one},{other}}}");
    assert!(Execution::of(sql).text(&apart).run().is_err());
    let resolved = Execution::of(sql).binary(&array(20, &[one, same])).run();
    assert_eq!(resolved.unwrap().destination, here);
    assert!(
        Execution::of(sql)
            .binary(&array(20, &[one, other]))
            .run()
            .is_err()
    );
    // its elements are of the type that it says, and of no other family
    assert!(
        Execution::of(sql)
            .binary(&array(701, &[one, same]))
            .run()
            .is_err()
    );
    // nothing is found by these, on any shard
    for empty in ["{}", "{NULL}"] {
        assert!(Execution::of(sql).text(empty).run().is_ok(), "{empty}");
    }
    assert!(Execution::of(sql).null().run().is_ok());
    for unread in ["{{1},{2}}", "[1:1]={1}", "1", "{a}"] {
        assert!(Execution::of(sql).text(unread).run().is_err(), "{unread}");
    }
}

#[test]
fn rows_of_a_composite_key_go_by_row_and_other_lists_in_every_way() {
    let key = |tenant: &str, day: &str| {
        owner(
            "metrics",
            &[
                KeyInput::Text(KeyType::Int4, tenant.as_bytes()),
                KeyInput::Text(KeyType::Date, day.as_bytes()),
            ],
        )
    };
    let days: Vec<String> = (10..28).map(|day| format!("2026-01-{day}")).collect();
    let first = key("1", &days[0]);
    let second = days.iter().find(|day| key("2", day) == first).unwrap();
    let sql = format!(
        "INSERT INTO metrics (tenant, day) VALUES (1, '{}'), (2, '{second}')",
        days[0]
    );
    let resolved = Execution::of(&sql).run().unwrap();
    assert_eq!(resolved.destination, Destination::Shard(first));
    let crossed = [key("1", second), key("2", &days[0])];
    let sql = format!(
        "SELECT * FROM metrics WHERE tenant IN (1, 2) AND day IN ('{}', '{second}')",
        days[0]
    );
    let all_meet = crossed.iter().all(|shard| *shard == first);
    assert_eq!(Execution::of(&sql).run().is_ok(), all_meet);
}

#[test]
fn a_key_is_hashed_as_it_is_stored() {
    let bucket = |sql: &str| Execution::of(sql).run().unwrap().bucket.unwrap();
    for (given, stored) in [
        ("7.6", 8),
        ("2.5", 3),
        ("-2.5", -3),
        ("2.5::float8", 2),
        ("1e3", 1000),
    ] {
        let sql = format!("INSERT INTO users (id) VALUES ({given})");
        let plain = format!("INSERT INTO users (id) VALUES ({stored})");
        assert_eq!(bucket(&sql), bucket(&plain), "{given}");
    }
    let numeric = Execution::of("INSERT INTO users (id) VALUES ($1)")
        .types(&[support::NUMERIC])
        .text("7.6");
    assert_eq!(
        numeric.run().unwrap().bucket.unwrap(),
        bucket("INSERT INTO users (id) VALUES (8)")
    );
    let integer = Execution::of("INSERT INTO ledger (amount) VALUES ($1)")
        .types(&[support::INT4])
        .binary(&SEVEN);
    assert_eq!(
        integer.run().unwrap().bucket.unwrap(),
        bucket("INSERT INTO ledger (amount) VALUES (7.0)")
    );
    assert!(
        Execution::of("INSERT INTO metrics (tenant, day) VALUES (2147483647.5, '2026-01-02')")
            .run()
            .is_err()
    );
}
