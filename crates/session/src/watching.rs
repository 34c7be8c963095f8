//! A write without a block, sent so that a failover leaves nobody in doubt of it: the transaction's id is on its way before it commits.
//!
//! Owns: which statements can be sent so, and what is sent. The write and the question for the id are one implicit transaction of extended
//! messages: a Flush has the server send the id, and only then Sync commits. Never does: finding out what became of it (`committing`).
//! Main functions: [`Session::watch_write`], [`queue_watched`], [`queue_probe`].

use bytes::BytesMut;
use pgherd_pool::{PoolMode, ServerConnection, Shape};
use pgherd_protocol::frontend::{encode_bind, encode_parse};
use pgherd_protocol::{FrontendMessage, Target};
use pgherd_router::{Access, Action, StatementPlan};
use pgherd_topology::NodeId;

use crate::committing::{ASK, ASK_AND_INSIST, Watch};
use crate::failure::Failure;
use crate::legs::encode;
use crate::read_only::first_word;
use crate::repeating::{Asked, is_undone};
use crate::route::Route;
use crate::script::{Audience, Prepared, Reply, Script};
use crate::session::Session;

/// So many bytes of an answer are kept back until the write is known to be committed: it can be run again as long as its client has nothing
/// of them.
pub(crate) const HELD_BACK: usize = 64 * 1024;

/// The first words of statements that do the same in either protocol.
const WATCHED: &[&str] = &["insert", "update", "delete", "merge", "with", "select"];

const NAME: &[u8] = b"pgherd_watch";

/// Whether a statement can be sent as extended messages with others behind it, and run again if nothing is left of it.
pub(crate) fn is_watchable(statement: &StatementPlan, text: &str) -> bool {
    matches!(statement.action, Action::Run)
        && is_undone(statement, text)
        && WATCHED.contains(&first_word(text).to_ascii_lowercase().as_str())
}

impl Session {
    /// Has the script ask for the id of a write's transaction, where that can tell what became of it.
    pub(crate) fn watch_write(
        &mut self,
        node: NodeId,
        route: &Route,
        asked: &Asked<'_>,
    ) -> Option<Watch> {
        let is_alone = self.block.is_none();
        let mode = self.legs.mode();
        let leg = self.legs.at(node);
        let can_tell = leg.promotes
            && is_alone
            && !leg.sticky
            && route.access == Access::Write
            && route.pins.is_none();
        if !can_tell || mode == PoolMode::Session || !(asked.is_watchable)() {
            return None;
        }
        let probe = if leg.synchronous { ASK_AND_INSIST } else { ASK };
        self.script.watch(probe);
        Some(Watch {
            shard: leg.shard,
            epoch: leg.connection.epoch(),
            is_write: true,
        })
    }
}

/// Queues a simple query as extended messages, the probe and Sync behind it. Its client hears what it would have heard of the query.
///
/// # Errors
/// 54000 where it does not fit a message.
pub(crate) fn queue_watched(
    connection: &mut ServerConnection,
    script: &mut Script,
    text: &[u8],
    probe: &str,
) -> Result<(), Failure> {
    connection.prepared.forget_unnamed();
    let out = &mut connection.transport.outbox;
    encode_parse(out, b"", text, [])?;
    bind(out, b"")?;
    let describe = FrontendMessage::Describe {
        target: Target::Portal,
        name: b"",
    };
    encode(&describe, out)?;
    execute(out, b"")?;
    script.expect(
        Reply::Parse(Prepared::Own, Shape::default()),
        Audience::Unasked,
    );
    script.expect(Reply::Bind, Audience::Unasked);
    script.expect(Reply::Columns, Audience::Client);
    script.expect(Reply::Held, Audience::Client);
    queue_probe(connection, script, probe)?;
    encode(&FrontendMessage::Sync, &mut connection.transport.outbox)?;
    script.expect(Reply::Sync, Audience::Client);
    Ok(())
}

/// Queues the question for the transaction's id, whose answer the server sends before it reads on.
///
/// # Errors
/// 54000, never in practice.
pub(crate) fn queue_probe(
    connection: &mut ServerConnection,
    script: &mut Script,
    probe: &str,
) -> Result<(), Failure> {
    let out = &mut connection.transport.outbox;
    let close = FrontendMessage::Close {
        target: Target::Statement,
        name: NAME,
    };
    // one that failed half-way has left it
    encode(&close, out)?;
    encode_parse(out, NAME, probe.as_bytes(), [])?;
    bind(out, NAME)?;
    execute(out, NAME)?;
    encode(&close, out)?;
    encode(&FrontendMessage::Flush, out)?;
    for reply in [
        Reply::Close,
        Reply::Parse(Prepared::Aside, Shape::default()),
        Reply::Bind,
        Reply::Probe,
        Reply::Close,
    ] {
        script.expect(reply, Audience::Unasked);
    }
    Ok(())
}

fn bind(out: &mut BytesMut, name: &[u8]) -> Result<(), Failure> {
    let none = std::iter::empty::<Option<&[u8]>>();
    Ok(encode_bind(out, name, name, [], none, [])?)
}

fn execute(out: &mut BytesMut, portal: &[u8]) -> Result<(), Failure> {
    encode(
        &FrontendMessage::Execute {
            portal,
            max_rows: 0,
        },
        out,
    )
}
