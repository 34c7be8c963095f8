//! What a client has set, so that every server connection that serves it can be brought to the same state.
//!
//! Owns: the session-level settings, and those of the open block; pgherd's own overrides (`pgherd.shard` and its like), which no server
//! knows; and what COMMIT, ROLLBACK and savepoints do to them, as Postgres does (documentation of SET). Never does: sending them
//! (`bringing.rs`). Main types: [`Settings`], [`Overrides`].

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

/// The settings that a connection has beyond its login's; `None` is none.
pub type SettingsList = Option<Arc<CarriedSettings>>;

/// Settings whose value changes no answer: a statement prepared under one value serves under another.
const HARMLESS: [&str; 9] = [
    "application_name",
    "client_min_messages",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "log_statement",
    "log_min_duration_statement",
];

/// Changes a list, which others may hold too.
pub fn change(list: &mut SettingsList, change: impl FnOnce(&mut CarriedSettings)) {
    let mut changed = list.as_deref().cloned().unwrap_or_default();
    change(&mut changed);
    *list = (!changed.is_empty()).then(|| Arc::new(changed));
}

/// What a setting becomes.
#[derive(Debug, Clone, Copy)]
pub enum NewValue<'v> {
    /// These, as SET takes them.
    Texts(&'v [Box<str>]),
    /// The login's.
    Login,
}

impl NewValue<'_> {
    /// Makes it so in a list.
    pub fn put(self, name: &str, list: &mut SettingsList) {
        change(list, |list| match self {
            Self::Texts(texts) => list.set(name, texts.iter().map(AsRef::as_ref)),
            Self::Login => list.reset(name),
        });
    }
}

/// What a savepoint, or the start of a transaction, brings back.
#[derive(Debug, Clone)]
pub struct Mark {
    state: Arc<State>,
}

/// What is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    /// To the end of the session, unless the open transaction is rolled back.
    session: SettingsList,
    /// That, and what the open block has set for itself.
    block: SettingsList,
    overrides: Overrides,
    /// What the overrides will be when SET LOCAL ends.
    session_overrides: Overrides,
    /// Values of the settings that pgherd itself must know (search_path, standard_conforming_strings ...).
    known: Known,
    /// What they will be when SET LOCAL ends.
    session_known: Known,
}

/// Values of settings by name. What a list holds is separated by NUL.
pub type Known = Arc<foldhash::HashMap<Box<str>, Box<str>>>;

fn know(known: &mut Known, name: &str, value: Option<&str>) {
    let known = Arc::make_mut(known);
    match value {
        Some(value) => {
            known.insert(name.into(), value.into());
        }
        None => {
            known.remove(name);
        }
    }
}

/// A client's settings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    version: u64,
    /// Shared with the marks since it last changed.
    state: Arc<State>,
}

impl Settings {
    /// The overrides in force.
    pub fn overrides(&self) -> &Overrides {
        &self.state.overrides
    }

    /// The value of a setting as this client last set it, if it did.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.state.known.get(name).map(AsRef::as_ref)
    }

    /// All values of which [`Self::value`] tells one.
    pub fn known(&self) -> &Known {
        &self.state.known
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What a connection must have to serve the client.
    pub fn session(&self) -> &SettingsList {
        &self.state.session
    }

    /// What is in force, the open block's own settings included, as far as a statement's meaning may depend on it.
    pub fn meaning(&self) -> SettingsList {
        let list = self.state.block.as_ref()?;
        let meaning = list.filtered(|name| !HARMLESS.contains(&name));
        (!meaning.is_empty()).then(|| Arc::new(meaning))
    }

    /// Changes the overrides: for the session, or for the open block only.
    pub fn override_with(&mut self, local: bool, change: impl Fn(&mut Overrides)) {
        let state = self.change();
        change(&mut state.overrides);
        if !local {
            change(&mut state.session_overrides);
        }
    }

    /// Remembers a value that pgherd itself needs to know while it is in force: in the session, or in the open block only. Who is authorized
    /// anew has no role (Postgres documentation, reference: SET SESSION AUTHORIZATION).
    pub fn know(&mut self, name: &str, value: Option<&str>, is_local: bool) {
        let state = self.change();
        let are_equal = state.known == state.session_known;
        if !is_local {
            know(&mut state.session_known, name, value);
        }
        if !is_local && are_equal {
            // shared, as in every session without SET LOCAL
            state.known = Arc::clone(&state.session_known);
        } else {
            know(&mut state.known, name, value);
        }
        if name == "session_authorization" {
            self.know("role", Some("none"), is_local);
        }
    }

    /// Records a setting that a server has made.
    pub fn record(&mut self, name: &str, value: NewValue<'_>) {
        let state = self.change();
        let are_equal = state.block == state.session;
        value.put(name, &mut state.session);
        if are_equal {
            state.block.clone_from(&state.session);
        } else {
            value.put(name, &mut state.block);
        }
    }

    /// Records what a server has set for the open block only.
    pub fn record_local(&mut self, name: &str, value: NewValue<'_>) {
        value.put(name, &mut self.change().block);
    }

    /// RESET ALL: all but the role.
    pub fn reset_all(&mut self) {
        let role = self.state.session_known.get("role").cloned();
        let state = self.change();
        change(&mut state.session, CarriedSettings::reset_all);
        change(&mut state.block, CarriedSettings::reset_all);
        state.session_known =
            Arc::new(role.map(|role| ("role".into(), role)).into_iter().collect());
        state.known = Arc::clone(&state.session_known);
        state.overrides = Overrides::default();
        state.session_overrides = Overrides::default();
    }

    /// Forgets all (DISCARD ALL).
    pub fn clear(&mut self) {
        *self.change() = State::default();
    }

    /// Where a savepoint or a transaction starts.
    pub fn mark(&self) -> Mark {
        Mark {
            state: Arc::clone(&self.state),
        }
    }

    /// Whether the end of a block that began at `start` may change a value that pgherd knows: what holds within it only, or is undone.
    pub fn may_change_at_end_of(&self, start: &Mark) -> bool {
        let known = &self.state.known;
        *known != self.state.session_known || *known != start.state.known
    }

    /// Undoes all since `mark` (ROLLBACK, ROLLBACK TO).
    pub fn undo_to(&mut self, mark: &Mark) {
        if self.state != mark.state {
            self.version += 1;
        }
        self.state = Arc::clone(&mark.state);
    }

    /// The block committed: SET LOCAL ends.
    pub fn commit(&mut self) {
        let State {
            session,
            block,
            overrides,
            session_overrides,
            known,
            session_known,
        } = &*self.state;
        if block == session && known == session_known && overrides == session_overrides {
            return;
        }
        let state = self.change();
        state.block.clone_from(&state.session);
        state.known = Arc::clone(&state.session_known);
        state.overrides.clone_from(&state.session_overrides);
    }

    /// To change what is in force.
    fn change(&mut self) -> &mut State {
        self.version += 1;
        Arc::make_mut(&mut self.state)
    }
}

impl Mark {
    /// What a connection had to have then.
    pub fn session(&self) -> &SettingsList {
        &self.state.session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &mut Settings, name: &str, value: &str) {
        settings.record(name, NewValue::Texts(&[value.into()]));
    }

    #[test]
    fn a_change_of_a_rolled_back_block_is_gone() {
        let mut settings = Settings::default();
        set(&mut settings, "search_path", "a");
        let start = settings.mark();
        let before = settings.session().clone();
        set(&mut settings, "search_path", "b");
        settings.override_with(false, |overrides| overrides.shard = Some(ShardId(1)));
        assert_ne!(*settings.session(), before);
        settings.undo_to(&start);
        assert_eq!(*settings.session(), before);
        assert_eq!(settings.overrides().shard, None);
    }

    #[test]
    fn set_local_ends_with_the_block() {
        let mut settings = Settings::default();
        settings.override_with(true, |overrides| overrides.shard = Some(ShardId(2)));
        settings.record_local("timezone", NewValue::Texts(&["UTC".into()]));
        settings.know("timezone", Some("UTC"), true);
        assert_eq!(settings.overrides().shard, Some(ShardId(2)));
        assert!(settings.meaning().is_some());
        assert!(settings.session().is_none());
        settings.commit();
        assert_eq!(settings.overrides().shard, None);
        assert_eq!(settings.meaning(), None);
        assert_eq!(settings.value("timezone"), None);
    }

    #[test]
    fn a_setting_of_the_session_outlives_one_of_the_block() {
        let mut settings = Settings::default();
        settings.know("search_path", Some("a"), false);
        settings.know("search_path", Some("b"), true);
        settings.know("search_path", Some("c"), false);
        settings.commit();
        assert_eq!(settings.value("search_path"), Some("c"));
    }

    #[test]
    fn a_setting_without_a_say_in_answers_has_no_meaning() {
        let mut settings = Settings::default();
        set(&mut settings, "application_name", "a");
        assert!(settings.session().is_some());
        assert_eq!(settings.meaning(), None);
    }

    #[test]
    fn reset_all_keeps_the_role() {
        let mut settings = Settings::default();
        set(&mut settings, "role", "r");
        settings.know("role", Some("r"), false);
        set(&mut settings, "timezone", "UTC");
        settings.know("timezone", Some("UTC"), false);
        settings.reset_all();
        assert_eq!(settings.value("role"), Some("r"));
        assert_eq!(settings.value("timezone"), None);
        assert!(settings.session().is_some());
    }
}
