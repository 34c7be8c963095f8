//! Cuts a stream of bytes into whole messages.
//!
//! Owns tag and length, and their bounds; never looks at a body. Main type: [`Frame`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::sqlstate::SqlState;
use crate::wire::{MessageError, message_length};

/// Bytes of a tag and a length: what every frame begins with.
pub const HEADER_LEN: usize = 5;

/// How far a buffer grows at once, at least, for a frame whose rest has not come yet. A peer that announces a
/// gigabyte costs memory only as it sends it.
const RESERVE_STEP: usize = 64 * 1024;

/// One whole message. A clone shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
}

impl Frame {
    /// A frame of a tag and a body.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if the body is longer than a length field can tell (2 GiB).
    pub fn new(tag: u8, body: &[u8]) -> Result<Self, MessageError> {
        let length = message_length(body.len().saturating_add(4))?;
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + body.len());
        bytes.put_u8(tag);
        bytes.put_i32(length);
        bytes.put_slice(body);
        Ok(Self {
            bytes: bytes.freeze(),
        })
    }

    /// The first byte, which names the message.
    #[must_use]
    pub fn tag(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    /// What follows the length.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// The whole message as it goes over the wire, tag and length included.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length in bytes of the whole message, tag and length included; 5 at least.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // a frame is never empty
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Never shows a body: it may be a password or a row.
impl std::fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Frame")
            .field("tag", &char::from(self.tag()))
            .field("len", &self.len())
            .finish()
    }
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The first byte, which names the message.
    pub tag: u8,
    /// Length in bytes of the whole frame, tag and length included; 5 at least.
    pub len: usize,
}

/// Why a stream cannot be cut into frames. What follows in the stream means nothing: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is shorter than itself.
    #[error("invalid message length {length} (type {})", tag.escape_ascii())]
    InvalidLength {
        /// The first byte of the message.
        tag: u8,
        /// What the length field held.
        length: i32,
    },
    /// The frame is longer than the caller allows.
    #[error("message of {len} bytes (type {}) is longer than the {max} allowed", tag.escape_ascii())]
    TooLong {
        /// The first byte of the message.
        tag: u8,
        /// Length in bytes of the whole frame.
        len: usize,
        /// The bound.
        max: usize,
    },
}

impl FrameError {
    /// 08P01, as Postgres has it; FATAL.
    #[must_use]
    pub const fn code(&self) -> SqlState {
        SqlState::PROTOCOL_VIOLATION
    }
}

/// Tag and length of the frame that begins here; `None` while fewer than five bytes are there.
///
/// For relaying runs of frames without an object each. `max_len` bounds the whole frame, in bytes.
///
/// # Errors
/// [`FrameError`] if the length is impossible or above `max_len`.
#[inline]
pub fn peek_header(buffer: &[u8], max_len: usize) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::InvalidLength { tag, length });
    }
    let len = usize::try_from(length)
        .map_err(|_| FrameError::InvalidLength { tag, length })?
        .saturating_add(1);
    if len > max_len {
        return Err(FrameError::TooLong {
            tag,
            len,
            max: max_len,
        });
    }
    Ok(Some(Header { tag, len }))
}

/// Takes one whole frame off the front; `None` if more must be read first.
///
/// With `None` the buffer has been given room for what is missing, at most as much again as has come already
/// (64 KiB at least). `max_len` bounds the whole frame, in bytes. Bodies are not copied.
///
/// # Errors
/// [`FrameError`] if the length is impossible or above `max_len`; the buffer is left as it was.
pub fn split_frame(buffer: &mut BytesMut, max_len: usize) -> Result<Option<Frame>, FrameError> {
    let Some(header) = peek_header(buffer, max_len)? else {
        return Ok(None);
    };
    if buffer.len() < header.len {
        reserve_missing(buffer, header.len);
        return Ok(None);
    }
    Ok(Some(Frame {
        bytes: buffer.split_to(header.len).freeze(),
    }))
}

/// Makes room for the rest of a frame of `len` bytes that the buffer begins with: in steps, so that memory
/// follows what was sent and not what was announced.
pub fn reserve_missing(buffer: &mut BytesMut, len: usize) {
    let missing = len.saturating_sub(buffer.len());
    let step = buffer.len().max(RESERVE_STEP);
    if buffer.capacity() - buffer.len() < missing.min(RESERVE_STEP) {
        buffer.reserve(missing.min(step));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    #[test]
    fn a_length_shorter_than_itself_is_refused() {
        for length in [i32::MIN, -1, 0, 3] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(
                peek_header(&bytes, MAX),
                Err(FrameError::InvalidLength { tag: b'Q', length })
            );
        }
    }

    #[test]
    fn a_frame_above_the_bound_is_refused_before_its_body_comes() {
        let mut buffer = BytesMut::from(&[b'Q', 0x7f, 0xff, 0xff, 0xff][..]);
        assert!(matches!(
            split_frame(&mut buffer, MAX),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(buffer.len(), 5);
    }

    #[test]
    fn an_announced_gigabyte_reserves_only_a_step() {
        let mut buffer = BytesMut::from(&[b'd', 0x3f, 0xff, 0xff, 0xff][..]);
        assert_eq!(split_frame(&mut buffer, usize::MAX), Ok(None));
        assert!(buffer.capacity() <= 2 * RESERVE_STEP);
    }

    #[test]
    fn debug_never_shows_a_body() {
        let frame = Frame::new(b'p', b"hunter2\0").unwrap();
        assert_eq!(format!("{frame:?}"), "Frame { tag: 'p', len: 13 }");
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_the_same_however_it_arrives(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            cut in 1usize..64,
        ) {
            let frames: Vec<Frame> = bodies.iter().map(|(tag, body)| Frame::new(*tag, body).unwrap()).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
            let mut buffer = BytesMut::new();
            let mut split = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = split_frame(&mut buffer, MAX).unwrap() {
                    split.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(split, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), max in 0usize..100) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = split_frame(&mut buffer, max) {
                prop_assert!(frame.len() <= max);
                prop_assert_eq!(frame.body().len() + HEADER_LEN, frame.len());
            }
        }
    }
}
