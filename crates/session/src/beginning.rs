//! What clients ask for at their startup, kept once for all that ask for the same.
//!
//! Owns: the settings of a startup message, as they were given and as a session records them. Thousands of clients are one
//! application's, and differ in nothing. Never does: asking a server. Main types: [`Beginning`], [`Beginnings`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pgherd_router::{LISTS_OF_NAMES, list_members};

use crate::parameters::is_own_setting;
use crate::settings::{NewValue, Settings};

/// How many different ones are shared.
const CAPACITY: usize = 256;

/// A setting as a startup message gives it.
pub type StartupSetting = (Box<str>, Box<str>);

/// What a client begins with.
#[derive(Debug)]
pub struct Beginning {
    startup: Box<[StartupSetting]>,
    settings: Settings,
}

impl Beginning {
    fn new(startup: Box<[StartupSetting]>) -> Self {
        let mut beginning = Self {
            startup,
            settings: Settings::default(),
        };
        let mut settings = Settings::default();
        beginning.put(&mut settings);
        beginning.settings = settings;
        beginning
    }

    /// The settings of the startup message, pgherd's own among them.
    pub fn startup(&self) -> &[StartupSetting] {
        &self.startup
    }

    /// Those for servers, recorded.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Records those for servers.
    pub fn put(&self, settings: &mut Settings) {
        for (name, texts) in self.lists() {
            settings.record(&name, NewValue::Texts(&texts));
            settings.know(&name, Some(&texts.join("\u{0}")), false);
        }
    }

    /// Those for servers: names in lower case, values as SET takes them.
    pub fn lists(&self) -> Vec<(String, Box<[Box<str>]>)> {
        let lists = self.startup.iter();
        lists
            .filter(|(name, _)| !is_own_setting(name))
            .map(|(name, value)| {
                let name = name.to_ascii_lowercase();
                let texts = set_form(&name, value);
                (name, texts)
            })
            .collect()
    }

    /// The value of one as SET takes it.
    pub fn texts(&self, name: &str) -> Option<Box<[Box<str>]>> {
        self.value(name).map(|value| set_form(name, value))
    }

    /// The value of one as it was given.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.startup
            .iter()
            .find(|(startup, _)| startup.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }
}

/// Those of a database's clients.
#[derive(Debug, Default)]
pub struct Beginnings {
    known: Mutex<HashMap<Box<[StartupSetting]>, Weak<Beginning>>>,
}

impl Beginnings {
    /// The one with these settings.
    pub fn of(&self, startup: Box<[StartupSetting]>) -> Arc<Beginning> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(beginning) = known.get(&startup).and_then(Weak::upgrade) {
            return beginning;
        }
        if known.len() >= CAPACITY {
            known.retain(|_, beginning| beginning.strong_count() > 0);
        }
        let beginning = Arc::new(Beginning::new(startup.clone()));
        if known.len() < CAPACITY {
            known.insert(startup, Arc::downgrade(&beginning));
        }
        beginning
    }
}

/// A startup message's value as SET takes it: the members of a list of names apart.
fn set_form(name: &str, value: &str) -> Box<[Box<str>]> {
    if LISTS_OF_NAMES.contains(&name) {
        list_members(value)
    } else {
        [value.into()].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(value: &str) -> Box<[StartupSetting]> {
        [
            ("Search_Path".into(), value.into()),
            ("pgherd.shard".into(), "s1".into()),
        ]
        .into()
    }

    #[test]
    fn clients_that_ask_for_the_same_share_it() {
        let beginnings = Beginnings::default();
        let first = beginnings.of(startup("a, b"));
        assert!(Arc::ptr_eq(&first, &beginnings.of(startup("a, b"))));
        assert!(!Arc::ptr_eq(&first, &beginnings.of(startup("a"))));
        assert_eq!(first.settings().value("search_path"), Some("a\u{0}b"));
        assert_eq!(first.settings().value("pgherd.shard"), None);
        assert_eq!(first.value("search_path"), Some("a, b"));
    }

    #[test]
    fn what_nobody_has_any_more_makes_room() {
        let beginnings = Beginnings::default();
        for number in 0..CAPACITY * 3 {
            beginnings.of(startup(&number.to_string()));
        }
        let kept = beginnings.of(startup("kept"));
        assert!(Arc::ptr_eq(&kept, &beginnings.of(startup("kept"))));
    }
}
