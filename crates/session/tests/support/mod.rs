//! A herd in this process, and clients of it that speak in bytes.
#![allow(dead_code)]

pub mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgherd_pool::{PoolSettings, Pools, Stream, TcpSettings};
use pgherd_protocol::auth::{ChannelBinding, ScramClient};
use pgherd_protocol::backend::Mechanisms;
use pgherd_protocol::frontend::SaslInitialResponse;
use pgherd_protocol::{
    Authentication, BackendMessage, Credential, Frame, FrontendMessage, MockSecret, PgError,
    Secret, Verifier, split_frame,
};
use pgherd_router::Planner;
use pgherd_session::{
    Accepted, CatalogRequests, ConsoleSettings, Database, DatabaseParts, Herd, ListenSettings,
    ReadSettings, TwoPhase, User, Users, accept,
};
use pgherd_telemetry::Metrics;
use pgherd_topology::commit_protocol::{HerdId, InFlight, ProxyId};
use pgherd_topology::{
    Address, Catalog, Epoch, Health, NodeId, NodeState, Role, ShardId, ShardState, Sharding,
    Topology,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Longer than anything takes, shorter than anyone waits.
pub const LONG: Duration = Duration::from_secs(20);

/// A herd that listens, and what became of each connection.
pub struct Front {
    pub herd: Arc<Herd>,
    pub address: std::net::SocketAddr,
    pub accepted: mpsc::UnboundedReceiver<Accepted>,
}

impl Front {
    /// Serves applications with sessions, instead of keeping what became of each.
    pub fn serve(mut self) -> Self {
        let (_, nobody) = mpsc::unbounded_channel();
        let mut accepted = std::mem::replace(&mut self.accepted, nobody);
        tokio::spawn(async move {
            while let Some(accepted) = accepted.recv().await {
                if let Accepted::Application(login) = accepted {
                    tokio::spawn(pgherd_session::run(login));
                }
            }
        });
        self
    }

    /// Listens with these settings, a console with the user `admin`, and these databases.
    pub async fn start(settings: ListenSettings, databases: Vec<Database>) -> Self {
        let console = ConsoleSettings {
            database: Some("pgherd".into()),
            users: Arc::new([user("admin", "secret")].into_iter().collect()),
        };
        let herd = Arc::new(Herd::new(
            settings,
            console,
            Metrics::new(),
            MockSecret::random(4096),
        ));
        herd.set_databases(databases.into_iter().map(Arc::new));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = mpsc::unbounded_channel();
        let shared = Arc::clone(&herd);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (herd, sender) = (Arc::clone(&shared), sender.clone());
                tokio::spawn(async move {
                    let _ = sender.send(
                        accept(Stream::tcp(socket, &TcpSettings::default()).unwrap(), &herd).await,
                    );
                });
            }
        });
        Self {
            herd,
            address,
            accepted,
        }
    }

    pub async fn connect(&self) -> Client {
        Client {
            socket: TcpStream::connect(self.address).await.unwrap(),
            inbox: BytesMut::new(),
        }
    }

    /// What became of the next connection.
    pub async fn next(&mut self) -> Accepted {
        timeout(LONG, self.accepted.recv()).await.unwrap().unwrap()
    }
}

pub fn user(name: &str, password: &str) -> User {
    let verifier: Verifier = password.parse().unwrap();
    User::with_password(name, &verifier)
}

/// A database of one shard; `None` is one whose servers nobody knows.
pub fn database(name: &str, users: Users, server: Option<Address>) -> Database {
    let nodes = server.map(|address| {
        let mut node = NodeState::new(NodeId(0), "s0a", address);
        node.role = Role::Primary;
        node.health = Health::Up;
        node
    });
    let shard = ShardState {
        id: ShardId(0),
        name: "s0".into(),
        epoch: Epoch(1),
        primary: nodes.as_ref().map(|node| node.id),
        nodes: nodes.into_iter().collect(),
        max_prepared_transactions: None,
        two_phase: pgherd_topology::TwoPhase::Unknown,
        outlook: Arc::default(),
        continuity: pgherd_topology::Continuity::default(),
        cuts: Arc::default(),
        chronicle: Arc::default(),
    };
    let topology = Topology {
        version: 1,
        shards: vec![shard],
    };
    // the sender may go: a receiver keeps what it last saw
    let (_, topology) = watch::channel(Arc::new(topology));
    database_of(name, users, topology)
}

/// A database of one shard whose servers change.
pub fn database_of(name: &str, users: Users, topology: watch::Receiver<Arc<Topology>>) -> Database {
    let (_, catalog) = watch::channel(Arc::new(Catalog::empty()));
    Database::new(DatabaseParts {
        name: name.into(),
        users,
        max_clients: None,
        reads: ReadSettings::default(),
        sharding: Arc::new(Sharding::unsharded("s0")),
        server_login: None,
        topology,
        catalog,
        catalog_requests: CatalogRequests::channel().0,
        planner: Planner::new(100),
        pools: Pools::new(PoolSettings::new("postgres")),
        two_phase: TwoPhase {
            herd: HerdId(1),
            proxy: ProxyId(1),
            in_flight: InFlight::default(),
        },
        metrics: Metrics::new().database(name),
    })
}

/// A client that sends what it likes.
pub struct Client {
    pub socket: TcpStream,
    inbox: BytesMut,
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// A startup message of a version (major in the upper half).
    pub async fn start(&mut self, version: u32, parameters: &[(&str, &str)]) {
        let mut body = BytesMut::new();
        body.put_u32(version);
        for (name, value) in parameters {
            body.extend_from_slice(name.as_bytes());
            body.put_u8(0);
            body.extend_from_slice(value.as_bytes());
            body.put_u8(0);
        }
        body.put_u8(0);
        let mut packet = BytesMut::new();
        packet.put_u32(u32::try_from(body.len()).unwrap() + 4);
        packet.extend_from_slice(&body);
        self.send(&packet).await;
    }

    /// Reads some bytes of what comes next.
    pub async fn read(&mut self, buffer: &mut [u8]) -> usize {
        let read = timeout(LONG, self.socket.read(buffer))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(read, 0, "the end");
        read
    }

    pub async fn byte(&mut self) -> u8 {
        timeout(LONG, self.socket.read_u8()).await.unwrap().unwrap()
    }

    /// The next message; `None` at the end.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = split_frame(&mut self.inbox, 1 << 20).unwrap() {
                return Some(frame);
            }
            let read = timeout(LONG, self.socket.read_buf(&mut self.inbox))
                .await
                .unwrap();
            if read.unwrap() == 0 {
                assert!(self.inbox.is_empty(), "half a message: {:?}", self.inbox);
                return None;
            }
        }
    }

    /// The next message, which is an error, and the end after it.
    pub async fn last_error(&mut self) -> PgError {
        let frame = self.frame().await.expect("an error rather than the end");
        let error = match BackendMessage::parse(&frame).unwrap() {
            BackendMessage::ErrorResponse(fields) => PgError::from(fields),
            other => panic!("an error rather than {other:?}"),
        };
        assert!(self.frame().await.is_none());
        error
    }
}

/// A step of an exchange.
pub enum Step {
    Ok,
    Sasl,
    Continue(Vec<u8>),
    Final(Vec<u8>),
}

/// The server's next step; its error, if it ends the exchange.
pub async fn step(client: &mut Client) -> Result<Step, PgError> {
    let frame = client.frame().await.expect("a message");
    match BackendMessage::parse(&frame).unwrap() {
        BackendMessage::Authentication(Authentication::Ok) => Ok(Step::Ok),
        BackendMessage::Authentication(Authentication::Sasl(_)) => Ok(Step::Sasl),
        BackendMessage::Authentication(Authentication::SaslContinue(data)) => {
            Ok(Step::Continue(data.to_vec()))
        }
        BackendMessage::Authentication(Authentication::SaslFinal(data)) => {
            Ok(Step::Final(data.to_vec()))
        }
        BackendMessage::ErrorResponse(fields) => Err(PgError::from(fields)),
        other => panic!("a step of an exchange rather than {other:?}"),
    }
}

/// Proves a password by SCRAM, up to AuthenticationOk.
pub async fn scram(client: &mut Client, password: &str) -> Result<(), PgError> {
    assert!(matches!(step(client).await?, Step::Sasl));
    let credential = Credential::Password(Secret::from(password));
    let offered = Mechanisms::new(&["SCRAM-SHA-256"]);
    let exchange = ScramClient::new(&credential, offered, ChannelBinding::NotSupported).unwrap();
    let mut out = BytesMut::new();
    let first = exchange.client_first();
    let initial = SaslInitialResponse {
        mechanism: b"SCRAM-SHA-256",
        data: Some(&first),
    };
    initial.encode(&mut out).unwrap();
    client.send(&out.split()).await;
    let Step::Continue(challenge) = step(client).await? else {
        panic!("a challenge");
    };
    let (answer, proof) = exchange.server_first(&challenge).unwrap();
    FrontendMessage::Password(&answer).encode(&mut out).unwrap();
    client.send(&out).await;
    let Step::Final(signature) = step(client).await? else {
        panic!("a signature");
    };
    proof.server_final(&signature).unwrap();
    assert!(matches!(step(client).await?, Step::Ok));
    Ok(())
}
