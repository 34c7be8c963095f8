//! The log.
//!
//! Owns: its format, its filter, and changing the filter while the process runs. It goes to standard error. Never does: rotating files, which
//! is the service manager's. Main types: [`LogSettings`], [`LogHandle`].

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The format; it cannot change while the process runs.
    pub format: LogFormat,
    /// A level (`info`), or directives by target (`info,pgherd_session=debug`).
    pub level: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: "info".to_owned(),
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be read.
    #[error(
        "{level:?} is neither a level (error, warn, info, debug, trace) nor a list of directives: {why}"
    )]
    Level {
        /// The text.
        level: String,
        /// What is wrong with it.
        why: String,
    },
    /// The process logs already.
    #[error("logging was set up before")]
    Started,
}

/// Changes the log's filter.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl LogHandle {
    /// Logs at another level from now on.
    ///
    /// # Errors
    /// [`LoggingError::Level`]; the level so far stays in force.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        let filter = parse_filter(level)?;
        // fails only once the subscriber is gone, and with it the log
        self.filter
            .reload(filter)
            .map_err(|_| LoggingError::Started)
    }
}

/// Whether [`start`] and [`LogHandle::set_level`] would take this level.
///
/// # Errors
/// [`LoggingError::Level`].
pub fn check_level(level: &str) -> Result<(), LoggingError> {
    parse_filter(level).map(drop)
}

/// Starts the log of this process, on standard error.
///
/// # Errors
/// See [`LoggingError`].
pub fn start(settings: &LogSettings) -> Result<LogHandle, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&settings.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|_| LoggingError::Started)?;
    Ok(LogHandle { filter: handle })
}

fn parse_filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let refused = |why: String| LoggingError::Level {
        level: level.to_owned(),
        why,
    };
    if level.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // a lone word that is no level would be taken for a target
    for directive in level.split(',') {
        let directive = directive.trim();
        if !directive.contains(['=', '['])
            && directive.parse::<tracing::metadata::LevelFilter>().is_err()
        {
            return Err(refused(format!("unknown level {directive:?}")));
        }
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn levels_and_directives_are_read() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,pgherd_session=debug",
            "pgherd_pool=trace",
        ] {
            check_level(level).unwrap();
        }
    }

    #[test]
    fn a_misspelt_level_is_an_error_that_names_the_right_ones() {
        for level in ["", "inof", "info,verbose", "pgherd=loud"] {
            let error = check_level(level).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("error, warn, info, debug, trace"),
                "{error}"
            );
        }
    }
}
