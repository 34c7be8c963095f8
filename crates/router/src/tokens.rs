//! One statement as tokens, and a cursor that reads names and key words off them.
//!
//! Owns the folding of names (as Postgres folds: ASCII to lower case, cut to 63 bytes) and the record
//! of which literals were read. Never builds a tree. Main types: [`StatementText`], [`Cursor`].

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::lexer::{BackslashReading, Lexer, Token, TokenKind};
use crate::literal::{Literal, Literals};
use crate::plan::Span;

/// Postgres cuts names to this many bytes (NAMEDATALEN less one).
const MAX_NAME_BYTES: usize = 63;

/// A token, and the slot of its literal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatementToken {
    pub(crate) token: Token,
    /// Meaningful for literals only.
    pub(crate) slot: u32,
}

/// One statement's tokens.
#[derive(Debug)]
pub(crate) struct StatementText<'a> {
    pub(crate) sql: &'a [u8],
    pub(crate) tokens: Vec<StatementToken>,
    literals: &'a Literals,
    /// The slots whose values the plan depends on, of the whole query string.
    guards: &'a RefCell<BTreeSet<u32>>,
}

impl<'a> StatementText<'a> {
    /// Cuts the statement at `span` into at most `limit` tokens; `None` where there are more, or
    /// where the text cannot be lexed (which the scan before has ruled out).
    pub(crate) fn read(
        sql: &'a [u8],
        span: Span,
        backslash: BackslashReading,
        literals: &'a Literals,
        guards: &'a RefCell<BTreeSet<u32>>,
        limit: usize,
    ) -> Option<Self> {
        let mut slot = literals
            .slots
            .partition_point(|literal| literal.start < span.start);
        let mut hidden = literals
            .lists
            .iter()
            .map(|list| list.hidden)
            .skip_while(|hidden| hidden.start < span.start)
            .peekable();
        let mut lexer = Lexer::new(span.text(sql), backslash);
        let mut tokens = Vec::new();
        while let Ok(Some(token)) = lexer.next_token() {
            if tokens.len() == limit {
                return None;
            }
            let mut token = Token {
                kind: token.kind,
                start: token.start + span.start,
                end: token.end + span.start,
            };
            if let Some(hidden) = hidden.next_if(|hidden| token.start >= hidden.start) {
                lexer.go_to((hidden.end - span.start) as usize);
                continue;
            }
            // the sign of a list's first number belongs to it, as to the others
            let signed = token.kind == TokenKind::Operator
                && literals
                    .slots
                    .get(slot)
                    .is_some_and(|literal| literal.start == token.start);
            if signed {
                let Ok(Some(number)) = lexer.next_token() else {
                    return None;
                };
                token.kind = number.kind;
                token.end = number.end + span.start;
            }
            tokens.push(StatementToken {
                token,
                slot: u32::try_from(slot).ok()?,
            });
            if matches!(token.kind, TokenKind::Literal(_)) {
                slot += 1;
            }
        }
        Some(Self {
            sql,
            tokens,
            literals,
            guards,
        })
    }

    /// A literal's value; from now on the plan holds for this value alone. `None` for a list too.
    pub(crate) fn literal_value(&self, slot: u32) -> Option<Cow<'a, [u8]>> {
        self.guards.borrow_mut().insert(slot);
        if self.literals.count(slot) != 1 {
            return None;
        }
        self.literals.slot(slot)?.value(self.sql)
    }

    /// A literal's spelling and place, which the fingerprint already holds.
    pub(crate) fn literal(&self, slot: u32) -> Option<&'a Literal> {
        self.literals.slot(slot)
    }

    pub(crate) fn kind(&self, at: usize) -> Option<TokenKind> {
        self.tokens.get(at).map(|found| found.token.kind)
    }

    pub(crate) fn text(&self, at: usize) -> &'a [u8] {
        self.tokens
            .get(at)
            .map_or(&[][..], |found| found.token.text(self.sql))
    }

    /// Is the token at `at` the unquoted word `word` (lower case)?
    pub(crate) fn is_word(&self, at: usize, word: &str) -> bool {
        self.kind(at) == Some(TokenKind::Word)
            && self.text(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Is the token at `at` this operator?
    pub(crate) fn is_operator(&self, at: usize, operator: &str) -> bool {
        self.kind(at) == Some(TokenKind::Operator) && self.text(at) == operator.as_bytes()
    }

    /// The name that the token at `at` is, folded, or `None` where it is no name.
    pub(crate) fn name(&self, at: usize) -> Option<String> {
        match self.kind(at)? {
            TokenKind::Word => fold_word(self.text(at)),
            TokenKind::QuotedName => fold_quoted(self.text(at)),
            TokenKind::UnicodeName => {
                // an UESCAPE clause after it would change what it spells
                let text = self.text(at).get(2..)?;
                let name = fold_quoted(text)?;
                let plain = !name.contains('\\') && !self.is_word(at + 1, "uescape");
                plain.then_some(name)
            }
            _ => None,
        }
    }

    /// How often the parameter (from 0) is written.
    pub(crate) fn parameter_occurrences(&self, index: u16) -> usize {
        let number = u32::from(index) + 1;
        self.parameters().filter(|found| *found == number).count()
    }

    /// The highest parameter's number: `$3` is 3.
    pub(crate) fn highest_parameter(&self) -> u16 {
        let highest = self.parameters().max().unwrap_or(0);
        u16::try_from(highest).unwrap_or(u16::MAX)
    }

    fn parameters(&self) -> impl Iterator<Item = u32> {
        self.tokens
            .iter()
            .filter(|found| found.token.kind == TokenKind::Parameter)
            .filter_map(|found| {
                let digits = found.token.text(self.sql).get(1..)?;
                std::str::from_utf8(digits).ok()?.parse().ok()
            })
    }

    pub(crate) fn cursor(&self) -> Cursor<'_, 'a> {
        Cursor {
            text: self,
            at: 0,
            end: self.tokens.len(),
        }
    }
}

/// An unquoted word as a name; `None` where it is not UTF-8.
pub(crate) fn fold_word(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    Some(cut(text.to_ascii_lowercase()))
}

fn fold_quoted(text: &[u8]) -> Option<String> {
    let inside = text.get(1..text.len().checked_sub(1)?)?;
    let inside = std::str::from_utf8(inside).ok()?;
    Some(cut(inside.replace("\"\"", "\"")))
}

/// A name as Postgres stores it: at most 63 bytes, cut between characters.
pub(crate) fn cut(mut name: String) -> String {
    if name.len() > MAX_NAME_BYTES {
        let end = (0..=MAX_NAME_BYTES)
            .rev()
            .find(|&end| name.is_char_boundary(end))
            .unwrap_or(0);
        name.truncate(end);
    }
    name
}

/// A possibly qualified name, as written but folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn unqualified(name: impl Into<String>) -> Self {
        Self {
            schema: None,
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(formatter, "{schema}.")?;
        }
        formatter.write_str(&self.name)
    }
}

/// Reads a statement's tokens from left to right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'s, 'a> {
    pub(crate) text: &'s StatementText<'a>,
    pub(crate) at: usize,
    pub(crate) end: usize,
}

impl<'s, 'a> Cursor<'s, 'a> {
    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.end
    }

    pub(crate) fn kind(&self) -> Option<TokenKind> {
        if self.at_end() {
            return None;
        }
        self.text.kind(self.at)
    }

    pub(crate) fn advance(&mut self) {
        self.at += 1;
    }

    /// Is the next token this word? Words are given in lower case.
    pub(crate) fn peeks(&self, word: &str) -> bool {
        !self.at_end() && self.text.is_word(self.at, word)
    }

    pub(crate) fn peeks_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.peeks(word))
    }

    /// Are the next tokens these words?
    pub(crate) fn peeks_all(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| {
            self.at + ahead < self.end && self.text.is_word(self.at + ahead, word)
        })
    }

    /// Goes past the word if it is next.
    pub(crate) fn takes(&mut self, word: &str) -> bool {
        let found = self.peeks(word);
        if found {
            self.at += 1;
        }
        found
    }

    /// Goes past all of the words if they are next.
    pub(crate) fn takes_all(&mut self, words: &[&str]) -> bool {
        let found = self.peeks_all(words);
        if found {
            self.at += words.len();
        }
        found
    }

    pub(crate) fn takes_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.takes(word))
    }

    pub(crate) fn takes_kind(&mut self, kind: TokenKind) -> bool {
        let found = self.kind() == Some(kind);
        if found {
            self.at += 1;
        }
        found
    }

    pub(crate) fn takes_operator(&mut self, operator: &str) -> bool {
        let found = !self.at_end() && self.text.is_operator(self.at, operator);
        if found {
            self.at += 1;
        }
        found
    }

    /// One name, folded.
    pub(crate) fn name(&mut self) -> Option<String> {
        if self.at_end() {
            return None;
        }
        let name = self.text.name(self.at)?;
        self.at += 1;
        Some(name)
    }

    /// `name` or `schema.name`. `database.schema.name` loses its database.
    pub(crate) fn qualified_name(&mut self) -> Option<Name> {
        let mut schema = None;
        let mut name = self.name()?;
        while self.takes_kind(TokenKind::Dot) {
            schema = Some(name);
            name = self.name()?;
        }
        Some(Name { schema, name })
    }

    /// At `(`: a cursor over what is inside, and this one goes past the `)`.
    pub(crate) fn parenthesised(&mut self) -> Option<Cursor<'s, 'a>> {
        if self.kind() != Some(TokenKind::LeftParen) {
            return None;
        }
        let start = self.at + 1;
        let mut depth = 0_usize;
        while let Some(kind) = self.kind() {
            self.at += 1;
            match kind {
                TokenKind::LeftParen => depth += 1,
                TokenKind::RightParen => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(Cursor {
                            text: self.text,
                            at: start,
                            end: self.at - 1,
                        });
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The parts between top-level commas.
    pub(crate) fn split_at_commas(&self) -> Vec<Cursor<'s, 'a>> {
        let mut parts = Vec::new();
        let mut start = self.at;
        let mut depth = 0_usize;
        for at in self.at..self.end {
            match self.text.kind(at) {
                Some(TokenKind::LeftParen | TokenKind::LeftBracket) => depth += 1,
                Some(TokenKind::RightParen | TokenKind::RightBracket) => {
                    depth = depth.saturating_sub(1);
                }
                Some(TokenKind::Comma) if depth == 0 => {
                    parts.push(Cursor {
                        text: self.text,
                        at: start,
                        end: at,
                    });
                    start = at + 1;
                }
                _ => {}
            }
        }
        if start < self.end || !parts.is_empty() {
            parts.push(Cursor {
                text: self.text,
                at: start,
                end: self.end,
            });
        }
        parts
    }

    /// The offset from here of the first top-level occurrence of the word.
    pub(crate) fn find(&self, word: &str) -> Option<usize> {
        let mut depth = 0_usize;
        for at in self.at..self.end {
            match self.text.kind(at) {
                Some(TokenKind::LeftParen | TokenKind::LeftBracket) => depth += 1,
                Some(TokenKind::RightParen | TokenKind::RightBracket) => {
                    depth = depth.saturating_sub(1);
                }
                Some(TokenKind::Word) if depth == 0 && self.text.is_word(at, word) => {
                    return Some(at);
                }
                _ => {}
            }
        }
        None
    }

    /// Does the word occur anywhere, at any depth?
    pub(crate) fn mentions(&self, word: &str) -> bool {
        (self.at..self.end).any(|at| self.text.is_word(at, word))
    }

    /// Goes past the next token, or past everything up to its closing parenthesis.
    pub(crate) fn skip_one(&mut self) {
        if self.kind() == Some(TokenKind::LeftParen) {
            if self.parenthesised().is_none() {
                self.at = self.end;
            }
        } else {
            self.at += 1;
        }
    }
}
