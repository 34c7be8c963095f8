//! Server replies to the client, in the order of a [`Script`].
//!
//! Owns: reading one leg to the end of what it owes, while it is written (Postgres stops reading a pipeline whose answers
//! nobody reads) and while the client is written. Rows pass as runs of bytes, whole or in part, without an object each.
//! `pump` waits for both sides, `describing` holds what a server says of statements against what the client was told. Never does: planning, checkout, retrying. Main types: [`Relay`], [`Outcome`].

mod describing;
mod errors;
mod pump;

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use pgherd_pool::{Available, Columns, Parameters, ServerConnection, Transport};
use pgherd_protocol::error::field;
use pgherd_protocol::{
    BackendMessage, Frame, PgError, SqlState, TransactionStatus, peek_header, split_frame, tag,
};

use crate::copy::CopyProtocol;
use crate::oids::Translation;
use crate::registry::Client;
use crate::script::{Audience, Awaited, Prepared, Reply, Script};
use crate::shape::Described;
use crate::statements::Statements;

/// The longest message taken from a server, in bytes: Postgres' own bound on a row.
const MAX_SERVER_MESSAGE: usize = 0x4000_0000;
/// So many bytes that a client has sent ahead are read while its server is silent, so that the client's end behind them is seen.
pub const READ_AHEAD: usize = 64 * 1024;

/// What came of a request on one leg.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The status in the last ReadyForQuery; `None` where none came (a run ended by Flush).
    pub status: Option<TransactionStatus>,
    /// How many of the client's statements completed, or stopped at the number of rows that was asked for, in order.
    pub completed: usize,
    /// The first error, the client's or of a message of pgherd's own.
    pub error: Option<Box<PgError>>,
    /// Whether [`Outcome::error`] answers a message of pgherd's own, so that the client has not seen it.
    pub error_is_ours: bool,
    /// Whether that message was to bring the connection to where the client is: it is nowhere now.
    pub not_brought: bool,
    /// How many of the client's messages were answered, up to the first error.
    pub answered: usize,
    /// Whether anything that cannot be taken back was handed to the client.
    pub forwarded: bool,
    /// Whether the rest of the client's messages is to be skipped until Sync.
    pub skipping: bool,
    /// Whether the server has asked for COPY data.
    pub copied_in: bool,
    /// Whether a notification was delivered.
    pub notified: bool,
    /// How many rows came.
    pub rows: u64,
    /// Where the script keeps rows: the last row of each of the client's statements, counted as [`Outcome::completed`] counts.
    pub kept_rows: Vec<(usize, Frame)>,
    /// Whether [`Outcome::error`] is that a statement is not what the client was told of it. The server knows of no error.
    pub differs: bool,
    /// What the client was told of statements and portals, in order.
    pub described: Vec<Described>,
    /// The id of the transaction, where it was asked for and has one.
    pub xid: Option<u64>,
    /// The CommandComplete of a statement whose transaction is not known to be committed.
    pub tag: Option<Frame>,
    /// Where in the client's replies the server said that it had committed without waiting for its standbys any longer.
    pub unacknowledged: Option<usize>,
}

impl Outcome {
    fn keep_row(&mut self, row: &Frame) {
        let of = self.completed;
        self.kept_rows.retain(|(before, _)| *before != of);
        self.kept_rows.push((of, row.clone()));
    }

    /// The last row of one of the client's statements.
    pub fn row_of(&self, statement: usize) -> Option<&Frame> {
        self.kept_rows
            .iter()
            .find(|(of, _)| *of == statement)
            .map(|(_, row)| row)
    }
}

/// Why a leg could not be followed to the end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The client is gone; the leg is left in the middle of an answer.
    #[error("the client closed the connection")]
    Client(#[source] io::Error),
    /// The server is gone; it may have said why.
    #[error("the server closed the connection")]
    Server {
        /// The FATAL error that it sent before, if any.
        said: Option<Box<PgError>>,
    },
    /// The client sent what the protocol does not allow within COPY, and has heard so: nobody knows how to go on.
    #[error("unexpected message {tag:?} from the client within COPY")]
    Unsynchronized {
        /// The message's tag.
        tag: char,
    },
    /// The server sent what the protocol does not allow here.
    #[error("unexpected message {tag:?} from the server")]
    Protocol {
        /// The message's tag.
        tag: char,
    },
}

/// What stopped a relay short of its script's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Everything owed is there.
    Done,
    /// The server waits for COPY data from the client.
    CopyIn(CopyProtocol),
}

/// What a client was told of its server's parameters, and the names of those that it is not told of now.
struct Telling<'a> {
    told: &'a mut Arc<Parameters>,
    except: &'a [(Box<str>, Box<str>)],
}

/// Follows one leg.
pub struct Relay<'a> {
    script: &'a mut Script,
    translation: Option<&'a mut Translation>,
    outcome: Outcome,
    /// Bytes still to come of a row that is passed on in parts, and whether the client hears them.
    partial: usize,
    /// Nothing is handed to the client before the first row or the end: an error can then be taken back and retried.
    hold: bool,
    /// Rows end that only where there are so many bytes for the client.
    holds_up_to: usize,
    /// A COPY for which the server wants data.
    copying: Option<CopyProtocol>,
    fatal: Option<Box<PgError>>,
    /// Whether notifications on this connection are the client's; else the listening connections hear them for it.
    hears: bool,
    /// Where they go, if not among the replies.
    heard_aside: Option<&'a mut BytesMut>,
    /// The channels whose notifications reach the client by another way.
    heard_elsewhere: &'a [Box<str>],
    /// For whom: who cancels the request is told in the words for that.
    client: Option<&'a Client>,
    /// Who is to be told once the request is written.
    unsent: Option<&'a Client>,
    /// The client's statements, which errors are to name as it does.
    statements: Option<&'a Statements>,
    /// ReadyForQuery messages that the connection has not been told of.
    uncounted: usize,
    /// What the client is told of the server's parameters.
    telling: Option<Telling<'a>>,
    /// The client has gone, and what ran for it was cancelled.
    abandoned: bool,
    /// The parameters' types of the statement whose columns come next.
    parameters: Option<Box<[u32]>>,
    /// A commit counts only once standbys have acknowledged it.
    synchronous: bool,
}

/// Whether more bytes are needed.
enum Step {
    Pause(Pause),
    NeedMore,
}

impl<'a> Relay<'a> {
    /// A relay of what `script` expects. With `hold`, nothing is handed over before the first row or the last reply.
    pub fn new(
        script: &'a mut Script,
        translation: Option<&'a mut Translation>,
        hold: bool,
    ) -> Self {
        let uncounted = script.ready_replies();
        Self {
            script,
            translation,
            outcome: Outcome::default(),
            partial: 0,
            hold,
            holds_up_to: 0,
            copying: None,
            fatal: None,
            hears: false,
            heard_aside: None,
            heard_elsewhere: &[],
            client: None,
            unsent: None,
            statements: None,
            uncounted,
            telling: None,
            abandoned: false,
            parameters: None,
            synchronous: false,
        }
    }

    /// Whether a commit counts only once standbys have acknowledged it: what the server says of one that was not is noted, not passed on.
    pub fn insisting(&mut self, synchronous: bool) {
        self.synchronous = synchronous;
    }

    /// Nothing is handed over before the last reply, as long as there are no more than that many bytes for the client.
    pub fn holding_back(&mut self, up_to: usize) {
        self.hold = true;
        self.holds_up_to = up_to;
    }

    /// Rows are among what is for the client by now.
    fn hand_over(&mut self, len: usize) {
        if len >= self.holds_up_to {
            self.outcome.forwarded = true;
            self.hold = false;
        }
    }

    /// The server wants no more data of a COPY.
    pub fn end_copy(&mut self) {
        self.copying = None;
    }

    /// Whether notifications on this connection are the client's, but for channels that it hears `elsewhere`.
    pub fn hearing(&mut self, hears: bool, elsewhere: &'a [Box<str>]) {
        self.hears = hears;
        self.heard_elsewhere = elsewhere;
    }

    /// Notifications for the client are kept apart from the replies: those go no further.
    pub fn hearing_aside(&mut self, heard: &'a mut BytesMut) {
        self.heard_aside = Some(heard);
    }

    /// Whether a notification is to be passed on: process id, channel and payload (Postgres documentation, chapter 55.7).
    fn passes_on(&self, notification: &[u8]) -> bool {
        let channel = notification.get(4..).unwrap_or_default();
        let channel = channel.split(|byte| *byte == 0).next().unwrap_or_default();
        self.hears
            && !self
                .heard_elsewhere
                .iter()
                .any(|elsewhere| elsewhere.as_bytes() == channel)
    }

    /// The client hears of parameters that differ from what it was told, before it hears ReadyForQuery; not of those with the names of
    /// `except`, whatever their values there.
    pub fn telling(&mut self, told: &'a mut Arc<Parameters>, except: &'a [(Box<str>, Box<str>)]) {
        self.telling = Some(Telling { told, except });
    }

    /// Whether what ran was cancelled because the client has gone.
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }

    /// For whom the request is.
    pub fn serving(&mut self, client: &'a Client) {
        self.client = Some(client);
        self.unsent = Some(client);
    }

    /// Errors name the client's statements as it does.
    pub fn naming(&mut self, statements: &'a Statements) {
        self.statements = Some(statements);
    }

    /// What came of it.
    pub fn into_outcome(self) -> Outcome {
        self.outcome
    }

    /// Relays until the script is spent or the server waits for COPY data. The client's bytes are handed over as they come, the
    /// last ones stay in its outbox. What runs for a client that goes away is cancelled, and its answer read to the end. Not
    /// cancel-safe: a relay dropped midway leaves the leg to be closed.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn run(
        &mut self,
        leg: &mut ServerConnection,
        client: &mut Transport,
    ) -> Result<Pause, RelayError> {
        self.attend(leg, client, None).await
    }

    /// As [`Relay::run`], with the client's share of the replies collected in `sink`. Without a client none is watched: what runs is
    /// pgherd's own.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn collect(
        &mut self,
        leg: &mut ServerConnection,
        sink: &mut BytesMut,
        client: Option<&mut Transport>,
    ) -> Result<Pause, RelayError> {
        if let Some(client) = client {
            return self.attend(leg, client, Some(sink)).await;
        }
        self.count_requests(leg);
        loop {
            match self.advance(leg, sink)? {
                Step::Pause(pause) => return Ok(pause),
                Step::NeedMore => self.pump(leg, None).await?,
            }
        }
    }

    /// Consumes what the leg has sent so far.
    fn advance(
        &mut self,
        leg: &mut ServerConnection,
        out: &mut BytesMut,
    ) -> Result<Step, RelayError> {
        loop {
            while let Some(Awaited::Local(bytes)) = self.script.front() {
                out.extend_from_slice(bytes);
                self.script.pop();
            }
            let Some(front) = self.script.front() else {
                return Ok(Step::Pause(Pause::Done));
            };
            let audience = match front {
                Awaited::Server(_, audience) => *audience,
                Awaited::Local(_) => Audience::Pgherd,
            };
            if self.pass_rows(leg, out, audience)? {
                return Ok(Step::NeedMore);
            }
            let frame = match split_frame(&mut leg.transport.inbox, MAX_SERVER_MESSAGE) {
                Ok(Some(frame)) => frame,
                // a trigger's notice does not end a COPY: the server waits for the client's data
                Ok(None) => match self.copying {
                    Some(protocol) if leg.transport.inbox.is_empty() => {
                        return Ok(Step::Pause(Pause::CopyIn(protocol)));
                    }
                    _ => return Ok(Step::NeedMore),
                },
                Err(_) => return Err(RelayError::Protocol { tag: '?' }),
            };
            if let Some(pause) = self.reply(leg, out, frame, audience)? {
                return Ok(Step::Pause(pause));
            }
        }
    }

    /// Passes rows and COPY data on as they lie in the buffer. Returns whether the buffer is spent within a row.
    fn pass_rows(
        &mut self,
        leg: &mut ServerConnection,
        out: &mut BytesMut,
        audience: Audience,
    ) -> Result<bool, RelayError> {
        let translated = self
            .translation
            .as_ref()
            .is_some_and(|translation| translation.rows());
        let inbox = &mut leg.transport.inbox;
        let mut run = self.partial.min(inbox.len());
        self.partial -= run;
        if self.partial == 0 && !translated && !self.script.keeps_rows() && !self.script.tells_xid()
        {
            while let Ok(Some(header)) = peek_header(&inbox[run..], MAX_SERVER_MESSAGE) {
                if header.tag != tag::backend::DATA_ROW && header.tag != tag::backend::COPY_DATA {
                    break;
                }
                let there = header.len.min(inbox.len() - run);
                self.outcome.rows += 1;
                run += there;
                if there < header.len {
                    self.partial = header.len - there;
                    break;
                }
            }
        }
        if run > 0 {
            if audience == Audience::Client {
                out.extend_from_slice(&inbox[..run]);
            }
            inbox.advance(run);
            if audience == Audience::Client {
                self.hand_over(out.len());
            }
        }
        Ok(self.partial > 0)
    }

    /// One message that is no row.
    fn reply(
        &mut self,
        leg: &mut ServerConnection,
        out: &mut BytesMut,
        frame: Frame,
        audience: Audience,
    ) -> Result<Option<Pause>, RelayError> {
        let client = audience == Audience::Client;
        match frame.tag() {
            tag::backend::ERROR_RESPONSE => {
                self.end_copy();
                return self.error(leg, out, &frame, audience).map(|()| None);
            }
            tag::backend::NOTICE_RESPONSE => {
                if self.synchronous && is_unacknowledged(&frame) {
                    self.outcome.unacknowledged.get_or_insert(out.len());
                    // what follows may have to be taken back
                    self.hold = true;
                    return Ok(None);
                }
            }
            tag::backend::PARAMETER_STATUS => {
                note_parameter(leg, &frame);
                // before ReadyForQuery, as Postgres reports them
                return Ok(None);
            }
            tag::backend::NOTIFICATION_RESPONSE => {
                if self.passes_on(frame.body()) {
                    self.outcome.notified = true;
                    let heard = self.heard_aside.as_deref_mut().unwrap_or(out);
                    heard.extend_from_slice(frame.bytes());
                }
                return Ok(None);
            }
            tag::backend::READY_FOR_QUERY => {
                let status = ready_status(&frame)?;
                leg.note_ready(status);
                if !self.script.is_bringing() {
                    self.outcome.status = Some(status);
                }
                if client && let Some(tag) = self.outcome.tag.take() {
                    self.outcome.completed += 1;
                    out.extend_from_slice(tag.bytes());
                }
                if client && let Some(Telling { told, except }) = &mut self.telling {
                    tell_parameters(leg.parameters(), told, except, out);
                }
                self.complete(leg, &frame)?;
            }
            tag::backend::COMMAND_COMPLETE
                if matches!(self.script.front(), Some(Awaited::Server(Reply::Held, _))) =>
            {
                self.script.pop();
                self.forget_columns();
                self.outcome.tag = Some(frame);
                return Ok(None);
            }
            tag::backend::COMMAND_COMPLETE | tag::backend::EMPTY_QUERY_RESPONSE => {
                if client {
                    self.outcome.completed += 1;
                }
                if matches!(
                    self.script.front(),
                    Some(Awaited::Server(Reply::Execute | Reply::Probe, _))
                ) {
                    self.script.pop();
                    self.forget_columns();
                }
            }
            tag::backend::COPY_IN_RESPONSE => {
                if client {
                    out.extend_from_slice(frame.bytes());
                    self.hold = false;
                }
                self.outcome.copied_in = true;
                let protocol = match self.script.front() {
                    Some(Awaited::Server(Reply::Query, _)) => CopyProtocol::Simple,
                    _ => {
                        self.script.forget_sync();
                        CopyProtocol::Extended
                    }
                };
                self.copying = Some(protocol);
                return Ok(Some(Pause::CopyIn(protocol)));
            }
            tag::backend::ROW_DESCRIPTION => {
                if self.is_describing() {
                    let columns = self.columns(&frame)?;
                    if !self.described(leg, columns) {
                        return Ok(None);
                    }
                }
                self.row_description(&frame, out, client)?;
                self.columns_are_there();
                return Ok(None);
            }
            tag::backend::PARAMETER_DESCRIPTION => {
                self.parameter_description(&frame, out, client)?;
                return Ok(None);
            }
            tag::backend::NO_DATA if self.is_describing() => {
                if !self.described(leg, Columns::None) {
                    return Ok(None);
                }
            }
            tag::backend::NO_DATA if self.columns_are_there() => return Ok(None),
            tag::backend::DATA_ROW if self.script.tells_xid() => {
                self.outcome.xid = xid_in(&frame);
            }
            tag::backend::DATA_ROW => {
                self.outcome.rows += 1;
                if client {
                    self.hand_over(out.len());
                    if self.script.keeps_rows() {
                        self.outcome.keep_row(&frame);
                    }
                }
                if let Some(translation) = self.translation.as_deref() {
                    if client {
                        translation
                            .data_row(&frame, out)
                            .map_err(|_| RelayError::Protocol { tag: 'D' })?;
                    }
                    return Ok(None);
                }
            }
            tag::backend::COPY_OUT_RESPONSE
            | tag::backend::COPY_DONE
            | tag::backend::COPY_DATA
            | tag::backend::FUNCTION_CALL_RESPONSE => {}
            tag::backend::PORTAL_SUSPENDED
            | tag::backend::PARSE_COMPLETE
            | tag::backend::BIND_COMPLETE
            | tag::backend::CLOSE_COMPLETE => {
                if client && frame.tag() == tag::backend::PORTAL_SUSPENDED {
                    self.outcome.completed += 1;
                }
                self.complete(leg, &frame)?;
            }
            other => {
                return Err(RelayError::Protocol {
                    tag: char::from(other),
                });
            }
        }
        if client {
            out.extend_from_slice(frame.bytes());
        }
        Ok(None)
    }

    /// Whether the columns of a portal were due, of which nothing is to be kept.
    fn columns_are_there(&mut self) -> bool {
        let due = matches!(
            self.script.front(),
            Some(Awaited::Server(Reply::Columns, _))
        );
        if due {
            self.script.pop();
        }
        due
    }

    /// The columns of one result say nothing about the next one's.
    fn forget_columns(&mut self) {
        if let Some(translation) = self.translation.as_deref_mut() {
            translation.no_rows();
        }
    }

    fn row_description(
        &mut self,
        frame: &Frame,
        out: &mut BytesMut,
        client: bool,
    ) -> Result<(), RelayError> {
        let Some(translation) = self.translation.as_deref_mut() else {
            if client {
                out.extend_from_slice(frame.bytes());
            }
            return Ok(());
        };
        let Ok(BackendMessage::RowDescription(row)) = BackendMessage::parse(frame) else {
            return Err(RelayError::Protocol { tag: 'T' });
        };
        let before = out.len();
        translation
            .row_description(row, out)
            .map_err(|_| RelayError::Protocol { tag: 'T' })?;
        if !client {
            out.truncate(before);
        }
        Ok(())
    }

    /// Reads what a server sent while nothing is owed: notifications, notices, settings that changed, its last words.
    /// Returns whether a notification was among it.
    ///
    /// # Errors
    /// [`RelayError::Server`] once the connection is at its end.
    pub fn hear(
        mut self,
        leg: &mut ServerConnection,
        out: &mut BytesMut,
    ) -> Result<bool, RelayError> {
        while let Some(frame) = split_frame(&mut leg.transport.inbox, MAX_SERVER_MESSAGE)
            .map_err(|_| RelayError::Protocol { tag: '?' })?
        {
            match frame.tag() {
                tag::backend::ERROR_RESPONSE => self.error(leg, out, &frame, Audience::Pgherd)?,
                _ => {
                    self.reply(leg, out, frame, Audience::Client)?;
                }
            }
        }
        match leg.transport.try_fill() {
            Ok(Available::Closed) | Err(_) => Err(RelayError::Server { said: self.fatal }),
            Ok(_) if self.fatal.is_some() => Err(RelayError::Server { said: self.fatal }),
            Ok(_) => Ok(self.outcome.notified),
        }
    }

    /// A message that ends the reply which is due.
    fn complete(&mut self, leg: &mut ServerConnection, frame: &Frame) -> Result<(), RelayError> {
        let fits = match (self.script.front(), frame.tag()) {
            (
                Some(Awaited::Server(Reply::Parse(prepared, shape), _)),
                tag::backend::PARSE_COMPLETE,
            ) => {
                match prepared {
                    Prepared::Unnamed(text) => leg.prepared.set_unnamed(*text, *shape),
                    Prepared::Shared(id) => leg.prepared.insert(*id, *shape),
                    Prepared::Own => leg.prepared.forget_unnamed(),
                    Prepared::Aside => {}
                }
                true
            }
            (Some(Awaited::Server(reply, _)), tag) => matches!(
                (reply, tag),
                (Reply::Bind, tag::backend::BIND_COMPLETE)
                    | (Reply::Close, tag::backend::CLOSE_COMPLETE)
                    | (Reply::Execute, tag::backend::PORTAL_SUSPENDED)
                    | (
                        Reply::Sync | Reply::Query | Reply::Xid,
                        tag::backend::READY_FOR_QUERY
                    )
            ),
            (Some(Awaited::Local(_)) | None, _) => false,
        };
        if !fits {
            return Err(RelayError::Protocol {
                tag: char::from(frame.tag()),
            });
        }
        self.script.pop();
        Ok(())
    }
}

/// Whether a warning says that a transaction is committed on this server, and that it does not wait for the standbys any longer: somebody has
/// cancelled that (Postgres source, `SyncRepWaitForLSN`).
fn is_unacknowledged(notice: &Frame) -> bool {
    const ROUTINE: &str = "SyncRepWaitForLSN";
    PgError::parse(notice.body()).is_ok_and(|notice| {
        [SqlState::WARNING, SqlState::ADMIN_SHUTDOWN].contains(&notice.code)
            && notice.other(field::ROUTINE) == Some(ROUTINE)
    })
}

fn xid_in(row: &Frame) -> Option<u64> {
    let Ok(BackendMessage::DataRow(row)) = BackendMessage::parse(row) else {
        return None;
    };
    let xid = row.values().next().flatten()?;
    std::str::from_utf8(xid).ok()?.parse().ok()
}

fn note_parameter(leg: &mut ServerConnection, frame: &Frame) {
    if let Ok(BackendMessage::ParameterStatus { name, value }) = BackendMessage::parse(frame) {
        leg.note_parameter(
            &String::from_utf8_lossy(name),
            &String::from_utf8_lossy(value),
        );
    }
}

/// Tells a client those parameters of its server's that are not as it was told.
pub fn tell_parameters(
    server: &Parameters,
    told: &mut Arc<Parameters>,
    except: &[(Box<str>, Box<str>)],
    out: &mut BytesMut,
) {
    if server.is_reported_as(told) {
        return;
    }
    for (name, value) in server.reported() {
        let excepted = except
            .iter()
            .any(|(except, _)| except.eq_ignore_ascii_case(name));
        if excepted || told.value(name) == Some(value) {
            continue;
        }
        let message = BackendMessage::ParameterStatus {
            name: name.as_bytes(),
            value: value.as_bytes(),
        };
        // a server's own values have no NUL in them
        let _ = message.encode(out);
        Arc::make_mut(told).set(name, value);
    }
}

/// Takes ReadyForQuery off collected replies: the client gets it once, with pgherd's own view of the block.
pub fn strip_ready(bytes: &mut BytesMut) {
    let mut kept = BytesMut::with_capacity(bytes.len());
    while let Ok(Some(frame)) = split_frame(bytes, usize::MAX) {
        if frame.tag() != tag::backend::READY_FOR_QUERY {
            kept.extend_from_slice(frame.bytes());
        }
    }
    *bytes = kept;
}

/// Appends an answer of pgherd's own to an Execute, which is not preceded by a RowDescription.
pub fn without_description(mut answer: BytesMut, out: &mut BytesMut) {
    while let Ok(Some(frame)) = split_frame(&mut answer, usize::MAX) {
        if frame.tag() != tag::backend::ROW_DESCRIPTION {
            out.extend_from_slice(frame.bytes());
        }
    }
}

fn ready_status(frame: &Frame) -> Result<TransactionStatus, RelayError> {
    match BackendMessage::parse(frame) {
        Ok(BackendMessage::ReadyForQuery(status)) => Ok(status),
        _ => Err(RelayError::Protocol { tag: 'Z' }),
    }
}
