//! The password method: the password as it is, which is for TLS connections only.
//!
//! Owns the check of it against any [`Verifier`]; never decides whether the connection is private enough.

use super::{AuthError, Credential, MockSecret, Verifier, md5};
use crate::secret::Secret;

/// Checks a password that a client sent. `None` for a user who does not exist.
///
/// Costs one SCRAM key derivation (milliseconds at thousands of iterations) whatever is known of the user, so that its time
/// tells nothing; run it where it may block for so long.
///
/// # Errors
/// [`AuthError::WrongPassword`] (28P01); also for an empty password, as Postgres has it.
pub fn verify(
    user: &str,
    verifier: Option<&Verifier>,
    mock: &MockSecret,
    password: &Secret,
) -> Result<(), AuthError> {
    let stand_in = mock.scram_verifier(user);
    let scram = match verifier {
        Some(Verifier::Scram(scram)) => scram,
        Some(Verifier::Plain(_) | Verifier::Md5(_)) | None => &stand_in,
    };
    let fits_scram = scram.fits(password);
    let hashed = md5::hash(user, password);
    let fits = match verifier {
        Some(Verifier::Scram(_)) => fits_scram,
        Some(Verifier::Plain(known)) => known == password,
        Some(Verifier::Md5(stored)) => *stored == hashed,
        None => false,
    };
    if fits & !password.is_empty() {
        Ok(())
    } else {
        Err(AuthError::WrongPassword)
    }
}

/// What pgherd answers a server that asks for the password itself.
///
/// # Errors
/// [`AuthError::NoCredential`] unless the password is known.
pub fn answer(credential: &Credential) -> Result<&Secret, AuthError> {
    match credential {
        Credential::Password(password) => Ok(password),
        Credential::Nothing | Credential::Md5Hash(_) | Credential::ScramKeys(_) => {
            Err(AuthError::NoCredential { method: "password" })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_right_password_fits_each_kind_of_verifier() {
        let mock = MockSecret::random(1);
        let password = Secret::from("pa55 wörd");
        let plain = Verifier::Plain(password.clone());
        let hashed = Verifier::Md5(md5::hash("u", &password));
        let scram = Verifier::Scram(plain.to_scram(3).unwrap());
        for verifier in [&plain, &hashed, &scram] {
            assert_eq!(verify("u", Some(verifier), &mock, &password), Ok(()));
            for wrong in ["", "pa55", "pa55 wörd "] {
                assert_eq!(
                    verify("u", Some(verifier), &mock, &Secret::from(wrong)),
                    Err(AuthError::WrongPassword)
                );
            }
        }
        assert_eq!(
            verify("u", None, &mock, &password),
            Err(AuthError::WrongPassword)
        );
        assert_eq!(
            verify("u", None, &mock, &mock.password("u")),
            Err(AuthError::WrongPassword)
        );
    }
}
