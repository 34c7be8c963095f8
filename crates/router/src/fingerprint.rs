//! One pass over a query string: its normalised text, its literals, its statements.
//!
//! Owns what makes two texts the same plan: equal tokens, with literals compared by kind and blanks
//! and comments folded. Never parses. Main type: [`Scan`].

use smallvec::SmallVec;

use crate::hint::Hint;
use crate::lexer::{BackslashReading, LexError, Lexer, LiteralKind, Token, TokenKind};
use crate::list::ListFolder;
use crate::literal::{Literal, Literals};
use crate::plan::Span;
use crate::rejection::Rejection;

/// What one pass over a text found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) literals: Literals,
    /// Statements that are not empty.
    pub(crate) spans: SmallVec<[Span; 2]>,
    pub(crate) hint: Option<Hint>,
}

/// Why a text could not be scanned.
#[derive(Debug)]
pub(crate) enum ScanError {
    Lex(LexError),
    Hint(Rejection),
}

impl From<LexError> for ScanError {
    fn from(error: LexError) -> Self {
        Self::Lex(error)
    }
}

/// Stands before a literal's kind in the normalised text; SQL text holds no zero byte.
pub(crate) const SLOT: u8 = 0;

impl Scan {
    /// Scans `sql` into a new scan, appending its normalised text to `key`.
    pub(crate) fn read(
        &mut self,
        sql: &[u8],
        backslash: BackslashReading,
        key: &mut Vec<u8>,
    ) -> Result<(), ScanError> {
        u32::try_from(sql.len()).map_err(|_| LexError::TooLong)?;
        let mut lexer = Lexer::new(sql, backslash);
        lexer.skip_blank()?;
        if lexer.position() > 0 {
            self.hint = Hint::read(&sql[..lexer.position()]).map_err(ScanError::Hint)?;
        }
        let literals = &mut self.literals;
        let mut splitter = Splitter::new(&mut self.spans);
        let mut lists = ListFolder::default();
        let mut text = Normalised {
            sql,
            key,
            start: lexer.position(),
            end: lexer.position(),
        };
        while let Some(kind) = lexer.next_kind()? {
            #[expect(clippy::cast_possible_truncation)] // the text is not as long
            let token = Token {
                kind,
                start: lexer.last_start() as u32,
                end: lexer.position() as u32,
            };
            lists.before(sql, token, &mut text, literals);
            splitter.push(sql, token, text.end, lists.depth());
            if let TokenKind::Literal(kind) = token.kind {
                text.push_literal(token, kind);
                literals.slots.push(Literal {
                    kind,
                    start: token.start,
                    end: token.end,
                });
            } else {
                text.push(token);
            }
            lists.after(sql, token, &mut text, literals);
        }
        text.gathered();
        splitter.end_statement(text.end);
        Ok(())
    }
}

/// The normalised text as it grows. What it has in common with the text itself is copied in one piece.
pub(crate) struct Normalised<'s, 'k> {
    sql: &'s [u8],
    key: &'k mut Vec<u8>,
    /// What of `sql` is to be appended to `key` yet: it ends where the last token does.
    start: usize,
    end: usize,
}

impl Normalised<'_, '_> {
    /// Its length in bytes, with that of the context before it.
    pub(crate) fn len(&self) -> usize {
        self.key.len() + (self.end - self.start)
    }

    /// All of it so far.
    #[inline(never)]
    pub(crate) fn gathered(&mut self) -> &mut Vec<u8> {
        let piece = self.sql.get(self.start..self.end).unwrap_or_default();
        self.key.extend_from_slice(piece);
        self.start = self.end;
        self.key
    }

    #[inline]
    fn push(&mut self, token: Token) {
        self.reach(token);
        self.end = token.end as usize;
    }

    #[inline]
    fn push_literal(&mut self, token: Token, kind: LiteralKind) {
        self.reach(token);
        self.push_slot(kind as u8);
        self.skip_to(token.end);
    }

    /// A literal of this kind, or a list of them.
    pub(crate) fn push_slot(&mut self, kind: u8) {
        self.gathered().extend_from_slice(&[SLOT, kind]);
    }

    /// Leaves out what of the text is before `position`.
    pub(crate) fn skip_to(&mut self, position: u32) {
        self.start = position as usize;
        self.end = position as usize;
    }

    /// One blank stands for any blanks and comments between the last token and this one.
    #[inline]
    fn reach(&mut self, token: Token) {
        let start = token.start as usize;
        if start == self.end {
            return;
        }
        if start == self.end + 1 && self.sql.get(self.end) == Some(&b' ') {
            self.end = start;
            return;
        }
        self.gathered().push(b' ');
        self.skip_to(token.start);
    }
}

/// Finds where statements end: at `;` outside parentheses and outside a SQL-standard function body
/// (`BEGIN ATOMIC ... END`).
struct Splitter<'s> {
    spans: &'s mut SmallVec<[Span; 2]>,
    /// Where the current statement begins.
    start: Option<u32>,
    creates: bool,
    begins: bool,
    body: u32,
}

impl<'s> Splitter<'s> {
    fn new(spans: &'s mut SmallVec<[Span; 2]>) -> Self {
        Self {
            spans,
            start: None,
            creates: false,
            begins: false,
            body: 0,
        }
    }

    /// Follows a token. The one before it ends at `last_end`, and `parentheses` are open.
    #[inline]
    fn push(&mut self, sql: &[u8], token: Token, last_end: usize, parentheses: u32) {
        if token.kind == TokenKind::Semicolon && parentheses == 0 && self.body == 0 {
            self.end_statement(last_end);
        } else if self.start.is_none() {
            self.start = Some(token.start);
            self.creates =
                token.kind == TokenKind::Word && token.text(sql).eq_ignore_ascii_case(b"create");
        } else if self.creates && token.kind == TokenKind::Word {
            self.follow_body(token.text(sql));
        }
    }

    #[inline(never)]
    fn end_statement(&mut self, end: usize) {
        if let Some(start) = self.start.take() {
            let end = u32::try_from(end).unwrap_or(u32::MAX);
            self.spans.push(Span { start, end });
        }
        self.creates = false;
        self.begins = false;
    }

    #[inline(never)]
    fn follow_body(&mut self, word: &[u8]) {
        if self.body == 0 {
            if self.begins && word.eq_ignore_ascii_case(b"atomic") {
                self.body = 1;
            }
            self.begins = word.eq_ignore_ascii_case(b"begin");
        } else if word.eq_ignore_ascii_case(b"case") {
            self.body += 1;
        } else if word.eq_ignore_ascii_case(b"end") {
            self.body -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn scan(sql: &[u8], backslash: BackslashReading, key: &mut Vec<u8>) -> Result<Scan, ScanError> {
        let mut scan = Scan::default();
        scan.read(sql, backslash, key)?;
        Ok(scan)
    }

    fn normalised(sql: &str) -> Vec<u8> {
        let mut key = Vec::new();
        scan(sql.as_bytes(), BackslashReading::Literal, &mut key).unwrap();
        key.to_vec()
    }

    fn statements(sql: &str) -> Vec<&str> {
        let mut key = Vec::new();
        let scan = scan(sql.as_bytes(), BackslashReading::Literal, &mut key).unwrap();
        scan.spans
            .iter()
            .map(|span| std::str::from_utf8(span.text(sql.as_bytes())).unwrap())
            .collect()
    }

    #[test]
    fn values_do_not_count_but_kinds_do() {
        let base = normalised("select * from t where id = 7");
        assert_eq!(
            base,
            normalised("select  *\nfrom t /* c */ where id = 42 -- x")
        );
        for other in [
            "select * from t where id = '7'",
            "select * from t where id = 7.0",
            "select * from t where id = -7",
            "select * from t where id = $1",
            "select * from T where id = 7",
            "select * from t where id = E'7'",
            "select * from t where id = $$7$$",
        ] {
            assert_ne!(base, normalised(other), "{other}");
        }
    }

    #[test]
    fn tokens_that_touch_are_not_tokens_apart() {
        assert_ne!(normalised("select a b"), normalised("select ab"));
        assert_ne!(normalised("select a - -b"), normalised("select a --b"));
    }

    #[test]
    fn statements_end_at_top_level_semicolons() {
        assert_eq!(statements(""), Vec::<&str>::new());
        assert_eq!(statements(" ; -- nothing\n;"), Vec::<&str>::new());
        assert_eq!(
            statements("select 1; select ';' ;"),
            ["select 1", "select ';'"]
        );
        assert_eq!(
            statements("create rule r as on insert to t do (a; b); select 1").len(),
            2
        );
        let function = "create function f() returns int begin atomic \
                        select case when true then 1 end; select 2; end; select 3";
        assert_eq!(statements(function).len(), 2);
        assert_eq!(statements("begin; select 1; end").len(), 3);
    }

    proptest! {
        #[test]
        fn literals_tile_the_text_in_order(sql in "([a-z ]|'[a-z]*'|[0-9]{1,3}|\\$\\$x\\$\\$|;|\\(|\\)){0,40}") {
            let mut key = Vec::new();
            if let Ok(scan) = scan(sql.as_bytes(), BackslashReading::Literal, &mut key) {
                let mut end = 0;
                for literal in &scan.literals.slots {
                    prop_assert!(literal.start >= end && literal.end > literal.start);
                    prop_assert!(literal.end as usize <= sql.len());
                    end = literal.end;
                }
            }
        }
    }
}
