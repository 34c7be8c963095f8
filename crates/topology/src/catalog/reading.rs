//! From the rows of the system catalogs to a catalog, wherever the rows were read.
//!
//! Owns the queries' texts, the conversion of their rows and the assembly of all shards' readings. Pure: control reads
//! the servers on connections of its own, a session reads the catalogs as its open transaction sees them; both run
//! these texts and hand the rows to a [`Reader`]. Main types: [`Reading`], [`Reader`].
//!
//! # Layout
//! - `texts`: the queries. Each row's first column tells which query it comes from.
//! - `rows`: one row's columns, all of them text, as plain data.
//! - `expression`: what the stored expressions call.
//! - `unread`: which functions run along with a statement that does not name them.
//! - `assemble`: the one catalog of several readings.

mod assemble;
mod expression;
mod rows;
mod texts;
mod unread;

use std::collections::HashMap;

use crate::catalog::ServerSettings;
use crate::names::RelationName;

pub use assemble::{Assembly, compared};
pub use texts::{SETTINGS, as_the_transaction_sees_it, queries};

use rows::{
    CheckRow, CollationKind, ColumnRow, ForeignKeyRow, FunctionRow, OperatorRow, PolicyRow,
    RelationRow, Row, TypeRow, UniqueKeyRow, ViewRow,
};

/// What one shard's server says, in its own OIDs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    settings: ServerSettings,
    relations: Vec<RelationRow>,
    columns: HashMap<u32, Vec<ColumnRow>>,
    collations: HashMap<u32, CollationKind>,
    unique_keys: Vec<UniqueKeyRow>,
    foreign_keys: Vec<ForeignKeyRow>,
    views: Vec<ViewRow>,
    policies: Vec<PolicyRow>,
    checks: Vec<CheckRow>,
    functions: Vec<FunctionRow>,
    operators: Vec<OperatorRow>,
    types: Vec<TypeRow>,
    signatures: HashMap<RelationName, String>,
}

impl Reading {
    /// What a new session finds on that server.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }
}

/// Why rows are no reading: the server is not what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row \"{part}\" of the system catalogs: column {column} holds {found:?}")]
pub struct ReadingError {
    part: String,
    column: usize,
    found: Option<String>,
}

/// Makes a [`Reading`] of the rows of [`queries`], in any order of the queries.
#[derive(Debug, Default)]
pub struct Reader {
    reading: Reading,
}

impl Reader {
    /// Starts with what the server's settings are known to be; rows of [`SETTINGS`] replace them.
    pub fn new(settings: ServerSettings) -> Self {
        Self {
            reading: Reading {
                settings,
                ..Reading::default()
            },
        }
    }

    /// Takes one row, its columns as text.
    ///
    /// # Errors
    /// [`ReadingError`] for a row that is of none of the queries.
    pub fn row(&mut self, columns: &[Option<&str>]) -> Result<(), ReadingError> {
        let row = Row(columns);
        let reading = &mut self.reading;
        match row.part() {
            "setting" => rows::setting(&row, &mut reading.settings)?,
            "relation" => reading.relations.push(rows::relation(&row)?),
            "column" => {
                let columns = reading.columns.entry(row.number(1)?).or_default();
                columns.push(rows::column(&row)?);
            }
            "collation" => {
                let (oid, kind) = rows::collation(&row)?;
                reading.collations.insert(oid, kind);
            }
            "unique key" => reading.unique_keys.push(rows::unique_key(&row)?),
            "foreign key" => reading.foreign_keys.push(rows::foreign_key(&row)?),
            "view" => reading.views.push(rows::view(&row)?),
            "policy" => reading.policies.push(rows::policy(&row)?),
            "check" => reading.checks.push(rows::check(&row)?),
            "function" => reading.functions.push(rows::function(&row)?),
            "operator" => reading.operators.push(rows::operator(&row)?),
            "type" => reading.types.push(rows::type_row(&row)?),
            "signature" => {
                let signature = row.text(3)?.to_owned();
                reading.signatures.insert(row.name(1)?, signature);
            }
            _ => return Err(row.unexpected(0)),
        }
        Ok(())
    }

    /// What the rows said.
    pub fn finish(self) -> Reading {
        self.reading
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_that_no_query_gives_is_refused() {
        let mut reader = Reader::default();
        assert!(reader.row(&[Some("weather"), Some("1")]).is_err());
        assert!(reader.row(&[]).is_err());
        let error = reader.row(&[Some("operator"), Some("x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row \"operator\" of the system catalogs: column 1 holds Some(\"x\")"
        );
    }

    #[test]
    fn settings_stay_where_no_row_tells_of_them() {
        let settings = ServerSettings {
            version_num: 160_004,
            ..ServerSettings::default()
        };
        assert_eq!(Reader::new(settings.clone()).finish().settings, settings);
    }
}
