//! What a startup message asks for.
//!
//! Owns: reading its parameters as Postgres does, `options` with its command-line syntax among them (Postgres documentation, chapters
//! 55.7, StartupMessage, and 20.1.4). Never does: applying settings (servers do, and refuse what they do not know).
//! Main type: [`StartupOptions`].

use pgherd_protocol::{PgError, SqlState};

/// A startup message's parameters, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupOptions {
    /// Who wants to connect.
    pub user: String,
    /// To which database; Postgres' default is the user's name.
    pub database: String,
    /// The settings asked for, each name once, in the order in which they are to be applied. `application_name` and `client_encoding` are
    /// settings like any other, and so are pgherd's own (`pgherd.shard`).
    pub settings: Vec<(String, String)>,
    /// Set where it wants to replicate.
    pub replication: Option<Replication>,
}

/// The kinds of replication connection (Postgres documentation, chapter 55.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Of a whole server, whatever database is named.
    Physical,
    /// Of one database, which also takes SQL.
    Logical,
}

impl Replication {
    /// The value of the startup parameter `replication`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }

    /// Reads it as Postgres does: a boolean, of which any unambiguous beginning will do, or `database`.
    fn read(value: &str) -> Result<Option<Self>, PgError> {
        let lower = value.to_ascii_lowercase();
        let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
        if value == "database" {
            Ok(Some(Self::Logical))
        } else if begins("true", 1) || begins("yes", 1) || begins("on", 2) || lower == "1" {
            Ok(Some(Self::Physical))
        } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == "0" {
            Ok(None)
        } else {
            Err(PgError::fatal(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"replication\": \"{value}\""),
            )
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
        }
    }
}

impl StartupOptions {
    /// Reads the parameters of a startup message.
    ///
    /// # Errors
    /// FATAL: no user (28000), a kind of replication that there is not (22023), `options` that cannot be read (42601).
    pub fn read(parameters: &[(String, String)]) -> Result<Self, PgError> {
        Self::read_without(parameters, &[])
    }

    /// Reads them as if those named in `ignored` were not there, wherever they stand; `options` there stands for all that is in it.
    ///
    /// # Errors
    /// See [`StartupOptions::read`].
    pub fn read_without(
        parameters: &[(String, String)],
        ignored: &[Box<str>],
    ) -> Result<Self, PgError> {
        let is_ignored = |name: &str| {
            ignored
                .iter()
                .any(|ignored| ignored.eq_ignore_ascii_case(name))
        };
        let (mut user, mut database, mut replication) = (None, None, None);
        let mut from_options = Vec::new();
        let mut settings = Vec::new();
        for (name, value) in parameters {
            match name.as_str() {
                "user" => user = Some(value.clone()),
                "database" => database = Some(value.clone()),
                "options" if is_ignored("options") => {}
                "options" => from_options = read_command_line(value)?,
                "replication" => replication = Replication::read(value)?,
                _ => settings.push((name.clone(), value.clone())),
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| {
            PgError::fatal(
                SqlState::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            )
        })?;
        let database = database
            .filter(|database| !database.is_empty())
            .unwrap_or_else(|| user.clone());
        // as Postgres: parameters of their own come after those of the command line, and the last one counts
        from_options.extend(settings);
        from_options.retain(|(name, _)| !is_ignored(name));
        Ok(Self {
            user,
            database,
            settings: last_of_each_name(from_options),
            replication,
        })
    }

    /// Puts settings before those asked for, which go before them where both name the same.
    pub fn begin_with(&mut self, settings: &[(String, String)]) {
        let asked = std::mem::take(&mut self.settings);
        self.settings = last_of_each_name(settings.iter().cloned().chain(asked).collect());
    }

    /// A client that gives its application no name has none, whatever the servers are told when pgherd logs in to them.
    pub fn name_application(&mut self) {
        let named = self
            .settings
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("application_name"));
        if !named {
            self.settings
                .push(("application_name".to_owned(), String::new()));
        }
    }

    /// The value asked for a setting, by its name in lower case.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn last_of_each_name(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(settings.len());
    for (name, value) in settings {
        kept.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        kept.push((name, value));
    }
    kept
}

/// Reads `-c name=value`, `-cname=value` and `--name=value`, split as Postgres splits them.
fn read_command_line(text: &str) -> Result<Vec<(String, String)>, PgError> {
    let mut settings = Vec::new();
    let mut arguments = split_arguments(text).into_iter();
    while let Some(argument) = arguments.next() {
        let (switch, assignment) = if let Some(assignment) = argument.strip_prefix("--") {
            ("--", assignment.to_owned())
        } else if let Some(joined) = argument.strip_prefix("-c") {
            let assignment = if joined.is_empty() {
                arguments.next()
            } else {
                Some(joined.to_owned())
            };
            (
                "-c ",
                assignment.ok_or_else(|| invalid_argument(&argument))?,
            )
        } else {
            return Err(invalid_argument(&argument));
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(if assignment.is_empty() {
                invalid_argument(&argument)
            } else {
                PgError::fatal(
                    SqlState::SYNTAX_ERROR,
                    format!("{switch}{assignment} requires a value"),
                )
            });
        };
        if name.is_empty() {
            return Err(invalid_argument(&argument));
        }
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn invalid_argument(argument: &str) -> PgError {
    PgError::fatal(
        SqlState::SYNTAX_ERROR,
        format!("invalid command-line argument for server process: {argument}"),
    )
    .hint("pgherd takes -c name=value and --name=value.")
}

/// Splits at white space; a backslash takes the next character as it is.
fn split_arguments(text: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => arguments.extend(current.take()),
            '\\' => {
                // one at the very end stands for nothing, as in Postgres
                let argument = current.get_or_insert_default();
                argument.extend(characters.next());
            }
            other => current.get_or_insert_default().push(other),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<StartupOptions, PgError> {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        StartupOptions::read(&parameters)
    }

    fn settings(options: &str) -> Vec<(String, String)> {
        read(&[("user", "app"), ("options", options)])
            .unwrap()
            .settings
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_database_is_the_users_name_where_none_is_given() {
        let options = read(&[("user", "app")]).unwrap();
        assert_eq!(options.database, "app");
        let options = read(&[("user", "app"), ("database", "shop")]).unwrap();
        assert_eq!(options.database, "shop");
    }

    #[test]
    fn a_startup_message_without_a_user_is_refused() {
        let error = read(&[("database", "shop")]).unwrap_err();
        assert_eq!(error.code, SqlState::INVALID_AUTHORIZATION);
        assert!(read(&[("user", "")]).is_err());
    }

    #[test]
    fn switches_are_read_in_all_three_spellings() {
        assert_eq!(
            settings("-c search_path=a -cwork_mem=4MB  --statement-timeout=5s"),
            [
                pair("search_path", "a"),
                pair("work_mem", "4MB"),
                pair("statement_timeout", "5s")
            ]
        );
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        assert_eq!(
            settings(r"-c search_path=a,\ b --application_name=back\\slash\ x"),
            [
                pair("search_path", "a, b"),
                pair("application_name", r"back\slash x")
            ]
        );
        assert_eq!(settings(r"-c\ a=b"), [pair(" a", "b")]);
        assert_eq!(settings(r"-c a=b\"), [pair("a", "b")]);
    }

    #[test]
    fn values_may_be_empty_and_hold_equals_signs() {
        assert_eq!(settings("-c a= --b=c=d"), [pair("a", ""), pair("b", "c=d")]);
        assert_eq!(settings("  "), []);
    }

    #[test]
    fn what_is_no_setting_is_refused_as_postgres_words_it() {
        let refused = |options| {
            let error = read(&[("user", "app"), ("options", options)]).unwrap_err();
            assert_eq!(error.code, SqlState::SYNTAX_ERROR);
            error.message
        };
        assert_eq!(refused("-c search_path"), "-c search_path requires a value");
        assert_eq!(refused("--search_path"), "--search_path requires a value");
        for options in ["-c", "-S 1024", "x", "--", "-c =1", "--=1"] {
            assert!(refused(options).starts_with("invalid command-line argument"));
        }
    }

    #[test]
    fn parameters_of_their_own_come_after_options_and_the_last_one_counts() {
        let options = read(&[
            ("user", "app"),
            ("DateStyle", "ISO"),
            ("options", "-c datestyle=German -c pgherd.shard=s1"),
        ])
        .unwrap();
        assert_eq!(
            options.settings,
            [pair("pgherd.shard", "s1"), pair("DateStyle", "ISO")]
        );
        assert_eq!(options.setting("datestyle"), Some("ISO"));
    }

    #[test]
    fn parameters_that_are_ignored_are_not_there_wherever_they_stand() {
        let parameters = [
            pair("user", "app"),
            pair("Extra_Float_Digits", "2"),
            pair("options", "-c search_path=a -c jit=off"),
        ];
        let ignored = ["extra_float_digits".into(), "jit".into()];
        let options = StartupOptions::read_without(&parameters, &ignored).unwrap();
        assert_eq!(options.settings, [pair("search_path", "a")]);
        let options = StartupOptions::read_without(&parameters, &["options".into()]).unwrap();
        assert_eq!(options.settings, [pair("Extra_Float_Digits", "2")]);
    }

    #[test]
    fn a_users_settings_give_way_to_what_its_client_asks_for() {
        let mut options = read(&[("user", "app"), ("Work_Mem", "1MB")]).unwrap();
        options.begin_with(&[pair("work_mem", "2MB"), pair("statement_timeout", "5s")]);
        assert_eq!(
            options.settings,
            [pair("statement_timeout", "5s"), pair("Work_Mem", "1MB")]
        );
    }

    #[test]
    fn replication_is_read_as_postgres_reads_it() {
        let kind =
            |value| read(&[("user", "app"), ("replication", value)]).map(|read| read.replication);
        for value in ["true", "on", "1", "T", "y"] {
            assert_eq!(
                kind(value).unwrap(),
                Some(Replication::Physical),
                "{value:?}"
            );
        }
        assert_eq!(kind("database").unwrap(), Some(Replication::Logical));
        for value in ["false", "off", "no", "0", "F", "of"] {
            assert_eq!(kind(value).unwrap(), None, "{value:?}");
        }
        for value in ["", "o", "x", "DATABASE"] {
            let error = kind(value).unwrap_err();
            assert_eq!(error.code, SqlState::INVALID_PARAMETER_VALUE, "{value:?}");
        }
    }
}
