//! What a client has set, so that every server connection that serves it can be brought to the same state.
//!
//! Owns: the session-level settings as the statements that made them, in order and by name; pgherd's own overrides
//! (`pgherd.shard` and its like), which no server knows; and what COMMIT, ROLLBACK and savepoints do to both, as Postgres does
//! (documentation of SET). Never does: sending them. Main types: [`Settings`], [`Overrides`].

use std::collections::HashMap;
use std::sync::Arc;

use pgherd_pool::CarriedSettings;

use pgherd_topology::ShardId;

/// Which server a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedRole {
    /// The primary, also for reads.
    Primary,
    /// A replica, also for what is not proven to be a read.
    Replica,
}

/// pgherd's own settings, in force for one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `pgherd.shard`.
    pub shard: Option<ShardId>,
    /// `pgherd.sharding_key`, as text.
    pub sharding_key: Option<Box<str>>,
    /// `pgherd.role`.
    pub role: Option<WantedRole>,
    /// `pgherd.unchecked`: rows may be written where the map does not expect them.
    pub unchecked: bool,
}

/// One session-level change, as the statement that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    version: u64,
    name: Box<str>,
    text: Box<str>,
}

/// What a savepoint, or the start of a block, brings back.
#[derive(Debug, Clone)]
pub struct Mark {
    pending: usize,
    overrides: Overrides,
    session_overrides: Overrides,
    known: HashMap<Box<str>, Box<str>>,
}

/// A client's settings.
#[derive(Debug, Default)]
pub struct Settings {
    version: u64,
    changes: Vec<Change>,
    /// What the startup message asked for; `None` where that was nothing, or nothing that a connection can be freed of again.
    startup: Option<Arc<CarriedSettings>>,
    /// Whether the changes are those of the startup message and no others.
    only_startup: bool,
    /// Made in the open block, kept if it commits.
    pending: Vec<(Box<str>, Box<str>)>,
    overrides: Overrides,
    /// What the overrides will be when SET LOCAL ends.
    session_overrides: Overrides,
    /// Values of the settings that pgherd itself must know (search_path, standard_conforming_strings ...).
    known: HashMap<Box<str>, Box<str>>,
}

impl Settings {
    /// The overrides in force.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The value of a setting as this client last set it, if it did.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(AsRef::as_ref)
    }

    /// The version that a server connection has once every change so far was applied to it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes the overrides: for the session, or for the open block only.
    pub fn override_with(&mut self, local: bool, change: impl Fn(&mut Overrides)) {
        change(&mut self.overrides);
        if !local {
            change(&mut self.session_overrides);
        }
    }

    /// Remembers a value that pgherd itself needs to know while it is in force.
    pub fn know(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => {
                self.known.insert(name.into(), value.into());
            }
            None => {
                self.known.remove(name);
            }
        }
    }

    /// Takes the changes so far for those of the startup message, which [`CarriedSettings`] sum up where `undo` can take them back.
    pub fn begin(&mut self, undo: Option<String>) {
        self.only_startup = true;
        self.startup = undo.and_then(|undo| {
            Some(Arc::new(CarriedSettings {
                apply: self.replay_from(0)?.into(),
                undo: undo.into(),
            }))
        });
    }

    /// What a connection may keep when it goes to another client: `Some(None)` is nothing. `None` where the client has changed
    /// something since its startup.
    pub fn carried(&self) -> Option<Option<&Arc<CarriedSettings>>> {
        let fits = self.startup.is_some() || self.changes.is_empty();
        (self.only_startup && fits).then_some(self.startup.as_ref())
    }

    /// Records a session-level change that a server accepted outside of a block.
    pub fn record(&mut self, name: &str, text: &str) {
        self.only_startup = false;
        self.version += 1;
        self.changes.retain(|change| &*change.name != name);
        self.changes.push(Change {
            version: self.version,
            name: name.into(),
            text: text.into(),
        });
    }

    /// Records a session-level change made in a block: it stays if the block commits.
    pub fn record_pending(&mut self, name: &str, text: &str) {
        self.pending.push((name.into(), text.into()));
    }

    /// Forgets all (DISCARD ALL, RESET ALL).
    pub fn clear(&mut self) {
        self.version += 1;
        self.changes.clear();
        self.pending.clear();
        self.known.clear();
        self.overrides = Overrides::default();
        self.session_overrides = Overrides::default();
    }

    /// The statements that bring a connection from `version` to now, or `None` where it is there already.
    pub fn replay_from(&self, version: u64) -> Option<String> {
        let mut text = String::new();
        for change in self
            .changes
            .iter()
            .filter(|change| change.version > version)
        {
            text.push_str(&change.text);
            text.push_str(";\n");
        }
        (!text.is_empty()).then_some(text)
    }

    /// Where a savepoint or a block starts.
    pub fn mark(&self) -> Mark {
        Mark {
            pending: self.pending.len(),
            overrides: self.overrides.clone(),
            session_overrides: self.session_overrides.clone(),
            known: self.known.clone(),
        }
    }

    /// Undoes all since `mark` (ROLLBACK, ROLLBACK TO).
    pub fn undo_to(&mut self, mark: &Mark) {
        self.pending.truncate(mark.pending);
        self.overrides.clone_from(&mark.overrides);
        self.session_overrides.clone_from(&mark.session_overrides);
        self.known.clone_from(&mark.known);
    }

    /// The block committed: its session-level changes stay, SET LOCAL ends. `local_names` are the settings that the block had
    /// set for itself only; what they were before is `start`'s.
    pub fn commit(&mut self, start: &Mark, local_names: &[Box<str>]) {
        for (name, text) in std::mem::take(&mut self.pending) {
            self.record(&name, &text);
        }
        self.overrides.clone_from(&self.session_overrides);
        for name in local_names {
            match start.known.get(name) {
                Some(value) => self.known.insert(name.clone(), value.clone()),
                None => self.known.remove(name),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_rolled_back_block_is_gone() {
        let mut settings = Settings::default();
        settings.record("search_path", "SET search_path = a");
        let start = settings.mark();
        settings.record_pending("search_path", "SET search_path = b");
        settings.override_with(false, |overrides| overrides.shard = Some(ShardId(1)));
        settings.undo_to(&start);
        assert_eq!(
            settings.replay_from(0).as_deref(),
            Some("SET search_path = a;\n")
        );
        assert_eq!(settings.overrides().shard, None);
    }

    #[test]
    fn the_last_change_of_a_name_is_the_one_replayed() {
        let mut settings = Settings::default();
        settings.record("search_path", "SET search_path = a");
        let before = settings.version();
        settings.record("search_path", "SET search_path = b");
        assert_eq!(
            settings.replay_from(0).as_deref(),
            Some("SET search_path = b;\n")
        );
        assert_eq!(
            settings.replay_from(before).as_deref(),
            Some("SET search_path = b;\n")
        );
        assert_eq!(settings.replay_from(settings.version()), None);
    }

    #[test]
    fn set_local_of_an_override_ends_with_the_block() {
        let mut settings = Settings::default();
        let start = settings.mark();
        settings.override_with(true, |overrides| overrides.shard = Some(ShardId(2)));
        assert_eq!(settings.overrides().shard, Some(ShardId(2)));
        settings.commit(&start, &[]);
        assert_eq!(settings.overrides().shard, None);
    }
}
