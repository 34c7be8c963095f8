//! Stands in for a user who does not exist.
//!
//! Owns [`MockSecret`]; never lets anybody in.

use zeroize::Zeroizing;

use super::scram::{ScramVerifier, hmac};
use crate::secret::Secret;

/// Makes verifiers for users that do not exist: always the same for one name, so that asking twice tells nothing.
///
/// Postgres calls it the mock authentication nonce and keeps it as long as the cluster lives: were it drawn anew at each
/// start, the salts of missing users would change then while those of others do not.
#[derive(Clone)]
pub struct MockSecret {
    key: Zeroizing<[u8; 32]>,
    iterations: u32,
}

impl MockSecret {
    /// A mock of this key, whose verifiers show this many iterations: as many as the verifiers of real users do.
    #[must_use]
    pub fn new(key: [u8; 32], iterations: u32) -> Self {
        Self {
            key: Zeroizing::new(key),
            iterations,
        }
    }

    /// A mock that nobody can foretell.
    #[must_use]
    pub fn random(iterations: u32) -> Self {
        Self::new(rand::random(), iterations)
    }

    /// A verifier for this user, which no password fits that anybody could find.
    pub(super) fn scram_verifier(&self, user: &str) -> ScramVerifier {
        let part = |purpose: &[u8]| hmac(self.key.as_slice(), &[purpose, user.as_bytes()]);
        let salt = part(b"salt ");
        ScramVerifier {
            iterations: self.iterations,
            salt: salt[..super::scram::SALT_LEN].to_vec(),
            stored_key: part(b"stored key "),
            server_key: part(b"server key "),
        }
    }

    /// A password for this user, which nobody could guess.
    pub(super) fn password(&self, user: &str) -> Secret {
        Secret::new(hmac(self.key.as_slice(), &[b"password ", user.as_bytes()]).to_vec())
    }
}

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MockSecret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_user_always_shows_the_same_salt_and_each_one_its_own() {
        let mock = MockSecret::new([7; 32], 4096);
        assert_eq!(mock.scram_verifier("a"), mock.scram_verifier("a"));
        assert_ne!(mock.scram_verifier("a").salt, mock.scram_verifier("b").salt);
        assert_ne!(
            mock.scram_verifier("a").salt,
            MockSecret::new([8; 32], 4096).scram_verifier("a").salt
        );
    }
}
