//! From a client's bytes to requests.
//!
//! Owns: where one request ends and the next begins. A request is a simple query, a function call, or a run of extended
//! messages up to Sync or Flush (Postgres documentation, chapter 55.2). Never does: planning or I/O.
//! Main type: [`Request`].

use bytes::BytesMut;
use pgherd_protocol::{Frame, FrameError, SqlState, split_frame, tag};

/// A run of extended messages is passed on once it holds this many bytes, as though a Flush had come: a client may send a
/// pipeline of any length, and pgherd's memory stays bounded.
const RUN_LIMIT: usize = 4 * 1024 * 1024;

/// Why a run of extended messages ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Sync: the implicit transaction ends, ReadyForQuery answers.
    Sync,
    /// Flush: the client wants the answers so far.
    Flush,
    /// The bound on buffered bytes: more is to come.
    Full,
    /// Data of a COPY follows, which is for the run's last Execute.
    Copy,
    /// A simple query or function call follows without a Sync between.
    Interrupted,
}

/// Why a client's stream cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A length out of bounds.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message that no client sends here.
    #[error("invalid frontend message type {0}")]
    UnexpectedMessage(u8),
}

impl RequestError {
    /// Its SQLSTATE.
    pub fn code(&self) -> SqlState {
        match self {
            Self::Frame(error) => error.code(),
            Self::UnexpectedMessage(_) => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// A simple query: one frame, any number of statements.
    Query(Frame),
    /// A function call (fastpath).
    FunctionCall(Frame),
    /// Extended messages.
    Run(Vec<Frame>, RunEnd),
    /// The client says goodbye.
    Terminate,
}

/// Puts a client's messages together to requests.
#[derive(Debug, Default)]
pub struct RequestReader {
    run: Vec<Frame>,
    run_bytes: usize,
    interrupting: Option<Frame>,
}

impl RequestReader {
    /// Takes the next whole request off `inbox`; `None` where more bytes are needed.
    ///
    /// `max_message` bounds one message, in bytes.
    ///
    /// # Errors
    /// [`RequestError`]: the stream cannot be followed any further.
    pub fn next(
        &mut self,
        inbox: &mut BytesMut,
        max_message: usize,
    ) -> Result<Option<Request>, RequestError> {
        if let Some(frame) = self.interrupting.take() {
            return Ok(Some(single(frame)));
        }
        loop {
            if !self.run.is_empty() && inbox.first().copied().is_some_and(is_copy_data) {
                return Ok(Some(self.end_run(RunEnd::Copy)));
            }
            let Some(frame) = split_frame(inbox, max_message)? else {
                return Ok(None);
            };
            match frame.tag() {
                tag::frontend::SYNC => {
                    self.run.push(frame);
                    return Ok(Some(self.end_run(RunEnd::Sync)));
                }
                tag::frontend::FLUSH => {
                    // what Flush asks for is done anyway: it goes to no server by itself
                    return Ok(Some(self.end_run(RunEnd::Flush)));
                }
                tag::frontend::QUERY | tag::frontend::FUNCTION_CALL if self.run.is_empty() => {
                    return Ok(Some(single(frame)));
                }
                tag::frontend::QUERY | tag::frontend::FUNCTION_CALL => {
                    self.interrupting = Some(frame);
                    return Ok(Some(self.end_run(RunEnd::Interrupted)));
                }
                tag::frontend::TERMINATE => return Ok(Some(Request::Terminate)),
                // left over from a COPY that failed: Postgres discards these outside of COPY
                other if is_copy_data(other) => {}
                tag::frontend::PARSE
                | tag::frontend::BIND
                | tag::frontend::DESCRIBE
                | tag::frontend::EXECUTE
                | tag::frontend::CLOSE => {
                    self.run_bytes += frame.len();
                    self.run.push(frame);
                    if self.run_bytes >= RUN_LIMIT {
                        return Ok(Some(self.end_run(RunEnd::Full)));
                    }
                }
                other => return Err(RequestError::UnexpectedMessage(other)),
            }
        }
    }

    fn end_run(&mut self, end: RunEnd) -> Request {
        self.run_bytes = 0;
        Request::Run(std::mem::take(&mut self.run), end)
    }

    /// Gives back the memory of an empty run.
    pub fn rest(&mut self) {
        if self.run.is_empty() {
            self.run = Vec::new();
        }
    }

    /// Gives a spent run back, so that its allocation serves the next one.
    pub fn recycle(&mut self, mut run: Vec<Frame>) {
        run.clear();
        if self.run.is_empty() && run.capacity() <= 1024 {
            self.run = run;
        }
    }
}

fn is_copy_data(tag: u8) -> bool {
    matches!(
        tag,
        tag::frontend::COPY_DATA | tag::frontend::COPY_DONE | tag::frontend::COPY_FAIL
    )
}

fn single(frame: Frame) -> Request {
    if frame.tag() == tag::frontend::QUERY {
        Request::Query(frame)
    } else {
        Request::FunctionCall(frame)
    }
}
