//! `${NAME}` and `file:`: what a text of the configuration stands for.
//!
//! Owns the replacement of environment variables and the reading of secrets from files. What a variable or a file
//! holds is taken as it is: nothing in it is replaced again. Never puts a value into an error. The main type is
//! [`Environment`].

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Largest secret that is read from a file, in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// The permission bits of "others may read".
pub const WORLD_READABLE: u32 = 0o004;

/// Where variables come from and what relative paths are relative to.
pub struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    directory: PathBuf,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Why a text stands for nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The variable is not set, or not UTF-8.
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    /// `${` without its `}`.
    #[error("`${{` is not closed by `}}`")]
    Unclosed,
    /// What stands between the braces cannot be a variable's name.
    #[error("what stands in `${{...}}` is not the name of an environment variable")]
    NotAName,
    /// A secret's file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A secret's file is larger than any secret.
    #[error("{} is larger than {MAX_SECRET_BYTES} bytes: that is no password", .0.display())]
    TooLarge(PathBuf),
    /// A secret's file is not text.
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
}

/// A secret as found, and what is to be said about where it was found.
#[derive(PartialEq, Eq)]
pub struct FoundSecret {
    /// The secret itself.
    pub text: String,
    /// Whether it stands in the configuration itself, in the clear.
    pub written_out: bool,
    /// The file it was read from, if everybody may read that.
    pub world_readable: Option<PathBuf>,
}

impl<'a> Environment<'a> {
    /// Variables by name, and the directory that relative paths start from.
    pub fn new(variable: &'a dyn Fn(&str) -> Option<String>, directory: &Path) -> Self {
        Self {
            variable,
            directory: directory.to_owned(),
        }
    }

    /// The text with each `${NAME}` replaced and each `$$` made one `$`. Any other `$` stays as it is, so that a SCRAM
    /// verifier needs no escapes.
    ///
    /// # Errors
    /// The first variable that is not set or not named rightly.
    pub fn expand(&self, text: &str) -> Result<String, EnvironmentError> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(position) = rest.find('$') {
            let (before, from_dollar) = rest.split_at(position);
            expanded.push_str(before);
            if let Some(after) = from_dollar.strip_prefix("$$") {
                expanded.push('$');
                rest = after;
            } else if let Some(after) = from_dollar.strip_prefix("${") {
                let (name, after) = after.split_once('}').ok_or(EnvironmentError::Unclosed)?;
                if !is_name(name) {
                    return Err(EnvironmentError::NotAName);
                }
                let value = (self.variable)(name);
                expanded.push_str(&value.ok_or_else(|| EnvironmentError::Unset(name.to_owned()))?);
                rest = after;
            } else {
                expanded.push('$');
                rest = &from_dollar[1..];
            }
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// A path as seen from the configuration file's directory.
    pub fn path(&self, text: &str) -> PathBuf {
        self.directory.join(text)
    }

    /// The secret that a text gives or names: `file:` and a path, else the expanded text. One newline at a file's end
    /// is not part of the secret.
    ///
    /// # Errors
    /// As [`Environment::expand`], and where the file cannot be read.
    pub fn secret(&self, text: &str) -> Result<FoundSecret, EnvironmentError> {
        let Some(path) = text.strip_prefix("file:") else {
            let expanded = self.expand(text)?;
            return Ok(FoundSecret {
                written_out: !text.contains("${"),
                text: expanded,
                world_readable: None,
            });
        };
        let path = self.path(self.expand(path)?.trim());
        let unreadable = |error: std::io::Error| EnvironmentError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        };
        let file = std::fs::File::open(&path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        let mut bytes = Vec::new();
        file.take(MAX_SECRET_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 > MAX_SECRET_BYTES {
            return Err(EnvironmentError::TooLarge(path));
        }
        let mut text =
            String::from_utf8(bytes).map_err(|_| EnvironmentError::NotText(path.clone()))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(FoundSecret {
            text,
            written_out: false,
            world_readable: (mode & WORLD_READABLE != 0).then_some(path),
        })
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn variable(name: &str) -> Option<String> {
        match name {
            "USER_NAME" => Some("app".to_owned()),
            "NESTED" => Some("${USER_NAME}$$".to_owned()),
            _ => None,
        }
    }

    fn expand(text: &str) -> Result<String, EnvironmentError> {
        Environment::new(&variable, Path::new("/")).expand(text)
    }

    #[test]
    fn variables_are_replaced_inside_texts_and_once_only() {
        assert_eq!(expand("a-${USER_NAME}-b").unwrap(), "a-app-b");
        assert_eq!(expand("${NESTED}").unwrap(), "${USER_NAME}$$");
    }

    #[test]
    fn a_dollar_is_escaped_by_a_dollar_and_stands_for_itself_elsewhere() {
        assert_eq!(expand("a$$b").unwrap(), "a$b");
        assert_eq!(expand("$${USER_NAME}").unwrap(), "${USER_NAME}");
        assert_eq!(
            expand("SCRAM-SHA-256$4096:c2E=$a:b").unwrap(),
            "SCRAM-SHA-256$4096:c2E=$a:b"
        );
        assert_eq!(expand("a$").unwrap(), "a$");
    }

    #[test]
    fn what_stands_for_nothing_is_an_error() {
        assert_eq!(
            expand("${NOPE}"),
            Err(EnvironmentError::Unset("NOPE".to_owned()))
        );
        assert_eq!(expand("${USER_NAME"), Err(EnvironmentError::Unclosed));
        assert_eq!(expand("${}"), Err(EnvironmentError::NotAName));
        assert_eq!(expand("${a-b}"), Err(EnvironmentError::NotAName));
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        std::fs::write(&path, " hunter$$2 \r\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let environment = Environment::new(&variable, directory.path());
        let secret = environment.secret("file:${USER_NAME}").unwrap();
        assert_eq!(secret.text, " hunter$$2 ");
        assert_eq!(secret.world_readable, None);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let secret = environment.secret("file:app").unwrap();
        assert_eq!(secret.world_readable, Some(path));
        assert!(matches!(
            environment.secret("file:nope"),
            Err(EnvironmentError::Unreadable { .. })
        ));
    }
}
