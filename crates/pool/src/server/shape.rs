//! What a prepared statement takes and returns, as far as a server has said.
//!
//! Owns: digests of that, small enough to be kept with every statement on every connection, and their comparison. A server holds a
//! prepared statement to the columns that it began with ("cached plan must not change result type"), so that who was told the same columns
//! is never sent others. Never does: asking. Main type: [`Shape`].

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a statement returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// No rows (NoData).
    None,
    /// Rows whose columns have this digest.
    Rows(u64),
}

impl Columns {
    /// Rows with these columns: name, type and type modifier, which is what Postgres compares.
    pub fn of<'f>(fields: impl IntoIterator<Item = (&'f [u8], u32, i32)>) -> Self {
        let mut hasher = DefaultHasher::new();
        for field in fields {
            field.hash(&mut hasher);
        }
        Self::Rows(hasher.finish())
    }
}

/// What a statement takes and returns; `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The digest of its parameters' types.
    pub parameters: Option<u64>,
    /// Its columns.
    pub columns: Option<Columns>,
}

impl Shape {
    /// A statement with parameters of these types, of whose columns nothing is known. One without parameters never has any.
    #[must_use]
    pub fn with_parameters(types: &[u32]) -> Self {
        let digest = || {
            let mut hasher = DefaultHasher::new();
            types.hash(&mut hasher);
            hasher.finish()
        };
        Self {
            parameters: (!types.is_empty()).then(digest),
            columns: None,
        }
    }

    /// Of its columns alone.
    #[must_use]
    pub fn without_parameters(self) -> Self {
        Self {
            parameters: None,
            ..self
        }
    }

    /// Of its parameters alone.
    #[must_use]
    pub fn without_columns(self) -> Self {
        Self {
            columns: None,
            ..self
        }
    }

    /// Takes over what is known by now.
    pub(super) fn learn(&mut self, said: Self) {
        self.parameters = said.parameters.or(self.parameters);
        self.columns = said.columns.or(self.columns);
    }

    /// Whether a statement of this shape is known to be what somebody was told. A statement that returns no rows never returns any, as
    /// that is a matter of its text.
    #[must_use]
    pub fn is_as(&self, told: &Self) -> bool {
        let same_parameters = told.parameters.is_none() || self.parameters == told.parameters;
        let same_columns = match told.columns {
            None | Some(Columns::None) => true,
            Some(Columns::Rows(_)) => self.columns == told.columns,
        };
        same_parameters && same_columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(parameters: &[u32], columns: Option<Columns>) -> Shape {
        Shape {
            columns,
            ..Shape::with_parameters(parameters)
        }
    }

    #[test]
    fn names_types_and_modifiers_of_columns_count() {
        let columns = |name: &'static str, oid, modifier| {
            Columns::of([(name.as_bytes(), oid, modifier), (b"b", 25, -1)])
        };
        assert_eq!(columns("a", 23, -1), columns("a", 23, -1));
        for other in [
            columns("c", 23, -1),
            columns("a", 20, -1),
            columns("a", 23, 4),
        ] {
            assert_ne!(columns("a", 23, -1), other);
        }
    }

    #[test]
    fn only_what_was_told_must_be_known() {
        let rows = Some(Columns::of([(&b"a"[..], 23, -1)]));
        let nothing = Shape::default();
        assert!(nothing.is_as(&nothing));
        assert!(nothing.is_as(&shape(&[], Some(Columns::None))));
        assert!(!nothing.is_as(&shape(&[], rows)));
        assert!(!nothing.is_as(&shape(&[23], None)));
        assert!(shape(&[23], rows).is_as(&shape(&[], rows)));
        assert!(shape(&[23], rows).is_as(&shape(&[23], rows)));
        assert!(!shape(&[20], rows).is_as(&shape(&[23], rows)));
    }
}
