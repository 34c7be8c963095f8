//! A look into every database of a pair: do both sides hold the same rows?
//!
//! Owns the connections for it, and the way back to the first rows. Main type: [`Watch`].

use std::fmt::Write;

use super::client::{Answer, Connection, Part};
use super::world::Pair;
use crate::wire::query;

/// Connections to every database of a pair: the plain one, then the shards.
#[derive(Debug)]
pub struct Watch {
    pub(super) pair: Pair,
    pub(super) connections: Vec<(Connection, Vec<&'static str>)>,
}

impl Watch {
    /// Both sides hold the first rows again, and nothing else.
    ///
    /// # Panics
    /// If a server does not do it.
    pub async fn reset(&mut self) {
        let empty = self.pair.plot.empty.clone();
        self.on_each(|tables| {
            let mut sql = "BEGIN;".to_owned();
            for table in tables {
                let _ = write!(sql, "DELETE FROM ONLY {table};");
                if !empty.contains(table) {
                    let kept = kept(table);
                    let _ = write!(sql, "INSERT INTO {table} TABLE {kept};");
                }
            }
            sql + "COMMIT"
        })
        .await;
    }

    /// Do the shards together hold what the plain database holds, and all copies of reference tables the same?
    ///
    /// # Errors
    /// The tables that differ.
    ///
    /// # Panics
    /// If a server does not answer.
    pub async fn sides_agree(&mut self) -> Result<(), String> {
        let answers = self.on_each(sums_query).await;
        let sums: Vec<_> = answers.iter().map(sums).collect();
        self.compare_sums(&sums)
    }

    /// Runs the statements made for each database's tables on all at once.
    async fn on_each(&mut self, statement: impl Fn(&[&'static str]) -> String) -> Vec<Answer> {
        for (connection, tables) in &mut self.connections {
            connection.send(&query(&statement(tables))).await;
        }
        let mut answers = Vec::new();
        for (connection, _) in &mut self.connections {
            let answer = connection.receive(None).await;
            assert!(answer.failure().is_none(), "{:?}", answer.failure());
            answers.push(answer);
        }
        answers
    }

    fn compare_sums(&self, sums: &[Vec<(i128, i128)>]) -> Result<(), String> {
        let plot = &self.pair.plot;
        let (plain, shards) = sums.split_first().expect("the plain one comes first");
        let mut wrong = Vec::new();
        let mut position = 0;
        for table in plot.sharded.iter().chain(&plot.empty) {
            let ours = shards.iter().fold((0, 0), |sum, shard| {
                (sum.0 + shard[position].0, sum.1 + shard[position].1)
            });
            if ours != plain[position] {
                wrong.push(format!(
                    "{table} holds {} rows, and {} in one Postgres",
                    ours.0, plain[position].0
                ));
            }
            position += 1;
        }
        for table in &plot.reference {
            if shards
                .iter()
                .any(|shard| shard[position] != plain[position])
            {
                let counts: Vec<i128> = shards.iter().map(|shard| shard[position].0).collect();
                wrong.push(format!(
                    "the copies of {table} hold {counts:?} rows, and {} in one Postgres",
                    plain[position].0
                ));
            }
            position += 1;
        }
        for table in &plot.unlisted {
            if shards[0][position] != plain[position] {
                wrong.push(format!(
                    "{table} holds {} rows, and {} in one Postgres",
                    shards[0][position].0, plain[position].0
                ));
            }
            position += 1;
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; "))
        }
    }
}

/// The copy of a table that rounds begin with.
pub(super) fn kept(table: &str) -> String {
    let name: String = table
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '_'
            }
        })
        .collect();
    format!("fixture.{name}")
}

/// For each table how many rows it has, and the sum of their hashes, which no order changes.
fn sums_query(tables: &[&'static str]) -> String {
    let parts: Vec<String> = tables
        .iter()
        .map(|table| {
            format!("(SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM ONLY {table} t)")
        })
        .collect();
    format!("SELECT {}", parts.join(", "))
}

fn sums(answer: &Answer) -> Vec<(i128, i128)> {
    let row = answer.parts.iter().find_map(|part| match part {
        Part::Row(values) => Some(values),
        _ => None,
    });
    row.expect("a row of sums")
        .iter()
        .map(|value| {
            let text = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
            let (count, sum) = text.split_once(' ').expect("two numbers");
            (
                count.parse().expect("a number"),
                sum.parse().expect("a number"),
            )
        })
        .collect()
}
