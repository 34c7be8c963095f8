//! Bytes of a message body, read and written with every bound checked.
//!
//! Owns [`Reader`] (inward), [`write_message`] with its `put_*` (outward) and [`MessageError`]. Never knows
//! which message it works on.

use std::ffi::CStr;

use bytes::{BufMut, BytesMut};

use crate::sqlstate::SqlState;

/// Why a message could not be read or written.
///
/// Read from a client, it is that client's fault, and Postgres answers with an ERROR and goes on (in the
/// extended protocol: skips to Sync). Read from a server, the connection is beyond use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body ended before what must be there.
    #[error("message ends before its {0}")]
    Truncated(&'static str),
    /// Bytes are left after the last field.
    #[error("message has {0} bytes too many")]
    Trailing(usize),
    /// A string is not ended by a NUL.
    #[error("{0} is not terminated")]
    Unterminated(&'static str),
    /// No message of this side bears this tag.
    #[error("unknown message type {}", tag.escape_ascii())]
    UnknownTag {
        /// The first byte of the message.
        tag: u8,
    },
    /// A field has a value that the protocol does not know.
    #[error("invalid {what} {value}")]
    InvalidValue {
        /// The field.
        what: &'static str,
        /// What it held.
        value: i64,
    },
    /// A format code is neither 0 (text) nor 1 (binary).
    #[error("unsupported format code: {0}")]
    UnsupportedFormat(i16),
    /// A Bind has neither no format code, nor one, nor one for each parameter.
    #[error("bind message has {formats} parameter formats but {parameters} parameters")]
    FormatCount {
        /// How many format codes there are.
        formats: usize,
        /// How many parameters there are.
        parameters: usize,
    },
    /// A string to be written has a NUL in it, which the protocol cannot carry.
    #[error("{0} contains a zero byte")]
    EmbeddedNul(&'static str),
    /// A list or value to be written is longer than its length field can tell.
    #[error("{what} is too long: {length}")]
    TooLong {
        /// The list or value.
        what: &'static str,
        /// How many items or bytes it has.
        length: usize,
    },
    /// What must be text is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
}

impl MessageError {
    /// The SQLSTATE Postgres gives this fault when a client makes it: 22023 for a format code, else 08P01.
    #[must_use]
    pub const fn code(&self) -> SqlState {
        match self {
            Self::UnsupportedFormat(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::Truncated(_)
            | Self::Trailing(_)
            | Self::Unterminated(_)
            | Self::UnknownTag { .. }
            | Self::InvalidValue { .. }
            | Self::FormatCount { .. }
            | Self::EmbeddedNul(_)
            | Self::TooLong { .. }
            | Self::NotUtf8(_) => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

/// Reads a message body front to back. Copying one is a bookmark.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn take(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [u8], MessageError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(MessageError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(MessageError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, MessageError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16, MessageError> {
        self.array(what).map(i16::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, MessageError> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, MessageError> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, MessageError> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(crate) fn bytes4(&mut self, what: &'static str) -> Result<[u8; 4], MessageError> {
        self.array(what)
    }

    /// A string up to its NUL, which is eaten and not returned.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], MessageError> {
        let text =
            CStr::from_bytes_until_nul(self.rest).map_err(|_| MessageError::Unterminated(what))?;
        self.rest = self
            .rest
            .get(text.to_bytes_with_nul().len()..)
            .unwrap_or_default();
        Ok(text.to_bytes())
    }

    /// A value with its length before it; -1 is NULL, any other negative length an error.
    pub(crate) fn value(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, MessageError> {
        let length = self.i32(what)?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| MessageError::InvalidValue {
            what,
            value: i64::from(length),
        })?;
        self.take(length, what).map(Some)
    }

    pub(crate) const fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn take_rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    pub(crate) const fn finish(self) -> Result<(), MessageError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(MessageError::Trailing(self.rest.len()))
        }
    }
}

/// Writes tag, length and what `body` puts. On an error `out` is as it was before.
pub(crate) fn write_message(
    out: &mut BytesMut,
    tag: u8,
    body: impl FnOnce(&mut BytesMut) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let start = out.len();
    out.put_u8(tag);
    let written = write_counted_bytes(out, body);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Writes a length that counts itself, as every message has, and what `body` puts.
pub(crate) fn write_counted_bytes(
    out: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let start = out.len();
    out.put_i32(0);
    let written = body(out).and_then(|()| message_length(out.len() - start));
    match written {
        Ok(length) => {
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// The length field of a message of `length` bytes, its tag not counted.
pub(crate) fn message_length(length: usize) -> Result<i32, MessageError> {
    i32::try_from(length).map_err(|_| MessageError::TooLong {
        what: "message",
        length,
    })
}

pub(crate) fn put_string(
    out: &mut BytesMut,
    what: &'static str,
    text: &[u8],
) -> Result<(), MessageError> {
    if text.contains(&0) {
        return Err(MessageError::EmbeddedNul(what));
    }
    out.put_slice(text);
    out.put_u8(0);
    Ok(())
}

pub(crate) fn put_value(
    out: &mut BytesMut,
    what: &'static str,
    value: Option<&[u8]>,
) -> Result<(), MessageError> {
    match value {
        None => out.put_i32(-1),
        Some(value) => {
            let length = i32::try_from(value.len()).map_err(|_| MessageError::TooLong {
                what,
                length: value.len(),
            })?;
            out.put_i32(length);
            out.put_slice(value);
        }
    }
    Ok(())
}

/// Writes a 16-bit count and each item.
pub(crate) fn put_list<T>(
    out: &mut BytesMut,
    what: &'static str,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut BytesMut, T) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let start = out.len();
    out.put_u16(0);
    let mut length = 0usize;
    for item in items {
        put(out, item)?;
        length += 1;
    }
    let count = u16::try_from(length).map_err(|_| MessageError::TooLong { what, length })?;
    out[start..start + 2].copy_from_slice(&count.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failed_message_leaves_the_output_as_it_was() {
        let mut out = BytesMut::from(&b"before"[..]);
        let error = write_message(&mut out, b'Q', |out| put_string(out, "query", b"a\0b"));
        assert_eq!(error, Err(MessageError::EmbeddedNul("query")));
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn a_list_longer_than_its_count_can_tell_is_refused() {
        let mut out = BytesMut::new();
        let error = put_list(&mut out, "list", 0..=u32::from(u16::MAX), |out, item| {
            out.put_u32(item);
            Ok(())
        });
        assert_eq!(
            error,
            Err(MessageError::TooLong {
                what: "list",
                length: 65_536
            })
        );
    }

    #[test]
    fn a_negative_length_other_than_null_is_refused() {
        assert_eq!(Reader::new(&[255; 4]).value("value"), Ok(None));
        assert_eq!(
            Reader::new(&[255, 255, 255, 254]).value("value"),
            Err(MessageError::InvalidValue {
                what: "value",
                value: -2
            })
        );
    }
}
