//! The console's language.
//!
//! Owns: from a statement's text to an [`AdminCommand`]: any case, any white space, comments, a semicolon or none. Never does: running
//! them (see `commands`). Main type: [`AdminCommand`].

use pgherd_protocol::{PgError, SqlState};
use pgherd_session::CONSOLE_SERVER_VERSION;

use crate::commands::set::is_of_drivers;
use crate::commands::{DOINGS, Show};
use crate::doing::Doing;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminCommand {
    /// Rows of pgherd's own.
    Show {
        /// Which.
        show: &'static Show,
        /// Those alone whose naming column is like this.
        like: Option<String>,
    },
    /// What would come of a failover.
    ExplainFailover {
        /// The shard, as `shard` or `database.shard`.
        shard: String,
    },
    /// SHOW of a setting that drivers ask for at login.
    ShowSetting {
        /// Its name.
        name: &'static str,
        /// Its value here.
        value: &'static str,
    },
    /// A command that changes something.
    Do {
        /// Which.
        doing: &'static Doing,
        /// What follows its words.
        arguments: Vec<String>,
    },
    /// SET or RESET of what drivers send at login: here they mean nothing.
    Set {
        /// The tag of the answer.
        tag: &'static str,
    },
    /// BEGIN: drivers wrap statements in blocks, and here they mean nothing.
    Begin {
        /// The tag of the answer.
        tag: &'static str,
    },
    /// COMMIT or ROLLBACK.
    End {
        /// The tag of the answer.
        tag: &'static str,
    },
    /// `SELECT 1` and the like, by which drivers and pools see whether a connection lives.
    Ping {
        /// The number selected.
        value: i32,
    },
}

/// Settings that drivers read; the console has no others.
const SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("extra_float_digits", "1"),
    ("server_encoding", "UTF8"),
    ("server_version", CONSOLE_SERVER_VERSION),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
];

/// What this console will show and do: said to be missing rather than unknown.
const NOT_YET: &[&str] = &["PREPARED", "TRANSACTIONS"];

/// Commands of this console's that this version does not have, and those of PgBouncer's that it never will.
const NOT_DONE: &[&str] = &["EXPLAIN", "SUSPEND"];

/// What PgBouncer's console shows of itself alone.
const NEVER: &[&str] = &[
    "ACTIVE_SOCKETS",
    "DNS_HOSTS",
    "DNS_ZONES",
    "FDS",
    "PEERS",
    "PEER_POOLS",
    "SOCKETS",
];

impl AdminCommand {
    /// Reads the statements of a query string; none where it is empty.
    ///
    /// # Errors
    /// 42601 for what is no command of the console, 0A000 for one of PgBouncer's that this version does not have.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, PgError> {
        split_statements(text)
            .iter()
            .map(|statement| Self::parse(statement))
            .collect()
    }

    /// Reads one statement, as its words.
    fn parse(words: &[String]) -> Result<Self, PgError> {
        let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        match upper.as_slice() {
            ["SHOW"] | ["HELP"] => parse_show(&["HELP"]).ok_or_else(|| unknown(words)),
            ["SHOW", word, ..] if NOT_YET.contains(word) || NEVER.contains(word) => {
                Err(not_supported(&format!("SHOW {word}")))
            }
            ["SHOW", word, "LIKE", _] => like(word, &words[3]).ok_or_else(|| unknown(words)),
            ["SHOW", rest @ ..] => parse_show(rest).ok_or_else(|| unknown(words)),
            ["EXPLAIN", "FAILOVER", "SHARD", _] => Ok(Self::ExplainFailover {
                shard: unquoted(&words[3]),
            }),
            ["SET", _, ..] if is_of_drivers(&words[1..]) => Ok(Self::Set { tag: "SET" }),
            ["RESET", _, ..] => Ok(Self::Set { tag: "RESET" }),
            ["DISCARD", "ALL"] => Ok(Self::Set { tag: "DISCARD ALL" }),
            ["BEGIN", ..] => Ok(Self::Begin { tag: "BEGIN" }),
            ["START", "TRANSACTION", ..] => Ok(Self::Begin {
                tag: "START TRANSACTION",
            }),
            ["COMMIT" | "END", ..] => Ok(Self::End { tag: "COMMIT" }),
            ["ROLLBACK" | "ABORT", ..] => Ok(Self::End { tag: "ROLLBACK" }),
            ["SELECT", number] => number
                .parse()
                .map(|value| Self::Ping { value })
                .map_err(|_| unknown(words)),
            [word, ..] if NOT_DONE.contains(word) => Err(not_supported(word)),
            _ => parse_doing(&upper, words),
        }
    }
}

fn parse_doing(upper: &[&str], words: &[String]) -> Result<AdminCommand, PgError> {
    let begins = |doing: &&&Doing| upper.starts_with(&doing.words.split(' ').collect::<Vec<_>>());
    let Some(doing) = DOINGS.iter().find(begins) else {
        return Err(unknown(words));
    };
    let rest = &words[doing.words.split(' ').count()..];
    let (fewest, most) = doing.arguments;
    if rest.len() < fewest || rest.len() > most {
        let wrong = format!("the command is {}", doing.syntax);
        return Err(PgError::error(SqlState::SYNTAX_ERROR, wrong).hint(doing.description));
    }
    Ok(AdminCommand::Do {
        doing,
        arguments: rest.iter().map(|word| unquoted(word)).collect(),
    })
}

/// A name without the quotes about it.
fn unquoted(word: &str) -> String {
    match word
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(inner) => inner.replace("\"\"", "\""),
        None => word.to_owned(),
    }
}

fn parse_show(words: &[&str]) -> Option<AdminCommand> {
    let name = match words {
        [one] => *one,
        ["TIME", "ZONE"] => "TIMEZONE",
        ["TRANSACTION", "ISOLATION", "LEVEL"] => "TRANSACTION_ISOLATION",
        _ => return None,
    };
    let all = |show| AdminCommand::Show { show, like: None };
    Show::find(name).map(all).or_else(|| {
        let (name, value) = SETTINGS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(AdminCommand::ShowSetting { name, value })
    })
}

fn unknown(words: &[String]) -> PgError {
    let mut text = words.join(" ");
    if let Some((end, _)) = text.char_indices().nth(80) {
        text.truncate(end);
        text.push_str("...");
    }
    PgError::error(
        SqlState::SYNTAX_ERROR,
        format!("\"{text}\" is no command of pgherd's console"),
    )
    .hint(known_commands())
}

/// SHOW with a pattern, which is a literal.
fn like(word: &str, pattern: &str) -> Option<AdminCommand> {
    let inner = pattern.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(AdminCommand::Show {
        show: Show::find(word)?,
        like: Some(inner.replace("\'\'", "'")),
    })
}

fn not_supported(command: &str) -> PgError {
    PgError::error(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("{command} is not supported by this version of pgherd"),
    )
    .hint(known_commands())
}

fn known_commands() -> String {
    let commands: Vec<String> = Show::ALL
        .iter()
        .map(|show| format!("SHOW {}", show.word))
        .chain(["EXPLAIN FAILOVER SHARD".to_owned()])
        .collect();
    let doings = DOINGS.iter().map(|doing| doing.syntax.to_owned());
    let all: Vec<String> = commands.into_iter().chain(doings).collect();
    format!("The commands are {}. SHOW HELP says more.", all.join(", "))
}

/// Splits a query string into statements, and each into words. Comments are white space; what is quoted stays in one word, with its
/// quotes; empty statements are dropped.
fn split_statements(text: &str) -> Vec<Vec<String>> {
    let mut statements = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = skip_comment(rest) {
            words.extend(take_word(&mut word));
            rest = after;
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            ';' => {
                words.extend(take_word(&mut word));
                statements.push(std::mem::take(&mut words));
            }
            '\'' | '"' => {
                let end = rest.find(character).map_or(rest.len(), |end| end + 1);
                word.push(character);
                word.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            space if space.is_whitespace() || space == '\0' => words.extend(take_word(&mut word)),
            other => word.push(other),
        }
    }
    words.extend(take_word(&mut word));
    statements.push(words);
    statements.retain(|words| !words.is_empty());
    statements
}

fn take_word(word: &mut String) -> Option<String> {
    (!word.is_empty()).then(|| std::mem::take(word))
}

/// What follows the comment that `text` starts with, if it does. An unfinished comment takes all.
fn skip_comment(text: &str) -> Option<&str> {
    if text.starts_with("--") {
        return Some(text.find('\n').map_or("", |end| &text[end..]));
    }
    let body = text.strip_prefix("/*")?;
    Some(body.find("*/").map_or("", |end| &body[end + 2..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn one(text: &str) -> AdminCommand {
        let mut commands = AdminCommand::parse_all(text).unwrap();
        assert_eq!(commands.len(), 1, "{text:?}");
        commands.remove(0)
    }

    fn all(word: &str) -> AdminCommand {
        let show = Show::find(word).unwrap();
        AdminCommand::Show { show, like: None }
    }

    #[test]
    fn a_pattern_is_a_literal() {
        let show = Show::find("CONFIG").unwrap();
        let like = Some("listen.%'".to_owned());
        assert_eq!(
            one("show config like 'listen.%\'\'';"),
            AdminCommand::Show { show, like }
        );
    }

    #[test]
    fn names_may_be_quoted_and_words_have_any_case() {
        for (text, syntax, expected) in [
            ("pause", "PAUSE [db]", None),
            ("Pause shop;", "PAUSE [db]", Some("shop")),
            ("PAUSE \"My \"\"shop\"", "PAUSE [db]", Some("My \"shop")),
            ("drain Server s0a", "DRAIN SERVER server", Some("s0a")),
        ] {
            let AdminCommand::Do { doing, arguments } = one(text) else {
                panic!("{text} does nothing");
            };
            assert_eq!(doing.syntax, syntax);
            assert_eq!(arguments.first().map(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn case_white_space_comments_and_semicolons_do_not_matter() {
        for text in [
            "SHOW POOLS",
            "show pools;",
            "  Show\n\tPools ;;",
            "/* x; */ show -- y\npools",
            "show pools -- z",
        ] {
            assert_eq!(one(text), all("POOLS"));
        }
    }

    #[test]
    fn every_command_is_found_by_its_word() {
        for show in Show::ALL {
            assert_eq!(one(&format!("show {}", show.word)), all(show.word));
        }
    }

    #[test]
    fn what_drivers_send_at_login_is_accepted() {
        assert_eq!(
            one("SET extra_float_digits = 2"),
            AdminCommand::Set { tag: "SET" }
        );
        assert_eq!(
            one("set application_name to 'a;b'"),
            AdminCommand::Set { tag: "SET" }
        );
        assert_eq!(
            one("SHOW TRANSACTION ISOLATION LEVEL"),
            one("show transaction_isolation")
        );
        assert_eq!(one("SELECT 1"), AdminCommand::Ping { value: 1 });
        assert_eq!(
            AdminCommand::parse_all("BEGIN; SHOW VERSION; COMMIT").unwrap(),
            [
                AdminCommand::Begin { tag: "BEGIN" },
                all("VERSION"),
                AdminCommand::End { tag: "COMMIT" },
            ]
        );
    }

    #[test]
    fn a_shard_is_named_with_its_database_or_without() {
        for (text, shard) in [
            ("explain failover shard s0;", "s0"),
            ("EXPLAIN FAILOVER SHARD shop.s0", "shop.s0"),
            ("EXPLAIN FAILOVER SHARD \"Shop.s0\"", "Shop.s0"),
        ] {
            let shard = shard.to_owned();
            assert_eq!(one(text), AdminCommand::ExplainFailover { shard });
        }
    }

    #[test]
    fn an_empty_query_holds_no_command() {
        for text in ["", " ;; ", "-- only this", "/* never ended"] {
            assert_eq!(AdminCommand::parse_all(text).unwrap(), []);
        }
    }

    #[test]
    fn an_unknown_command_is_answered_with_the_known_ones() {
        for text in [
            "SHOW LIST",
            "SELECT * FROM users",
            "DROP TABLE x",
            "show pools now",
            "show pools like shop",
            "show pools like 'shop",
            "show pools like '",
        ] {
            let error = AdminCommand::parse_all(text).unwrap_err();
            assert_eq!(error.code, SqlState::SYNTAX_ERROR);
            assert!(error.hint.unwrap().contains("SHOW CLIENTS"));
        }
        for text in [
            "show prepared;",
            "SHOW FDS",
            "SHOW TRANSACTIONS",
            "EXPLAIN ROUTE 'SELECT 1' FOR shop",
        ] {
            let error = AdminCommand::parse_all(text).unwrap_err();
            assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED);
        }
        for text in [
            "SET",
            "DISABLE",
            "KILL_CLIENT",
            "PAUSE a b",
            "drain server",
            "switchover shard",
            "ADOPT SHARD s0",
        ] {
            let error = AdminCommand::parse_all(text).unwrap_err();
            assert_eq!(error.code, SqlState::SYNTAX_ERROR, "{text}");
            assert!(error.message.starts_with("the command is "), "{text}");
        }
        let long = "x".repeat(1000);
        assert!(AdminCommand::parse_all(&long).unwrap_err().message.len() < 200);
    }
}
