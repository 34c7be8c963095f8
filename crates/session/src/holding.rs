//! Work that has not begun, while its shard has no primary that could do it.
//!
//! Owns: how long it is held and how much of it, and what its client hears when that was in vain. Never does: deciding whether a request has
//! begun (`attempt`). Main function: [`Session::hold`].

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgherd_pool::PoolError;
use pgherd_protocol::{PgError, SqlState};
use pgherd_topology::{Epoch, Health, NodeId, ShardId, ShardState};
use tokio::time::{Duration, Instant, sleep_until};

use crate::failure::Failure;
use crate::herd::Database;
use crate::registry::ClientState;
use crate::relay::READ_AHEAD;
use crate::session::Session;
use crate::taking::{no_server, shard_state};

/// So many requests are held at once for one shard.
const MOST_HELD: usize = 1_000;

/// How long after an attempt a primary that is still named is tried again. Another one ends the wait at once.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How many requests are held, by shard.
#[derive(Debug, Default)]
pub(crate) struct WaitingRooms(Mutex<HashMap<ShardId, usize>>);

impl WaitingRooms {
    /// `None` where as many wait already as may.
    fn enter(self: &Arc<Self>, shard: ShardId) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(shard).or_default();
        if *count >= MOST_HELD {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place {
            rooms: Arc::clone(self),
            shard,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<ShardId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that is held.
#[derive(Debug)]
struct Place {
    rooms: Arc<WaitingRooms>,
    shard: ShardId,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.rooms.counts().get_mut(&self.shard) {
            *count -= 1;
        }
    }
}

/// That the request at hand is, or was, held.
#[derive(Debug)]
pub(crate) struct Hold {
    /// However often it meets no primary, it is held no longer than that.
    until: Instant,
    place: Option<Place>,
}

/// Why a request is to be held.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Nobody is known to be the primary.
    Primary,
    /// The primary cannot be reached.
    Reach(PoolError),
    /// What was the primary takes no writes any more.
    Writable,
}

/// A primary as one snapshot of the topology shows it.
type Reign = (Epoch, Option<NodeId>);

impl Session {
    /// Waits until a shard may have a primary that can be reached: another one, or the same after a moment. A client that leaves or
    /// cancels ends the wait. Where the shard has but one server, only for a primary to be found, and for `checkout_timeout`.
    ///
    /// # Errors
    /// 57P03 once the request was held for `failover.hold`, or where too many are held; 57014; that it cannot be reached, where none is
    /// held for that.
    pub(crate) async fn hold(&mut self, shard: ShardId, missing: Missing) -> Result<(), Failure> {
        let topology = self.topology();
        let state = shard_state(&topology, shard)?;
        let held = holds(state);
        let limit = match &missing {
            _ if held => state.continuity.hold,
            Missing::Primary => self.database.pools().settings().checkout_timeout,
            Missing::Reach(error) => return Err(error.clone().into()),
            Missing::Writable => return Err(no_server(state, "primary")),
        };
        let mut hold = self.hold.take().unwrap_or_else(|| {
            Box::new(Hold {
                until: Instant::now() + limit,
                place: None,
            })
        });
        if held && hold.place.is_none() {
            let place = self.database.waiting_rooms().enter(shard);
            hold.place = Some(place.ok_or_else(|| too_many(state))?);
        }
        let until = hold.until;
        self.hold = Some(hold);
        if Instant::now() >= until {
            return Err(in_vain(state, &missing, limit));
        }
        // one that is not named ends the wait by being named
        let again = state.primary.map(|_| until.min(Instant::now() + TRY_AGAIN));
        let reign = (state.epoch, state.primary);
        self.registration.set_state(ClientState::Waiting);
        let found = self
            .another_reign(shard, reign, again.unwrap_or(until))
            .await;
        self.registration.set_state(ClientState::Active);
        found
    }

    async fn another_reign(
        &mut self,
        shard: ShardId,
        reign: Reign,
        until: Instant,
    ) -> Result<(), Failure> {
        let (client, registration) = (&mut self.client, &self.registration);
        tokio::select! {
            biased;
            cause = registration.cancelled() => Err(cause.error().into()),
            _gone = poll_fn(|context| client.poll_ended(context, READ_AHEAD)) => {
                Err(Failure::ClientGone)
            }
            () = succeeded(&self.database, shard, reign) => Ok(()),
            () = sleep_until(until) => Ok(()),
        }
    }

    /// The request at hand goes on: another may be held in its place.
    pub(crate) fn end_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.place = None;
        }
    }

    /// Whether requests are held for this shard.
    pub(crate) fn is_holding(&self, shard: ShardId) -> bool {
        self.topology().shard(shard).is_some_and(holds)
    }

    /// Whether, as far as is known by now, this server is its shard's primary no more, or does not answer.
    pub(crate) fn is_deposed(&self, shard: ShardId, node: NodeId, epoch: Epoch) -> bool {
        let topology = self.topology();
        topology.shard(shard).is_none_or(|state| {
            let server = state.node(node);
            state.epoch > epoch
                || state.primary != Some(node)
                || server.is_none_or(|server| server.health == Health::Down)
        })
    }
}

/// Returns once a shard has another primary than that.
async fn succeeded(database: &Database, shard: ShardId, reign: Reign) {
    let mut changes = database.watch_topology();
    loop {
        let now = changes
            .borrow_and_update()
            .shard(shard)
            .map(|state| (state.epoch, state.primary));
        if now.is_some_and(|now| now.1.is_some() && now != reign) {
            return;
        }
        if changes.changed().await.is_err() {
            // the database is being removed: the deadline ends the wait
            pending::<()>().await;
        }
    }
}

/// One server alone has no other that could take its place.
fn holds(state: &ShardState) -> bool {
    state.nodes.len() > 1 && !state.continuity.hold.is_zero()
}

fn too_many(state: &ShardState) -> Failure {
    PgError::error(
        SqlState::CANNOT_CONNECT_NOW,
        format!("shard \"{}\" has no primary at the moment", state.name),
    )
    .detail(format!("{MOST_HELD} requests wait for one already."))
    .hint("Nothing of the request was run. Try again a little later.")
    .into()
}

fn in_vain(state: &ShardState, missing: &Missing, limit: Duration) -> Failure {
    if !holds(state) {
        return no_server(state, "primary");
    }
    let shard = &state.name;
    let limit = limit.as_secs_f64();
    let message = match missing {
        Missing::Primary => format!("shard \"{shard}\" has had no primary for {limit} s"),
        Missing::Reach(_) => {
            format!("the primary of shard \"{shard}\" could not be reached for {limit} s")
        }
        Missing::Writable => {
            format!("the primary of shard \"{shard}\" has taken no writes for {limit} s")
        }
    };
    let error = PgError::error(SqlState::CANNOT_CONNECT_NOW, message);
    let error = match missing {
        Missing::Reach(cause) => error.detail(cause.to_string()),
        Missing::Primary | Missing::Writable => error,
    };
    error
        .hint("Nothing of the request was run. SHOW SHARDS on the console tells what is known of each server.")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_held_for_a_shard_than_may_be() {
        let rooms = Arc::new(WaitingRooms::default());
        let mut places: Vec<_> = (0..MOST_HELD).map(|_| rooms.enter(ShardId(0))).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(rooms.enter(ShardId(0)).is_none());
        assert!(rooms.enter(ShardId(1)).is_some());
        places.pop();
        assert!(rooms.enter(ShardId(0)).is_some());
    }
}
