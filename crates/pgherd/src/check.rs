//! `pgherd check`: is the configuration right?

use std::path::Path;

use crate::config::{self, ConfigError};

/// Checks the file alone and returns what to print when it is right.
///
/// # Errors
/// [`ConfigError`]; exit code 2.
pub fn check_file(path: &Path) -> Result<String, ConfigError> {
    config::load(path)?;
    Ok(format!("{}: right\n", path.display()))
}
