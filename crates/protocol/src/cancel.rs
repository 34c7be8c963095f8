//! The key that lets a client cancel a query on another connection.
//!
//! Owns [`CancelKey`] and its bounds; never keeps track of whose key it is.
//! Postgres documentation, chapters 55.2.8 (Canceling Requests in Progress) and 55.7 (BackendKeyData).

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::startup::ProtocolVersion;
use crate::wire::MessageError;

/// 4 to 256 bytes, known to one session and its client. Protocol 3.0 has room for exactly 4.
#[derive(Clone)]
pub struct CancelKey(Zeroizing<Vec<u8>>);

impl CancelKey {
    /// Shortest key, in bytes, and the only length protocol 3.0 knows.
    pub const MIN_LEN: usize = 4;
    /// Longest key of protocol 3.2, in bytes.
    pub const MAX_LEN: usize = 256;

    /// The key of these bytes.
    ///
    /// # Errors
    /// [`MessageError::InvalidValue`] unless there are 4 to 256 of them.
    pub fn new(key: &[u8]) -> Result<Self, MessageError> {
        check_length(key.len())?;
        Ok(Self(Zeroizing::new(key.to_vec())))
    }

    /// A key nobody can guess, as long as Postgres makes it for this version: 32 bytes from 3.2 on, else 4.
    #[must_use]
    pub fn random(version: ProtocolVersion) -> Self {
        let length = if version >= ProtocolVersion::V3_2 {
            32
        } else {
            Self::MIN_LEN
        };
        let mut key = Zeroizing::new(vec![0; length]);
        rand::fill(key.as_mut_slice());
        Self(key)
    }

    /// The bytes, to be sent in BackendKeyData or CancelRequest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn check_length(length: usize) -> Result<(), MessageError> {
    if (CancelKey::MIN_LEN..=CancelKey::MAX_LEN).contains(&length) {
        Ok(())
    } else {
        Err(MessageError::InvalidValue {
            what: "cancel key length",
            value: i64::try_from(length).unwrap_or(i64::MAX),
        })
    }
}

/// Takes the same time wherever two keys of one length differ.
impl PartialEq for CancelKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for CancelKey {}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CancelKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_4_to_256_bytes() {
        assert!(CancelKey::new(&[1; 3]).is_err());
        assert!(CancelKey::new(&[1; 4]).is_ok());
        assert!(CancelKey::new(&[1; 256]).is_ok());
        assert!(CancelKey::new(&[1; 257]).is_err());
    }

    #[test]
    fn a_client_of_version_3_0_gets_four_bytes_and_none_can_be_guessed_from_another() {
        let short = CancelKey::random(ProtocolVersion::V3_0);
        let long = CancelKey::random(ProtocolVersion::V3_2);
        assert_eq!(short.as_bytes().len(), 4);
        assert_eq!(long.as_bytes().len(), 32);
        assert_ne!(long, CancelKey::random(ProtocolVersion::V3_2));
        assert_eq!(format!("{long:?}"), "CancelKey(***)");
    }
}
