//! Rows that the console shows.
//!
//! Owns: their columns, each with its meaning, and their values in the text and binary formats of Postgres' types, since drivers ask
//! for either. Never does: finding the values out (see `commands`). Main types: [`Answer`], [`Value`].

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use pgherd_protocol::backend::{Field, encode_data_row, encode_row_description};
use pgherd_protocol::{Format, MessageError, oid};

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`
    Text,
    /// `int8`
    Integer,
    /// `float8`
    Float,
    /// `bool`
    Boolean,
    /// `timestamptz`
    Time,
}

impl ColumnType {
    fn oid(self) -> u32 {
        match self {
            Self::Text => oid::TEXT,
            Self::Integer => oid::INT8,
            Self::Float => oid::FLOAT8,
            Self::Boolean => oid::BOOL,
            Self::Time => oid::TIMESTAMPTZ,
        }
    }
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnType,
    /// What it says, with its unit.
    pub meaning: &'static str,
}

/// A column of texts.
pub const fn text(name: &'static str, meaning: &'static str) -> Column {
    Column {
        name,
        kind: ColumnType::Text,
        meaning,
    }
}

/// A column of whole numbers.
pub const fn integer(name: &'static str, meaning: &'static str) -> Column {
    Column {
        name,
        kind: ColumnType::Integer,
        meaning,
    }
}

/// A column of numbers.
pub const fn float(name: &'static str, meaning: &'static str) -> Column {
    Column {
        name,
        kind: ColumnType::Float,
        meaning,
    }
}

/// A column of yes and no.
pub const fn boolean(name: &'static str, meaning: &'static str) -> Column {
    Column {
        name,
        kind: ColumnType::Boolean,
        meaning,
    }
}

/// A column of moments.
pub const fn time(name: &'static str, meaning: &'static str) -> Column {
    Column {
        name,
        kind: ColumnType::Time,
        meaning,
    }
}

/// A value; its kind is its column's, or NULL.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// Yes or no.
    Boolean(bool),
    /// A moment.
    Time(SystemTime),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

/// In seconds.
impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Self::Float(duration.as_secs_f64())
    }
}

impl From<SystemTime> for Value {
    fn from(moment: SystemTime) -> Self {
        Self::Time(moment)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Value {
    /// The bytes on the wire; `None` is NULL.
    fn encode(&self, format: Format) -> Option<Vec<u8>> {
        let text = match (self, format) {
            (Self::Null, _) => return None,
            (Self::Text(text), _) => text.clone(),
            (Self::Integer(number), Format::Binary) => return Some(number.to_be_bytes().to_vec()),
            (Self::Integer(number), Format::Text) => number.to_string(),
            (Self::Float(number), Format::Binary) => return Some(number.to_be_bytes().to_vec()),
            (Self::Float(number), Format::Text) => number.to_string(),
            (Self::Boolean(value), Format::Binary) => return Some(vec![u8::from(*value)]),
            (Self::Boolean(value), Format::Text) => if *value { "t" } else { "f" }.to_owned(),
            (Self::Time(moment), Format::Binary) => {
                return Some(postgres_micros(*moment).to_be_bytes().to_vec());
            }
            (Self::Time(moment), Format::Text) => time_text(*moment),
        };
        Some(text.into_bytes())
    }
}

/// Columns and rows.
#[derive(Debug, Clone)]
pub struct Answer {
    columns: &'static [Column],
    rows: Vec<Vec<Value>>,
}

impl Answer {
    /// Without rows yet.
    pub fn new(columns: &'static [Column]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row: a value for each column, in order.
    pub fn row<const N: usize>(&mut self, values: [Value; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(values.into());
    }

    /// As [`Answer::row`], for rows that are put together.
    pub fn row_of(&mut self, values: impl Iterator<Item = Value>) {
        let values: Vec<Value> = values.collect();
        debug_assert_eq!(values.len(), self.columns.len());
        self.rows.push(values);
    }

    /// Keeps the rows whose value in a column is like the pattern, as SQL's LIKE has it (Postgres documentation, chapter 9.7.1). NULL is
    /// like nothing.
    pub fn keep_like(&mut self, column: &str, pattern: &str) {
        let named = self.columns.iter().position(|known| known.name == column);
        let pattern: Vec<char> = pattern.chars().collect();
        self.rows.retain(|row| {
            let value = named.and_then(|index| row.get(index));
            let text = value.and_then(|value| value.encode(Format::Text));
            let text = text.and_then(|text| String::from_utf8(text).ok());
            text.is_some_and(|text| is_like(&text.chars().collect::<Vec<_>>(), &pattern))
        });
    }

    /// The columns.
    pub fn columns(&self) -> &'static [Column] {
        self.columns
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<Value>] {
        &self.rows
    }

    /// Appends the RowDescription. `format` gives each column's format, by its number from 0.
    ///
    /// # Errors
    /// [`MessageError`], which these columns never meet.
    pub fn encode_description(
        columns: &'static [Column],
        format: impl Fn(usize) -> Format,
        out: &mut BytesMut,
    ) -> Result<(), MessageError> {
        let fields = columns.iter().enumerate().map(|(index, column)| Field {
            name: column.name.as_bytes(),
            table_oid: 0,
            column: 0,
            type_oid: column.kind.oid(),
            type_size: oid::type_size(column.kind.oid()),
            type_modifier: -1,
            format: format(index),
        });
        encode_row_description(out, fields)
    }

    /// Appends one row as a DataRow.
    ///
    /// # Errors
    /// [`MessageError`] for a value of over a gigabyte.
    pub fn encode_row(
        &self,
        row: usize,
        format: impl Fn(usize) -> Format,
        out: &mut BytesMut,
    ) -> Result<(), MessageError> {
        let values: Vec<Option<Vec<u8>>> = self
            .rows
            .get(row)
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, value)| value.encode(format(index)))
            .collect();
        encode_data_row(out, values.iter().map(Option::as_deref))
    }
}

/// `%` is any text, `_` any character, a backslash takes the next one as it is. The last `%` alone is ever gone back to, so that no pattern
/// takes long.
fn is_like(text: &[char], pattern: &[char]) -> bool {
    let (mut at, mut wanted) = (0, 0);
    let mut open: Option<(usize, usize)> = None;
    loop {
        let (matches, width) = match (pattern.get(wanted), text.get(at)) {
            (None, None) => return true,
            (Some('%'), _) => {
                open = Some((at, wanted + 1));
                wanted += 1;
                continue;
            }
            (Some('_'), Some(_)) => (true, 1),
            (Some('\\'), Some(found)) => (pattern.get(wanted + 1) == Some(found), 2),
            (Some(literal), Some(found)) => (literal == found, 1),
            (Some(_), None) | (None, Some(_)) => (false, 1),
        };
        if matches {
            at += 1;
            wanted += width;
            continue;
        }
        match open {
            Some((begun, after)) if begun < text.len() => {
                open = Some((begun + 1, after));
                (at, wanted) = (begun + 1, after);
            }
            Some(_) | None => return false,
        }
    }
}

/// Microseconds since 2000-01-01, Postgres' own count.
fn postgres_micros(moment: SystemTime) -> i64 {
    const EPOCH_2000: i64 = 946_684_800_000_000;
    unix_micros(moment) - EPOCH_2000
}

fn unix_micros(moment: SystemTime) -> i64 {
    let signed = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4);
    match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => signed(after),
        Err(before) => -signed(before.duration()),
    }
}

/// `2026-11-24 01:02:03.456+00`
fn time_text(moment: SystemTime) -> String {
    const DAY: i64 = 86_400_000_000;
    let micros = unix_micros(moment);
    let (days, within) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = civil_date(days);
    let (seconds, millis) = (within / 1_000_000, within / 1000 % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}+00")
}

/// The date of a day counted from 1970-01-01. Years start in March here, so that the leap day is their last.
fn civil_date(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let from_0000_03_01 = days + 719_468;
    let era = from_0000_03_01.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = from_0000_03_01.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn moments_are_written_as_postgres_reads_them() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00.000+00"),
            (951_782_400, "2000-02-29 00:00:00.000+00"),
            (951_868_800, "2000-03-01 00:00:00.000+00"),
            (1_709_164_799, "2024-02-28 23:59:59.000+00"),
            (4_102_444_799, "2099-12-31 23:59:59.000+00"),
        ] {
            assert_eq!(time_text(at(seconds)), expected);
        }
        assert_eq!(
            time_text(at(1) + Duration::from_millis(5)),
            "1970-01-01 00:00:01.005+00"
        );
        assert_eq!(postgres_micros(at(946_684_801)), 1_000_000);
    }

    #[test]
    fn patterns_are_read_as_by_like() {
        for (text, pattern, expected) in [
            ("shop", "shop", true),
            ("shop", "Shop", false),
            ("shop", "sh", false),
            ("shop", "sh%", true),
            ("shop", "%op", true),
            ("shop", "%h%p%", true),
            ("shop", "____", true),
            ("shop", "___", false),
            ("", "%", true),
            ("", "_", false),
            ("a%b", "a\\%b", true),
            ("axb", "a\\%b", false),
            ("a_b", "a\\_%", true),
            ("aab", "%ab", true),
            ("ü", "_", true),
        ] {
            let (text, pattern): (Vec<_>, Vec<_>) =
                (text.chars().collect(), pattern.chars().collect());
            assert_eq!(is_like(&text, &pattern), expected, "{text:?} {pattern:?}");
        }
        let long = vec!['a'; 10_000];
        let pattern: Vec<char> = "%a%a%a%a%a%a%b".chars().collect();
        assert!(!is_like(&long, &pattern));
    }

    #[test]
    fn values_have_both_formats() {
        let text = |value: Value| String::from_utf8(value.encode(Format::Text).unwrap()).unwrap();
        assert_eq!(text(Value::from(true)), "t");
        assert_eq!(text(Value::from(1.5)), "1.5");
        assert_eq!(text(Value::from(7_usize)), "7");
        assert_eq!(
            Value::from(7_i32).encode(Format::Binary).unwrap(),
            7_i64.to_be_bytes()
        );
        assert_eq!(Value::from(Some("a")).encode(Format::Binary).unwrap(), b"a");
        assert_eq!(Value::from(None::<&str>).encode(Format::Binary), None);
    }
}
