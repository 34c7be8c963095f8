//! What one client must see: its settings, its rows, its prepared statements, as a Postgres of its own would have them.
//!
//! Main type: [`Model`]. Knows of transactions: what a block changed is kept by COMMIT and forgotten by ROLLBACK.

use std::collections::{BTreeMap, BTreeSet};

/// Where a client's rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Sharded by the client's number, where the database is sharded.
    Rows,
    /// On the home shard.
    Loose,
    /// On every shard.
    Marks,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rows, Self::Loose, Self::Marks];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Loose => "loose",
            Self::Marks => "marks",
        }
    }
}

/// A client's rows: the number of each with its value.
pub type Rows = BTreeMap<(Table, u32), String>;

/// What the end of a transaction keeps or takes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Settings that differ from those at the login, by name, as SHOW tells them.
    pub settings: BTreeMap<&'static str, String>,
    pub rows: Rows,
    /// Whether the client listens to its channel.
    pub listens: bool,
    /// The rows of its temporary table, if it has one.
    pub temporary: Option<Vec<String>>,
    /// Notifications that are sent by the block's COMMIT.
    pub to_notify: Vec<String>,
}

/// An open transaction block.
#[derive(Debug, Clone)]
struct Block {
    before: Kept,
    savepoint: Option<(Kept, Kept)>,
    failed: bool,
}

/// What a client must see.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// What is in force now.
    now: Kept,
    /// The same without what SET LOCAL made.
    lasting: Kept,
    block: Option<Block>,
    /// Prepared statements: what each yields in its first column.
    pub statements: BTreeMap<String, String>,
    /// What the client asked for at its login.
    pub startup: BTreeMap<&'static str, String>,
    /// Whether it holds its advisory lock.
    pub locked: bool,
    /// Whether its own code may have left things on the connection.
    pub left: bool,
    /// Payloads that it must hear.
    pub to_hear: BTreeSet<String>,
}

impl Model {
    pub fn in_block(&self) -> bool {
        self.block.is_some()
    }

    pub fn has_failed(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.failed)
    }

    pub fn now(&self) -> &Kept {
        &self.now
    }

    /// Changes what lasts, in and out of blocks.
    pub fn change(&mut self, change: impl Fn(&mut Kept)) {
        change(&mut self.now);
        change(&mut self.lasting);
    }

    /// SET LOCAL.
    pub fn set_local(&mut self, name: &'static str, value: &str) {
        self.now.settings.insert(name, value.into());
    }

    /// Something failed: a block is good for nothing but its end.
    pub fn fail(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
    }

    pub fn begin(&mut self) {
        self.block = Some(Block {
            before: self.lasting.clone(),
            savepoint: None,
            failed: false,
        });
    }

    pub fn commit(&mut self) {
        if self.has_failed() {
            return self.roll_back();
        }
        self.block = None;
        self.lasting.to_notify.clear();
        self.now = self.lasting.clone();
    }

    /// What is heard when the block is committed.
    pub fn sent_by_commit(&self) -> Vec<String> {
        if self.lasting.listens && !self.has_failed() {
            self.lasting.to_notify.clone()
        } else {
            Vec::new()
        }
    }

    pub fn roll_back(&mut self) {
        if let Some(block) = self.block.take() {
            self.now = block.before.clone();
            self.lasting = block.before;
        }
    }

    pub fn save(&mut self) {
        let state = (self.now.clone(), self.lasting.clone());
        if let Some(block) = &mut self.block {
            block.savepoint = Some(state);
        }
    }

    pub fn has_savepoint(&self) -> bool {
        self.block
            .as_ref()
            .is_some_and(|block| block.savepoint.is_some())
    }

    pub fn roll_back_to_savepoint(&mut self) {
        if let Some(block) = &mut self.block
            && let Some((now, lasting)) = block.savepoint.clone()
        {
            block.failed = false;
            self.now = now;
            self.lasting = lasting;
        }
    }

    /// DISCARD ALL.
    pub fn discard(&mut self) {
        self.change(|kept| {
            kept.settings.clear();
            kept.listens = false;
            kept.temporary = None;
        });
        self.statements.clear();
        self.locked = false;
    }

    /// The value of a setting, `default` being the server's.
    pub fn setting<'m>(&'m self, name: &str, default: &'m str) -> &'m str {
        let set = self.now.settings.get(name);
        set.or_else(|| self.startup.get(name))
            .map_or(default, |value| value)
    }

    /// The rows that are there once the client is gone, its block rolled back.
    pub fn rows_when_gone(&self) -> &Rows {
        self.block
            .as_ref()
            .map_or(&self.lasting.rows, |block| &block.before.rows)
    }

    /// The rows that are there if the block is committed.
    pub fn rows_when_committed(&self) -> &Rows {
        if self.has_failed() {
            self.rows_when_gone()
        } else {
            &self.lasting.rows
        }
    }
}
