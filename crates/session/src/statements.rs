//! The prepared statements and portals of one client.
//!
//! Owns: which text a name stands for, and the plan made for it. A named statement is known to servers under a name made of its text, its
//! parameters' types and the settings that it was parsed under, the same for all clients. Never does: sending. Main types: [`Statement`],
//! [`Statements`].

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use pgherd_pool::{Shape, StatementId};
use pgherd_protocol::{Frame, PgError, SqlState};
use pgherd_router::Planned;
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use crate::script::Prepared;
use crate::settings::{Known, SettingsList};
use crate::shape::Told;

/// A prepared statement.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its name as the client gave it, empty for the unnamed one.
    pub name: Bytes,
    /// What it is on a server.
    pub prepared: Prepared,
    /// Its name there.
    pub server_name: Bytes,
    /// Tells this statement from earlier ones under the same name.
    pub generation: u64,
    /// The settings in force when it was analyzed, as far as they may matter: when it was parsed, or first used under another search path.
    pub settings: SettingsList,
    /// Of these, what pgherd knows the values of.
    pub known_settings: Known,
    /// The text.
    pub sql: Box<str>,
    /// The parameter types that the client declared, 0 where it left one open.
    pub parameter_types: SmallVec<[u32; 8]>,
    /// How a server comes to have it.
    pub made_by: MadeBy,
    /// The plan as of when it was parsed.
    pub planned: Planned,
    /// What the plan depends on (catalog, settings), to tell when to plan anew.
    pub planned_under: PlanStamp,
    /// What its client was told of it.
    pub told: Arc<Told>,
}

impl Statement {
    /// Its id, if it has a name and so is shared with all clients that want the same.
    pub fn shared(&self) -> Option<StatementId> {
        match self.prepared {
            Prepared::Shared(id) => Some(id),
            Prepared::Unnamed(_) | Prepared::Own | Prepared::Aside => None,
        }
    }

    /// What is known of it on a server that was just made to have it.
    pub fn shape_when_made(&self) -> Shape {
        match &self.made_by {
            // they are declared as they were told
            MadeBy::Parse(_) => Shape::with_parameters(self.told.parameters().unwrap_or_default()),
            MadeBy::Prepare(_) => Shape::default(),
        }
    }

    /// How many parameters it takes.
    pub fn parameter_count(&self) -> usize {
        let used = self.planned.plan.statements.first();
        let used = used.map_or(0, |statement| usize::from(statement.parameters));
        used.max(self.parameter_types.len())
    }

    /// The parameters' types as far as they are known, as the home shard's ids: described, else declared.
    pub fn known_types(&self) -> &[u32] {
        self.told.parameters().unwrap_or(&self.parameter_types)
    }
}

/// How a server comes to have a statement.
#[derive(Debug, Clone)]
pub enum MadeBy {
    /// By this Parse message.
    Parse(Frame),
    /// By this SQL, which begins with PREPARE.
    Prepare(Box<str>),
}

impl MadeBy {
    /// The SQL, if it is made by that.
    pub fn sql(&self) -> &str {
        match self {
            Self::Parse(_) => "",
            Self::Prepare(sql) => sql,
        }
    }
}

/// The most named statements of one client.
const MAX_NAMED: usize = 10_000;

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

    /// The name that a client gave to what servers know by this one.
    pub fn name_of(&self, server_name: &[u8]) -> Option<&Bytes> {
        let mut named = self.named.values();
        named
            .find(|statement| statement.server_name == server_name)
            .map(|statement| &statement.name)
    }

    /// # Errors
    /// 54000 where the client has as many as it may have.
    pub fn check_room(&self) -> Result<(), PgError> {
        if self.named.len() < MAX_NAMED {
            return Ok(());
        }
        Err(PgError::error(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("a session can have {MAX_NAMED} prepared statements"),
        )
        .hint("Close those that are not needed any more, or DEALLOCATE ALL."))
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

    /// Forgets all that have a name (DEALLOCATE ALL).
    pub fn clear_named(&mut self) {
        self.named.retain(|name, _| name.is_empty());
    }

    /// Forgets all (DISCARD ALL).
    pub fn clear(&mut self) {
        self.named.clear();
        self.portals.clear();
    }
}
