//! How long a replica has been behind its primary.
//!
//! Owns a coarse history of one primary's positions. Never asks a server. Main type: [`LagMeter`].
//!
//! A replica lags by the time since the primary was last where the replica is now. That stays near zero on an idle
//! primary, where the age of the last replayed transaction would grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pgherd_topology::{Epoch, Lsn, Sample};

/// Ten minutes at four positions a second: a replica further behind counts as unknown, which no limit admits.
const HISTORY: usize = 2400;

/// Measures the replicas of one shard.
#[derive(Debug, Default)]
pub(crate) struct LagMeter {
    epoch: Epoch,
    history: VecDeque<(Instant, Lsn)>,
}

impl LagMeter {
    /// Where the primary was when it was last asked.
    pub(crate) fn note_primary(&mut self, epoch: Epoch, sample: Option<Sample>) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.history.clear();
        }
        let Some(Sample { begun, lsn, .. }) = sample.filter(|sample| sample.epoch == epoch) else {
            return;
        };
        if self
            .history
            .back()
            .is_some_and(|(newest, _)| *newest >= begun)
        {
            return;
        }
        // A crash may take back WAL that was never flushed: what was seen before it says nothing about what comes.
        if self
            .history
            .back()
            .is_some_and(|(_, highest)| *highest > lsn)
        {
            self.history.clear();
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((begun, lsn));
    }

    /// How long the replica has been behind, rounded up to the history's steps; `None` where it has not been seen
    /// at any position of this reign.
    pub(crate) fn of_replica(&self, epoch: Epoch, sample: Option<Sample>) -> Option<Duration> {
        self.of_replica_at(epoch, sample, Instant::now())
    }

    fn of_replica_at(
        &self,
        epoch: Epoch,
        sample: Option<Sample>,
        now: Instant,
    ) -> Option<Duration> {
        let sample = sample.filter(|sample| sample.epoch == epoch && self.epoch == epoch)?;
        // positions rise with time
        let reached = self.history.partition_point(|(_, lsn)| *lsn <= sample.lsn);
        let (seen, _) = self.history.get(reached.checked_sub(1)?)?;
        Some(now.saturating_duration_since(*seen))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(begun: Instant, lsn: u64) -> Option<Sample> {
        Some(Sample {
            begun,
            epoch: Epoch(1),
            lsn: Lsn(lsn),
        })
    }

    #[test]
    fn a_replica_lags_since_the_primary_was_where_it_is() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut meter = LagMeter::default();
        for (seconds, lsn) in [(0, 100), (1, 200), (2, 300)] {
            meter.note_primary(Epoch(1), sample(at(seconds), lsn));
        }
        let lag = |lsn| meter.of_replica_at(Epoch(1), sample(at(3), lsn), at(3));
        assert_eq!(lag(300), Some(Duration::from_secs(1)));
        assert_eq!(lag(250), Some(Duration::from_secs(2)));
        assert_eq!(lag(100), Some(Duration::from_secs(3)));
        assert_eq!(lag(99), None);
    }

    #[test]
    fn an_idle_primary_makes_nobody_lag() {
        let start = Instant::now();
        let mut meter = LagMeter::default();
        for step in 0..4000 {
            meter.note_primary(Epoch(1), sample(start + Duration::from_secs(step), 100));
        }
        let now = start + Duration::from_secs(4000);
        assert_eq!(
            meter.of_replica_at(Epoch(1), sample(now, 100), now),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn positions_of_another_reign_do_not_count() {
        let start = Instant::now();
        let mut meter = LagMeter::default();
        meter.note_primary(Epoch(1), sample(start, 100));
        meter.note_primary(Epoch(2), sample(start, 100));
        assert_eq!(meter.of_replica(Epoch(2), sample(start, 500)), None);
        assert_eq!(meter.of_replica(Epoch(1), sample(start, 500)), None);
    }
}
