//! The counted lists inside messages, read where they lie.
//!
//! Owns [`Formats`], [`Oids`] and [`Values`]: views over bytes that were checked once, when their message was
//! parsed, so that walking them cannot fail. Never copies a value.

use bytes::{BufMut, BytesMut};

use crate::wire::{MessageError, Reader, put_list, put_value};

/// How a value is written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As its type's input and output functions read and write it: code 0.
    Text,
    /// As its type's receive and send functions have it: code 1.
    Binary,
}

impl Format {
    /// The format of a code.
    ///
    /// # Errors
    /// [`MessageError::UnsupportedFormat`] (22023) unless it is 0 or 1.
    pub const fn from_code(code: i16) -> Result<Self, MessageError> {
        match code {
            0 => Ok(Self::Text),
            1 => Ok(Self::Binary),
            _ => Err(MessageError::UnsupportedFormat(code)),
        }
    }

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// A list of format codes. None of them means text for all, one means that one for all.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats<'a> {
    raw: &'a [u8],
}

impl<'a> Formats<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, what: &'static str) -> Result<Self, MessageError> {
        let count = usize::from(reader.u16(what)?);
        let raw = reader.take(count * 2, what)?;
        for code in raw.as_chunks::<2>().0 {
            Format::from_code(i16::from_be_bytes(*code))?;
        }
        Ok(Self { raw })
    }

    pub(crate) fn write(
        out: &mut BytesMut,
        what: &'static str,
        formats: impl IntoIterator<Item = Format>,
    ) -> Result<(), MessageError> {
        put_list(out, what, formats, |out, format| {
            out.put_i16(format.code());
            Ok(())
        })
    }

    /// How many codes are listed (not: how many values they are for).
    #[must_use]
    pub const fn len(&self) -> usize {
        self.raw.len() / 2
    }

    /// Whether no code is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The codes as listed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Format> + use<'a> {
        self.raw
            .as_chunks::<2>()
            .0
            .iter()
            .map(|code| format_of(*code))
    }

    /// The format of the value at `index`, by the rule that none means text and one means that one for all.
    #[must_use]
    pub fn of(&self, index: usize) -> Format {
        let codes = self.raw.as_chunks::<2>().0;
        let at = if codes.len() == 1 { 0 } else { index };
        codes.get(at).map_or(Format::Text, |code| format_of(*code))
    }
}

impl std::fmt::Debug for Formats<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// The codes were checked when they were read.
const fn format_of(code: [u8; 2]) -> Format {
    match i16::from_be_bytes(code) {
        0 => Format::Text,
        _ => Format::Binary,
    }
}

/// A list of type OIDs; 0 where a client leaves the type to the server.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Oids<'a> {
    raw: &'a [u8],
}

impl<'a> Oids<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, what: &'static str) -> Result<Self, MessageError> {
        let count = usize::from(reader.u16(what)?);
        Ok(Self {
            raw: reader.take(count * 4, what)?,
        })
    }

    pub(crate) fn write(
        out: &mut BytesMut,
        what: &'static str,
        oids: impl IntoIterator<Item = u32>,
    ) -> Result<(), MessageError> {
        put_list(out, what, oids, |out, oid| {
            out.put_u32(oid);
            Ok(())
        })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.raw.len() / 4
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The OIDs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|oid| u32::from_be_bytes(*oid))
    }
}

impl std::fmt::Debug for Oids<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// A list of values, each NULL (`None`) or bytes: the parameters of a Bind, the columns of a DataRow.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Values<'a> {
    raw: &'a [u8],
    count: u16,
}

impl<'a> Values<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, what: &'static str) -> Result<Self, MessageError> {
        let count = reader.u16(what)?;
        let before = reader.remaining();
        for _ in 0..count {
            reader.value(what)?;
        }
        let length = before.len() - reader.remaining().len();
        Ok(Self {
            raw: before.get(..length).unwrap_or_default(),
            count,
        })
    }

    pub(crate) fn write<'v>(
        out: &mut BytesMut,
        what: &'static str,
        values: impl IntoIterator<Item = Option<&'v [u8]>>,
    ) -> Result<(), MessageError> {
        put_list(out, what, values, |out, value| put_value(out, what, value))
    }

    /// Writes the list as it was read, in one piece.
    pub(crate) fn copy(&self, out: &mut BytesMut) {
        out.put_u16(self.count);
        out.put_slice(self.raw);
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order.
    #[must_use]
    pub const fn iter(&self) -> ValuesIter<'a> {
        ValuesIter {
            reader: Reader::new(self.raw),
            left: self.count,
        }
    }

    /// The value at `index`, found by walking over those before it: `None` if there are not so many.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<Option<&'a [u8]>> {
        self.iter().nth(index)
    }
}

/// Never shows a value.
impl std::fmt::Debug for Values<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Values({} in {} bytes)",
            self.count,
            self.raw.len()
        )
    }
}

impl<'a> IntoIterator for Values<'a> {
    type Item = Option<&'a [u8]>;
    type IntoIter = ValuesIter<'a>;

    fn into_iter(self) -> ValuesIter<'a> {
        self.iter()
    }
}

/// Walks over [`Values`].
#[derive(Debug, Clone)]
pub struct ValuesIter<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for ValuesIter<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.reader.value("value").ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for ValuesIter<'_> {}
