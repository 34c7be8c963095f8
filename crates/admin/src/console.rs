//! One operator's connection.
//!
//! Owns: the loop over its messages, simple and extended (Postgres documentation, chapters 55.2.2 and 55.2.3), with Postgres' rule that after
//! an error everything is skipped until Sync. Every length is bounded. Never does: knowing what a command shows (see `commands`).
//! Main function: [`serve_console`].

mod extended;
mod run;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use pgherd_pool::Transport;
use pgherd_protocol::{
    BackendMessage, Format, Frame, FrontendMessage, MessageError, PgError, Severity, SqlState,
    TransactionStatus, split_frame,
};
use pgherd_session::{ClientState, ConsoleLogin, ConsoleRight, Herd, Registration};

use self::extended::Extended;
use self::run::{Outcome, run};
use crate::answer::Answer;
use crate::command::AdminCommand;
use crate::doing::Acting;
use crate::operations::Operations;

/// The longest message taken from an operator, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Above this many bytes, answers are written before more requests are read.
const HIGH_WATER: usize = 256 * 1024;

/// What of a connection a statement sees and changes.
struct Console {
    herd: Arc<Herd>,
    operations: Arc<Operations>,
    client: Registration,
    right: ConsoleRight,
    status: TransactionStatus,
    extended: Extended,
}

/// Whether a connection goes on.
enum Next {
    Continue,
    /// All so far is to be written.
    Flush,
    /// It is over, the last words being written.
    End,
}

/// Serves an operator until it leaves. Not cancel-safe: dropped, the connection is closed.
///
/// # Errors
/// What the connection reports.
pub async fn serve_console(login: ConsoleLogin, operations: Arc<Operations>) -> io::Result<()> {
    let mut transport = login.transport;
    let mut console = Console {
        herd: login.herd,
        operations,
        client: login.client,
        right: login.user.right,
        status: TransactionStatus::Idle,
        extended: Extended::default(),
    };
    loop {
        while let Some(taken) = take_frame(&mut transport.inbox) {
            let next = match taken {
                Ok(frame) => console.handle(&frame, &mut transport).await,
                Err(error) => {
                    error.encode(&mut transport.outbox);
                    Next::End
                }
            };
            match next {
                Next::Continue if transport.outbox.len() < HIGH_WATER => {}
                Next::Continue | Next::Flush => transport.flush().await?,
                Next::End => return transport.shutdown().await,
            }
        }
        console.client.set_state(match console.status {
            TransactionStatus::Idle => ClientState::Idle,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                ClientState::IdleInTransaction
            }
        });
        let read = tokio::select! {
            read = fill(&mut transport) => read?,
            () = console.client.sent_away() => {
                PgError::fatal(
                    SqlState::ADMIN_SHUTDOWN,
                    "terminating connection due to administrator command",
                )
                .encode(&mut transport.outbox);
                return transport.shutdown().await;
            }
        };
        if read == 0 {
            return Ok(());
        }
    }
}

async fn fill(transport: &mut Transport) -> io::Result<usize> {
    transport.release_buffers();
    transport.fill().await
}

/// The next whole message, or what is wrong with it, after which the stream cannot be followed any further.
fn take_frame(inbox: &mut BytesMut) -> Option<Result<Frame, PgError>> {
    split_frame(inbox, MAX_MESSAGE)
        .map_err(|error| PgError::fatal(error.code(), error.to_string()))
        .transpose()
}

impl Console {
    async fn handle(&mut self, frame: &Frame, transport: &mut Transport) -> Next {
        let out = &mut transport.outbox;
        let message = match FrontendMessage::parse(frame) {
            Ok(message) => message,
            Err(error @ MessageError::UnknownTag { .. }) => {
                violation(&error).encode(out);
                return Next::End;
            }
            Err(error) => {
                let mut error = violation(&error);
                error.severity = Severity::Error;
                return self.fail(&error, out);
            }
        };
        if !matches!(message, FrontendMessage::Sync | FrontendMessage::Flush) {
            self.client.begin_request(Instant::now());
        }
        match message {
            FrontendMessage::Query(text) => {
                self.extended.synchronize(self.status);
                let done = self.query(text, transport).await;
                if let Err(error) = done {
                    self.note_error(&error, &mut transport.outbox);
                }
                self.ready(&mut transport.outbox)
            }
            FrontendMessage::Sync => {
                self.extended.synchronize(self.status);
                self.ready(out)
            }
            FrontendMessage::Flush => Next::Flush,
            FrontendMessage::Terminate => Next::End,
            FrontendMessage::FunctionCall(_) => {
                let error = PgError::error(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "the console has no functions to call",
                );
                self.note_error(&error, out);
                self.ready(out)
            }
            // left over from a COPY that never was, as Postgres has it
            FrontendMessage::CopyData(_)
            | FrontendMessage::CopyDone
            | FrontendMessage::CopyFail(_) => Next::Continue,
            FrontendMessage::Password(_) => {
                let error =
                    PgError::fatal(SqlState::PROTOCOL_VIOLATION, "unexpected password message");
                error.encode(out);
                Next::End
            }
            FrontendMessage::Parse(_)
            | FrontendMessage::Bind(_)
            | FrontendMessage::Describe { .. }
            | FrontendMessage::Execute { .. }
            | FrontendMessage::Close { .. } => {
                if self.extended.is_skipping() {
                    return Next::Continue;
                }
                let Self {
                    herd,
                    operations,
                    client,
                    right,
                    status,
                    extended,
                } = self;
                let mut acting = Acting {
                    herd,
                    operations,
                    client: client.client(),
                    right: *right,
                    transport,
                };
                let done = extended.handle(&message, &mut acting, status).await;
                match done {
                    Ok(()) => Next::Continue,
                    Err(error) => self.fail(&error, &mut transport.outbox),
                }
            }
        }
    }

    /// An error in the extended protocol: what follows is skipped until Sync.
    fn fail(&mut self, error: &PgError, out: &mut BytesMut) -> Next {
        if !self.extended.is_skipping() {
            self.extended.skip();
            self.note_error(error, out);
        }
        Next::Continue
    }

    fn note_error(&mut self, error: &PgError, out: &mut BytesMut) {
        error.encode(out);
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn ready(&self, out: &mut BytesMut) -> Next {
        // a cancel request that is late finds nothing, as with Postgres
        let _on_its_way = self.client.end_request();
        match BackendMessage::ReadyForQuery(self.status).encode(out) {
            Ok(()) => Next::Flush,
            Err(_) => Next::End,
        }
    }

    /// A query string: all of its statements, up to the first that fails.
    async fn query(&mut self, text: &[u8], transport: &mut Transport) -> Result<(), PgError> {
        let commands = AdminCommand::parse_all(&readable(text)?)?;
        if commands.is_empty() {
            return BackendMessage::EmptyQueryResponse
                .encode(&mut transport.outbox)
                .map_err(internal);
        }
        let mut acting = Acting {
            herd: &self.herd,
            operations: &self.operations,
            client: self.client.client(),
            right: self.right,
            transport,
        };
        for command in commands {
            let outcome = run(&command, &mut acting, &mut self.status).await?;
            let out = &mut acting.transport.outbox;
            let written = match outcome {
                Outcome::Done(tag) => put_complete(tag, out),
                Outcome::Rows(answer, tag) => put_answer(&answer, tag, out),
            };
            written.map_err(internal)?;
        }
        Ok(())
    }
}

fn put_answer(answer: &Answer, tag: &str, out: &mut BytesMut) -> Result<(), MessageError> {
    Answer::encode_description(answer.columns(), |_| Format::Text, out)?;
    for row in 0..answer.rows().len() {
        answer.encode_row(row, |_| Format::Text, out)?;
    }
    put_complete(tag, out)
}

fn put_complete(tag: &str, out: &mut BytesMut) -> Result<(), MessageError> {
    BackendMessage::CommandComplete(tag.as_bytes()).encode(out)
}

fn readable(text: &[u8]) -> Result<String, PgError> {
    String::from_utf8(text.to_vec()).map_err(|_| {
        PgError::error(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence for encoding \"UTF8\"",
        )
    })
}

fn violation(error: &MessageError) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}

/// Something that cannot be written: not the operator's fault.
fn internal(error: MessageError) -> PgError {
    PgError::error(SqlState::INTERNAL_ERROR, error.to_string())
}
