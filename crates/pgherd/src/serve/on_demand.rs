//! Databases that the configuration does not name, made by the template `*`.
//!
//! Owns the recipe: a plain pool on the template's servers, which the template's control plane watches; of its own it has a catalog, followed
//! on one connection. What a reload changes in the template, those made follow. Main function: [`start`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use pgherd_control::{Control, ControlSettings};
use pgherd_pool::{PoolSettings, Pools};
use pgherd_router::Planner;
use pgherd_session::{Database, DatabaseParts, OnDemand, OnDemandLimits};
use pgherd_topology::Topology;
use tokio::sync::watch;

use super::deposing::cut_off_deposed;
use super::requests::catalog_requests;

/// How many plans the cache of one holds.
const PLANS: usize = 1_000;

/// The most connections to a server that are in none of its pools: one that follows the catalog, and one that listens.
const OWN_CONNECTIONS: usize = 2;

/// How often it is looked for those that nobody uses.
const SWEEP_PACE: Duration = Duration::from_secs(1);

/// Makes databases from now on. `settings` are those of the template's control plane, `topology` is what it publishes.
pub(super) fn start(
    template: Arc<Database>,
    limits: OnDemandLimits,
    settings: ControlSettings,
    topology: watch::Receiver<Arc<Topology>>,
) -> Arc<OnDemand> {
    let recipe = move |template: &Database, name: &str| {
        let made = Arc::new(make(template, name, &settings, topology.clone()));
        tokio::spawn(cut_off_deposed(Arc::downgrade(&made), topology.clone()));
        made
    };
    let on_demand = Arc::new(OnDemand::new(template, limits, recipe));
    tokio::spawn(sweep(Arc::downgrade(&on_demand)));
    on_demand
}

async fn sweep(on_demand: Weak<OnDemand>) {
    let mut pace = tokio::time::interval(SWEEP_PACE);
    loop {
        pace.tick().await;
        match on_demand.upgrade() {
            Some(on_demand) => on_demand.sweep(),
            None => return,
        }
    }
}

fn make(
    template: &Database,
    name: &str,
    settings: &ControlSettings,
    topology: watch::Receiver<Arc<Topology>>,
) -> Database {
    let mut settings = settings.clone();
    settings.database = name.into();
    for shard in &mut settings.shards {
        shard.server_database = name.into();
    }
    let control = Control::follow_catalog(&settings, topology.clone());
    let made = Database::new(DatabaseParts {
        name: name.into(),
        // who may connect is asked of the template
        users: pgherd_session::Users::default(),
        max_clients: template.max_clients(),
        reads: template.reads().as_ref().clone(),
        sharding: template.sharding(),
        server_login: template.shared_server_login(),
        topology,
        catalog: control.catalog(),
        // who follows its catalog goes with the database
        catalog_requests: catalog_requests(control.reloader(), async move {
            control.shutdown().await;
        }),
        planner: Planner::new(PLANS),
        pools: Pools::within(
            template.pools().budget().clone(),
            pool_settings(template, name),
        ),
        two_phase: template.two_phase().clone(),
        // one label for all: their names come from clients
        metrics: Arc::clone(template.metrics()),
    });
    made.set_read_only(template.is_read_only());
    made.set_timeouts(template.timeouts());
    let servers = settings.shards.iter().flat_map(|shard| &shard.servers);
    made.pools()
        .reserve(servers.map(|server| &server.address), OWN_CONNECTIONS);
    made
}

/// Brings one that was made to what the template is now.
pub(super) fn follow(template: &Database, made: &Database) {
    made.set_max_clients(template.max_clients());
    made.set_timeouts(template.timeouts());
    made.set_reads(template.reads().as_ref().clone());
    made.set_server_login(template.shared_server_login());
    made.set_read_only(template.is_read_only());
    made.pools().reload(pool_settings(template, made.name()));
}

fn pool_settings(template: &Database, name: &str) -> PoolSettings {
    PoolSettings {
        database: name.into(),
        ..PoolSettings::clone(&template.pools().settings())
    }
}
