//! What must never be printed.
//!
//! Owns [`Secret`]: bytes that are wiped when dropped, never shown by `Debug` and compared in constant time.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A password, or what stands for one. Bytes rather than text, as a client may send a password in any encoding.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are wiped when the secret is dropped.
    #[must_use]
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The bytes themselves. Whoever calls this sees to it that they end nowhere.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing in it. Postgres refuses an empty password.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret.into_bytes())
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret.as_bytes())
    }
}

/// Takes the same time wherever two secrets of one length differ.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_tell_the_secret() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "***");
    }

    #[test]
    fn equal_bytes_are_equal_secrets() {
        assert_eq!(Secret::from("a"), Secret::new(b"a".to_vec()));
        assert_ne!(Secret::from("a"), Secret::from("b"));
        assert_ne!(Secret::from("a"), Secret::from("aa"));
    }
}
