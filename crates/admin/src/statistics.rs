//! Figures of each database, since the start and over the last period.
//!
//! Owns: snapshots of the totals, one a period, and the averages between them. Never does: counting; what is counted already is read.
//! Main types: [`Figures`], [`Statistics`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgherd_session::{Database, Herd};

use crate::answer::Value;
use crate::commands::sorted_databases;

/// How often the totals are noted.
pub const PERIOD: Duration = Duration::from_secs(60);

/// What PgBouncer counts of a database (its documentation, usage: SHOW STATS). What pgherd does not count is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    assignments: u64,
    transactions: u64,
    queries: u64,
    received: u64,
    sent: u64,
    /// In microseconds, as what follows.
    query_time: u64,
    wait_time: u64,
}

impl Figures {
    /// Since the start.
    pub fn of(herd: &Herd, database: &Database) -> Self {
        let totals = herd.metrics().totals(database.name());
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            assignments: database.pools().checkouts(),
            transactions: totals.transactions,
            queries: totals.queries,
            received: totals.bytes_in,
            sent: totals.bytes_out,
            query_time: micros(totals.query_time),
            wait_time: micros(totals.wait_time),
        }
    }

    /// In the order of PgBouncer's columns.
    pub fn values(self) -> impl Iterator<Item = Value> {
        const NOT_COUNTED: u64 = 0;
        [
            self.assignments,
            self.transactions,
            self.queries,
            self.received,
            self.sent,
            NOT_COUNTED,
            self.query_time,
            self.wait_time,
            NOT_COUNTED,
            NOT_COUNTED,
            NOT_COUNTED,
        ]
        .into_iter()
        .map(Value::from)
    }

    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            assignments: with(self.assignments, other.assignments),
            transactions: with(self.transactions, other.transactions),
            queries: with(self.queries, other.queries),
            received: with(self.received, other.received),
            sent: with(self.sent, other.sent),
            query_time: with(self.query_time, other.query_time),
            wait_time: with(self.wait_time, other.wait_time),
        }
    }

    /// Counts per second, and times for each of what they are of.
    fn averages_since(self, before: Self, passed: Duration) -> Self {
        let more = self.combine(before, u64::saturating_sub);
        let micros = passed.as_micros().max(1);
        let per_second =
            |count: u64| u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX);
        Self {
            assignments: per_second(more.assignments),
            transactions: per_second(more.transactions),
            queries: per_second(more.queries),
            received: per_second(more.received),
            sent: per_second(more.sent),
            query_time: more.query_time.checked_div(more.queries).unwrap_or(0),
            wait_time: more.wait_time.checked_div(more.assignments).unwrap_or(0),
        }
    }
}

/// The totals of all databases at a moment.
#[derive(Debug)]
struct Snapshot {
    at: Instant,
    databases: HashMap<Box<str>, Figures>,
}

/// The totals of one and of two periods ago. Averages go from the older one until now, so that they are over one period at least, as
/// PgBouncer's.
#[derive(Debug)]
pub struct Statistics {
    snapshots: Mutex<(Snapshot, Snapshot)>,
}

impl Statistics {
    /// Nothing was counted before now.
    pub(crate) fn begin() -> Self {
        let nothing = || Snapshot {
            at: Instant::now(),
            databases: HashMap::new(),
        };
        Self {
            snapshots: Mutex::new((nothing(), nothing())),
        }
    }

    /// Notes the totals: a period is over.
    pub fn note(&self, herd: &Herd) {
        let databases = sorted_databases(herd)
            .iter()
            .map(|database| (database.name().into(), Figures::of(herd, database)))
            .collect();
        let now = Snapshot {
            at: Instant::now(),
            databases,
        };
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        snapshots.0 = std::mem::replace(&mut snapshots.1, now);
    }

    /// Averages of a database.
    pub fn averages(&self, herd: &Herd, database: &Database) -> Figures {
        let now = Figures::of(herd, database);
        let (before, passed) = self.before(database.name());
        now.averages_since(before, passed)
    }

    /// The totals and the averages of these databases together.
    pub(crate) fn over_all(
        &self,
        herd: &Herd,
        databases: &[std::sync::Arc<Database>],
    ) -> (Figures, Figures) {
        let add = |sum: Figures, more: Figures| sum.combine(more, u64::saturating_add);
        let (mut now, mut before) = (Figures::default(), Figures::default());
        let mut passed = Duration::ZERO;
        for database in databases {
            let then;
            (then, passed) = self.before(database.name());
            before = add(before, then);
            now = add(now, Figures::of(herd, database));
        }
        (now, now.averages_since(before, passed))
    }

    /// What a database had when averages begin, and how long ago that was.
    fn before(&self, database: &str) -> (Figures, Duration) {
        let snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let older = &snapshots.0;
        let figures = older.databases.get(database).copied().unwrap_or_default();
        (figures, older.at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_per_second_and_times_per_what_they_are_of() {
        let before = Figures {
            queries: 10,
            query_time: 1000,
            ..Figures::default()
        };
        let now = Figures {
            assignments: 20,
            transactions: 40,
            queries: 110,
            received: 2000,
            sent: 4000,
            query_time: 51_000,
            wait_time: 60,
        };
        let expected = Figures {
            assignments: 10,
            transactions: 20,
            queries: 50,
            received: 1000,
            sent: 2000,
            query_time: 500,
            wait_time: 3,
        };
        assert_eq!(now.averages_since(before, Duration::from_secs(2)), expected);
        assert_eq!(
            now.averages_since(now, Duration::ZERO),
            Figures::default(),
            "nothing happened in no time"
        );
    }
}
