//! The md5 method: a hash of password and user name, hashed again with a salt for the login.
//!
//! Owns both ends' arithmetic; never sends anything. Weak, and kept for the servers and clients that know nothing better.
//! Postgres documentation, chapter 55.2.1 (AuthenticationMD5Password).

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::{AuthError, Credential, MockSecret, Verifier};
use crate::secret::Secret;

const PREFIX: &[u8] = b"md5";
const HASH_LEN: usize = 35;

/// Whether this is `md5` and 32 hex digits.
#[must_use]
pub fn is_hash(text: &[u8]) -> bool {
    text.len() == HASH_LEN
        && text
            .strip_prefix(PREFIX)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// What Postgres stores for a user under md5: `md5` and the hash of password and name.
#[must_use]
pub fn hash(user: &str, password: &Secret) -> Secret {
    digest(&[password.expose(), user.as_bytes()])
}

/// What a client answers to this salt, made of what [`hash`] gives.
#[must_use]
pub fn response(hash: &Secret, salt: [u8; 4]) -> Secret {
    let digits = hash.expose().strip_prefix(PREFIX).unwrap_or_default();
    digest(&[digits, &salt])
}

fn digest(parts: &[&[u8]]) -> Secret {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = Vec::with_capacity(HASH_LEN);
    text.extend_from_slice(PREFIX);
    for byte in md5.finalize() {
        for digit in [byte >> 4, byte & 15] {
            text.push(if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            });
        }
    }
    Secret::new(text)
}

/// A salt for one login.
#[must_use]
pub fn salt() -> [u8; 4] {
    rand::random()
}

/// What pgherd answers a server that sent this salt.
///
/// # Errors
/// [`AuthError::NoCredential`] if neither the password nor its md5 hash is known.
pub fn answer(credential: &Credential, user: &str, salt: [u8; 4]) -> Result<Secret, AuthError> {
    match credential {
        Credential::Password(password) => Ok(response(&hash(user, password), salt)),
        Credential::Md5Hash(hash) => Ok(response(hash, salt)),
        Credential::Nothing | Credential::ScramKeys(_) => {
            Err(AuthError::NoCredential { method: "md5" })
        }
    }
}

/// Checks what a client answered. `None` for a user who does not exist, at the same cost.
///
/// # Errors
/// [`AuthError::WrongPassword`] (28P01); also where only a SCRAM verifier is known, which md5 cannot be checked with.
pub fn verify(
    user: &str,
    verifier: Option<&Verifier>,
    mock: &MockSecret,
    salt: [u8; 4],
    answer: &[u8],
) -> Result<(), AuthError> {
    let stand_in = mock.password(user);
    let (password, known) = match verifier {
        Some(Verifier::Plain(password)) => (password, true),
        Some(Verifier::Md5(_)) => (&stand_in, true),
        Some(Verifier::Scram(_)) | None => (&stand_in, false),
    };
    let hashed = hash(user, password);
    let stored = match verifier {
        Some(Verifier::Md5(stored)) => stored,
        Some(Verifier::Plain(_) | Verifier::Scram(_)) | None => &hashed,
    };
    let expected = response(stored, salt);
    if bool::from(expected.expose().ct_eq(answer)) & known {
        Ok(())
    } else {
        Err(AuthError::WrongPassword)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SALT: [u8; 4] = [0x2a, 0x3d, 0x8f, 0xe0];

    #[test]
    fn the_answer_is_the_one_postgres_protocol_gives() {
        let expected = postgres_protocol::authentication::md5_hash(b"md5_user", b"password", SALT);
        let password = Credential::Password(Secret::from("password"));
        assert_eq!(
            answer(&password, "md5_user", SALT).unwrap().expose(),
            expected.as_bytes()
        );
        let stored = Credential::Md5Hash(hash("md5_user", &Secret::from("password")));
        assert_eq!(
            answer(&stored, "md5_user", SALT).unwrap().expose(),
            expected.as_bytes()
        );
        assert_eq!(
            hash("md5_user", &Secret::from("password")).expose(),
            postgres_protocol::password::md5(b"password", "md5_user").as_bytes()
        );
    }

    #[test]
    fn a_right_answer_is_let_in_and_no_other() {
        let mock = MockSecret::random(1);
        let password = Secret::from("password");
        let right = answer(&Credential::Password(password.clone()), "u", SALT).unwrap();
        let hashed = Verifier::Md5(hash("u", &password));
        let plain = Verifier::Plain(password.clone());
        let scram = Verifier::Scram(plain.to_scram(1).unwrap());
        let check = |verifier, response: &[u8]| verify("u", verifier, &mock, SALT, response);
        assert_eq!(check(Some(&hashed), right.expose()), Ok(()));
        assert_eq!(check(Some(&plain), right.expose()), Ok(()));
        assert_eq!(check(Some(&hashed), b"md5"), Err(AuthError::WrongPassword));
        assert_eq!(check(Some(&hashed), b""), Err(AuthError::WrongPassword));
        for verifier in [Some(&scram), None] {
            assert_eq!(
                check(verifier, right.expose()),
                Err(AuthError::WrongPassword)
            );
            let stand_in = response(&hash("u", &mock.password("u")), SALT);
            assert_eq!(
                check(verifier, stand_in.expose()),
                Err(AuthError::WrongPassword)
            );
        }
    }
}
