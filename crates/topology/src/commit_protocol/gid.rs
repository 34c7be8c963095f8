//! The names of a transaction over shards and of its halves.
//!
//! Owns their text form, which servers store and which must outlive releases. Never draws random bits. Main type: [`Gid`].

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::CommitSecret;
use crate::Epoch;

/// Postgres takes gids of fewer than 200 bytes.
pub const MAX_GID_LENGTH: usize = 199;

/// The longest shard name that fits twice into a gid, in bytes.
pub const MAX_SHARD_NAME: usize = 48;

const PREFIX: &str = "pgherd";

/// Why a text is no gid of ours, or why none can be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GidError {
    /// The text does not begin with `pgherd:`: another program's prepared transaction.
    #[error("not a prepared transaction of pgherd")]
    Foreign,
    /// It begins as ours do, yet is not one that this release could have made.
    #[error("a prepared transaction named like pgherd's, but malformed")]
    Malformed,
    /// Shard names inside a gid are 1 to [`MAX_SHARD_NAME`] ASCII letters, digits, `_`, `-` and `.`.
    #[error(
        "shard name {0:?} cannot be part of a transaction's name: use 1 to 48 letters, digits, '_', '-' and '.'"
    )]
    ShardName(Box<str>),
}

macro_rules! hexadecimal_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = GidError;

            fn from_str(text: &str) -> Result<Self, GidError> {
                let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() != 16 || !digits {
                    return Err(GidError::Malformed);
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| GidError::Malformed)
            }
        }
    };
}

hexadecimal_id! {
    /// All proxies that share one state store. Drawn once, kept in the store; 16 hexadecimal digits as text.
    HerdId
}
hexadecimal_id! {
    /// One run of one proxy process: drawn anew at every start, so that a dead process is never mistaken for the living one.
    ProxyId
}

/// One transaction over shards: the key of its rows in `pgherd.commit_log`.
///
/// As text `pgherd:<herd>:<proxy>:<hash of the secret>:<anchor>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransactionName {
    herd: HerdId,
    proxy: ProxyId,
    digest: [u8; 16],
    anchor: Box<str>,
}

impl TransactionName {
    /// Names a new transaction whose decision is kept on the shard `anchor`.
    ///
    /// # Errors
    /// [`GidError::ShardName`].
    pub fn new(
        herd: HerdId,
        proxy: ProxyId,
        secret: &CommitSecret,
        anchor: &str,
    ) -> Result<Self, GidError> {
        Ok(Self {
            herd,
            proxy,
            digest: secret.digest(),
            anchor: shard_name(anchor)?,
        })
    }

    /// The herd that the transaction belongs to.
    pub const fn herd(&self) -> HerdId {
        self.herd
    }

    /// The process that commits it.
    pub const fn proxy(&self) -> ProxyId {
        self.proxy
    }

    /// The name of the shard that keeps the decision.
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The gid of the half on `shard`; `anchor_epoch` is the epoch of the *anchor* in the topology that the session
    /// commits under, so that recovery can see that the anchor has failed over since.
    ///
    /// # Errors
    /// [`GidError::ShardName`].
    pub fn half(&self, shard: &str, anchor_epoch: Epoch) -> Result<Gid, GidError> {
        Ok(Gid {
            transaction: self.clone(),
            shard: shard_name(shard)?,
            anchor_epoch,
        })
    }
}

impl fmt::Display for TransactionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            herd,
            proxy,
            digest,
            anchor,
        } = self;
        write!(
            formatter,
            "{PREFIX}:{herd}:{proxy}:{}:{anchor}",
            hexadecimal(digest)
        )
    }
}

impl FromStr for TransactionName {
    type Err = GidError;

    fn from_str(text: &str) -> Result<Self, GidError> {
        let rest = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix(':'))
            .ok_or(GidError::Foreign)?;
        let mut fields = rest.split(':');
        let (Some(herd), Some(proxy), Some(digest), Some(anchor), None) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return Err(GidError::Malformed);
        };
        let digest = parse_digest(digest).ok_or(GidError::Malformed)?;
        let anchor = shard_name(anchor).map_err(|_| GidError::Malformed)?;
        Ok(Self {
            herd: herd.parse()?,
            proxy: proxy.parse()?,
            digest,
            anchor,
        })
    }
}

/// The name under which one shard's half is prepared.
///
/// As text `pgherd:<herd>:<proxy>:<hash of the secret>:<anchor>:<shard>:<epoch of the anchor>`, at most
/// [`MAX_GID_LENGTH`] bytes and free of anything that a string literal would have to escape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gid {
    transaction: TransactionName,
    shard: Box<str>,
    anchor_epoch: Epoch,
}

impl Gid {
    /// The transaction that this is a half of.
    pub const fn transaction(&self) -> &TransactionName {
        &self.transaction
    }

    /// The name of the shard that holds this half.
    pub fn shard(&self) -> &str {
        &self.shard
    }

    /// The anchor's epoch when the transaction was named.
    pub const fn anchor_epoch(&self) -> Epoch {
        self.anchor_epoch
    }

    /// `PREPARE TRANSACTION '...'`
    pub fn prepare(&self) -> String {
        format!("PREPARE TRANSACTION '{self}'")
    }

    /// `COMMIT PREPARED '...'`
    pub fn commit_prepared(&self) -> String {
        format!("COMMIT PREPARED '{self}'")
    }

    /// `ROLLBACK PREPARED '...'`
    pub fn rollback_prepared(&self) -> String {
        format!("ROLLBACK PREPARED '{self}'")
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transaction,
            shard,
            anchor_epoch,
        } = self;
        write!(formatter, "{transaction}:{shard}:{}", anchor_epoch.0)
    }
}

impl FromStr for Gid {
    type Err = GidError;

    fn from_str(text: &str) -> Result<Self, GidError> {
        if text.split(':').next() != Some(PREFIX) {
            return Err(GidError::Foreign);
        }
        let mut fields = text.rsplitn(3, ':');
        let (Some(epoch), Some(shard), Some(transaction)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(GidError::Malformed);
        };
        let canonical = epoch == "0" || !epoch.starts_with(['0', '+']);
        let anchor_epoch = epoch.parse().map(Epoch).map_err(|_| GidError::Malformed)?;
        let shard = shard_name(shard).map_err(|_| GidError::Malformed)?;
        let transaction = transaction.parse().map_err(|_| GidError::Malformed)?;
        if !canonical {
            return Err(GidError::Malformed);
        }
        Ok(Self {
            transaction,
            shard,
            anchor_epoch,
        })
    }
}

fn shard_name(name: &str) -> Result<Box<str>, GidError> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if name.is_empty() || name.len() > MAX_SHARD_NAME || !plain {
        return Err(GidError::ShardName(name.into()));
    }
    Ok(name.into())
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn parse_digest(text: &str) -> Option<[u8; 16]> {
    let lower = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == 32 && lower)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(anchor: &str) -> TransactionName {
        let secret = CommitSecret::from_random([7; 32]);
        TransactionName::new(HerdId(0xabc), ProxyId(u64::MAX), &secret, anchor).unwrap()
    }

    #[test]
    fn a_gid_is_read_back_as_it_was_written() {
        let gid = name("s-0.a").half("shard_1", Epoch(42)).unwrap();
        assert_eq!(gid.to_string().parse::<Gid>().unwrap(), gid);
        assert_eq!(
            gid.transaction()
                .to_string()
                .parse::<TransactionName>()
                .unwrap(),
            name("s-0.a")
        );
        assert!(
            gid.to_string()
                .starts_with("pgherd:0000000000000abc:ffffffffffffffff:")
        );
    }

    #[test]
    fn the_longest_gid_fits_what_postgres_takes() {
        let long = "n".repeat(MAX_SHARD_NAME);
        let gid = name(&long).half(&long, Epoch(u64::MAX)).unwrap();
        assert!(
            gid.to_string().len() <= MAX_GID_LENGTH,
            "{}",
            gid.to_string().len()
        );
    }

    #[test]
    fn names_that_could_break_out_of_a_literal_are_refused() {
        for bad in [
            "",
            "a'b",
            "a:b",
            "a b",
            "ä",
            &"n".repeat(MAX_SHARD_NAME + 1),
        ] {
            assert!(name("s0").half(bad, Epoch(1)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_foreign_gid_is_told_from_a_malformed_one() {
        let good = name("s0").half("s1", Epoch(3)).unwrap().to_string();
        assert_eq!("_wal2json".parse::<Gid>(), Err(GidError::Foreign));
        assert_eq!("pgherdish:1:2".parse::<Gid>(), Err(GidError::Foreign));
        for bad in [
            "pgherd:".to_owned(),
            format!("{good}x"),
            format!("{good}:1"),
            good.replace("s1:3", "s1:03"),
            good.replace("s1:3", "s1:+3"),
            good.replacen("abc", "ABC", 1),
        ] {
            assert_eq!(bad.parse::<Gid>(), Err(GidError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_secret_shows_itself_nowhere() {
        let secret = CommitSecret::from_random([0xEE; 32]);
        assert!(!format!("{secret:?}").contains("ee"));
        assert!(!name("s0").to_string().contains(&secret.parameter()[2..]));
    }
}
