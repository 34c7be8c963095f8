//! What a fault has cost: looks the acknowledged rows up on the final primary, and measures how long nothing was written.
//!
//! Main type: [`Verdict`].

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use pgherd::herd::Server;

use crate::writers::{Acknowledged, ClientError, Record};

/// The outcome of one fault.
#[derive(Debug)]
pub struct Verdict {
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// Those that the final primary does not have.
    pub lost: Vec<Acknowledged>,
    /// Errors that clients met outside of transactions.
    pub outside: Vec<ClientError>,
    /// Errors within them.
    pub inside: usize,
    /// The longest time without any acknowledgement, from the fault on.
    pub silence: Duration,
}

impl Verdict {
    /// Asks the final primary directly.
    pub async fn reach(record: Record, primary: &Server, fault: Instant) -> Self {
        let rows = primary
            .sql("SELECT writer, n FROM marks")
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let there: HashSet<(u32, u64)> = rows
            .iter()
            .map(|row| {
                let number = |column: usize| row[column].as_deref().unwrap_or_default();
                let writer = number(0).parse().expect("an int");
                (writer, number(1).parse().expect("a bigint"))
            })
            .collect();
        let silence = silence(&record.acknowledged, fault);
        let acknowledged = record.acknowledged.len();
        let mut lost = record.acknowledged;
        lost.retain(|row| !there.contains(&(row.writer, row.n)));
        let (inside, outside): (Vec<_>, Vec<_>) = record
            .errors
            .into_iter()
            .partition(|error| error.in_transaction);
        Self {
            acknowledged,
            lost,
            outside,
            inside: inside.len(),
            silence,
        }
    }
}

/// The heads of the columns of a [`Verdict`].
pub const COLUMNS: &str = "acknowledged  lost  outside  inside  silence";

/// A line of the table under [`COLUMNS`].
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>12} {:>5} {:>8} {:>7} {:>8.2}",
            self.acknowledged,
            self.lost.len(),
            self.outside.len(),
            self.inside,
            self.silence.as_secs_f64()
        )
    }
}

fn silence(acknowledged: &[Acknowledged], fault: Instant) -> Duration {
    let mut last = fault;
    let mut longest = Duration::ZERO;
    for row in acknowledged.iter().filter(|row| row.at > fault) {
        longest = longest.max(row.at - last);
        last = row.at;
    }
    longest
}
