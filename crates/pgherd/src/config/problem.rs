//! What is wrong with a configuration file, and how it is shown: file, line, snippet, caret, and what would be right.
//!
//! Owns the wording's frame and the rule that no secret is ever shown: a line is printed up to the word `password`
//! and no further, and one that may be the rest of a password is named by its number alone. The main types are [`Problem`] and [`Report`].

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use super::located::Place;

/// Longest part of a line that is shown; longer ones are cut round the caret.
const SNIPPET_CHARACTERS: usize = 120;

/// Whether pgherd can run in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but the operator should know.
    Warning,
}

/// One thing that is wrong, or not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether pgherd can run in spite of it.
    pub severity: Severity,
    /// Where; line 0 for the file as a whole.
    pub place: Place,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Whether the line may be shown behind the place: not behind a mistyped key, which may have meant a password.
    pub shown_behind: bool,
}

impl Problem {
    /// An error at a place.
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place,
            message: message.into(),
            help: None,
            shown_behind: true,
        }
    }

    /// A warning at a place.
    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }

    /// The same, with nothing shown of what stands behind the place.
    #[must_use]
    pub fn hide_behind(mut self) -> Self {
        self.shown_behind = false;
        self
    }

    /// With what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The problems of one file, with what is needed to show them.
#[derive(Clone, Debug)]
pub struct Report {
    file: PathBuf,
    lines: Vec<Showable>,
    problems: Vec<Problem>,
}

impl Report {
    /// A report on `source`, read from `file`; its problems come in the file's order.
    pub fn new(file: &Path, source: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        Self {
            file: file.to_owned(),
            lines: showable_lines(source),
            problems,
        }
    }

    /// The problems, in the file's order.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Each problem as one line, for the log: `pgherd.yaml:12:5: message (help)`.
    pub fn log_lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        self.problems.iter().map(|problem| {
            let mut line = format!("{}: {}", self.position(problem.place), problem.message);
            if let Some(help) = &problem.help {
                // writing to a String cannot fail
                let _ = write!(line, " ({help})");
            }
            (problem.severity, line)
        })
    }

    fn position(&self, place: Place) -> String {
        let file = self.file.display();
        match place {
            Place { line: 0, .. } => file.to_string(),
            Place { line, column, .. } => format!("{file}:{line}:{column}"),
        }
    }

    fn write_problem(&self, out: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let kind = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let number = problem.place.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(out, "{kind}: {}", problem.message)?;
        writeln!(out, "{margin}--> {}", self.position(problem.place))?;
        if let Some(line) = problem.place.line.checked_sub(1)
            && let Some(line) = self.lines.get(line)
        {
            writeln!(out, "{margin} |")?;
            match line.at(problem.place) {
                Some(text) => {
                    let text = match problem.shown_behind {
                        true => text,
                        false => up_to_end(&text, problem.place),
                    };
                    let (text, caret) = snippet(&text, problem.place);
                    writeln!(out, "{number} | {text}")?;
                    writeln!(out, "{margin} | {caret}")?;
                }
                None => writeln!(out, "{number} | (not shown: this line holds a password)")?,
            }
        }
        if let Some(help) = &problem.help {
            writeln!(out, "{margin} = help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            self.write_problem(out, problem)?;
        }
        Ok(())
    }
}

/// The line up to the place's end.
fn up_to_end(line: &str, place: Place) -> String {
    let shown = place.column.saturating_sub(1) + place.length;
    let mut text: String = line.chars().take(shown).collect();
    if text.len() < line.trim_end().len() {
        text.push_str(": ...");
    }
    text
}

/// The part of a line round the place, and the carets under it.
fn snippet(line: &str, place: Place) -> (String, String) {
    let characters: Vec<char> = line
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    let column = place.column.saturating_sub(1).min(characters.len());
    let start = if column < SNIPPET_CHARACTERS {
        0
    } else {
        column - SNIPPET_CHARACTERS / 2
    };
    let end = characters.len().min(start + SNIPPET_CHARACTERS);
    // a mapping's length is that of all its lines, or nothing: one caret then says "here"
    let length = match place.length {
        length if column + length <= end => length.max(1),
        _ => 1,
    };
    let text: String = characters[start..end].iter().collect();
    let caret = format!("{}{}", " ".repeat(column - start), "^".repeat(length));
    (text.trim_end().to_owned(), caret)
}

/// A line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Showable {
    /// Whole.
    Whole(String),
    /// Up to and with the key `password`; what follows is secret.
    UpTo(String),
    /// Not at all.
    Hidden,
}

impl Showable {
    /// The text to show for a caret at `place`, unless the caret would stand in what is hidden.
    fn at(&self, place: Place) -> Option<String> {
        match self {
            Self::Whole(text) => Some(text.clone()),
            Self::UpTo(text) if place.column <= text.chars().count() => Some(format!("{text} ***")),
            Self::UpTo(_) | Self::Hidden => None,
        }
    }
}

/// The lines of a file as they may be shown.
fn showable_lines(source: &str) -> Vec<Showable> {
    const KEY: &str = "password";
    let mut hidden_below: Option<usize> = None;
    let mut lines = Vec::new();
    for line in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let blank = line.trim().is_empty();
        if !blank && hidden_below.is_some_and(|column| indent <= column) {
            hidden_below = None;
        }
        let continued = hidden_below.is_some();
        // lowering ASCII letters alone keeps every byte's position
        let found = line.to_ascii_lowercase().find(KEY);
        if let Some(position) = found {
            // inside `{ ... }` the value may go on at any indentation deeper than the line's own
            let column = if line[..position].contains('{') {
                indent
            } else {
                position
            };
            hidden_below = Some(hidden_below.map_or(column, |known| known.min(column)));
        }
        lines.push(match (continued, found) {
            (true, _) => Showable::Hidden,
            (false, None) => Showable::Whole(line.to_owned()),
            (false, Some(position)) => {
                Showable::UpTo(format!("{}:", &line[..position + KEY.len()]))
            }
        });
    }
    lines
}

/// Whether a value at `place` may be a secret, so that no message may quote it.
pub(super) fn may_be_secret(source: &str, place: Place) -> bool {
    place
        .line
        .checked_sub(1)
        .and_then(|index| showable_lines(source).into_iter().nth(index))
        .is_none_or(|line| line.at(place).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> String {
        showable_lines(source)
            .iter()
            .map(|line| match line {
                Showable::Whole(_) => 'w',
                Showable::UpTo(_) => 'p',
                Showable::Hidden => '-',
            })
            .collect()
    }

    #[test]
    fn a_password_and_what_continues_it_are_hidden() {
        assert_eq!(shown("a: 1\npassword: x\nb: 2"), "wpw");
        assert_eq!(
            shown("- name: a\n  password: >\n    one\n\n    two\n  trust: x"),
            "wp---w"
        );
        assert_eq!(shown("- password: x\n  name: b"), "pw");
        assert_eq!(
            shown("users: [{ name: a, password:\n    x }]\npool: 1"),
            "p-w"
        );
        assert_eq!(
            shown("users:\n  - { name: a, PASSWORD: x }\n  - { name: b }"),
            "wpw"
        );
    }

    #[test]
    fn a_line_is_shown_up_to_its_password() {
        let source = "server_login: { usr: app, password: hunter2, tls: 1 }";
        let before = Report::new(
            Path::new("a"),
            source,
            vec![Problem::error(
                Place {
                    line: 1,
                    column: 17,
                    length: 3,
                },
                "m",
            )],
        );
        assert!(
            before.to_string().contains("{ usr: app, password: ***\n"),
            "{before}"
        );
        let after = Report::new(
            Path::new("a"),
            source,
            vec![Problem::error(
                Place {
                    line: 1,
                    column: 46,
                    length: 3,
                },
                "m",
            )],
        );
        assert!(after.to_string().contains("not shown"), "{after}");
        assert!(!format!("{before}{after}").contains("hunter2"));
    }

    #[test]
    fn a_snippet_points_at_the_value() {
        let source = "listen:\n  max_clients: many\n";
        let place = Place {
            line: 2,
            column: 16,
            length: 4,
        };
        let problem =
            Problem::error(place, "`many` is not a whole number").help("write it as 10000");
        let report = Report::new(Path::new("a.yaml"), source, vec![problem]);
        assert_eq!(
            report.to_string(),
            "error: `many` is not a whole number\n --> a.yaml:2:16\n  |\n2 |   max_clients: many\n  |                ^^^^\n  = help: write it as 10000\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_round_the_caret() {
        let line = format!("{}x{}", " ".repeat(500), "y".repeat(500));
        let (text, caret) = snippet(
            &line,
            Place {
                line: 1,
                column: 501,
                length: 1,
            },
        );
        assert!(text.chars().count() <= SNIPPET_CHARACTERS);
        assert_eq!(text.chars().nth(caret.chars().count() - 1), Some('x'));
    }
}
