//! The replies that a leg still owes, in order.
//!
//! Owns: the queue between what was sent to a server and what is relayed to the client. A reply belongs to the client or to
//! pgherd itself (an injected Parse, a BEGIN that joins a late shard); an answer that pgherd gives without a server stands
//! at its place in the same queue, so that the client sees the order it asked for.
//! Never does: I/O. Main type: [`Script`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pgherd_pool::{Shape, StatementId};
use pgherd_protocol::{BackendMessage, TransactionStatus};

use crate::positions::Positions;

/// Who hears a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The client asked for it.
    Client,
    /// It is part of what the client asked for, though not as the client asked: an error is the client's, all else is swallowed.
    Unasked,
    /// pgherd sent the message on its own account: the reply is swallowed, an error in it is kept.
    Pgherd,
}

/// What a message sent to a server will be answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// ParseComplete; the connection then has that statement, of which so much is known.
    Parse(Prepared, Shape),
    /// BindComplete.
    Bind,
    /// ParameterDescription (for a statement), then RowDescription or NoData, which must be what the client was told.
    Describe {
        /// The statement, also where it is its portal that is described.
        of: Prepared,
        /// What the client goes by.
        told: Shape,
    },
    /// RowDescription or NoData for a portal, of which the client hears as of a simple query: of NoData nothing.
    Columns,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Rows, then CommandComplete, which the client hears once the Sync behind it has succeeded, as with a simple query.
    Held,
    /// CloseComplete.
    Close,
    /// ReadyForQuery.
    Sync,
    /// Everything up to and with ReadyForQuery: a simple query or a function call.
    Query,
    /// Rows, then CommandComplete: the transaction's id is the first column of the one row.
    Probe,
    /// As Query, of pgherd's own: the transaction's id is the first column of its one row. An error in it is told by what comes behind it.
    Xid,
}

impl Reply {
    /// The description of a statement of which the client was told nothing yet, or goes by what it is told now.
    pub fn describe(of: Prepared) -> Self {
        Self::Describe {
            of,
            told: Shape::default(),
        }
    }
}

/// What a Parse makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// The unnamed statement, of the text with this number.
    Unnamed(u64),
    /// A statement for whoever wants the same.
    Shared(StatementId),
    /// The unnamed statement, of a text that nobody will ask for again.
    Own,
    /// A statement with a name of pgherd's own, which is closed again at once.
    Aside,
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
    /// How many of the first entries bring the connection to where the client is.
    bringing: usize,
    /// How many of the client's messages were answered.
    answered: usize,
    /// Whether rows are kept, beside being handed to the client.
    keeps_rows: bool,
    /// The shared statements that are made.
    shared: Vec<(Prepared, Shape)>,
    /// The last unnamed statement that is made.
    unnamed: Option<(Prepared, Shape)>,
    /// Whether the unnamed statement of before is replaced.
    replaces_unnamed: bool,
    /// The statements that are held against what the client was told.
    compared: Vec<(Prepared, Shape)>,
    /// Where errors are in the client's text, if the server was sent another.
    positions: Option<Positions>,
    /// How the transaction's id is to be asked for ahead of Sync, if it is.
    probe: Option<&'static str>,
}

impl Script {
    /// Expects a reply.
    pub fn expect(&mut self, reply: Reply, audience: Audience) {
        match &reply {
            Reply::Parse(prepared @ Prepared::Shared(_), shape) => {
                self.shared.push((*prepared, *shape));
            }
            Reply::Parse(prepared @ (Prepared::Unnamed(_) | Prepared::Own), shape) => {
                self.unnamed = Some((*prepared, *shape));
                self.replaces_unnamed = true;
            }
            Reply::Query | Reply::Xid => self.replaces_unnamed = true,
            Reply::Describe { of, told } if *told != Shape::default() => {
                self.compared.push((*of, *told));
            }
            _ => {}
        }
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
        let due = self.awaited.pop_front();
        self.bringing = self.bringing.saturating_sub(1);
        if !matches!(
            due,
            Some(Awaited::Server(_, Audience::Pgherd | Audience::Unasked)) | None
        ) {
            self.answered += 1;
        }
        due
    }

    /// Whether what is due tells the transaction's id.
    pub fn tells_xid(&self) -> bool {
        matches!(
            self.front(),
            Some(Awaited::Server(Reply::Xid | Reply::Probe, _))
        )
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.awaited.clear();
        self.bringing = 0;
        self.answered = 0;
        self.positions = None;
        self.keeps_rows = false;
        self.shared.clear();
        self.unnamed = None;
        self.replaces_unnamed = false;
        self.compared.clear();
        self.probe = None;
    }

    /// The transaction's id is to be asked for in the same transaction, by this text, ahead of the Sync that commits it.
    pub fn watch(&mut self, probe: &'static str) {
        self.probe = Some(probe);
    }

    /// How the transaction's id is to be asked for ahead of Sync, if it is.
    pub fn probe(&self) -> Option<&'static str> {
        self.probe
    }

    /// The rows of this request say something about the session.
    pub fn keep_rows(&mut self) {
        self.keeps_rows = true;
    }

    /// Whether they do.
    pub fn keeps_rows(&self) -> bool {
        self.keeps_rows
    }

    /// Gives back the memory of an empty queue.
    pub fn rest(&mut self) {
        if self.awaited.is_empty() {
            self.awaited = VecDeque::new();
        }
    }

    /// The server is sent another text than the client's.
    pub fn tell_positions(&mut self, positions: Positions) {
        self.positions = Some(positions);
    }

    /// Where errors are in the client's text, if the server was sent another.
    pub fn positions(&self) -> Option<&Positions> {
        self.positions.as_ref()
    }

    /// All that is expected so far answers what brings the connection to where the client is.
    pub fn is_brought(&mut self) {
        self.bringing = self.awaited.len();
    }

    /// Whether the entry that is due is part of that.
    pub fn is_bringing(&self) -> bool {
        self.bringing > 0
    }

    /// How many of the client's messages were answered, by a server or by pgherd.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// After an error in the extended protocol a server skips to the next Sync, simple queries too, and so does the queue.
    pub fn skip_to_sync(&mut self) -> Skipped {
        let mut queries = 0;
        while let Some(awaited) = self.awaited.front() {
            match awaited {
                Awaited::Server(Reply::Sync, _) => {
                    return Skipped {
                        queries,
                        to_sync: true,
                    };
                }
                Awaited::Server(Reply::Query | Reply::Xid, _) => queries += 1,
                Awaited::Server(..) | Awaited::Local(_) => {}
            }
            self.awaited.pop_front();
        }
        Skipped {
            queries,
            to_sync: false,
        }
    }

    /// How many ReadyForQuery are owed.
    pub fn ready_replies(&self) -> usize {
        self.awaited
            .iter()
            .filter(|awaited| {
                matches!(
                    awaited,
                    Awaited::Server(Reply::Sync | Reply::Query | Reply::Xid, _)
                )
            })
            .count()
    }

    /// What is known of a statement that is made by what was sent, and stays: the unnamed one is the last that was made.
    pub fn will_know(&self, wanted: Prepared) -> Option<Shape> {
        let made = match wanted {
            Prepared::Shared(_) => self.shared.iter().find(|(made, _)| *made == wanted)?,
            Prepared::Unnamed(_) | Prepared::Own | Prepared::Aside => {
                self.unnamed.as_ref().filter(|(made, _)| *made == wanted)?
            }
        };
        Some(made.1)
    }

    /// Whether what was sent has a statement described and held against that.
    pub fn will_compare(&self, statement: Prepared, told: Shape) -> bool {
        self.compared.contains(&(statement, told))
    }

    /// What is owed up to the next Sync, its answer included, is not for the client any more.
    pub fn silence(&mut self) {
        for awaited in &mut self.awaited {
            match awaited {
                Awaited::Server(reply, audience) => {
                    *audience = Audience::Pgherd;
                    if *reply == Reply::Sync {
                        return;
                    }
                }
                Awaited::Local(bytes) => bytes.clear(),
            }
        }
    }

    /// The rest of the client's replies to COMMIT and what it is sent with, or to the Sync that commits, as if that had succeeded.
    pub fn answer_as_committed(&mut self, out: &mut BytesMut) {
        while let Some(due) = self.awaited.pop_front() {
            let (reply, audience) = match due {
                Awaited::Local(bytes) => {
                    out.extend_from_slice(&bytes);
                    continue;
                }
                Awaited::Server(reply, audience) => (reply, audience),
            };
            if audience != Audience::Client {
                continue;
            }
            let done = BackendMessage::CommandComplete(b"COMMIT");
            let ready = BackendMessage::ReadyForQuery(TransactionStatus::Idle);
            let messages: &[BackendMessage<'_>] = match reply {
                Reply::Parse(..) => &[BackendMessage::ParseComplete],
                Reply::Bind => &[BackendMessage::BindComplete],
                Reply::Describe { .. } => &[BackendMessage::NoData],
                Reply::Execute | Reply::Held => &[done],
                Reply::Close => &[BackendMessage::CloseComplete],
                Reply::Sync => &[ready],
                Reply::Query => &[done, ready],
                Reply::Xid | Reply::Probe | Reply::Columns => &[],
            };
            for message in messages {
                // messages as short as these always fit
                let _ = message.encode(out);
            }
        }
    }

    /// Whether what was sent replaces the unnamed statement.
    pub fn replaces_unnamed(&self) -> bool {
        self.replaces_unnamed
    }

    /// Drops a Sync that a server in COPY IN ignores (Postgres documentation, chapter 55.2.6), wherever it stands behind
    /// the Execute that is due.
    pub fn forget_sync(&mut self) {
        self.awaited
            .retain(|awaited| !matches!(awaited, Awaited::Server(Reply::Sync, _)));
    }
}

/// What the end of a pipeline that failed leaves unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// How many simple queries the server skips, and so answers with no ReadyForQuery.
    pub queries: u32,
    /// Whether a Sync is among what was sent; if not, the client's messages are to be skipped until it sends one.
    pub to_sync: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_skips_to_the_next_sync_only() {
        let mut script = Script::default();
        script.expect(Reply::Bind, Audience::Client);
        script.answer(Bytes::from_static(b"x"));
        script.expect(Reply::Query, Audience::Pgherd);
        script.expect(Reply::Sync, Audience::Client);
        script.expect(Reply::Query, Audience::Client);
        let skipped = Skipped {
            queries: 1,
            to_sync: true,
        };
        assert_eq!(script.skip_to_sync(), skipped);
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
        assert!(!script.skip_to_sync().to_sync);
        assert!(script.front().is_none());
    }

    #[test]
    fn what_brings_a_connection_is_told_from_what_the_client_asked() {
        let mut script = Script::default();
        script.expect(Reply::Execute, Audience::Pgherd);
        script.is_brought();
        script.expect(Reply::Bind, Audience::Client);
        assert!(script.is_bringing());
        script.pop();
        assert!(!script.is_bringing());
        assert_eq!(script.answered(), 0);
        script.pop();
        assert_eq!(script.answered(), 1);
    }

    #[test]
    fn only_the_last_text_of_the_unnamed_statement_is_there() {
        let mut script = Script::default();
        let nothing = Shape::default();
        let made = Reply::Parse(Prepared::Unnamed(1), nothing);
        script.expect(made, Audience::Client);
        assert_eq!(script.will_know(Prepared::Unnamed(1)), Some(nothing));
        script.expect(Reply::Parse(Prepared::Own, nothing), Audience::Pgherd);
        assert_eq!(script.will_know(Prepared::Unnamed(1)), None);
    }

    #[test]
    fn nothing_is_for_the_client_up_to_a_sync() {
        let mut script = Script::default();
        script.expect(Reply::Bind, Audience::Client);
        script.answer(Bytes::from_static(b"x"));
        script.expect(Reply::Sync, Audience::Client);
        script.expect(Reply::Query, Audience::Client);
        script.silence();
        let mut heard = Vec::new();
        while let Some(awaited) = script.pop() {
            heard.push(match awaited {
                Awaited::Server(_, audience) => audience == Audience::Client,
                Awaited::Local(bytes) => !bytes.is_empty(),
            });
        }
        assert_eq!(heard, [false, false, false, true]);
    }
}
