//! Reads the scalars of the raw configuration into values, and collects what is wrong with them.
//!
//! Owns the wording of each scalar's errors. A message quotes a value as it is written in the file, never what its
//! `${NAME}` stands for. Goes on after an error, so that one run names them all. The main type is [`Reader`].

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::{Environment, EnvironmentError};
use super::located::{At, Number, Place, SecretText, Size, Span, Text};
use super::problem::Problem;
use super::quantity::{self, QuantityError};

/// The environment to read with, and the problems found so far.
#[derive(Debug)]
pub struct Reader<'a> {
    environment: Environment<'a>,
    problems: Vec<Problem>,
    /// Where the first secret stands that is written out in the file itself.
    written_out_secret: Option<Place>,
}

impl<'a> Reader<'a> {
    /// A reader with no problems yet.
    pub fn new(environment: Environment<'a>) -> Self {
        Self {
            environment,
            problems: Vec::new(),
            written_out_secret: None,
        }
    }

    /// Notes a problem, once: what a database has from another is read for both.
    pub fn note(&mut self, problem: Problem) {
        let is_known = self
            .problems
            .iter()
            .any(|known| known.place == problem.place && known.message == problem.message);
        if !is_known {
            self.problems.push(problem);
        }
    }

    /// Notes an error.
    pub fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Problem::error(place, message).help(help));
    }

    /// Notes a warning.
    pub fn warning(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(Problem::warning(place, message).help(help));
    }

    /// The place of a secret that stands in the file itself, if one does.
    pub fn written_out_secret(&self) -> Option<Place> {
        self.written_out_secret
    }

    /// The problems found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Whether an error was noted.
    pub fn failed(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == super::problem::Severity::Error)
    }

    /// A text with its variables replaced; not empty.
    pub fn text(&mut self, text: &At<Text>) -> Option<String> {
        let expanded = self.expand(text.place, &text.value.0)?;
        if expanded.is_empty() {
            self.error(
                text.place,
                "this is empty",
                "give it a value, or leave the key out",
            );
            return None;
        }
        Some(expanded)
    }

    /// A path, relative to the configuration file's directory.
    pub fn path(&mut self, text: &At<Text>) -> Option<PathBuf> {
        let text = self.text(text)?;
        Some(self.environment.path(&text))
    }

    /// A path that was not written, relative to the configuration file's directory.
    pub fn default_path(&self, path: &str) -> PathBuf {
        self.environment.path(path)
    }

    /// A whole number within a range, or the default where it is not written. `None` after an error.
    pub fn number<T>(
        &mut self,
        number: Option<&At<Number>>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let Some(number) = number else {
            return Some(default);
        };
        let written = &number.value.0;
        let expanded = self.expand(number.place, written)?;
        let Ok(value) = expanded.trim().parse::<u64>() else {
            self.error(
                number.place,
                format!("`{written}` is not a whole number"),
                format!("write it in digits, as {default}"),
            );
            return None;
        };
        let value = T::try_from(value)
            .ok()
            .filter(|value| range.contains(value));
        if value.is_none() {
            self.error(
                number.place,
                format!("`{written}` is out of range"),
                format!("it goes from {} to {}", range.start(), range.end()),
            );
        }
        value
    }

    /// A span of time not shorter than `least`, or the default where it is not written.
    pub fn span(
        &mut self,
        span: Option<&At<Span>>,
        default: Duration,
        least: Duration,
    ) -> Option<Duration> {
        let Some(span) = span else {
            return Some(default);
        };
        let written = &span.value.0;
        let expanded = self.expand(span.place, written)?;
        match quantity::span(&expanded) {
            Ok(value) if value < least => {
                self.error(
                    span.place,
                    format!("`{written}` is too short"),
                    format!("it is at least {least:?}"),
                );
                None
            }
            Ok(value) => Some(value),
            Err(error) => {
                let help = match error {
                    QuantityError::NoUnit => {
                        format!("write its unit: `{written}s`, `{written}ms` ...")
                    }
                    _ => "write a whole number and us, ms, s, m, h or d: `30s`".to_owned(),
                };
                self.error(
                    span.place,
                    format!("`{written}` is not a span of time: {error}"),
                    help,
                );
                None
            }
        }
    }

    /// An amount of memory in bytes, or the default where it is not written.
    pub fn size(&mut self, size: Option<&At<Size>>, default: u64) -> Option<u64> {
        let Some(size) = size else {
            return Some(default);
        };
        let written = &size.value.0;
        let expanded = self.expand(size.place, written)?;
        match quantity::size(&expanded) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(
                    size.place,
                    format!("`{written}` is not an amount of memory: {error}"),
                    "write a whole number and B, KiB, MiB or GiB: `64MiB`",
                );
                None
            }
        }
    }

    /// A secret: written out, from a variable, or from a file. Nothing of it is ever in a message.
    pub fn secret(&mut self, secret: &At<SecretText>) -> Option<String> {
        match self.environment.secret(&secret.value.0) {
            Ok(found) => {
                if let Some(path) = &found.world_readable {
                    self.warning(
                        secret.place,
                        format!("every user of this machine can read {}", path.display()),
                        format!("chmod 600 {}", path.display()),
                    );
                }
                if found.written_out {
                    self.written_out_secret.get_or_insert(secret.place);
                }
                if found.text.is_empty() {
                    self.error(
                        secret.place,
                        "this password is empty",
                        "give one, or leave the key out",
                    );
                    return None;
                }
                Some(found.text)
            }
            Err(error) => {
                self.environment_error(secret.place, &error);
                None
            }
        }
    }

    fn expand(&mut self, place: Place, text: &str) -> Option<String> {
        match self.environment.expand(text) {
            Ok(expanded) => Some(expanded),
            Err(error) => {
                self.environment_error(place, &error);
                None
            }
        }
    }

    fn environment_error(&mut self, place: Place, error: &EnvironmentError) {
        let help = match error {
            EnvironmentError::Unset(name) => {
                format!("set {name} for pgherd, or write `$$` where a dollar sign is meant")
            }
            EnvironmentError::Unclosed | EnvironmentError::NotAName => {
                "write `${NAME}`, or `$$` where a dollar sign is meant".to_owned()
            }
            EnvironmentError::Unreadable { .. }
            | EnvironmentError::TooLarge(_)
            | EnvironmentError::NotText(_) => {
                "`file:` is followed by a path relative to this configuration file".to_owned()
            }
        };
        self.error(place, error.to_string(), help);
    }
}
