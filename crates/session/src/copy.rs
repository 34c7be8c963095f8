//! COPY FROM STDIN: the client's data to the one server that waits for it.
//!
//! Owns: passing CopyData on until CopyDone or CopyFail, while the server is read (it may refuse a row at any time). Never does: splitting
//! rows by shard. Main function: [`copy_in`]. See Postgres documentation, chapter 55.2.6.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use pgherd_pool::Transport;
use pgherd_protocol::{FrontendMessage, PgError, SqlState, split_frame, tag};

use crate::relay::RelayError;

/// Above this many bytes that the server has not taken yet, no more is read from the client.
const HIGH_WATER: usize = 256 * 1024;

/// What began a COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyProtocol {
    /// A query string: ReadyForQuery ends its answers.
    Simple,
    /// Execute: without a Flush the server keeps the answer to CopyDone until the client's Sync.
    Extended,
}

/// What ended the client's part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// CopyDone or CopyFail went to the server.
    Finished,
    /// More is to come.
    More,
    /// More may be there, but the server has enough for now.
    Enough,
}

/// Why [`copy_in`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPause {
    /// No more data goes to the server: the client has ended it, or the server is gone.
    Finished,
    /// The server has said something: an error that ends the COPY, or a notice within it.
    Answered,
}

/// Passes COPY data from the client until it ends, or until the server answers. Not cancel-safe.
///
/// # Errors
/// [`RelayError::Client`] where the client is gone: the server is to be told by [`fail_copy`].
pub async fn copy_in(
    server: &mut Transport,
    client: &mut Transport,
    protocol: CopyProtocol,
    max_message: usize,
) -> Result<CopyPause, RelayError> {
    loop {
        let passed = pass(server, client, max_message)?;
        if passed == Passed::Finished {
            if protocol == CopyProtocol::Extended {
                FrontendMessage::Flush
                    .encode(&mut server.outbox)
                    .map_err(|error| RelayError::Client(io::Error::other(error)))?;
            }
            return Ok(CopyPause::Finished);
        }
        let answered = poll_fn(|context| {
            // a server that cannot be written may have said why: the relay reads it
            if !server.is_flushed()
                && let Poll::Ready(Err(_)) = server.poll_flush(context)
            {
                return Poll::Ready(Ok(true));
            }
            if !server.inbox.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if let Poll::Ready(read) = server.poll_fill(context) {
                return Poll::Ready(Ok(read.is_ok()));
            }
            if !client.is_flushed()
                && let Poll::Ready(Err(error)) = client.poll_flush(context)
            {
                return Poll::Ready(Err(error));
            }
            if passed == Passed::Enough && server.outbox.len() < HIGH_WATER {
                return Poll::Ready(Ok(false));
            }
            if server.outbox.len() < HIGH_WATER
                && let Poll::Ready(read) = client.poll_fill(context)
            {
                return Poll::Ready(read.and_then(|read| {
                    if read == 0 {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    } else {
                        Ok(false)
                    }
                }));
            }
            Poll::Pending
        })
        .await
        .map_err(RelayError::Client)?;
        if answered {
            // after an error, what the client still sends of its data is discarded later
            return Ok(if server.inbox.is_empty() {
                // it is gone: the relay finds out how
                CopyPause::Finished
            } else {
                CopyPause::Answered
            });
        }
    }
}

/// Ends a COPY whose client is gone: nothing of it is kept.
pub fn fail_copy(server: &mut Transport) {
    let failed = FrontendMessage::CopyFail(b"the client closed the connection");
    // a reason of ours is short and has no NUL
    let _ = failed.encode(&mut server.outbox);
}

fn pass(
    server: &mut Transport,
    client: &mut Transport,
    max_message: usize,
) -> Result<Passed, RelayError> {
    while server.outbox.len() < HIGH_WATER {
        let frame = split_frame(&mut client.inbox, max_message).map_err(|error| {
            RelayError::Client(io::Error::new(io::ErrorKind::InvalidData, error))
        })?;
        let Some(frame) = frame else {
            return Ok(Passed::More);
        };
        match frame.tag() {
            tag::frontend::COPY_DATA => server.outbox.extend_from_slice(frame.bytes()),
            tag::frontend::COPY_DONE | tag::frontend::COPY_FAIL => {
                server.outbox.extend_from_slice(frame.bytes());
                return Ok(Passed::Finished);
            }
            // ignored, so that a client need not know whether an Execute is a COPY
            tag::frontend::FLUSH | tag::frontend::SYNC => {}
            other => {
                PgError::error(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("unexpected message type 0x{other:02X} during COPY from stdin"),
                )
                .encode(&mut client.outbox);
                return Err(RelayError::Unsynchronized {
                    tag: char::from(other),
                });
            }
        }
    }
    Ok(Passed::Enough)
}
