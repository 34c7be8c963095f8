//! A transaction block as the client sees it, whichever servers take part.
//!
//! Owns: the block's start, what a server that joins late must be told, who writes, and whether the block has failed. BEGIN reaches
//! a server only when a statement does. Never does: I/O (see `block.rs` for the statements that end it).
//! Main type: [`Block`].

use std::borrow::Cow;

use pgherd_protocol::PgError;
use pgherd_router::{IsolationLevel, TransactionModes};
use pgherd_topology::{NodeId, ShardId};
use smallvec::SmallVec;

use crate::definitions::Definitions;
use crate::settings::{Mark, SettingsList};

/// Something that a late joiner is told after BEGIN.
#[derive(Debug, Clone)]
enum Told {
    Savepoint {
        name: Box<str>,
        mark: Mark,
    },
    Setting {
        text: Box<str>,
        /// The session's settings of a server that was told this, as if the block committed here.
        settings: SettingsList,
    },
    /// SET TRANSACTION, which AND CHAIN carries over.
    Modes(Box<str>),
}

/// An open transaction block.
#[derive(Debug)]
pub struct Block {
    /// BEGIN with its modes, as the client wrote it.
    begin: Box<str>,
    /// READ ONLY, as far as known.
    pub read_only: bool,
    /// Whether it is SERIALIZABLE, which a replica does not do; `None` where the session's default holds.
    pub serializable: Option<bool>,
    /// An error came: everything but the block's end is refused (25P02).
    pub failed: bool,
    /// The one shard that this block writes on.
    pub writer: Option<ShardId>,
    /// The shard whose server has told when the transaction began.
    pub moment: Option<ShardId>,
    /// DDL or a write to reference tables reached every shard: COMMIT takes two phases.
    pub two_phase: bool,
    /// What DDL in this block makes of the catalog.
    pub definitions: Definitions,
    /// Tells what is defined in it by now from what any other block has defined, and this one before: the generation of its last DDL, and how often
    /// some was undone since. Zeros where it ran none.
    pub defined: (u64, u64),
    /// A server that took part is gone, and the client has not heard of it yet.
    pub lost: Option<Box<PgError>>,
    /// Servers that have left the block by its end.
    took_part: SmallVec<[NodeId; 4]>,
    start: Mark,
    told: Vec<Told>,
}

impl Block {
    /// A block that starts with this statement.
    pub fn new(begin: &str, read_only: bool, start: Mark) -> Self {
        Self {
            begin: begin.trim_end_matches([';', ' ', '\n', '\t']).into(),
            read_only,
            serializable: None,
            failed: false,
            writer: None,
            moment: None,
            two_phase: false,
            definitions: Definitions::default(),
            defined: (0, 0),
            lost: None,
            took_part: SmallVec::new(),
            start,
            told: Vec::new(),
        }
    }

    /// The block that AND CHAIN opens after this one: the same modes, nothing else.
    pub fn chained(&self, start: Mark) -> Self {
        let modes = self
            .told
            .iter()
            .filter(|told| matches!(told, Told::Modes(_)));
        Self {
            told: modes.cloned().collect(),
            serializable: self.serializable,
            ..Self::new(&self.begin, self.read_only, start)
        }
    }

    /// The modes of BEGIN or SET TRANSACTION are in force.
    pub fn take_modes(&mut self, modes: &TransactionModes) {
        if let Some(read_only) = modes.read_only {
            self.read_only = read_only;
        }
        if let Some(isolation) = &modes.isolation {
            self.serializable = Some(*isolation == IsolationLevel::Serializable);
        }
    }

    /// Notes who took part, as they leave the block.
    pub fn remember(&mut self, nodes: &[NodeId]) {
        self.took_part.extend_from_slice(nodes);
    }

    /// Whether a server took part.
    pub fn took_part(&self, node: NodeId) -> bool {
        self.took_part.contains(&node)
    }

    /// The settings when the block started.
    pub fn start(&self) -> &Mark {
        &self.start
    }

    /// BEGIN with its modes.
    pub fn begin(&self) -> &str {
        &self.begin
    }

    /// How many statements a server that joins now is told after BEGIN.
    pub fn told_len(&self) -> usize {
        self.told.len()
    }

    /// Those of them that a server lacks that knows the first `known`.
    pub fn told_after(&self, known: usize) -> impl Iterator<Item = Cow<'_, str>> {
        self.told.iter().skip(known).map(|told| match told {
            Told::Savepoint { name, .. } => format!("SAVEPOINT {}", quoted(name)).into(),
            Told::Setting { text, .. } | Told::Modes(text) => Cow::Borrowed(&**text),
        })
    }

    /// The session's settings of a server that knows the first `known`, where the block changed any.
    pub fn settings_after(&self, known: usize) -> Option<&SettingsList> {
        self.told
            .iter()
            .take(known)
            .rev()
            .find_map(|told| match told {
                Told::Setting { settings, .. } => Some(settings),
                Told::Savepoint { .. } | Told::Modes(_) => None,
            })
    }

    /// A setting was changed in the block: the other servers are told. `settings` are the session's then.
    pub fn set(&mut self, text: &str, settings: &SettingsList) {
        self.told.push(Told::Setting {
            text: text.into(),
            settings: settings.clone(),
        });
    }

    /// SET TRANSACTION: later joiners are told, and so is a block that follows by AND CHAIN.
    pub fn set_modes(&mut self, text: &str, modes: &TransactionModes) {
        self.told.push(Told::Modes(text.into()));
        self.take_modes(modes);
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &str, mark: Mark) {
        self.told.push(Told::Savepoint {
            name: name.into(),
            mark,
        });
    }

    /// Whether a savepoint of this name is open.
    pub fn has_savepoint(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// RELEASE: the savepoint and those inside it are gone, settings stay.
    pub fn release(&mut self, name: &str) {
        if let Some(position) = self.position(name) {
            let mut index = 0;
            self.told.retain(|told| {
                let keep = index < position || !matches!(told, Told::Savepoint { .. });
                index += 1;
                keep
            });
        }
    }

    /// ROLLBACK TO: what came after the savepoint is undone; returns the settings to go back to.
    pub fn rollback_to(&mut self, name: &str) -> Option<Mark> {
        let position = self.position(name)?;
        self.told.truncate(position + 1);
        self.failed = false;
        self.definitions.roll_back();
        if self.definitions.are_changed() {
            self.defined.1 += 1;
        }
        match &self.told[position] {
            Told::Savepoint { mark, .. } => Some(mark.clone()),
            Told::Setting { .. } | Told::Modes(_) => None,
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.told
            .iter()
            .rposition(|told| matches!(told, Told::Savepoint { name: open, .. } if &**open == name))
    }
}

/// An identifier as SQL text.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn told(block: &Block) -> Vec<String> {
        let told = block.told_after(0).map(Cow::into_owned);
        std::iter::once(block.begin().to_owned())
            .chain(told)
            .collect()
    }

    #[test]
    fn a_late_joiner_is_told_the_open_savepoints_and_settings_in_order() {
        let settings = Settings::default();
        let mut block = Block::new(
            "BEGIN ISOLATION LEVEL SERIALIZABLE;",
            false,
            settings.mark(),
        );
        block.savepoint("a", settings.mark());
        block.set("SET LOCAL x = 1", &None);
        block.savepoint("b", settings.mark());
        block.set("SET LOCAL y = 1", &None);
        assert_eq!(
            told(&block),
            [
                "BEGIN ISOLATION LEVEL SERIALIZABLE",
                "SAVEPOINT \"a\"",
                "SET LOCAL x = 1",
                "SAVEPOINT \"b\"",
                "SET LOCAL y = 1"
            ]
        );
        block.release("a");
        assert_eq!(
            told(&block),
            [
                "BEGIN ISOLATION LEVEL SERIALIZABLE",
                "SET LOCAL x = 1",
                "SET LOCAL y = 1"
            ]
        );
    }

    #[test]
    fn a_chained_block_has_the_modes_of_the_one_before_and_nothing_else() {
        let settings = Settings::default();
        let mut block = Block::new("BEGIN", false, settings.mark());
        let modes = TransactionModes {
            read_only: Some(true),
            ..TransactionModes::default()
        };
        block.set_modes("SET TRANSACTION READ ONLY", &modes);
        block.set("SET LOCAL x = 1", &None);
        block.savepoint("a", settings.mark());
        let chained = block.chained(settings.mark());
        assert_eq!(told(&chained), ["BEGIN", "SET TRANSACTION READ ONLY"]);
        assert!(chained.read_only);
    }

    #[test]
    fn rolling_back_to_a_savepoint_keeps_it_open() {
        let settings = Settings::default();
        let mut block = Block::new("BEGIN", false, settings.mark());
        block.savepoint("a", settings.mark());
        block.set("SET LOCAL x = 1", &None);
        block.failed = true;
        assert!(block.rollback_to("a").is_some());
        assert!(!block.failed);
        assert_eq!(told(&block), ["BEGIN", "SAVEPOINT \"a\""]);
        assert!(block.rollback_to("c").is_none());
    }
}
