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

/// The buffer that a cache key is gathered in: the context's bytes, then the normalised text. On the
/// stack for all but long statements.
pub(crate) type KeyBuffer = SmallVec<[u8; 1024]>;

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
        key: &mut KeyBuffer,
    ) -> Result<(), ScanError> {
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
        while let Some(token) = lexer.next_token()? {
            lists.before(sql, token, &mut text, literals);
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
            splitter.push(sql, token);
        }
        text.gathered();
        splitter.end_statement();
        Ok(())
    }
}

/// The normalised text as it grows. What it has in common with the text itself is copied in one piece.
pub(crate) struct Normalised<'s, 'k> {
    sql: &'s [u8],
    key: &'k mut KeyBuffer,
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
    pub(crate) fn gathered(&mut self) -> &mut KeyBuffer {
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
        match self.sql.get(self.end..token.start as usize) {
            Some([]) => {}
            Some([b' ']) => self.end += 1,
            _ => {
                self.gathered().push(b' ');
                self.skip_to(token.start);
            }
        }
    }
}

/// Finds where statements end: at `;` outside parentheses and outside a SQL-standard function body
/// (`BEGIN ATOMIC ... END`).
struct Splitter<'s> {
    spans: &'s mut SmallVec<[Span; 2]>,
    current: Option<Span>,
    parentheses: u32,
    creates: bool,
    begins: bool,
    body: u32,
}

impl<'s> Splitter<'s> {
    fn new(spans: &'s mut SmallVec<[Span; 2]>) -> Self {
        Self {
            spans,
            current: None,
            parentheses: 0,
            creates: false,
            begins: false,
            body: 0,
        }
    }

    #[inline]
    fn push(&mut self, sql: &[u8], token: Token) {
        match token.kind {
            TokenKind::Semicolon if self.parentheses == 0 && self.body == 0 => {
                self.end_statement();
                return;
            }
            TokenKind::LeftParen => self.parentheses += 1,
            TokenKind::RightParen => self.parentheses = self.parentheses.saturating_sub(1),
            TokenKind::Word if self.current.is_none() => {
                self.creates = token.text(sql).eq_ignore_ascii_case(b"create");
            }
            TokenKind::Word if self.creates => self.follow_body(token.text(sql)),
            _ => {}
        }
        match &mut self.current {
            Some(span) => span.end = token.end,
            None => {
                self.current = Some(Span {
                    start: token.start,
                    end: token.end,
                });
            }
        }
    }

    fn end_statement(&mut self) {
        if let Some(span) = self.current.take() {
            self.spans.push(span);
        }
        self.creates = false;
        self.begins = false;
    }

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

    fn scan(
        sql: &[u8],
        backslash: BackslashReading,
        key: &mut KeyBuffer,
    ) -> Result<Scan, ScanError> {
        let mut scan = Scan::default();
        scan.read(sql, backslash, key)?;
        Ok(scan)
    }

    fn normalised(sql: &str) -> Vec<u8> {
        let mut key = KeyBuffer::new();
        scan(sql.as_bytes(), BackslashReading::Literal, &mut key).unwrap();
        key.to_vec()
    }

    fn statements(sql: &str) -> Vec<&str> {
        let mut key = KeyBuffer::new();
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
            let mut key = KeyBuffer::new();
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
