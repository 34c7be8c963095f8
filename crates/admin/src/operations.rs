//! The process around the herd, as the console reaches it.
//!
//! Owns: the configuration in force as it is shown, and the periods of statistics. Never does: reading or changing a configuration; the
//! binary does. Main type: [`Operations`].

use std::sync::{Arc, PoisonError, RwLock};

use pgherd_session::Herd;

use crate::statistics::{PERIOD, Statistics};

/// A key of the configuration, as it is shown. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its path into the file.
    pub key: String,
    /// Its value in force; `None` is no limit, or nothing.
    pub value: Option<String>,
    /// Its value where the file says nothing.
    pub default: Option<String>,
    /// Whether a reload puts another value in force.
    pub changeable: bool,
}

/// What the console knows of the process.
#[derive(Debug)]
pub struct Operations {
    configuration: RwLock<Arc<[ConfigEntry]>>,
    statistics: Statistics,
}

impl Default for Operations {
    fn default() -> Self {
        Self::new()
    }
}

impl Operations {
    /// A process that starts now.
    pub fn new() -> Self {
        Self {
            configuration: RwLock::default(),
            statistics: Statistics::begin(),
        }
    }

    /// The configuration in force.
    pub fn configuration(&self) -> Arc<[ConfigEntry]> {
        let configuration = self.configuration.read();
        Arc::clone(&configuration.unwrap_or_else(PoisonError::into_inner))
    }

    /// Another configuration is in force.
    pub fn set_configuration(&self, entries: Vec<ConfigEntry>) {
        let configuration = self.configuration.write();
        *configuration.unwrap_or_else(PoisonError::into_inner) = entries.into();
    }

    /// Figures over periods.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Notes the totals each period; never returns. Cancel-safe.
    pub async fn keep_statistics(&self, herd: &Herd) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.statistics.note(herd);
        }
    }
}
