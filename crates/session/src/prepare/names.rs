//! Where the names of prepared statements stand in a text.
//!
//! Owns: finding and replacing them. Never knows what a name stands for. Main function: [`place_of_name`].

use std::ops::Range;

use pgherd_router::lexer::{Lexer, TokenKind};
use pgherd_router::{Action, BackslashReading, Planned, StatementPlan};

/// Whether there may be such a name in a statement: told without looking at more than its first byte.
pub(super) fn may_have_name(
    statement: &StatementPlan,
    planned: &Planned,
    index: usize,
    sql: &str,
) -> bool {
    match statement.action {
        Action::Prepare { .. } | Action::Execute { .. } | Action::Deallocate(Some(_)) => true,
        Action::Run | Action::Ddl(_) => {
            let start = planned.spans.get(index).map_or(0, |span| span.start);
            let first = sql.as_bytes().get(start as usize);
            first.is_some_and(|first| matches!(first, b'e' | b'E' | b'c' | b'C'))
        }
        _ => false,
    }
}

/// Where the name of a prepared statement stands in a statement that has one.
pub(super) fn place_of_name(statement: &StatementPlan, text: &str) -> Option<Range<usize>> {
    match statement.action {
        Action::Prepare { .. } | Action::Execute { .. } | Action::Deallocate(Some(_)) => {
            second_word(text)
        }
        Action::Run | Action::Ddl(_) => executed_within(text),
        _ => None,
    }
}

/// Whether a statement runs a prepared one as a part of it: EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE.
pub(crate) fn executes_within(statement: &StatementPlan, text: &str) -> bool {
    matches!(statement.action, Action::Run | Action::Ddl(_)) && executed_within(text).is_some()
}

fn executed_within(text: &str) -> Option<Range<usize>> {
    let begins = |word: &str| {
        let start = text.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if !begins("explain") && !begins("create") {
        return None;
    }
    let mut depth = 0_usize;
    let mut outside = tokens(text).filter(|(kind, _)| {
        match kind {
            TokenKind::LeftParen => depth += 1,
            TokenKind::RightParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *kind != TokenKind::RightParen
    });
    let word = |place: Range<usize>| text.get(place).unwrap_or_default().to_ascii_lowercase();
    let mut next = || outside.next().map(|(_, place)| place);
    let mut first = word(next()?);
    if first == "explain" {
        while ["explain", "analyze", "analyse", "verbose"].contains(&first.as_str()) {
            first = word(next()?);
        }
        if first == "execute" {
            return next();
        }
    }
    if first != "create" {
        return None;
    }
    // the first AS is that of CREATE TABLE
    while word(next()?) != "as" {}
    (word(next()?) == "execute").then(next)?
}

/// The name that follows the first word (DEALLOCATE may say PREPARE between).
pub(super) fn second_word(text: &str) -> Option<Range<usize>> {
    tokens(text)
        .enumerate()
        .skip(1)
        .map(|(_, (_, place))| place)
        .find(|place| {
            !text
                .get(place.clone())
                .is_some_and(|word| word.eq_ignore_ascii_case("prepare"))
        })
}

/// What follows the name of a PREPARE.
pub(super) fn behind_name(text: &str) -> &str {
    let name = second_word(text).unwrap_or_default();
    text.get(name.end..).unwrap_or_default()
}

/// The statement behind `(types) AS`.
pub(super) fn prepared_text(rest: &str) -> &str {
    let mut depth = 0_usize;
    for (kind, place) in tokens(rest) {
        match kind {
            TokenKind::LeftParen => depth += 1,
            TokenKind::RightParen => depth = depth.saturating_sub(1),
            TokenKind::Word if depth == 0 => {
                // AS
                return rest.get(place.end..).unwrap_or_default().trim();
            }
            _ => {}
        }
    }
    ""
}

fn tokens(text: &str) -> impl Iterator<Item = (TokenKind, Range<usize>)> + '_ {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    std::iter::from_fn(move || {
        let token = lexer.next_token().ok()??;
        Some((token.kind, token.start as usize..token.end as usize))
    })
}

/// A name as Postgres folds it.
pub(super) fn folded(name: &str) -> String {
    match name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_ascii_lowercase(),
    }
}

/// A statement with another name in this place.
pub(super) fn renamed(text: &str, place: Range<usize>, name: &[u8]) -> String {
    let before = text.get(..place.start).unwrap_or_default();
    let after = text.get(place.end..).unwrap_or_default();
    format!("{before}\"{}\"{after}", String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_replaced_wherever_it_stands() {
        let named = |text: &str, place: Option<Range<usize>>| {
            renamed(text, place.unwrap_or_default(), b"s")
        };
        for (text, expected) in [
            (
                "PREPARE /* x */ \"A b\"(int) AS SELECT $1",
                "PREPARE /* x */ \"s\"(int) AS SELECT $1",
            ),
            ("execute a (1)", "execute \"s\" (1)"),
            ("DEALLOCATE PREPARE a", "DEALLOCATE PREPARE \"s\""),
        ] {
            assert_eq!(named(text, second_word(text)), expected);
        }
        for (text, expected) in [
            (
                "EXPLAIN (ANALYZE) EXECUTE a(1)",
                "EXPLAIN (ANALYZE) EXECUTE \"s\"(1)",
            ),
            (
                "CREATE TABLE t (a) AS EXECUTE a WITH NO DATA",
                "CREATE TABLE t (a) AS EXECUTE \"s\" WITH NO DATA",
            ),
        ] {
            assert_eq!(named(text, executed_within(text)), expected);
        }
        for other in [
            "CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()",
            "CREATE TABLE t AS SELECT a AS execute FROM b",
            "EXPLAIN SELECT execute FROM a",
            "EXPLAIN SELECT (a) execute FROM b",
            "SELECT 1",
        ] {
            assert_eq!(executed_within(other), None, "{other}");
        }
    }

    #[test]
    fn the_statement_is_what_follows_as() {
        assert_eq!(prepared_text(" (int, numeric(3)) AS SELECT 1 "), "SELECT 1");
        assert_eq!(prepared_text(" as VALUES (1)"), "VALUES (1)");
        assert_eq!(prepared_text("AS SELECT 1 AS a"), "SELECT 1 AS a");
    }

    #[test]
    fn a_name_is_folded_unless_it_is_quoted() {
        assert_eq!(folded("Ab"), "ab");
        assert_eq!(folded("\"A \"\"b\""), "A \"b");
    }
}
