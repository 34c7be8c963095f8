//! One pass over a query string: its normalised text, its literals, its statements.
//!
//! Owns what makes two texts the same plan: equal tokens, with literals compared by kind and blanks
//! and comments folded. Never parses. Main type: [`Scan`].

use smallvec::SmallVec;

use crate::hint::Hint;
use crate::lexer::{BackslashReading, LexError, Lexer, Token, TokenKind};
use crate::list::ListFolder;
use crate::literal::{Literal, Literals};
use crate::plan::Span;
use crate::rejection::Rejection;

/// The buffer that a cache key is gathered in: the context's bytes, then the normalised text. On the
/// stack for all but long statements.
pub(crate) type KeyBuffer = SmallVec<[u8; 1024]>;

/// What one pass over a text found.
#[derive(Debug)]
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

/// Scans `sql`, appending its normalised text to `key`.
pub(crate) fn scan(
    sql: &[u8],
    backslash: BackslashReading,
    key: &mut KeyBuffer,
) -> Result<Scan, ScanError> {
    let mut lexer = Lexer::new(sql, backslash);
    lexer.skip_blank()?;
    let hint = match lexer.position() {
        0 => None,
        blank => Hint::read(&sql[..blank]).map_err(ScanError::Hint)?,
    };
    let mut literals = Literals::default();
    let mut splitter = Splitter::default();
    let mut lists = ListFolder::default();
    let mut text = Normalised {
        sql,
        key,
        start: 0,
        end: 0,
    };
    let mut end = u32::MAX;
    while let Some(token) = lexer.next_token()? {
        lists.before(sql, token, &mut text, &mut literals);
        if end != u32::MAX && token.start != end && !lists.just_folded {
            text.push_blank();
        }
        end = token.end;
        lists.starts_at = text.len();
        if let TokenKind::Literal(kind) = token.kind {
            text.push_slot(kind as u8);
            literals.slots.push(Literal {
                kind,
                start: token.start,
                end: token.end,
            });
        } else {
            text.push(token);
        }
        lists.after(sql, token, &mut text, &mut literals);
        splitter.push(sql, token);
    }
    text.gathered();
    Ok(Scan {
        literals,
        spans: splitter.finish(),
        hint,
    })
}

/// The normalised text as it grows. What it has in common with the text itself is copied in one piece.
pub(crate) struct Normalised<'s, 'k> {
    sql: &'s [u8],
    key: &'k mut KeyBuffer,
    /// What of `sql` is to be appended to `key` yet.
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

    fn push(&mut self, token: Token) {
        let (start, end) = (token.start as usize, token.end as usize);
        if start != self.end {
            self.gathered();
            self.start = start;
        }
        self.end = end;
    }

    fn push_blank(&mut self) {
        if self.start < self.end && self.sql.get(self.end) == Some(&b' ') {
            self.end += 1;
        } else {
            self.gathered().push(b' ');
        }
    }

    /// A literal of this kind, or a list of them.
    pub(crate) fn push_slot(&mut self, kind: u8) {
        self.gathered().extend_from_slice(&[SLOT, kind]);
    }
}

/// Finds where statements end: at `;` outside parentheses and outside a SQL-standard function body
/// (`BEGIN ATOMIC ... END`).
#[derive(Default)]
struct Splitter {
    spans: SmallVec<[Span; 2]>,
    current: Option<Span>,
    parentheses: u32,
    creates: bool,
    begins: bool,
    body: u32,
}

impl Splitter {
    fn push(&mut self, sql: &[u8], token: Token) {
        match token.kind {
            TokenKind::Semicolon if self.parentheses == 0 && self.body == 0 => {
                self.spans.extend(self.current.take());
                *self = Self {
                    spans: std::mem::take(&mut self.spans),
                    ..Self::default()
                };
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

    fn finish(mut self) -> SmallVec<[Span; 2]> {
        self.spans.extend(self.current.take());
        self.spans
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

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
