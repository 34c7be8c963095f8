//! A herd without servers that listens in this process, with its console, and psql as a client of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use pgherd_admin::{Operations, serve_console};
use pgherd_pool::{PoolSettings, Pools, Stream, TcpSettings};
use pgherd_protocol::{MockSecret, Verifier};
use pgherd_router::Planner;
use pgherd_session::{
    Accepted, CatalogRequests, ConsoleSettings, Database, DatabaseParts, Herd, ListenSettings,
    ReadSettings, TwoPhase, User, Users, accept, run,
};
use pgherd_telemetry::Metrics;
use pgherd_topology::commit_protocol::{HerdId, InFlight, ProxyId};
use pgherd_topology::{
    Catalog, Epoch, Health, NodeId, NodeState, RelationName, Role, ShardId, ShardMap, ShardState,
    Sharding, TableRule, Topology,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(20);

pub struct Front {
    pub herd: Arc<Herd>,
    pub address: SocketAddr,
    /// Where its Unix socket is; the port in its name is 6432.
    pub sockets: TempDir,
    topology: watch::Sender<Arc<Topology>>,
    catalog: watch::Sender<Arc<Catalog>>,
}

impl Front {
    /// With a console user `admin` of the password `secret`.
    pub async fn start() -> Self {
        Self::start_with(ListenSettings::default(), [user("admin", "secret")]).await
    }

    pub async fn start_with(
        settings: ListenSettings,
        users: impl IntoIterator<Item = User>,
    ) -> Self {
        let console = ConsoleSettings {
            database: Some("pgherd".into()),
            users: Arc::new(users.into_iter().collect()),
        };
        let mock_secret = MockSecret::random(4096);
        let herd = Arc::new(Herd::new(settings, console, Metrics::new(), mock_secret));
        let (topology, topology_receiver) = watch::channel(Arc::new(two_shards(None)));
        let (catalog, catalog_receiver) = watch::channel(Arc::new(Catalog::empty()));
        let shop = shop(&herd, topology_receiver, catalog_receiver);
        herd.set_databases([Arc::new(shop)]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(sockets.path().join(".s.PGSQL.6432")).unwrap();
        let shared = Arc::clone(&herd);
        let operations = Arc::new(Operations::channel().0);
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => Stream::tcp(accepted.unwrap().0, &TcpSettings::default()).unwrap(),
                    accepted = unix.accept() => Stream::unix(accepted.unwrap().0),
                };
                let (herd, operations) = (Arc::clone(&shared), Arc::clone(&operations));
                tokio::spawn(async move {
                    match accept(stream, &herd).await {
                        Accepted::Console(login) => drop(serve_console(*login, operations).await),
                        Accepted::Application(login) => run(login).await,
                        Accepted::Replication(_) | Accepted::Cancelled | Accepted::Closed(_) => {}
                    }
                });
            }
        });
        Self {
            herd,
            address,
            sockets,
            topology,
            catalog,
        }
    }

    /// Both shards have a primary from now on, and the catalog is read.
    pub fn become_ready(&self) {
        self.topology
            .send_replace(Arc::new(two_shards(Some(NodeId(0)))));
        let catalog = Catalog::builder().with_builtins().version(1).build();
        self.catalog.send_replace(Arc::new(catalog));
    }

    /// Runs psql on the console.
    pub async fn psql(&self, connection: &str, command: &str) -> Output {
        let port = self.address.port();
        self.psql_at(&format!("host=127.0.0.1 port={port} {connection}"), command)
            .await
    }

    /// Runs psql on the console by the Unix socket.
    pub async fn psql_by_socket(&self, connection: &str, command: &str) -> Output {
        let directory = self.sockets.path().display();
        self.psql_at(&format!("host={directory} port=6432 {connection}"), command)
            .await
    }

    async fn psql_at(&self, connection: &str, command: &str) -> Output {
        let connection =
            format!("dbname=pgherd user=admin password=secret connect_timeout=10 {connection}");
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-w", "-c", command, &connection])
            .env("HOME", self.sockets.path())
            .env_remove("PGSSLMODE");
        timeout(LONG, psql.output()).await.unwrap().unwrap()
    }
}

pub fn user(name: &str, password: &str) -> User {
    let verifier: Verifier = password.parse().unwrap();
    User::with_password(name, &verifier)
}

/// What psql printed, where it succeeded.
pub fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("WARNING"), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Why psql failed.
pub fn failure(output: &Output) -> String {
    assert!(
        !output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Writes a file that only its owner reads, as libpq wants keys to be.
pub fn write_private(path: PathBuf, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn two_shards(primary: Option<NodeId>) -> Topology {
    let shard = |id: u16, name: &str| {
        let mut node = NodeState::new(
            NodeId(id),
            format!("{name}a"),
            "127.0.0.1:1".parse().unwrap(),
        );
        if primary.is_some() {
            node.role = Role::Primary;
            node.health = Health::Up;
        }
        ShardState {
            id: ShardId(id),
            name: name.into(),
            epoch: Epoch(1),
            primary: primary.map(|_| NodeId(id)),
            nodes: vec![node],
            max_prepared_transactions: None,
            two_phase: pgherd_topology::TwoPhase::Unknown,
            outlook: Arc::default(),
            continuity: pgherd_topology::Continuity::default(),
            cuts: Arc::default(),
            chronicle: Arc::default(),
        }
    };
    Topology {
        version: 1,
        shards: vec![shard(0, "s0"), shard(1, "s1")],
    }
}

fn shop(
    herd: &Herd,
    topology: watch::Receiver<Arc<Topology>>,
    catalog: watch::Receiver<Arc<Catalog>>,
) -> Database {
    let owners: Vec<ShardId> = (0..8)
        .map(|bucket| ShardId(u16::from(bucket > 4)))
        .collect();
    let table = |name: &str| RelationName::new("public", name);
    let sharding = Sharding::builder(["s0", "s1"])
        .map(Arc::new(ShardMap::new(3, owners).unwrap()))
        .table(TableRule::hash(table("users"), ["id"]))
        .table(TableRule::hash(table("orders"), ["user_id"]).with(table("users")))
        .reference(table("countries"))
        .build()
        .unwrap();
    let users: Users = [user("app", "right")].into_iter().collect();
    Database::new(DatabaseParts {
        name: "shop".into(),
        users,
        max_clients: Some(7),
        reads: ReadSettings::default(),
        sharding: Arc::new(sharding),
        server_login: None,
        topology,
        catalog,
        catalog_requests: CatalogRequests::channel().0,
        planner: Planner::new(100),
        pools: Pools::new(PoolSettings::new("shop")),
        two_phase: TwoPhase {
            herd: HerdId(1),
            proxy: ProxyId(1),
            in_flight: InFlight::default(),
        },
        metrics: herd.metrics().database("shop"),
    })
}
