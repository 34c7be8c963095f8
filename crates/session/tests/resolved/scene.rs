//! One real Postgres that is two servers of a shard, reached by two ways, of which the first is cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pgherd_protocol::split_frame;
use pgherd_session::ListenSettings;
use pgherd_topology::{
    Address, Continuity, Epoch, Health, Horizon, NodeId, NodeState, Role, ShardId, ShardState,
    Topology,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::support::server::Server;
use crate::support::{Front, database_of, user};

/// What the way to the old primary does with COMMIT, and what is sent ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It passes everything on.
    Open,
    /// COMMIT arrives, its answer does not.
    LosesAnswer,
    /// Of what is sent together with COMMIT only the first message arrives, and its answer comes back.
    LosesCommit,
    /// All that is sent arrives, and no answer does.
    LosesAll,
    /// All that is sent arrives, and of the answer what comes before ReadyForQuery.
    LosesReady,
    /// All that is sent but its last message arrives, and so does the answer.
    LosesSync,
    /// It ends at once.
    Cut,
}

/// A way to the server that ends in the midst of a COMMIT.
pub struct Detour {
    port: u16,
    pub way: watch::Sender<Way>,
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

/// Where the answer to the question for a transaction's id ends, if it is there.
fn end_of_probe(bytes: &[u8]) -> Option<usize> {
    let done = b"SELECT 1\0";
    let at = bytes
        .windows(done.len())
        .position(|window| window == done)?;
    Some(at + done.len())
}

/// All but the last message.
fn without_last(sent: &[u8]) -> &[u8] {
    let (mut rest, mut last) = (BytesMut::from(sent), 0);
    while let Some(frame) = split_frame(&mut rest, usize::MAX).unwrap() {
        last = frame.bytes().len();
    }
    assert!(rest.is_empty(), "whole messages");
    &sent[..sent.len() - last]
}

/// Where a part of an answer ends, if it is there.
type End = fn(&[u8]) -> Option<usize>;

/// A write and the question for its id go in one piece; what is lost is its end.
async fn lose(now: Way, sent: &[u8], server: &mut TcpStream, client: &mut TcpStream) {
    let (passed, end): (_, End) = match now {
        Way::LosesSync => (without_last(sent), end_of_probe),
        _ => (sent, |answer| end_of_answer(answer).map(|end| end - 6)),
    };
    server.write_all(passed).await.unwrap();
    let (mut answer, mut more) = (Vec::new(), [0; 8192]);
    let end = loop {
        if let Some(end) = end(&answer) {
            break end;
        }
        let read = server.read(&mut more).await.unwrap();
        assert!(read > 0, "the server is there");
        answer.extend_from_slice(&more[..read]);
    };
    if now != Way::LosesAll {
        client.write_all(&answer[..end]).await.unwrap();
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
    let mut cut = way.clone();
    let (mut asked, mut answered) = ([0; 8192], [0; 8192]);
    loop {
        tokio::select! {
            () = async { let _ = cut.wait_for(|way| *way == Way::Cut).await; } => return,
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let now = *way.borrow();
                if now == Way::Open {
                    server.write_all(&asked[..read]).await.unwrap();
                    continue;
                }
                if matches!(now, Way::LosesReady | Way::LosesSync | Way::LosesAll) {
                    lose(now, &asked[..read], &mut server, &mut client).await;
                    return;
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

pub struct Scene {
    pub server: Server,
    pub detour: Detour,
    topology: watch::Sender<Arc<Topology>>,
    pub front: Front,
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
    pub async fn start(promotes: bool) -> Self {
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

    pub async fn client(&self) -> Client {
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
    pub async fn succeed(&self, promotes: bool, horizon: impl Fn(u64) -> Option<u64>) {
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

    pub async fn rows(&self) -> i64 {
        let own = self.server.connect().await;
        let count = own.query_one("SELECT count(*) FROM rows", &[]).await;
        count.unwrap().get(0)
    }
}
