//! The messages of a SCRAM exchange, taken apart.
//!
//! Owns the grammar of RFC 5802, chapter 7, as far as Postgres speaks it; never computes a key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Key, MAX_SALT_LEN, parse_iterations};
use crate::auth::AuthError;

/// Longest message of an exchange that is read, in bytes (Postgres' own `PG_MAX_SASL_MESSAGE_LENGTH` from a client).
const MAX_LEN: usize = 1024;
/// From a server: room for the longest salt.
const MAX_SERVER_LEN: usize = 4096;

/// What a client says about channel binding: the gs2 flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindingFlag<'a> {
    /// `n`: it cannot.
    Cannot,
    /// `y`: it can, and thinks the server cannot.
    ServerCannot,
    /// `p=`: it does, to this kind of thing.
    Bound(&'a [u8]),
}

/// A client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    pub(super) flag: BindingFlag<'a>,
    /// Flag and authorization identity with their commas: what is bound later.
    pub(super) gs2_header: &'a [u8],
    pub(super) bare: &'a [u8],
    pub(super) nonce: &'a [u8],
}

pub(super) fn client_first(data: &[u8]) -> Result<ClientFirst<'_>, AuthError> {
    check_length(data, MAX_LEN)?;
    let (flag, rest) = split(data).ok_or(AuthError::Malformed("no channel-binding flag"))?;
    let flag = match flag {
        b"n" => BindingFlag::Cannot,
        b"y" => BindingFlag::ServerCannot,
        _ => BindingFlag::Bound(
            flag.strip_prefix(b"p=")
                .ok_or(AuthError::Malformed("unexpected channel-binding flag"))?,
        ),
    };
    let (identity, bare) = split(rest).ok_or(AuthError::Malformed("no authorization identity"))?;
    if !identity.is_empty() {
        return Err(AuthError::Unsupported(
            "client uses authorization identity, but it is not supported",
        ));
    }
    let mut attributes = Attributes::new(bare);
    attributes.refuse_mandatory_extension()?;
    attributes.named(b'n', "no user name")?;
    let nonce = checked_nonce(attributes.named(b'r', "no nonce")?)?;
    attributes.skip_extensions()?;
    Ok(ClientFirst {
        flag,
        gs2_header: data.get(..data.len() - bare.len()).unwrap_or_default(),
        bare,
        nonce,
    })
}

/// A client's second message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    /// What the client bound to, in base64.
    pub(super) binding: &'a [u8],
    pub(super) nonce: &'a [u8],
    pub(super) without_proof: &'a [u8],
    pub(super) proof: Key,
}

pub(super) fn client_final(data: &[u8]) -> Result<ClientFinal<'_>, AuthError> {
    check_length(data, MAX_LEN)?;
    let mut attributes = Attributes::new(data);
    let binding = attributes.named(b'c', "no channel-binding data")?;
    let nonce = attributes.named(b'r', "no nonce")?;
    loop {
        let left = attributes.left();
        let (name, value) = attributes
            .next()
            .ok_or(AuthError::Malformed("no proof"))??;
        if name == b'p' {
            if attributes.left() > 0 {
                return Err(AuthError::Malformed("garbage after the proof"));
            }
            let proof = BASE64
                .decode(value)
                .ok()
                .and_then(|proof| Key::try_from(proof).ok())
                .ok_or(AuthError::Malformed("the proof is not 32 bytes in base64"))?;
            // the comma before the proof does not belong to what is signed
            let end = (data.len() - left).saturating_sub(1);
            return Ok(ClientFinal {
                binding,
                nonce,
                without_proof: data.get(..end).unwrap_or_default(),
                proof,
            });
        }
    }
}

/// A server's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub(super) nonce: &'a [u8],
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

pub(super) fn server_first(data: &[u8]) -> Result<ServerFirst<'_>, AuthError> {
    check_length(data, MAX_SERVER_LEN)?;
    let mut attributes = Attributes::new(data);
    attributes.refuse_mandatory_extension()?;
    let nonce = checked_nonce(attributes.named(b'r', "no nonce")?)?;
    let salt = BASE64
        .decode(attributes.named(b's', "no salt")?)
        .ok()
        .filter(|salt| (1..=MAX_SALT_LEN).contains(&salt.len()))
        .ok_or(AuthError::Malformed("the salt is not base64"))?;
    let iterations = parse_iterations(attributes.named(b'i', "no iteration count")?)
        .ok_or(AuthError::Malformed("the iteration count is no number"))??;
    attributes.skip_extensions()?;
    Ok(ServerFirst {
        nonce,
        salt,
        iterations,
    })
}

/// A server's last message: its signature.
pub(super) fn server_final(data: &[u8]) -> Result<Key, AuthError> {
    check_length(data, MAX_SERVER_LEN)?;
    let mut attributes = Attributes::new(data);
    let (name, value) = attributes
        .next()
        .ok_or(AuthError::Malformed("no server signature"))??;
    match name {
        b'v' => {
            attributes.skip_extensions()?;
            BASE64
                .decode(value)
                .ok()
                .and_then(|signature| Key::try_from(signature).ok())
                .ok_or(AuthError::Malformed(
                    "the server signature is not 32 bytes in base64",
                ))
        }
        b'e' => Err(AuthError::ServerRejected(
            String::from_utf8_lossy(value).into_owned(),
        )),
        _ => Err(AuthError::Malformed("no server signature")),
    }
}

const fn check_length(data: &[u8], max: usize) -> Result<(), AuthError> {
    if data.len() > max {
        Err(AuthError::Malformed("the message is too long"))
    } else {
        Ok(())
    }
}

fn checked_nonce(nonce: &[u8]) -> Result<&[u8], AuthError> {
    if !nonce.is_empty() && nonce.iter().all(u8::is_ascii_graphic) {
        Ok(nonce)
    } else {
        Err(AuthError::Malformed(
            "non-printable characters in the nonce",
        ))
    }
}

/// What comes before the first comma, and after it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let comma = data.iter().position(|byte| *byte == b',')?;
    Some((data.get(..comma)?, data.get(comma + 1..)?))
}

/// `x=value` by commas.
struct Attributes<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    const fn new(data: &'a [u8]) -> Self {
        Self { rest: Some(data) }
    }

    /// Bytes not read yet.
    fn left(&self) -> usize {
        self.rest.map_or(0, <[u8]>::len)
    }

    fn named(&mut self, name: u8, missing: &'static str) -> Result<&'a [u8], AuthError> {
        match self.next() {
            Some(Ok((found, value))) if found == name => Ok(value),
            _ => Err(AuthError::Malformed(missing)),
        }
    }

    fn refuse_mandatory_extension(&self) -> Result<(), AuthError> {
        if self.rest.is_some_and(|rest| rest.starts_with(b"m=")) {
            return Err(AuthError::Unsupported(
                "an unsupported SCRAM extension is required",
            ));
        }
        Ok(())
    }

    fn skip_extensions(&mut self) -> Result<(), AuthError> {
        self.try_for_each(|attribute| attribute.map(drop))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u8, &'a [u8]), AuthError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let attribute = match split(rest) {
            Some((attribute, after)) => {
                self.rest = Some(after);
                attribute
            }
            None => rest,
        };
        Some(match attribute {
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() => Ok((*name, value)),
            _ => Err(AuthError::Malformed(
                "an attribute is not a letter and a value",
            )),
        })
    }
}
