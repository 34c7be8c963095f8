//! What is not understood: refused on a sharded database, but for catalog reads that their tokens
//! prove.
//!
//! Owns the rule for psql's own queries: a single SELECT in which no word is the name of a relation or
//! function of a user can only read system catalogs.

use std::collections::HashSet;

use crate::action::Action;
use crate::functions::{Call, FunctionFacts};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{NamedCheck, Placement, Residue};
use crate::rejection::{Rejection, label};
use crate::scope::is_system_schema;
use crate::survey::{Subject, Unread};

/// A statement of more tokens than are read.
pub(crate) fn too_long() -> Draft {
    refused("The statement is too long to be read.").residue(Residue::UNREAD)
}

/// The plan of a statement that could not be read.
pub(crate) fn draft(subject: Subject<'_, '_>, unread: Unread) -> Draft {
    let facts = functions(subject);
    if reads_catalogs_only(subject, &facts) {
        return Draft::new(
            Action::Run,
            Placement::One(subject.names.home()),
            "no word of it names a table or function of a user: it reads system catalogs only",
        )
        .residue(facts.residue);
    }
    let start = subject.text.cursor();
    let is_query = start.peeks_any(&[
        "select", "insert", "update", "delete", "merge", "with", "values", "table",
    ]);
    let mut residue = if is_query && facts.user.is_none() && facts.unknown.is_none() {
        facts.residue
    } else if is_query {
        facts.residue | Residue::OPAQUE
    } else {
        Residue::UNREAD
    };
    let adds_rows = ["insert", "merge", "copy", "into"]
        .iter()
        .any(|word| start.mentions(word));
    if adds_rows {
        residue |= Residue::SEQUENCE;
    }
    let draft = refused(unread.0).residue(residue);
    match (is_query, adds_rows, start.peeks("update")) {
        (true, false, false) => Draft {
            check: NamedCheck::Free,
            ..draft
        },
        _ => draft,
    }
}

fn refused(why: &'static str) -> Draft {
    let rejection = Rejection::unsupported(
        label::UNPARSED,
        "the statement is not understood, and a sharded database runs only what is",
    )
    .detail(why)
    .hint("Write it in a simpler form, or name a shard with SET pgherd.shard.");
    Draft::refused(Action::Run, rejection).uncheckable()
}

/// The functions that the tokens show: names before an opening parenthesis.
fn functions(subject: Subject<'_, '_>) -> FunctionFacts {
    let text = subject.text;
    let names = subject.names;
    let mut facts = FunctionFacts::default();
    for at in 0..text.tokens.len() {
        if text.kind(at + 1) != Some(TokenKind::LeftParen) {
            continue;
        }
        let Some(name) = text.name(at) else {
            continue;
        };
        let dotted = at >= 2 && text.kind(at - 1) == Some(TokenKind::Dot);
        let schema = if dotted { text.name(at - 2) } else { None };
        let is_word = text.kind(at) == Some(TokenKind::Word);
        if !dotted && is_word && BEFORE_PARENTHESIS.contains(&name.as_str()) {
            continue;
        }
        let call = Call {
            schema: schema.as_deref(),
            name: &name,
            is_local: false,
            window: false,
        };
        facts.add(&call, &names);
    }
    facts
}

/// Words that stand before a parenthesis without being called.
const BEFORE_PARENTHESIS: &[&str] = &[
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "bit",
    "by",
    "char",
    "character",
    "check",
    "conflict",
    "cross",
    "cube",
    "decimal",
    "distinct",
    "else",
    "except",
    "exists",
    "filter",
    "float",
    "from",
    "group",
    "having",
    "in",
    "inner",
    "insert",
    "intersect",
    "interval",
    "into",
    "is",
    "join",
    "key",
    "lateral",
    "left",
    "like",
    "limit",
    "materialized",
    "not",
    "numeric",
    "offset",
    "on",
    "only",
    "operator",
    "or",
    "order",
    "over",
    "partition",
    "returning",
    "right",
    "rollup",
    "row",
    "rows",
    "select",
    "set",
    "sets",
    "similar",
    "some",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "union",
    "using",
    "values",
    "varchar",
    "when",
    "where",
    "window",
    "with",
    "within",
];

fn reads_catalogs_only(subject: Subject<'_, '_>, facts: &FunctionFacts) -> bool {
    let text = subject.text;
    let start = text.cursor();
    let begins = start.peeks_any(&["select", "with", "values"])
        || (start.kind() == Some(TokenKind::LeftParen));
    let changes = [
        "insert", "update", "delete", "merge", "into", "share", "do", "call", "execute",
    ]
    .iter()
    .any(|word| start.mentions(word));
    if !begins
        || changes
        || facts.user.is_some()
        || facts.unknown.is_some()
        || facts.runs_text.is_some()
        || facts.sets.is_some()
    {
        return false;
    }
    let mut words: HashSet<String> = HashSet::new();
    for (at, found) in text.tokens.iter().enumerate() {
        match found.token.kind {
            TokenKind::Word | TokenKind::QuotedName | TokenKind::UnicodeName => {
                let Some(name) = text.name(at) else {
                    return false;
                };
                words.insert(name);
            }
            TokenKind::Other => return false,
            _ => {}
        }
    }
    words
        .iter()
        .any(|word| word.starts_with("pg_") || word == "information_schema")
        && !subject.names.catalog.relations().any(|relation| {
            !is_system_schema(&relation.name.schema) && words.contains(&*relation.name.name)
        })
        && !subject
            .names
            .sharding
            .tables()
            .any(|rule| words.contains(&*rule.table.name))
        && !subject
            .names
            .sharding
            .reference_tables()
            .any(|name| words.contains(&*name.name))
}
