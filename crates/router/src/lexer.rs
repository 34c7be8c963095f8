//! Cuts SQL text into tokens exactly where Postgres' own scanner does.
//!
//! Owns where a literal, a comment, an identifier and an operator begin and end (Postgres
//! documentation, chapter 4.1). Never decides what a token means, and never allocates.
//! Main type: [`Lexer`].
//!
//! Where Postgres versions differ (`123abc` is two tokens before 15 and an error since) the reading
//! of the version that accepts the text is taken: the other one answers with its own error.

/// What a token is. The text is `sql[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An unquoted identifier or a key word.
    Word,
    /// `"name"`
    QuotedName,
    /// `U&"name"`
    UnicodeName,
    /// A literal, normalised to a slot.
    Literal(LiteralKind),
    /// `$1`
    Parameter,
    /// One or more operator characters, as Postgres' `self` and `Op` tokens.
    Operator,
    /// `(`
    LeftParen,
    /// `)`
    RightParen,
    /// `[`
    LeftBracket,
    /// `]`
    RightBracket,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `:`
    Colon,
    /// `::`
    Cast,
    /// `..` or `:=`, which only PL/pgSQL and named arguments use.
    Punctuation,
    /// A character that no token of Postgres begins with; the server answers with a syntax error.
    Other,
}

/// The spelling of a literal: part of the fingerprint, as it decides the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LiteralKind {
    /// Decimal digits only: int4, int8 or numeric by size.
    Integer = 1,
    /// With a point or an exponent: numeric.
    Numeric = 2,
    /// `0x1F`, `0o17`, `0b1`, `1_000`: what it means depends on the server's version.
    OtherNumber = 3,
    /// `'text'`; with `standard_conforming_strings` off this is never produced.
    String = 4,
    /// `E'text'`, and `'text'` while `standard_conforming_strings` is off.
    EscapeString = 5,
    /// `U&'text'`
    UnicodeString = 6,
    /// `B'01'`
    BitString = 7,
    /// `X'1F'`
    HexString = 8,
    /// `N'text'`: of type bpchar.
    NationalString = 9,
    /// `$tag$text$tag$`
    DollarString = 10,
}

/// One token: its kind and the byte range of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte, from the start of the SQL text.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Token {
    /// The token's text within `sql`, the text that it was cut from.
    #[must_use]
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// Why a text cannot be cut into tokens. Postgres refuses each of these as a syntax error too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// A string without its closing quote.
    #[error("unterminated quoted string")]
    UnterminatedString,
    /// A dollar-quoted string without its closing tag.
    #[error("unterminated dollar-quoted string")]
    UnterminatedDollarString,
    /// `B'...` without its end.
    #[error("unterminated bit string literal")]
    UnterminatedBitString,
    /// `X'...` without its end.
    #[error("unterminated hexadecimal string literal")]
    UnterminatedHexString,
    /// `"...` without its end.
    #[error("unterminated quoted identifier")]
    UnterminatedName,
    /// `""`
    #[error("zero-length delimited identifier")]
    EmptyName,
    /// `/* ...` without its end.
    #[error("unterminated /* comment")]
    UnterminatedComment,
    /// A zero byte: the protocol ends the text there.
    #[error("the statement contains a zero byte")]
    ZeroByte,
    /// More than 4 GiB, which no message holds.
    #[error("the statement is too long")]
    TooLong,
}

/// How plain `'...'` strings read: the server's `standard_conforming_strings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackslashReading {
    /// A backslash is a character like any other (the default since Postgres 9.1).
    Literal,
    /// A backslash escapes, as in `E'...'`.
    Escape,
}

/// Walks over SQL text, token by token.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    /// Where the last token starts.
    start: usize,
    at: usize,
    backslash: BackslashReading,
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of `sql`.
    #[must_use]
    pub fn new(sql: &'a [u8], backslash: BackslashReading) -> Self {
        Self {
            sql,
            start: 0,
            at: 0,
            backslash,
        }
    }

    /// Skips whitespace and comments.
    ///
    /// # Errors
    /// A comment that does not end.
    pub fn skip_blank(&mut self) -> Result<(), LexError> {
        self.skip_to_token().map(drop)
    }

    /// The byte offset that the next token (or blank) starts at.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Goes on from this byte offset, where a token or blank begins.
    pub(crate) fn go_to(&mut self, position: usize) {
        self.at = position;
    }

    /// The next token, after whitespace and comments; `None` at the end of the text.
    ///
    /// # Errors
    /// [`LexError`] where Postgres' scanner fails as well. The lexer is not to be used after it.
    pub fn next_token(&mut self) -> Result<Option<Token>, LexError> {
        let Some(kind) = self.next_kind()? else {
            return Ok(None);
        };
        let start = u32::try_from(self.start).map_err(|_| LexError::TooLong)?;
        let end = u32::try_from(self.at).map_err(|_| LexError::TooLong)?;
        Ok(Some(Token { kind, start, end }))
    }

    /// The kind of the next token, which is from [`Self::last_start`] to [`Self::position`].
    // the scan of each query string spends its time here: words and blanks are read inline, all else out of line
    #[inline(always)]
    pub(crate) fn next_kind(&mut self) -> Result<Option<TokenKind>, LexError> {
        let Some(class) = self.skip_to_token()? else {
            return Ok(None);
        };
        self.start = self.at;
        self.take(class).map(Some)
    }

    /// The byte offset that the last token starts at.
    pub(crate) fn last_start(&self) -> usize {
        self.start
    }

    /// Skips whitespace and comments. What the byte after them begins, if there is one.
    #[inline(always)]
    fn skip_to_token(&mut self) -> Result<Option<Class>, LexError> {
        while let Some(byte) = self.peek(0) {
            match Class::of(byte) {
                Class::Blank => self.at += 1,
                Class::OperatorOrComment if self.skip_comment()? => {}
                class => return Ok(Some(class)),
            }
        }
        Ok(None)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    #[inline(always)]
    fn take(&mut self, class: Class) -> Result<TokenKind, LexError> {
        Ok(match class {
            Class::Name => self.take_name(),
            Class::NameOrPrefix => self.take_name_or_literal()?,
            Class::Digit => self.take_number(),
            Class::Dollar => self.take_dollar()?,
            Class::Quote => self.take_plain_string()?,
            Class::DoubleQuote => {
                self.take_quoted_name(1)?;
                TokenKind::QuotedName
            }
            Class::Operator | Class::OperatorOrComment => self.take_operator(),
            Class::Dot => self.take_dot(),
            Class::Colon => self.take_colon(),
            Class::LeftParen => self.one(TokenKind::LeftParen),
            Class::RightParen => self.one(TokenKind::RightParen),
            Class::LeftBracket => self.one(TokenKind::LeftBracket),
            Class::RightBracket => self.one(TokenKind::RightBracket),
            Class::Comma => self.one(TokenKind::Comma),
            Class::Semicolon => self.one(TokenKind::Semicolon),
            Class::Blank | Class::Other => self.one(TokenKind::Other),
            Class::Zero => return Err(LexError::ZeroByte),
        })
    }

    fn one(&mut self, kind: TokenKind) -> TokenKind {
        self.at += 1;
        kind
    }

    /// Skips the comment that begins here; `false` where none does.
    #[inline(never)]
    fn skip_comment(&mut self) -> Result<bool, LexError> {
        match (self.peek(0), self.peek(1)) {
            (Some(b'-'), Some(b'-')) => self.skip_line_comment(),
            (Some(b'/'), Some(b'*')) => self.skip_block_comment()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn skip_line_comment(&mut self) {
        while let Some(byte) = self.peek(0) {
            if byte == b'\n' || byte == b'\r' {
                return;
            }
            self.at += 1;
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), LexError> {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    self.at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(0), _) => return Err(LexError::ZeroByte),
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(LexError::UnterminatedComment),
            }
        }
    }

    #[inline]
    fn take_name(&mut self) -> TokenKind {
        self.skip_while(Class::continues_name);
        TokenKind::Word
    }

    /// A literal that a letter announces (`E'`, `B'`, `X'`, `N'`, `U&'`), or else an identifier.
    #[inline(never)]
    fn take_name_or_literal(&mut self) -> Result<TokenKind, LexError> {
        let (Some(first), second) = (self.peek(0), self.peek(1)) else {
            return Ok(self.take_name());
        };
        match (first, second, self.peek(2)) {
            (b'e' | b'E', Some(b'\''), _) => {
                self.take_string(2, Inside::Escapes, LexError::UnterminatedString)?;
                Ok(TokenKind::Literal(LiteralKind::EscapeString))
            }
            (b'b' | b'B', Some(b'\''), _) => {
                self.take_string(2, Inside::Bits, LexError::UnterminatedBitString)?;
                Ok(TokenKind::Literal(LiteralKind::BitString))
            }
            (b'x' | b'X', Some(b'\''), _) => {
                self.take_string(2, Inside::Bits, LexError::UnterminatedHexString)?;
                Ok(TokenKind::Literal(LiteralKind::HexString))
            }
            (b'n' | b'N', Some(b'\''), _) => {
                let inside = match self.backslash {
                    BackslashReading::Literal => Inside::Plain,
                    BackslashReading::Escape => Inside::Escapes,
                };
                self.take_string(2, inside, LexError::UnterminatedString)?;
                Ok(TokenKind::Literal(LiteralKind::NationalString))
            }
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => {
                self.take_string(3, Inside::Plain, LexError::UnterminatedString)?;
                Ok(TokenKind::Literal(LiteralKind::UnicodeString))
            }
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                self.take_quoted_name(3)?;
                Ok(TokenKind::UnicodeName)
            }
            _ => Ok(self.take_name()),
        }
    }

    #[inline(never)]
    fn take_plain_string(&mut self) -> Result<TokenKind, LexError> {
        match self.backslash {
            BackslashReading::Literal => {
                self.take_string(1, Inside::Plain, LexError::UnterminatedString)?;
                Ok(TokenKind::Literal(LiteralKind::String))
            }
            BackslashReading::Escape => {
                self.take_string(1, Inside::Escapes, LexError::UnterminatedString)?;
                Ok(TokenKind::Literal(LiteralKind::EscapeString))
            }
        }
    }

    /// A quoted string whose opening (letter and quote) is `opening` bytes long, with its
    /// continuations on later lines.
    fn take_string(
        &mut self,
        opening: usize,
        inside: Inside,
        unterminated: LexError,
    ) -> Result<(), LexError> {
        self.at += opening;
        loop {
            match self.peek(0) {
                None => return Err(unterminated),
                Some(0) => return Err(LexError::ZeroByte),
                Some(b'\'') if self.peek(1) == Some(b'\'') && inside != Inside::Bits => {
                    self.at += 2
                }
                Some(b'\'') => {
                    self.at += 1;
                    if !self.skip_to_continuation() {
                        return Ok(());
                    }
                }
                Some(b'\\') if inside == Inside::Escapes => {
                    if self.peek(1).is_none() {
                        return Err(unterminated);
                    }
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// After a closing quote: goes past the opening quote of a continuation, if there is one.
    fn skip_to_continuation(&mut self) -> bool {
        match continuation(self.sql, self.at) {
            Some(next) => {
                self.at = next;
                true
            }
            None => false,
        }
    }

    #[inline(never)]
    fn take_quoted_name(&mut self, opening: usize) -> Result<(), LexError> {
        self.at += opening;
        let start = self.at;
        loop {
            match self.peek(0) {
                None => return Err(LexError::UnterminatedName),
                Some(0) => return Err(LexError::ZeroByte),
                Some(b'"') if self.peek(1) == Some(b'"') => self.at += 2,
                Some(b'"') if self.at == start => return Err(LexError::EmptyName),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// `$1`, `$tag$...$tag$`, or a lone `$`.
    #[inline(never)]
    fn take_dollar(&mut self) -> Result<TokenKind, LexError> {
        if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
            while self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
                self.at += 1;
            }
            return Ok(TokenKind::Parameter);
        }
        let start = self.at;
        let mut tag_end = start + 1;
        if self.peek(1).is_some_and(is_name_start) {
            while self
                .sql
                .get(tag_end)
                .is_some_and(|&byte| is_dollar_tag_part(byte))
            {
                tag_end += 1;
            }
        }
        if self.sql.get(tag_end) != Some(&b'$') {
            return Ok(self.one(TokenKind::Other));
        }
        let tag = &self.sql[start..=tag_end];
        let mut at = tag_end + 1;
        loop {
            let Some(rest) = self.sql.get(at..) else {
                return Err(LexError::UnterminatedDollarString);
            };
            let Some(dollar) = rest.iter().position(|&byte| byte == b'$' || byte == 0) else {
                return Err(LexError::UnterminatedDollarString);
            };
            if rest[dollar] == 0 {
                return Err(LexError::ZeroByte);
            }
            at += dollar;
            if self.sql[at..].starts_with(tag) {
                self.at = at + tag.len();
                return Ok(TokenKind::Literal(LiteralKind::DollarString));
            }
            at += 1;
        }
    }

    fn skip_digits(&mut self) {
        self.skip_while(|class| class == Class::Digit);
    }

    #[inline]
    fn skip_while(&mut self, belongs: impl Fn(Class) -> bool) {
        while self.peek(0).is_some_and(|byte| belongs(Class::of(byte))) {
            self.at += 1;
        }
    }

    #[inline(never)]
    fn take_number(&mut self) -> TokenKind {
        let start = self.at;
        self.skip_digits();
        match self.peek(0) {
            Some(b'.' | b'_' | b'e' | b'E' | b'x' | b'X' | b'o' | b'O' | b'b' | b'B') => {
                self.at = start;
                self.take_number_of_parts()
            }
            _ => TokenKind::Literal(LiteralKind::Integer),
        }
    }

    /// A number that may have more than digits.
    fn take_number_of_parts(&mut self) -> TokenKind {
        if self.peek(0) == Some(b'0')
            && matches!(self.peek(1), Some(b'x' | b'X' | b'o' | b'O' | b'b' | b'B'))
            && self
                .peek(2)
                .is_some_and(|byte| byte.is_ascii_hexdigit() || byte == b'_')
        {
            return self.take_other_number();
        }
        let start = self.at;
        self.skip_digits();
        let mut kind = LiteralKind::Integer;
        if self.peek(0) == Some(b'_') && self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at = start;
            return self.take_other_number();
        }
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            kind = LiteralKind::Numeric;
            self.at += 1;
            self.skip_digits();
        }
        if self.skip_exponent() {
            kind = LiteralKind::Numeric;
        }
        if kind == LiteralKind::Numeric
            && self.peek(0) == Some(b'_')
            && self.peek(1).is_some_and(|byte| byte.is_ascii_digit())
        {
            self.at = start;
            return self.take_other_number();
        }
        TokenKind::Literal(kind)
    }

    /// A number with a radix prefix or underscores, as since Postgres 16. What follows it without a
    /// blank is taken too: Postgres refuses that.
    fn take_other_number(&mut self) -> TokenKind {
        let has_radix = self.peek(0) == Some(b'0')
            && self.peek(1).is_some_and(|byte| byte.is_ascii_alphabetic());
        if has_radix {
            self.at += 2;
            self.skip_grouped(|byte| byte.is_ascii_hexdigit());
        } else {
            self.skip_grouped(|byte| byte.is_ascii_digit());
            if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
                self.at += 1;
                self.skip_grouped(|byte| byte.is_ascii_digit());
            }
            if self.skip_exponent() {
                self.skip_grouped(|byte| byte.is_ascii_digit());
            }
        }
        if self.peek(0).is_some_and(is_name_start) {
            self.skip_while(Class::continues_name);
        }
        TokenKind::Literal(LiteralKind::OtherNumber)
    }

    /// Digits, with an underscore before any.
    fn skip_grouped(&mut self, is_digit: impl Fn(&u8) -> bool) {
        loop {
            let underscore = usize::from(self.peek(0) == Some(b'_'));
            if !self.sql.get(self.at + underscore).is_some_and(&is_digit) {
                return;
            }
            self.at += underscore + 1;
        }
    }

    fn skip_exponent(&mut self) -> bool {
        if !matches!(self.peek(0), Some(b'e' | b'E')) {
            return false;
        }
        let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
        if !self
            .peek(1 + sign)
            .is_some_and(|byte| byte.is_ascii_digit())
        {
            return false;
        }
        self.at += 1 + sign;
        self.skip_digits();
        true
    }

    #[inline(never)]
    fn take_dot(&mut self) -> TokenKind {
        match self.peek(1) {
            Some(b'.') => {
                self.at += 2;
                TokenKind::Punctuation
            }
            Some(byte) if byte.is_ascii_digit() => {
                let start = self.at;
                self.at += 1;
                self.skip_digits();
                self.skip_exponent();
                let grouped = self.peek(0) == Some(b'_')
                    && self.peek(1).is_some_and(|byte| byte.is_ascii_digit());
                if grouped {
                    self.at = start;
                    return self.take_other_number();
                }
                TokenKind::Literal(LiteralKind::Numeric)
            }
            _ => self.one(TokenKind::Dot),
        }
    }

    #[inline(never)]
    fn take_colon(&mut self) -> TokenKind {
        match self.peek(1) {
            Some(b':') => {
                self.at += 2;
                TokenKind::Cast
            }
            Some(b'=') => {
                self.at += 2;
                TokenKind::Punctuation
            }
            _ => self.one(TokenKind::Colon),
        }
    }

    /// An operator: the longest run of operator characters that holds no comment start and, unless
    /// it contains one of ``~ ! @ # ^ & | ` ? %``, does not end in `+` or `-`.
    #[inline(never)]
    fn take_operator(&mut self) -> TokenKind {
        let rest = &self.sql[self.at..];
        let mut length = rest
            .iter()
            .position(|&byte| !Class::of(byte).continues_operator())
            .unwrap_or(rest.len());
        let comment = rest[..length]
            .windows(2)
            .position(|pair| pair == b"--" || pair == b"/*");
        if let Some(comment) = comment {
            length = comment;
        }
        if length > 1 && matches!(rest[length - 1], b'+' | b'-') {
            let keeps_sign = rest[..length - 1].iter().any(|byte| {
                matches!(
                    byte,
                    b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'
                )
            });
            if !keeps_sign {
                while length > 1 && matches!(rest[length - 1], b'+' | b'-') {
                    length -= 1;
                }
            }
        }
        self.at += length.max(1);
        TokenKind::Operator
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// A doubled quote is one.
    Plain,
    /// A backslash escapes too.
    Escapes,
    /// Of B'' and X'': nothing stands for a quote.
    Bits,
}

/// Where the text of a string's continuation starts: after the closing quote that ended just before
/// `at`, blanks and `--` comments with at least one line end, and another quote.
pub(crate) fn continuation(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut line_ended = false;
    loop {
        match sql.get(at)? {
            b'\n' | b'\r' => {
                line_ended = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if sql.get(at + 1) == Some(&b'-') => {
                let length = sql[at..]
                    .iter()
                    .position(|&byte| byte == b'\n' || byte == b'\r')?;
                at += length;
            }
            b'\'' if line_ended => return Some(at + 1),
            _ => return None,
        }
    }
}

/// May a name start with this byte? Every byte beyond ASCII may.
#[must_use]
pub(crate) const fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_dollar_tag_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit()
}

/// What a token that begins with a byte is. Those that a name goes on with come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Name,
    /// A name, unless a quote follows.
    NameOrPrefix,
    Digit,
    Dollar,
    Blank,
    Quote,
    DoubleQuote,
    Operator,
    /// An operator, unless the first two bytes begin a comment.
    OperatorOrComment,
    Dot,
    Colon,
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Semicolon,
    Zero,
    Other,
}

/// The class of each byte.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < classes.len() {
        #[expect(clippy::cast_possible_truncation)] // there are 256
        let class = Class::new(byte as u8);
        classes[byte] = class;
        byte += 1;
    }
    classes
};

impl Class {
    #[inline]
    fn of(byte: u8) -> Self {
        CLASSES[usize::from(byte)]
    }

    #[inline]
    fn continues_name(self) -> bool {
        self <= Self::Dollar
    }

    #[inline]
    fn continues_operator(self) -> bool {
        matches!(self, Self::Operator | Self::OperatorOrComment)
    }

    const fn new(byte: u8) -> Self {
        match byte {
            b'b' | b'B' | b'e' | b'E' | b'n' | b'N' | b'u' | b'U' | b'x' | b'X' => {
                Self::NameOrPrefix
            }
            _ if is_name_start(byte) => Self::Name,
            b'0'..=b'9' => Self::Digit,
            b'$' => Self::Dollar,
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Self::Blank,
            b'\'' => Self::Quote,
            b'"' => Self::DoubleQuote,
            b'-' | b'/' => Self::OperatorOrComment,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'*' | b'%'
            | b'<' | b'>' | b'=' => Self::Operator,
            b'.' => Self::Dot,
            b':' => Self::Colon,
            b'(' => Self::LeftParen,
            b')' => Self::RightParen,
            b'[' => Self::LeftBracket,
            b']' => Self::RightBracket,
            b',' => Self::Comma,
            b';' => Self::Semicolon,
            0 => Self::Zero,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn lex(sql: &str) -> Vec<(TokenKind, &str)> {
        lex_with(sql, BackslashReading::Literal).unwrap()
    }

    fn lex_with(
        sql: &str,
        backslash: BackslashReading,
    ) -> Result<Vec<(TokenKind, &str)>, LexError> {
        let mut lexer = Lexer::new(sql.as_bytes(), backslash);
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token()? {
            tokens.push((token.kind, &sql[token.start as usize..token.end as usize]));
        }
        Ok(tokens)
    }

    fn texts(sql: &str) -> Vec<&str> {
        lex(sql).into_iter().map(|(_, text)| text).collect()
    }

    fn only_literal(sql: &str) -> LiteralKind {
        match lex(sql).as_slice() {
            [(TokenKind::Literal(kind), text)] if *text == sql => *kind,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_literal_is_one_token() {
        assert_eq!(only_literal("'a''b'"), LiteralKind::String);
        assert_eq!(only_literal(r"'a\'"), LiteralKind::String);
        assert_eq!(only_literal(r"E'a\'b'"), LiteralKind::EscapeString);
        assert_eq!(only_literal(r"U&'\0041'"), LiteralKind::UnicodeString);
        assert_eq!(only_literal("B'01'"), LiteralKind::BitString);
        assert_eq!(only_literal("x'1F'"), LiteralKind::HexString);
        assert_eq!(only_literal("N'a'"), LiteralKind::NationalString);
        assert_eq!(only_literal("$$a'b$$"), LiteralKind::DollarString);
        assert_eq!(only_literal("$q$a$$b$q$"), LiteralKind::DollarString);
        assert_eq!(only_literal("12"), LiteralKind::Integer);
        assert_eq!(only_literal("1.5"), LiteralKind::Numeric);
        assert_eq!(only_literal("1."), LiteralKind::Numeric);
        assert_eq!(only_literal(".5"), LiteralKind::Numeric);
        assert_eq!(only_literal("1e-5"), LiteralKind::Numeric);
        assert_eq!(only_literal("0x1F"), LiteralKind::OtherNumber);
        assert_eq!(only_literal("1_000"), LiteralKind::OtherNumber);
    }

    #[test]
    fn a_string_continues_over_a_line_end_only() {
        assert_eq!(only_literal("'a'\n  'b'"), LiteralKind::String);
        assert_eq!(only_literal("'a' -- note\n 'b'"), LiteralKind::String);
        assert_eq!(lex("'a' 'b'").len(), 2);
        assert_eq!(lex("'a' /* \n */ 'b'").len(), 2);
    }

    #[test]
    fn backslashes_follow_standard_conforming_strings() {
        let off = lex_with(r"'a\'b'", BackslashReading::Escape).unwrap();
        assert_eq!(
            off,
            vec![(TokenKind::Literal(LiteralKind::EscapeString), r"'a\'b'")]
        );
        assert_eq!(
            lex_with(r"'a\'b'", BackslashReading::Literal),
            Err(LexError::UnterminatedBitString)
        );
    }

    #[test]
    fn operators_stop_where_postgres_stops() {
        assert_eq!(texts("a=-1"), ["a", "=", "-", "1"]);
        assert_eq!(texts("a@-1"), ["a", "@-", "1"]);
        assert_eq!(texts("a<=-1"), ["a", "<=", "-", "1"]);
        assert_eq!(texts("a*/*c*/b"), ["a", "*", "b"]);
        assert_eq!(texts("a+--c\nb"), ["a", "+", "b"]);
        assert_eq!(texts("a->>'b'"), ["a", "->>", "'b'"]);
        assert_eq!(texts("a<>b"), ["a", "<>", "b"]);
        assert_eq!(texts("1--2"), ["1"]);
    }

    #[test]
    fn comments_nest() {
        assert_eq!(texts("a /* x /* y */ z */ b"), ["a", "b"]);
        assert_eq!(
            lex_with("a /* x /* y */", BackslashReading::Literal),
            Err(LexError::UnterminatedComment)
        );
    }

    #[test]
    fn names_hold_dollars_and_numbers_end_before_words() {
        assert_eq!(texts("a$1"), ["a$1"]);
        assert_eq!(texts("a$$b"), ["a$$b"]);
        assert_eq!(texts("12ab"), ["12", "ab"]);
        assert_eq!(texts("$1a"), ["$1", "a"]);
        assert_eq!(texts("1..2"), ["1", "..", "2"]);
        assert_eq!(texts("\"a\"\"b\".c"), ["\"a\"\"b\"", ".", "c"]);
        assert_eq!(lex("U&\"x\"")[0].0, TokenKind::UnicodeName);
        assert_eq!(
            texts("a::int[1:2]"),
            ["a", "::", "int", "[", "1", ":", "2", "]"]
        );
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for (sql, error) in [
            ("'a", LexError::UnterminatedString),
            (r"E'a\", LexError::UnterminatedString),
            ("$$a", LexError::UnterminatedDollarString),
            ("$a$ $b$", LexError::UnterminatedDollarString),
            ("b'0", LexError::UnterminatedBitString),
            ("x'0", LexError::UnterminatedHexString),
            ("\"a", LexError::UnterminatedName),
            ("\"\"", LexError::EmptyName),
            ("a\0", LexError::ZeroByte),
        ] {
            assert_eq!(
                lex_with(sql, BackslashReading::Literal),
                Err(error),
                "{sql}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_lex_without_panic_and_in_order(
            bytes in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(b"'\"$;-/*\\eEuU&bx01a.: \n=<>+(),[]".to_vec()),
                    any::<u8>(),
                ],
                0..200,
            ),
            escape in any::<bool>(),
        ) {
            let backslash = if escape { BackslashReading::Escape } else { BackslashReading::Literal };
            let mut lexer = Lexer::new(&bytes, backslash);
            let mut end = 0;
            while let Ok(Some(token)) = lexer.next_token() {
                prop_assert!(token.start >= end && token.end > token.start);
                prop_assert!(token.end as usize <= bytes.len());
                end = token.end;
            }
        }
    }
}
