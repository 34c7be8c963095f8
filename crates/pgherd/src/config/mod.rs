//! The configuration: YAML in, domain types out.
//!
//! Owns the file's keys ([`raw`]), what they must satisfy, and how errors are shown ([`Report`]). Nobody else reads
//! YAML. The main function is [`load`].

pub mod located;
mod problem;
pub mod raw;
mod read;

use std::path::{Path, PathBuf};

pub use problem::{Problem, Report, Severity};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} is larger than {} bytes: that is no configuration of pgherd", path.display(), read::MAX_FILE_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// What it says is wrong.
    #[error("{0}")]
    Invalid(Box<Report>),
}

/// Reads a file's text, bounded.
///
/// # Errors
/// [`ConfigError::Unreadable`] and [`ConfigError::TooLarge`].
fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > read::MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`]; its text is meant for a terminal.
pub fn load(path: &Path) -> Result<raw::File, ConfigError> {
    let source = read_text(path)?;
    read::read(&source).map_err(|problem| {
        ConfigError::Invalid(Box::new(Report::new(path, &source, vec![problem])))
    })
}
