//! The prepared statements and portals of one client.
//!
//! Owns: which text a name stands for, and the plan made for it. A statement carries a generation, so that a server connection that
//! knows the same name for another text is noticed. Never does: sending. Main types: [`Statement`], [`Statements`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pgherd_protocol::Frame;
use pgherd_router::Planned;
use pgherd_topology::NodeId;
use smallvec::SmallVec;

/// A prepared statement.
#[derive(Debug)]
pub struct Statement {
    /// Its name, empty for the unnamed one.
    pub name: Bytes,
    /// Tells this text from others under the same name; unique within the process.
    pub generation: u64,
    /// The text.
    pub sql: Box<str>,
    /// The parameter types that the client declared, 0 where it left one open.
    pub parameter_types: SmallVec<[u32; 8]>,
    /// The Parse message as the client sent it.
    pub parse: Frame,
    /// The plan as of when it was parsed.
    pub planned: Planned,
    /// What the plan depends on (catalog, settings), to tell when to plan anew.
    pub planned_under: PlanStamp,
    /// Its parameters' types as the home shard's ids, once a server whose ids differ has told them.
    pub described: Arc<OnceLock<Box<[u32]>>>,
}

impl Statement {
    /// The parameters' types as far as they are known: described, else declared.
    pub fn known_types(&self) -> &[u32] {
        self.described
            .get()
            .map_or(&self.parameter_types, AsRef::as_ref)
    }
}

/// What a plan was made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanStamp {
    /// The catalog's version.
    pub catalog: u64,
    /// The version of the rules.
    pub rules: u64,
    /// The version of the client's settings.
    pub settings: u64,
}

/// A portal.
#[derive(Debug, Clone)]
pub struct Portal {
    /// The statement that it runs.
    pub statement: Arc<Statement>,
    /// The Bind message.
    pub bind: Frame,
    /// The server that has it, once it is there.
    pub node: Option<NodeId>,
}

/// The statements and portals of a client.
#[derive(Debug, Default)]
pub struct Statements {
    named: HashMap<Bytes, Arc<Statement>>,
    portals: HashMap<Bytes, Portal>,
}

impl Statements {
    /// The statement of a name.
    pub fn statement(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.named.get(name)
    }

    /// Remembers a statement under its name.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.named.insert(statement.name.clone(), statement);
    }

    /// Forgets a statement, if its name still stands for this generation.
    pub fn forget(&mut self, name: &[u8], generation: u64) {
        if self
            .named
            .get(name)
            .is_some_and(|statement| statement.generation == generation)
        {
            self.named.remove(name);
        }
    }

    /// Forgets a name.
    pub fn close(&mut self, name: &[u8]) {
        self.named.remove(name);
    }

    /// The portal of a name.
    pub fn portal(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Remembers a portal.
    pub fn bind(&mut self, name: Bytes, portal: Portal) {
        self.portals.insert(name, portal);
    }

    /// Forgets a portal.
    pub fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(name);
    }

    /// Portals end with their transaction.
    pub fn end_transaction(&mut self) {
        self.portals.clear();
    }

    /// Forgets all (DISCARD ALL, DEALLOCATE ALL).
    pub fn clear(&mut self) {
        self.named.clear();
        self.portals.clear();
    }
}
