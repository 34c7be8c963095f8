//! Taking a server connection for a request.
//!
//! Owns: choosing the server by role and by what the client has seen, and waiting for it. Never does: choosing the shard (router), what
//! the connection is sent first (`bringing`), or what a leg is used for (`attempt`, `everywhere`).
//! Main function: [`Session::leg`].

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use pgherd_pool::{Checkout, PoolError, Target};
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::Access;
use pgherd_telemetry::ServerRole;
use pgherd_topology::{NodeId, NodeState, Role, ShardId, ShardState, Topology};
use smallvec::SmallVec;
use tokio::time::{Duration, Instant, sleep};

use crate::choose::{ReplicaChoice, replica};
use crate::failure::Failure;
use crate::holding::Missing;
use crate::legs::{Leg, Load};
use crate::oids::Translation;
use crate::pins::Pins;
use crate::registry::{ClientState, HeldServer};
use crate::relay::READ_AHEAD;
use crate::route::Route;
use crate::session::Session;
use crate::settings::WantedRole;

/// How long a read waits for a replica that is nearly there before it goes to the primary.
const NEARLY_THERE: Duration = Duration::from_millis(5);

/// How long the next sample of a server takes to come, and then some.
const NEXT_SAMPLE: Duration = Duration::from_millis(40);
/// So many reads in a row go to the primary before one waits for the next sample.
const READS_BEFORE_WAITING: u32 = 8;

/// How often a checkout is tried again with a newer topology.
const SUPERSEDED_TRIES: u32 = 5;

/// Why no connection was lent.
enum NotLent {
    /// The server cannot be reached: another may.
    Unreachable(PoolError),
    /// The topology has moved on.
    Superseded(PoolError),
    /// Another reason, or no server of this kind.
    Refused(Failure),
}

impl From<PoolError> for NotLent {
    fn from(error: PoolError) -> Self {
        if error.is_superseded() {
            Self::Superseded(error)
        } else if error.is_server_unreachable() {
            Self::Unreachable(error)
        } else {
            Self::Refused(error.into())
        }
    }
}

impl From<Failure> for NotLent {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl From<NotLent> for Failure {
    fn from(not_lent: NotLent) -> Self {
        match not_lent {
            NotLent::Unreachable(error) | NotLent::Superseded(error) => error.into(),
            NotLent::Refused(failure) => failure,
        }
    }
}

impl Session {
    /// A connection to the server of `shard` that a request with this access goes to, with the client's settings and in its block.
    /// The messages that make it so are queued on it, their replies in the script.
    ///
    /// # Errors
    /// 57P03 without a server, 53300 where the pool is exhausted, and what the server itself refuses.
    pub(crate) async fn leg(&mut self, shard: ShardId, access: Access) -> Result<NodeId, Failure> {
        let node = self.taken(shard, access).await?;
        self.make_ready(node)?;
        Ok(node)
    }

    /// [`Session::leg`] for a request: with a place among the connections that clients may keep, where it will need one.
    ///
    /// # Errors
    /// Those, and 53300 where there is no such place. Nothing is queued then.
    pub(crate) async fn leg_for(
        &mut self,
        shard: ShardId,
        access: Access,
        route: &Route,
    ) -> Result<NodeId, Failure> {
        let node = self.taken(shard, access).await?;
        self.reserve_pin(node, route)?;
        self.make_ready(node)?;
        Ok(node)
    }

    fn make_ready(&mut self, node: NodeId) -> Result<(), Failure> {
        self.bring(node)?;
        self.follow_catalog(node);
        Ok(())
    }

    /// A connection to the server of `shard` that a request with this access goes to, as it is.
    async fn taken(&mut self, shard: ShardId, access: Access) -> Result<NodeId, Failure> {
        let access = self.access_in_mode(access);
        self.begin_sending()?;
        match self.held(shard) {
            Some(node) => Ok(node),
            None => self.newly_taken(shard, access).await,
        }
    }

    async fn newly_taken(&mut self, shard: ShardId, access: Access) -> Result<NodeId, Failure> {
        let mut wanted = access;
        loop {
            let client = Arc::clone(self.registration.client());
            let (node, role) = tokio::select! {
                biased;
                found = self.server(shard, wanted) => found?,
                cause = client.cancelled() => return Err(cause.error().into()),
            };
            match self.take(shard, node, role, None).await {
                Ok(()) => {
                    self.end_hold();
                    return Ok(node);
                }
                // a replica that cannot be reached is no reason to refuse a read
                Err(NotLent::Unreachable(_)) if role == Role::Replica && !self.wants_replica() => {
                    wanted = Access::Write;
                }
                Err(NotLent::Unreachable(error)) if role == Role::Primary => {
                    // boxed, as hardly any request is held
                    Box::pin(self.hold(shard, Missing::Reach(error))).await?;
                    wanted = access;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Something is about to be asked of a server.
    ///
    /// # Errors
    /// 57014 where the request was cancelled: it goes no further.
    pub(crate) fn begin_sending(&self) -> Result<(), Failure> {
        let begun = self.registration.begin_sending();
        begun.map_err(|cause| cause.error().into())
    }

    /// A connection that was kept translates ids as the newest catalog has them.
    fn follow_catalog(&mut self, node: NodeId) {
        let version = self.catalog_version();
        if self.legs.at(node).catalog_version == version {
            return;
        }
        let catalog = self.catalog();
        let leg = self.legs.at(node);
        leg.translation = Translation::for_shard(&catalog, leg.shard);
        leg.catalog_version = version;
    }

    /// The leg that must serve this shard, whatever the access: the block's, or one that holds what only it can hold.
    pub(crate) fn held(&self, shard: ShardId) -> Option<NodeId> {
        self.legs
            .find(|leg| leg.shard == shard && leg.in_block)
            .or_else(|| self.legs.find(|leg| leg.shard == shard && leg.sticky))
    }

    /// Chooses a server.
    pub(crate) async fn server(
        &mut self,
        shard: ShardId,
        access: Access,
    ) -> Result<(NodeId, Role), Failure> {
        let serializable = self
            .settings
            .value("default_transaction_isolation")
            .is_some_and(|level| level.eq_ignore_ascii_case("serializable"));
        // a replica does not do SERIALIZABLE
        let reads_only = match &self.block {
            Some(block) => {
                (block.read_only || self.database.is_read_only())
                    && !block.serializable.unwrap_or(serializable)
            }
            None => !serializable,
        };
        let wanted = self.settings.overrides().role;
        let may_read = match wanted {
            Some(WantedRole::Primary) => false,
            Some(WantedRole::Replica) => true,
            None => access == Access::Read && reads_only,
        };
        if may_read && let Some(found) = self.replica(shard, wanted).await? {
            return Ok(found);
        }
        self.primary(shard).await.map(|node| (node, Role::Primary))
    }

    /// A replica that shows all that the client has seen; waits a little where one is nearly there.
    async fn replica(
        &mut self,
        shard: ShardId,
        wanted: Option<WantedRole>,
    ) -> Result<Option<(NodeId, Role)>, Failure> {
        let mut waits_since = None;
        loop {
            let topology = self.topology();
            let state = shard_state(&topology, shard)?;
            self.turn = self.turn.wrapping_add(1);
            let patience = match replica(state, &self.database.reads(), &mut self.tokens, self.turn)
            {
                ReplicaChoice::Serves(node) => {
                    self.reads_on_primary = 0;
                    let role = if state.primary == Some(node) {
                        Role::Primary
                    } else {
                        Role::Replica
                    };
                    return Ok(Some((node, role)));
                }
                ReplicaChoice::Behind => NEARLY_THERE,
                // each read of the primary leaves a state that only a later sample can place: without a wait now and
                // then a client that reads without pause would never leave the primary again
                ReplicaChoice::Unsettled if self.reads_on_primary >= READS_BEFORE_WAITING => {
                    NEXT_SAMPLE
                }
                ReplicaChoice::Unsettled | ReplicaChoice::None => Duration::ZERO,
            };
            if patience.is_zero()
                || waits_since.get_or_insert_with(Instant::now).elapsed() >= patience
            {
                if wanted == Some(WantedRole::Replica) {
                    return Err(no_server(
                        state,
                        "replica that shows all that this session has seen",
                    ));
                }
                self.reads_on_primary = self.reads_on_primary.saturating_add(1);
                return Ok(None);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The primary of a shard; waits for one where there is none.
    ///
    /// # Errors
    /// Those of [`Session::hold`].
    pub(crate) async fn primary(&mut self, shard: ShardId) -> Result<NodeId, Failure> {
        loop {
            match shard_state(&self.topology(), shard)?.primary {
                Some(primary) => return Ok(primary),
                // boxed, as hardly any request waits for it
                None => Box::pin(self.hold(shard, Missing::Primary)).await?,
            }
        }
    }

    pub(crate) fn wants_replica(&self) -> bool {
        self.settings.overrides().role == Some(WantedRole::Replica)
    }

    /// Makes sure that a leg to this server is held. An answer that the topology has moved on meanwhile is met with the newer one.
    async fn take(
        &mut self,
        shard: ShardId,
        node: NodeId,
        role: Role,
        deadline: Option<std::time::Instant>,
    ) -> Result<(), NotLent> {
        if self.legs.get(node).is_some() {
            return Ok(());
        }
        for _ in 1..SUPERSEDED_TRIES {
            match self.check_out(shard, node, role, deadline).await {
                Err(NotLent::Superseded(_)) => sleep(Duration::from_millis(1)).await,
                result => return result,
            }
        }
        self.check_out(shard, node, role, deadline).await
    }

    /// Takes a connection to a server that was chosen, with less patience than `checkout_timeout` where the deadline is earlier. Where the
    /// primary cannot be reached, to the next one, with as much patience as before.
    ///
    /// # Errors
    /// As [`Session::leg`].
    pub(crate) async fn take_before(
        &mut self,
        shard: ShardId,
        node: NodeId,
        role: Role,
        deadline: &mut std::time::Instant,
    ) -> Result<(), Failure> {
        let mut node = node;
        loop {
            match self.take(shard, node, role, Some(*deadline)).await {
                Ok(()) => {
                    self.end_hold();
                    return Ok(());
                }
                Err(NotLent::Unreachable(error)) if role == Role::Primary => {
                    let left = deadline.saturating_duration_since(std::time::Instant::now());
                    Box::pin(self.hold(shard, Missing::Reach(error))).await?;
                    node = self.primary(shard).await?;
                    *deadline = std::time::Instant::now() + left;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Takes a connection to a shard's primary. Returns whether there is one; if not, the request was held for that.
    ///
    /// # Errors
    /// As [`Session::leg`].
    pub(crate) async fn reach_primary(
        &mut self,
        shard: ShardId,
        primary: NodeId,
    ) -> Result<bool, Failure> {
        match self.take(shard, primary, Role::Primary, None).await {
            Ok(()) => {
                self.end_hold();
                Ok(true)
            }
            Err(NotLent::Unreachable(error)) => {
                self.hold(shard, Missing::Reach(error)).await?;
                Ok(false)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn check_out(
        &mut self,
        shard: ShardId,
        node: NodeId,
        role: Role,
        deadline: Option<std::time::Instant>,
    ) -> Result<(), NotLent> {
        let topology = self.topology();
        let state = shard_state(&topology, shard)?;
        let server = state
            .nodes
            .iter()
            .find(|server| server.id == node)
            .ok_or_else(|| no_server(state, "server"))?;
        let mut connection = self.lend(state, server, deadline).await?;
        let keeps = self.keeps_legs(&mut connection);
        let catalog = self.catalog();
        let client = self.registration.id().0;
        let hears = connection.tainted_by == Some(client);
        let translation = Translation::for_shard(&catalog, shard);
        let held = self.registration.hold(HeldServer {
            shard,
            node,
            pid: connection.pid(),
            canceller: connection.canceller(),
            pin: None,
        });
        if let Some(reason) = keeps {
            self.registration.client().pin(held, reason);
        }
        let leg = Leg {
            connection,
            shard,
            node,
            role,
            in_block: false,
            sticky: keeps.is_some(),
            hears,
            listened: Vec::new(),
            pins: Pins::default(),
            translation,
            catalog_version: catalog.version(),
            synchronous: state.continuity.synchronous,
            promotes: state.continuity.promotes,
            settings: None,
            told: 0,
            inherited: false,
            used: SmallVec::new(),
            describes: false,
            _load: Load::new(&server.load),
            client: Arc::clone(self.registration.client()),
            held,
            metrics: self
                .database
                .metrics()
                .route(&state.name, server_role(role)),
        };
        // a cancel request that came before has not seen this server
        if let Some(cause) = self.registration.cancel_cause() {
            return Err(NotLent::Refused(cause.error().into()));
        }
        self.legs.push(leg);
        Ok(())
    }

    /// Waits for a connection, or for the client to cancel the wait or to go away.
    async fn lend(
        &mut self,
        state: &ShardState,
        server: &NodeState,
        deadline: Option<std::time::Instant>,
    ) -> Result<Checkout, NotLent> {
        let target = Target::new(state, server);
        let (client, registration) = (&mut self.client, &self.registration);
        let mut lending = pin!(
            self.database
                .pools()
                .checkout(&self.user, &target, deadline)
        );
        // a connection that is at hand costs no look at the clock
        let mut waits_since = None;
        let lent = poll_fn(|context| {
            let lent = lending.as_mut().poll(context);
            if lent.is_pending() {
                waits_since.get_or_insert_with(|| {
                    registration.set_state(ClientState::Waiting);
                    Instant::now()
                });
            }
            lent
        });
        let lent = tokio::select! {
            biased;
            lent = lent => lent.map_err(|error| {
                // one that hangs is waited for until then
                let in_vain = matches!(error, PoolError::CheckoutTimeout { .. });
                if in_vain && self.is_holding(state.id) && self.is_deposed(state.id, server.id, state.epoch) {
                    return NotLent::Unreachable(error);
                }
                match self.not_joined(&error) {
                    Some(failure) => NotLent::Refused(failure),
                    None => error.into(),
                }
            }),
            _gone = poll_fn(|context| client.poll_ended(context, READ_AHEAD)) => {
                Err(NotLent::Refused(Failure::ClientGone))
            }
            cause = registration.cancelled() => Err(NotLent::Refused(cause.error().into())),
        };
        if let Some(begun) = waits_since {
            registration.set_state(ClientState::Active);
            self.database.metrics().waited_for_checkout(begun.elapsed());
        }
        lent
    }
}

fn server_role(role: Role) -> ServerRole {
    match role {
        Role::Primary | Role::Unknown => ServerRole::Primary,
        Role::Replica => ServerRole::Replica,
    }
}

/// A shard of the snapshot.
///
/// # Errors
/// 57P03 where the snapshot does not know it (yet).
pub fn shard_state(topology: &Topology, shard: ShardId) -> Result<&ShardState, Failure> {
    topology
        .shards
        .iter()
        .find(|state| state.id == shard)
        .ok_or_else(|| {
            PgError::error(
                SqlState::CANNOT_CONNECT_NOW,
                format!("nothing is known yet of shard {}", shard.0),
            )
            .into()
        })
}

pub(crate) fn no_server(state: &ShardState, role: &str) -> Failure {
    PgError::error(
        SqlState::CANNOT_CONNECT_NOW,
        format!("shard \"{}\" has no {role} at the moment", state.name),
    )
    .hint("SHOW SHARDS on the console tells what is known of each server.")
    .into()
}
