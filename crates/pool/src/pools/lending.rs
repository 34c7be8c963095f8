//! From the wish for a connection to the connection: asking, waiting, opening.
//!
//! Owns the awaiting side of a checkout. Never counts: the pool does, by what is dropped. Extends [`super::Pools`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_topology::Epoch;
use tokio::time::{timeout, timeout_at};
use tracing::{debug, warn};

use super::Holding;
use super::checkout::Checkout;
use super::node_pool::{Asked, NodePool};
use super::queue::{Grant, Place, Slot};
use super::statistics::Counters;
use crate::error::PoolError;
use crate::server::{
    Beginning, Opened, Origin, RunError, Server, ServerConnection, UserLogin, here, open,
};
use crate::settings::PoolSettings;

/// What [`super::Pools::checkout`] does once the pool is known.
pub(super) async fn lend(
    pool: &Arc<NodePool>,
    login: &Arc<UserLogin>,
    epoch: Epoch,
    deadline: Option<Instant>,
) -> Result<Checkout, PoolError> {
    let mut patience = None;
    loop {
        let slot = match pool.ask(login, epoch)? {
            Asked::Connection(mut connection) => {
                if connection.is_alive() {
                    connection.move_home();
                    Counters::add(&pool.counters.checkouts);
                    return Ok(Checkout::new(connection, Arc::clone(pool)));
                }
                debug!(server = %pool.server, pid = connection.pid(), "the server closed an idle connection");
                pool.discard(connection);
                continue;
            }
            Asked::Slot(slot) => slot,
            Asked::Wait(place) => {
                let patience = *patience.get_or_insert_with(|| Patience::new(pool, deadline));
                match wait(pool, place, patience).await? {
                    Grant::Connection(mut checkout) => {
                        if checkout.is_alive() {
                            checkout.move_home();
                            Counters::add(&pool.counters.checkouts);
                            return Ok(checkout);
                        }
                        checkout.mark_dirty("the server closed it");
                        continue;
                    }
                    Grant::Slot(slot) => slot,
                    Grant::Refused(error) => return Err(error),
                }
            }
        };
        let mut patience = *patience.get_or_insert_with(|| Patience::new(pool, deadline));
        if patience.until <= Instant::now() {
            // it was a pause that took so long
            patience = Patience::new(pool, None);
        }
        // boxed: most checkouts open none
        match Box::pin(open_into(pool, slot, login, epoch, Some(patience))).await {
            Ok(checkout) => {
                Counters::add(&pool.counters.checkouts);
                return Ok(checkout);
            }
            // it has room for those that are open: one of them will do, and if there is none, asking says so
            Err(error) if error.is_server_full() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Since when a checkout waits, and until when it may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    begun: Instant,
    until: Instant,
}

impl Patience {
    fn new(pool: &NodePool, deadline: Option<Instant>) -> Self {
        let begun = Instant::now();
        let limit = begun + pool.shared.settings().checkout_timeout;
        Self {
            begun,
            until: deadline.map_or(limit, |deadline| deadline.min(limit)),
        }
    }
}

async fn wait(
    pool: &Arc<NodePool>,
    mut place: Place,
    patience: Patience,
) -> Result<Grant, PoolError> {
    let reserve_at = patience.begun + pool.shared.settings().reserve_after;
    let until_reserve = reserve_at.min(patience.until);
    let mut waited = timeout_at(until_reserve.into(), &mut place.receiver).await;
    if waited.is_err() && reserve_at < patience.until {
        pool.draw_reserve();
        waited = timeout_at(patience.until.into(), &mut place.receiver).await;
    }
    // a pause is the operator's: nobody is sent away for it, and afterwards there is as much time as before
    while waited.is_err() && pool.is_paused() {
        let until = Instant::now() + pool.shared.settings().checkout_timeout;
        waited = timeout_at(until.into(), &mut place.receiver).await;
    }
    match waited {
        Ok(Ok(grant)) => Ok(grant),
        // only the end of a pool drops who waits unanswered
        Ok(Err(_)) => Err(PoolError::Closed),
        Err(_) => {
            place.receiver.close();
            // it may have come in that very moment
            match place.receiver.try_recv() {
                Ok(grant) => Ok(grant),
                Err(_) => {
                    drop(place);
                    Err(timed_out(pool, patience))
                }
            }
        }
    }
}

fn timed_out(pool: &NodePool, patience: Patience) -> PoolError {
    Counters::add(&pool.counters.timeouts);
    PoolError::CheckoutTimeout {
        server: Server::clone(&pool.server),
        user: pool.user.clone(),
        waited: patience.begun.elapsed(),
        holders: Box::new(pool.holders()),
    }
}

/// Opens a connection within the slot. However it ends, dropping the slot or the checkout settles the count.
pub(super) async fn open_into(
    pool: &Arc<NodePool>,
    slot: Slot,
    login: &Arc<UserLogin>,
    epoch: Epoch,
    patience: Option<Patience>,
) -> Result<Checkout, PoolError> {
    // after the slot was made: a reload in between makes the connection outdated, not wrong
    let settings = pool.shared.settings();
    let begun = Instant::now();
    let left = patience.map_or(Duration::MAX, |patience| {
        patience.until.saturating_duration_since(begun)
    });
    let limit = settings.connect_timeout.min(left);
    let opening = async {
        let opened = open(&settings, &pool.server, login, Beginning::Settings).await?;
        connect(pool, &slot, opened, &settings, epoch).await
    };
    let error = match timeout(limit, opening).await {
        Ok(Ok(connection)) => {
            // too late to be of use, it is closed here, and the slot goes to the next
            pool.note_success(epoch)?;
            debug!(server = %pool.server, user = %pool.user, pid = connection.pid(), "opened a server connection");
            return slot.fill(connection).ok_or(PoolError::Closed);
        }
        Ok(Err(error)) => error,
        Err(_) => {
            if let Some(patience) = patience.filter(|_| left < settings.connect_timeout) {
                return Err(timed_out(pool, patience));
            }
            PoolError::ConnectTimeout {
                server: Server::clone(&pool.server),
                after: limit,
            }
        }
    };
    warn!(server = %pool.server, user = %pool.user, error = %error, "could not open a server connection");
    pool.note_failure(&error);
    Err(error)
}

/// Makes a connection of what was opened, and runs `connect_query` on it.
async fn connect(
    pool: &Arc<NodePool>,
    slot: &Slot,
    opened: Opened,
    settings: &PoolSettings,
    epoch: Epoch,
) -> Result<Box<ServerConnection>, PoolError> {
    let Some(member) = slot.member().map(Arc::clone) else {
        return Err(PoolError::Closed);
    };
    let now = Instant::now();
    member.set_pid(opened.pid);
    let origin = Origin {
        server: Arc::clone(&pool.server),
        peer: opened.transport.peer_socket(),
        tls: Arc::clone(&settings.tls),
        epoch,
        pid: opened.pid,
        cancel_key: opened.cancel_key,
        created: now,
        expires: now.checked_add(lifetime(settings.lifetime)),
        home: here(),
        member: Arc::clone(&member),
        connect_query: settings.connect_query.clone(),
    };
    let mut connection = ServerConnection::new(opened.transport, opened.parameters, origin);
    let server = Server::clone(&pool.server);
    connection
        .run_connect_query()
        .await
        .map_err(|error| match error {
            RunError::Refused(error) => PoolError::ConnectQuery { server, error },
            RunError::Lost(source) => PoolError::lost(&server, source),
            RunError::Protocol(what) => PoolError::protocol(&server, what),
        })?;
    member.hand(Holding::Running, now);
    Ok(Box::new(connection))
}

/// Up to a tenth less.
fn lifetime(most: Duration) -> Duration {
    most.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}
