//! SET, RESET, SHOW and DISCARD, and pgherd's own settings among them.
//!
//! Owns the reading of names and values (Postgres documentation, reference: SET). The values of
//! settings are guards of the plan, so that each value is planned by itself.

use crate::action::{Action, OverrideName, SettingAction, SettingScope, SettingValue};
use crate::lexer::{LiteralKind, TokenKind};
use crate::place::Draft;
use crate::plan::{Access, Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::statement::answered;
use crate::survey::Subject;
use crate::tokens::Cursor;
use pgherd_protocol::SqlState;

/// Settings whose value a replica gives otherwise than the primary.
const SERVER_STATE: &[&str] = &[
    "transaction_read_only",
    "default_transaction_read_only",
    "in_hot_standby",
];

/// Reads SET, RESET, SHOW or DISCARD; `None` where it is another statement.
///
/// # Errors
/// 22023 and 42704 for a `pgherd.` setting that makes no sense.
pub(crate) fn read(
    mut at: Cursor<'_, '_>,
    _subject: Subject<'_, '_>,
) -> Result<Option<Draft>, Rejection> {
    if at.takes("show") {
        return show(at);
    }
    if at.takes("reset") {
        return reset(at);
    }
    if at.takes("discard") {
        return Ok(discard(at));
    }
    if at.peeks_all(&["set", "constraints"]) {
        return Ok(Some(Draft::new(
            Action::Run,
            Placement::Any,
            "constraints of the running transaction",
        )));
    }
    if is_transaction(at) || !at.takes("set") {
        return Ok(None);
    }
    set(at)
}

/// The settings that are lists of names: as one text, the names are quoted within it.
pub const LISTS_OF_NAMES: [&str; 4] = [
    "search_path",
    "temp_tablespaces",
    "local_preload_libraries",
    "session_preload_libraries",
];

/// The members of a list of names in one text, as Postgres' `SplitIdentifierString` reads it.
#[must_use]
pub fn list_members(list: &str) -> Box<[Box<str>]> {
    let mut found = vec![String::new()];
    let mut quoted = false;
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(current) = found.last_mut() else {
            break;
        };
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                current.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => found.push(String::new()),
            (blank, false) if blank.is_whitespace() => {}
            (letter, false) => current.push(letter.to_ascii_lowercase()),
            (letter, true) => current.push(letter),
        }
    }
    found.into_iter().map(Into::into).collect()
}

fn is_transaction(at: Cursor<'_, '_>) -> bool {
    at.peeks_all(&["set", "transaction"])
        || at.peeks_all(&["set", "local", "transaction"])
        || at.peeks_all(&["set", "session", "transaction"])
        || at.peeks_all(&["set", "session", "characteristics"])
}

fn set(mut at: Cursor<'_, '_>) -> Result<Option<Draft>, Rejection> {
    let mut scope = SettingScope::Session;
    if at.takes("local") {
        scope = SettingScope::Local;
    } else if at.peeks("session") && !at.peeks_all(&["session", "authorization"]) {
        at.advance();
    }
    if at.takes_all(&["time", "zone"]) {
        let value = values(at);
        return Ok(Some(change("timezone".into(), scope, value)));
    }
    if at.takes_all(&["session", "authorization"]) {
        let value = values(at);
        return Ok(Some(change("session_authorization".into(), scope, value)));
    }
    for (words, name) in [
        (&["names"][..], "client_encoding"),
        (&["role"], "role"),
        (&["xml", "option"], "xmloption"),
    ] {
        // `SET role = x` is read below
        if at.peeks_all(words) && !is_assignment(at, words.len()) {
            at.at += words.len();
            let value = if at.at_end() {
                SettingValue::Default
            } else {
                values(at)
            };
            return Ok(Some(change(name.into(), scope, value)));
        }
    }
    let Some(name) = setting_name(&mut at) else {
        return Ok(None);
    };
    if at.takes_all(&["from", "current"]) {
        return Ok(Some(change(name, scope, SettingValue::Opaque)));
    }
    if !at.takes("to") && !at.takes_operator("=") {
        return Ok(None);
    }
    let value = values(at);
    let draft = change(name, scope, value);
    check_override(&draft)?;
    Ok(Some(draft))
}

fn is_assignment(at: Cursor<'_, '_>, ahead: usize) -> bool {
    at.text.is_operator(at.at + ahead, "=") || at.text.is_word(at.at + ahead, "to")
}

fn reset(mut at: Cursor<'_, '_>) -> Result<Option<Draft>, Rejection> {
    if at.takes("all") && at.at_end() {
        let action = SettingAction {
            scope: SettingScope::Session,
            name: None,
            value: SettingValue::Default,
            override_name: None,
        };
        return Ok(Some(setting(action)));
    }
    let name = if at.takes_all(&["time", "zone"]) {
        "timezone".to_owned()
    } else if at.takes_all(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else if at.takes_all(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else {
        match setting_name(&mut at) {
            Some(name) => name,
            None => return Ok(None),
        }
    };
    if !at.at_end() {
        return Ok(None);
    }
    let draft = change(name, SettingScope::Session, SettingValue::Default);
    check_override(&draft)?;
    Ok(Some(draft))
}

fn show(mut at: Cursor<'_, '_>) -> Result<Option<Draft>, Rejection> {
    let reason = "a setting of the session";
    let name = if at.takes_all(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else if at.takes_all(&["time", "zone"]) {
        "timezone".to_owned()
    } else if at.takes_all(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else {
        match setting_name(&mut at) {
            Some(name) => name,
            None => return Ok(None),
        }
    };
    if !at.at_end() {
        return Ok(None);
    }
    if name.starts_with("pgherd.") {
        let name = OverrideName::from_setting(&name).ok_or_else(|| unknown_override(&name))?;
        let action = Action::ShowOverride(name);
        return Ok(Some(answered(
            action,
            Placement::Nowhere,
            "pgherd's own setting",
        )));
    }
    let access = if SERVER_STATE.contains(&name.as_str()) || name == "all" {
        Access::Write
    } else {
        Access::Read
    };
    Ok(Some(
        answered(Action::Show, Placement::Any, reason).access(access),
    ))
}

fn discard(mut at: Cursor<'_, '_>) -> Option<Draft> {
    let action = if at.takes("all") {
        Action::DiscardAll
    } else if at.takes_any(&["plans", "sequences", "temp", "temporary"]) {
        Action::Discard
    } else {
        return None;
    };
    at.at_end()
        .then(|| Draft::new(action, Placement::Nowhere, "the session's own state"))
        .map(|draft| draft.residue(Residue::RELEASE))
}

/// `name`, or `prefix.name`, in lower case.
fn setting_name(at: &mut Cursor<'_, '_>) -> Option<String> {
    let mut name = at.name()?;
    while at.takes_kind(TokenKind::Dot) {
        name.push('.');
        name.push_str(&at.name()?);
    }
    name.make_ascii_lowercase();
    Some(name)
}

/// A list of words, numbers and strings up to the end.
fn values(at: Cursor<'_, '_>) -> SettingValue {
    if at.end == at.at + 1 && at.peeks("default") {
        return SettingValue::Default;
    }
    let parts = at.split_at_commas();
    let texts: Option<Vec<Box<str>>> = parts.into_iter().map(value).collect();
    match texts {
        Some(texts) if !texts.is_empty() => SettingValue::Texts(texts.into()),
        _ => SettingValue::Opaque,
    }
}

fn value(mut at: Cursor<'_, '_>) -> Option<Box<str>> {
    let negative = at.takes_operator("-");
    if !negative {
        at.takes_operator("+");
    }
    let text = match at.kind()? {
        TokenKind::Literal(kind) => {
            let slot = at.text.tokens.get(at.at)?.slot;
            let value = at.text.literal_value(slot)?;
            let number = matches!(kind, LiteralKind::Integer | LiteralKind::Numeric);
            if negative && !number {
                return None;
            }
            let text = std::str::from_utf8(&value).ok()?.to_owned();
            at.advance();
            text
        }
        TokenKind::Word | TokenKind::QuotedName if !negative => at.name()?,
        _ => return None,
    };
    let text = if negative { format!("-{text}") } else { text };
    at.at_end().then(|| text.into())
}

fn change(name: String, scope: SettingScope, value: SettingValue) -> Draft {
    setting(SettingAction {
        override_name: OverrideName::from_setting(&name),
        scope,
        name: Some(name.into()),
        value,
    })
}

fn setting(action: SettingAction) -> Draft {
    if action.override_name.is_some() {
        let action = Action::Set(action);
        return answered(action, Placement::Nowhere, "pgherd's own setting");
    }
    let residue = match action.scope {
        SettingScope::Session => Residue::SETTING,
        SettingScope::Local => Residue::NONE,
    };
    Draft::new(
        Action::Set(action),
        Placement::Any,
        "a setting of the session, wherever it runs",
    )
    .residue(residue)
}

/// Refuses a setting that begins with `pgherd.` and is none, or a value that it cannot take.
fn check_override(draft: &Draft) -> Result<(), Rejection> {
    let Action::Set(setting) = &draft.action else {
        return Ok(());
    };
    let name = setting.name.as_deref().unwrap_or_default();
    if !name.starts_with("pgherd.") {
        return Ok(());
    }
    let Some(known) = setting.override_name else {
        return Err(unknown_override(name));
    };
    let text = match &setting.value {
        SettingValue::Default => return Ok(()),
        SettingValue::Texts(texts) => match &**texts {
            [text] => text,
            _ => return Err(bad_override(known, "takes one value")),
        },
        SettingValue::Opaque => return Err(bad_override(known, "takes one value")),
    };
    let word = text.to_ascii_lowercase();
    let fits = match known {
        OverrideName::Shard | OverrideName::ShardingKey | OverrideName::Token => true,
        OverrideName::Role => matches!(word.as_str(), "" | "primary" | "replica"),
        OverrideName::Unchecked => matches!(
            word.as_str(),
            "on" | "off" | "true" | "false" | "yes" | "no" | "1" | "0"
        ),
    };
    if fits {
        return Ok(());
    }
    Err(bad_override(
        known,
        match known {
            OverrideName::Role => "must be primary or replica",
            OverrideName::Shard
            | OverrideName::ShardingKey
            | OverrideName::Token
            | OverrideName::Unchecked => "must be on or off",
        },
    ))
}

fn unknown_override(name: &str) -> Rejection {
    Rejection::new(
        SqlState::UNDEFINED_OBJECT,
        label::HINT,
        format!("unrecognized configuration parameter \"{name}\""),
    )
    .hint("pgherd has pgherd.shard, pgherd.sharding_key, pgherd.role, pgherd.token and pgherd.unchecked.")
}

fn bad_override(name: OverrideName, why: &str) -> Rejection {
    Rejection::new(
        SqlState::INVALID_PARAMETER_VALUE,
        label::HINT,
        format!("invalid value for parameter \"{}\"", name.as_str()),
    )
    .detail(format!("{} {why}.", name.as_str()))
}
