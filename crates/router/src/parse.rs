//! Hands a statement's tokens to sqlparser, and nothing else of it.
//!
//! Owns the translation: sqlparser never sees the text, so where tokens begin and end is always
//! Postgres' reading. A literal becomes its slot's number, so that no plan can depend on a value
//! unseen.
//! Words that sqlparser would misread (`ONLY`, `FOR NO KEY UPDATE`) are replaced by ones that mean
//! the same for placement. Nothing is ever printed back. Main function: [`with_parsed`].

use sqlparser::ast::{Ident, Statement, Value};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token as SqlToken, TokenWithSpan, Word};

use crate::lexer::{LiteralKind, TokenKind};
use crate::tokens::{StatementText, cut};

/// How deep parentheses and the like may nest; beyond it a statement is not read.
const MAX_DEPTH: usize = 200;

/// How many operators may stand above each other: the tree leans to the left by one for each, and
/// whoever walks or drops it recurses as deep.
const MAX_CHAIN: usize = 4_000;

/// Up to here the stack of a worker thread will do.
const ORDINARY_CHAIN: usize = 100;

/// The stack for deeper trees: 16 KiB for each operator, which an unoptimised build comes near.
const DEEP_STACK_BYTES: usize = MAX_CHAIN * (16 << 10);

/// Slots become characters of the private use planes, one for each.
const FIRST_SLOT_CHARACTER: u32 = 0xF_0000;
const MAX_SLOTS: u32 = 0x1_FFFE;

/// A statement as a tree, and what the translation left out of it.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) statement: Statement,
    /// `OVERRIDING USER VALUE` was left out: identity columns take no value from the statement.
    pub(crate) overriding_user_value: bool,
    /// An `OPERATOR(schema.op)` outside pg_catalog.
    pub(crate) foreign_operator: bool,
}

/// Reads a SELECT, VALUES, INSERT, UPDATE, DELETE, MERGE or WITH from the tokens `from..to`, and hands
/// it to `then`; or a sentence for the detail of a rejection.
///
/// The tree lives within the call only: whoever walks or drops a deep one needs a stack of its own.
pub(crate) fn with_parsed<T>(
    text: &StatementText<'_>,
    from: usize,
    to: usize,
    then: impl FnOnce(Result<&Parsed, &'static str>) -> T,
) -> T {
    let mut translation = Translation::new(text, to);
    if let Err(why) = translation.run(from) {
        return then(Err(why));
    }
    let deep = translation.deepest > ORDINARY_CHAIN;
    let work = || match translation.parse() {
        Ok(parsed) => then(Ok(&parsed)),
        Err(why) => then(Err(why)),
    };
    if deep {
        stacker::grow(DEEP_STACK_BYTES, work)
    } else {
        work()
    }
}

/// The slot that a literal of the tree stands for.
pub(crate) fn slot_of(value: &Value) -> Option<u32> {
    match value {
        Value::Number(digits, _) => digits.parse().ok(),
        Value::SingleQuotedString(text)
        | Value::NationalStringLiteral(text)
        | Value::HexStringLiteral(text)
        | Value::SingleQuotedByteStringLiteral(text) => {
            let character = text.chars().next()?;
            u32::from(character).checked_sub(FIRST_SLOT_CHARACTER)
        }
        _ => None,
    }
}

/// A name of the tree, folded as Postgres folds it.
pub(crate) fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => cut(ident.value.clone()),
        None => cut(ident.value.to_ascii_lowercase()),
    }
}

struct Translation<'t, 'a> {
    text: &'t StatementText<'a>,
    to: usize,
    tokens: Vec<TokenWithSpan>,
    /// Operators pending at each depth of parentheses.
    chain: Vec<usize>,
    chained: usize,
    /// The most that were pending, parentheses counted too.
    deepest: usize,
    overriding_user_value: bool,
    foreign_operator: bool,
}

impl<'t, 'a> Translation<'t, 'a> {
    fn new(text: &'t StatementText<'a>, to: usize) -> Self {
        Self {
            text,
            to,
            tokens: Vec::with_capacity(to),
            chain: vec![0],
            chained: 0,
            deepest: 0,
            overriding_user_value: false,
            foreign_operator: false,
        }
    }

    fn run(&mut self, from: usize) -> Result<(), &'static str> {
        let mut at = from;
        while at < self.to {
            at = match self.text.kind(at) {
                Some(TokenKind::Word) => self.word(at)?,
                Some(_) => self.other(at)?,
                None => break,
            };
            self.deepest = self.deepest.max(self.chained + self.chain.len());
            if self.chain.len() > MAX_DEPTH || self.chained > MAX_CHAIN {
                return Err("The statement nests too deep to be read.");
            }
        }
        Ok(())
    }

    fn parse(self) -> Result<Parsed, &'static str> {
        let dialect = PostgreSqlDialect {};
        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(MAX_DEPTH)
            .with_tokens_with_locations(self.tokens);
        let statement = parser
            .parse_statement()
            .map_err(|_| "The planner could not read the statement.")?;
        if parser.peek_token_ref().token != SqlToken::EOF {
            return Err("The planner could not read the statement to its end.");
        }
        Ok(Parsed {
            statement,
            overriding_user_value: self.overriding_user_value,
            foreign_operator: self.foreign_operator,
        })
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        at < self.to && self.text.is_word(at, word)
    }

    fn emit(&mut self, at: usize, token: SqlToken) {
        let column = at as u64 + 1;
        let location = Location { line: 1, column };
        self.tokens.push(TokenWithSpan {
            token,
            span: Span::new(location, location),
        });
    }

    fn keyword(&mut self, at: usize, word: &str) {
        self.emit(at, SqlToken::make_keyword(word));
    }

    /// One word, or a phrase that begins with it; the index after it.
    fn word(&mut self, at: usize) -> Result<usize, &'static str> {
        let follows_dot = at > 0 && self.text.kind(at - 1) == Some(TokenKind::Dot);
        let spelled = std::str::from_utf8(self.text.text(at))
            .map_err(|_| "A name of the statement is not valid UTF-8.")?;
        if follows_dot {
            // after a dot every word is a name
            self.emit(
                at,
                SqlToken::Word(Word {
                    value: spelled.to_owned(),
                    quote_style: None,
                    keyword: Keyword::NoKeyword,
                }),
            );
            return Ok(at + 1);
        }
        if let Some(next) = self.phrase(at, spelled)? {
            return Ok(next);
        }
        self.count(weight_of(spelled));
        self.emit(at, SqlToken::make_word(spelled, None));
        Ok(at + 1)
    }

    /// The phrases that sqlparser does not read, or reads as something else.
    fn phrase(&mut self, at: usize, spelled: &str) -> Result<Option<usize>, &'static str> {
        let next = match spelled.to_ascii_lowercase().as_str() {
            "only" if !self.ends_fetch(at) => self.only(at)?,
            "for" => return Ok(self.locking_clause(at)),
            "between"
                if self.is_word(at + 1, "symmetric") || self.is_word(at + 1, "asymmetric") =>
            {
                self.keyword(at, "BETWEEN");
                at + 2
            }
            "table" if self.begins_query(at) => {
                self.keyword(at, "SELECT");
                self.emit(at, SqlToken::Mul);
                self.keyword(at, "FROM");
                at + 1
            }
            // the text before it is spelled with another escape than the literal's reader knows
            "uescape" if self.follows_unicode_string(at) => {
                return Err("The planner does not read UESCAPE.");
            }
            "overriding" if self.is_word(at + 2, "value") => {
                self.overriding_user_value |= self.is_word(at + 1, "user");
                at + 3
            }
            "operator" if self.text.kind(at + 1) == Some(TokenKind::LeftParen) => {
                return self.qualified_operator(at).map(Some);
            }
            _ => return Ok(None),
        };
        Ok(Some(next))
    }

    /// ONLY name, or ONLY (name): the index after the word and what it is in parentheses.
    fn only(&mut self, at: usize) -> Result<usize, &'static str> {
        if self.text.kind(at + 1) != Some(TokenKind::LeftParen) {
            return Ok(at + 1);
        }
        let mut next = at + 2;
        while next < self.to && self.text.kind(next) != Some(TokenKind::RightParen) {
            let part =
                self.text.name(next).is_some() || self.text.kind(next) == Some(TokenKind::Dot);
            if !part {
                return Err("The planner could not read ONLY (...).");
            }
            next = match self.text.kind(next) {
                Some(TokenKind::Word) => self.word(next)?,
                _ => self.other(next)?,
            };
        }
        Ok(next + 1)
    }

    /// Is this ONLY the end of FETCH FIRST n ROWS ONLY?
    fn ends_fetch(&self, at: usize) -> bool {
        at > 0 && (self.is_word(at - 1, "rows") || self.is_word(at - 1, "row"))
    }

    /// Does a query begin at this token? So TABLE is a command there.
    fn begins_query(&self, at: usize) -> bool {
        self.tokens.is_empty()
            || self.text.kind(at - 1) == Some(TokenKind::LeftParen)
            || ["union", "except", "intersect", "all", "distinct"]
                .iter()
                .any(|word| self.is_word(at - 1, word))
    }

    fn follows_unicode_string(&self, at: usize) -> bool {
        at > 0
            && self.text.kind(at - 1) == Some(TokenKind::Literal(LiteralKind::UnicodeString))
            && matches!(self.text.kind(at + 1), Some(TokenKind::Literal(_)))
    }

    /// FOR [NO KEY] UPDATE | [KEY] SHARE [OF names]: any of them locks rows.
    fn locking_clause(&mut self, at: usize) -> Option<usize> {
        let mut next = at + 1;
        let strength = if self.is_word(next, "update") {
            "UPDATE"
        } else if self.is_word(next, "share") {
            "SHARE"
        } else if self.is_word(next, "no") && self.is_word(next + 1, "key") {
            next += 2;
            "UPDATE"
        } else if self.is_word(next, "key") && self.is_word(next + 1, "share") {
            next += 1;
            "SHARE"
        } else {
            return None;
        };
        self.keyword(at, "FOR");
        self.keyword(at, strength);
        next += 1;
        if self.is_word(next, "of") {
            next += 1;
            while self.text.name(next).is_some() {
                next += 1;
                match self.text.kind(next) {
                    Some(TokenKind::Dot | TokenKind::Comma) => next += 1,
                    _ => break,
                }
            }
        }
        Some(next)
    }

    /// `OPERATOR(schema.op)`, whose operator then proves nothing, whatever it is.
    fn qualified_operator(&mut self, at: usize) -> Result<usize, &'static str> {
        let mut next = at + 2;
        let mut schema = None;
        while let Some(name) = self.text.name(next) {
            schema = Some(name);
            next += 2;
        }
        if self.text.kind(next) != Some(TokenKind::Operator)
            || self.text.kind(next + 1) != Some(TokenKind::RightParen)
        {
            return Err("The planner could not read OPERATOR(...).");
        }
        self.foreign_operator |= schema.as_deref() != Some("pg_catalog");
        let operator = String::from_utf8_lossy(self.text.text(next)).into_owned();
        self.emit(at, SqlToken::CustomBinaryOperator(operator));
        self.count_operator();
        Ok(next + 2)
    }

    fn count_operator(&mut self) {
        self.count(1);
    }

    /// Notes that the tree may get deeper by so much.
    fn count(&mut self, weight: usize) {
        if let Some(pending) = self.chain.last_mut() {
            *pending += weight;
            self.chained += weight;
        }
    }

    /// A token that is not a word; the index after it.
    fn other(&mut self, at: usize) -> Result<usize, &'static str> {
        let Some(found) = self.text.tokens.get(at) else {
            return Ok(self.to);
        };
        let spelled = self.text.text(at);
        let token = match found.token.kind {
            TokenKind::Word => return Ok(at + 1),
            TokenKind::QuotedName | TokenKind::UnicodeName => SqlToken::Word(Word {
                value: self
                    .text
                    .name(at)
                    .ok_or("A quoted name of the statement could not be read.")?,
                quote_style: Some('"'),
                keyword: Keyword::NoKeyword,
            }),
            TokenKind::Literal(kind) => literal_token(kind, found.slot)?,
            TokenKind::Parameter => {
                SqlToken::Placeholder(String::from_utf8_lossy(spelled).into_owned())
            }
            TokenKind::Operator => {
                self.count_operator();
                operator_token(spelled)
            }
            TokenKind::LeftParen => {
                self.chain.push(0);
                SqlToken::LParen
            }
            TokenKind::RightParen => {
                if self.chain.len() > 1 {
                    self.chained -= self.chain.pop().unwrap_or(0);
                }
                SqlToken::RParen
            }
            TokenKind::LeftBracket => {
                self.count_operator();
                SqlToken::LBracket
            }
            TokenKind::RightBracket => SqlToken::RBracket,
            TokenKind::Comma => {
                if let Some(pending) = self.chain.last_mut() {
                    self.chained -= *pending;
                    *pending = 0;
                }
                SqlToken::Comma
            }
            TokenKind::Semicolon => SqlToken::SemiColon,
            TokenKind::Dot => SqlToken::Period,
            TokenKind::Colon => SqlToken::Colon,
            TokenKind::Cast => {
                self.count_operator();
                SqlToken::DoubleColon
            }
            TokenKind::Punctuation if spelled == b":=" => SqlToken::Assignment,
            TokenKind::Punctuation | TokenKind::Other => {
                return Err("The statement holds a character that begins no token.");
            }
        };
        self.emit(at, token);
        Ok(at + 1)
    }
}

/// By how much a word deepens the tree. Joins without conditions nest to the right, through many more
/// frames than an operator.
fn weight_of(word: &str) -> usize {
    const OPERATORS: &[&str] = &[
        "and",
        "or",
        "not",
        "union",
        "except",
        "intersect",
        "is",
        "isnull",
        "notnull",
        "collate",
        "like",
        "ilike",
        "similar",
        "between",
        "at",
        "in",
        "case",
    ];
    const JOIN_WEIGHT: usize = 20;
    if word.eq_ignore_ascii_case("join") {
        JOIN_WEIGHT
    } else {
        usize::from(
            OPERATORS
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known)),
        )
    }
}

fn literal_token(kind: LiteralKind, slot: u32) -> Result<SqlToken, &'static str> {
    if slot >= MAX_SLOTS {
        return Err("The statement holds too many literals to be read.");
    }
    let character = || {
        // the last two code points of each plane are no characters, but char takes them
        char::from_u32(FIRST_SLOT_CHARACTER + slot)
            .map(String::from)
            .ok_or("The statement holds too many literals to be read.")
    };
    Ok(match kind {
        LiteralKind::Integer | LiteralKind::Numeric | LiteralKind::OtherNumber => {
            SqlToken::Number(slot.to_string(), false)
        }
        LiteralKind::String
        | LiteralKind::EscapeString
        | LiteralKind::UnicodeString
        | LiteralKind::DollarString => SqlToken::SingleQuotedString(character()?),
        LiteralKind::BitString => SqlToken::SingleQuotedByteStringLiteral(character()?),
        LiteralKind::HexString => SqlToken::HexStringLiteral(character()?),
        LiteralKind::NationalString => SqlToken::NationalStringLiteral(character()?),
    })
}

fn operator_token(spelled: &[u8]) -> SqlToken {
    match spelled {
        b"=" => SqlToken::Eq,
        b"<>" | b"!=" => SqlToken::Neq,
        b"<" => SqlToken::Lt,
        b">" => SqlToken::Gt,
        b"<=" => SqlToken::LtEq,
        b">=" => SqlToken::GtEq,
        b"+" => SqlToken::Plus,
        b"-" => SqlToken::Minus,
        b"*" => SqlToken::Mul,
        b"/" => SqlToken::Div,
        b"%" => SqlToken::Mod,
        b"||" => SqlToken::StringConcat,
        b"=>" => SqlToken::RArrow,
        b"^" => SqlToken::Caret,
        b"|" => SqlToken::Pipe,
        b"&" => SqlToken::Ampersand,
        b"#" => SqlToken::Sharp,
        b"~" => SqlToken::Tilde,
        b"!" => SqlToken::ExclamationMark,
        b"!!" => SqlToken::DoubleExclamationMark,
        b"@" => SqlToken::AtSign,
        b"|/" => SqlToken::PGSquareRoot,
        b"||/" => SqlToken::PGCubeRoot,
        b"~*" => SqlToken::TildeAsterisk,
        b"!~" => SqlToken::ExclamationMarkTilde,
        b"!~*" => SqlToken::ExclamationMarkTildeAsterisk,
        b"~~" => SqlToken::DoubleTilde,
        b"~~*" => SqlToken::DoubleTildeAsterisk,
        b"!~~" => SqlToken::ExclamationMarkDoubleTilde,
        b"!~~*" => SqlToken::ExclamationMarkDoubleTildeAsterisk,
        b"<<" => SqlToken::ShiftLeft,
        b">>" => SqlToken::ShiftRight,
        b"&&" => SqlToken::Overlap,
        b"->" => SqlToken::Arrow,
        b"->>" => SqlToken::LongArrow,
        b"#>" => SqlToken::HashArrow,
        b"#>>" => SqlToken::HashLongArrow,
        b"@>" => SqlToken::AtArrow,
        b"<@" => SqlToken::ArrowAt,
        b"#-" => SqlToken::HashMinus,
        b"@?" => SqlToken::AtQuestion,
        b"@@" => SqlToken::AtAt,
        b"?" => SqlToken::Question,
        b"?&" => SqlToken::QuestionAnd,
        b"?|" => SqlToken::QuestionPipe,
        b"^@" => SqlToken::CaretAt,
        other => SqlToken::CustomBinaryOperator(String::from_utf8_lossy(other).into_owned()),
    }
}
