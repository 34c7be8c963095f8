//! Dates and timestamps in ISO 8601, counted as Postgres counts them from 2000-01-01.
//!
//! Owns the calendar and its bounds; never consults a clock, a time zone's name or DateStyle
//! ([documentation, 8.5](https://www.postgresql.org/docs/current/datatype-datetime.html)).

use super::text::trimmed;
use super::{KeyError, KeyType};

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
const MICROSECONDS_PER_SECOND: i64 = 1_000_000;

/// 4714-11-24 BC, day 0 of the Julian count, for dates and timestamps alike.
const FIRST_DAY: i32 = -2_451_545;
/// 5874897-12-31
const LAST_DAY: i32 = 2_145_031_948;
/// The first moment that is beyond: 294277-01-01.
const END_MICROSECONDS: i64 = 9_223_371_331_200_000_000;

/// Whether a timestamp is one of the infinities.
pub(super) fn is_infinite(microseconds: i64) -> bool {
    microseconds == i64::MAX || microseconds == i64::MIN
}

/// A date as it came in binary format.
pub(super) fn check_days(days: i32) -> Result<i32, KeyError> {
    match days {
        i32::MIN | i32::MAX | FIRST_DAY..=LAST_DAY => Ok(days),
        _ => Err(KeyError::OutOfRange(KeyType::Date)),
    }
}

/// A timestamp as it came in binary format.
pub(super) fn check_microseconds(key_type: KeyType, value: i64) -> Result<i64, KeyError> {
    let first = i64::from(FIRST_DAY) * MICROSECONDS_PER_DAY;
    if is_infinite(value) || (first..END_MICROSECONDS).contains(&value) {
        Ok(value)
    } else {
        Err(KeyError::OutOfRange(key_type))
    }
}

/// `2026-11-24`, with ` BC` behind or not, or an infinity.
pub(super) fn read_date(text: &[u8]) -> Result<i32, KeyError> {
    let key_type = KeyType::Date;
    let text = trimmed(text);
    if let Some(infinity) = infinity(text) {
        return Ok(match infinity {
            Infinity::Positive => i32::MAX,
            Infinity::Negative => i32::MIN,
        });
    }
    let mut reader = Reader::new(key_type, text);
    let date = reader.date()?;
    let era = reader.era()?;
    reader.end()?;
    let days = days_since_2000(key_type, date, era)?;
    i32::try_from(days)
        .map_err(|_| KeyError::OutOfRange(key_type))
        .and_then(check_days)
}

/// `2026-11-24 18:30:00.123456`, with `T` between, without the time or its seconds, or an infinity.
pub(super) fn read_timestamp(text: &[u8]) -> Result<i64, KeyError> {
    read_moment(KeyType::Timestamp, text)
}

/// As a timestamp, with a numeric offset or `Z` behind the time.
pub(super) fn read_timestamptz(text: &[u8]) -> Result<i64, KeyError> {
    read_moment(KeyType::Timestamptz, text)
}

fn read_moment(key_type: KeyType, text: &[u8]) -> Result<i64, KeyError> {
    let text = trimmed(text);
    if let Some(infinity) = infinity(text) {
        return Ok(match infinity {
            Infinity::Positive => i64::MAX,
            Infinity::Negative => i64::MIN,
        });
    }
    let mut reader = Reader::new(key_type, text);
    let date = reader.date()?;
    let (time, offset) = match key_type {
        KeyType::Timestamptz => {
            reader.time_separator()?;
            (reader.time()?, reader.offset()?)
        }
        _ if reader.time_follows() => {
            reader.time_separator()?;
            (reader.time()?, 0)
        }
        _ => (0, 0),
    };
    let era = reader.era()?;
    reader.end()?;
    let days = days_since_2000(key_type, date, era)?;
    if days < i64::from(FIRST_DAY) {
        return Err(KeyError::OutOfRange(key_type));
    }
    days.checked_mul(MICROSECONDS_PER_DAY)
        .and_then(|midnight| midnight.checked_add(time))
        .and_then(|local| local.checked_sub(offset * MICROSECONDS_PER_SECOND))
        .filter(|value| !is_infinite(*value))
        .ok_or(KeyError::OutOfRange(key_type))
        .and_then(|value| check_microseconds(key_type, value))
}

enum Infinity {
    Positive,
    Negative,
}

fn infinity(text: &[u8]) -> Option<Infinity> {
    if text.eq_ignore_ascii_case(b"infinity") {
        Some(Infinity::Positive)
    } else if text.eq_ignore_ascii_case(b"-infinity") {
        Some(Infinity::Negative)
    } else {
        None
    }
}

/// A date as it is written: the year counts within its era, from 1.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

enum Era {
    AnnoDomini,
    BeforeChrist,
}

/// Days from 2000-01-01 in the Gregorian calendar, which Postgres uses for all times.
fn days_since_2000(key_type: KeyType, date: Date, era: Era) -> Result<i64, KeyError> {
    let Date { year, month, day } = date;
    if year == 0 {
        return Err(KeyError::OutOfRange(key_type));
    }
    // the year before 1 is 1 BC: counted as 0, so that leap years come out right
    let year = match era {
        Era::AnnoDomini => year,
        Era::BeforeChrist => 1 - year,
    };
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let last_day = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return Err(KeyError::OutOfRange(key_type)),
    };
    if !(1..=last_day).contains(&day) {
        return Err(KeyError::OutOfRange(key_type));
    }
    // years that begin in March end with the leap day; five of their months are 153 days
    let (march_year, march_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days =
        march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let days_from_year_0 = 365 * march_year + leap_days + day_of_year;
    // 2000-01-01 counted the same way
    Ok(days_from_year_0 - 730_425)
}

/// Takes the parts of a moment off the front of a text.
struct Reader<'a> {
    key_type: KeyType,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(key_type: KeyType, text: &'a [u8]) -> Self {
        Self {
            key_type,
            rest: text,
        }
    }

    fn uncertain(&self) -> KeyError {
        KeyError::Uncertain(self.key_type)
    }

    /// From `least` to `most` digits, as many as there are.
    fn digits(&mut self, least: usize, most: usize) -> Result<&'a [u8], KeyError> {
        let count = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(least..=most).contains(&count) {
            return Err(self.uncertain());
        }
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(digits)
    }

    fn number(&mut self, least: usize, most: usize) -> Result<i64, KeyError> {
        let digits = self.digits(least, most)?;
        Ok(digits
            .iter()
            .fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    }

    fn takes(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expects(&mut self, byte: u8) -> Result<(), KeyError> {
        if self.takes(byte) {
            Ok(())
        } else {
            Err(self.uncertain())
        }
    }

    /// The year has four digits or more: with fewer it would be DateStyle's to say which number is
    /// the year.
    fn date(&mut self) -> Result<Date, KeyError> {
        let year = self.number(4, 7)?;
        self.expects(b'-')?;
        let month = self.number(2, 2)?;
        self.expects(b'-')?;
        let day = self.number(2, 2)?;
        Ok(Date { year, month, day })
    }

    fn time_follows(&self) -> bool {
        matches!(self.rest, [b'T', ..] | [b' ', b'0'..=b'9', ..])
    }

    fn time_separator(&mut self) -> Result<(), KeyError> {
        if self.takes(b'T') || self.takes(b' ') {
            Ok(())
        } else {
            Err(self.uncertain())
        }
    }

    /// `HH:MM`, `HH:MM:SS` or with up to six digits of a second, in microseconds.
    fn time(&mut self) -> Result<i64, KeyError> {
        let hours = self.number(2, 2)?;
        self.expects(b':')?;
        let minutes = self.number(2, 2)?;
        let seconds = if self.takes(b':') {
            self.number(2, 2)?
        } else {
            0
        };
        // Postgres also takes 24:00:00 and a 60th second, and rolls them over
        if hours > 23 || minutes > 59 || seconds > 59 {
            return Err(KeyError::OutOfRange(self.key_type));
        }
        let fraction = if self.takes(b'.') {
            let digits = self.digits(1, 6)?;
            let missing = 6 - u32::try_from(digits.len()).unwrap_or(6);
            let value = digits
                .iter()
                .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
            value * 10_i64.pow(missing)
        } else {
            0
        };
        Ok(((hours * 60 + minutes) * 60 + seconds) * MICROSECONDS_PER_SECOND + fraction)
    }

    /// Seconds east of UTC: `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`.
    fn offset(&mut self) -> Result<i64, KeyError> {
        if self.takes(b'Z') {
            return Ok(0);
        }
        let sign = if self.takes(b'+') {
            1
        } else {
            self.expects(b'-')?;
            -1
        };
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let (hours, minutes, seconds) = if digits.count() == 4 {
            let together = self.number(4, 4)?;
            (together / 100, together % 100, 0)
        } else {
            let hours = self.number(2, 2)?;
            let minutes = if self.takes(b':') {
                self.number(2, 2)?
            } else {
                0
            };
            let seconds = if self.rest.first() == Some(&b':') && self.takes(b':') {
                self.number(2, 2)?
            } else {
                0
            };
            (hours, minutes, seconds)
        };
        if hours > 15 || minutes > 59 || seconds > 59 {
            return Err(KeyError::OutOfRange(self.key_type));
        }
        Ok(sign * ((hours * 60 + minutes) * 60 + seconds))
    }

    fn era(&mut self) -> Result<Era, KeyError> {
        match self.rest {
            [] => Ok(Era::AnnoDomini),
            b" BC" => {
                self.rest = &[];
                Ok(Era::BeforeChrist)
            }
            _ => Err(self.uncertain()),
        }
    }

    fn end(&self) -> Result<(), KeyError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.uncertain())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_starts_in_2000_and_knows_leap_years_and_eras() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("2000-02-29", 59),
            ("1999-12-31", -1),
            ("1970-01-01", -10_957),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("0001-02-29 BC", -730_426),
            ("4714-11-24 BC", FIRST_DAY),
            ("5874897-12-31", LAST_DAY),
            ("infinity", i32::MAX),
            (" -Infinity ", i32::MIN),
        ] {
            assert_eq!(read_date(text.as_bytes()), Ok(days), "{text}");
        }
    }

    #[test]
    fn dates_that_settings_or_the_calendar_rule_out_are_refused() {
        for text in [
            "",
            "today",
            "epoch",
            "1/2/2026",
            "20260102",
            "26-01-02",
            "2026-1-2",
            "2026-02-29",
            "0000-01-01",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "4714-11-23 BC",
            "5874898-01-01",
            "2026-01-01 AD",
            "2026-01-01 12:00",
            "2026-01-01BC",
            "2026-01-01 ab",
        ] {
            assert!(read_date(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn moments_are_microseconds_with_the_offset_taken_off() {
        let second = MICROSECONDS_PER_SECOND;
        for (text, value) in [
            ("2000-01-01", 0),
            ("2000-01-01 00:00", 0),
            ("2000-01-01T00:00:01.5", 1_500_000),
            ("1999-12-31 23:59:59.999999", -1),
        ] {
            assert_eq!(read_timestamp(text.as_bytes()), Ok(value), "{text}");
        }
        for (text, value) in [
            ("2000-01-01 00:00:00Z", 0),
            ("2000-01-01 01:00:00+01", 0),
            ("2000-01-01T00:00:00-05:30", 19_800 * second),
            ("2000-01-01 00:00:00+0530", -19_800 * second),
            ("2000-01-01 00:00:00+00:00:01", -second),
            ("infinity", i64::MAX),
        ] {
            assert_eq!(read_timestamptz(text.as_bytes()), Ok(value), "{text}");
        }
    }

    #[test]
    fn moments_without_a_certain_meaning_are_refused() {
        for text in [
            "2000-01-01 24:00:00",
            "2000-01-01 12:00:60",
            "2000-01-01 12:00:00.1234567",
            "2000-01-01 12:00:00+00",
            "2000-01-01 12:00:00 PM",
            "2000-01-01 12",
            "294277-01-01",
            "2000-01-01 12:00:00.",
            "now",
        ] {
            assert!(read_timestamp(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in [
            "2000-01-01",
            "2000-01-01 12:00:00",
            "2000-01-01 12:00:00 Europe/Berlin",
            "2000-01-01 12:00:00 CET",
            "2000-01-01 12:00:00+16",
            "2000-01-01 12:00:00+1",
            "2000-01-01 12:00:00+01:60",
            "2000-01-01+01",
        ] {
            assert!(read_timestamptz(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
