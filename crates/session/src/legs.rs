//! The server connections that a session holds: one for a request, several in a transaction block, and those that
//! keep something of the client's.
//!
//! Owns: what is known of each, what is queued on it, and giving it back. A connection on which the client left anything stays with the
//! client and is closed with it. Never does: taking one (`taking`), choosing the shard (router).
//! Main types: [`Leg`], [`Legs`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use pgherd_pool::{Checkout, PoolMode, StatementId};
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::{Frame, FrontendMessage, MessageError, PgError, SqlState};
use pgherd_telemetry::RouteMetrics;
use pgherd_topology::{NodeId, Role, ShardId};
use smallvec::SmallVec;
use tokio::time::{Duration, timeout};

use crate::failure::Failure;
use crate::oids::Translation;
use crate::pins::Pins;
use crate::registry::{Client, HeldId, Release};
use crate::settings::SettingsList;

/// How long a server may take to forget a client.
const RESET_LIMIT: Duration = Duration::from_secs(5);

/// Counts a request against its server while it runs.
#[derive(Debug)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Load {
    pub(crate) fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server connection in the hands of a session.
pub struct Leg {
    /// The connection.
    pub connection: Checkout,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// The server it leads to.
    pub node: NodeId,
    /// What that server was when the connection was taken.
    pub role: Role,
    /// Whether it takes part in the open block.
    pub in_block: bool,
    /// Whether it holds what only it can hold (a temporary table, a lock ...): the client's statements on this shard all go here.
    pub sticky: bool,
    /// Whether code that was not read may have made it listen: what it hears is for the client.
    pub hears: bool,
    /// The channels of LISTENs that it ran and must forget before others get it.
    pub listened: Vec<Box<str>>,
    /// Why it stays with the client between requests.
    pub pins: Pins,
    /// Translates object ids where this shard's differ from the home shard's.
    pub translation: Option<Translation>,
    pub(crate) catalog_version: u64,
    /// Whether standbys acknowledge what is committed there.
    pub(crate) synchronous: bool,
    /// Whether pgherd promotes another server in its place, and knows then what became of transactions.
    pub(crate) promotes: bool,
    /// The session's settings that it has in its open transaction; `None` where nothing changed them in it.
    pub(crate) settings: Option<SettingsList>,
    /// How much it knows of what its block tells late joiners.
    pub(crate) told: usize,
    /// Whether what it was brought from was another client's.
    pub(crate) inherited: bool,
    /// The shared statements that the request at hand uses.
    pub(crate) used: SmallVec<[StatementId; 2]>,
    /// Whether the request at hand asks for the columns of what it runs.
    pub(crate) describes: bool,
    pub(crate) _load: Load,
    pub(crate) client: Arc<Client>,
    pub(crate) held: HeldId,
    /// Where requests on this leg are counted.
    pub metrics: Arc<RouteMetrics>,
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.listened.is_empty() {
            self.connection.mark_dirty("it listens");
        }
        if self.client.try_release(self.held) == Release::CancelOnItsWay {
            // the cancel request would hit whoever uses the connection next
            self.connection.mark_dirty("a cancel request is on its way");
        }
    }
}

impl Leg {
    /// Keeps the connection with the client: all that it does on this shard goes here.
    pub fn pin(&mut self, reason: &'static str) {
        self.pins.add(reason);
        self.sticky = true;
        self.connection.mark_changed(reason);
        self.show_pins();
    }

    /// Tells others why it is kept.
    pub fn show_pins(&self) {
        self.client.pin(self.held, &self.pins.shown());
    }

    /// Nothing that kept it is left.
    pub fn unpin(&mut self) {
        self.pins = Pins::default();
        self.sticky = false;
        self.connection.mark_unchanged();
        self.connection.unpin();
        self.client.unpin(self.held);
    }

    /// Changes what it is known to have in its open transaction.
    pub fn note_settings(&mut self, change: impl FnOnce(&mut SettingsList)) {
        let carried = &self.connection.carried;
        change(self.settings.get_or_insert_with(|| carried.clone()));
    }

    /// Whether SET ROLE is in force there.
    pub fn acts_in_role(&self) -> bool {
        let settings = self.settings.as_ref();
        let settings = settings.unwrap_or(&self.connection.carried);
        settings.as_ref().is_some_and(|list| list.role().is_some())
    }

    /// Notes that no SET ROLE is in force there, whatever becomes of its transaction.
    pub fn forget_role(&mut self) {
        let lists = self
            .settings
            .iter_mut()
            .chain([&mut self.connection.carried]);
        for list in lists.flatten() {
            Arc::make_mut(list).reset("role");
        }
    }

    /// Its transaction ended.
    pub fn end_transaction(&mut self, committed: bool) {
        self.told = 0;
        if let Some(settings) = self.settings.take().filter(|_| committed) {
            self.connection.carried = settings;
        }
    }

    /// Notes that a simple query is on its way: it takes the place of the server's unnamed statement.
    pub fn forget_unnamed(&mut self) {
        self.connection.prepared.forget_unnamed();
    }

    /// Queues a simple query.
    ///
    /// # Errors
    /// 54000 where the text is longer than a message can be.
    pub fn queue_query(&mut self, sql: &str) -> Result<(), Failure> {
        self.forget_unnamed();
        encode(
            &FrontendMessage::Query(sql.as_bytes()),
            &mut self.connection.transport.outbox,
        )
    }
}

impl Leg {
    /// Queues a client's Parse; `types` are the home ids of its parameters where they are to be declared otherwise than there.
    ///
    /// # Errors
    /// 54000 where it does not fit a message with these ids.
    pub fn queue_parse(&mut self, frame: &Frame, types: Option<&[u32]>) -> Result<(), Failure> {
        let out = &mut self.connection.transport.outbox;
        if types.is_none() && self.translation.is_none() {
            out.extend_from_slice(frame.bytes());
            return Ok(());
        }
        let Ok(FrontendMessage::Parse(parse)) = FrontendMessage::parse(frame) else {
            return Err(PgError::error(SqlState::PROTOCOL_VIOLATION, "not a Parse").into());
        };
        let types: SmallVec<[u32; 8]> = match types {
            Some(types) => types.into(),
            None => parse.parameter_types().collect(),
        };
        match &self.translation {
            Some(translation) => translation.parse(&parse, &types, out).map_err(too_long),
            None => Ok(encode_parse(out, parse.name, parse.sql, types)?),
        }
    }

    /// Queues a client's Bind of the statement that this is on the server; `types` are the home ids of its parameters as far as known.
    ///
    /// # Errors
    /// 54000 where it does not fit a message with this shard's ids.
    pub fn queue_bind(
        &mut self,
        frame: &Frame,
        statement: &[u8],
        types: &[u32],
    ) -> Result<(), Failure> {
        let out = &mut self.connection.transport.outbox;
        if statement.is_empty() && self.translation.is_none() {
            out.extend_from_slice(frame.bytes());
            return Ok(());
        }
        let Ok(FrontendMessage::Bind(mut bind)) = FrontendMessage::parse(frame) else {
            return Err(PgError::error(SqlState::PROTOCOL_VIOLATION, "not a Bind").into());
        };
        bind.statement = statement;
        match &self.translation {
            Some(translation) => translation.bind(&bind, types, out).map_err(too_long),
            None => encode(&FrontendMessage::Bind(bind), out),
        }
    }
}

fn too_long(error: MessageError) -> Failure {
    PgError::error(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string()).into()
}

/// Appends a message.
///
/// # Errors
/// 54000 where it is longer than a message can be.
pub fn encode(message: &FrontendMessage<'_>, out: &mut BytesMut) -> Result<(), Failure> {
    message.encode(out).map_err(too_long)
}

/// All legs of a session.
pub struct Legs {
    legs: Vec<Leg>,
    mode: PoolMode,
}

impl Legs {
    /// None yet. In mode session they are kept until the client ends.
    pub fn new(mode: PoolMode) -> Self {
        Self {
            legs: Vec::new(),
            mode,
        }
    }

    /// When they are given back.
    pub fn mode(&self) -> PoolMode {
        self.mode
    }

    /// The leg to a server. A session has at most one to each.
    pub fn get(&mut self, node: NodeId) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.node == node)
    }

    /// The leg to a server, which is held.
    pub fn at(&mut self, node: NodeId) -> &mut Leg {
        self.get(node)
            .expect("a leg is closed only by the request that uses it, which then ends")
    }

    /// Every leg.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        self.legs.iter_mut()
    }

    /// Every leg.
    pub fn iter(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter()
    }

    /// The servers that take part in the open block, in the order of their shards.
    pub fn in_block(&self) -> SmallVec<[NodeId; 4]> {
        let mut legs: SmallVec<[(ShardId, NodeId); 4]> = self
            .legs
            .iter()
            .filter(|leg| leg.in_block)
            .map(|leg| (leg.shard, leg.node))
            .collect();
        legs.sort_unstable();
        legs.into_iter().map(|(_, node)| node).collect()
    }

    /// The server of the leg that a predicate finds.
    pub fn find(&self, found: impl FnMut(&&Leg) -> bool) -> Option<NodeId> {
        self.legs.iter().find(found).map(|leg| leg.node)
    }

    /// Adds a leg.
    pub fn push(&mut self, leg: Leg) {
        self.legs.push(leg);
    }

    /// Gives back the memory of those that are gone.
    pub fn rest(&mut self) {
        if self.legs.is_empty() {
            self.legs = Vec::new();
        }
    }

    /// Closes a leg: its connection is in the middle of something, or gone.
    pub fn close(&mut self, node: NodeId) {
        if let Some(index) = self.legs.iter().position(|leg| leg.node == node) {
            let mut leg = self.legs.swap_remove(index);
            leg.connection
                .mark_dirty("closed in the middle of a request");
        }
    }

    /// Closes all.
    pub fn close_all(&mut self) {
        for leg in &mut self.legs {
            leg.connection.mark_dirty("the client is gone");
        }
        self.legs.clear();
    }

    /// Takes away what the client has left on each, and gives them back; closes those where that is not possible.
    pub async fn reset_all(&mut self) {
        for leg in &mut self.legs {
            if !leg.pins.can_be_discarded() {
                leg.connection.mark_dirty("what was loaded stays");
                continue;
            }
            // what is not reset in time waits for an answer, and is closed for that
            let _ = timeout(RESET_LIMIT, leg.connection.reset()).await;
            if leg.connection.is_clean() {
                leg.listened.clear();
            }
        }
        self.legs.clear();
    }

    /// Gives back what the client does not need any more.
    pub fn release(&mut self) {
        match self.mode {
            PoolMode::Session => {}
            PoolMode::Transaction | PoolMode::Statement => {
                self.legs.retain(|leg| leg.in_block || !leg.pins.is_empty());
                for leg in self.legs.iter().filter(|leg| leg.pins.is_empty()) {
                    // nothing came of what it was taken for
                    leg.connection.unpin();
                }
            }
        }
    }
}
