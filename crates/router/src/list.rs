//! Lists of plain literals, folded to one slot while a text is scanned.
//!
//! Owns which lists share a plan whatever their length: `IN (1, 2, 3)`, whose elements are literals
//! of one kind, and rows of VALUES (or of a row's IN) that are spelled alike up to their literals'
//! values. Rows with parameters, operators or lists within are left as they are. Main type: [`ListFolder`].

use crate::fingerprint::Normalised;
use crate::lexer::{LiteralKind, Token, TokenKind};
use crate::literal::{List, Literals};
use crate::plan::Span;

/// Set in a literal's kind within the normalised text where it stands for a list of any length.
const LIST: u8 = 0x80;

/// Follows the tokens of a text, and takes from the normalised text what a list repeats. Most tokens are in no list:
/// what is done to those that are is kept out of line.
#[derive(Debug)]
pub(crate) struct ListFolder {
    depth: u32,
    /// The kinds of the last token and of the one before it, and where the last is.
    last: TokenKind,
    before_last: TokenKind,
    last_span: Span,
    /// The last `(` follows IN.
    opened_in: bool,
    elements: Option<Elements>,
    rows: Option<Rows>,
}

/// An IN list whose every token so far is one of a plain list.
#[derive(Debug, Clone, Copy)]
struct Elements {
    /// The normalised text's length after `(`.
    key_start: usize,
    first_slot: usize,
    kind: Option<LiteralKind>,
    next: Next,
    first_end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Element,
    /// A number, after the minus sign that begins here.
    Number(u32),
    Comma,
}

/// Rows in parentheses, separated by commas.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// The depth of parentheses outside the rows.
    depth: u32,
    state: RowState,
    /// The row that the following ones are compared with.
    kept: Option<KeptRow>,
    /// Does the current row hold nothing that must keep it apart?
    plain: bool,
    key_start: usize,
    first_slot: usize,
}

#[derive(Debug, Clone, Copy)]
struct KeptRow {
    key_start: usize,
    key_end: usize,
    first_slot: usize,
    end: u32,
    /// Its position in the lists, once a row was folded into it.
    list: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
    Before,
    Within,
    After,
}

impl Default for ListFolder {
    fn default() -> Self {
        Self {
            depth: 0,
            last: TokenKind::Other,
            before_last: TokenKind::Other,
            last_span: Span { start: 0, end: 0 },
            opened_in: false,
            elements: None,
            rows: None,
        }
    }
}

impl ListFolder {
    /// How many parentheses are open.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Before a token is appended to the normalised text: folds the IN list that it closes.
    #[inline]
    pub(crate) fn before(
        &mut self,
        sql: &[u8],
        token: Token,
        text: &mut Normalised<'_, '_>,
        literals: &mut Literals,
    ) {
        if let Some(list) = self.elements {
            self.elements = self.follow_elements(list, sql, token, text, literals);
        }
    }

    #[inline(never)]
    fn follow_elements(
        &mut self,
        mut list: Elements,
        sql: &[u8],
        token: Token,
        text: &mut Normalised<'_, '_>,
        literals: &mut Literals,
    ) -> Option<Elements> {
        match (token.kind, list.next) {
            (TokenKind::Literal(kind), Next::Element) if list.kind.is_none_or(|k| k == kind) => {
                list.kind = Some(kind);
                list.next = Next::Comma;
                Some(list)
            }
            (TokenKind::Literal(kind), Next::Number(sign))
                if list.kind.is_none_or(|k| k == kind)
                    && is_number(kind)
                    && token.start == sign + 1 =>
            {
                list.kind = Some(kind);
                Some(list)
            }
            (TokenKind::Comma, Next::Comma) => {
                list.next = Next::Element;
                Some(list)
            }
            (TokenKind::Operator, Next::Element) if token.text(sql) == b"-" => {
                list.next = Next::Number(token.start);
                Some(list)
            }
            (TokenKind::RightParen, Next::Comma) => {
                self.fold_elements(list, token, text, literals);
                None
            }
            _ => None,
        }
    }

    fn fold_elements(
        &mut self,
        list: Elements,
        closing: Token,
        text: &mut Normalised<'_, '_>,
        literals: &mut Literals,
    ) {
        let (Some(kind), Some(last)) = (list.kind, literals.slots.last().copied()) else {
            return;
        };
        text.gathered().truncate(list.key_start);
        text.push_slot(kind as u8 | LIST);
        text.skip_to(closing.start);
        let further = &literals.slots[list.first_slot + 1..];
        literals.lists.push(List {
            first_slot: position(list.first_slot),
            width: 1,
            more_start: position(literals.more.len()),
            more_rows: position(further.len()),
            hidden: Span {
                start: list.first_end,
                end: last.end,
            },
        });
        literals.more.extend_from_slice(further);
        literals.slots.truncate(list.first_slot + 1);
        self.keep_apart();
    }

    /// After a token was appended to the normalised text.
    #[inline]
    pub(crate) fn after(
        &mut self,
        sql: &[u8],
        token: Token,
        text: &mut Normalised<'_, '_>,
        literals: &mut Literals,
    ) {
        match token.kind {
            TokenKind::LeftParen => self.open(sql, text, literals),
            TokenKind::RightParen => self.close(token, text, literals),
            _ if self.elements.is_some() || self.rows.is_some() => {
                self.follow(sql, token, literals);
            }
            _ => {}
        }
        self.before_last = self.last;
        self.last = token.kind;
        self.last_span = Span {
            start: token.start,
            end: token.end,
        };
    }

    /// Follows a token of a list or of rows that is no parenthesis.
    #[inline(never)]
    fn follow(&mut self, sql: &[u8], token: Token, literals: &mut Literals) {
        if let Some(list) = &mut self.elements
            && let Some(literal) = literals.slots.last_mut()
            && matches!(token.kind, TokenKind::Literal(_))
        {
            if let Next::Number(sign) = list.next {
                literal.start = sign;
                list.next = Next::Comma;
            }
            if literals.slots.len() == list.first_slot + 1 {
                list.first_end = token.end;
            }
        }
        let Some(rows) = &mut self.rows else {
            return;
        };
        match (rows.state, token.kind) {
            (RowState::Within, TokenKind::Parameter) => rows.plain = false,
            // what is worked out may need each row's own values; a sign does not
            (RowState::Within, TokenKind::Operator) => {
                let follows_separator =
                    matches!(self.last, TokenKind::LeftParen | TokenKind::Comma);
                rows.plain &= follows_separator && token.text(sql) == b"-";
            }
            (RowState::Within, _) | (RowState::Before, TokenKind::Comma) => {}
            (RowState::After, TokenKind::Comma) => rows.state = RowState::Before,
            (RowState::Before | RowState::After, _) => self.rows = None,
        }
    }

    /// The current row is not folded into another, and no other into it.
    fn keep_apart(&mut self) {
        if let Some(rows) = &mut self.rows {
            rows.plain = false;
        }
    }

    /// Is the last token this word (lower case), and not a part of a longer name?
    fn follows_word(&self, sql: &[u8], word: &[u8]) -> bool {
        self.last == TokenKind::Word
            && self.before_last != TokenKind::Dot
            && self.last_span.text(sql).eq_ignore_ascii_case(word)
    }

    /// At `(`: a list or a row may begin.
    #[inline(never)]
    fn open(&mut self, sql: &[u8], text: &Normalised<'_, '_>, literals: &Literals) {
        let within_in = self.opened_in && self.last == TokenKind::LeftParen;
        self.opened_in = self.follows_word(sql, b"in");
        if self.opened_in {
            self.elements = Some(Elements {
                key_start: text.len(),
                first_slot: literals.slots.len(),
                kind: None,
                next: Next::Element,
                first_end: 0,
            });
        }
        if self.rows.is_none() && (within_in || self.follows_word(sql, b"values")) {
            self.rows = Some(Rows {
                depth: self.depth,
                state: RowState::Before,
                kept: None,
                plain: true,
                key_start: 0,
                first_slot: 0,
            });
        }
        if let Some(rows) = &mut self.rows {
            if rows.state == RowState::Before && rows.depth == self.depth {
                rows.state = RowState::Within;
                rows.plain = true;
                rows.key_start = text.len() - 1;
                rows.first_slot = literals.slots.len();
            } else if rows.state != RowState::Within {
                self.rows = None;
            }
        }
        self.depth += 1;
    }

    /// At `)`: a row may end.
    #[inline(never)]
    fn close(&mut self, token: Token, text: &mut Normalised<'_, '_>, literals: &mut Literals) {
        self.depth = self.depth.saturating_sub(1);
        let Some(rows) = &mut self.rows else {
            return;
        };
        if rows.state != RowState::Within {
            self.rows = None;
            return;
        }
        if rows.depth != self.depth {
            return;
        }
        rows.state = RowState::After;
        if !rows.plain {
            rows.kept = None;
            return;
        }
        let key = text.gathered();
        let width = literals.slots.len() - rows.first_slot;
        let alike = rows.kept.filter(|kept| {
            width > 0
                && rows.first_slot - kept.first_slot == width
                && key[kept.key_start..kept.key_end] == key[rows.key_start..]
        });
        match alike {
            None => {
                rows.kept = Some(KeptRow {
                    key_start: rows.key_start,
                    key_end: key.len(),
                    first_slot: rows.first_slot,
                    end: token.end,
                    list: None,
                });
            }
            Some(kept) => {
                rows.kept = Some(fold_row(kept, width, token.end, literals));
                key.truncate(kept.key_end);
            }
        }
    }
}

/// Moves the literals of the last row, which ends at `end`, behind those of the row it is like.
fn fold_row(kept: KeptRow, width: usize, end: u32, literals: &mut Literals) -> KeptRow {
    let position_of_list = kept.list.unwrap_or_else(|| {
        literals.lists.push(List {
            first_slot: position(kept.first_slot),
            width: position(width),
            more_start: position(literals.more.len()),
            more_rows: 0,
            hidden: Span {
                start: kept.end,
                end,
            },
        });
        literals.lists.len() - 1
    });
    if let Some(list) = literals.lists.get_mut(position_of_list) {
        list.more_rows += 1;
        list.hidden.end = end;
    }
    let moved = literals.slots.len() - width;
    let (_, row) = literals.slots.split_at(moved);
    literals.more.extend_from_slice(row);
    literals.slots.truncate(moved);
    KeptRow {
        list: Some(position_of_list),
        ..kept
    }
}

fn is_number(kind: LiteralKind) -> bool {
    matches!(kind, LiteralKind::Integer | LiteralKind::Numeric)
}

/// A text has less than 4 GiB, and each literal takes a byte of it.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fingerprint::Scan;
    use crate::lexer::BackslashReading;

    fn scan(sql: &str) -> (Scan, Vec<u8>) {
        let (mut scan, mut key) = (Scan::default(), Vec::new());
        scan.read(sql.as_bytes(), BackslashReading::Literal, &mut key)
            .unwrap();
        (scan, key)
    }

    fn normalised(sql: &str) -> Vec<u8> {
        scan(sql).1
    }

    /// The elements of each slot.
    fn slots(sql: &str) -> Vec<Vec<&str>> {
        let (scan, _) = scan(sql);
        let text =
            |literal: &crate::literal::Literal| &sql[literal.start as usize..literal.end as usize];
        (0..position(scan.literals.len()))
            .map(|slot| scan.literals.elements(slot).map(text).collect())
            .collect()
    }

    #[test]
    fn lists_of_any_length_are_one_text() {
        let base = normalised("select 1 from t where id in (1) and x = 2");
        for alike in [
            "select 1 from t where id in (1, 2) and x = 2",
            "select 1 from t where id in (1,2 , 3 ) and x = 2",
            "select 1 from t where id in ( -1, 2) and x = 2",
        ] {
            assert_eq!(base, normalised(alike), "{alike}");
        }
        for other in [
            "select 1 from t where id in (1, '2') and x = 2",
            "select 1 from t where id in (1, 2.0) and x = 2",
            "select 1 from t where id in (1, $1) and x = 2",
            "select 1 from t where id in (1 + 2) and x = 2",
            "select 1 from t where id in (1, 2, f(3)) and x = 2",
            "select 1 from t where t.in (1) and x = 2",
            "select 1 from t where id in (1, - 2) and x = 2",
        ] {
            assert_ne!(base, normalised(other), "{other}");
        }
    }

    #[test]
    fn rows_that_are_spelled_alike_are_one_text() {
        let base = normalised("insert into t values (1, 'a') returning 5");
        assert_eq!(
            base,
            normalised("insert into t values (1, 'a'), (2, 'b'),\n (3, 'c') returning 5")
        );
        for other in [
            "insert into t values (1, 'a'), (2, 3) returning 5",
            "insert into t values (1, 'a'), ($1, 'b') returning 5",
            "insert into t values (1, 'a'), (2, 'b', 3) returning 5",
            "insert into t values (1, 'a'), (2, default) returning 5",
        ] {
            assert_ne!(base, normalised(other), "{other}");
        }
        assert_eq!(
            normalised("select (a, b) in ((1, 2))"),
            normalised("select (a, b) in ((1, 2), (3, 4))")
        );
    }

    #[test]
    fn a_slot_gives_all_its_elements() {
        assert_eq!(
            slots("select 0 from t where a in (1, -2, 3) and b = 4"),
            [vec!["0"], vec!["1", "-2", "3"], vec!["4"]]
        );
        assert_eq!(
            slots("values (1, 'a'), (2, 'b'), (3, 'c'), (4, 5), (6, 7)"),
            [
                vec!["1", "2", "3"],
                vec!["'a'", "'b'", "'c'"],
                vec!["4", "6"],
                vec!["5", "7"]
            ]
        );
        assert_eq!(
            slots("select (a, b) in ((1, 2), (3, 4)), 5"),
            [vec!["1", "3"], vec!["2", "4"], vec!["5"]]
        );
        // rows with lists in them stay apart
        assert_eq!(
            slots("values (1, x in (2, 3)), (4, x in (5, 6))"),
            [vec!["1"], vec!["2", "3"], vec!["4"], vec!["5", "6"]]
        );
        assert_eq!(slots("values (-1), (-2)"), [vec!["1", "2"]]);
    }
}
