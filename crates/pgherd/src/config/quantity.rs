//! Spans of time and amounts of memory as people write them.
//!
//! Owns the units; a bare number is refused because its unit would be a guess. Zero alone needs none.

use std::time::Duration;

/// What was wrong with a quantity, in words that finish "`x` is not a span of time: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No digits at its front.
    #[error("it does not begin with a whole number")]
    NoNumber,
    /// Digits and no unit.
    #[error("its unit is missing")]
    NoUnit,
    /// A unit that is not known.
    #[error("its unit is not known")]
    UnknownUnit,
    /// Beyond what can be held.
    #[error("it is too large")]
    TooLarge,
}

/// Reads `250us`, `5ms`, `30s`, `10m` (or `min`, as Postgres writes it), `1h`, `7d`.
///
/// # Errors
/// [`QuantityError`], without the text.
pub fn span(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text)?;
    let microseconds_each: u64 = match unit {
        "" if number == 0 => 0,
        "" => return Err(QuantityError::NoUnit),
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(QuantityError::UnknownUnit),
    };
    let microseconds = number
        .checked_mul(microseconds_each)
        .ok_or(QuantityError::TooLarge)?;
    Ok(Duration::from_micros(microseconds))
}

/// Reads `512B`, `64KiB`, `16MiB`, `1GiB` into bytes.
///
/// # Errors
/// [`QuantityError`], without the text.
pub fn size(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split(text)?;
    let bytes_each: u64 = match unit {
        "" if number == 0 => 0,
        "" => return Err(QuantityError::NoUnit),
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(QuantityError::UnknownUnit),
    };
    number
        .checked_mul(bytes_each)
        .ok_or(QuantityError::TooLarge)
}

fn split(text: &str) -> Result<(u64, &str), QuantityError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(QuantityError::NoNumber);
    }
    let number = number.parse().map_err(|_| QuantityError::TooLarge)?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_unit() {
        assert_eq!(span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(span("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(span(" 30 s "), Ok(Duration::from_secs(30)));
        assert_eq!(span("10m"), span("10min"));
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(span("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_span_without_a_unit_is_refused() {
        assert_eq!(span("30"), Err(QuantityError::NoUnit));
        assert_eq!(span("30sec"), Err(QuantityError::UnknownUnit));
        assert_eq!(span("-1s"), Err(QuantityError::NoNumber));
        assert_eq!(span("1.5s"), Err(QuantityError::UnknownUnit));
        assert_eq!(span("99999999999999999999s"), Err(QuantityError::TooLarge));
        assert_eq!(span("9999999999999999d"), Err(QuantityError::TooLarge));
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("64"), Err(QuantityError::NoUnit));
        assert_eq!(size("64MB"), Err(QuantityError::UnknownUnit));
    }
}
