//! What becomes of a COMMIT whose answer is lost while another server takes the primary's place. Both are one real Postgres here, reached by two
//! ways, of which the first is cut.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pgherd_protocol::split_frame;
use pgherd_session::ListenSettings;
use pgherd_topology::{
    Address, Continuity, Epoch, Health, Horizon, NodeId, NodeState, Role, ShardId, ShardState,
    Topology,
};
use support::server::Server;
use support::{Front, LONG, database_of, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

/// What the way to the old primary does with COMMIT, and what is sent ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It passes everything on.
    Open,
    /// COMMIT arrives, its answer does not.
    LosesAnswer,
    /// Of what is sent together with COMMIT only the first message arrives, and its answer comes back.
    LosesCommit,
    /// All that is sent arrives, and no answer does.
    LosesAll,
}

/// A way to the server that ends in the midst of a COMMIT.
struct Detour {
    port: u16,
    way: watch::Sender<Way>,
}

impl Detour {
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (way, watched) = watch::channel(Way::Open);
        let Address::Tcp { port: to, .. } = server.tcp() else {
            panic!("a TCP port");
        };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if *watched.borrow() == Way::Open {
                    tokio::spawn(pass(socket, to, watched.clone()));
                }
            }
        });
        Self { port, way }
    }
}

/// Where a ReadyForQuery ends, if there is one.
fn end_of_answer(bytes: &[u8]) -> Option<usize> {
    let ready = [b'Z', 0, 0, 0, 5];
    let at = bytes.windows(5).position(|window| window == ready)?;
    Some(at + 6)
}

async fn pass(mut client: TcpStream, port: u16, way: watch::Receiver<Way>) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut asked, mut answered) = ([0; 8192], [0; 8192]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let now = *way.borrow();
                if now == Way::Open {
                    server.write_all(&asked[..read]).await.unwrap();
                    continue;
                }
                let mut sent = BytesMut::from(&asked[..read]);
                let first = split_frame(&mut sent, usize::MAX).unwrap().unwrap();
                server.write_all(first.bytes()).await.unwrap();
                if now == Way::LosesAnswer {
                    server.write_all(&sent).await.unwrap();
                }
                let mut answer = Vec::new();
                let end = loop {
                    if let Some(end) = end_of_answer(&answer) {
                        break end;
                    }
                    let read = server.read(&mut answered).await.unwrap();
                    answer.extend_from_slice(&answered[..read]);
                };
                if now == Way::LosesAll {
                    return;
                }
                client.write_all(&answer[..end]).await.unwrap();
                // what is lost has happened by then
                while now == Way::LosesAnswer && end_of_answer(&answer[end..]).is_none() {
                    let read = server.read(&mut answered).await.unwrap();
                    answer.extend_from_slice(&answered[..read]);
                }
                return;
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                client.write_all(&answered[..read]).await.unwrap();
            }
        }
    }
}

struct Scene {
    server: Server,
    detour: Detour,
    topology: watch::Sender<Arc<Topology>>,
    front: Front,
}

fn topology(
    epoch: u64,
    primary: Option<u16>,
    nodes: &[Address],
    continuity: Continuity,
) -> Arc<Topology> {
    let primary = primary.map(NodeId);
    let nodes = nodes.iter().zip(0..).map(|(address, id)| {
        let mut node = NodeState::new(NodeId(id), format!("s0{id}"), address.clone());
        node.role = if primary == Some(node.id) {
            Role::Primary
        } else {
            Role::Unknown
        };
        node.health = Health::Up;
        node
    });
    let shard = ShardState {
        id: ShardId(0),
        name: "s0".into(),
        epoch: Epoch(epoch),
        primary,
        nodes: nodes.collect(),
        max_prepared_transactions: None,
        two_phase: pgherd_topology::TwoPhase::Unknown,
        outlook: Arc::default(),
        continuity,
        cuts: Arc::default(),
        chronicle: Arc::default(),
    };
    Arc::new(Topology {
        version: epoch,
        shards: vec![shard],
    })
}

impl Scene {
    async fn start(promotes: bool) -> Self {
        let server = Server::start().await;
        let sql = "CREATE ROLE app LOGIN PASSWORD 'right'; CREATE TABLE rows (n int); GRANT ALL ON rows TO app";
        let own = server.connect().await;
        own.batch_execute(sql).await.unwrap();
        let detour = Detour::to(&server).await;
        let first = topology(
            1,
            Some(0),
            &Self::nodes(&server, &detour),
            Self::continuity(promotes, None),
        );
        let (topology, receiver) = watch::channel(first);
        let users = [user("app", "right")].into_iter().collect();
        let shop = database_of("shop", users, receiver);
        let front = Front::start(ListenSettings::default(), vec![shop])
            .await
            .serve();
        Self {
            server,
            detour,
            topology,
            front,
        }
    }

    fn nodes(server: &Server, detour: &Detour) -> [Address; 2] {
        let detoured = Address::Tcp {
            host: "127.0.0.1".into(),
            port: detour.port,
        };
        [detoured, server.tcp()]
    }

    fn continuity(promotes: bool, horizon: Option<u64>) -> Continuity {
        let horizon = horizon.map(|xid| Horizon {
            epoch: Epoch(2),
            xid,
        });
        Continuity {
            hold: Duration::from_secs(10),
            promotes,
            synchronous: false,
            horizons: horizon.into_iter().collect(),
            complete_since: pgherd_topology::Epoch(0),
        }
    }

    async fn client(&self) -> Client {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.front.address.port())
            .user("app")
            .password("right")
            .dbname("shop")
            .ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The other server reigns, whose history ends at the horizon that is made of the next transaction's id.
    async fn succeed(&self, promotes: bool, horizon: impl Fn(u64) -> Option<u64>) {
        let own = self.server.connect().await;
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
        while own.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let next: String = own.query_one(next, &[]).await.unwrap().get(0);
        let continuity = Self::continuity(promotes, horizon(next.parse().unwrap()));
        let nodes = Self::nodes(&self.server, &self.detour);
        let nobody = topology(2, None, &nodes, continuity.clone());
        self.topology.send_replace(nobody);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.topology
            .send_replace(topology(2, Some(1), &nodes, continuity));
    }

    async fn rows(&self) -> i64 {
        let own = self.server.connect().await;
        let count = own.query_one("SELECT count(*) FROM rows", &[]).await;
        count.unwrap().get(0)
    }
}

/// Commits a row while the way changes, and returns the SQLSTATE that the client heard, if it was no success.
async fn commit(
    promotes: bool,
    way: Way,
    extended: bool,
    horizon: impl Fn(u64) -> Option<u64>,
) -> (Option<String>, i64) {
    let scene = Scene::start(promotes).await;
    let client = scene.client().await;
    for text in ["BEGIN", "INSERT INTO rows VALUES (1)"] {
        client.batch_execute(text).await.unwrap();
    }
    let prepared = client.prepare("COMMIT").await.unwrap();
    scene.detour.way.send_replace(way);
    let committing = async {
        if extended {
            client.execute(&prepared, &[]).await.map(drop)
        } else {
            client.batch_execute("COMMIT").await
        }
    };
    let (committed, ()) = timeout(LONG, async {
        tokio::join!(committing, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            scene.succeed(promotes, horizon).await;
        })
    })
    .await
    .unwrap();
    let heard = committed
        .err()
        .map(|error| error.code().unwrap().code().to_owned());
    let rows = scene.rows().await;
    // the client's block is over, and its session goes on
    client
        .batch_execute("INSERT INTO rows VALUES (2)")
        .await
        .unwrap();
    assert_eq!(scene.rows().await, rows + 1);
    (heard, rows)
}

#[tokio::test]
async fn a_commit_that_the_next_primary_has_is_a_success() {
    for extended in [false, true] {
        let heard = commit(true, Way::LosesAnswer, extended, Some).await;
        assert_eq!(heard, (None, 1), "extended: {extended}");
    }
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_a_serialization_failure() {
    for extended in [false, true] {
        let (heard, rows) = commit(true, Way::LosesCommit, extended, Some).await;
        assert_eq!((heard.as_deref(), rows), (Some("40001"), 0));
    }
    // an id that the next primary's history does not reach
    let (heard, _) = commit(true, Way::LosesAnswer, false, |_| Some(3)).await;
    assert_eq!(heard.as_deref(), Some("40001"));
}

#[tokio::test]
async fn a_commit_of_which_nobody_can_tell_is_in_doubt() {
    // nobody knows where the reign before ended
    let (heard, _) = commit(true, Way::LosesAnswer, false, |_| None).await;
    assert_eq!(heard.as_deref(), Some("08007"));
    // others promote: nothing is asked ahead of COMMIT
    let (heard, _) = commit(false, Way::LosesAll, false, Some).await;
    assert_eq!(heard.as_deref(), Some("08007"));
}
