//! CREATE VIEW and CREATE MATERIALIZED VIEW: where their tables are.
//!
//! Owns the rule that a view is defined wherever all its tables are. Whether it can be read is the
//! business of the statement that does.

use crate::action::DdlPlan;
use crate::ddl::{at_home, ddl_rejection, everywhere, is_listed, refused};
use crate::lexer::TokenKind;
use crate::parse::with_parsed;
use crate::place::Draft;
use crate::scope::TableKind;
use crate::statement::begins_query;
use crate::survey::{Subject, Survey};
use crate::tokens::Cursor;

/// The kinds of tables that a definition reads.
struct Below {
    sharded: bool,
    home: bool,
}

/// CREATE VIEW name ... AS query
pub(crate) fn read(at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let (name, below) = definition(at, subject)?;
    let full = subject.names.name_to_create(&name);
    if is_listed(&full, subject) {
        return Some(refused(
            ddl_rejection(format!("{full} cannot be a view"))
                .detail("It is listed as a sharded or reference table."),
        ));
    }
    let Some(below) = below else {
        return Some(unreadable());
    };
    Some(match (below.home, below.sharded) {
        (true, true) => refused(
            ddl_rejection("a view cannot join tables of every shard with tables of the home shard")
                .detail(format!("No shard has all the tables of {full}.")),
        ),
        (true, false) => at_home(subject, vec![full]),
        (false, _) => everywhere(DdlPlan::default(), vec![full]),
    })
}

/// CREATE MATERIALIZED VIEW name ... AS query: its rows live on the home shard.
pub(crate) fn read_materialized(at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let (name, below) = definition(at, subject)?;
    let full = subject.names.name_to_create(&name);
    let Some(below) = below else {
        return Some(unreadable());
    };
    if below.sharded || is_listed(&full, subject) {
        return Some(refused(
            ddl_rejection("a materialized view over sharded tables is not supported")
                .detail(format!("{full} would hold the rows of one shard."))
                .hint("Create a view, or a table that the application fills."),
        ));
    }
    Some(at_home(subject, vec![full]))
}

fn unreadable() -> Draft {
    refused(
        ddl_rejection("the view's definition is not understood")
            .hint("Write it in a simpler form, or name a shard with SET pgherd.shard."),
    )
}

/// The name, and the tables of the query after AS if it could be read.
fn definition(
    mut at: Cursor<'_, '_>,
    subject: Subject<'_, '_>,
) -> Option<(crate::tokens::Name, Option<Below>)> {
    at.takes_all(&["if", "not", "exists"]);
    let name = at.qualified_name()?;
    let after = at.find("as")?;
    at.at = after + 1;
    if at.kind() != Some(TokenKind::LeftParen) && !begins_query(at) {
        return None;
    }
    let end = definition_end(at);
    let below = with_parsed(subject.text, at.at, end, |parsed| {
        let survey = Survey::of(subject, parsed.ok()?).ok()?;
        if survey.unresolved.is_some() {
            return None;
        }
        let mut below = Below {
            sharded: false,
            // a sequence and its like are there only
            home: survey.census.functions.home_only.is_some(),
        };
        for table in &survey.tables {
            match table.kind {
                TableKind::Sharded(_) => below.sharded = true,
                TableKind::Home => below.home = true,
                TableKind::Reference | TableKind::System => {}
            }
        }
        Some(below)
    });
    Some((name, below))
}

/// Where `WITH [CASCADED | LOCAL] CHECK OPTION` or `WITH [NO] DATA` begins, or the end.
pub(crate) fn definition_end(at: Cursor<'_, '_>) -> usize {
    let back = |words: &[&str]| {
        let start = at.end.checked_sub(words.len())?;
        let found = Cursor { at: start, ..at }.peeks_all(words);
        (found && start > at.at).then_some(start)
    };
    [
        &["with", "cascaded", "check", "option"][..],
        &["with", "local", "check", "option"],
        &["with", "check", "option"],
        &["with", "no", "data"],
        &["with", "data"],
    ]
    .iter()
    .find_map(|words| back(words))
    .unwrap_or(at.end)
}
