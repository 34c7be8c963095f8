//! How far a server had come at which moment: what reading one's own writes rests on.
//!
//! Owns a short history of WAL positions; never asks a server. Main type: [`SampleLog`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::ids::{Epoch, Lsn};

/// Ten seconds at one sample every 15 ms, with room to spare.
pub const DEFAULT_CAPACITY: usize = 1024;

/// A position that a server reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the question was sent: what had ended by then is covered by `lsn`.
    pub begun: Instant,
    /// The epoch of the shard's primary when the question was sent.
    pub epoch: Epoch,
    /// The primary's insert position, or the replica's replay position.
    pub lsn: Lsn,
}

/// The last samples of one server, oldest first, in a ring of fixed size.
///
/// Written by one sampler some sixty times a second and read by every session: the lock is held
/// for a search in memory only, never over I/O.
#[derive(Debug)]
pub struct SampleLog {
    capacity: usize,
    samples: Mutex<VecDeque<Sample>>,
}

impl Default for SampleLog {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }
}

impl SampleLog {
    /// An empty log that keeps at most `capacity` samples (at least one).
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            capacity,
            samples: Mutex::new(VecDeque::with_capacity(capacity)),
        }
    }

    /// Keeps a sample, dropping the oldest where the log is full.
    ///
    /// One that was begun before the newest kept sample is not kept: the log is in the order of
    /// `begun`, and a later question has already been answered.
    pub fn record(&self, begun: Instant, epoch: Epoch, lsn: Lsn) {
        let mut samples = self.lock();
        if samples.back().is_some_and(|newest| begun < newest.begun) {
            return;
        }
        if samples.len() == self.capacity {
            samples.pop_front();
        }
        samples.push_back(Sample { begun, epoch, lsn });
    }

    /// The oldest kept sample begun after `moment`: on a primary, a position that covers every
    /// write which had ended at `moment`. `None` while no such sample is there yet.
    ///
    /// Where older samples that would have done were dropped, the answer is a later position: it
    /// covers the same writes, and asks more of a replica than is needed.
    pub fn first_begun_after(&self, moment: Instant) -> Option<(Epoch, Lsn)> {
        let samples = self.lock();
        let index = samples.partition_point(|sample| sample.begun <= moment);
        samples.get(index).map(|sample| (sample.epoch, sample.lsn))
    }

    /// The newest sample.
    pub fn latest(&self) -> Option<Sample> {
        self.lock().back().copied()
    }

    /// A panic cannot leave the ring half changed: each change is one call, so the content is
    /// sound even where the lock is poisoned.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_first_sample_begun_after_a_moment_is_found() {
        let start = Instant::now();
        let log = SampleLog::default();
        assert_eq!(log.first_begun_after(start), None);
        for step in 0..4 {
            log.record(at(start, step * 10), Epoch(1), Lsn(step * 100));
        }
        assert_eq!(log.first_begun_after(start), Some((Epoch(1), Lsn(100))));
        assert_eq!(
            log.first_begun_after(at(start, 9)),
            Some((Epoch(1), Lsn(100)))
        );
        assert_eq!(
            log.first_begun_after(at(start, 10)),
            Some((Epoch(1), Lsn(200)))
        );
        assert_eq!(
            log.first_begun_after(at(start, 29)),
            Some((Epoch(1), Lsn(300)))
        );
        assert_eq!(log.first_begun_after(at(start, 30)), None);
        assert_eq!(log.latest().unwrap().lsn, Lsn(300));
    }

    #[test]
    fn a_full_log_drops_the_oldest_and_answers_with_what_is_left() {
        let start = Instant::now();
        let log = SampleLog::with_capacity(2);
        for step in 1..=4 {
            log.record(at(start, step), Epoch(step), Lsn(step));
        }
        assert_eq!(log.first_begun_after(start), Some((Epoch(3), Lsn(3))));
    }

    #[test]
    fn a_sample_begun_before_the_newest_is_not_kept() {
        let start = Instant::now();
        let log = SampleLog::default();
        log.record(at(start, 10), Epoch(2), Lsn(20));
        log.record(at(start, 5), Epoch(1), Lsn(10));
        assert_eq!(log.first_begun_after(start), Some((Epoch(2), Lsn(20))));
        assert_eq!(log.latest().unwrap().lsn, Lsn(20));
    }
}
