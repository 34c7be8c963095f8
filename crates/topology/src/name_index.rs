//! A lookup by schema and name that needs no owned key.
//!
//! Owns the index; the entries say themselves what they are called. Main type: [`NameIndex`].

use std::collections::HashMap;

use smallvec::SmallVec;

/// Whatever has a schema and a name.
pub(crate) trait Named {
    fn schema(&self) -> &str;
    fn name(&self) -> &str;
}

/// Entries in the order they were added, found by name: most names are in one schema only, so a
/// name leads to a short list that is compared by schema.
#[derive(Clone, Debug)]
pub(crate) struct NameIndex<T> {
    entries: Vec<T>,
    by_name: HashMap<Box<str>, SmallVec<[u32; 2]>>,
}

impl<T> Default for NameIndex<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<T: Named> NameIndex<T> {
    /// Adds an entry beside others of the same name (overloads of a function).
    pub(crate) fn add(&mut self, entry: T) {
        let position = self.next_position();
        match self.by_name.get_mut(entry.name()) {
            Some(positions) => positions.push(position),
            None => {
                let name = entry.name().into();
                self.by_name.insert(name, SmallVec::from_slice(&[position]));
            }
        }
        self.entries.push(entry);
    }

    /// Adds an entry, in place of one of the same schema and name.
    pub(crate) fn replace(&mut self, entry: T) {
        match self.position(entry.schema(), entry.name()) {
            Some(position) => self.entries[position] = entry,
            None => self.add(entry),
        }
    }

    pub(crate) fn find(&self, schema: &str, name: &str) -> Option<&T> {
        self.position(schema, name)
            .map(|position| &self.entries[position])
    }

    pub(crate) fn find_mut(&mut self, schema: &str, name: &str) -> Option<&mut T> {
        self.position(schema, name)
            .map(|position| &mut self.entries[position])
    }

    /// All entries of a name, whichever their schema.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &T> {
        self.by_name
            .get(name)
            .into_iter()
            .flatten()
            .map(|&position| &self.entries[position as usize])
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.entries.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, schema: &str, name: &str) -> Option<usize> {
        self.by_name
            .get(name)?
            .iter()
            .map(|&position| position as usize)
            .find(|&position| self.entries[position].schema() == schema)
    }

    fn next_position(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("a catalog of 4 billion entries fits no memory")
    }
}
