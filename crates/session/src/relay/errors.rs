//! Errors of a server, as their client is to hear them.
//!
//! Owns: the client's own names and positions in them, and what of a script an error skips. Never does: deciding whether a request is tried
//! again (`attempt.rs`). Main function: [`Relay::error`].

use bytes::BytesMut;
use pgherd_pool::{STATEMENT_PREFIX, ServerConnection};
use pgherd_protocol::{Frame, PgError, Severity, SqlState};

use super::{Relay, RelayError};
use crate::registry::{CancelCause, Client};
use crate::script::{Audience, Awaited, Reply};

impl Relay<'_> {
    /// What a server says of a statement that it knows by another name than the client; `None` where it says nothing of one.
    fn named_as_by_the_client(&self, message: &str) -> Option<String> {
        let server_name = shared_name(message)?;
        let name = self.statements?.name_of(server_name.as_bytes())?;
        Some(message.replace(server_name, &String::from_utf8_lossy(name)))
    }

    pub(super) fn error(
        &mut self,
        leg: &mut ServerConnection,
        out: &mut BytesMut,
        frame: &Frame,
        audience: Audience,
    ) -> Result<(), RelayError> {
        let mut error =
            PgError::parse(frame.body()).map_err(|_| RelayError::Protocol { tag: 'E' })?;
        if error.severity != Severity::Error {
            // the connection ends here; the session decides what the client hears
            self.fatal = Some(Box::new(error));
            // and may run the request again
            self.hold = true;
            return Ok(());
        }
        if matches!(self.script.front(), Some(Awaited::Server(Reply::Xid, _))) {
            return Ok(());
        }
        let cause = self.client.and_then(Client::cancel_cause);
        let timed_out =
            error.code == SqlState::QUERY_CANCELED && cause == Some(CancelCause::QueryTimeout);
        if timed_out {
            error.message = CancelCause::QueryTimeout.message().to_owned();
        }
        self.outcome.tag = None;
        if audience != Audience::Pgherd {
            let positions = self.script.positions();
            if timed_out {
                error.encode(out);
            } else {
                let renamed = self
                    .named_as_by_the_client(&error.message)
                    .map(|message| PgError {
                        message,
                        ..error.clone()
                    });
                let placed = positions
                    .and_then(|positions| positions.correct(renamed.as_ref().unwrap_or(&error)));
                if let Some(told) = placed.or(renamed) {
                    told.encode(out);
                } else {
                    out.extend_from_slice(frame.bytes());
                }
            }
        }
        self.parameters = None;
        if self.outcome.error.is_none() {
            self.outcome.answered = self.script.answered();
            self.outcome.error_is_ours = audience == Audience::Pgherd;
            self.outcome.not_brought = self.script.is_bringing();
            self.outcome.error = Some(Box::new(error));
        }
        if !matches!(self.script.front(), Some(Awaited::Server(Reply::Query, _))) {
            let skipped = self.script.skip_to_sync();
            leg.forget_requests(skipped.queries);
            self.outcome.skipping = !skipped.to_sync;
        }
        Ok(())
    }
}

/// The name of a shared statement within a server's message.
fn shared_name(message: &str) -> Option<&str> {
    let name = &message[message.find(STATEMENT_PREFIX)?..];
    Some(&name[..name.find('"')?])
}
