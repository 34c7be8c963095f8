//! Server connections that stay with a client beyond its transactions, for what it left on them can neither be carried over nor made again.
//!
//! Owns: the bound on their number (`max_pinned`), held before the statement that would need one more; and letting a connection go once
//! its server says that nothing is left. There is no book of what a client has: the server knows. In mode session there is neither.
//! Never does: deciding what a statement leaves (router). Main functions: [`Session::reserve_pin`], [`Session::pin`],
//! [`Session::let_go`].

use std::fmt::Write;
use std::future::poll_fn;
use std::task::Poll;

use pgherd_pool::{AllPinned, PoolMode};
use pgherd_protocol::{PgError, SqlState, TransactionStatus};
use pgherd_router::{
    Action, Residue, SettingAction, SettingScope, SettingValue, StatementPlan, ValueEncoding,
};
use pgherd_topology::NodeId;

use crate::failure::Failure;
use crate::own::Trouble;
use crate::prepare::executes_within;
use crate::route::Route;
use crate::session::Session;
use crate::temporary::Temporary;

/// Nobody's number: what is tainted by it is cleaned before anybody has it.
const NOBODY: u64 = 0;

/// So many clients are named to one that may keep nothing.
const MOST_NAMED: usize = 5;

/// What [`REMAINS`] tells of, in its order.
const ASKABLE: [&str; 3] = ["temporary table", "advisory lock", "cursor with hold"];

/// Whether anything is left of what a server can be asked for.
const REMAINS: &str = "SELECT \
  EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
  EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
    AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
  EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";

/// Why a connection stays with its client; the words of [`Residue::names`] and a few more.
#[derive(Debug, Default)]
pub struct Pins {
    reasons: Vec<&'static str>,
    /// What was done may have taken them away.
    ask: bool,
}

impl Pins {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Whether this is one of them.
    pub fn contains(&self, reason: &str) -> bool {
        self.reasons.contains(&reason)
    }

    /// Adds one.
    pub fn add(&mut self, reason: &'static str) {
        if !self.contains(reason) {
            self.reasons.push(reason);
        }
    }

    /// As they are shown.
    pub fn shown(&self) -> String {
        self.reasons.join(", ")
    }

    /// Whether DISCARD ALL takes them all away.
    pub fn can_be_discarded(&self) -> bool {
        !self.contains("library")
    }

    fn may_be_gone(&self) -> bool {
        self.ask && ASKABLE.iter().any(|reason| self.contains(reason))
    }

    /// Keeps those of the askable ones that remain.
    fn keep(&mut self, remaining: &[&'static str]) {
        self.reasons
            .retain(|reason| !ASKABLE.contains(reason) || remaining.contains(reason));
    }
}

/// What a statement leaves that neither follows the client nor is cleaned up after.
fn kept_residue(statement: &StatementPlan) -> Residue {
    // what is listened to is followed by `note_listening`, what is set by `note_set`, what is drawn by `keep_sequences_apart`
    let followed = match &statement.action {
        Action::Set(_) | Action::SetConfig(_) | Action::SetTransaction(..) => Residue::SETTING,
        Action::Prepare { .. } | Action::Execute { .. } => Residue::PREPARED,
        _ => Residue::LISTEN,
    };
    let cleaned = Residue::OPAQUE | Residue::RELEASE | Residue::SEQUENCE | Residue::ASKS_SEQUENCE;
    statement.residue.without(followed).without(cleaned)
}

impl Session {
    /// Why a statement will need a connection of the client's own, as far as that is known before it runs.
    pub(crate) fn will_pin(&self, statement: &StatementPlan) -> Option<&'static str> {
        if self.legs.mode() == PoolMode::Session {
            return None;
        }
        let statement = self.run_by(statement)?;
        if let Action::Set(setting) = &statement.action {
            return self.set_pins(setting).then_some("setting");
        }
        let kept = kept_residue(statement);
        if self.ends_with_block(statement, kept) {
            return None;
        }
        kept.names().last()
    }

    /// A temporary table that is dropped with the block at hand, which has its connection as long as that.
    fn ends_with_block(&self, statement: &StatementPlan, kept: Residue) -> bool {
        self.block.is_some()
            && kept == Residue::TEMPORARY
            && statement.residue.contains(Residue::RELEASE)
    }

    /// Whether a SET makes what only that connection can have: a value that is not known here, or one that cannot be made twice.
    pub(crate) fn set_pins(&self, setting: &SettingAction) -> bool {
        if setting.scope == SettingScope::Local {
            return false;
        }
        match &setting.value {
            SettingValue::Opaque => true,
            SettingValue::Default => false,
            SettingValue::Texts(texts) => {
                matches!(
                    setting.name.as_deref(),
                    Some("seed" | "session_authorization")
                ) || (texts.iter().any(|text| !text.is_ascii())
                    && self.encoding() != ValueEncoding::SameAsServer)
            }
        }
    }

    /// Takes a place among the connections that clients may keep, ahead of a request that will need it. Given up by
    /// [`crate::legs::Legs::release`] where nothing was left after all.
    ///
    /// # Errors
    /// 53300 with who has the places.
    pub(crate) fn reserve_pin(&mut self, node: NodeId, route: &Route) -> Result<(), Failure> {
        let Some(reason) = route.pins else {
            return Ok(());
        };
        match self.legs.at(node).connection.pin() {
            Ok(()) => Ok(()),
            Err(full) => Err(self.all_pinned(node, reason, &full).into()),
        }
    }

    /// What a statement leaves, an EXECUTE what it runs: anything where that is made in the same text.
    fn residue(&self, statement: &StatementPlan) -> Residue {
        self.run_by(statement)
            .map_or(Residue::OPAQUE, |run| run.residue)
    }

    /// Has a connection cleaned before anybody else gets it, whatever becomes of these statements: an error undoes no advisory lock, and not all
    /// that unread code does. A definition calls functions too (defaults, event triggers).
    pub(crate) fn taint<'s>(
        &mut self,
        node: NodeId,
        mut statements: impl Iterator<Item = &'s StatementPlan>,
    ) {
        let leaves = Residue::OPAQUE | Residue::UNREAD | Residue::ADVISORY_LOCK;
        let mut prepares = false;
        let taints = statements.any(|statement| match statement.action {
            Action::Ddl(_) => true,
            // what its name stands for is not known yet
            Action::Execute { .. } if prepares => true,
            _ => {
                prepares |= matches!(statement.action, Action::Prepare { .. });
                self.residue(statement).has_any(leaves)
            }
        });
        if taints {
            self.legs.at(node).connection.tainted_by = Some(self.registration.id().0);
        }
    }

    /// Notes what a statement that completed has left, and what it may have taken away.
    pub(crate) fn note_residue(&mut self, statement: &StatementPlan, text: &str, node: NodeId) {
        let residue = self.residue(statement);
        let leg = self.legs.at(node);
        leg.hears |=
            residue.has_any(Residue::OPAQUE | Residue::UNREAD) || executes_within(statement, text);
        let kept = kept_residue(statement);
        for reason in kept.names() {
            if self.ends_with_block(statement, kept) {
                self.pin_anyway(node, reason);
            } else {
                self.pin(node, reason);
            }
        }
        if residue.contains(Residue::RELEASE) {
            self.legs.at(node).pins.ask = true;
        }
    }

    /// Keeps a connection with the client: what it does on that shard goes there from now on. Where there is no place left, for what was
    /// not known before, the client hears of it at its next statement, and the connection is cleaned when it gives it back.
    pub(crate) fn pin(&mut self, node: NodeId, reason: &'static str) {
        if self.legs.mode() == PoolMode::Session {
            return;
        }
        match self.legs.at(node).connection.pin() {
            Ok(()) => self.note_pin(node, reason),
            Err(full) => {
                let error = self.all_pinned(node, reason, &full);
                self.unkept.get_or_insert(Box::new(error));
                self.legs.at(node).connection.tainted_by = Some(NOBODY);
            }
        }
    }

    /// Keeps a connection though there be no place left: for what ends by itself, or cannot be taken away.
    pub(crate) fn pin_anyway(&mut self, node: NodeId, reason: &'static str) {
        if self.legs.mode() != PoolMode::Session {
            self.legs.at(node).connection.pin_anyway();
            self.note_pin(node, reason);
        }
    }

    fn note_pin(&mut self, node: NodeId, reason: &'static str) {
        let in_block = self.block.is_some();
        let leg = self.legs.at(node);
        // what is made in a block may be gone when it ends
        leg.pins.ask |= in_block;
        if !leg.pins.contains(reason) {
            leg.pin(reason);
            self.database.metrics().pinned(reason);
        }
    }

    /// A request failed after some of its statements had completed: what they have left may be undone.
    pub(crate) fn doubt_pins(&mut self, node: NodeId) {
        if let Some(leg) = self.legs.get(node) {
            leg.pins.ask = true;
        }
    }

    /// 53300 for what the last request left and there was no place for, once.
    ///
    /// # Errors
    /// That.
    pub(crate) fn tell_unkept(&mut self) -> Result<(), Failure> {
        match self.unkept.take() {
            None => Ok(()),
            Some(mut error) => {
                error.message = "what the last statement left on its connection is lost".into();
                Err(Failure::Refused(error))
            }
        }
    }

    /// Gives connections back on which nothing is left: asks the servers of those where something was done that may have taken it away.
    ///
    /// # Errors
    /// What ends the session: a server was lost, and what it held with it.
    pub(crate) async fn let_go(&mut self) -> Result<(), Failure> {
        let doubtful = |leg: &&crate::legs::Leg| {
            leg.pins.may_be_gone()
                && !leg.in_block
                && leg.connection.status() == TransactionStatus::Idle
        };
        if self.block.is_some() || self.open_run.is_some() {
            return Ok(());
        }
        let mut told = false;
        while let Some(node) = self.legs.find(doubtful) {
            if !std::mem::replace(&mut told, true) {
                self.send_what_goes_at_once().await;
            }
            self.legs.at(node).pins.ask = false;
            match self.ask_what_remains(node).await {
                Ok(remaining) => self.note_remaining(node, &remaining),
                // it stays with the client
                Err(Trouble::Refused(error)) => {
                    tracing::debug!(%error.message, "a server does not say what is left on a connection");
                }
                Err(Trouble::Lost(failure)) => return Err(state_lost(failure)),
            }
        }
        Ok(())
    }

    /// The client has its answer before the server is asked, unless it is slow to take it.
    async fn send_what_goes_at_once(&mut self) {
        poll_fn(|context| {
            // an error is met again by who waits for the next request
            let _ = self.client.poll_flush(context);
            Poll::Ready(())
        })
        .await;
    }

    async fn ask_what_remains(&mut self, node: NodeId) -> Result<Vec<&'static str>, Trouble> {
        let mut remaining = Vec::new();
        self.execute_for_rows(node, REMAINS, |row| {
            let found = ASKABLE.iter().zip(row);
            remaining.extend(
                found
                    .filter(|(_, is_left)| **is_left == Some("t"))
                    .map(|(reason, _)| *reason),
            );
        })
        .await?;
        Ok(remaining)
    }

    fn note_remaining(&mut self, node: NodeId, remaining: &[&'static str]) {
        let leg = self.legs.at(node);
        let had_tables = leg.pins.contains("temporary table");
        leg.pins.keep(remaining);
        if leg.pins.is_empty() {
            leg.unpin();
        } else {
            leg.show_pins();
        }
        if had_tables && !remaining.contains(&"temporary table") {
            self.temporary = Temporary::None;
        }
    }

    /// 53300 that names who has the places of a connection's pool, and why.
    fn all_pinned(&mut self, node: NodeId, reason: &str, full: &AllPinned) -> PgError {
        let server = self.legs.at(node).connection.server().name.clone();
        let user = &self.user.name;
        let mut holders = Vec::new();
        for client in self.herd.clients().snapshot() {
            let identity = client.identity();
            if *identity.database != *self.database.name() {
                continue;
            }
            let held = client.held();
            let mine = held
                .iter()
                .filter(|held| held.node == node && full.pids.contains(&held.pid));
            holders.extend(mine.map(|held| {
                let reason = held.pin.as_ref().map_or("what it runs", |pin| &*pin.reason);
                format!(
                    "client {} (user \"{}\", application \"{}\") for {reason}",
                    client.id().0,
                    identity.user,
                    client.application_name()
                )
            }));
        }
        let mut detail = format!(
            "{} of {} connections are kept (pool: max_pinned)",
            full.pids.len(),
            full.most
        );
        for (index, holder) in holders.iter().take(MOST_NAMED).enumerate() {
            let lead = if index == 0 { ": by" } else { ", by" };
            // a string takes all
            let _ = write!(detail, "{lead} {holder}");
        }
        if let Some(more) = holders
            .len()
            .checked_sub(MOST_NAMED)
            .filter(|more| *more > 0)
        {
            let _ = write!(detail, ", and {more} more");
        }
        detail.push('.');
        PgError::error(
            SqlState::TOO_MANY_CONNECTIONS,
            format!("no connection of user \"{user}\" to server {server} may be kept for: {reason}"),
        )
        .detail(detail)
        .hint(
            "SHOW PINS on the console lists them. Use what ends with the transaction, raise max_pinned, or set the pool's mode: session.",
        )
    }
}

/// What only a server had that is gone (a lock, a temporary table, LISTEN): the client must know, so it ends.
pub fn state_lost(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(error) => Failure::Fatal(Box::new(
            PgError::fatal(SqlState::ADMIN_SHUTDOWN, error.message).detail(
                "The server connection held state of this session that cannot be made again.",
            ),
        )),
        other => other,
    }
}
