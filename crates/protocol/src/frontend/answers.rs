//! What a client answers in an authentication exchange: messages that share one tag.
//!
//! Owns their bodies; never runs an exchange (see [`crate::auth`]).

use bytes::BytesMut;

use crate::tag::frontend as tag;
use crate::wire::{MessageError, Reader, put_string, put_value, write_message};

/// The password in the body of a PasswordMessage (clear text or an md5 response).
///
/// # Errors
/// [`MessageError`] unless the body is exactly one terminated string.
pub fn password(body: &[u8]) -> Result<&[u8], MessageError> {
    let mut reader = Reader::new(body);
    let password = reader.string("password")?;
    reader.finish()?;
    Ok(password)
}

/// Appends a PasswordMessage.
///
/// # Errors
/// [`MessageError::EmbeddedNul`] if the password has a NUL in it.
pub fn encode_password(out: &mut BytesMut, password: &[u8]) -> Result<(), MessageError> {
    write_message(out, tag::PASSWORD, |out| {
        put_string(out, "password", password)
    })
}

/// The first answer of a client in a SASL exchange. Later ones are the bare bytes of [`super::FrontendMessage::Password`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism the client chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first message, if sent along.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of a [`super::FrontendMessage::Password`].
    ///
    /// # Errors
    /// [`MessageError`], 08P01.
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let response = Self {
            mechanism: reader.string("mechanism")?,
            data: reader.value("initial response")?,
        };
        reader.finish()?;
        Ok(response)
    }

    /// Appends the message.
    ///
    /// # Errors
    /// [`MessageError`] if the mechanism has a NUL in it or the data is over 2 GiB.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        write_message(out, tag::PASSWORD, |out| {
            put_string(out, "mechanism", self.mechanism)?;
            put_value(out, "initial response", self.data)
        })
    }
}

/// Never shows the data.
impl std::fmt::Debug for SaslInitialResponse<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "SaslInitialResponse(\"{}\")",
            self.mechanism.escape_ascii()
        )
    }
}
