//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
//!
//! Owns the keys and their arithmetic: [`ScramVerifier`], [`ScramKeys`]; the exchanges are [`ScramServer`] and [`ScramClient`].
//! Never sends anything.
//!
//! RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point); Postgres documentation, chapter 55.3 (SASL Authentication).

mod client;
mod message;
mod server;

use std::borrow::Cow;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

pub use client::{ScramClient, ScramClientProof};
pub use server::{ScramAccepted, ScramServer, ScramServerProof};

use super::AuthError;
use crate::secret::Secret;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// How many iterations Postgres makes by default (`scram_iterations`).
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// How many iterations are believed at most, from a server or in a verifier: about a third of a second's work.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Bytes of salt in a new verifier.
pub const SALT_LEN: usize = 16;
/// Longest salt that is believed, in bytes.
const MAX_SALT_LEN: usize = 1024;
const KEY_LEN: usize = 32;
pub(super) const VERIFIER_PREFIX: &str = "SCRAM-SHA-256$";

type Key = [u8; KEY_LEN];

/// Whether, and to what, the exchange is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// This end cannot bind: there is no TLS, or the certificate has no hash by RFC 5929.
    NotSupported,
    /// This end can: the hash of the server's certificate, which both ends see on one TLS connection.
    TlsServerEndPoint(Vec<u8>),
}

/// What a server stores of a password: enough to check a proof, not to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// How many times the password is hashed: 1 to [`MAX_ITERATIONS`].
    pub iterations: u32,
    /// Random bytes.
    pub salt: Vec<u8>,
    /// The hash of the client's key.
    pub stored_key: Key,
    /// What the server proves with that it knows the verifier.
    pub server_key: Key,
}

impl ScramVerifier {
    /// The verifier of a password, with this salt.
    ///
    /// Takes milliseconds at thousands of iterations. 0 iterations count as 1, and those above [`MAX_ITERATIONS`] as that.
    #[must_use]
    pub fn from_password(password: &Secret, iterations: u32, salt: Vec<u8>) -> Self {
        let iterations = iterations.clamp(1, MAX_ITERATIONS);
        let keys = ScramKeys::derive(password, &salt, iterations);
        Self {
            iterations,
            salt,
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// The verifier of a password, with a new random salt.
    #[must_use]
    pub fn generate(password: &Secret, iterations: u32) -> Self {
        let salt: [u8; SALT_LEN] = rand::random();
        Self::from_password(password, iterations, salt.to_vec())
    }

    /// Whether this is the password; costs what [`ScramVerifier::from_password`] does.
    #[must_use]
    pub fn fits(&self, password: &Secret) -> bool {
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        keys.server_key.ct_eq(&self.server_key).into()
    }
}

/// As Postgres stores it: `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`.
impl std::fmt::Display for ScramVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{VERIFIER_PREFIX}{}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

/// Shows no key and no salt.
impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ScramVerifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl FromStr for ScramVerifier {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Self, AuthError> {
        let parts = text
            .strip_prefix(VERIFIER_PREFIX)
            .and_then(|rest| rest.split_once('$'))
            .and_then(|(head, keys)| Some((head.split_once(':')?, keys.split_once(':')?)));
        let Some(((iterations, salt), (stored_key, server_key))) = parts else {
            return Err(AuthError::InvalidVerifier(
                "it is not SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>",
            ));
        };
        let key = |text: &str| {
            BASE64
                .decode(text)
                .ok()
                .and_then(|key| Key::try_from(key).ok())
                .ok_or(AuthError::InvalidVerifier(
                    "a key is not 32 bytes in base64",
                ))
        };
        Ok(Self {
            iterations: parse_iterations(iterations.as_bytes())
                .ok_or(AuthError::InvalidVerifier("the iterations are no number"))??,
            salt: BASE64
                .decode(salt)
                .ok()
                .filter(|salt| (1..=MAX_SALT_LEN).contains(&salt.len()))
                .ok_or(AuthError::InvalidVerifier("the salt is not base64"))?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

/// `None` if it is no number, an error if it is one out of range.
fn parse_iterations(digits: &[u8]) -> Option<Result<u32, AuthError>> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let iterations: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(
        u32::try_from(iterations)
            .ok()
            .filter(|iterations| (1..=MAX_ITERATIONS).contains(iterations))
            .ok_or(AuthError::IterationsOutOfRange(iterations)),
    )
}

/// What a client proves a password with. Learnt from a client's proof they log in to any server that keeps the
/// same verifier (same salt and iterations), and to no other.
#[derive(Clone)]
pub struct ScramKeys {
    /// The client's secret.
    pub client_key: Key,
    /// The server's.
    pub server_key: Key,
}

impl ScramKeys {
    /// The keys of a password. `iterations` are the caller's to bound.
    #[must_use]
    pub fn derive(password: &Secret, salt: &[u8], iterations: u32) -> Self {
        let prepared = prepare(password.expose());
        let mut salted = Zeroizing::new([0; KEY_LEN]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, salted.as_mut_slice());
        Self {
            client_key: hmac(salted.as_slice(), &[b"Client Key"]),
            server_key: hmac(salted.as_slice(), &[b"Server Key"]),
        }
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

/// Takes the same time wherever they differ.
impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        (self.client_key.ct_eq(&other.client_key) & self.server_key.ct_eq(&other.server_key)).into()
    }
}

impl Eq for ScramKeys {}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScramKeys(***)")
    }
}

/// The password by SASLprep, or as it is where SASLprep has no answer: not UTF-8, forbidden characters, nothing left.
/// Postgres does the same, so that any password works.
fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok())
        .filter(|prepared| !prepared.is_empty());
    match prepared {
        Some(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        Some(Cow::Borrowed(prepared)) => Cow::Borrowed(prepared.as_bytes()),
        None => Cow::Borrowed(password),
    }
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length (RFC 2104)");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(mut left: Key, right: &Key) -> Key {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}

/// 24 printable characters that nobody can guess, as Postgres makes them.
fn nonce() -> String {
    let raw: [u8; 18] = rand::random();
    BASE64.encode(raw)
}

#[cfg(test)]
mod tests;
