//! The router's lexer cuts texts where Postgres' own scanner does.

mod support;

use pg_query::protobuf::Token as PgToken;
use pgherd_router::lexer::{BackslashReading, Lexer, LiteralKind, TokenKind};
use proptest::prelude::*;

/// What both sides call a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Word,
    Name,
    UnicodeName,
    Number,
    String,
    UnicodeString,
    Bits,
    Hex,
    Parameter,
    Operator,
    Cast,
    Other,
}

/// Tokens by class and first byte, or that there is no reading.
type Reading = Result<Vec<(Class, usize)>, String>;

fn ours(sql: &str) -> Reading {
    let mut lexer = Lexer::new(sql.as_bytes(), BackslashReading::Literal);
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next_token().map_err(|error| error.to_string())? {
        let start = token.start as usize;
        let class = match token.kind {
            TokenKind::Word => Class::Word,
            TokenKind::QuotedName => Class::Name,
            TokenKind::UnicodeName => Class::UnicodeName,
            TokenKind::Literal(kind) => match kind {
                LiteralKind::Integer | LiteralKind::Numeric | LiteralKind::OtherNumber => {
                    Class::Number
                }
                LiteralKind::String | LiteralKind::EscapeString | LiteralKind::DollarString => {
                    Class::String
                }
                LiteralKind::UnicodeString => Class::UnicodeString,
                LiteralKind::BitString => Class::Bits,
                LiteralKind::HexString => Class::Hex,
                // Postgres makes two of it: the type and the text
                LiteralKind::NationalString => {
                    tokens.push((Class::Word, start));
                    tokens.push((Class::String, start + 1));
                    continue;
                }
            },
            TokenKind::Parameter => Class::Parameter,
            TokenKind::Operator => Class::Operator,
            TokenKind::Cast => Class::Cast,
            TokenKind::LeftParen
            | TokenKind::RightParen
            | TokenKind::LeftBracket
            | TokenKind::RightBracket
            | TokenKind::Comma
            | TokenKind::Semicolon
            | TokenKind::Dot
            | TokenKind::Colon
            | TokenKind::Punctuation
            | TokenKind::Other => Class::Other,
        };
        tokens.push((class, start));
    }
    Ok(tokens)
}

fn postgres(sql: &str) -> Reading {
    let tokens = pg_query::scan(sql)
        .map_err(|error| error.to_string())?
        .tokens;
    let class = |token: PgToken, text: &str| {
        Some(match token {
            PgToken::SqlComment | PgToken::CComment => return None,
            PgToken::Ident if text.starts_with('"') => Class::Name,
            PgToken::Uident => Class::UnicodeName,
            PgToken::Iconst | PgToken::Fconst => Class::Number,
            PgToken::Sconst => Class::String,
            PgToken::Usconst => Class::UnicodeString,
            PgToken::Bconst => Class::Bits,
            PgToken::Xconst => Class::Hex,
            PgToken::Param => Class::Parameter,
            PgToken::Typecast => Class::Cast,
            PgToken::Op
            | PgToken::EqualsGreater
            | PgToken::LessEquals
            | PgToken::GreaterEquals
            | PgToken::NotEquals
            | PgToken::Ascii37
            | PgToken::Ascii42
            | PgToken::Ascii43
            | PgToken::Ascii45
            | PgToken::Ascii47
            | PgToken::Ascii60
            | PgToken::Ascii61
            | PgToken::Ascii62
            | PgToken::Ascii94 => Class::Operator,
            PgToken::DotDot
            | PgToken::ColonEquals
            | PgToken::Ascii36
            | PgToken::Ascii40
            | PgToken::Ascii41
            | PgToken::Ascii44
            | PgToken::Ascii46
            | PgToken::Ascii58
            | PgToken::Ascii59
            | PgToken::Ascii63
            | PgToken::Ascii91
            | PgToken::Ascii92
            | PgToken::Ascii93 => Class::Other,
            // identifiers and key words
            _ => Class::Word,
        })
    };
    Ok(tokens
        .iter()
        .filter_map(|token| {
            let (start, end) = (token.start as usize, token.end as usize);
            let kind = PgToken::try_from(token.token).unwrap_or(PgToken::Ascii36);
            Some((class(kind, sql.get(start..end).unwrap_or_default())?, start))
        })
        .collect())
}

/// What Postgres reads must be read alike; what it refuses is its own to refuse.
fn compare(sql: &str) -> Result<bool, String> {
    match (postgres(sql), ours(sql)) {
        (Err(_), _) => Ok(false),
        (Ok(theirs), Ok(ours)) if theirs == ours => Ok(true),
        (theirs, ours) => Err(format!(
            "{sql:?}\n  Postgres: {theirs:?}\n  pgherd:   {ours:?}"
        )),
    }
}

#[test]
fn the_statements_of_the_plan_files_are_cut_alike() {
    let cases = support::cases();
    let mut read = 0;
    for case in &cases {
        match compare(&case.statement) {
            Ok(accepted) => read += usize::from(accepted),
            Err(difference) => panic!("{difference}"),
        }
    }
    assert!(
        read * 10 > cases.len() * 9,
        "Postgres reads {read} of {}",
        cases.len()
    );
}

/// What texts are made of: enough to meet every rule of the scanner.
const FRAGMENTS: &[&str] = &[
    "a",
    "select",
    "E",
    "e",
    "B",
    "x",
    "N",
    "U&",
    "u&",
    "_a1",
    "é",
    "a$b",
    "'",
    "''",
    "'b'",
    "'a\\'",
    "'\\\\'",
    "E'\\''",
    "e'\\\\'",
    "B'01'",
    "X'1F'",
    "N'a'",
    "U&'a'",
    "U&\"a\"",
    "\"",
    "\"a\"\"b\"",
    "$",
    "$$",
    "$a$",
    "$1",
    "$12",
    "$a$b$a$",
    "1",
    "12",
    "1.",
    ".5",
    "1.5",
    "1e5",
    "1e",
    "1e+",
    "1.5e-3",
    "0x1F",
    "0b1",
    "0o7",
    "1_000",
    "0x",
    "1..2",
    "--",
    "-- c\n",
    "/*",
    "*/",
    "/* a /* b */ c */",
    "\n",
    "\r",
    " ",
    "\t",
    "\u{b}",
    "+",
    "-",
    "*",
    "/",
    "<",
    ">",
    "=",
    "<=",
    "=>",
    "<>",
    "!=",
    "~",
    "!",
    "@",
    "#",
    "%",
    "^",
    "&",
    "|",
    "`",
    "->",
    "->>",
    "+-",
    "@-",
    "||",
    "::",
    ":=",
    ":",
    "..",
    ".",
    ",",
    ";",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_texts_are_cut_alike(
        fragments in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..12),
    ) {
        let sql = fragments.concat();
        if let Err(difference) = compare(&sql) {
            return Err(TestCaseError::fail(difference));
        }
    }
}
