//! What LISTEN and UNLISTEN of one client's transaction will change when it commits.
//!
//! Owns: their order, and what savepoints take back (Postgres documentation, LISTEN: it takes effect at commit). Never does: I/O.
//! Main type: [`Changes`].

/// One statement's effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// LISTEN channel
    Listen(Box<str>),
    /// UNLISTEN channel
    Unlisten(Box<str>),
    /// UNLISTEN *
    UnlistenAll,
}

/// A client's changes: those of the open transaction, and those committed that are still to be done.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pending: Vec<Change>,
    /// Open savepoints, each with how many changes there were at it.
    savepoints: Vec<(Box<str>, usize)>,
    committed: Vec<Change>,
}

impl Changes {
    /// A statement completed.
    pub(crate) fn note(&mut self, change: Change) {
        // said twice in a row it means the same: a loop of LISTEN in one transaction takes no memory
        let since = self.savepoints.last().map_or(0, |(_, count)| *count);
        if self
            .pending
            .get(since..)
            .is_some_and(|new| new.last() == Some(&change))
        {
            return;
        }
        self.pending.push(change);
    }

    /// SAVEPOINT
    pub(crate) fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.into(), self.pending.len()));
    }

    /// RELEASE: what came after the savepoint stays.
    pub(crate) fn release(&mut self, name: &str) {
        if let Some(index) = self.position(name) {
            self.savepoints.truncate(index);
        }
    }

    /// ROLLBACK TO: what came after the savepoint is undone, and it stays open.
    pub(crate) fn rollback_to(&mut self, name: &str) {
        if let Some(index) = self.position(name) {
            self.pending.truncate(self.savepoints[index].1);
            self.savepoints.truncate(index + 1);
        }
    }

    /// The transaction ended.
    pub(crate) fn end(&mut self, committed: bool) {
        self.savepoints.clear();
        if committed {
            self.committed.append(&mut self.pending);
        } else {
            self.pending.clear();
        }
    }

    /// Takes what was committed, in order.
    pub(crate) fn take_committed(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.committed)
    }

    /// Whether there is nothing to do, and nothing that may come to be.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.committed.is_empty()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.savepoints
            .iter()
            .rposition(|(open, _)| **open == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(channel: &str) -> Change {
        Change::Listen(channel.into())
    }

    #[test]
    fn nothing_changes_before_the_commit_and_nothing_after_a_rollback() {
        let mut changes = Changes::default();
        changes.note(listen("a"));
        assert!(changes.take_committed().is_empty());
        changes.end(false);
        changes.end(true);
        assert!(changes.take_committed().is_empty());
        changes.note(listen("b"));
        changes.note(Change::UnlistenAll);
        changes.note(listen("c"));
        changes.end(true);
        assert_eq!(
            changes.take_committed(),
            [listen("b"), Change::UnlistenAll, listen("c")]
        );
        assert!(changes.is_empty());
    }

    #[test]
    fn a_savepoint_takes_back_what_came_after_it() {
        let mut changes = Changes::default();
        changes.note(listen("a"));
        changes.savepoint("s");
        changes.note(listen("b"));
        changes.savepoint("s");
        changes.note(listen("c"));
        // the inner one of that name
        changes.rollback_to("s");
        changes.note(listen("d"));
        changes.release("s");
        changes.end(true);
        assert_eq!(
            changes.take_committed(),
            [listen("a"), listen("b"), listen("d")]
        );
    }

    #[test]
    fn a_released_savepoint_gives_its_changes_to_the_one_around_it() {
        let mut changes = Changes::default();
        changes.savepoint("outer");
        changes.note(listen("a"));
        changes.savepoint("inner");
        changes.note(Change::Unlisten("a".into()));
        changes.release("inner");
        changes.rollback_to("outer");
        changes.end(true);
        assert!(changes.take_committed().is_empty());
    }

    #[test]
    fn what_is_said_again_at_once_counts_once_but_not_across_a_savepoint() {
        let mut changes = Changes::default();
        changes.note(listen("a"));
        changes.note(listen("a"));
        changes.savepoint("s");
        changes.note(listen("a"));
        changes.rollback_to("s");
        changes.end(true);
        assert_eq!(changes.take_committed(), [listen("a")]);
    }
}
