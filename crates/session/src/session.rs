//! One client from login to its end.
//!
//! Owns: the loop (read a request, do it, say ReadyForQuery), what the session keeps between requests, and what a completed statement
//! changes in that. Never does: calling control; what it must know comes with snapshots.
//! Main type: [`Session`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use pgherd_pool::{Transport, UserLogin};
use pgherd_protocol::{PgError, SqlState, TransactionStatus};
use pgherd_router::{
    Access, Action, CursorTarget, Residue, SettingAction, SettingScope, SettingValue,
    StatementPlan, TransactionScope, ValueEncoding,
};
use pgherd_topology::{NodeId, Role, ShardId};
use tokio::sync::watch;

use crate::block::is_control;
use crate::choose::{ReplicaChoice, replica};
use crate::copy::copy_in;
use crate::extended::OpenRun;
use crate::failure::{Failure, not_supported};
use crate::handshake::Login;
use crate::herd::{Database, Herd, Phase};
use crate::legs::{Legs, shard_state};
use crate::registry::{ClientState, Registration};
use crate::relay::{Outcome, Pause, Relay, RelayError};
use crate::request::{Request, RequestReader, RunEnd};
use crate::route::{Place, Route};
use crate::script::Script;
use crate::settings::Settings;
use crate::statements::Statements;
use crate::tokens::Tokens;
use crate::transaction::Block;

/// How often a request that only reads is tried, on another server each time, before the client hears of it.
const READ_TRIES: u32 = 3;

/// A logged-in client.
pub struct Session {
    pub(crate) herd: Arc<Herd>,
    pub(crate) database: Arc<Database>,
    pub(crate) user: Arc<UserLogin>,
    pub(crate) user_name: Box<str>,
    pub(crate) client: Transport,
    pub(crate) registration: Registration,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    /// The shard on which a cursor was declared.
    pub(crate) cursors: HashMap<Box<str>, ShardId>,
    pub(crate) tokens: Tokens,
    pub(crate) legs: Legs,
    pub(crate) block: Option<Block>,
    pub(crate) open_run: Option<OpenRun>,
    pub(crate) script: Script,
    /// After an error in the extended protocol: everything up to Sync is skipped.
    pub(crate) skipping: bool,
    /// DDL was committed: the catalog is read again before the next request.
    pub(crate) catalog_changed: bool,
    /// Rotates between equal servers and shards.
    pub(crate) turn: usize,
    /// Reads in a row that went to the primary because no replica was known to show enough.
    pub(crate) reads_on_primary: u32,
    /// Whether the user has a schema of its own name, as of which catalog.
    pub(crate) user_schema: (Option<u64>, bool),
    startup_settings: Vec<(Box<str>, Box<str>)>,
    requests: RequestReader,
    generations: u64,
    phase: watch::Receiver<Phase>,
}

/// A request that ran on one leg.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
}

/// Serves a client until it leaves, is sent away, or is lost. Dropping the future closes its connections.
pub async fn run(login: Login) {
    let mut session = Session::new(login);
    session.serve().await;
    session.close_legs().await;
}

impl Session {
    fn new(login: Login) -> Self {
        let generations = login.client.id().0 << 24;
        let mut session = Self {
            phase: login.herd.phase(),
            herd: login.herd,
            database: login.database,
            user: login.server_login,
            user_name: login.user.name.clone(),
            client: login.transport,
            registration: login.client,
            settings: Settings::default(),
            statements: Statements::default(),
            cursors: HashMap::new(),
            tokens: Tokens::default(),
            legs: Legs::default(),
            block: None,
            open_run: None,
            script: Script::default(),
            skipping: false,
            catalog_changed: false,
            turn: usize::try_from(generations >> 24).unwrap_or_default(),
            reads_on_primary: 0,
            user_schema: (None, false),
            startup_settings: login
                .settings
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            requests: RequestReader::default(),
            generations,
        };
        session.apply_startup_settings();
        session
    }

    async fn serve(&mut self) {
        loop {
            let ended = match self.next_request().await {
                Ok(Request::Terminate) => return,
                Ok(request) => {
                    self.registration.begin_request(Instant::now());
                    self.answer(request).await
                }
                Err(failure) => Err(failure),
            };
            match ended {
                Ok(()) => {}
                Err(Failure::ClientGone) => return,
                Err(Failure::Fatal(error) | Failure::Refused(error)) => {
                    error.encode(&mut self.client.outbox);
                    // the client may be gone already: there is nobody else to tell
                    let _ = self.client.flush().await;
                    return;
                }
            }
            self.between_requests().await;
        }
    }

    /// One request, its errors told.
    async fn answer(&mut self, request: Request) -> Result<(), Failure> {
        let (result, ready) = match request {
            Request::Query(frame) if !self.skipping => (self.simple(&frame).await, true),
            Request::FunctionCall(frame) if !self.skipping => {
                (self.function_call(&frame).await, true)
            }
            // Postgres discards these too until Sync
            Request::Query(_) | Request::FunctionCall(_) | Request::Terminate => return Ok(()),
            Request::Run(frames, end) => {
                let result = self.extended(&frames, end).await;
                self.requests.recycle(frames);
                (result, end == RunEnd::Sync)
            }
        };
        match result {
            Err(Failure::Refused(error)) => {
                self.script.clear();
                self.database.metrics().error(error.code.as_str());
                error.encode(&mut self.client.outbox);
                if ready {
                    self.fail_block();
                    self.ready();
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Gives connections back, and reads the catalog again where DDL was committed.
    async fn between_requests(&mut self) {
        if self.open_run.is_none() {
            self.legs.release();
        }
        if self.catalog_changed && self.block.is_none() {
            self.catalog_changed = false;
            self.reload_catalog().await;
        }
        let state = match self.status() {
            TransactionStatus::Idle => ClientState::Idle,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                ClientState::IdleInTransaction
            }
        };
        self.registration.set_state(state);
    }

    /// Closes what is still held.
    pub(crate) async fn close_legs(&mut self) {
        self.legs.close_all();
    }

    /// The next request; what held servers send meanwhile (notifications, their end) is seen to.
    async fn next_request(&mut self) -> Result<Request, Failure> {
        let max_message = self.herd.settings().max_message;
        loop {
            let next = self
                .requests
                .next(&mut self.client.inbox, max_message)
                .map_err(|error| {
                    Failure::Fatal(Box::new(PgError::fatal(error.code(), error.to_string())))
                })?;
            if let Some(request) = next {
                return Ok(request);
            }
            self.check_drain()?;
            match self.wait().await? {
                Event::Client => {}
                Event::Server(node) => self.hear(node)?,
                Event::Phase => {}
            }
        }
    }

    /// Waits for bytes from the client or from a held server; writes what the client has not taken yet.
    async fn wait(&mut self) -> Result<Event, Failure> {
        let Self {
            client,
            legs,
            phase,
            open_run,
            ..
        } = self;
        let quiet = open_run.is_none();
        let from_peers = poll_fn(|context| {
            if !client.outbox.is_empty()
                && let Poll::Ready(Err(_)) = client.poll_flush(context)
            {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            if let Poll::Ready(read) = client.poll_fill(context) {
                return Poll::Ready(match read {
                    Ok(0) | Err(_) => Err(Failure::ClientGone),
                    Ok(_) => Ok(Event::Client),
                });
            }
            for leg in legs.iter_mut().filter(|_| quiet) {
                if leg.connection.transport.poll_fill(context).is_ready() {
                    return Poll::Ready(Ok(Event::Server(leg.node)));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            event = from_peers => event,
            changed = phase.changed() => {
                // the herd outlives its sessions; were it gone, this one would drain too
                changed.map_err(|_| Failure::ClientGone)?;
                Ok(Event::Phase)
            }
        }
    }

    /// A session that is idle ends when pgherd drains; one in a block goes on to its end.
    fn check_drain(&mut self) -> Result<(), Failure> {
        if *self.phase.borrow() == Phase::Draining
            && self.block.is_none()
            && self.open_run.is_none()
            && !self.skipping
        {
            return Err(Failure::Fatal(Box::new(PgError::fatal(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            ))));
        }
        Ok(())
    }

    /// What a held server sent between requests.
    fn hear(&mut self, node: NodeId) -> Result<(), Failure> {
        let shard = self.legs.at(node).shard;
        let mut script = Script::default();
        let leg = self.legs.at(node);
        let heard =
            Relay::new(&mut script, None, false).hear(&mut leg.connection, &mut self.client.outbox);
        match heard {
            Ok(notified) => {
                if notified {
                    self.tokens.observe(shard, node, Instant::now());
                }
                Ok(())
            }
            Err(error) => {
                let sticky = self.legs.at(node).sticky;
                let in_block = self.legs.at(node).in_block;
                let failure = self.lost(node, error);
                if sticky && !in_block {
                    // what only that server held (a lock, a temporary table, LISTEN) is gone, and the client must know
                    return Err(match failure {
                        Failure::Refused(error) => Failure::Fatal(Box::new(
                            PgError::fatal(SqlState::ADMIN_SHUTDOWN, error.message)
                                .detail("The server connection held state of this session that cannot be made again."),
                        )),
                        other => other,
                    });
                }
                Ok(())
            }
        }
    }

    /// Runs a request on the one server that its route gives; reads are tried elsewhere where a server is lost, or a
    /// replica cannot answer, before anything was handed to the client.
    ///
    /// # Errors
    /// No server, no connection, or a lost one (08007 where a write may have taken effect).
    pub(crate) async fn on_one_leg(
        &mut self,
        route: &Route,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let shard = match route.place {
            Place::Shard(shard) => shard,
            Place::Nowhere | Place::Any | Place::All | Place::EachInTurn => self.any_shard(),
        };
        self.check_moment(shard, route)?;
        let mut access = route.access;
        let mut tries = 1;
        loop {
            let taken = self.client.outbox.len();
            self.script.clear();
            let node = self.leg(shard, access).await?;
            let leg = self.legs.at(node);
            let alone = self.block.is_none() && leg.pinned.is_none();
            let may_retry = alone && route.access == Access::Read && tries < READ_TRIES;
            let result = self.relay_on(node, may_retry, &queue).await?;
            match result {
                Ok(outcome)
                    if may_retry && !outcome.forwarded && self.is_for_primary(node, &outcome) =>
                {
                    self.client.outbox.truncate(taken);
                    access = Access::Write;
                }
                Ok(outcome) => return self.ran(outcome, node, shard),
                Err((error, forwarded)) => {
                    if may_retry && !forwarded && matches!(error, RelayError::Server { .. }) {
                        self.client.outbox.truncate(taken);
                        let _ = self.lost(node, error);
                        access = if tries + 1 == READ_TRIES {
                            Access::Write
                        } else {
                            access
                        };
                    } else {
                        return Err(self.lost_in_request(node, error, route.access));
                    }
                }
            }
            self.legs.release();
            tries += 1;
        }
    }

    /// A transaction began at one moment, and each server of a block has its own.
    fn check_moment(&mut self, shard: ShardId, route: &Route) -> Result<(), Failure> {
        let Some(block) = self.block.as_mut().filter(|_| route.reads_moment) else {
            return Ok(());
        };
        if *block.moment.get_or_insert(shard) == shard {
            return Ok(());
        }
        Err(not_supported(
            "the moment at which the transaction began is not the same on every shard",
            "The block has read now() or its like on another shard already.",
            "Read it once, and send it as a literal or a parameter.",
        ))
    }

    /// Goes on with a pipeline on the server that has its earlier part.
    ///
    /// # Errors
    /// 0A000 where the rest belongs elsewhere; the earlier part is rolled back by the caller.
    pub(crate) async fn continue_on(
        &mut self,
        node: NodeId,
        route: &Route,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let shard = self.legs.at(node).shard;
        if let Err(failure) = self.check_moment(shard, route) {
            self.open_run = Some(OpenRun { node });
            return Err(failure);
        }
        let leg = self.legs.at(node);
        let fits = match route.place {
            Place::Nowhere | Place::Any => true,
            Place::Shard(wanted) => wanted == shard,
            Place::All | Place::EachInTurn => false,
        };
        if !fits || (route.access == Access::Write && leg.role == Role::Replica) {
            self.open_run = Some(OpenRun { node });
            return Err(not_supported(
                "all statements of a pipeline must run on one server",
                "An earlier part was sent to another server before this one came; it is rolled back.",
                "Send a Sync between them.",
            ));
        }
        self.script.clear();
        match self.relay_on(node, false, &queue).await? {
            Ok(outcome) => self.ran(outcome, node, shard),
            Err((error, _)) => Err(self.lost_in_request(node, error, route.access)),
        }
    }

    fn ran(&mut self, outcome: Outcome, node: NodeId, shard: ShardId) -> Result<Ran, Failure> {
        match &outcome.error {
            Some(error) if outcome.error_is_ours => {
                // what pgherd sent ahead of the request was refused: nothing of the request counts
                let error = error.clone();
                self.fail_block();
                Err(error.into())
            }
            _ => Ok(Ran {
                outcome,
                node,
                shard,
            }),
        }
    }

    /// Queues a request on a leg and relays it to its end.
    #[allow(clippy::type_complexity)]
    async fn relay_on(
        &mut self,
        node: NodeId,
        hold: bool,
        queue: &impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<Result<Outcome, (RelayError, bool)>, Failure> {
        let mut script = std::mem::take(&mut self.script);
        if let Err(failure) = queue(self, node, &mut script) {
            // half a request must not reach the server
            self.legs.close(node);
            return Err(failure);
        }
        let max_message = self.herd.settings().max_message;
        let begun = Instant::now();
        let leg = self.legs.at(node);
        let mut relay = Relay::new(&mut script, leg.translation.as_mut(), hold);
        let result = loop {
            match relay.run(&mut leg.connection, &mut self.client).await {
                Ok(Pause::Done) => break Ok(()),
                Ok(Pause::CopyIn) => {
                    if let Err(error) =
                        copy_in(&mut leg.connection.transport, &mut self.client, max_message).await
                    {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let outcome = relay.into_outcome();
        leg.metrics.answered(begun.elapsed());
        script.clear();
        self.script = script;
        Ok(match result {
            Ok(()) => Ok(outcome),
            Err(error) => Err((error, outcome.forwarded)),
        })
    }

    /// Whether a replica said that only the primary can do this, now.
    fn is_for_primary(&mut self, node: NodeId, outcome: &Outcome) -> bool {
        self.legs.at(node).role == Role::Replica
            && outcome.error.as_ref().is_some_and(|error| {
                error.code == SqlState::READ_ONLY_SQL_TRANSACTION
                    || error.code == SqlState::SERIALIZATION_FAILURE
            })
    }

    fn lost_in_request(&mut self, node: NodeId, error: RelayError, access: Access) -> Failure {
        let in_block = self.legs.get(node).is_some_and(|leg| leg.in_block);
        let was_lost = matches!(error, RelayError::Server { .. });
        let failure = self.lost(node, error);
        match failure {
            Failure::Refused(error) if was_lost && access == Access::Write && !in_block => {
                Failure::from(
                    PgError::error(
                        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                        "the outcome of the statement is not known",
                    )
                    .detail(format!(
                        "{}: {}",
                        error.message,
                        error.detail.unwrap_or_default()
                    )),
                )
            }
            other => other,
        }
    }

    /// A function call by the fast path: opaque, so it needs one shard and its primary.
    async fn function_call(&mut self, frame: &pgherd_protocol::Frame) -> Result<(), Failure> {
        if !self.database.sharding().is_unsharded() {
            return Err(not_supported(
                "function calls of the fast-path protocol are not supported on a sharded database",
                "The call names a function by its object id, and what it does cannot be known.",
                "Call the function in a SELECT.",
            ));
        }
        let route = Route {
            place: Place::Any,
            access: Access::Write,
            reads_moment: false,
        };
        let ran = self
            .on_one_leg(&route, |session, node, script| {
                session
                    .legs
                    .at(node)
                    .connection
                    .transport
                    .outbox
                    .extend_from_slice(frame.bytes());
                script.expect(crate::script::Reply::Query, crate::script::Audience::Client);
                Ok(())
            })
            .await?;
        self.pin(ran.node, "function call", true);
        self.after_request(&ran);
        Ok(())
    }

    /// What a statement that completed on a server changes in what the session knows.
    pub(crate) fn note_effects(&mut self, statement: &StatementPlan, text: &str, node: NodeId) {
        match &statement.action {
            action if is_control(action) => {
                self.note_control(action, text);
                if self.block.is_some()
                    && let Some(leg) = self.legs.get(node)
                {
                    leg.in_block = true;
                }
            }
            Action::Set(setting) => self.note_set(setting, text, node),
            Action::SetTransaction(TransactionScope::Session, _) => {
                self.note_change("session characteristics", text, node)
            }
            Action::Declare { cursor, .. } => {
                let shard = self.legs.at(node).shard;
                self.cursors.insert(cursor.clone(), shard);
            }
            Action::Close(CursorTarget::Named(cursor)) => {
                self.cursors.remove(cursor);
            }
            Action::Close(CursorTarget::All) => self.cursors.clear(),
            Action::Deallocate(None) => {
                self.statements.clear();
                self.legs.at(node).connection.prepared.clear();
            }
            Action::Deallocate(Some(name)) => {
                self.statements.close(name.as_bytes());
                self.legs
                    .at(node)
                    .connection
                    .prepared
                    .remove(name.as_bytes());
            }
            _ => {}
        }
        self.note_residue(statement.residue, node);
        self.note_writer(statement, node);
        self.note_catalog(statement);
    }

    /// DDL: plans are made anew once it is committed.
    pub(crate) fn note_catalog(&mut self, statement: &StatementPlan) {
        if matches!(statement.action, Action::Ddl(_)) {
            match &mut self.block {
                Some(block) => block.changes_catalog = true,
                None => self.catalog_changed = true,
            }
        }
    }

    fn note_writer(&mut self, statement: &StatementPlan, node: NodeId) {
        let shard = self.legs.at(node).shard;
        if writes(statement)
            && let Some(block) = &mut self.block
        {
            block.writer.get_or_insert(shard);
        }
    }

    /// A block writes on one shard, unless it commits in two phases anyway.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_writer(
        &self,
        shard: ShardId,
        access: Access,
        statements: &[StatementPlan],
    ) -> Result<(), Failure> {
        let Some(block) = &self.block else {
            return Ok(());
        };
        let Some(writer) = block.writer else {
            return Ok(());
        };
        if block.two_phase
            || writer == shard
            || access == Access::Read
            || !statements.iter().any(writes)
        {
            return Ok(());
        }
        let sharding = self.database.sharding();
        Err(not_supported(
            "a transaction block cannot write on two shards yet",
            &format!(
                "It has written on shard \"{}\", and this statement writes on shard \"{}\".",
                sharding.shard_name(writer),
                sharding.shard_name(shard)
            ),
            "Use one transaction for each shard.",
        ))
    }

    fn note_residue(&mut self, residue: Residue, node: NodeId) {
        if residue.is_none() {
            return;
        }
        let only_setting = residue == Residue::SETTING;
        if let Some(reason) = residue.names().last() {
            self.pin(node, reason, !only_setting);
        }
    }

    /// Keeps a connection with the client; `sticky` where all that it does on that shard must go there.
    pub(crate) fn pin(&mut self, node: NodeId, reason: &'static str, sticky: bool) {
        let leg = self.legs.at(node);
        leg.pin(reason);
        leg.sticky |= sticky;
    }

    fn note_set(&mut self, setting: &SettingAction, text: &str, node: NodeId) {
        let Some(name) = setting.name.as_deref() else {
            self.settings.clear();
            self.settings.record("", "RESET ALL");
            self.apply_startup_settings();
            self.pin(node, "setting", false);
            return;
        };
        let value = match &setting.value {
            SettingValue::Default => self.startup_value(name).map(str::to_owned),
            SettingValue::Texts(texts) => Some(texts.join("\u{0}")),
            SettingValue::Opaque => None,
        };
        if setting.scope == SettingScope::Local {
            let Some(block) = &mut self.block else { return };
            block.set(text);
            block.local_names.push(name.into());
            self.settings.know(name, value.as_deref());
            return;
        }
        self.settings.know(name, value.as_deref());
        if name == "application_name"
            && let SettingValue::Texts(texts) = &setting.value
        {
            self.registration.set_application_name(&texts.join(","));
        }
        self.note_change(name, text, node);
    }

    /// A session-level change that one server has carried out: every other one that serves this client gets it too.
    fn note_change(&mut self, name: &str, text: &str, node: NodeId) {
        self.pin(node, "setting", false);
        if let Some(block) = &mut self.block {
            block.set(text);
            self.settings.record_pending(name, text);
            return;
        }
        let before = self.settings.version();
        self.settings.record(name, text);
        let version = self.settings.version();
        let leg = self.legs.at(node);
        if leg.settings_are(before) {
            leg.has_settings(version);
        }
    }

    /// What the client asked for in its startup message, as settings of every server that serves it.
    pub(crate) fn apply_startup_settings(&mut self) {
        for (name, value) in &self.startup_settings {
            // clients spell names as they like, and SET's are in lower case
            let known = name.to_ascii_lowercase();
            self.settings.know(&known, Some(&known_form(&known, value)));
            let text = format!(
                "SELECT pg_catalog.set_config({}, {}, false)",
                quoted_text(name),
                quoted_text(value)
            );
            self.settings.record(name, &text);
        }
    }

    fn startup_value(&self, name: &str) -> Option<&str> {
        self.startup_settings
            .iter()
            .find(|(startup, _)| startup.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    /// A number that no other prepared statement of this process has.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// Whether the client's texts are in the servers' encoding.
    pub(crate) fn encoding(&self) -> ValueEncoding {
        match self.settings.value("client_encoding") {
            None => ValueEncoding::SameAsServer,
            Some(encoding) if is_utf8(encoding) => ValueEncoding::SameAsServer,
            Some(_) => ValueEncoding::Converted,
        }
    }

    /// The server that would answer a read of this shard now.
    pub(crate) fn would_serve(&mut self, shard: ShardId) -> Option<(String, Role)> {
        let topology = self.topology();
        let state = shard_state(&topology, shard).ok()?;
        let node = match replica(state, &self.database.reads(), &mut self.tokens, self.turn) {
            ReplicaChoice::Serves(node) => node,
            ReplicaChoice::Behind | ReplicaChoice::Unsettled | ReplicaChoice::None => {
                state.primary?
            }
        };
        let server = state.nodes.iter().find(|server| server.id == node)?;
        Some((server.name.to_string(), server.role))
    }

    /// Reads the answers to what makes a leg join the block, where the request itself is not relayed.
    ///
    /// # Errors
    /// The server's error.
    pub(crate) async fn settle_joining(&mut self, node: NodeId) -> Result<(), Failure> {
        let mut script = std::mem::take(&mut self.script);
        let mut sink = bytes::BytesMut::new();
        let outcome = self.collect(node, &mut script, &mut sink).await;
        script.clear();
        self.script = script;
        match outcome?.error {
            Some(error) => {
                self.fail_block();
                Err(error.into())
            }
            None => Ok(()),
        }
    }
}

/// What ended a wait.
enum Event {
    Client,
    Server(NodeId),
    Phase,
}

/// Whether a statement makes its shard the block's writer.
fn writes(statement: &StatementPlan) -> bool {
    statement.access == Access::Write
        && !is_control(&statement.action)
        && !matches!(
            statement.action,
            Action::Set(_)
                | Action::SetTransaction(..)
                | Action::ShowOverride(_)
                | Action::Discard
                | Action::Fetch(_)
                | Action::Close(_)
                | Action::Listen(_)
                | Action::Unlisten(_)
                | Action::Deallocate(_)
        )
}

fn is_utf8(encoding: &str) -> bool {
    let plain: String = encoding
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    plain.eq_ignore_ascii_case("utf8")
        || plain.eq_ignore_ascii_case("unicode")
        || plain.eq_ignore_ascii_case("sqlascii")
}

/// A setting's value as [`Settings::value`] gives it: the members of a list apart.
fn known_form(name: &str, value: &str) -> String {
    if name != "search_path" {
        return value.to_owned();
    }
    let members: Vec<String> = value
        .split(',')
        .map(|member| {
            let member = member.trim();
            match member
                .strip_prefix('"')
                .and_then(|member| member.strip_suffix('"'))
            {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => member.to_lowercase(),
            }
        })
        .collect();
    members.join("\u{0}")
}

/// A string literal that reads the same whatever standard_conforming_strings is.
pub fn quoted_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}
