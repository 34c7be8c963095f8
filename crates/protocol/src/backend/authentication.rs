//! The Authentication messages, which share one tag.
//!
//! Owns [`Authentication`]; never runs an exchange (see [`crate::auth`]).

use bytes::{BufMut, BytesMut};

use crate::wire::{MessageError, Reader, put_string};

/// What the server wants of a client that logs in, or that it is content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The client is in.
    Ok,
    /// Kerberos V5, which Postgres no longer speaks.
    KerberosV5,
    /// The password as it is.
    CleartextPassword,
    /// The password hashed with this salt.
    Md5Password {
        /// Random bytes, new for each login.
        salt: [u8; 4],
    },
    /// GSSAPI.
    Gss,
    /// GSSAPI or SSPI data.
    GssContinue(&'a [u8]),
    /// SSPI.
    Sspi,
    /// SASL, by one of these mechanisms.
    Sasl(Mechanisms<'a>),
    /// The next challenge of a SASL exchange.
    SaslContinue(&'a [u8]),
    /// The server's last word in a SASL exchange.
    SaslFinal(&'a [u8]),
}

impl<'a> Authentication<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(match reader.i32("authentication request")? {
            0 => Self::Ok,
            2 => Self::KerberosV5,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password {
                salt: reader.bytes4("salt")?,
            },
            7 => Self::Gss,
            8 => Self::GssContinue(reader.take_rest()),
            9 => Self::Sspi,
            10 => Self::Sasl(Mechanisms::read(reader)?),
            11 => Self::SaslContinue(reader.take_rest()),
            12 => Self::SaslFinal(reader.take_rest()),
            other => {
                return Err(MessageError::InvalidValue {
                    what: "authentication request",
                    value: i64::from(other),
                });
            }
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_i32(match self {
            Self::Ok => 0,
            Self::KerberosV5 => 2,
            Self::CleartextPassword => 3,
            Self::Md5Password { .. } => 5,
            Self::Gss => 7,
            Self::GssContinue(_) => 8,
            Self::Sspi => 9,
            Self::Sasl(_) => 10,
            Self::SaslContinue(_) => 11,
            Self::SaslFinal(_) => 12,
        });
        match self {
            Self::Ok | Self::KerberosV5 | Self::CleartextPassword | Self::Gss | Self::Sspi => {}
            Self::Md5Password { salt } => out.put_slice(salt),
            Self::GssContinue(data) | Self::SaslContinue(data) | Self::SaslFinal(data) => {
                out.put_slice(data);
            }
            Self::Sasl(mechanisms) => mechanisms.write(out)?,
        }
        Ok(())
    }
}

/// Names the kind of step only: salts and challenges stay out of logs.
impl std::fmt::Debug for Authentication<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => formatter.write_str("Ok"),
            Self::KerberosV5 => formatter.write_str("KerberosV5"),
            Self::CleartextPassword => formatter.write_str("CleartextPassword"),
            Self::Md5Password { .. } => formatter.write_str("Md5Password"),
            Self::Gss => formatter.write_str("Gss"),
            Self::GssContinue(_) => formatter.write_str("GssContinue"),
            Self::Sspi => formatter.write_str("Sspi"),
            Self::Sasl(mechanisms) => write!(formatter, "Sasl({mechanisms:?})"),
            Self::SaslContinue(_) => formatter.write_str("SaslContinue"),
            Self::SaslFinal(_) => formatter.write_str("SaslFinal"),
        }
    }
}

/// The SASL mechanisms a server offers, the one it likes best first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mechanisms<'a>(List<'a>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum List<'a> {
    /// As it came: terminated names, without the empty one that ends the list.
    Read(&'a [u8]),
    /// As it will be sent.
    Named(&'a [&'a str]),
}

impl<'a> Mechanisms<'a> {
    /// A list to be sent.
    #[must_use]
    pub const fn new(names: &'a [&'a str]) -> Self {
        Self(List::Named(names))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let list = reader.remaining();
        let mut length = 0;
        loop {
            let name = reader.string("mechanism")?;
            if name.is_empty() {
                return Ok(Self(List::Read(list.get(..length).unwrap_or_default())));
            }
            length += name.len() + 1;
        }
    }

    fn write(self, out: &mut BytesMut) -> Result<(), MessageError> {
        for name in self.iter() {
            put_string(out, "mechanism", name)?;
        }
        out.put_u8(0);
        Ok(())
    }

    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (read, named) = match self.0 {
            List::Read(list) => (Reader::new(list), &[][..]),
            List::Named(names) => (Reader::new(&[]), names),
        };
        let mut read = read;
        std::iter::from_fn(move || read.string("mechanism").ok())
            .chain(named.iter().map(|name| name.as_bytes()))
    }

    /// Whether this one is offered.
    #[must_use]
    pub fn contains(&self, mechanism: &str) -> bool {
        self.iter().any(|name| name == mechanism.as_bytes())
    }
}

impl std::fmt::Debug for Mechanisms<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_list()
            .entries(self.iter().map(|name| name.escape_ascii().to_string()))
            .finish()
    }
}
