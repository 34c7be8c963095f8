//! Errors and notices as Postgres tells them.
//!
//! Owns [`ErrorFields`], a server's own error as it came, and [`PgError`], one to be read or made. Never decides
//! what is an error. Postgres documentation, chapter 55.8 (Error and Notice Message Fields).

use bytes::{BufMut, BytesMut};

use crate::frame::FrameError;
use crate::sqlstate::SqlState;
use crate::startup::StartupError;
use crate::tag::backend as tag;
use crate::wire::{MessageError, Reader, write_message};

/// Longest text of one field that [`PgError`] writes, in bytes; what is beyond is cut off with an ellipsis.
pub const MAX_FIELD_LEN: usize = 1024 * 1024;

/// The fields of an ErrorResponse or NoticeResponse as they lie in the message, in the client's encoding. Encoding them
/// again gives the same bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    raw: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let raw = reader.remaining();
        let mut length = 0;
        while reader.u8("field type")? != 0 {
            length += reader.string("field")?.len() + 2;
        }
        Ok(Self {
            raw: raw.get(..length).unwrap_or_default(),
        })
    }

    /// Reads the body of an ErrorResponse or NoticeResponse.
    ///
    /// # Errors
    /// [`MessageError`] unless it is a list of terminated fields, ended by a zero byte.
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let fields = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(fields)
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_slice(self.raw);
        out.put_u8(0);
    }

    /// The fields in order: type and text.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut reader = Reader::new(self.raw);
        std::iter::from_fn(move || {
            let kind = reader.u8("field type").ok()?;
            Some((kind, reader.string("field").ok()?))
        })
    }

    /// The text of the first field of this type.
    #[must_use]
    pub fn field(&self, kind: u8) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, text)| text)
    }

    /// The SQLSTATE, if there is a valid one.
    #[must_use]
    pub fn code(&self) -> Option<SqlState> {
        self.field(field::CODE).and_then(SqlState::new)
    }

    /// The severity, which no setting translates; from before Postgres 9.6 the one that may be translated.
    #[must_use]
    pub fn severity(&self) -> Option<Severity> {
        self.field(field::SEVERITY)
            .or_else(|| self.field(field::LOCALIZED_SEVERITY))
            .and_then(Severity::from_bytes)
    }

    /// The message in the client's encoding; empty if there is none.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.field(field::MESSAGE).unwrap_or_default()
    }
}

impl std::fmt::Debug for ErrorFields<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_map()
            .entries(
                self.iter()
                    .map(|(kind, text)| (char::from(kind), String::from_utf8_lossy(text))),
            )
            .finish()
    }
}

/// Types of fields.
pub mod field {
    /// Severity, perhaps translated.
    pub const LOCALIZED_SEVERITY: u8 = b'S';
    /// Severity, never translated.
    pub const SEVERITY: u8 = b'V';
    /// SQLSTATE.
    pub const CODE: u8 = b'C';
    /// Primary message.
    pub const MESSAGE: u8 = b'M';
    /// Detail.
    pub const DETAIL: u8 = b'D';
    /// Hint.
    pub const HINT: u8 = b'H';
    /// Position in the query, in characters from 1.
    pub const POSITION: u8 = b'P';
    /// Position in the internal query.
    pub const INTERNAL_POSITION: u8 = b'p';
    /// Internal query.
    pub const INTERNAL_QUERY: u8 = b'q';
    /// Where: the call stack.
    pub const WHERE: u8 = b'W';
    /// Schema.
    pub const SCHEMA: u8 = b's';
    /// Table.
    pub const TABLE: u8 = b't';
    /// Column.
    pub const COLUMN: u8 = b'c';
    /// Data type.
    pub const DATA_TYPE: u8 = b'd';
    /// Constraint.
    pub const CONSTRAINT: u8 = b'n';
    /// Source file.
    pub const FILE: u8 = b'F';
    /// Source line.
    pub const LINE: u8 = b'L';
    /// Source routine.
    pub const ROUTINE: u8 = b'R';
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
    /// A warning.
    Warning,
    /// A notice.
    Notice,
    /// For developers.
    Debug,
    /// What a client asked for, such as VACUUM VERBOSE.
    Info,
    /// For the server's log.
    Log,
}

impl Severity {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Log => "LOG",
        }
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        const ALL: [Severity; 8] = [
            Severity::Error,
            Severity::Fatal,
            Severity::Panic,
            Severity::Warning,
            Severity::Notice,
            Severity::Debug,
            Severity::Info,
            Severity::Log,
        ];
        ALL.into_iter()
            .find(|severity| severity.as_str().as_bytes() == word)
    }
}

/// An error or notice, to be read or made.
///
/// Text is UTF-8 here: what a server said in another encoding is read with replacement characters, so relay such by
/// its [`ErrorFields`] (or its frame).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message} ({code})", severity.as_str())]
pub struct PgError {
    /// How bad it is.
    pub severity: Severity,
    /// What went wrong, for programs.
    pub code: SqlState,
    /// What went wrong, for people: one line.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Every other field, in order: its type (see [`field`]) and text.
    pub others: Vec<(u8, String)>,
}

impl PgError {
    /// Something of this severity.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            others: Vec::new(),
        }
    }

    /// An ERROR: the statement failed, the session goes on.
    pub fn error(code: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A FATAL: the session ends with it.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, code, message)
    }

    /// A WARNING, to be sent with [`PgError::encode_notice`].
    pub fn warning(code: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With another field (see [`field`]), such as a position; those with a place of their own are set there.
    #[must_use]
    pub fn with(mut self, kind: u8, text: impl Into<String>) -> Self {
        self.others.retain(|(found, _)| *found != kind);
        self.take_field(kind, text.into());
        self
    }

    /// The text of one of the other fields.
    #[must_use]
    pub fn other(&self, kind: u8) -> Option<&str> {
        self.others
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, text)| text.as_str())
    }

    /// Reads the body of an ErrorResponse or NoticeResponse, keeping every field.
    ///
    /// # Errors
    /// As [`ErrorFields::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, MessageError> {
        ErrorFields::parse(body).map(Self::from)
    }

    fn take_field(&mut self, kind: u8, text: String) {
        match kind {
            0 => {}
            field::SEVERITY => match Severity::from_bytes(text.as_bytes()) {
                Some(severity) => self.severity = severity,
                None => self.others.push((kind, text)),
            },
            field::CODE => match SqlState::new(text.as_bytes()) {
                Some(code) => self.code = code,
                None => self.others.push((kind, text)),
            },
            field::MESSAGE => self.message = text,
            field::DETAIL => self.detail = Some(text),
            field::HINT => self.hint = Some(text),
            _ => self.others.push((kind, text)),
        }
    }

    /// Appends it as an ErrorResponse.
    pub fn encode(&self, out: &mut BytesMut) {
        self.write(out, tag::ERROR_RESPONSE);
    }

    /// Appends it as a NoticeResponse.
    pub fn encode_notice(&self, out: &mut BytesMut) {
        self.write(out, tag::NOTICE_RESPONSE);
    }

    fn write(&self, out: &mut BytesMut, tag: u8) {
        let written = write_message(out, tag, |out| {
            let severity = self.severity.as_str();
            let localized = self.other(field::LOCALIZED_SEVERITY).unwrap_or(severity);
            put_field(out, field::LOCALIZED_SEVERITY, localized);
            put_field(out, field::SEVERITY, severity);
            put_field(out, field::CODE, self.code.as_str());
            put_field(out, field::MESSAGE, &self.message);
            for (kind, text) in [(field::DETAIL, &self.detail), (field::HINT, &self.hint)] {
                if let Some(text) = text {
                    put_field(out, kind, text);
                }
            }
            for (kind, text) in &self.others {
                if *kind != field::LOCALIZED_SEVERITY {
                    put_field(out, *kind, text);
                }
            }
            out.put_u8(0);
            Ok(())
        });
        // fields are at most 1 MiB and NUL-free, so only thousands of them could be too long for a message
        if written.is_err() {
            Self::new(self.severity, self.code, "error with too many fields").write(out, tag);
        }
    }
}

/// Writes a field the protocol can carry: cut to [`MAX_FIELD_LEN`], a NUL as the replacement character.
fn put_field(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    let cut = text.floor_char_boundary(MAX_FIELD_LEN);
    let (kept, rest) = text.split_at(cut);
    for (index, piece) in kept.split('\0').enumerate() {
        if index > 0 {
            out.put_slice("\u{fffd}".as_bytes());
        }
        out.put_slice(piece.as_bytes());
    }
    if !rest.is_empty() {
        out.put_slice("…".as_bytes());
    }
    out.put_u8(0);
}

/// An ERROR: the message was whole, so the session goes on (in the extended protocol: from the next Sync).
impl From<&MessageError> for PgError {
    fn from(error: &MessageError) -> Self {
        Self::error(error.code(), error.to_string())
    }
}

/// A FATAL: nothing that follows in the stream means anything.
impl From<&FrameError> for PgError {
    fn from(error: &FrameError) -> Self {
        Self::fatal(error.code(), error.to_string())
    }
}

/// A FATAL.
impl From<&StartupError> for PgError {
    fn from(error: &StartupError) -> Self {
        Self::fatal(error.code(), error.to_string())
    }
}

impl From<ErrorFields<'_>> for PgError {
    fn from(fields: ErrorFields<'_>) -> Self {
        let severity = fields.severity().unwrap_or(Severity::Error);
        let mut error = Self::new(severity, SqlState::INTERNAL_ERROR, "");
        for (kind, text) in fields.iter() {
            let text = String::from_utf8_lossy(text).into_owned();
            if kind == field::LOCALIZED_SEVERITY && text == severity.as_str() {
                continue;
            }
            error.take_field(kind, text);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::Frame;
    use proptest::prelude::*;

    fn encoded(error: &PgError) -> Frame {
        let mut out = BytesMut::new();
        error.encode(&mut out);
        crate::frame::split_frame(&mut out, usize::MAX)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn an_error_is_written_with_the_fields_postgres_always_sends() {
        let error = PgError::error(SqlState::FEATURE_NOT_SUPPORTED, "no")
            .detail("because")
            .hint("do")
            .with(field::POSITION, "8");
        assert_eq!(
            encoded(&error).body(),
            b"SERROR\0VERROR\0C0A000\0Mno\0Dbecause\0Hdo\0P8\0\0"
        );
        assert_eq!(PgError::parse(encoded(&error).body()), Ok(error));
    }

    #[test]
    fn every_field_of_a_servers_error_is_kept() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mdoppelt\0DSchl\xc3\xbcssel\0spublic\0tusers\0nusers_pkey\0Fnbtinsert.c\0L666\0R_bt_check_unique\0?new\0\0";
        let error = PgError::parse(body).unwrap();
        assert_eq!(error.code, SqlState::UNIQUE_VIOLATION);
        assert_eq!(error.severity, Severity::Error);
        assert_eq!(error.other(field::CONSTRAINT), Some("users_pkey"));
        assert_eq!(encoded(&error).body(), body);
    }

    #[test]
    fn what_the_protocol_cannot_carry_is_replaced_or_cut() {
        let long = "ä".repeat(MAX_FIELD_LEN);
        let error = PgError::fatal(SqlState::PROTOCOL_VIOLATION, "a\0b").detail(long);
        let read = PgError::parse(encoded(&error).body()).unwrap();
        assert_eq!(read.message, "a\u{fffd}b");
        let detail = read.detail.unwrap();
        assert!(detail.len() <= MAX_FIELD_LEN + 3 && detail.ends_with("ä…"));
    }

    #[test]
    fn an_error_without_a_code_is_internal_and_keeps_what_it_had() {
        let error = PgError::parse(b"Sodd\0C1\0Mm\0\0").unwrap();
        assert_eq!(error.code, SqlState::INTERNAL_ERROR);
        assert_eq!(error.other(field::CODE), Some("1"));
        assert_eq!(PgError::parse(b"\0").unwrap().message, "");
    }

    proptest! {
        #[test]
        fn an_error_reads_as_it_was_made(
            message in "[^\0]{0,30}", detail in prop::option::of("[^\0]{0,30}"), hint in prop::option::of("[^\0]{0,30}"),
            others in prop::collection::vec((prop::sample::select(&b"PpqWstcdnFLR!"[..]), "[^\0]{0,10}"), 0..8),
        ) {
            let error = PgError { detail, hint, others, ..PgError::fatal(SqlState::DEADLOCK_DETECTED, message) };
            prop_assert_eq!(PgError::parse(encoded(&error).body()).unwrap(), error);
        }

        #[test]
        fn no_bytes_make_it_panic_and_what_is_read_encodes_the_same(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(fields) = ErrorFields::parse(&bytes) {
                let mut again = BytesMut::new();
                fields.write(&mut again);
                prop_assert_eq!(&again[..], &bytes[..]);
                encoded(&PgError::from(fields));
            }
        }
    }
}
