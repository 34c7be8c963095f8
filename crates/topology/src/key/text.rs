//! The text forms of key types, as their input functions read them.
//!
//! Owns integers, text, uuid, bytea and boolean; dates and numeric have files of their own.
//! Accepts a form only where every supported version of Postgres reads it the same way under every
//! setting.

use std::borrow::Cow;

use super::datetime;
use super::{KeyError, KeyType, KeyValue, Numeric};

/// Reads one value; see [`KeyType::value_from_text`].
pub(super) fn read(key_type: KeyType, text: &[u8]) -> Result<KeyValue<'_>, KeyError> {
    match key_type {
        KeyType::Int2 => integer(key_type, text, i64::from(i16::MIN), i64::from(i16::MAX)),
        KeyType::Int4 => integer(key_type, text, i64::from(i32::MIN), i64::from(i32::MAX)),
        KeyType::Int8 => integer(key_type, text, i64::MIN, i64::MAX),
        KeyType::Text | KeyType::Varchar => {
            check_text(key_type, text).map(|()| KeyValue::Text(Cow::Borrowed(text)))
        }
        KeyType::Bpchar => check_text(key_type, text)
            .map(|()| KeyValue::Bpchar(Cow::Borrowed(without_trailing_blanks(text)))),
        KeyType::Uuid => uuid(text).map(KeyValue::Uuid),
        KeyType::Bytea => bytea(text).map(KeyValue::Bytea),
        KeyType::Date => datetime::read_date(text).map(KeyValue::Date),
        KeyType::Timestamp => datetime::read_timestamp(text).map(KeyValue::Timestamp),
        KeyType::Timestamptz => datetime::read_timestamptz(text).map(KeyValue::Timestamptz),
        KeyType::Numeric => Numeric::from_text(text).map(KeyValue::Numeric),
        KeyType::Boolean => boolean(text).map(KeyValue::Boolean),
    }
}

/// The text without the white space round it that input functions skip: that of C's `isspace`.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

/// Postgres keeps no text with a zero byte; what is not UTF-8 may be another text for the server.
pub(super) fn check_text(key_type: KeyType, text: &[u8]) -> Result<(), KeyError> {
    if text.contains(&0) || std::str::from_utf8(text).is_err() {
        return Err(KeyError::Invalid(key_type));
    }
    Ok(())
}

/// What counts of a `character`.
pub(super) fn without_trailing_blanks(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .rposition(|&byte| byte != b' ')
        .map_or(0, |last| last + 1);
    &text[..end]
}

/// Decimal digits with an optional sign. Hexadecimal, octal, binary and underscores came with
/// Postgres 16 and are refused.
fn integer(
    key_type: KeyType,
    text: &[u8],
    least: i64,
    greatest: i64,
) -> Result<KeyValue<'static>, KeyError> {
    let text = trimmed(text);
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(KeyError::Invalid(key_type));
    }
    digits
        .iter()
        .try_fold(0_i64, |value, digit| {
            let digit = i64::from(digit - b'0');
            let value = value.checked_mul(10)?;
            if negative {
                value.checked_sub(digit)
            } else {
                value.checked_add(digit)
            }
        })
        .filter(|value| (least..=greatest).contains(value))
        .map(KeyValue::Integer)
        .ok_or(KeyError::OutOfRange(key_type))
}

/// Any unambiguous beginning of true, false, yes, no, on, off; or 1, 0
/// ([documentation, 8.6](https://www.postgresql.org/docs/current/datatype-boolean.html)).
fn boolean(text: &[u8]) -> Result<bool, KeyError> {
    let text = trimmed(text);
    let begins = |word: &str, shortest: usize| {
        (shortest..=word.len()).contains(&text.len())
            && text.eq_ignore_ascii_case(&word.as_bytes()[..text.len()])
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == b"1" {
        Ok(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == b"0" {
        Ok(false)
    } else {
        Err(KeyError::Invalid(KeyType::Boolean))
    }
}

/// 32 hexadecimal digits, a hyphen after any group of four, braces round the whole
/// ([documentation, 8.12](https://www.postgresql.org/docs/current/datatype-uuid.html)).
fn uuid(text: &[u8]) -> Result<[u8; 16], KeyError> {
    let invalid = KeyError::Invalid(KeyType::Uuid);
    let mut rest = match text {
        [b'{', inner @ .., b'}'] => inner,
        [b'{', ..] => return Err(invalid),
        bare => bare,
    };
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let [high, low, after @ ..] = rest else {
            return Err(invalid);
        };
        *byte = hexadecimal(*high, *low).ok_or(invalid)?;
        rest = match after {
            [b'-', after @ ..] if index % 2 == 1 && index < 15 => after,
            after => after,
        };
    }
    if rest.is_empty() {
        Ok(bytes)
    } else {
        Err(invalid)
    }
}

/// Hex format `\x..`, else escape format
/// ([documentation, 8.4](https://www.postgresql.org/docs/current/datatype-binary.html)).
fn bytea(text: &[u8]) -> Result<Cow<'_, [u8]>, KeyError> {
    let invalid = KeyError::Invalid(KeyType::Bytea);
    if text.contains(&0) {
        return Err(invalid);
    }
    if let Some(digits) = text.strip_prefix(b"\\x") {
        return bytea_hex(digits).map(Cow::Owned).ok_or(invalid);
    }
    if text.contains(&b'\\') {
        return bytea_escape(text).map(Cow::Owned).ok_or(invalid);
    }
    // bytes beyond ASCII would first be converted from the client's encoding to the server's
    if text.is_ascii() {
        Ok(Cow::Borrowed(text))
    } else {
        Err(KeyError::Uncertain(KeyType::Bytea))
    }
}

/// Pairs of digits; white space may stand between pairs, not within.
fn bytea_hex(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(rest.len() / 2);
    loop {
        match rest {
            [] => return Some(bytes),
            [b' ' | b'\n' | b'\t' | b'\r', after @ ..] => rest = after,
            [high, low, after @ ..] => {
                bytes.push(hexadecimal(*high, *low)?);
                rest = after;
            }
            [_] => return None,
        }
    }
}

/// `\\` is a backslash, `\nnn` a byte in octal, all else stands for itself.
fn bytea_escape(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(rest.len());
    loop {
        match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [
                b'\\',
                high @ b'0'..=b'3',
                middle @ b'0'..=b'7',
                low @ b'0'..=b'7',
                after @ ..,
            ] => {
                bytes.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = after;
            }
            [b'\\', ..] => return None,
            [byte, after @ ..] if byte.is_ascii() => {
                bytes.push(*byte);
                rest = after;
            }
            [..] => return None,
        }
    }
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}
