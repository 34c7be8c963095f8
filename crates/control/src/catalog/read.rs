//! One shard's system catalogs, read in one snapshot.
//!
//! Owns the conversion of rows into plain data with this server's OIDs. Never compares shards. Main type: [`Reading`].

use std::collections::HashMap;
use std::time::Duration;

use pgherd_topology::{RelationName, ServerSettings};
use tokio_postgres::{Error, IsolationLevel, Row};

use super::texts;
use crate::error::ControlError;
use crate::login::{Lease, Server};

const ACTION: &str = "read the catalog";

/// What one shard's server says, in its own OIDs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub(super) settings: ServerSettings,
    pub(super) relations: Vec<RelationRow>,
    pub(super) columns: HashMap<u32, Vec<ColumnRow>>,
    pub(super) collations: HashMap<u32, CollationKind>,
    pub(super) unique_keys: Vec<UniqueKeyRow>,
    pub(super) foreign_keys: Vec<ForeignKeyRow>,
    pub(super) views: Vec<ViewRow>,
    pub(super) functions: Vec<FunctionRow>,
    pub(super) operators: Vec<OperatorRow>,
    pub(super) types: Vec<TypeRow>,
    pub(super) signatures: HashMap<RelationName, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RelationRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    pub(super) persistence: u8,
    pub(super) has_triggers: bool,
    pub(super) has_rules: bool,
    pub(super) has_row_security: bool,
    pub(super) parent: Option<u32>,
    /// The table of an index, or of the column that a sequence belongs to.
    pub(super) owner: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ColumnRow {
    pub(super) name: Box<str>,
    pub(super) type_oid: u32,
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    pub(super) identity: u8,
    pub(super) generated: u8,
    pub(super) collation: u32,
    pub(super) default: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CollationKind {
    Nondeterministic,
    Bytewise,
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct UniqueKeyRow {
    pub(super) relation: u32,
    pub(super) is_primary: bool,
    pub(super) columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ForeignKeyRow {
    pub(super) relation: u32,
    pub(super) target: u32,
    pub(super) on_delete: u8,
    pub(super) on_update: u8,
    pub(super) columns: Vec<String>,
    pub(super) target_columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ViewRow {
    pub(super) relation: u32,
    pub(super) definition: Box<str>,
    pub(super) reads: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FunctionRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    pub(super) volatility: u8,
    pub(super) returns_set: bool,
    pub(super) arguments: Vec<u32>,
    pub(super) result: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct OperatorRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
    pub(super) volatility: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct TypeRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    /// 0 unless it is a true array.
    pub(super) element: u32,
    pub(super) base: u32,
    pub(super) modifier: i32,
    pub(super) relation: u32,
    pub(super) subtype: u32,
    pub(super) range: u32,
}

/// Reads one server; `compared` are the tables that shards must agree on.
pub(super) async fn read(
    server: &Server,
    compared: &[RelationName],
    bound: Duration,
) -> Result<Reading, ControlError> {
    let mut lease = server.lease().await?;
    let settings = settings_rows(server, &lease, bound).await?;
    let schemas: Vec<&str> = compared.iter().map(|name| &*name.schema).collect();
    let names: Vec<&str> = compared.iter().map(|name| &*name.name).collect();
    let rows = server
        .within(bound, ACTION, async {
            // one snapshot for all queries
            let snapshot = lease
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let rows = Rows {
                settings,
                relations: snapshot.query(texts::RELATIONS, &[]).await?,
                columns: snapshot.query(texts::COLUMNS, &[]).await?,
                collations: snapshot.query(texts::COLLATIONS, &[]).await?,
                unique_keys: snapshot.query(texts::UNIQUE_KEYS, &[]).await?,
                foreign_keys: snapshot.query(texts::FOREIGN_KEYS, &[]).await?,
                views: snapshot.query(texts::VIEWS, &[]).await?,
                functions: snapshot.query(texts::FUNCTIONS, &[]).await?,
                operators: snapshot.query(texts::OPERATORS, &[]).await?,
                types: snapshot.query(texts::TYPES, &[]).await?,
                signatures: snapshot
                    .query(texts::SIGNATURES, &[&schemas, &names])
                    .await?,
            };
            snapshot.commit().await?;
            Ok(rows)
        })
        .await?;
    lease.give_back();
    convert(rows).map_err(|error| server.unexpected(ACTION, error.to_string()))
}

/// A session keeps the defaults that it began with, so a fresh one is asked; an older one's answer is better than none
/// where the server has no room for another.
async fn settings_rows(
    server: &Server,
    lease: &Lease,
    bound: Duration,
) -> Result<Vec<Row>, ControlError> {
    match server.open().await {
        Ok(fresh) => {
            server
                .within(bound, ACTION, fresh.query(texts::SETTINGS, &[]))
                .await
        }
        Err(error) => {
            tracing::debug!(%error, "a new session's settings are taken from an older one");
            server
                .within(bound, ACTION, lease.query(texts::SETTINGS, &[]))
                .await
        }
    }
}

struct Rows {
    settings: Vec<Row>,
    relations: Vec<Row>,
    columns: Vec<Row>,
    collations: Vec<Row>,
    unique_keys: Vec<Row>,
    foreign_keys: Vec<Row>,
    views: Vec<Row>,
    functions: Vec<Row>,
    operators: Vec<Row>,
    types: Vec<Row>,
    signatures: Vec<Row>,
}

fn convert(rows: Rows) -> Result<Reading, Error> {
    let mut columns: HashMap<u32, Vec<ColumnRow>> = HashMap::new();
    for row in &rows.columns {
        columns
            .entry(row.try_get(0)?)
            .or_default()
            .push(column(row)?);
    }
    let collations = rows.collations.iter().map(|row| {
        let kind = match letter(row, 1)? {
            b'n' => CollationKind::Nondeterministic,
            b'b' => CollationKind::Bytewise,
            _ => CollationKind::Other,
        };
        Ok((row.try_get(0)?, kind))
    });
    let signatures = rows
        .signatures
        .iter()
        .map(|row| Ok((name(row, 0)?, row.try_get(2)?)));
    Ok(Reading {
        settings: settings(&rows.settings)?,
        relations: each(&rows.relations, relation)?,
        columns,
        collations: collations.collect::<Result<_, Error>>()?,
        unique_keys: each(&rows.unique_keys, |row| {
            Ok(UniqueKeyRow {
                relation: row.try_get(0)?,
                is_primary: row.try_get(1)?,
                columns: row.try_get(2)?,
            })
        })?,
        foreign_keys: each(&rows.foreign_keys, |row| {
            Ok(ForeignKeyRow {
                relation: row.try_get(0)?,
                target: row.try_get(1)?,
                on_delete: letter(row, 2)?,
                on_update: letter(row, 3)?,
                columns: row.try_get(4)?,
                target_columns: row.try_get(5)?,
            })
        })?,
        views: each(&rows.views, |row| {
            Ok(ViewRow {
                relation: row.try_get(0)?,
                definition: text(row, 1)?,
                reads: row.try_get(2)?,
            })
        })?,
        functions: each(&rows.functions, function)?,
        operators: each(&rows.operators, operator)?,
        types: each(&rows.types, type_row)?,
        signatures: signatures.collect::<Result<_, Error>>()?,
    })
}

fn relation(row: &Row) -> Result<RelationRow, Error> {
    Ok(RelationRow {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        kind: letter(row, 3)?,
        persistence: letter(row, 4)?,
        has_triggers: row.try_get(5)?,
        has_rules: row.try_get(6)?,
        has_row_security: row.try_get(7)?,
        parent: row.try_get(8)?,
        owner: row.try_get(9)?,
    })
}

fn column(row: &Row) -> Result<ColumnRow, Error> {
    Ok(ColumnRow {
        name: text(row, 1)?,
        type_oid: row.try_get(2)?,
        modifier: row.try_get(3)?,
        not_null: row.try_get(4)?,
        identity: letter(row, 5)?,
        generated: letter(row, 6)?,
        collation: row.try_get(7)?,
        default: row.try_get::<_, Option<&str>>(8)?.map(Into::into),
    })
}

fn function(row: &Row) -> Result<FunctionRow, Error> {
    Ok(FunctionRow {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        kind: letter(row, 3)?,
        volatility: letter(row, 4)?,
        returns_set: row.try_get(5)?,
        arguments: row.try_get(6)?,
        result: row.try_get(7)?,
    })
}

fn operator(row: &Row) -> Result<OperatorRow, Error> {
    Ok(OperatorRow {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        left: row.try_get(3)?,
        right: row.try_get(4)?,
        result: row.try_get(5)?,
        volatility: letter(row, 6)?,
    })
}

fn type_row(row: &Row) -> Result<TypeRow, Error> {
    Ok(TypeRow {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        kind: letter(row, 3)?,
        element: row.try_get(4)?,
        base: row.try_get(5)?,
        modifier: row.try_get(6)?,
        relation: row.try_get(7)?,
        subtype: row.try_get(8)?,
        range: row.try_get(9)?,
    })
}

fn settings(rows: &[Row]) -> Result<ServerSettings, Error> {
    let mut settings = ServerSettings::default();
    for row in rows {
        settings.version_num = u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or_default();
        settings.encoding = text(row, 1)?;
        let value: &str = row.try_get::<_, Option<&str>>(3)?.unwrap_or_default();
        match row.try_get(2)? {
            "search_path" => settings.search_path = identifiers(value),
            "standard_conforming_strings" => settings.standard_conforming_strings = value != "off",
            _ => {}
        }
    }
    Ok(settings)
}

/// Splits a list of identifiers as `search_path` holds one.
fn identifiers(list: &str) -> Vec<Box<str>> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut characters = list.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                current.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => found.push(std::mem::take(&mut current)),
            (blank, false) if blank.is_whitespace() => {}
            (letter, false) => current.push(letter.to_ascii_lowercase()),
            (letter, true) => current.push(letter),
        }
    }
    found.push(current);
    found
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

fn each<T>(rows: &[Row], convert: impl Fn(&Row) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    rows.iter().map(convert).collect()
}

/// A schema and the name after it.
fn name(row: &Row, schema: usize) -> Result<RelationName, Error> {
    Ok(RelationName::new(
        text(row, schema)?,
        text(row, schema + 1)?,
    ))
}

fn text(row: &Row, column: usize) -> Result<Box<str>, Error> {
    row.try_get::<_, &str>(column).map(Into::into)
}

/// A `"char"` that was cast to text: empty stands for zero.
fn letter(row: &Row, column: usize) -> Result<u8, Error> {
    Ok(row.try_get::<_, &str>(column)?.bytes().next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::identifiers;

    #[test]
    fn a_search_path_is_split_and_folded() {
        let split = |list: &str| {
            identifiers(list)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(split("\"$user\", public"), ["$user", "public"]);
        assert_eq!(
            split("Shop,\"My \"\"Own\"\", schema\""),
            ["shop", "My \"Own\", schema"]
        );
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("\"\""), [""; 0]);
    }
}
