//! The literals of a statement: normalised to slots, and read back by slot.
//!
//! Owns the list of slots and how a slot's text becomes the value that Postgres would see. Never
//! decides which slots a plan may read: that is the planner's guard record.
//! Main types: [`Literal`], [`Literals`].

use std::borrow::Cow;

use smallvec::SmallVec;

pub use crate::lexer::LiteralKind;
use crate::lexer::continuation;
use crate::plan::Span;

/// One literal of a query string: its spelling and where its text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// The spelling.
    pub kind: LiteralKind,
    /// First byte within the query string.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Literal {
    /// The literal as written, with its quotes.
    #[must_use]
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// The characters that the literal stands for, or `None` where that depends on the server
    /// (`U&''` with escapes, `\x` and `\u` escapes, bit strings).
    #[must_use]
    pub fn value<'a>(&self, sql: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let text = self.text(sql);
        match self.kind {
            LiteralKind::Integer | LiteralKind::Numeric => Some(Cow::Borrowed(text)),
            LiteralKind::OtherNumber | LiteralKind::BitString | LiteralKind::HexString => None,
            LiteralKind::String => unquote(text, 1, Escapes::None),
            LiteralKind::EscapeString => {
                let opening = if text.first() == Some(&b'\'') { 1 } else { 2 };
                unquote(text, opening, Escapes::Backslash)
            }
            LiteralKind::NationalString => {
                unquote(text, 2, Escapes::None).filter(|value| !value.contains(&b'\\'))
            }
            LiteralKind::UnicodeString => unquote(text, 3, Escapes::None)
                .filter(|value| value.is_ascii() && !value.contains(&b'\\')),
            LiteralKind::DollarString => {
                let tag = text.iter().skip(1).position(|&byte| byte == b'$')? + 2;
                text.get(tag..text.len().checked_sub(tag)?)
                    .map(Cow::Borrowed)
            }
        }
    }
}

/// The literals of a query string, by slot. Up to sixteen need no allocation.
///
/// A list of plain literals (`IN (1, 2, 3)`) is one slot, and so is each column of rows that are
/// spelled alike (`VALUES (1, 'a'), (2, 'b')`): [`Literals::elements`] gives all that a slot stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Literals {
    pub(crate) slots: SmallVec<[Literal; 8]>,
    /// The elements of lists after their first, row by row.
    pub(crate) more: Vec<Literal>,
    /// The lists, in the order of the text.
    pub(crate) lists: SmallVec<[List; 1]>,
}

/// Rows of literals of which the first alone has slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) first_slot: u32,
    /// Literals in a row.
    pub(crate) width: u32,
    /// Where its further rows begin in `more`.
    pub(crate) more_start: u32,
    /// Rows after the first.
    pub(crate) more_rows: u32,
    /// The text of the further rows, commas included: the planner does not read it.
    pub(crate) hidden: Span,
}

impl Literals {
    /// The literal in a slot; the first one where it is a list.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<&Literal> {
        self.slots.get(slot as usize)
    }

    /// How many slots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All literals: those in slots in the order of the text, then the further elements of lists.
    pub fn iter(&self) -> impl Iterator<Item = &Literal> {
        self.slots.iter().chain(&self.more)
    }

    /// How many literals a slot stands for; none where there is no such slot.
    #[must_use]
    pub fn count(&self, slot: u32) -> usize {
        match (self.slot(slot), self.list_of(slot)) {
            (None, _) => 0,
            (Some(_), None) => 1,
            (Some(_), Some(list)) => list.more_rows as usize + 1,
        }
    }

    /// One of the literals that a slot stands for.
    #[must_use]
    pub fn element(&self, slot: u32, index: usize) -> Option<&Literal> {
        let Some(further) = index.checked_sub(1) else {
            return self.slot(slot);
        };
        let list = self.list_of(slot)?;
        if further >= list.more_rows as usize {
            return None;
        }
        let column = (slot - list.first_slot) as usize;
        let at = list.more_start as usize + further * list.width as usize + column;
        self.more.get(at)
    }

    /// All literals that a slot stands for, in the order of the text.
    pub fn elements(&self, slot: u32) -> impl Iterator<Item = &Literal> {
        (0..self.count(slot)).filter_map(move |index| self.element(slot, index))
    }

    fn list_of(&self, slot: u32) -> Option<&List> {
        let after = self.lists.partition_point(|list| list.first_slot <= slot);
        let list = self.lists.get(after.checked_sub(1)?)?;
        (slot - list.first_slot < list.width).then_some(list)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    Backslash,
}

/// The inside of a quoted string: doubled quotes, escapes and continuations undone.
fn unquote(text: &[u8], opening: usize, escapes: Escapes) -> Option<Cow<'_, [u8]>> {
    let inside = text.get(opening..text.len().checked_sub(1)?)?;
    let plain = !inside
        .iter()
        .any(|&byte| byte == b'\'' || (byte == b'\\' && escapes == Escapes::Backslash));
    if plain {
        return Some(Cow::Borrowed(inside));
    }
    let mut value = Vec::with_capacity(inside.len());
    let mut at = opening;
    let end = text.len() - 1;
    while at < end {
        match text[at] {
            b'\'' if text.get(at + 1) == Some(&b'\'') => {
                value.push(b'\'');
                at += 2;
            }
            b'\'' => at = continuation(text, at + 1)?,
            b'\\' if escapes == Escapes::Backslash => {
                value.push(match text.get(at + 1)? {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'0'..=b'7' | b'x' | b'u' | b'U' => return None,
                    other => *other,
                });
                at += 2;
            }
            byte => {
                value.push(byte);
                at += 1;
            }
        }
    }
    Some(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lexer::{BackslashReading, Lexer, TokenKind};

    fn value(sql: &str) -> Option<String> {
        let token = Lexer::new(sql.as_bytes(), BackslashReading::Literal)
            .next_token()
            .unwrap()
            .unwrap();
        let TokenKind::Literal(kind) = token.kind else {
            panic!("{sql} is not a literal");
        };
        let literal = Literal {
            kind,
            start: token.start,
            end: token.end,
        };
        literal
            .value(sql.as_bytes())
            .map(|value| String::from_utf8(value.into_owned()).unwrap())
    }

    #[test]
    fn the_value_is_what_postgres_reads() {
        assert_eq!(value("'a''b'").unwrap(), "a'b");
        assert_eq!(value("''").unwrap(), "");
        assert_eq!(value("''''").unwrap(), "'");
        assert_eq!(value("'a'\n'b'").unwrap(), "ab");
        assert_eq!(value(r"'a\n'").unwrap(), r"a\n");
        assert_eq!(value(r"E'a\n\'\\b'").unwrap(), "a\n'\\b");
        assert_eq!(value("$q$a'b$q$").unwrap(), "a'b");
        assert_eq!(value("$$$$").unwrap(), "");
        assert_eq!(value("42").unwrap(), "42");
        assert_eq!(value("N'a'").unwrap(), "a");
        assert_eq!(value("U&'abc'").unwrap(), "abc");
    }

    #[test]
    fn what_depends_on_the_server_has_no_value() {
        assert_eq!(value(r"E'\x41'"), None);
        assert_eq!(value(r"E'\101'"), None);
        assert_eq!(value(r"U&'\0041'"), None);
        assert_eq!(value("B'1'"), None);
        assert_eq!(value("0x10"), None);
    }
}
