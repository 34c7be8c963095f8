//! `pgherd hash-password`: a password in, its SCRAM-SHA-256 verifier out.
//!
//! Owns where the password comes from: a terminal, without echo and asked for twice, or else standard input. The
//! verifier is as Postgres keeps one in `pg_authid` (documentation, chapter 53.8), so that CREATE ROLE takes it too.

use std::io::{BufRead, BufReader, IsTerminal, Read};

use pgherd_protocol::Secret;
use pgherd_protocol::auth::ScramVerifier;

/// Rounds of PBKDF2, as Postgres' own default (`scram_iterations`).
const ITERATIONS: u32 = 4096;

/// Longest password that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum HashPasswordError {
    /// The terminal or standard input failed.
    #[error("cannot read the password: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Nothing was given.
    #[error("the password is empty")]
    Empty,
    /// The two passwords differ.
    #[error("the two passwords differ")]
    Different,
    /// Longer than any password.
    #[error("the password is longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// Asks for the password and makes its verifier.
///
/// # Errors
/// [`HashPasswordError`]; none holds the password.
pub fn hash_password() -> Result<String, HashPasswordError> {
    let stdin = std::io::stdin();
    let password = if stdin.is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        if password != rpassword::prompt_password("Again: ")? {
            return Err(HashPasswordError::Different);
        }
        password
    } else {
        read_line(stdin.lock())?
    };
    verifier(password)
}

fn verifier(password: String) -> Result<String, HashPasswordError> {
    let password = Secret::from(password);
    if password.is_empty() {
        return Err(HashPasswordError::Empty);
    }
    Ok(ScramVerifier::generate(&password, ITERATIONS).to_string())
}

/// The first line, without its end.
fn read_line(input: impl Read) -> Result<String, HashPasswordError> {
    let mut line = String::new();
    BufReader::new(input.take(MAX_BYTES + 1)).read_line(&mut line)?;
    if line.len() as u64 > MAX_BYTES {
        return Err(HashPasswordError::TooLong);
    }
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_verifier_has_4096_iterations_and_a_salt_of_16_bytes_and_differs_each_time() {
        let made = verifier("secret".to_owned()).unwrap();
        let rest = made.strip_prefix("SCRAM-SHA-256$4096:").unwrap();
        let (salt, keys) = rest.split_once('$').unwrap();
        assert_eq!(salt.len(), 24, "16 bytes in base64");
        assert_eq!(keys.split(':').count(), 2);
        assert_ne!(made, verifier("secret".to_owned()).unwrap());
        assert!(made.parse::<ScramVerifier>().is_ok());
    }

    #[test]
    fn a_password_is_one_line_and_not_empty() {
        assert_eq!(read_line(&b" a b \r\nmore\n"[..]).unwrap(), " a b ");
        assert_eq!(read_line(&b"a"[..]).unwrap(), "a");
        assert!(matches!(
            verifier(read_line(&b"\n"[..]).unwrap()),
            Err(HashPasswordError::Empty)
        ));
        let long = vec![b'a'; 70_000];
        assert!(matches!(
            read_line(&long[..]),
            Err(HashPasswordError::TooLong)
        ));
    }
}
