//! What is refused where a database may only be read.
//!
//! Owns: the refusals (25006), made before anything runs. The servers help: connections of such a database begin with
//! `default_transaction_read_only = on`, so that a write in the clothes of a read (a data-modifying WITH, nextval) is refused there. What could take
//! that away again is refused here: SET of it, READ WRITE, and whatever runs code that is not read (functions that are not declared, DO, EXECUTE).
//! Never does: I/O. Main function: [`check`].

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::lexer::{BackslashReading, Lexer, TokenKind};
use pgherd_router::{
    Action, CopyDirection, Planned, Residue, SettingAction, SettingValue, StatementPlan,
    ValueEncoding, Values,
};

use crate::failure::Failure;
use crate::simple::span_text;

/// What connections to the servers begin with.
pub const SERVER_OPTIONS: &str = "-c default_transaction_read_only=on";

/// The settings that decide whether a transaction may write.
const SWITCHES: [&str; 2] = ["default_transaction_read_only", "transaction_read_only"];

/// The words that a statement may begin with of which no more is known than that it is for a server.
const READING: &[&str] = &["select", "with", "values", "table", "show", "explain"];

/// Refuses a text that holds a statement which may not run here.
///
/// # Errors
/// 25006.
pub(crate) fn check(planned: &Planned, sql: &str) -> Result<(), Failure> {
    for (index, statement) in planned.plan.statements.iter().enumerate() {
        if let Action::SetConfig(calls) = &statement.action {
            let values = Values {
                sql: sql.as_bytes(),
                literals: &planned.literals,
                parameters: None,
                encoding: ValueEncoding::SameAsServer,
            };
            for call in calls {
                match call.read(&values, Some(b"")) {
                    Some(setting) => check_setting(&setting)?,
                    // only its value may be unknown
                    None if call
                        .name(&values)
                        .is_some_and(|name| !SWITCHES.contains(&name.as_str())) => {}
                    None => return Err(unread("SELECT")),
                }
            }
        }
        check_statement(statement, span_text(planned, index, sql))?;
    }
    Ok(())
}

/// Refuses a startup message that asks for what may not be set here.
///
/// # Errors
/// FATAL 25006.
pub(crate) fn check_startup(settings: &[(String, String)]) -> Result<(), PgError> {
    let opens = settings.iter().find(|(name, value)| {
        SWITCHES
            .iter()
            .any(|switch| switch.eq_ignore_ascii_case(name))
            && !is_on(value)
    });
    match opens {
        Some((name, _)) => Err(PgError::fatal(
            SqlState::READ_ONLY_SQL_TRANSACTION,
            format!("parameter \"{name}\" cannot be turned off in this database"),
        )
        .detail(DETAIL)),
        None => Ok(()),
    }
}

const DETAIL: &str = "This database can only be read: it is configured with \"reads: only\".";

fn check_statement(statement: &StatementPlan, text: &str) -> Result<(), Failure> {
    let opaque = statement.residue.contains(Residue::OPAQUE);
    match &statement.action {
        Action::Begin(modes) | Action::SetTransaction(_, modes) => match modes.read_only {
            Some(false) => Err(refused("a READ WRITE transaction")),
            Some(true) | None => Ok(()),
        },
        Action::Set(setting) => check_setting(setting),
        Action::Copy { direction } => match direction {
            CopyDirection::FromClient => Err(refused("COPY FROM")),
            CopyDirection::ToClient if opaque => Err(unread("COPY TO")),
            CopyDirection::ToClient => Ok(()),
        },
        Action::Ddl(_) | Action::ReferenceWrite { .. } | Action::PrepareTransaction => {
            Err(refused(&command(text)))
        }
        Action::Prepare { .. } | Action::Execute { .. } => Err(unread(&command(text))),
        Action::Run if !READING.contains(&first_word(text).to_ascii_lowercase().as_str()) => {
            Err(refused(&command(text)))
        }
        Action::Run | Action::Declare { .. }
            if opaque || statement.residue.contains(Residue::SETTING) =>
        {
            Err(unread(&command(text)))
        }
        Action::Run
        | Action::SetConfig(_)
        | Action::Declare { .. }
        | Action::Commit { .. }
        | Action::Rollback { .. }
        | Action::Savepoint(_)
        | Action::Release(_)
        | Action::RollbackTo(_)
        | Action::Show
        | Action::ShowOverride(_)
        | Action::DiscardAll
        | Action::Discard
        | Action::ExplainRoute { .. }
        | Action::Listen(_)
        | Action::Unlisten(_)
        | Action::Notify
        | Action::Deallocate(_)
        | Action::Fetch(_)
        | Action::Close(_) => Ok(()),
    }
}

fn check_setting(setting: &SettingAction) -> Result<(), Failure> {
    let name = setting.name.as_deref().unwrap_or_default();
    if !SWITCHES.contains(&name) {
        return Ok(());
    }
    // what the connection began with; of the other one there is no such value
    let is_default = setting.value == SettingValue::Default && name == SWITCHES[0];
    if is_default || is_turned_on(&setting.value) {
        Ok(())
    } else {
        Err(refused(&format!("turning off \"{name}\"")))
    }
}

/// Whether a setting is unmistakably on.
pub(crate) fn is_turned_on(value: &SettingValue) -> bool {
    match value {
        SettingValue::Texts(texts) => texts.iter().all(|text| is_on(text)),
        SettingValue::Default | SettingValue::Opaque => false,
    }
}

/// As Postgres reads a boolean.
fn is_on(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    value == "1"
        || value == "on"
        || (!value.is_empty() && ["true", "yes"].iter().any(|word| word.starts_with(&value)))
}

/// 25006 for a command of this name.
pub(crate) fn refused(what: &str) -> Failure {
    PgError::error(
        SqlState::READ_ONLY_SQL_TRANSACTION,
        format!("cannot execute {what} in a read-only transaction"),
    )
    .detail(DETAIL)
    .into()
}

/// It may be a read, but runs what pgherd does not see.
fn unread(what: &str) -> Failure {
    PgError::error(
        SqlState::READ_ONLY_SQL_TRANSACTION,
        format!("cannot execute {what} in a read-only transaction"),
    )
    .detail(format!(
        "{DETAIL} The statement runs code that is not known to leave that as it is."
    ))
    .hint("Declare functions that only read in `reads.functions`; prepare statements by the protocol, as drivers do.")
    .into()
}

/// 25006 in a block that is READ ONLY.
pub(crate) fn refused_in_block(text: &str) -> Failure {
    PgError::error(
        SqlState::READ_ONLY_SQL_TRANSACTION,
        format!(
            "cannot execute {} in a read-only transaction",
            command(text)
        ),
    )
    .into()
}

/// The command's name as an error names it: the first word, and what kind of thing it defines.
fn command(text: &str) -> String {
    const KINDS: &[&str] = &[
        "TABLE", "INDEX", "SCHEMA", "TYPE", "DOMAIN", "VIEW", "SEQUENCE", "FUNCTION",
    ];
    let mut words = words(text).map(str::to_ascii_uppercase);
    let Some(first) = words.next() else {
        return "this statement".to_owned();
    };
    match first.as_str() {
        "CREATE" | "ALTER" | "DROP" => match words.find(|word| KINDS.contains(&word.as_str())) {
            Some(kind) => format!("{first} {kind}"),
            None => first,
        },
        "TRUNCATE" => "TRUNCATE TABLE".to_owned(),
        _ => first,
    }
}

/// The first word behind comments and opening parentheses; empty where none is found.
pub(crate) fn first_word(text: &str) -> &str {
    words(text).next().unwrap_or_default()
}

/// The words before anything else, parentheses and semicolons left out.
fn words(text: &str) -> impl Iterator<Item = &str> {
    // no string comes before them, so that the reading of backslashes makes no difference
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    std::iter::from_fn(move || {
        loop {
            let token = lexer.next_token().ok()??;
            match token.kind {
                TokenKind::LeftParen | TokenKind::Semicolon => {}
                TokenKind::Word => return text.get(token.start as usize..token.end as usize),
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_behind_comments_and_parentheses() {
        assert_eq!(first_word(" -- x\n /* a /* b */ */ ((SELECT 1))"), "SELECT");
        assert_eq!(first_word("/* open"), "");
        assert_eq!(first_word("\"select\""), "");
        assert_eq!(command("create unique index a on b (c)"), "CREATE INDEX");
        assert_eq!(command("truncate a"), "TRUNCATE TABLE");
        assert_eq!(command("Update a set b = 1"), "UPDATE");
    }

    #[test]
    fn only_an_unmistakable_on_is_on() {
        for on in ["on", "TRUE", "t", "yes", "y", "1"] {
            assert!(is_on(on), "{on}");
        }
        for off in ["", "off", "o", "0", "false", "tru e", "2"] {
            assert!(!is_on(off), "{off}");
        }
    }

    #[test]
    fn a_startup_message_may_ask_for_what_is_so_anyway() {
        let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        assert!(check_startup(&pair("Default_Transaction_Read_Only", "on")).is_ok());
        let error = check_startup(&pair("Default_Transaction_Read_Only", "off"));
        assert_eq!(
            error.map_err(|error| error.code),
            Err(SqlState::READ_ONLY_SQL_TRANSACTION)
        );
    }
}
