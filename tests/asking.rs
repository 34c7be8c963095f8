//! Short questions to the endpoint, the console and the log, and changes to the configuration of a running proxy.
//!
//! Extends [`Cluster`] and [`TestCluster`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cluster::{Cluster, TestCluster};
use crate::configuration::Configuration;

/// How long what is waited for may take to be seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process id of the server connection that answers.
pub const PID: &str = "SELECT pg_backend_pid()";

/// One server with nothing sharded: everything passes.
#[must_use]
pub fn unsharded(change: impl FnOnce(&mut Configuration)) -> TestCluster {
    TestCluster::new().shards(1).configure(|configuration| {
        configuration.sharding.clear();
        change(configuration);
    })
}

/// The first column of the first row.
///
/// # Panics
/// If it is refused, or there is no row.
pub async fn one(client: &Client, query: &str) -> String {
    let messages = client
        .simple_query(query)
        .await
        .unwrap_or_else(|error| panic!("{query}: {error:?}"));
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("{query}: no row"))
}

/// A row of a command of the console, by column; `None` is NULL.
pub type Row = HashMap<String, Option<String>>;

/// The rows of a command of the console.
///
/// # Panics
/// If it is refused.
pub async fn rows(console: &Client, command: &str) -> Vec<Row> {
    let messages = console
        .simple_query(command)
        .await
        .unwrap_or_else(|error| panic!("{command}: {error:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(index, column)| {
                        let value = row.get(index).map(str::to_owned);
                        (column.name().to_owned(), value)
                    })
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}

/// What a query is refused with.
///
/// # Panics
/// If it is not.
pub async fn refusal(client: &Client, query: &str) -> DbError {
    match client.simple_query(query).await {
        Ok(answer) => panic!("{query}: {answer:?}"),
        Err(error) => error
            .as_db_error()
            .unwrap_or_else(|| panic!("{query}: {error:?}"))
            .clone(),
    }
}

impl Cluster {
    /// A column of what the console shows (`POOLS`, `PINS` ...), row by row.
    ///
    /// # Panics
    /// If there is no such column.
    pub async fn show(&self, what: &str, column: &str) -> Vec<String> {
        let console = self.console().await;
        let rows = console
            .simple_query(&format!("SHOW {what}"))
            .await
            .unwrap_or_else(|error| panic!("SHOW {what}: {error:?}"));
        rows.iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(column).unwrap_or("NULL").to_owned()),
                _ => None,
            })
            .collect()
    }

    /// A column of the pool of `app`, of the first server where there are several.
    ///
    /// # Panics
    /// If there is no such pool.
    pub async fn pool(&self, column: &str) -> String {
        let users = self.show("SERVER_POOLS", "user").await;
        let values = self.show("SERVER_POOLS", column).await;
        let found = users.iter().zip(values).find(|(user, _)| *user == "app");
        found.expect("there is a pool of app").1
    }

    /// Waits until it has a value.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn wait_for_pool(&self, column: &str, wanted: &str) {
        let begun = Instant::now();
        loop {
            let is = self.pool(column).await;
            if is == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{column} is {is}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The sum of a column over all pools.
    pub async fn sum_of_pools(&self, column: &str) -> i64 {
        let values = self.show("SERVER_POOLS", column).await;
        values
            .iter()
            .filter_map(|value| value.parse::<i64>().ok())
            .sum()
    }

    /// The value of a metric with these labels, as `/metrics` writes them.
    pub async fn metric(&self, name_and_labels: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics").await;
        text.lines()
            .find_map(|line| line.strip_prefix(name_and_labels)?.trim().parse().ok())
    }

    /// Rewrites the configuration, and waits until the proxy says that it is in force.
    ///
    /// # Panics
    /// If it does not.
    pub async fn reload(&mut self, change: impl FnOnce(&mut Configuration)) {
        let before = self.product_log().len();
        self.rewrite(change);
        self.product().signal(Signal::SIGHUP);
        self.wait_for_log(before, "the configuration was reloaded")
            .await;
    }

    /// Waits for a text in the proxy's log, behind so many bytes of it.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn wait_for_log(&self, from: usize, text: &str) {
        let begun = Instant::now();
        while !self.product_log()[from..].contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.product_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
