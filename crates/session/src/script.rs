//! The replies that a leg still owes, in order.
//!
//! Owns: the queue between what was sent to a server and what is relayed to the client. A reply belongs to the client or to
//! pgherd itself (an injected Parse, a BEGIN that joins a late shard); an answer that pgherd gives without a server stands
//! at its place in the same queue, so that the client sees the order it asked for.
//! Never does: I/O. Main type: [`Script`].

use std::collections::VecDeque;

use bytes::Bytes;
use pgherd_protocol::Target;

/// Who hears a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The client asked for it.
    Client,
    /// pgherd sent the message on its own account: the reply is swallowed, an error in it is kept.
    Pgherd,
}

/// What a message sent to a server will be answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// ParseComplete; the statement is then known on that connection under this name and generation.
    Parse {
        /// The statement's name on the server.
        name: Bytes,
        /// Which text the name stands for.
        generation: u64,
    },
    /// BindComplete.
    Bind,
    /// ParameterDescription (for a statement), then RowDescription or NoData.
    Describe(Target),
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close,
    /// ReadyForQuery.
    Sync,
    /// Everything up to and with ReadyForQuery: a simple query or a function call.
    Query,
}

/// One entry of the queue.
#[derive(Debug)]
pub enum Awaited {
    /// A server's reply.
    Server(Reply, Audience),
    /// An answer of pgherd's own, already encoded.
    Local(Bytes),
}

/// The replies that a leg still owes for one request. Reused from request to request.
#[derive(Debug, Default)]
pub struct Script {
    awaited: VecDeque<Awaited>,
}

impl Script {
    /// Expects a reply.
    pub fn expect(&mut self, reply: Reply, audience: Audience) {
        self.awaited.push_back(Awaited::Server(reply, audience));
    }

    /// Puts an answer of pgherd's own in its place.
    pub fn answer(&mut self, bytes: Bytes) {
        self.awaited.push_back(Awaited::Local(bytes));
    }

    /// The entry that is due.
    pub fn front(&self) -> Option<&Awaited> {
        self.awaited.front()
    }

    /// Takes the entry that is due.
    pub fn pop(&mut self) -> Option<Awaited> {
        self.awaited.pop_front()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.awaited.clear();
    }

    /// After an error in the extended protocol a server skips to the next Sync, and so does the queue. Returns whether a
    /// Sync is among what was sent; if not, the client's messages are to be skipped until it sends one.
    pub fn skip_to_sync(&mut self) -> bool {
        while let Some(awaited) = self.awaited.front() {
            if matches!(awaited, Awaited::Server(Reply::Sync | Reply::Query, _)) {
                return true;
            }
            self.awaited.pop_front();
        }
        false
    }

    /// How many ReadyForQuery are owed.
    pub fn ready_replies(&self) -> usize {
        self.awaited
            .iter()
            .filter(|awaited| matches!(awaited, Awaited::Server(Reply::Sync | Reply::Query, _)))
            .count()
    }

    /// Whether a Parse of this text is among what was sent.
    pub fn will_know(&self, statement: &[u8], wanted: u64) -> bool {
        self.awaited.iter().any(|awaited| {
            matches!(awaited, Awaited::Server(Reply::Parse { name, generation }, _) if name == statement && *generation == wanted)
        })
    }

    /// Drops a Sync that a server in COPY IN ignores (Postgres documentation, chapter 55.2.6), wherever it stands behind
    /// the Execute that is due.
    pub fn forget_sync(&mut self) {
        self.awaited
            .retain(|awaited| !matches!(awaited, Awaited::Server(Reply::Sync, _)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_skips_to_the_next_sync_only() {
        let mut script = Script::default();
        script.expect(Reply::Bind, Audience::Client);
        script.answer(Bytes::from_static(b"x"));
        script.expect(Reply::Sync, Audience::Client);
        script.expect(Reply::Query, Audience::Client);
        assert!(script.skip_to_sync());
        assert!(matches!(
            script.pop(),
            Some(Awaited::Server(Reply::Sync, _))
        ));
        assert!(matches!(
            script.pop(),
            Some(Awaited::Server(Reply::Query, _))
        ));
        assert!(script.front().is_none());
    }

    #[test]
    fn without_a_sync_everything_is_skipped() {
        let mut script = Script::default();
        script.expect(Reply::Bind, Audience::Client);
        script.expect(Reply::Execute, Audience::Client);
        assert!(!script.skip_to_sync());
        assert!(script.front().is_none());
    }
}
