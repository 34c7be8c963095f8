//! What comes first on a connection, before messages have a tag.
//!
//! Owns [`FirstPacket`], [`StartupMessage`] and [`ProtocolVersion`], in both directions; never answers one.
//! Postgres documentation, chapters 55.2.1 (Start-up), 55.2.10 (SSL) and 55.7 (Message Formats).

use bytes::{Buf, BufMut, BytesMut};

use crate::backend::encode_negotiate_protocol_version;
use crate::cancel::CancelKey;
use crate::sqlstate::SqlState;
use crate::wire::{MessageError, Reader, put_string, write_counted_bytes};

/// Longest first packet, in bytes after its length field: Postgres' own `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP_LEN: usize = 10_000;

const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// Major and minor version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// 3 since Postgres 7.4.
    pub major: u16,
    /// What a server may negotiate down.
    pub minor: u16,
}

impl ProtocolVersion {
    /// Version 3.0: what every client speaks.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// Version 3.2, of Postgres 18: cancel keys of up to 256 bytes.
    pub const V3_2: Self = Self { major: 3, minor: 2 };
    /// The newest version this crate speaks.
    pub const LATEST: Self = Self::V3_2;

    pub(crate) const fn from_code(code: u32) -> Self {
        Self {
            major: (code >> 16) as u16,
            minor: (code & 0xffff) as u16,
        }
    }

    pub(crate) const fn code(self) -> u32 {
        ((self.major as u32) << 16) | self.minor as u32
    }
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The first thing a client says. After [`FirstPacket::SslRequest`] or [`FirstPacket::GssEncRequest`] another follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// The client would like TLS: answer `S` or `N`, and take nothing that came before the answer.
    SslRequest,
    /// The client would like GSSAPI encryption: answer `G` or `N`.
    GssEncRequest,
    /// The client wants a query of another connection ended; nothing is answered.
    CancelRequest {
        /// What BackendKeyData named.
        pid: i32,
        /// And its secret.
        key: CancelKey,
    },
    /// The client wants a session.
    Startup(StartupMessage),
}

/// Why a first packet is refused. All are FATAL: the connection is closed after the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length cannot be that of a first packet; perhaps this is not a Postgres client at all.
    #[error("invalid length of startup packet")]
    InvalidLength,
    /// Names and values are not as they should be.
    #[error("invalid startup packet layout: {0}")]
    Layout(#[from] MessageError),
    /// Another major version.
    #[error("unsupported frontend protocol {0}: server supports 3.0 to {latest}", latest = ProtocolVersion::LATEST)]
    UnsupportedVersion(ProtocolVersion),
    /// No user is named.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
}

impl StartupError {
    /// The SQLSTATE Postgres gives this fault: 08P01, 0A000 for a version, 28000 without a user.
    #[must_use]
    pub const fn code(&self) -> SqlState {
        match self {
            Self::InvalidLength | Self::Layout(_) => SqlState::PROTOCOL_VIOLATION,
            Self::UnsupportedVersion(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION,
        }
    }
}

/// Takes the first packet off the front; `None` if more must be read first.
///
/// # Errors
/// [`StartupError`]; the buffer then means nothing.
pub fn read_first_packet(buffer: &mut BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*length))
        .ok()
        .and_then(|length| length.checked_sub(4))
        .filter(|length| (4..=MAX_STARTUP_LEN).contains(length))
        .ok_or(StartupError::InvalidLength)?;
    if buffer.len() < length + 4 {
        buffer.reserve(length + 4 - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let body = buffer.split_to(length);
    parse_first_packet(&body).map(Some)
}

fn parse_first_packet(body: &[u8]) -> Result<FirstPacket, StartupError> {
    let mut reader = Reader::new(body);
    let code = reader.u32("protocol version")?;
    let packet = match code {
        SSL_CODE => FirstPacket::SslRequest,
        GSSENC_CODE => FirstPacket::GssEncRequest,
        CANCEL_CODE => FirstPacket::CancelRequest {
            pid: reader.i32("process id")?,
            key: CancelKey::new(reader.take_rest())?,
        },
        code => {
            let version = ProtocolVersion::from_code(code);
            if version.major != ProtocolVersion::LATEST.major {
                return Err(StartupError::UnsupportedVersion(version));
            }
            FirstPacket::Startup(StartupMessage::read(version, &mut reader)?)
        }
    };
    reader.finish()?;
    Ok(packet)
}

/// Whether these first bytes are a TLS handshake without an SSLRequest before it (libpq's `sslnegotiation=direct`).
/// `None` while there is no byte yet. No length of a first packet begins so.
#[must_use]
pub fn begins_with_tls(buffer: &[u8]) -> Option<bool> {
    buffer.first().map(|byte| *byte == 0x16)
}

/// Appends an SSLRequest.
pub fn encode_ssl_request(out: &mut BytesMut) {
    postgres_protocol::message::frontend::ssl_request(out);
}

/// Appends a GSSENCRequest.
pub fn encode_gssenc_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(GSSENC_CODE);
}

/// Appends a CancelRequest.
pub fn encode_cancel_request(out: &mut BytesMut, pid: i32, key: &CancelKey) {
    let key = key.as_bytes();
    // a key has at most 256 bytes
    out.put_u32(12 + u32::try_from(key.len()).unwrap_or_default());
    out.put_u32(CANCEL_CODE);
    out.put_i32(pid);
    out.put_slice(key);
}

/// A client's wish for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// The version the client would like to speak; see [`StartupMessage::effective_version`].
    pub version: ProtocolVersion,
    /// `user`, `database`, `options`, `replication` and any setting, in the order sent. A name may come twice: the last counts.
    pub parameters: Vec<(String, String)>,
    /// Options of the protocol itself (`_pq_.`), in the order sent. None is known yet.
    pub protocol_options: Vec<(String, String)>,
}

impl StartupMessage {
    fn read(version: ProtocolVersion, reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let mut message = Self {
            version,
            parameters: Vec::new(),
            protocol_options: Vec::new(),
        };
        loop {
            let name = text(reader, "parameter name")?;
            if name.is_empty() {
                return Ok(message);
            }
            let value = text(reader, "parameter value")?;
            if name.starts_with(PROTOCOL_OPTION_PREFIX) {
                message.protocol_options.push((name, value));
            } else {
                message.parameters.push((name, value));
            }
        }
    }

    /// A wish of our own.
    #[must_use]
    pub fn new(version: ProtocolVersion, parameters: Vec<(String, String)>) -> Self {
        Self {
            version,
            parameters,
            protocol_options: Vec::new(),
        }
    }

    /// The value of a parameter, if it was sent.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whom the client says it is.
    ///
    /// # Errors
    /// [`StartupError::NoUser`] (28000) if it does not say.
    pub fn user(&self) -> Result<&str, StartupError> {
        self.parameter("user")
            .filter(|user| !user.is_empty())
            .ok_or(StartupError::NoUser)
    }

    /// The database the client wants: the one named as the user if it names none.
    ///
    /// # Errors
    /// [`StartupError::NoUser`] (28000) if it names neither.
    pub fn database(&self) -> Result<&str, StartupError> {
        match self.parameter("database").filter(|name| !name.is_empty()) {
            Some(database) => Ok(database),
            None => self.user(),
        }
    }

    /// The version that will be spoken: the client's, or [`ProtocolVersion::LATEST`] if its is newer.
    #[must_use]
    pub fn effective_version(&self) -> ProtocolVersion {
        self.version.min(ProtocolVersion::LATEST)
    }

    /// What must be answered before authentication, if this crate does not speak all the client asks for.
    #[must_use]
    pub fn negotiation(&self) -> Option<Negotiation<'_>> {
        (self.version > ProtocolVersion::LATEST || !self.protocol_options.is_empty())
            .then_some(Negotiation { startup: self })
    }

    /// Appends the message, for logins of our own.
    ///
    /// # Errors
    /// [`MessageError`] if a name or value has a NUL in it, a name is empty, or the whole is longer than a server takes
    /// (10,000 bytes); `out` is then as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        write_counted_bytes(out, |out| {
            let start = out.len();
            out.put_u32(self.version.code());
            for (name, value) in self.parameters.iter().chain(&self.protocol_options) {
                if name.is_empty() {
                    return Err(MessageError::InvalidValue {
                        what: "length of a parameter name",
                        value: 0,
                    });
                }
                put_string(out, "parameter name", name.as_bytes())?;
                put_string(out, "parameter value", value.as_bytes())?;
            }
            out.put_u8(0);
            let length = out.len() - start;
            if length > MAX_STARTUP_LEN {
                return Err(MessageError::TooLong {
                    what: "startup packet",
                    length,
                });
            }
            Ok(())
        })
    }
}

fn text(reader: &mut Reader<'_>, what: &'static str) -> Result<String, MessageError> {
    String::from_utf8(reader.string(what)?.to_vec()).map_err(|_| MessageError::NotUtf8(what))
}

/// The answer to a client that asks for a newer version or for unknown options: NegotiateProtocolVersion.
#[derive(Debug, Clone, Copy)]
pub struct Negotiation<'a> {
    startup: &'a StartupMessage,
}

impl Negotiation<'_> {
    /// Appends the NegotiateProtocolVersion.
    ///
    /// # Errors
    /// [`MessageError`] if an option's name has a NUL in it, which none that was parsed has.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        encode_negotiate_protocol_version(
            out,
            self.startup.effective_version(),
            self.startup
                .protocol_options
                .iter()
                .map(|(name, _)| name.as_bytes()),
        )
    }
}

#[cfg(test)]
mod tests;
