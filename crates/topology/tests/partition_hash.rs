//! Postgres is the oracle: what is accepted here it accepts as well, under every setting, and
//! `satisfies_hash_partition` names the same bucket.
#![allow(clippy::unwrap_used)]

mod server;
mod values;

use std::error::Error;

use pgherd_topology::{
    Catalog, KeyInput, KeyType, KeyValue, RelationName, ShardId, ShardMap, Sharding, TableRule,
    Volatility, bucket_of, combine_hashes, quote_identifier,
};
use server::Server;
use tokio_postgres::Client;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// Numbers of buckets, in turn.
const BUCKETS: [u16; 6] = [4096, 1, 7, 1000, 4093, u16::MAX];

/// Settings that change how input is read; a key must mean the same under each.
const SETTINGS: [&str; 4] = [
    "SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'",
    "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'America/New_York'; SET bytea_output = 'escape'",
    "SET DateStyle = 'German, YMD'; SET TimeZone = 'Asia/Kathmandu'; SET standard_conforming_strings = off",
    "SET DateStyle = 'Postgres, MDY'; SET TimeZone = '-13:30'; SET timezone_abbreviations = 'India'",
];

/// A parameter whose binary form is made here.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The type's name in a cast.
fn sql_name(key_type: KeyType) -> &'static str {
    match key_type {
        // `character` alone would be character(1)
        KeyType::Bpchar => "bpchar",
        other => other.name(),
    }
}

async fn create_tables(client: &Client) {
    for key_type in KeyType::ALL {
        let (table, column) = (table_of(key_type), sql_name(key_type));
        let create = format!("CREATE TABLE {table} (k {column}) PARTITION BY HASH (k)");
        client.batch_execute(&create).await.unwrap();
    }
}

fn table_of(key_type: KeyType) -> String {
    format!("by_{key_type:?}").to_lowercase()
}

fn bucket(hash: u64, index: usize) -> (i32, i32) {
    let buckets = BUCKETS[index % BUCKETS.len()];
    let bucket = bucket_of(combine_hashes([Some(hash)]), buckets);
    (i32::from(buckets), i32::from(bucket.0))
}

/// Numbers of values for which the server names another bucket, given an expression for the value.
async fn mismatches(
    client: &Client,
    key_type: KeyType,
    expression: &str,
    values: &(dyn ToSql + Sync),
    hashes: &[u64],
) -> Vec<i64> {
    let buckets = hashes
        .iter()
        .enumerate()
        .map(|(index, hash)| bucket(*hash, index));
    let (moduli, remainders): (Vec<i32>, Vec<i32>) = buckets.unzip();
    let query = format!(
        "SELECT n FROM unnest({expression}, $2::int[], $3::int[]) WITH ORDINALITY AS u (v, m, r, n)
         WHERE satisfies_hash_partition('{}'::regclass, m, r, v::{}) IS NOT TRUE",
        table_of(key_type),
        sql_name(key_type),
    );
    let rows = client.query(&query, &[values, &moduli, &remainders]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{key_type}: {error:?}"));
    rows.iter().map(|row| row.get::<_, i64>(0) - 1).collect()
}

#[tokio::test]
async fn every_accepted_text_lies_in_the_bucket_that_postgres_names() {
    let server = Server::start().await;
    let client = server.connect().await;
    create_tables(&client).await;
    for key_type in KeyType::ALL {
        let (texts, hashes): (Vec<String>, Vec<u64>) = values::texts(key_type)
            .into_iter()
            .filter_map(|text| {
                let hash = key_type.hash_text(text.as_bytes()).ok()?;
                Some((text, hash))
            })
            .unzip();
        let least = if key_type == KeyType::Boolean {
            20
        } else {
            2000
        };
        assert!(
            texts.len() >= least,
            "{key_type}: only {} accepted",
            texts.len()
        );
        for settings in SETTINGS {
            client.batch_execute(settings).await.unwrap();
            let wrong = mismatches(&client, key_type, "$1::text[]", &texts, &hashes).await;
            let wrong: Vec<&String> = wrong.iter().map(|&n| &texts[n as usize]).collect();
            assert!(wrong.is_empty(), "{key_type} under {settings}: {wrong:?}");
        }
        client.batch_execute("RESET ALL").await.unwrap();
    }
}

#[tokio::test]
async fn every_accepted_binary_value_lies_in_the_bucket_that_postgres_names() {
    let server = Server::start().await;
    let client = server.connect().await;
    create_tables(&client).await;
    for key_type in KeyType::ALL {
        let (raw, hashes): (Vec<Raw>, Vec<u64>) = values::binaries(key_type)
            .into_iter()
            .filter_map(|bytes| {
                let hash = key_type.hash_binary(&bytes).ok()?;
                Some((Raw(bytes), hash))
            })
            .unzip();
        let least = if key_type == KeyType::Boolean {
            200
        } else {
            2000
        };
        assert!(
            raw.len() >= least,
            "{key_type}: only {} accepted",
            raw.len()
        );
        let array = format!("$1::{}[]", sql_name(key_type));
        let wrong = mismatches(&client, key_type, &array, &raw, &hashes).await;
        let wrong: Vec<&Raw> = wrong.iter().map(|&n| &raw[n as usize]).collect();
        assert!(wrong.is_empty(), "{key_type}: {wrong:?}");
    }
}

#[tokio::test]
async fn text_and_the_binary_form_that_the_server_sends_for_it_are_one_value() {
    let server = Server::start().await;
    let client = server.connect().await;
    for key_type in KeyType::ALL {
        let texts: Vec<String> = values::texts(key_type)
            .into_iter()
            .filter(|text| key_type.value_from_text(text.as_bytes()).is_ok())
            .collect();
        let send = match key_type {
            KeyType::Boolean => "boolsend".to_owned(),
            KeyType::Timestamptz => "timestamptz_send".to_owned(),
            KeyType::Timestamp => "timestamp_send".to_owned(),
            KeyType::Date | KeyType::Numeric | KeyType::Uuid => format!("{}_send", key_type.name()),
            other => format!("{other:?}send").to_lowercase(),
        };
        let query = format!(
            "SELECT {send}(v::{}) FROM unnest($1::text[]) AS v",
            sql_name(key_type)
        );
        let rows = client.query(&query, &[&texts]).await.unwrap();
        for (text, row) in texts.iter().zip(&rows) {
            let binary: &[u8] = row.get(0);
            assert_eq!(
                key_type.value_from_text(text.as_bytes()),
                key_type.value_from_binary(binary),
                "{key_type} {text:?}"
            );
        }
    }
}

#[tokio::test]
async fn values_are_ordered_as_postgres_orders_them() {
    let server = Server::start().await;
    let client = server.connect().await;
    for key_type in KeyType::ALL {
        let texts: Vec<String> = values::texts(key_type)
            .into_iter()
            .filter(|text| key_type.value_from_text(text.as_bytes()).is_ok())
            .collect();
        let collate = match key_type {
            KeyType::Text | KeyType::Varchar | KeyType::Bpchar => "COLLATE \"C\"",
            _ => "",
        };
        let query = format!(
            "SELECT v FROM unnest($1::text[]) AS v ORDER BY v::{} {collate}",
            sql_name(key_type)
        );
        let rows = client.query(&query, &[&texts]).await.unwrap();
        let sorted: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let value = |text: &&str| {
            key_type
                .value_from_text(text.as_bytes())
                .unwrap()
                .into_owned()
        };
        let values: Vec<KeyValue<'_>> = sorted.iter().map(value).collect();
        let wrong = values.windows(2).position(|pair| pair[0] > pair[1]);
        assert!(
            wrong.is_none(),
            "{key_type}: {:?}",
            &sorted[wrong.unwrap()..wrong.unwrap() + 2]
        );
    }
}

#[tokio::test]
async fn composite_keys_lie_where_postgres_says_and_nulls_do_not_count() {
    let server = Server::start().await;
    let client = server.connect().await;
    client
        .batch_execute(
            "CREATE TABLE orders (a int8, b text, c uuid, d numeric) PARTITION BY HASH (a, b, c, d)",
        )
        .await
        .unwrap();
    let types = [
        KeyType::Int8,
        KeyType::Text,
        KeyType::Uuid,
        KeyType::Numeric,
    ];
    let columns = types.map(|key_type| {
        let mut texts = values::texts(key_type);
        texts.retain(|text| key_type.value_from_text(text.as_bytes()).is_ok());
        texts
    });
    let map = ShardMap::single(ShardId(0), 4096).unwrap();
    let rule = TableRule::hash(RelationName::new("public", "orders"), ["a", "b", "c", "d"]);
    let sharding = Sharding::builder(["s0"])
        .map(map.into())
        .table(rule.clone())
        .build()
        .unwrap();

    let mut parameters: [Vec<Option<&str>>; 4] = Default::default();
    let mut remainders = Vec::new();
    for row in 0..2000 {
        let mut key = [KeyInput::Null; 4];
        for column in 0..4 {
            let text = columns[column][row * (7 + column) % columns[column].len()].as_str();
            // every combination of NULLs comes up
            let text = (row >> column & 1 == 0 || row % 3 == 0).then_some(text);
            parameters[column].push(text);
            if let Some(text) = text {
                key[column] = KeyInput::Text(types[column], text.as_bytes());
            }
        }
        let location = sharding.locate(&rule, &key).unwrap();
        remainders.push(i32::from(location.bucket.unwrap().0));
    }
    let query =
        "SELECT count(*) FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[])
        AS u (a, b, c, d, r) WHERE satisfies_hash_partition('orders'::regclass, 4096, r,
        a::int8, b, c::uuid, d::numeric)";
    let [a, b, c, d] = &parameters;
    let row = client
        .query_one(query, &[a, b, c, d, &remainders])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 2000);
}

#[tokio::test]
async fn a_value_that_fits_its_column_is_stored_as_it_is() {
    let server = Server::start().await;
    let client = server.connect().await;
    let mut changed = 0;
    for (key_type, column) in [
        (KeyType::Varchar, "varchar(3)"),
        (KeyType::Bpchar, "char(3)"),
        (KeyType::Numeric, "numeric(5, 2)"),
        (KeyType::Numeric, "numeric(12)"),
        (KeyType::Timestamp, "timestamp(0)"),
        (KeyType::Timestamp, "timestamp(3)"),
        (KeyType::Timestamptz, "timestamptz(4)"),
    ] {
        let create = format!("DROP TABLE IF EXISTS t; CREATE TABLE t (k {column})");
        client.batch_execute(&create).await.unwrap();
        let modifier =
            "SELECT atttypmod FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'k'";
        let modifier: i32 = client.query_one(modifier, &[]).await.unwrap().get(0);
        let insert = format!(
            "INSERT INTO t VALUES ($1::text::{}) RETURNING k::text",
            sql_name(key_type)
        );
        for text in values::texts(key_type).iter().step_by(11) {
            let Ok(value) = key_type.value_from_text(text.as_bytes()) else {
                continue;
            };
            if value.fits(modifier).is_err() {
                changed += 1;
                continue;
            }
            let row = client.query_one(&insert, &[text]).await;
            let row = row.unwrap_or_else(|error| panic!("{column} {text:?}: {error:?}"));
            let stored: &str = row.get(0);
            // timestamptz prints with the offset of TimeZone, which is numeric under ISO
            let stored = key_type.value_from_text(stored.as_bytes()).unwrap();
            assert_eq!(stored, value, "{column} {text:?}");
        }
    }
    assert!(changed > 100, "only {changed} values did not fit");
}

#[tokio::test]
async fn every_reserved_word_is_quoted() {
    let server = Server::start().await;
    let client = server.connect().await;
    let query = "SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'";
    for row in client.query(query, &[]).await.unwrap() {
        let word: &str = row.get(0);
        assert_eq!(quote_identifier(word), format!("\"{word}\""));
    }
    let names = ["a", "A", "a b", "a\"b", "", "1", "a1", "_x", "größe", "a$"];
    for name in names {
        let row = client
            .query_one("SELECT quote_ident($1)", &[&name])
            .await
            .unwrap();
        assert_eq!(quote_identifier(name), row.get::<_, &str>(0));
    }
}

#[tokio::test]
async fn the_builtins_for_tests_without_a_server_are_as_a_server_has_them() {
    let server = Server::start().await;
    let client = server.connect().await;
    let catalog = Catalog::builder().with_builtins().build();
    let query =
        "SELECT proname::text, max(CASE provolatile WHEN 'i' THEN 0 WHEN 's' THEN 1 ELSE 2 END)
        FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1";
    let mut known = 0;
    for row in client.query(query, &[]).await.unwrap() {
        let (name, worst): (&str, i32) = (row.get(0), row.get(1));
        if let Some(volatility) = catalog.function_volatility(None, name, &[]) {
            let worst = [
                Volatility::Immutable,
                Volatility::Stable,
                Volatility::Volatile,
            ][worst as usize];
            assert_eq!(volatility, worst, "{name}");
            known += 1;
        }
    }
    assert_eq!(known, 49);
    for entry in catalog.types() {
        let query = "SELECT oid FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typname = $1";
        let row = client
            .query_one(query, &[&&*entry.name.name])
            .await
            .unwrap();
        assert_eq!(row.get::<_, u32>(0), entry.oid, "{}", entry.name);
    }
}
