//! The task that has a database's listening connections.
//!
//! Owns: opening them when the first client listens and closing them a while after the last, asking them and hearing them, and ending all who listen
//! when one of them is lost. Never does: talking to clients. Main type: [`Hub`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pgherd_pool::{Target, UserLogin};
use pgherd_protocol::backend::Notification;
use pgherd_protocol::{BackendMessage, Frame, PgError, SqlState};
use pgherd_topology::{ShardId, Topology};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::channels::Channels;
use super::line::{Heard, Line, Ticket};
use super::mailbox::{Mailbox, Message};
use super::{Change, Command, HubParts, Reply, Shared, lost};
use crate::registry::ClientId;
use crate::transaction::quoted;

/// How often the listening connections are asked for a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// One that has not answered for so long counts as lost.
const SILENCE: Duration = Duration::from_secs(30);
/// How long nothing is read, at most, for the sake of a client that has much to take. Then the others go on.
const MOMENT: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(2);
/// How the servers know them in `pg_stat_activity`.
const NAME: &str = "pgherd listening";
/// How long they stay open while nobody listens.
const LINGER: Duration = Duration::from_secs(60);

/// What waits for answers.
struct Work {
    /// How many connections have not answered yet.
    remaining: usize,
    error: Option<Box<PgError>>,
    then: Then,
    reply: Reply,
}

/// What is done once they all have.
enum Then {
    /// The channel is listened to.
    Reserved,
    /// Everything up to here is heard: the changes are in force.
    Apply {
        client: ClientId,
        changes: Vec<Change>,
        ends: bool,
    },
}

/// What woke the hub.
enum Event {
    Line(usize, Heard),
    Command(Option<Command>),
    Topology,
    Tick,
    Glance,
}

/// The listening connections of a database and their clients.
pub(super) struct Hub {
    shared: Arc<Shared>,
    parts: HubParts,
    commands: mpsc::UnboundedReceiver<Command>,
    channels: Channels,
    /// One to each shard, or none.
    lines: Vec<Line>,
    works: HashMap<Ticket, Work>,
    tickets: u64,
    /// The line that is looked at first.
    turn: usize,
    /// Clients that are given a moment, until when.
    crowded: Vec<(Arc<Mailbox>, Instant)>,
    /// Since when nobody listens.
    idle_since: Instant,
}

impl Hub {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
        parts: HubParts,
    ) -> Self {
        Self {
            shared,
            parts,
            commands,
            channels: Channels::default(),
            lines: Vec::new(),
            works: HashMap::new(),
            tickets: 0,
            turn: 0,
            crowded: Vec::new(),
            idle_since: Instant::now(),
        }
    }

    /// Serves until the database and all sessions on it are gone.
    pub(super) async fn run(mut self) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let listens = !self.lines.is_empty();
            self.turn = self.turn.wrapping_add(1);
            let pauses = !self.crowded.is_empty();
            let (lines, turn) = (&mut self.lines, self.turn);
            let heard = poll_fn(|context| {
                let count = lines.len();
                for offset in 0..count {
                    let index = (turn + offset) % count;
                    if let Poll::Ready(heard) = lines[index].poll(context) {
                        return Poll::Ready((index, heard));
                    }
                }
                Poll::Pending
            });
            let event = tokio::select! {
                (index, heard) = heard, if !pauses => Event::Line(index, heard),
                command = self.commands.recv() => Event::Command(command),
                Ok(()) = self.parts.topology.changed(), if listens => Event::Topology,
                _ = heartbeat.tick(), if listens => Event::Tick,
                () = sleep(GLANCE), if pauses => Event::Glance,
            };
            match event {
                Event::Line(index, Heard::Notification(frame)) => self.deliver(index, &frame),
                Event::Line(_, Heard::Answer(ticket, error)) => self.answered(ticket, error),
                Event::Line(index, Heard::End(reason)) => {
                    let server = self.lines[index].connection.server().name.clone();
                    self.lose(&format!(
                        "The listening connection to server \"{server}\" was lost: {reason}"
                    ));
                }
                Event::Command(Some(command)) => self.obey(command).await,
                Event::Command(None) => return,
                Event::Topology => self.follow_topology(),
                Event::Tick => self.look_after_lines(),
                Event::Glance => self.glance(),
            }
            self.tell();
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve {
                client,
                mailbox,
                channel,
                login,
                reply,
            } => {
                if self.lines.is_empty()
                    && let Err(error) = self.open(&login).await
                {
                    // the session may be gone: nobody else wants to know
                    let _ = reply.send(Err(error));
                    return;
                }
                self.channels.reserve(client, &mailbox, &channel);
                // again, even if it is listened to already: the answer comes behind all that was committed before
                let sql = format!("LISTEN {}", quoted(&channel));
                self.ask(&sql, &[], Then::Reserved, reply);
            }
            Command::Settle {
                client,
                shards,
                changes,
                ends,
                reply,
            } => {
                let then = Then::Apply {
                    client,
                    changes,
                    ends,
                };
                self.ask("", &shards, then, reply);
            }
            Command::Leave { client } => {
                let unneeded = self.channels.leave(client);
                self.unlisten(&unneeded);
            }
        }
    }

    /// Asks every connection, or those to these shards.
    fn ask(&mut self, sql: &str, shards: &[ShardId], then: Then, reply: Reply) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let mut remaining = 0;
        let mut unsent = None;
        for line in &mut self.lines {
            if shards.is_empty() || shards.contains(&line.connection.shard()) {
                match line.ask(sql, Some(ticket)) {
                    Ok(()) => remaining += 1,
                    Err(error) => unsent = Some(PgError::error(error.code(), error.to_string())),
                }
            }
        }
        let work = Work {
            remaining,
            error: unsent.map(Box::new),
            then,
            reply,
        };
        if remaining == 0 {
            self.finish(work);
        } else {
            self.works.insert(ticket, work);
        }
    }

    fn answered(&mut self, ticket: Option<Ticket>, error: Option<Box<PgError>>) {
        let Some(ticket) = ticket else { return };
        let Some(work) = self.works.get_mut(&ticket) else {
            return;
        };
        work.remaining -= 1;
        work.error = work.error.take().or(error);
        if work.remaining == 0
            && let Some(work) = self.works.remove(&ticket)
        {
            self.finish(work);
        }
    }

    fn finish(&mut self, work: Work) {
        let result = match (work.error, work.then) {
            (Some(error), Then::Reserved) => Err(error),
            (None, Then::Reserved) => Ok(()),
            (
                _,
                Then::Apply {
                    client,
                    changes,
                    ends,
                },
            ) => {
                let unneeded = self.channels.apply(client, &changes, ends);
                self.unlisten(&unneeded);
                Ok(())
            }
        };
        let _ = work.reply.send(result);
    }

    fn unlisten(&mut self, channels: &[Box<str>]) {
        for channel in channels {
            let sql = format!("UNLISTEN {}", quoted(channel));
            for line in &mut self.lines {
                // a name of 63 bytes fits
                let _ = line.ask(&sql, None);
            }
        }
    }

    /// Opens one connection to each shard's primary.
    async fn open(&mut self, login: &Arc<UserLogin>) -> Result<(), Box<PgError>> {
        // the sessions that send what is heard from now on are known
        self.shared.active.store(true, Ordering::Release);
        let topology = self.parts.topology.borrow_and_update().clone();
        let mut lines = Vec::with_capacity(topology.shards.len());
        for shard in &topology.shards {
            let primary = shard
                .primary
                .and_then(|primary| shard.nodes.iter().find(|node| node.id == primary))
                .ok_or_else(|| {
                    PgError::error(
                        SqlState::CANNOT_CONNECT_NOW,
                        format!("shard \"{}\" has no primary to listen to", shard.name),
                    )
                    .hint(
                        "Try again: SHOW SHARDS on the console tells what is known of each server.",
                    )
                })?;
            let target = Target::new(shard, primary);
            let opened = self.parts.pools.open_apart(login, &target, NAME).await;
            lines.push(Line::new(opened.map_err(|error| error.to_pg_error())?));
        }
        self.lines = lines;
        Ok(())
    }

    fn deliver(&mut self, index: usize, frame: &Frame) {
        let Ok(BackendMessage::NotificationResponse(heard)) = BackendMessage::parse(frame) else {
            return self.lose("A listening connection sent what is no notification.");
        };
        let connection = &self.lines[index].connection;
        let (shard, node) = (connection.shard(), connection.node());
        let Ok(channel) = std::str::from_utf8(heard.channel) else {
            // no client can name it in its LISTEN
            return;
        };
        let sender = self.shared.senders.find(node, heard.pid);
        let pid = match &sender {
            Some(sender) => sender.pid,
            // a client that looks for its own process id must not find it here
            None if self.parts.clients.has_process(heard.pid) => -heard.pid,
            None => heard.pid,
        };
        let notification = Notification { pid, ..heard };
        let mut bytes = BytesMut::new();
        if let Err(error) = BackendMessage::NotificationResponse(notification).encode(&mut bytes) {
            tracing::error!(%error, "a notification cannot be passed on");
            return self.lose("A notification could not be passed on.");
        }
        let frame: Bytes = bytes.freeze();
        let copies = sender.as_ref().and_then(|sender| sender.copies.as_ref());
        if copies.is_some_and(|copies| !copies.is_new(shard, &frame)) {
            return;
        }
        let message = Arc::new(Message {
            frame,
            channel: channel.into(),
            shard,
            node,
        });
        let sender = sender.map(|sender| sender.client);
        let delivered = self.channels.deliver(&message, sender);
        for _ in 0..delivered.ended {
            self.parts.metrics.listener_ended("too_slow");
        }
        let until = Instant::now() + MOMENT;
        self.crowded
            .extend(delivered.crowded.into_iter().map(|each| (each, until)));
    }

    /// Goes on once those who had much to take have taken it, or had their moment.
    fn glance(&mut self) {
        let now = Instant::now();
        self.crowded
            .retain(|(mailbox, until)| now < *until && mailbox.is_crowded());
    }

    /// A connection is only good for the primary of its epoch, and all shards together for what they were.
    fn follow_topology(&mut self) {
        let topology: Arc<Topology> = self.parts.topology.borrow_and_update().clone();
        let mut moved = None;
        for shard in &topology.shards {
            let line = self
                .lines
                .iter()
                .find(|line| line.connection.shard() == shard.id);
            let stands = line.is_some_and(|line| {
                line.connection.epoch() == shard.epoch
                    && shard
                        .primary
                        .is_none_or(|node| node == line.connection.node())
            });
            if !stands {
                moved = Some(format!(
                    "The primary of shard \"{}\" is another server now.",
                    shard.name
                ));
            }
        }
        if let Some(reason) = moved {
            self.lose(&reason);
        }
    }

    fn look_after_lines(&mut self) {
        if self.channels.is_empty() && self.works.is_empty() {
            if self.idle_since.elapsed() > LINGER {
                self.close();
                return;
            }
        } else {
            self.idle_since = Instant::now();
        }
        let moved = self
            .lines
            .iter()
            .find(|line| self.parts.pools.has_moved(&line.connection));
        if let Some(line) = moved {
            // what is sent to the server that the name stands for now is not heard here
            let server = &line.connection.server().name;
            let reason =
                format!("The host name of server \"{server}\" stands for another address now.");
            return self.lose(&reason);
        }
        let mut silent = None;
        for line in &mut self.lines {
            match line.waits_for() {
                Some(since) if since > SILENCE => {
                    silent = Some(line.connection.server().name.clone());
                }
                Some(_) => {}
                None => {
                    // an empty text fits
                    let _ = line.ask("", None);
                }
            }
        }
        if let Some(server) = silent {
            self.lose(&format!(
                "The listening connection to server \"{server}\" does not answer."
            ));
        }
    }

    /// What was missed is not known: everybody who listens is ended. Who waits for an answer gets none.
    fn lose(&mut self, reason: &str) {
        let ended = self.channels.end_all(&lost(reason));
        tracing::warn!(clients = ended, reason, "a listening connection was lost");
        for _ in 0..ended {
            self.parts.metrics.listener_ended("connection_lost");
        }
        self.works.clear();
        self.close();
    }

    fn close(&mut self) {
        const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
        for line in self.lines.drain(..) {
            let mut transport = line.connection.transport;
            if transport.is_flushed() {
                transport.outbox.extend_from_slice(&TERMINATE);
            } else {
                transport.outbox.clear();
            }
            transport.close_at_once();
        }
    }

    /// Shows what there is now.
    fn tell(&self) {
        self.parts
            .metrics
            .set_listened_channels(self.channels.len());
        let active = !self.lines.is_empty();
        self.shared.active.store(active, Ordering::Release);
    }
}
