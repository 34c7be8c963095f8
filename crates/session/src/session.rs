//! One client from login to its end.
//!
//! Owns: the loop (read a request, do it, say ReadyForQuery), what the session keeps between requests, and what a completed statement
//! changes in that. Never does: calling control; what it must know comes with snapshots.
//! Main type: [`Session`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pgherd_pool::{Parameters, PoolMode, Transport, UserLogin};
use pgherd_protocol::{Frame, PgError, Severity, SqlState, TransactionStatus};
use pgherd_router::{
    Action, ContextKey, OverrideName, SettingAction, SettingScope, SettingValue, ValueEncoding,
};
use pgherd_topology::{Role, ShardId, quote_identifier};
use tokio::sync::watch;
use tokio::time::{Duration, timeout};

use crate::beginning::Beginning;
use crate::choose::{ReplicaChoice, replica};
use crate::extended::OpenRun;
use crate::failure::Failure;
use crate::handshake::Login;
use crate::herd::{Database, Herd, Phase, Rules};
use crate::holding::Hold;
use crate::legs::Legs;
use crate::listening::Subscriptions;
use crate::message::Step;
use crate::parameters::is_own_setting;
use crate::registry::{ClientState, Registration};
use crate::request::{Request, RequestReader};
use crate::script::Script;
use crate::settings::{Mark, Settings};
use crate::statements::{PlanStamp, Statements};
use crate::taking::shard_state;
use crate::temporary::Temporary;
use crate::timeouts::Timeouts;
use crate::tokens::Tokens;
use crate::transaction::Block;

/// How long a client may take to hear why its connection ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

/// How long the servers of a client that leaves may take to roll back what it has begun.
const PARTING_LIMIT: Duration = Duration::from_secs(5);

/// A logged-in client.
pub struct Session {
    pub(crate) herd: Arc<Herd>,
    pub(crate) database: Arc<Database>,
    /// What lies on which shard: one snapshot for each transaction, so that a reload never splits one.
    pub(crate) rules: Arc<Rules>,
    pub(crate) user: Arc<UserLogin>,
    pub(crate) user_name: Box<str>,
    pub(crate) user_timeouts: Timeouts,
    pub(crate) client: Transport,
    pub(crate) registration: Registration,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    /// The shard on which a cursor was declared.
    pub(crate) cursors: HashMap<Box<str>, ShardId>,
    /// The client's temporary tables.
    pub(crate) temporary: Temporary,
    pub(crate) tokens: Tokens,
    pub(crate) legs: Legs,
    pub(crate) block: Option<Box<Block>>,
    pub(crate) open_run: Option<OpenRun>,
    pub(crate) script: Script,
    /// What the client listens to.
    pub(crate) subscriptions: Subscriptions,
    /// What the client was told of the server's parameters.
    pub(crate) told: Arc<Parameters>,
    /// The settings when what runs without a block began.
    pub(crate) implicit_start: Option<Mark>,
    /// After an error in the extended protocol: everything up to Sync is skipped.
    pub(crate) skipping: bool,
    /// What the last request left could not be kept, and the client has not heard of it yet.
    pub(crate) unkept: Option<Box<PgError>>,
    /// DDL was committed: the catalog is read again before the next request.
    pub(crate) catalog_changed: bool,
    /// Whether the request at hand was held for want of a primary.
    pub(crate) hold: Option<Box<Hold>>,
    /// Rotates between equal servers and shards.
    pub(crate) turn: usize,
    /// What the plan cache is asked with, as of which stamp.
    pub(crate) plan_key: Option<(PlanStamp, ContextKey)>,
    /// Reads in a row that went to the primary because no replica was known to show enough.
    pub(crate) reads_on_primary: u32,
    /// The client went away in the middle of a request: no other is done for it.
    pub(crate) client_left: bool,
    /// The bytes from and to the client that its database's metrics have.
    counted: (u64, u64),
    /// What the client asked for at its startup.
    pub(crate) beginning: Arc<Beginning>,
    /// Whether the request at hand takes back settings that the client began with.
    pub(crate) resets_startup: bool,
    pub(crate) requests: RequestReader,
    /// Room for the steps of the next run of messages.
    pub(crate) spare_steps: Vec<(Step, Frame)>,
    /// So many requests have come without a pause.
    pub(crate) in_quick_succession: u8,
    generations: u64,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Serves a client until it leaves, is sent away, or is lost. Dropping the future closes its connections.
pub async fn run(login: Box<Login>) {
    let mut session = Session::new(login);
    session.serve().await;
    session.registration.look_out(false);
    session.leave_listening();
    session.count_bytes();
    Box::pin(session.give_legs_back()).await;
    if session.client_left {
        // one that has only ended its sending half still reads
        let _ = timeout(FAREWELL_LIMIT, session.client.flush()).await;
    }
}

impl Session {
    fn new(login: Box<Login>) -> Self {
        let login = *login;
        let generations = login.client.id().0 << 24;
        let pools = login.database.pools().settings();
        let mode = pools.mode_of(&login.user.name);
        let startup = login
            .settings
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let beginning = login.database.beginnings().of(startup.collect());
        Self {
            phase: login.herd.phase(),
            herd: login.herd,
            rules: login.database.rules(),
            database: login.database,
            user: login.server_login,
            user_name: login.user.name.clone(),
            user_timeouts: login.user.timeouts,
            client: login.transport,
            registration: login.client,
            settings: beginning.settings().clone(),
            beginning,
            statements: Statements::default(),
            cursors: HashMap::new(),
            temporary: Temporary::default(),
            tokens: Tokens::default(),
            legs: Legs::new(mode),
            block: None,
            open_run: None,
            script: Script::default(),
            subscriptions: Subscriptions::default(),
            told: login.told,
            implicit_start: None,
            skipping: false,
            unkept: None,
            catalog_changed: false,
            hold: None,
            turn: usize::try_from(generations >> 24).unwrap_or_default(),
            reads_on_primary: 0,
            plan_key: None,
            resets_startup: false,
            client_left: false,
            counted: (0, 0),
            requests: RequestReader::default(),
            spare_steps: Vec::new(),
            in_quick_succession: 0,
            generations,
        }
    }

    async fn serve(&mut self) {
        Box::pin(self.fix_search_path()).await;
        if let Err(Failure::Fatal(error) | Failure::Refused(error)) = self.begin_overrides() {
            self.say_farewell(*error).await;
            return;
        }
        loop {
            let ended = match self.next_request().await {
                Ok(Request::Terminate) => return,
                // boxed: a session that waits for a request has no room for the work on one
                Ok(request) => Box::pin(self.take_turn(request)).await,
                Err(failure) => Err(failure),
            };
            match ended {
                Ok(()) if self.client_left => return,
                Ok(()) => {}
                Err(Failure::ClientGone) => return,
                Err(Failure::Fatal(error) | Failure::Refused(error)) => {
                    self.say_farewell(*error).await;
                    return;
                }
            }
        }
    }

    /// One request, and what is due before the next.
    async fn take_turn(&mut self, request: Request) -> Result<(), Failure> {
        self.take_rules();
        self.begin_implicit();
        let after = self.registration.begin_request(Instant::now());
        self.note_pace(after);
        let answered = self.answer_in_time(request).await;
        self.hold = None;
        answered?;
        if self.client_left {
            return Ok(());
        }
        self.between_requests().await
    }

    /// The last that a client hears.
    async fn say_farewell(&mut self, mut error: PgError) {
        error.severity = Severity::Fatal;
        error.encode(&mut self.client.outbox);
        // it may be gone already, or take nothing: there is nobody else to tell
        let _ = timeout(FAREWELL_LIMIT, self.client.flush()).await;
    }

    /// What the request at hand changes without a block is undone if it fails.
    fn begin_implicit(&mut self) {
        if self.block.is_none() && self.open_run.is_none() {
            self.implicit_start = Some(self.settings.mark());
        }
    }

    /// One request, its errors told.
    pub(crate) async fn answer(&mut self, request: Request) -> Result<(), Failure> {
        let result = match request {
            Request::Query(frame) if !self.skipping => self.simple(&frame).await,
            Request::FunctionCall(frame) if !self.skipping => self.function_call(&frame).await,
            // Postgres discards these too until Sync
            Request::Query(_) | Request::FunctionCall(_) | Request::Terminate => return Ok(()),
            Request::Run(frames, end) => {
                let result = self.extended(&frames, end).await;
                self.requests.recycle(frames);
                return result;
            }
        };
        match result {
            Err(Failure::Refused(error)) => {
                if let Err(lost) = self.abort_open_run().await {
                    // the client hears of what came first
                    tracing::debug!(
                        ?lost,
                        "a pipeline could not be rolled back: its server is gone"
                    );
                }
                self.refuse(&error);
                self.fail_block();
                self.ready();
                Ok(())
            }
            other => other,
        }
    }

    /// Tells the client why its request cannot be done.
    pub(crate) fn refuse(&mut self, error: &PgError) {
        self.script.clear();
        self.database.metrics().error(error.code.as_str());
        error.encode(&mut self.client.outbox);
    }

    /// Gives connections back, and reads the catalog again where DDL was committed.
    ///
    /// # Errors
    /// What ends the session.
    async fn between_requests(&mut self) -> Result<(), Failure> {
        self.count_bytes();
        self.settle_cancels().await;
        self.settle_listening().await;
        self.end_failed_statement().await;
        self.let_go().await?;
        if self.open_run.is_none() {
            self.legs.release();
        }
        if self.catalog_changed && self.block.is_none() {
            self.catalog_changed = false;
            self.database.catalog_requests().note_change();
            if !self.sharding().is_unsharded() {
                self.reload_catalog().await;
            }
        }
        let state = match self.status() {
            TransactionStatus::Idle => ClientState::Idle,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                ClientState::IdleInTransaction
            }
        };
        self.registration.set_state(state);
        Ok(())
    }

    /// Adds what has passed since to the database's metrics.
    fn count_bytes(&mut self) {
        let (read, written) = (self.client.bytes_read(), self.client.bytes_written());
        let metrics = self.database.metrics();
        metrics.bytes_in(read - self.counted.0);
        metrics.bytes_out(written - self.counted.1);
        self.counted = (read, written);
    }

    /// Brings the connections to where others may have them: what a client that leaves has begun is rolled back. A server that does not
    /// do it in time is closed, and so is what the client left something on.
    async fn give_legs_back(&mut self) {
        let roll_back = async {
            self.abort_open_run().await?;
            if self.block.is_some() {
                let rollback = Action::Rollback { chain: false };
                self.control(&rollback, "ROLLBACK").await?;
            }
            Ok::<(), Failure>(())
        };
        match timeout(PARTING_LIMIT, roll_back).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                tracing::debug!(?failure, "a transaction could not be rolled back");
            }
            Err(_) => tracing::debug!("a server took too long to roll a transaction back"),
        }
        self.settle_cancels().await;
        self.legs.release();
        self.close_legs().await;
    }

    /// Gives up what is still held, and with it all that the client has left there.
    pub(crate) async fn close_legs(&mut self) {
        match self.legs.mode() {
            PoolMode::Session => self.legs.reset_all().await,
            PoolMode::Transaction | PoolMode::Statement => self.legs.close_all(),
        }
    }

    /// On a sharded database plans rely on what names mean, so every server is told the search path, though it may be only what a
    /// new session begins with: ALTER ROLE reaches connections at different times.
    async fn fix_search_path(&mut self) {
        let given = self.beginning.value("search_path").is_some();
        if given || self.sharding().is_unsharded() {
            return;
        }
        if self.catalog_version() == 0 {
            self.reload_catalog().await;
        }
        let catalog = self.catalog();
        let path: Vec<String> = catalog
            .settings()
            .search_path_of(&self.user.name)
            .iter()
            .map(|schema| quote_identifier(schema))
            .collect();
        let mut startup = self.beginning.startup().to_vec();
        startup.push(("search_path".into(), path.join(", ").into()));
        self.beginning = self.database.beginnings().of(startup.into());
        self.settings = self.beginning.settings().clone();
    }

    /// The settings of the startup message, and none besides.
    pub(crate) fn begin_settings(&mut self) {
        self.beginning.put(&mut self.settings);
    }

    /// pgherd's own settings in the startup message.
    fn begin_overrides(&mut self) -> Result<(), Failure> {
        let beginning = Arc::clone(&self.beginning);
        for (name, value) in beginning.startup() {
            let name = name.to_ascii_lowercase();
            if !is_own_setting(&name) {
                continue;
            }
            let Some(known) = OverrideName::from_setting(&name) else {
                return Err(PgError::fatal(
                    SqlState::UNDEFINED_OBJECT,
                    format!("unrecognized configuration parameter \"{name}\""),
                )
                .into());
            };
            self.set_override(&SettingAction {
                scope: SettingScope::Session,
                name: Some(name.into()),
                value: SettingValue::Texts([value.clone()].into()),
                override_name: Some(known),
            })?;
        }
        Ok(())
    }

    /// RESET ALL and DISCARD ALL lead back to the startup message, which was accepted once.
    pub(crate) fn begin_overrides_again(&mut self) {
        if let Err(failure) = self.begin_overrides() {
            tracing::debug!(
                ?failure,
                "a setting of the startup message does not fit any more"
            );
        }
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

/// A string literal that reads the same whatever standard_conforming_strings is.
pub fn quoted_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}
