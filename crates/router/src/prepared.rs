//! Prepared statements by SQL: PREPARE, EXECUTE, DEALLOCATE.
//!
//! Owns their grammar (Postgres documentation, reference, under each name). PREPARE is placed where its statement can be parsed; what EXECUTE
//! runs only the session knows, which places it with the arguments read here.

use std::borrow::Cow;

use pgherd_protocol::oid;

use crate::action::{Action, Argument};
use crate::lexer::{LiteralKind, TokenKind};
use crate::place::Draft;
use crate::plan::{NamedCheck, Placement, Residue};
use crate::resolve::Values;
use crate::scope::Names;
use crate::statement::{answered, begins_query, read_query};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// A type that is declared and not known: no key is read as it.
const UNREAD_TYPE: u32 = u32::MAX;

/// Reads one of these statements; `None` where it is another.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("prepare") {
        return prepare(at, subject);
    }
    if at.takes("execute") {
        let name = at.name()?.into();
        let arguments = if at.at_end() {
            Box::default()
        } else {
            let list = at.parenthesised()?;
            list.split_at_commas().into_iter().map(argument).collect()
        };
        let action = Action::Execute { name, arguments };
        let draft = Draft::new(
            action,
            Placement::Any,
            "where the prepared statement belongs",
        );
        return at.at_end().then(|| draft.residue(Residue::PREPARED));
    }
    if at.takes("deallocate") {
        at.takes("prepare");
        let name = if at.takes("all") {
            None
        } else {
            Some(at.name()?.into())
        };
        let action = Action::Deallocate(name);
        return at.at_end().then(|| {
            answered(
                action,
                Placement::Nowhere,
                "the session's prepared statements",
            )
        });
    }
    None
}

/// PREPARE name [(type, ...)] AS query
fn prepare(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let name = at.name()?.into();
    let parameter_types: Box<[u32]> = if at.kind() == Some(TokenKind::LeftParen) {
        let types = at.parenthesised()?.split_at_commas();
        types
            .into_iter()
            .map(|declared| type_oid(declared, &subject.names))
            .collect()
    } else {
        Box::default()
    };
    if !at.takes("as") || !begins_query(at) {
        return None;
    }
    let inner = Subject {
        parameter_types: &parameter_types,
        ..subject
    };
    let draft = read_query(inner, at.at, at.end);
    // tables that are placed by key are on every shard, and it is parsed anew where it is executed
    let placement = draft.placement.map(|placement| match placement {
        Placement::One(shard) => Placement::One(shard),
        _ => Placement::Any,
    });
    let access = draft.access;
    Some(Draft {
        action: Action::Prepare {
            name,
            parameter_types,
        },
        placement,
        check: NamedCheck::Free,
        access,
        residue: Residue::PREPARED,
        checks_clock_words: false,
        reads_moment: false,
        ..draft
    })
}

/// An argument of EXECUTE.
fn argument(mut at: Cursor<'_, '_>) -> Argument {
    let word = at.end == at.at + 1;
    if word && at.peeks("null") {
        return Argument::Null;
    }
    for (text, value) in [("true", true), ("false", false)] {
        if word && at.peeks(text) {
            return Argument::Boolean(value);
        }
    }
    let is_negative = at.takes_operator("-");
    let Some(TokenKind::Literal(kind)) = at.kind() else {
        return Argument::Computed;
    };
    let is_number = matches!(kind, LiteralKind::Integer | LiteralKind::Numeric);
    let slot = at.text.tokens.get(at.at).map(|found| found.slot);
    at.advance();
    match slot {
        Some(slot) if at.at_end() && (is_number || !is_negative) => {
            Argument::Literal { slot, is_negative }
        }
        _ => Argument::Computed,
    }
}

impl Argument {
    /// The argument as a Bind would send it in text format, `Some(None)` for NULL. `None` where only a server knows.
    #[must_use]
    pub fn text<'a>(&self, values: &Values<'a>) -> Option<Option<Cow<'a, [u8]>>> {
        let (slot, is_negative) = match *self {
            Self::Null => return Some(None),
            Self::Boolean(true) => return Some(Some(Cow::Borrowed(b"true"))),
            Self::Boolean(false) => return Some(Some(Cow::Borrowed(b"false"))),
            Self::Literal { slot, is_negative } => (slot, is_negative),
            Self::Computed => return None,
        };
        let literal = values.literals.slot(slot)?;
        let text = literal.value(values.sql)?;
        if matches!(literal.kind, LiteralKind::Integer | LiteralKind::Numeric) {
            // as it would be printed, should it become a text
            if !is_plain_number(&text) {
                return None;
            }
            if is_negative {
                let is_zero = text.iter().all(|byte| matches!(byte, b'0' | b'.'));
                return (!is_zero).then(|| Some(Cow::Owned([&b"-"[..], &text].concat())));
            }
        }
        Some(Some(text))
    }
}

/// Digits without a leading zero, and perhaps a fraction.
fn is_plain_number(text: &[u8]) -> bool {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], Some(&text[point + 1..])),
        None => (text, None),
    };
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    digits(whole) && (whole.len() == 1 || whole[0] != b'0') && fraction.is_none_or(digits)
}

/// The spellings of Postgres' own types that are not their names in `pg_type` (documentation, table 8.1).
const SPELLINGS: &[(&str, &str)] = &[
    ("bigint", "int8"),
    ("boolean", "bool"),
    ("char", "bpchar"),
    ("char varying", "varchar"),
    ("character", "bpchar"),
    ("character varying", "varchar"),
    ("dec", "numeric"),
    ("decimal", "numeric"),
    ("double precision", "float8"),
    ("float", "float8"),
    ("int", "int4"),
    ("integer", "int4"),
    ("real", "float4"),
    ("smallint", "int2"),
    ("time with time zone", "timetz"),
    ("time without time zone", "time"),
    ("timestamp with time zone", "timestamptz"),
    ("timestamp without time zone", "timestamp"),
];

/// Types that a sharding key's parameter may have, for where the catalog does not list Postgres' own.
const BUILTIN: &[(&str, u32)] = &[
    ("bool", oid::BOOL),
    ("bpchar", oid::BPCHAR),
    ("date", oid::DATE),
    ("float4", oid::FLOAT4),
    ("float8", oid::FLOAT8),
    ("int2", oid::INT2),
    ("int4", oid::INT4),
    ("int8", oid::INT8),
    ("numeric", oid::NUMERIC),
    ("text", oid::TEXT),
    ("timestamp", oid::TIMESTAMP),
    ("timestamptz", oid::TIMESTAMPTZ),
    ("uuid", oid::UUID),
    ("varchar", oid::VARCHAR),
];

/// The type that a declaration names; 0 for `unknown`, which leaves it open.
fn type_oid(mut at: Cursor<'_, '_>, names: &Names<'_>) -> u32 {
    let quoted = at.kind() != Some(TokenKind::Word);
    let Some(first) = at.qualified_name() else {
        return UNREAD_TYPE;
    };
    let mut name = first.name;
    let mut has_modifier = false;
    let mut is_array = false;
    while !at.at_end() {
        match at.kind() {
            Some(TokenKind::LeftParen) if at.parenthesised().is_some() => has_modifier = true,
            Some(TokenKind::LeftBracket) => {
                is_array = true;
                at.at = at.end;
            }
            Some(TokenKind::Word) if !quoted && first.schema.is_none() => {
                let Some(word) = at.name() else {
                    return UNREAD_TYPE;
                };
                if word == "array" {
                    is_array = true;
                } else {
                    name = format!("{name} {word}");
                }
            }
            _ => return UNREAD_TYPE,
        }
    }
    if name == "float" && has_modifier {
        return UNREAD_TYPE;
    }
    if first.schema.is_none() && !quoted {
        let spelled = SPELLINGS.iter().find(|(spelling, _)| *spelling == name);
        if let Some((_, known)) = spelled {
            name = (*known).to_owned();
        }
    }
    if name == "unknown" {
        return 0;
    }
    let array = format!("_{name}");
    let wanted = if is_array { &array } else { &name };
    let found = match &first.schema {
        Some(schema) => names.catalog.type_in(schema, wanted),
        None => names.catalog.resolve_type(wanted, names.search_path),
    };
    let builtin = BUILTIN
        .iter()
        .find(|(known, _)| known == wanted && first.schema.is_none());
    found
        .map(|found| found.oid)
        .or(builtin.map(|(_, oid)| *oid))
        .unwrap_or(UNREAD_TYPE)
}
