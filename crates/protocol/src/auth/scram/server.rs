//! The server's end of a SCRAM exchange: pgherd checks a client.
//!
//! Owns [`ScramServer`], then [`ScramServerProof`]: each step consumes the state before it. Never sends anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::message::{self, BindingFlag};
use super::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys, ScramVerifier, hmac, nonce,
    sha256, xor,
};
use crate::auth::{AuthError, MockSecret};

/// Waits for the client's first message. Offer [`ScramServer::mechanisms`] in AuthenticationSASL.
#[derive(Debug)]
pub struct ScramServer {
    verifier: ScramVerifier,
    known: bool,
    binding: ChannelBinding,
    nonce: String,
}

impl ScramServer {
    /// An exchange with somebody who says to be `user`. `verifier` is `None` for a user who does not exist or has
    /// no password that SCRAM can check: the exchange is the same, and fails at its end.
    #[must_use]
    pub fn new(
        user: &str,
        verifier: Option<&ScramVerifier>,
        mock: &MockSecret,
        binding: ChannelBinding,
    ) -> Self {
        // made for everybody, so that its time tells nothing
        let stand_in = mock.scram_verifier(user);
        Self {
            known: verifier.is_some(),
            verifier: verifier.unwrap_or(&stand_in).clone(),
            binding,
            nonce: nonce(),
        }
    }

    #[cfg(test)]
    pub(super) fn with_nonce(mut self, nonce: &str) -> Self {
        nonce.clone_into(&mut self.nonce);
        self
    }

    /// The mechanisms to offer, the best first.
    #[must_use]
    pub const fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            ChannelBinding::NotSupported => &[SCRAM_SHA_256],
            ChannelBinding::TlsServerEndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }

    /// Takes mechanism and data of the SASLInitialResponse; gives the data of AuthenticationSASLContinue.
    ///
    /// A client may leave the data out: answer with empty data, and pass on what it sends then.
    ///
    /// # Errors
    /// [`AuthError`]: a mechanism not offered, a malformed message, a downgrade of channel binding. All end the login.
    pub fn client_first(
        self,
        mechanism: &[u8],
        data: &[u8],
    ) -> Result<(Vec<u8>, ScramServerProof), AuthError> {
        let plus = if mechanism == SCRAM_SHA_256_PLUS.as_bytes() {
            true
        } else if mechanism == SCRAM_SHA_256.as_bytes() {
            false
        } else {
            return Err(AuthError::InvalidMechanism);
        };
        let first = message::client_first(data)?;
        let bound = self.bound_data(plus, first.flag)?;
        let mut binding = first.gs2_header.to_vec();
        binding.extend_from_slice(bound);

        let mut nonce = first.nonce.to_vec();
        nonce.extend_from_slice(self.nonce.as_bytes());
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        server_first.extend_from_slice(
            format!(
                ",s={},i={}",
                BASE64.encode(&self.verifier.salt),
                self.verifier.iterations
            )
            .as_bytes(),
        );
        let proof = ScramServerProof {
            signed: [first.bare, b",", &server_first, b","].concat(),
            expected_binding: BASE64.encode(binding),
            plus,
            verifier: self.verifier,
            known: self.known,
            nonce,
        };
        Ok((server_first, proof))
    }

    /// What the client must have bound to, by mechanism and flag; nothing without channel binding.
    fn bound_data(&self, plus: bool, flag: BindingFlag<'_>) -> Result<&[u8], AuthError> {
        match (&self.binding, plus, flag) {
            (ChannelBinding::NotSupported, true, _) => Err(AuthError::InvalidMechanism),
            (ChannelBinding::TlsServerEndPoint(hash), true, BindingFlag::Bound(kind)) => {
                if kind == b"tls-server-end-point" {
                    Ok(hash)
                } else {
                    Err(AuthError::ChannelBinding(
                        "unsupported SCRAM channel-binding type",
                    ))
                }
            }
            (
                ChannelBinding::TlsServerEndPoint(_),
                true,
                BindingFlag::Cannot | BindingFlag::ServerCannot,
            ) => Err(AuthError::Malformed(
                "the client selected SCRAM-SHA-256-PLUS, but sends no channel binding data",
            )),
            (_, false, BindingFlag::Bound(_)) => Err(AuthError::Malformed(
                "the client selected SCRAM-SHA-256, but sends channel binding data",
            )),
            (ChannelBinding::TlsServerEndPoint(_), false, BindingFlag::ServerCannot) => {
                Err(AuthError::ChannelBinding(
                    "the client supports it but thinks the server does not, and this server does",
                ))
            }
            (_, false, BindingFlag::Cannot)
            | (ChannelBinding::NotSupported, false, BindingFlag::ServerCannot) => Ok(&[]),
        }
    }
}

/// Waits for the client's proof.
#[derive(Debug)]
pub struct ScramServerProof {
    verifier: ScramVerifier,
    known: bool,
    plus: bool,
    /// What the client must send as its channel binding, in base64.
    expected_binding: String,
    /// The client's nonce and ours.
    nonce: Vec<u8>,
    /// What both sides sign, up to the client's last message.
    signed: Vec<u8>,
}

/// The client is who it says.
#[derive(Debug)]
pub struct ScramAccepted {
    /// The data of AuthenticationSASLFinal.
    pub server_final: Vec<u8>,
    /// What the client proved the password with, good to log in to servers that keep the same verifier.
    pub keys: ScramKeys,
}

impl ScramServerProof {
    /// Takes the data of the SASLResponse.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`] (28P01) if the proof is wrong or the user does not exist, after the same work; else as
    /// [`ScramServer::client_first`].
    pub fn client_final(self, data: &[u8]) -> Result<ScramAccepted, AuthError> {
        let client = message::client_final(data)?;
        if client.binding != self.expected_binding.as_bytes() {
            return Err(if self.plus {
                AuthError::ChannelBinding("the client sees another certificate")
            } else {
                AuthError::Malformed("unexpected channel-binding attribute")
            });
        }
        if client.nonce != self.nonce {
            return Err(AuthError::Malformed("the nonce does not match"));
        }
        let signed: [&[u8]; 2] = [&self.signed, client.without_proof];
        let client_signature = hmac(&self.verifier.stored_key, &signed);
        let keys = ScramKeys {
            client_key: xor(client.proof, &client_signature),
            server_key: self.verifier.server_key,
        };
        let server_signature = hmac(&keys.server_key, &signed);
        let proven: bool = sha256(&keys.client_key)
            .ct_eq(&self.verifier.stored_key)
            .into();
        if proven & self.known {
            Ok(ScramAccepted {
                server_final: format!("v={}", BASE64.encode(server_signature)).into_bytes(),
                keys,
            })
        } else {
            Err(AuthError::WrongPassword)
        }
    }
}
