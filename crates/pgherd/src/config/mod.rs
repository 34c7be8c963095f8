//! The configuration: YAML in, domain types out.
//!
//! Owns the file's keys ([`raw`]), what they must satisfy, and how errors are shown ([`Report`]). Nobody else reads
//! YAML. The main function is [`load`], the main type [`Config`].

mod convert;
mod environment;
pub mod located;
mod problem;
mod quantity;
pub mod raw;
mod read;
mod reader;
pub mod settings;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use problem::{Problem, Report, Severity};
pub use settings::Config;

use environment::Environment;
use reader::Reader;

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

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the operator should know: not in force, not safe.
    pub warnings: Report,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`]; its text is meant for a terminal.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > read::MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    let source = std::fs::read_to_string(path).map_err(unreadable)?;
    let world_readable = metadata.mode() & environment::WORLD_READABLE != 0;
    parse(
        path,
        &source,
        &|name| std::env::var(name).ok(),
        world_readable,
    )
}

/// Checks a configuration's text as if it stood in `path`, with the given environment variables.
///
/// # Errors
/// [`ConfigError::Invalid`].
pub fn parse(
    path: &Path,
    source: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    world_readable: bool,
) -> Result<Loaded, ConfigError> {
    let report = |problems| Report::new(path, source, problems);
    let file = read::read(source)
        .map_err(|problem| ConfigError::Invalid(Box::new(report(vec![problem]))))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut reader = Reader::new(Environment::new(variable, directory));
    let config = convert::convert(&file, &mut reader);
    if let Some(place) = reader.written_out_secret()
        && world_readable
    {
        reader.warning(
            place,
            "a password stands in a file that every user of this machine can read",
            format!(
                "chmod 600 {}, or write `${{NAME}}` or `file:`",
                path.display()
            ),
        );
    }
    let report = report(reader.into_problems());
    match config {
        Some(config) if !report.has_errors() => Ok(Loaded {
            config,
            warnings: report,
        }),
        Some(_) | None => Err(ConfigError::Invalid(Box::new(report))),
    }
}
