//! Looking for rows that lie on another shard than their key says.
//!
//! Owns a reading of every sharded table's key columns on every shard, hashed here: the one implementation that routing
//! uses too, for every function. Never moves a row. Main function: [`check_rows`].

use std::pin::pin;

use futures_core::Stream;
use pgherd_topology::{
    KeyInput, KeyType, RelationName, ShardId, Sharding, TableRule, quote_identifier,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::error::ControlError;
use crate::login::Server;
use crate::servers::Servers;
use crate::settings::ControlSettings;

/// Keys shown per table and shard.
const SAMPLES: usize = 5;

/// Rows of one table on one shard that belong elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MisplacedRows {
    /// The table.
    pub table: RelationName,
    /// The shard they lie on.
    pub shard: ShardId,
    /// Its name.
    pub shard_name: Box<str>,
    /// How many there are.
    pub count: u64,
    /// Some of them, at most five: the key as text, and the shard that owns it.
    pub samples: Vec<MisplacedKey>,
}

/// A key on the wrong shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MisplacedKey {
    /// The columns of the key as Postgres prints them.
    pub key: String,
    /// Where it belongs; `None` where no shard owns it or that cannot be said.
    pub owner: Option<Box<str>>,
}

/// Reads the keys of every sharded table on every shard's primary, one after the other, and reports the tables that have rows on a
/// wrong shard. Takes as long as reading those columns takes; memory stays bounded. Tables that do not exist are passed over.
///
/// # Errors
/// Where a shard has no primary that answers, or the control login may not read a table. Cancel-safe.
pub async fn check_rows(settings: &ControlSettings) -> Result<Vec<MisplacedRows>, ControlError> {
    let servers = Servers::new(settings);
    let sharding = &settings.sharding;
    let mut misplaced = Vec::new();
    for (shard, shard_settings) in sharding.shard_ids().zip(&settings.shards) {
        let (server, connection) = servers.find_primary(shard, &shard_settings.name).await?;
        let patience = server.patience();
        let unhurried = connection.batch_execute("SET statement_timeout = 0");
        server
            .within(patience, "prepare to read tables", unhurried)
            .await?;
        for rule in sharding.tables() {
            let Some(types) = key_types(&server, &connection, rule).await? else {
                continue;
            };
            let found = check_table(&server, &connection, sharding, rule, &types, shard).await?;
            if found.count > 0 {
                misplaced.push(found);
            }
        }
    }
    Ok(misplaced)
}

/// The types of the key's columns, domains looked through; `None` where the table does not exist.
async fn key_types(
    server: &Server,
    client: &Client,
    rule: &TableRule,
) -> Result<Option<Vec<KeyType>>, ControlError> {
    const ACTION: &str = "look up a sharding key";
    const COLUMN: &str = "WITH RECURSIVE base (oid) AS (SELECT a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
          JOIN pg_namespace n ON n.oid = c.relnamespace \
          WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped \
        UNION SELECT t.typbasetype FROM base JOIN pg_type t ON t.oid = base.oid WHERE t.typtype = 'd') \
        SELECT b.oid FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'";
    let mut types = Vec::with_capacity(rule.key.len());
    for column in &rule.key {
        let parameters: [&(dyn ToSql + Sync); 3] =
            [&&*rule.table.schema, &&*rule.table.name, &&**column];
        let Some(row) = server
            .within(
                server.patience(),
                ACTION,
                client.query_opt(COLUMN, &parameters),
            )
            .await?
        else {
            return Ok(None);
        };
        let oid: u32 = row
            .try_get(0)
            .map_err(|error| server.unexpected(ACTION, error.to_string()))?;
        let key_type = KeyType::from_oid(oid).ok_or_else(|| {
            server.unexpected(
                ACTION,
                format!("column {column} of {} cannot be a sharding key", rule.table),
            )
        })?;
        types.push(key_type);
    }
    Ok(Some(types))
}

async fn check_table(
    server: &Server,
    client: &Client,
    sharding: &Sharding,
    rule: &TableRule,
    types: &[KeyType],
    shard: ShardId,
) -> Result<MisplacedRows, ControlError> {
    const ACTION: &str = "read the keys of a table";
    let columns: Vec<String> = rule
        .key
        .iter()
        .map(|column| format!("{}::text", quote_identifier(column)))
        .collect();
    let select = format!("SELECT {} FROM {}", columns.join(", "), rule.table);
    let nothing: [&(dyn ToSql + Sync); 0] = [];
    let rows = server
        .within(
            server.patience(),
            ACTION,
            client.query_raw(&select, nothing),
        )
        .await?;
    let mut rows = pin!(rows);
    let mut found = MisplacedRows {
        table: rule.table.clone(),
        shard,
        shard_name: sharding.shard_name(shard).into(),
        count: 0,
        samples: Vec::new(),
    };
    loop {
        let next = std::future::poll_fn(|context| rows.as_mut().poll_next(context));
        let next = server
            .within(server.patience() * 20, ACTION, async {
                next.await.transpose()
            })
            .await?;
        let Some(row) = next else { return Ok(found) };
        note(&row, sharding, rule, types, shard, &mut found)
            .map_err(|error| server.unexpected(ACTION, error.to_string()))?;
    }
}

fn note(
    row: &Row,
    sharding: &Sharding,
    rule: &TableRule,
    types: &[KeyType],
    shard: ShardId,
    found: &mut MisplacedRows,
) -> Result<(), tokio_postgres::Error> {
    let mut texts: Vec<Option<&str>> = Vec::with_capacity(types.len());
    for index in 0..types.len() {
        texts.push(row.try_get(index)?);
    }
    let key: Vec<KeyInput<'_>> = texts
        .iter()
        .zip(types)
        .map(|(text, key_type)| {
            text.map_or(KeyInput::Null, |text| {
                KeyInput::Text(*key_type, text.as_bytes())
            })
        })
        .collect();
    let owner = sharding
        .locate(rule, &key)
        .ok()
        .map(|location| location.shard);
    if owner == Some(shard) {
        return Ok(());
    }
    found.count += 1;
    if found.samples.len() < SAMPLES {
        let key: Vec<&str> = texts.iter().map(|text| text.unwrap_or("NULL")).collect();
        found.samples.push(MisplacedKey {
            key: key.join(", "),
            owner: owner.map(|owner| sharding.shard_name(owner).into()),
        });
    }
    Ok(())
}
