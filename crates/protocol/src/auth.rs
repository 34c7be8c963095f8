//! Authentication exchanges, of both ends: what a server asks of a client, and what a client answers a server.
//!
//! Owns what is known of a password ([`Verifier`], [`Credential`]) and [`AuthError`]; [`scram`], [`md5`] and [`password`]
//! run the exchanges, over bytes that others send and receive. Never chooses a method: that is configuration.
//!
//! A user who does not exist goes through the same exchange, against a [`MockSecret`], and costs the same time.
//!
//! Postgres documentation, chapters 21.5 (Password Authentication) and 55.3 (SASL Authentication).

pub mod md5;
mod mock;
pub mod password;
pub mod scram;

use std::str::FromStr;

pub use mock::MockSecret;
pub use scram::{ChannelBinding, ScramClient, ScramKeys, ScramServer, ScramVerifier};

use crate::error::PgError;
use crate::secret::Secret;
use crate::sqlstate::SqlState;

/// What pgherd logs in to a server with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: the server trusts, or asks for a certificate.
    Nothing,
    /// The password itself, for any method.
    Password(Secret),
    /// `md5` and 32 hex digits, for the md5 method alone.
    Md5Hash(Secret),
    /// Keys learnt from a client's own login, for SCRAM with a server that keeps the very same verifier.
    ScramKeys(ScramKeys),
}

/// What a client's password is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifier {
    /// The password itself. Turn it into a [`ScramVerifier`] once, at load, by [`Verifier::to_scram`].
    Plain(Secret),
    /// `md5` and 32 hex digits: the hash of password and user name. Whoever has it can log in.
    Md5(Secret),
    /// Salted keys, of which no password can be made.
    Scram(ScramVerifier),
}

impl Verifier {
    /// The verifier to run SCRAM with: of a plain password it is made (some milliseconds), of an md5 hash there is none.
    ///
    /// Make it once, when the configuration is read: made at login it would tell by its time that a user exists.
    #[must_use]
    pub fn to_scram(&self, iterations: u32) -> Option<ScramVerifier> {
        match self {
            Self::Plain(password) => Some(ScramVerifier::generate(password, iterations)),
            Self::Md5(_) => None,
            Self::Scram(verifier) => Some(verifier.clone()),
        }
    }
}

/// Reads what `pg_authid.rolpassword` may hold: `SCRAM-SHA-256$...`, `md5...`, else a plain password.
///
/// Where Postgres would take a broken SCRAM verifier for a plain password, this is an error.
impl FromStr for Verifier {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Self, AuthError> {
        if text.starts_with(scram::VERIFIER_PREFIX) {
            return text.parse().map(Self::Scram);
        }
        if md5::is_hash(text.as_bytes()) {
            return Ok(Self::Md5(Secret::from(text)));
        }
        if text.is_empty() {
            return Err(AuthError::InvalidVerifier("the password is empty"));
        }
        Ok(Self::Plain(Secret::from(text)))
    }
}

/// Why an authentication exchange failed. None holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The password is wrong, or there is no such user: nobody shall know which.
    #[error("password authentication failed")]
    WrongPassword,
    /// The other side sent what is no message of the exchange.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client chose a mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    InvalidMechanism,
    /// The other side wants an extension that Postgres has not either.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The two sides do not see the same TLS connection, or somebody made them think that the other cannot bind to it.
    #[error("SCRAM channel binding failed: {0}")]
    ChannelBinding(&'static str),
    /// The server offers no mechanism that this end speaks.
    #[error("none of the server's SASL authentication mechanisms are supported")]
    NoMechanism,
    /// What pgherd knows of the user does not do for the method the server asks for.
    #[error("the server asks for {method} authentication, for which no fitting password is known")]
    NoCredential {
        /// The method: `password`, `md5` or `SCRAM-SHA-256`.
        method: &'static str,
    },
    /// The iteration count is zero, or so high that it would cost seconds.
    #[error("SCRAM iteration count {0} is not between 1 and {max}", max = scram::MAX_ITERATIONS)]
    IterationsOutOfRange(u64),
    /// The server ended the exchange with an error.
    #[error("server rejected the SCRAM exchange: {0}")]
    ServerRejected(String),
    /// The server could not prove that it knows the password: it may not be who it should be.
    #[error("incorrect server signature")]
    ServerSignature,
    /// A stored verifier cannot be read.
    #[error("invalid password verifier: {0}")]
    InvalidVerifier(&'static str),
}

impl AuthError {
    /// The SQLSTATE for a client that is being authenticated, as Postgres has it; a failed login to a server is 28000.
    #[must_use]
    pub const fn code(&self) -> SqlState {
        match self {
            Self::WrongPassword => SqlState::INVALID_PASSWORD,
            Self::Malformed(_) | Self::InvalidMechanism => SqlState::PROTOCOL_VIOLATION,
            Self::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::ChannelBinding(_)
            | Self::NoMechanism
            | Self::NoCredential { .. }
            | Self::IterationsOutOfRange(_)
            | Self::ServerRejected(_)
            | Self::ServerSignature => SqlState::INVALID_AUTHORIZATION,
            Self::InvalidVerifier(_) => SqlState::CONFIG_FILE_ERROR,
        }
    }

    /// What a client that could not prove to be `user` is told, FATAL, in Postgres' words.
    #[must_use]
    pub fn to_client(&self, user: &str) -> PgError {
        match self {
            Self::WrongPassword => PgError::fatal(
                self.code(),
                format!("password authentication failed for user \"{user}\""),
            ),
            Self::Malformed(detail) => {
                PgError::fatal(self.code(), "malformed SCRAM message").detail(*detail)
            }
            Self::ChannelBinding(detail) => {
                PgError::fatal(self.code(), "SCRAM channel binding negotiation error")
                    .detail(*detail)
            }
            Self::InvalidMechanism
            | Self::Unsupported(_)
            | Self::NoMechanism
            | Self::NoCredential { .. }
            | Self::IterationsOutOfRange(_)
            | Self::ServerRejected(_)
            | Self::ServerSignature
            | Self::InvalidVerifier(_) => PgError::fatal(self.code(), self.to_string()),
        }
    }

    /// Which kind it is, for a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::Malformed(_) => "malformed",
            Self::InvalidMechanism => "invalid_mechanism",
            Self::Unsupported(_) => "unsupported",
            Self::ChannelBinding(_) => "channel_binding",
            Self::NoMechanism => "no_mechanism",
            Self::NoCredential { .. } => "no_credential",
            Self::IterationsOutOfRange(_) => "iterations",
            Self::ServerRejected(_) => "server_rejected",
            Self::ServerSignature => "server_signature",
            Self::InvalidVerifier(_) => "invalid_verifier",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_verifier_is_told_by_its_form() {
        assert_eq!(
            "secret".parse(),
            Ok(Verifier::Plain(Secret::from("secret")))
        );
        let hash = "md5a3556571e93b0d20722ba62be61e8c2d";
        assert_eq!(hash.parse(), Ok(Verifier::Md5(Secret::from(hash))));
        let scram = ScramVerifier::generate(&Secret::from("secret"), 1);
        assert_eq!(scram.to_string().parse(), Ok(Verifier::Scram(scram)));
    }

    #[test]
    fn a_broken_scram_verifier_is_not_a_plain_password() {
        assert!(matches!(
            "SCRAM-SHA-256$4096:x".parse::<Verifier>(),
            Err(AuthError::InvalidVerifier(_))
        ));
        assert!("".parse::<Verifier>().is_err());
    }

    #[test]
    fn debug_of_what_is_known_of_a_password_tells_nothing() {
        let plain = Verifier::Plain(Secret::from("hunter2"));
        let scram = Verifier::Scram(ScramVerifier::generate(&Secret::from("hunter2"), 1));
        let keys = Credential::ScramKeys(ScramKeys::derive(&Secret::from("hunter2"), b"salt", 1));
        let shown = format!("{plain:?} {scram:?} {keys:?}");
        assert_eq!(
            shown,
            "Plain(***) Scram(ScramVerifier { iterations: 1, .. }) ScramKeys(ScramKeys(***))"
        );
    }
}
