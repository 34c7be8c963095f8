//! SET: what can change while pgherd runs and is no matter of the configuration file.

use pgherd_protocol::{PgError, SqlState};

use crate::doing::{Acting, Doing};
use crate::operations::ProcessRequest;

pub(super) const DOING: Doing = Doing {
    syntax: "SET log_level = value",
    description: "Logs at another level (telemetry.log.level) until the configuration is read again: error, warn, info, debug, trace, or directives by target. Settings that drivers send when they connect are taken and mean nothing.",
    words: "SET",
    arguments: (1, usize::MAX),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

/// The names of the one setting.
const LOG_LEVEL: &[&str] = &["log_level", "telemetry.log.level"];

/// What drivers, poolers and tools set when they connect.
const OF_DRIVERS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "names",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronize_seqscans",
    "timezone",
    "row_security",
];

/// Whether a SET, without that word, is one that drivers send.
pub(crate) fn is_of_drivers(words: &[String]) -> bool {
    let (name, _) = name_and_value(words);
    let lower = name.to_ascii_lowercase();
    // SET TIME ZONE, SET TRANSACTION, SET SESSION CHARACTERISTICS
    OF_DRIVERS.contains(&&*lower) || matches!(&*lower, "time" | "transaction" | "characteristics")
}

/// Of `name = value` and `name TO value`, with SESSION or LOCAL before it or not, white space or none about `=`.
fn name_and_value(words: &[String]) -> (String, String) {
    let text = words.join(" ");
    let upper = text.to_ascii_uppercase();
    let scope = ["SESSION ", "LOCAL "]
        .into_iter()
        .find(|scope| upper.starts_with(scope));
    let text = &text[scope.map_or(0, str::len)..];
    let end = text
        .find(|character: char| character == '=' || character.is_whitespace())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None => match rest.split_at_checked(3) {
            Some((to, value)) if to.eq_ignore_ascii_case("to ") => value,
            Some(_) | None => rest,
        },
    };
    (name.to_owned(), value.trim().to_owned())
}

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let (name, value) = name_and_value(arguments);
    let lower = name.to_ascii_lowercase();
    if LOG_LEVEL.contains(&&*lower) {
        let level = value.trim_matches(['\'', '"']).to_owned();
        let asked = acting
            .operations
            .ask(|answer| ProcessRequest::LogLevel(level, answer))
            .await?;
        return asked.map_err(|why| {
            PgError::error(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"{name}\""),
            )
            .detail(why)
        });
    }
    let is_known = acting
        .operations
        .configuration()
        .iter()
        .any(|entry| entry.key.eq_ignore_ascii_case(&name));
    if is_known {
        return Err(PgError::error(
            SqlState::CANT_CHANGE_RUNTIME_PARAM,
            format!("parameter \"{name}\" cannot be changed on the console"),
        )
        .hint("Change the configuration file, and RELOAD."));
    }
    Err(PgError::error(
        SqlState::UNDEFINED_OBJECT,
        format!("unrecognized configuration parameter \"{name}\""),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_read_however_they_are_spaced() {
        for text in [
            "log_level = 'debug'",
            "log_level='debug'",
            "log_level to 'debug'",
            "SESSION log_level= 'debug'",
        ] {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            let expected = ("log_level".to_owned(), "'debug'".to_owned());
            assert_eq!(name_and_value(&words), expected, "{text}");
        }
        let words = ["log_level".to_owned(), "é日".to_owned()];
        let expected = ("log_level".to_owned(), "é日".to_owned());
        assert_eq!(name_and_value(&words), expected);
        for text in ["extra_float_digits = 3", "TIME ZONE 'UTC'", "NAMES 'utf8'"] {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            assert!(is_of_drivers(&words), "{text}");
        }
    }
}
