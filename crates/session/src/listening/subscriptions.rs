//! A session's side of LISTEN and NOTIFY.
//!
//! Owns: what is asked of the hub before a statement is sent and after its transaction, what the client has yet to be told, and when it may be.
//! Never does: deciding what LISTEN means (the server that runs it does). Main type: [`Subscriptions`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgherd_protocol::tag;
use pgherd_router::{Action, StatementPlan, ValueEncoding};
use pgherd_topology::{NodeId, Role, ShardId};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::changes::{Change, Changes};
use super::mailbox::Mailbox;
use super::senders::Sender;
use super::{Command, Commands, Copies, HubParts, lost};
use crate::failure::{Failure, not_supported};
use crate::registry::ClientId;
use crate::route::{Place, Route};
use crate::session::Session;
use crate::transaction::quoted;

/// How long the listening connections may take to hear what was committed. Later, what a client sends carries the server's process id.
const HEARING_LIMIT: Duration = Duration::from_secs(5);

/// So many bytes the client may not have taken yet when it is given more.
const HIGH_WATER: usize = 256 * 1024;

/// ReadyForQuery outside of a transaction block.
const READY: [u8; 6] = [tag::backend::READY_FOR_QUERY, 0, 0, 0, 5, b'I'];

/// What a client listens to, and what it may have sent.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// What LISTEN and UNLISTEN of the open transaction change.
    pub(crate) changes: Changes,
    /// From its first LISTEN on.
    listener: Option<Listener>,
    /// The channels that the transaction may come to listen to.
    reserved: Vec<Box<str>>,
    /// The server processes that may notify for this client.
    sends: SmallVec<[Sends; 1]>,
    /// Notifications, from connections of the client's own, that came with replies to pgherd.
    heard_aside: BytesMut,
}

#[derive(Debug)]
struct Listener {
    client: ClientId,
    mailbox: Arc<Mailbox>,
    hub: Commands,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let client = self.client;
        // a hub that is gone needs no word
        let _ = self.hub.send(Command::Leave { client });
    }
}

/// A server process that may notify for this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sends {
    shard: ShardId,
    node: NodeId,
    process: i32,
}

impl Subscriptions {
    /// Whether there is anything to tell the client.
    pub(crate) fn has_mail(&self) -> bool {
        let listener = self.listener.as_ref();
        !self.heard_aside.is_empty()
            || listener.is_some_and(|listener| !listener.mailbox.is_empty())
    }

    /// Where notifications go that come with replies to pgherd: the client is told once it may be.
    pub(crate) fn heard_aside(&mut self) -> &mut BytesMut {
        &mut self.heard_aside
    }

    /// Waits for something to tell the client; for ever where it does not listen. Cancel-safe.
    pub(crate) async fn mail(&self) {
        match &self.listener {
            Some(listener) => listener.mailbox.filled().await,
            None => std::future::pending().await,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.changes.is_empty() && self.reserved.is_empty() && self.sends.is_empty()
    }
}

impl Session {
    /// To be called before statements are sent that may LISTEN: has their channels heard, so that they take effect at once when they commit.
    ///
    /// # Errors
    /// What opening a listening connection meets: nothing was sent then.
    pub(crate) async fn reserve_channels<'a>(
        &mut self,
        statements: impl Iterator<Item = &'a StatementPlan>,
    ) -> Result<(), Failure> {
        for statement in statements {
            if let Action::Listen(channel) = &statement.action
                && self.listens_apart()?
            {
                self.reserve(channel).await?;
            }
        }
        Ok(())
    }

    /// Whether the listening connections hear for this client: they speak UTF-8. Another encoding needs a connection of one's own.
    fn listens_apart(&self) -> Result<bool, Failure> {
        if self.encoding() == ValueEncoding::SameAsServer {
            return Ok(true);
        }
        if self.sharding().is_unsharded() {
            return Ok(false);
        }
        Err(not_supported(
            "LISTEN on a sharded database needs client_encoding UTF8",
            "Notifications come from every shard, in UTF-8.",
            "SET client_encoding = 'UTF8'.",
        ))
    }

    async fn reserve(&mut self, channel: &str) -> Result<(), Failure> {
        for shard in self.shards() {
            // waits a moment where a new one is about to be found
            self.primary(shard).await?;
        }
        let client = self.registration.id();
        if self.subscriptions.listener.is_none() {
            let hub = self.database.listening().start(|| HubParts {
                pools: self.database.pools().clone(),
                topology: self.database.watch_topology(),
                metrics: Arc::clone(self.database.metrics()),
                clients: Arc::clone(self.herd.clients()),
            });
            self.subscriptions.listener = Some(Listener {
                client,
                mailbox: Arc::default(),
                hub,
            });
        }
        let Some(listener) = &self.subscriptions.listener else {
            return Ok(());
        };
        let (reply, answer) = oneshot::channel();
        // a hub that is gone does not answer
        let _ = listener.hub.send(Command::Reserve {
            client,
            mailbox: Arc::clone(&listener.mailbox),
            channel: channel.into(),
            login: Arc::clone(&self.user),
            reply,
        });
        self.subscriptions.reserved.push(channel.into());
        match answer.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::Refused(error)),
            Err(_) => {
                return Err(lost_while_asking());
            }
        }
        // what this transaction has sent already it is to hear, too
        for node in self.legs.in_block() {
            self.enter_sender(node, None);
        }
        Ok(())
    }

    /// Whether a statement is LISTEN, UNLISTEN or NOTIFY of a sharded database: any shard can do it, as every one is listened to.
    pub(crate) fn is_signal(&self, statement: &StatementPlan) -> bool {
        matches!(
            statement.action,
            Action::Listen(_) | Action::Unlisten(_) | Action::Notify
        ) && !self.sharding().is_unsharded()
            && self.settings.overrides().shard.is_none()
    }

    /// Where such statements go that no other places: where the block writes, so that both are kept or neither, or where it is, else to the home
    /// shard.
    pub(crate) fn place_signals<'a>(
        &self,
        route: &mut Route,
        mut statements: impl Iterator<Item = &'a StatementPlan>,
    ) {
        if route.place != Place::Any || !statements.any(|statement| self.is_signal(statement)) {
            return;
        }
        let block = self.block.as_ref();
        let joined = self
            .legs
            .iter()
            .filter(|leg| leg.in_block && leg.role == Role::Primary)
            .map(|leg| leg.shard)
            .min();
        let writer = block
            .filter(|block| !block.two_phase)
            .and_then(|block| block.writer);
        let shard = writer.or(joined).unwrap_or_else(|| self.sharding().home());
        route.place = Place::Shard(shard);
    }

    /// To be called before a text is sent: whom it notifies for is known from then on, if anybody listens. A transaction that begins to listen
    /// hears all that it sends itself, by triggers too.
    pub(crate) fn announce(&mut self, node: NodeId, sql: &str) {
        let hears_itself = !self.subscriptions.reserved.is_empty();
        if self.database.listening().is_active() && (hears_itself || may_notify(sql)) {
            self.enter_sender(node, None);
        }
    }

    /// To be called before a statement is sent that runs on every shard in turn: what each of them notifies of is heard once.
    pub(crate) fn announce_copies(&mut self, node: NodeId, copies: &Arc<Copies>) {
        if self.database.listening().is_active() {
            self.enter_sender(node, Some(copies));
        }
    }

    fn enter_sender(&mut self, node: NodeId, copies: Option<&Arc<Copies>>) {
        let leg = self.legs.at(node);
        let sends = Sends {
            shard: leg.shard,
            node,
            process: leg.connection.pid(),
        };
        let sender = Sender {
            client: self.registration.id(),
            pid: self.registration.pid(),
            copies: copies.cloned(),
        };
        let senders = &self.database.listening().shared.senders;
        senders.enter(node, sends.process, sender);
        if !self.subscriptions.sends.contains(&sends) {
            self.subscriptions.sends.push(sends);
        }
    }

    /// LISTEN or UNLISTEN completed on a server, which forgets it before anybody else gets the connection.
    pub(crate) fn note_listening(&mut self, change: Change, node: NodeId) {
        let leg = self.legs.at(node);
        if let Change::Listen(channel) = &change {
            if !self.subscriptions.reserved.contains(channel) {
                // the connection is the client's own, and what it hears there comes from there
                leg.hears = true;
                self.pin(node, "listen");
                return;
            }
            if !leg.listened.contains(channel) {
                leg.listened.push(channel.clone());
            }
        }
        self.subscriptions.changes.note(change);
    }

    /// What follows from a request's end for LISTEN and UNLISTEN outside of a block.
    pub(crate) fn end_implicit_changes(&mut self, failed: bool, idle: bool) {
        if self.block.is_none() && (failed || idle) {
            self.subscriptions.changes.end(!failed);
        }
    }

    /// DISCARD ALL.
    pub(crate) fn unlisten_all(&mut self) {
        self.subscriptions.changes.note(Change::UnlistenAll);
        self.subscriptions.changes.end(true);
    }

    /// After a request: what its transaction has changed comes into force, what it has sent is heard, and the client is told what it may be told,
    /// before it is asked for its next request.
    pub(crate) async fn settle_listening(&mut self) {
        if !self.subscriptions.is_at_rest() {
            self.settle_changes().await;
        }
        let at_end = self.block.is_none() && self.open_run.is_none();
        if at_end {
            self.forget_on_servers().await;
        }
        if self.may_hear() && self.subscriptions.has_mail() && self.client.outbox.ends_with(&READY)
        {
            // as Postgres: what came meanwhile goes before ReadyForQuery
            let before = self.client.outbox.len() - READY.len();
            self.client.outbox.truncate(before);
            let heard = self.pass_on_mail();
            self.client.outbox.extend_from_slice(&READY);
            if let Err(failure) = heard {
                // said again, and acted upon, when the next request is waited for
                tracing::debug!(?failure, "a client that listens is to be ended");
            }
        }
    }

    async fn settle_changes(&mut self) {
        let open = self.block.is_some() || self.open_run.is_some();
        if !open {
            self.subscriptions.changes.end(false);
        }
        let changes = self.subscriptions.changes.take_committed();
        let sends: SmallVec<[Sends; 1]> = if open {
            SmallVec::new()
        } else {
            std::mem::take(&mut self.subscriptions.sends)
        };
        let ends = !open && !std::mem::take(&mut self.subscriptions.reserved).is_empty();
        if !changes.is_empty() || ends || !sends.is_empty() {
            self.settle_with_hub(changes, ends || !open, &sends).await;
        }
        for sends in sends {
            let senders = &self.database.listening().shared.senders;
            senders.take_out(sends.node, sends.process);
        }
    }

    /// Waits until the hub has heard all that was committed, and has done what this client's transaction has changed.
    async fn settle_with_hub(&mut self, changes: Vec<Change>, ends: bool, sends: &[Sends]) {
        let listener = self.subscriptions.listener.as_ref();
        let hub = match listener {
            Some(listener) => Some(listener.hub.clone()),
            // UNLISTEN of who never listened
            None if sends.is_empty() => None,
            // who only notifies wants what listens now to hear it
            None => self.database.listening().commands(),
        };
        let Some(hub) = hub else { return };
        let begins = changes
            .iter()
            .any(|change| matches!(change, Change::Listen(_)));
        let shards = if begins {
            Vec::new()
        } else {
            sends.iter().map(|sends| sends.shard).collect()
        };
        let (reply, answer) = oneshot::channel();
        let _ = hub.send(Command::Settle {
            client: self.registration.id(),
            shards,
            changes,
            ends,
            reply,
        });
        let settled = matches!(timeout(HEARING_LIMIT, answer).await, Ok(Ok(_)));
        if !settled
            && begins
            && let Some(listener) = listener
        {
            // it was told that it listens, or is about to be
            let reason =
                "A listening connection was lost, or did not answer, while LISTEN was committed.";
            listener.mailbox.end(lost(reason));
        }
    }

    /// Servers that ran a LISTEN and are to serve others have it no more.
    async fn forget_on_servers(&mut self) {
        while let Some(node) = self
            .legs
            .find(|leg| !leg.listened.is_empty() && !leg.in_block)
        {
            let leg = self.legs.at(node);
            let channels = std::mem::take(&mut leg.listened);
            let text = if leg.hears {
                // code that ran in the same request may have made it listen to others
                let unlisten = channels
                    .iter()
                    .map(|channel| format!("UNLISTEN {};", quoted(channel)));
                unlisten.collect()
            } else {
                "UNLISTEN *".to_owned()
            };
            if let Err(trouble) = self.execute(node, &text).await {
                tracing::debug!(?trouble, "a server connection that listens is closed");
                self.legs.close(node);
            }
        }
    }

    /// Whether notifications may reach the client now: outside of its transaction, and not among the answers to its requests.
    pub(crate) fn may_hear(&self) -> bool {
        self.block.is_none() && self.open_run.is_none() && !self.skipping
    }

    /// Tells the client what there is to tell, as far as it takes it.
    ///
    /// # Errors
    /// Fatal: it has missed something, or takes nothing.
    pub(crate) fn pass_on_mail(&mut self) -> Result<(), Failure> {
        let heard_aside = std::mem::take(&mut self.subscriptions.heard_aside);
        self.client.outbox.extend_from_slice(&heard_aside);
        let Some(listener) = &self.subscriptions.listener else {
            return Ok(());
        };
        let converted = self.encoding() == ValueEncoding::Converted;
        let mut from = SmallVec::<[(ShardId, NodeId); 2]>::new();
        let now = Instant::now();
        while self.client.outbox.len() < HIGH_WATER {
            let message = match listener.mailbox.take() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return Err(Failure::Fatal(error)),
            };
            // behind the tag, the length and the process id
            if converted && !message.frame[9..].is_ascii() {
                let reason = "A notification cannot be shown in the client_encoding that was set after LISTEN.";
                return Err(Failure::Fatal(Box::new(lost(reason))));
            }
            self.client.outbox.extend_from_slice(&message.frame);
            if !from.contains(&(message.shard, message.node)) {
                from.push((message.shard, message.node));
            }
        }
        for (shard, node) in from {
            // what it tells of is seen by the reads that follow
            self.tokens.observe(shard, node, now);
        }
        Ok(())
    }

    /// Takes what a session leaves behind out of what others look at.
    pub(crate) fn leave_listening(&mut self) {
        for sends in std::mem::take(&mut self.subscriptions.sends) {
            let senders = &self.database.listening().shared.senders;
            senders.take_out(sends.node, sends.process);
        }
    }

    /// Whether client bytes are few enough that more may be added.
    pub(crate) fn takes_mail(outbox: &BytesMut) -> bool {
        outbox.len() < HIGH_WATER
    }
}

fn lost_while_asking() -> Failure {
    pgherd_protocol::PgError::error(
        pgherd_protocol::SqlState::CANNOT_CONNECT_NOW,
        "a listening connection was lost",
    )
    .detail("The channel is not listened to.")
    .hint("Try again.")
    .into()
}

/// Whether a text can notify by what it says itself: NOTIFY, or pg_notify.
fn may_notify(sql: &str) -> bool {
    const WORD: &[u8] = b"notify";
    sql.as_bytes()
        .windows(WORD.len())
        .any(|window| window.eq_ignore_ascii_case(WORD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_notifies_by_the_statement_or_the_function() {
        assert!(may_notify("NOTIFY a"));
        assert!(may_notify("select pg_catalog.Pg_Notify('a', 'b')"));
        assert!(!may_notify("SELECT 1"));
        assert!(!may_notify(""));
    }
}
