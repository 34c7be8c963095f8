//! The statements prepared on a server connection.
//!
//! Owns: the name that a text has on every server, which of them a connection has, and which go first when there are too many.
//! Never sends a Parse or a Close. Main types: [`PreparedStatements`], [`StatementId`].

use std::fmt;

use foldhash::HashMap;
use sha2::{Digest, Sha256};

use super::Shape;

/// What a prepared statement is made of, as a digest: the same for all clients and servers, and no client can make another's by choosing
/// its text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementId(u128);

impl StatementId {
    /// The statement made of these parts.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(half))
    }
}

/// What the names of statements on the servers begin with.
pub const STATEMENT_PREFIX: &str = "pgherd_";

/// Its name on the servers: [`STATEMENT_PREFIX`] and 32 hexadecimal digits.
impl fmt::Display for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STATEMENT_PREFIX}{:032x}", self.0)
    }
}

impl fmt::Debug for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A statement that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    /// When it was used last.
    used: u64,
    shape: Shape,
}

/// The statements prepared on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedStatements {
    /// Which text the unnamed statement was made of, as its maker counts them.
    unnamed: Option<(u64, Shape)>,
    named: HashMap<StatementId, Named>,
    uses: u64,
    /// Statements that do not serve any more and are still there.
    stale: Vec<StatementId>,
}

impl PreparedStatements {
    /// What is known of the unnamed statement, if it was made of this text.
    #[must_use]
    pub fn unnamed(&self, text: u64) -> Option<Shape> {
        let (made_of, shape) = self.unnamed?;
        (made_of == text).then_some(shape)
    }

    /// The unnamed statement was made.
    pub fn set_unnamed(&mut self, text: u64, shape: Shape) {
        self.unnamed = Some((text, shape));
    }

    /// The server has described the unnamed statement.
    pub fn describe_unnamed(&mut self, text: u64, shape: Shape) {
        if let Some((made_of, known)) = &mut self.unnamed
            && *made_of == text
        {
            known.learn(shape);
        }
    }

    /// The unnamed statement is gone: closed, or replaced by a simple query.
    pub fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// What is known of a statement that is there; it counts as used now.
    pub fn uses(&mut self, id: StatementId) -> Option<Shape> {
        self.uses += 1;
        let named = self.named.get_mut(&id)?;
        named.used = self.uses;
        Some(named.shape)
    }

    /// A statement was prepared.
    pub fn insert(&mut self, id: StatementId, shape: Shape) {
        self.uses += 1;
        let used = self.uses;
        self.named.insert(id, Named { used, shape });
    }

    /// The server has described a statement.
    pub fn describe(&mut self, id: StatementId, shape: Shape) {
        if let Some(named) = self.named.get_mut(&id) {
            named.shape.learn(shape);
        }
    }

    /// A statement is not there.
    pub fn remove(&mut self, id: StatementId) {
        self.named.remove(&id);
    }

    /// A statement does not serve any more: it is to be closed.
    pub fn forget_stale(&mut self, id: StatementId) {
        if self.named.remove(&id).is_some() {
            self.stale.push(id);
        }
    }

    /// Takes out the next statement that is to be closed: one that does not serve any more, or the one that was used least recently
    /// where there are more than `limit`.
    pub fn next_to_close(&mut self, limit: usize) -> Option<StatementId> {
        if let Some(stale) = self.stale.pop() {
            return Some(stale);
        }
        if self.named.len() <= limit {
            return None;
        }
        let (&oldest, _) = self.named.iter().min_by_key(|(_, named)| named.used)?;
        self.named.remove(&oldest);
        Some(oldest)
    }

    /// Everything was closed (`DISCARD ALL`, `DEALLOCATE ALL`).
    pub fn clear(&mut self) {
        self.named.clear();
        self.stale.clear();
        self.unnamed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart_by_where_they_end() {
        let one = StatementId::of(&[b"ab", b"c"]);
        assert_ne!(one, StatementId::of(&[b"a", b"bc"]));
        assert_eq!(one, StatementId::of(&[b"ab", b"c"]));
        assert_eq!(one.to_string().len(), 39);
    }

    #[test]
    fn the_least_recently_used_one_goes_first() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| StatementId::of(&[text]));
        let mut prepared = PreparedStatements::default();
        prepared.insert(a, Shape::default());
        prepared.insert(b, Shape::default());
        assert_eq!(prepared.next_to_close(2), None);
        assert!(prepared.uses(a).is_some());
        assert!(prepared.uses(c).is_none());
        assert_eq!(prepared.next_to_close(1), Some(b));
        assert!(prepared.uses(a).is_some() && prepared.uses(b).is_none());
        prepared.forget_stale(a);
        assert_eq!(prepared.next_to_close(1), Some(a));
        assert_eq!(prepared.next_to_close(1), None);
    }

    #[test]
    fn the_unnamed_statement_is_one_of_its_own() {
        let mut prepared = PreparedStatements::default();
        prepared.set_unnamed(7, Shape::default());
        assert_eq!(prepared.unnamed(8), None);
        let shape = Shape::with_parameters(&[23]);
        prepared.describe_unnamed(7, shape);
        assert_eq!(prepared.unnamed(7), Some(shape));
        prepared.forget_unnamed();
        assert_eq!(prepared, PreparedStatements::default());
    }
}
