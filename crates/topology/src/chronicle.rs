//! What has happened to a shard, and what is going on.
//!
//! Owns the plain data that control publishes and operators look at; never decides anything. Main type: [`Chronicle`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::ids::Epoch;

/// So many events are kept.
const MOST_EVENTS: usize = 256;

/// A change of primary, under way or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeReport {
    /// When it began.
    pub began: SystemTime,
    /// `failover`, `forced` or `switchover`.
    pub kind: &'static str,
    /// The reign that it leads to.
    pub epoch: Epoch,
    /// Who reigned before.
    pub from: Box<str>,
    /// Who reigns afterwards, as far as it is known.
    pub to: Option<Box<str>>,
    /// Why, in words.
    pub reason: Box<str>,
    /// What came of it, or how far it has come, in words.
    pub outcome: Box<str>,
    /// How long it took; `None` while it goes on.
    pub took: Option<Duration>,
    /// What was done, and how long after the beginning it was.
    pub steps: Vec<(Box<str>, Duration)>,
}

/// Something that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// `verdict`, `refusal`, `promotion`, `quarantine` and the like.
    pub kind: &'static str,
    /// What.
    pub text: Box<str>,
}

/// How a shard stands beside its topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Changes of primary, oldest first, the one under way last.
    pub changes: Vec<ChangeReport>,
    /// Servers that are neither written to nor read from, and why.
    pub quarantine: Vec<(Box<str>, Box<str>)>,
    /// Whether nobody is promoted without being told to.
    pub maintenance: bool,
}

/// What has happened to a shard, shared by all versions of the topology.
#[derive(Debug, Default)]
pub struct Chronicle(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    standing: Arc<Standing>,
    events: VecDeque<Event>,
}

impl Chronicle {
    /// How it stands.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.contents().standing)
    }

    /// Replaces how it stands.
    pub fn publish(&self, standing: Standing) {
        self.contents().standing = Arc::new(standing);
    }

    /// The latest events, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.contents().events.iter().cloned().collect()
    }

    /// Adds what has happened just now.
    pub fn note(&self, kind: &'static str, text: impl Into<Box<str>>) {
        let mut contents = self.contents();
        if contents.events.len() == MOST_EVENTS {
            contents.events.pop_front();
        }
        contents.events.push_back(Event {
            at: SystemTime::now(),
            kind,
            text: text.into(),
        });
    }

    // each change is one push or one assignment
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_go_first() {
        let chronicle = Chronicle::default();
        for number in 0..=MOST_EVENTS {
            chronicle.note("verdict", number.to_string());
        }
        let events = chronicle.events();
        assert_eq!(events.len(), MOST_EVENTS);
        assert_eq!(&*events[0].text, "1");
    }
}
