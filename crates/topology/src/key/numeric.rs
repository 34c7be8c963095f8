//! `numeric`: digits to the base of 10,000 as Postgres keeps them, without the zeros round them.
//!
//! Owns reading, hashing, ordering and rounding to an integer; calculates nothing else. Main type: [`Numeric`].

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::text::trimmed;
use super::{KeyError, KeyType};
use crate::hash::{PARTITION_SEED, hash_bytes};

/// Decimal digits in one digit of Postgres.
const DECIMALS: i32 = 4;
/// The greatest weight, `NUMERIC_WEIGHT_MAX`: 131,072 decimal digits before the point.
const MAX_WEIGHT: i32 = 0x7FFF;
/// The greatest display scale, `NUMERIC_DSCALE_MAX`: decimal digits after the point.
const MAX_SCALE: i32 = 0x3FFF;
/// More decimal digits than that cannot be in range: what is read is bounded before it is read.
const MAX_TEXT: usize = 200_000;

const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
const POSITIVE_INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// A value of `numeric` in canonical form: 1, 1.0 and 0.1e1 are the same
/// ([documentation, 8.1.2](https://www.postgresql.org/docs/current/datatype-numeric.html)).
///
/// Ordered as Postgres orders it: NaN equals itself and is above infinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numeric(Form);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Form {
    NegativeInfinity,
    Finite(Finite),
    Infinity,
    NotANumber,
}

/// sign * sum of digits[i] * 10000^(weight - i); zero is positive, of weight 0 and without digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Finite {
    sign: Sign,
    weight: i32,
    digits: Digits,
}

/// A 64-bit number has at most five digits to the base of 10,000.
type Digits = SmallVec<[i16; 8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Sign {
    Negative,
    Positive,
}

impl Finite {
    /// Takes the zeros off both ends.
    fn new(sign: Sign, weight: i32, digits: &[i16]) -> Self {
        let Some(start) = digits.iter().position(|&digit| digit != 0) else {
            return Self {
                sign: Sign::Positive,
                weight: 0,
                digits: Digits::new(),
            };
        };
        let end = digits
            .iter()
            .rposition(|&digit| digit != 0)
            .map_or(start, |last| last + 1);
        let leading = i32::try_from(start).unwrap_or(i32::MAX);
        Self {
            sign,
            weight: weight.saturating_sub(leading),
            digits: Digits::from_slice(&digits[start..end]),
        }
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self
                .weight
                .cmp(&other.weight)
                .then_with(|| self.digits.cmp(&other.digits)),
        }
    }

    /// Decimal digits after the point that are not trailing zeros.
    fn scale(&self) -> i32 {
        let Some(&last) = self.digits.last() else {
            return 0;
        };
        let count = i32::try_from(self.digits.len()).unwrap_or(i32::MAX);
        let zeros = [10, 100, 1000]
            .into_iter()
            .filter(|power| last % power == 0);
        let zeros = i32::try_from(zeros.count()).unwrap_or(0);
        ((count - 1 - self.weight) * DECIMALS - zeros).max(0)
    }

    /// Decimal digits before the point; none or less for a number below one.
    fn integer_digits(&self) -> i32 {
        let Some(&first) = self.digits.first() else {
            return 0;
        };
        let in_first = [1, 10, 100, 1000]
            .into_iter()
            .filter(|&power| first >= power);
        self.weight * DECIMALS + i32::try_from(in_first.count()).unwrap_or(0)
    }
}

impl Numeric {
    /// Reads the text form: decimal digits with an optional point and exponent, `NaN`, `Infinity`.
    pub(super) fn from_text(text: &[u8]) -> Result<Self, KeyError> {
        let text = trimmed(text);
        let is = |words: &[&str]| {
            words
                .iter()
                .any(|word| text.eq_ignore_ascii_case(word.as_bytes()))
        };
        if is(&["nan"]) {
            Ok(Self(Form::NotANumber))
        } else if is(&["infinity", "+infinity", "inf", "+inf"]) {
            Ok(Self(Form::Infinity))
        } else if is(&["-infinity", "-inf"]) {
            Ok(Self(Form::NegativeInfinity))
        } else {
            read_decimal(text)
        }
    }

    /// Reads the binary form, with `numeric_recv`'s rule that digits beyond the display scale are
    /// cut off.
    pub(super) fn from_binary(bytes: &[u8]) -> Result<Self, KeyError> {
        let invalid = KeyError::Invalid(KeyType::Numeric);
        let (header, body) = bytes.split_at_checked(8).ok_or(invalid)?;
        let field = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
        let (count, weight, sign, scale) = (field(0), field(2) as i16, field(4), field(6));
        let (digits, rest) = body.as_chunks::<2>();
        if !rest.is_empty() || digits.len() != usize::from(count) || i32::from(scale) > MAX_SCALE {
            return Err(invalid);
        }
        let mut digits: Digits = digits
            .iter()
            .map(|pair| i16::from_be_bytes(*pair))
            .collect();
        if digits.iter().any(|digit| !(0..10_000).contains(digit)) {
            return Err(invalid);
        }
        let sign = match sign {
            0 => Sign::Positive,
            NEGATIVE => Sign::Negative,
            NOT_A_NUMBER => return Ok(Self(Form::NotANumber)),
            POSITIVE_INFINITY => return Ok(Self(Form::Infinity)),
            NEGATIVE_INFINITY => return Ok(Self(Form::NegativeInfinity)),
            _ => return Err(invalid),
        };
        truncate(&mut digits, i32::from(weight), i32::from(scale));
        Ok(Self(Form::Finite(Finite::new(
            sign,
            i32::from(weight),
            &digits,
        ))))
    }

    /// `hash_numeric_extended` under the partition seed: neither sign nor display scale count.
    pub(super) fn partition_hash(&self) -> u64 {
        let finite = match &self.0 {
            Form::NegativeInfinity | Form::Infinity | Form::NotANumber => return PARTITION_SEED,
            Form::Finite(finite) => finite,
        };
        if finite.digits.is_empty() {
            return PARTITION_SEED - 1;
        }
        let bytes: SmallVec<[u8; 32]> = finite
            .digits
            .iter()
            .flat_map(|digit| digit.to_le_bytes())
            .collect();
        hash_bytes(&bytes) ^ i64::from(finite.weight) as u64
    }

    /// Rounded to a whole number, halves away from zero, as the cast to an integer type does; `None`
    /// where 64 bits do not hold it.
    pub(super) fn to_integer(&self) -> Option<i64> {
        let Form::Finite(finite) = &self.0 else {
            return None;
        };
        // five digits to the base of 10,000 hold every 64-bit number
        if finite.weight > 4 {
            return None;
        }
        let digit = |weight: i32| {
            usize::try_from(finite.weight - weight)
                .ok()
                .and_then(|index| finite.digits.get(index))
                .copied()
                .unwrap_or(0)
        };
        let whole = (0..=finite.weight).rev().fold(0_i128, |whole, weight| {
            whole * 10_000 + i128::from(digit(weight))
        });
        let magnitude = whole + i128::from(digit(-1) >= 5_000);
        let value = match finite.sign {
            Sign::Positive => magnitude,
            Sign::Negative => -magnitude,
        };
        i64::try_from(value).ok()
    }

    /// Whether `numeric` of the modifier (less the length word) keeps the value as it is.
    pub(super) fn fits(&self, modifier: i32) -> bool {
        let precision = modifier >> 16 & 0xFFFF;
        // since Postgres 15 the scale has 11 bits and a sign; before it was never above 1000
        let scale = ((modifier & 0x7FF) ^ 1024) - 1024;
        match &self.0 {
            Form::NotANumber => true,
            Form::Infinity | Form::NegativeInfinity => false,
            Form::Finite(finite) => {
                let on_scale = scale >= 0 || trailing_zeros(finite) >= -scale;
                finite.scale() <= scale.max(0)
                    && on_scale
                    && finite.integer_digits() <= precision - scale
            }
        }
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        let mut rest = value.unsigned_abs();
        let mut digits = [0_i16; 5];
        for digit in digits.iter_mut().rev() {
            *digit = i16::try_from(rest % 10_000).unwrap_or_default();
            rest /= 10_000;
        }
        let sign = if value < 0 {
            Sign::Negative
        } else {
            Sign::Positive
        };
        Self(Form::Finite(Finite::new(sign, 4, &digits)))
    }
}

/// Zeros before the point of a whole number; as many as one likes for 0.
fn trailing_zeros(finite: &Finite) -> i32 {
    let Some(&last) = finite.digits.last() else {
        return i32::MAX;
    };
    let count = i32::try_from(finite.digits.len()).unwrap_or(i32::MAX);
    let zeros = [10, 100, 1000]
        .into_iter()
        .filter(|power| last % power == 0);
    (finite.weight + 1 - count) * DECIMALS + i32::try_from(zeros.count()).unwrap_or(0)
}

/// Cuts digits that stand more than `scale` decimals after the point.
fn truncate(digits: &mut Digits, weight: i32, scale: i32) {
    let decimals = (weight + 1) * DECIMALS + scale;
    let Ok(decimals) = usize::try_from(decimals) else {
        digits.clear();
        return;
    };
    let kept = decimals.div_ceil(4);
    if kept > digits.len() {
        return;
    }
    digits.truncate(kept);
    let unit = match decimals % 4 {
        0 => 1,
        1 => 1000,
        2 => 100,
        _ => 10,
    };
    if let Some(last) = digits.last_mut() {
        *last -= *last % unit;
    }
}

/// `[sign] digits [. digits] [e [sign] digits]`, with at least one digit, the point anywhere.
fn read_decimal(text: &[u8]) -> Result<Numeric, KeyError> {
    let invalid = KeyError::Invalid(KeyType::Numeric);
    let out_of_range = KeyError::OutOfRange(KeyType::Numeric);
    if text.len() > MAX_TEXT {
        return Err(out_of_range);
    }
    let (sign, text) = match text {
        [b'-', rest @ ..] => (Sign::Negative, rest),
        [b'+', rest @ ..] => (Sign::Positive, rest),
        rest => (Sign::Positive, rest),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(index) => (&text[..index], read_exponent(&text[index + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(index) => (&mantissa[..index], &mantissa[index + 1..]),
        None => (mantissa, &[][..]),
    };
    let is_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return Err(invalid);
    }
    // both lengths are at most MAX_TEXT and the exponent is bounded as well
    let fraction_digits = i32::try_from(fraction.len()).map_err(|_| out_of_range)?;
    if fraction_digits - exponent > MAX_SCALE {
        return Err(out_of_range);
    }
    let point = i32::try_from(whole.len()).map_err(|_| out_of_range)? + exponent;
    let finite = group(sign, whole.iter().chain(fraction), point);
    if finite.weight > MAX_WEIGHT {
        return Err(out_of_range);
    }
    Ok(Numeric(Form::Finite(finite)))
}

/// Decimal digits to digits to the base of 10,000; `point` decimals stand before the point.
fn group<'a>(sign: Sign, decimals: impl Iterator<Item = &'a u8>, point: i32) -> Finite {
    let weight = (point + DECIMALS - 1).div_euclid(DECIMALS) - 1;
    // so many zeros before the first decimal fill its group
    let padding = (weight + 1) * DECIMALS - point;
    let mut digits = Digits::new();
    let mut digit = 0_i16;
    let mut filled = padding;
    for decimal in decimals {
        digit = digit * 10 + i16::from(decimal - b'0');
        filled += 1;
        if filled == DECIMALS {
            digits.push(digit);
            (digit, filled) = (0, 0);
        }
    }
    if filled > 0 {
        for _ in filled..DECIMALS {
            digit *= 10;
        }
        digits.push(digit);
    }
    Finite::new(sign, weight, &digits)
}

fn read_exponent(text: &[u8]) -> Result<i32, KeyError> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(KeyError::Invalid(KeyType::Numeric));
    }
    let value = digits.iter().try_fold(0_i32, |value, digit| {
        value.checked_mul(10)?.checked_add(i32::from(digit - b'0'))
    });
    match value {
        // far beyond any range, and small enough to be added to a length
        Some(value) if value < 1_000_000 => Ok(if negative { -value } else { value }),
        Some(_) | None => Err(KeyError::OutOfRange(KeyType::Numeric)),
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |form: &Form| match form {
            Form::NegativeInfinity => 0,
            Form::Finite(_) => 1,
            Form::Infinity => 2,
            Form::NotANumber => 3,
        };
        match (&self.0, &other.0) {
            (Form::Finite(left), Form::Finite(right)) => {
                left.sign.cmp(&right.sign).then_with(|| match left.sign {
                    Sign::Positive => left.magnitude(right),
                    Sign::Negative => right.magnitude(left),
                })
            }
            (left, right) => rank(left).cmp(&rank(right)),
        }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Numeric {
        Numeric::from_text(text.as_bytes()).unwrap()
    }

    #[test]
    fn spellings_of_one_number_are_one_value() {
        for spellings in [
            &[
                "1",
                "1.0",
                "+1",
                "01",
                "1e0",
                "0.1e1",
                "10e-1",
                "1.",
                " 1 ",
                "100000e-5",
            ][..],
            &["0", "-0", "0.00", ".0", "0e5", "-0.0e-3"],
            &["12345.678", "12345.6780", "1.2345678e4", "12345678e-3"],
            &["1e20", "100000000000000000000"],
            &["NaN", "nan"],
            &["inf", "Infinity", "+INF"],
        ] {
            for text in spellings {
                assert_eq!(read(text), read(spellings[0]), "{text}");
                assert_eq!(
                    read(text).partition_hash(),
                    read(spellings[0]).partition_hash()
                );
            }
        }
    }

    #[test]
    fn the_order_is_that_of_postgres() {
        let ascending = [
            "-inf", "-1e20", "-10001", "-2", "-1.5", "-1", "-0.5", "0", "0.00001", "0.1", "1",
            "1.00001", "1.5", "2", "9999", "10000", "10001", "1e20", "inf", "nan",
        ];
        assert!(ascending.map(read).is_sorted_by(|left, right| left < right));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", ".", "+", "e5", "1e", "1e+", "1..2", "1.2.3", "0x1F", "1_000", "1e 5", "- 1",
            "1e5.5", "infinit", "+nan", "1 2",
        ] {
            let error = Numeric::from_text(text.as_bytes());
            assert_eq!(error, Err(KeyError::Invalid(KeyType::Numeric)), "{text:?}");
        }
        for text in ["1e131072", "1e-16384", "1e999999999999", "0e-16384"] {
            let error = Numeric::from_text(text.as_bytes());
            assert_eq!(
                error,
                Err(KeyError::OutOfRange(KeyType::Numeric)),
                "{text:?}"
            );
        }
        assert!(Numeric::from_text(b"1e131071").is_ok());
        assert!(Numeric::from_text(b"1e-16383").is_ok());
    }

    #[test]
    fn a_column_keeps_only_what_its_precision_and_scale_hold() {
        let modifier = |precision: i32, scale: i32| precision << 16 | scale & 0x7FF;
        for (text, precision, scale, fits) in [
            ("7.66", 10, 2, true),
            ("7.66", 10, 1, false),
            ("7.60", 10, 1, true),
            ("999.99", 5, 2, true),
            ("1000", 5, 2, false),
            ("0", 1, 1, true),
            ("0.05", 2, 3, true),
            ("0.5", 2, 3, false),
            ("1200", 2, -2, true),
            ("1250", 2, -2, false),
            ("10000", 2, -2, false),
            ("nan", 2, 0, true),
            ("inf", 2, 0, false),
        ] {
            let value = read(text);
            assert_eq!(
                value.fits(modifier(precision, scale)),
                fits,
                "{text}({precision},{scale})"
            );
        }
    }
}
