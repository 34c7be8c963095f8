//! Cancelling what servers do for a client.
//!
//! Owns: sending cancel requests while the request that they are for runs, and keeping its servers from anything else until they
//! have arrived. Never does: deciding that something is to be cancelled. Main function: [`forward`].
//!
//! # Why none goes astray
//! Postgres knows a cancel request's backend, not its statement. A server passes the signal on before it closes the cancel connection; a
//! backend that is asked something after that has ignored the signal, or ended what it did. So a server connection is used for nothing
//! else from the opening of a cancel connection to its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::registry::CancelHandle;
use crate::session::Session;

/// How long a cancel request may take to reach all servers.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Passes a cancel request on to every server that works for the client, unless the request is over by then.
pub(crate) async fn forward(handle: CancelHandle) {
    let client = handle.client().id().0;
    if !handle.is_wanted() {
        return;
    }
    let mut cancelling = JoinSet::new();
    for canceller in handle.cancellers().to_vec() {
        cancelling.spawn(async move { canceller.cancel().await });
    }
    let forwarding = async {
        while let Some(cancelled) = cancelling.join_next().await {
            if let Ok(Err(error)) = cancelled {
                tracing::warn!(client, %error, "a cancel request did not reach its server");
                handle.is_unsure();
            }
        }
    };
    if timeout(CANCEL_TIMEOUT, forwarding).await.is_err() {
        tracing::warn!(client, "a cancel request took too long");
        handle.is_unsure();
    }
}

impl Session {
    /// The request is over. Waits for cancel requests that are on their way, while the client gets its answer.
    pub(crate) async fn settle_cancels(&mut self) {
        if !self.registration.end_request() {
            return;
        }
        let client = Arc::clone(self.registration.client());
        let mut ended = pin!(client.cancels_ended());
        let arrived = poll_fn(|context| {
            // a client that is gone is noticed by whoever reads it next
            if !self.client.is_broken()
                && let Poll::Ready(Err(error)) = self.client.poll_flush(context)
            {
                tracing::debug!(%error, "a client is gone");
            }
            ended.as_mut().poll(context)
        })
        .await;
        if !arrived {
            for leg in self.legs.iter_mut() {
                leg.connection
                    .mark_dirty("a cancel request may still be on its way");
            }
        }
    }
}
