//! EXPLAIN, and EXPLAIN (ROUTE), which is pgherd's own.
//!
//! Owns the options' grammar (Postgres documentation, reference: EXPLAIN). An explained statement is
//! placed as itself; with ANALYZE it also counts as run.

use crate::action::{Action, CopyDirection};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::{NamedCheck, Placement, Residue, Span};
use crate::rejection::{Rejection, label};
use crate::statement::{answered, begins_query, read_query};
use crate::survey::Subject;
use crate::tokens::Cursor;

/// Reads EXPLAIN; `None` where it is another statement.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if !at.takes("explain") {
        return None;
    }
    let mut analyze = false;
    let mut route = false;
    if at.kind() == Some(TokenKind::LeftParen) && !begins_query(at) {
        for mut option in at.parenthesised()?.split_at_commas() {
            let name = option.name()?;
            let value = if option.at_end() {
                true
            } else {
                is_on(option)?
            };
            match name.as_str() {
                "route" => route = value,
                "analyze" | "analyse" => analyze = value,
                _ => {}
            }
        }
    } else {
        analyze = at.takes_any(&["analyze", "analyse"]);
        at.takes("verbose");
    }
    if at.at_end() {
        return None;
    }
    if route {
        let statement = Span {
            start: subject.text.tokens.get(at.at)?.token.start,
            end: subject.text.tokens.get(at.end - 1)?.token.end,
        };
        let action = Action::ExplainRoute { analyze, statement };
        return Some(answered(
            action,
            Placement::Nowhere,
            "pgherd explains the route",
        ));
    }
    let draft = if begins_query(at) {
        read_query(subject, at.at, at.end)
    } else if at.peeks("execute") {
        let rejection = Rejection::unsupported(
            label::STATEMENT,
            "EXPLAIN EXECUTE is not supported on a sharded database",
        )
        .hint("Explain the statement itself.");
        Draft::refused(Action::Run, rejection)
            .uncheckable()
            .residue(Residue::OPAQUE)
    } else {
        inner_definition(at, subject)?
    };
    Some(explained(draft, analyze))
}

/// Is an option's value on? Numbers and strings are read through the guard.
fn is_on(mut option: Cursor<'_, '_>) -> Option<bool> {
    let word = match option.kind()? {
        TokenKind::Word | TokenKind::QuotedName => option.name()?,
        TokenKind::Literal(_) => {
            let slot = option.text.tokens.get(option.at)?.slot;
            let value = option.text.literal_value(slot)?;
            String::from_utf8_lossy(&value).to_ascii_lowercase()
        }
        _ => return None,
    };
    Some(!matches!(word.as_str(), "off" | "false" | "0"))
}

/// EXPLAIN of CREATE TABLE AS and DECLARE: placed as those.
fn inner_definition(at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    [crate::cursor::read, crate::ddl::read]
        .iter()
        .find_map(|reader| reader(at, subject))
}

fn explained(draft: Draft, analyze: bool) -> Draft {
    let Draft {
        action,
        placement,
        check,
        access,
        residue,
        reason,
        relations,
        checks_clock_words: _,
        reads_moment,
        vacates: _,
    } = draft;
    // an explained statement of all shards has one plan for each: the home shard's stands for them
    let placement = match (action, placement) {
        (Action::ReferenceWrite { .. } | Action::Ddl(_), Ok(Placement::All)) if analyze => {
            Err(Rejection::unsupported(
                label::STATEMENT,
                "EXPLAIN ANALYZE of a write on every shard is not supported",
            )
            .hint("Use EXPLAIN without ANALYZE."))
        }
        (_, Ok(Placement::All)) => Ok(Placement::Any),
        (
            Action::Copy {
                direction: CopyDirection::FromClient,
            },
            Ok(_),
        ) => Ok(Placement::Any),
        (_, placement) => placement,
    };
    Draft {
        action: Action::Run,
        placement,
        check: if analyze { check } else { NamedCheck::Free },
        // a proven read either way; a table of the primary alone cannot even be planned elsewhere
        access,
        residue: if analyze { residue } else { Residue::NONE },
        reason,
        relations,
        checks_clock_words: false,
        reads_moment: reads_moment && analyze,
        vacates: None,
    }
}
