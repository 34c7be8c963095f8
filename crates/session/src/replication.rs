//! Replication connections, one to one.
//!
//! Owns: the server that such a client gets (a connection of its own, begun as the client asked), and passing bytes between the two until
//! one ends. Never does: reading what passes, or pooling. Postgres documentation, chapter 55.4 (Streaming Replication Protocol).
//! Main functions: [`connect`], [`replicate`].

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgherd_pool::{ServerConnection, Target, Transport, UserLogin};
use pgherd_protocol::{PgError, Severity, SqlState};
use pgherd_topology::{NodeState, ShardId, ShardState};
use tokio::time::timeout;

use crate::herd::{Database, Herd, Phase};
use crate::options::{Replication, StartupOptions};
use crate::parameters::is_own_setting;
use crate::registry::{HeldServer, Registration};

/// How long a client waits for a server that can be asked.
const SERVER_WAIT: Duration = Duration::from_secs(5);
/// So many bytes one end may not have taken yet when more is read from the other.
const HIGH_WATER: usize = 128 * 1024;

/// A client that has logged in to replicate, and its server connection.
#[derive(Debug)]
pub struct ReplicationLogin {
    /// The client's connection.
    pub(crate) client: Transport,
    /// The server's.
    pub(crate) server: ServerConnection,
    /// What all sessions share.
    pub(crate) herd: Arc<Herd>,
    /// The database.
    pub(crate) database: Arc<Database>,
    /// Its place in the registry.
    pub(crate) registration: Registration,
}

/// Opens the server connection of a client that wants to replicate: to the primary of the shard that it names, or to a replica of it where
/// `pgherd.role` says so.
///
/// # Errors
/// FATAL: 0A000 where there are several shards and it names none, 57P03 where the shard has no such server, and what the server says.
pub(crate) async fn connect(
    database: &Database,
    login: &Arc<UserLogin>,
    kind: Replication,
    options: &StartupOptions,
) -> Result<ServerConnection, PgError> {
    if database.is_read_only() {
        return Err(PgError::fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            "a database that is only read from takes no replication connections",
        ));
    }
    let shard = shard(database, options)?;
    let wants_replica = match options.setting("pgherd.role") {
        None | Some("" | "primary") => false,
        Some("replica") => true,
        Some(_) => {
            return Err(PgError::fatal(
                SqlState::INVALID_PARAMETER_VALUE,
                "invalid value for \"pgherd.role\": it is \"primary\" or \"replica\"",
            ));
        }
    };
    let mut parameters = vec![("replication".to_owned(), kind.as_str().to_owned())];
    parameters.extend(
        options
            .settings
            .iter()
            .filter(|(name, _)| !is_own_setting(name))
            .cloned(),
    );
    let mut watch = database.watch_topology();
    let found = watch.wait_for(|topology| {
        topology
            .shard(shard)
            .is_some_and(|shard| server(shard, wants_replica).is_some())
    });
    let topology = match timeout(SERVER_WAIT, found).await {
        Ok(Ok(topology)) => Arc::clone(&topology),
        Ok(Err(_)) | Err(_) => return Err(no_server(database, shard, wants_replica)),
    };
    let target = topology
        .shard(shard)
        .and_then(|shard| Some(Target::new(shard, server(shard, wants_replica)?)))
        .ok_or_else(|| no_server(database, shard, wants_replica))?;
    let opened = database
        .pools()
        .open_replication(login, &target, &parameters)
        .await;
    opened.map_err(|error| PgError {
        severity: Severity::Fatal,
        ..error.to_pg_error()
    })
}

fn server(shard: &ShardState, wants_replica: bool) -> Option<&NodeState> {
    if wants_replica {
        shard.replicas().next()
    } else {
        shard.primary()
    }
}

/// The shard whose server is replicated from.
fn shard(database: &Database, options: &StartupOptions) -> Result<ShardId, PgError> {
    let sharding = database.sharding();
    let named = options.setting("pgherd.shard");
    if let Some(shard) = named.and_then(|name| sharding.shard_by_name(name)) {
        // a name that there is not was refused before
        return Ok(shard);
    }
    if sharding.is_unsharded() {
        return Ok(ShardId(0));
    }
    Err(PgError::fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "a replication connection to a sharded database must name its shard",
    )
    .detail("Each shard is a Postgres of its own, with its own log and its own slots.")
    .hint("Connect with options='-c pgherd.shard=NAME', once for each shard."))
}

fn no_server(database: &Database, shard: ShardId, wants_replica: bool) -> PgError {
    let kind = if wants_replica { "replica" } else { "primary" };
    PgError::fatal(
        SqlState::CANNOT_CONNECT_NOW,
        format!(
            "shard \"{}\" of database \"{}\" has no {kind} that can be reached",
            database.sharding().shard_name(shard),
            database.name()
        ),
    )
}

/// Passes bytes between a client and its server until one of them ends, or pgherd drains: a stream has no end to wait for. Dropping the
/// future closes both.
pub async fn replicate(login: Box<ReplicationLogin>) {
    let ReplicationLogin {
        mut client,
        mut server,
        herd,
        database,
        registration,
    } = *login;
    registration.begin_request(std::time::Instant::now());
    let held = registration.hold(HeldServer {
        shard: server.shard(),
        node: server.node(),
        pid: server.pid(),
        canceller: server.canceller(),
        pin: None,
    });
    // what the client asks is passed on as it comes
    registration.note_sent();
    let metrics = database.metrics();
    let mut counted = (client.bytes_read(), client.bytes_written());
    let mut phase = herd.phase();
    let relaying = poll_fn(|context| {
        let from_client = poll_pass(&mut client, &mut server.transport, context);
        let from_server = poll_pass(&mut server.transport, &mut client, context);
        let (read, written) = (client.bytes_read(), client.bytes_written());
        metrics.bytes_in(read - counted.0);
        metrics.bytes_out(written - counted.1);
        counted = (read, written);
        if from_client.is_ready() || from_server.is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let draining = async {
        // a herd that is gone drains too
        drop(phase.wait_for(|phase| *phase == Phase::Draining).await);
    };
    tokio::select! {
        () = relaying => {}
        () = draining => {}
        () = registration.sent_away() => {}
    }
    // a cancel request that is on its way hits a connection that nobody else gets
    let _ = registration.try_release(held);
}

/// Passes on what has come. Ready once nothing more will come and all that came is written, or nobody takes it any more.
fn poll_pass(from: &mut Transport, to: &mut Transport, context: &mut Context<'_>) -> Poll<()> {
    loop {
        if let Poll::Ready(Err(_)) = to.poll_flush(context) {
            return Poll::Ready(());
        }
        if to.outbox.len() < HIGH_WATER && !from.inbox.is_empty() {
            if to.outbox.is_empty() {
                std::mem::swap(&mut from.inbox, &mut to.outbox);
            } else {
                to.outbox.extend_from_slice(&from.inbox);
                from.inbox.clear();
            }
            continue;
        }
        if from.has_ended() && from.inbox.is_empty() {
            return if to.is_flushed() {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        if to.outbox.len() >= HIGH_WATER {
            // woken when some of it is taken
            return Poll::Pending;
        }
        // an end is looked at above
        if from.poll_fill(context).is_pending() {
            from.release_buffers();
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use pgherd_pool::Stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    /// Passes all that comes in on one socket to another, and returns when that has ended.
    async fn pass(from: UnixStream, to: UnixStream) {
        let mut from = Transport::new(Stream::unix(from));
        let mut to = Transport::new(Stream::unix(to));
        poll_fn(|context| poll_pass(&mut from, &mut to, context)).await;
    }

    #[tokio::test]
    async fn everything_arrives_before_the_end_does() {
        let (mut source, from) = UnixStream::pair().unwrap();
        let (to, mut sink) = UnixStream::pair().unwrap();
        let passing = tokio::spawn(pass(from, to));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
        let bytes = sent.clone();
        let sending = tokio::spawn(async move { source.write_all(&bytes).await.unwrap() });
        let mut received = Vec::new();
        sink.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        sending.await.unwrap();
        passing.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_that_takes_nothing_ends_it() {
        let (mut source, from) = UnixStream::pair().unwrap();
        let (to, sink) = UnixStream::pair().unwrap();
        drop(sink);
        let passing = tokio::spawn(pass(from, to));
        source.write_all(b"x").await.unwrap();
        passing.await.unwrap();
    }
}
