//! Cancelling what servers do for a client.
//!
//! Owns: sending cancel requests while the request that they are for runs, and keeping its servers from anything else until they
//! have arrived. Never does: deciding that something is to be cancelled. Main function: [`forward`].
//!
//! # Why none goes astray
//! Postgres knows a cancel request's backend, not its statement. A server passes the signal on before it closes the cancel connection; a
//! backend that is asked something after that has ignored the signal, or ended what it did. So a server connection is used for nothing
//! else from the opening of a cancel connection to its end.
//!
//! # Why none is lost
//! A cancel request comes by a connection of its own and may overtake what it is for. Where nothing runs, the session looks for a request in its
//! socket first. Where a request has not come to a server yet, it is not sent there any more. Where it is being sent, the cancel request waits
//! until it is. And a server that is slow to read it ignores the cancel request as an idle one does: where the statement goes on, it is told again.

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

/// So long a cancelled statement may go on before its server is told again, each time.
const TOLD_AGAIN_AFTER: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Passes a cancel request on to every server that works for the client, unless the request is over by then.
pub(crate) async fn forward(handle: CancelHandle) {
    for patience in TOLD_AGAIN_AFTER {
        let told = tell_servers(&handle).await;
        if !told || timeout(patience, handle.request_ended()).await.is_ok() {
            return;
        }
    }
    tell_servers(&handle).await;
}

/// Returns whether there was any to tell.
async fn tell_servers(handle: &CancelHandle) -> bool {
    let client = handle.client().id().0;
    let Ok(cancellers) = timeout(CANCEL_TIMEOUT, handle.cancellers()).await else {
        tracing::warn!(
            client,
            "what is to be cancelled was not written to its server"
        );
        return false;
    };
    if cancellers.is_empty() {
        return false;
    }
    let mut cancelling = JoinSet::new();
    for canceller in cancellers {
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
    true
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
