//! The client's end of a SCRAM exchange: pgherd logs in to a server.
//!
//! Owns [`ScramClient`], then [`ScramClientProof`]: each step consumes the state before it. Never sends anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::{
    ChannelBinding, Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys, hmac, message, nonce,
    sha256, xor,
};
use crate::auth::{AuthError, Credential};
use crate::backend::Mechanisms;
use crate::secret::Secret;

/// What the proof is made with.
#[derive(Debug)]
enum Source {
    Password(Secret),
    Keys(ScramKeys),
}

/// How the exchange is bound.
#[derive(Debug)]
enum Binding {
    /// There is nothing to bind to.
    Cannot,
    /// There is, but the server did not offer it; it will refuse if in truth it did.
    NotOffered,
    /// To the server's certificate.
    Bound(Vec<u8>),
}

/// Waits for the server's first message. Send [`ScramClient::client_first`] in SASLInitialResponse, under
/// [`ScramClient::mechanism`].
#[derive(Debug)]
pub struct ScramClient {
    source: Source,
    binding: Binding,
    nonce: String,
}

impl ScramClient {
    /// An exchange by the best of the mechanisms a server offers.
    ///
    /// # Errors
    /// [`AuthError::NoCredential`] without a password or SCRAM keys; [`AuthError::NoMechanism`] if the server offers none that
    /// this end can run.
    pub fn new(
        credential: &Credential,
        offered: Mechanisms<'_>,
        binding: ChannelBinding,
    ) -> Result<Self, AuthError> {
        let source = match credential {
            Credential::Password(password) => Source::Password(password.clone()),
            Credential::ScramKeys(keys) => Source::Keys(keys.clone()),
            Credential::Nothing | Credential::Md5Hash(_) => {
                return Err(AuthError::NoCredential {
                    method: SCRAM_SHA_256,
                });
            }
        };
        let binding = match binding {
            ChannelBinding::TlsServerEndPoint(hash) if offered.contains(SCRAM_SHA_256_PLUS) => {
                Binding::Bound(hash)
            }
            ChannelBinding::TlsServerEndPoint(_) if offered.contains(SCRAM_SHA_256) => {
                Binding::NotOffered
            }
            ChannelBinding::NotSupported if offered.contains(SCRAM_SHA_256) => Binding::Cannot,
            ChannelBinding::TlsServerEndPoint(_) | ChannelBinding::NotSupported => {
                return Err(AuthError::NoMechanism);
            }
        };
        Ok(Self {
            source,
            binding,
            nonce: nonce(),
        })
    }

    #[cfg(test)]
    pub(super) fn with_nonce(mut self, nonce: &str) -> Self {
        nonce.clone_into(&mut self.nonce);
        self
    }

    /// The mechanism chosen.
    #[must_use]
    pub const fn mechanism(&self) -> &'static str {
        match self.binding {
            Binding::Bound(_) => SCRAM_SHA_256_PLUS,
            Binding::Cannot | Binding::NotOffered => SCRAM_SHA_256,
        }
    }

    /// Whether the exchange is bound to the server's certificate; where configuration requires that, check it here.
    #[must_use]
    pub const fn is_channel_bound(&self) -> bool {
        matches!(self.binding, Binding::Bound(_))
    }

    const fn gs2_header(&self) -> &'static str {
        match self.binding {
            Binding::Cannot => "n,,",
            Binding::NotOffered => "y,,",
            Binding::Bound(_) => "p=tls-server-end-point,,",
        }
    }

    /// No user name: Postgres takes the one of the startup message.
    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// The data of SASLInitialResponse.
    #[must_use]
    pub fn client_first(&self) -> Vec<u8> {
        format!("{}{}", self.gs2_header(), self.client_first_bare()).into_bytes()
    }

    /// Takes the data of AuthenticationSASLContinue; gives the data of SASLResponse.
    ///
    /// With a password it takes as long as the server's iteration count says, which is at most
    /// [`super::MAX_ITERATIONS`].
    ///
    /// # Errors
    /// [`AuthError`]: a malformed message, a nonce that does not continue ours, an iteration count out of range.
    pub fn server_first(self, data: &[u8]) -> Result<(Vec<u8>, ScramClientProof), AuthError> {
        let server = message::server_first(data)?;
        let ours = self.nonce.as_bytes();
        if !server.nonce.starts_with(ours) || server.nonce.len() == ours.len() {
            return Err(AuthError::Malformed("the nonce does not continue ours"));
        }
        let keys = match &self.source {
            Source::Password(password) => {
                ScramKeys::derive(password, &server.salt, server.iterations)
            }
            Source::Keys(keys) => keys.clone(),
        };
        let mut binding = self.gs2_header().as_bytes().to_vec();
        if let Binding::Bound(hash) = &self.binding {
            binding.extend_from_slice(hash);
        }
        let mut client_final = format!("c={},r=", BASE64.encode(binding)).into_bytes();
        client_final.extend_from_slice(server.nonce);

        let bare = self.client_first_bare();
        let signed: [&[u8]; 5] = [bare.as_bytes(), b",", data, b",", &client_final];
        let client_signature = hmac(&sha256(&keys.client_key), &signed);
        let proof = xor(keys.client_key, &client_signature);
        let server_signature = hmac(&keys.server_key, &signed);
        client_final.extend_from_slice(format!(",p={}", BASE64.encode(proof)).as_bytes());
        Ok((client_final, ScramClientProof { server_signature }))
    }
}

/// Waits for the server's signature. A server that says AuthenticationOk without it has not proved that it knows
/// the password: end the connection.
pub struct ScramClientProof {
    server_signature: Key,
}

impl ScramClientProof {
    /// Takes the data of AuthenticationSASLFinal.
    ///
    /// # Errors
    /// [`AuthError::ServerSignature`] if the server does not know the password, [`AuthError::ServerRejected`] if it ended the
    /// exchange, [`AuthError::Malformed`].
    pub fn server_final(self, data: &[u8]) -> Result<(), AuthError> {
        let signature = message::server_final(data)?;
        if signature.ct_eq(&self.server_signature).into() {
            Ok(())
        } else {
            Err(AuthError::ServerSignature)
        }
    }
}

impl std::fmt::Debug for ScramClientProof {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScramClientProof")
    }
}
