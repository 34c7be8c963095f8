//! What clients that do nothing cost the proxy.
//!
//! Owns: opening many clients as drivers do (SCRAM, one query each, then silence), and the memory of a process. Main type: [`Crowd`].

use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_rustls::TlsConnector;

use crate::certificates::{begin_tls, connector};
use crate::cluster::Cluster;

/// How many log in at once.
const AT_ONCE: usize = 50;
/// How long the proxy's memory must not have changed before it is read.
const SETTLED: Duration = Duration::from_secs(1);

/// How clients connect.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// Without TLS.
    Plain,
    /// With TLS, trusting this authority (PEM).
    Tls(String),
}

/// Clients that are connected and idle.
pub struct Crowd {
    clients: Vec<Client>,
    config: Config,
    tls: Option<TlsConnector>,
}

impl Crowd {
    /// Nobody yet. They will be `app`, in the database `shop`.
    ///
    /// # Panics
    /// If the authority is none.
    #[must_use]
    pub fn new(cluster: &Cluster, encryption: &Encryption) -> Self {
        let mut config = Config::new();
        config
            .user("app")
            .password("app")
            .dbname("shop")
            .application_name("idle")
            .host("127.0.0.1")
            .port(cluster.configuration().port)
            // begun here, so that the driver needs to know nothing of it
            .ssl_mode(SslMode::Disable);
        let tls = match encryption {
            Encryption::Plain => None,
            Encryption::Tls(authority) => Some(connector(authority)),
        };
        Self {
            clients: Vec::new(),
            config,
            tls,
        }
    }

    /// Lets it grow to so many, each of which runs one query.
    ///
    /// # Panics
    /// If one is refused.
    pub async fn grow_to(&mut self, number: u64) {
        let mut joining = JoinSet::new();
        let mut missing = number.saturating_sub(self.clients.len() as u64);
        loop {
            while missing > 0 && joining.len() < AT_ONCE {
                missing -= 1;
                joining.spawn(join(self.config.clone(), self.tls.clone()));
            }
            let Some(joined) = joining.join_next().await else {
                return;
            };
            self.clients.push(joined.expect("it does not panic"));
        }
    }
}

async fn join(config: Config, tls: Option<TlsConnector>) -> Client {
    let address = ("127.0.0.1", config.get_ports()[0]);
    let socket = TcpStream::connect(address).await.expect("it listens");
    let client = match tls {
        None => log_in(&config, socket).await,
        Some(connector) => log_in(&config, begin_tls(socket, &connector).await).await,
    };
    client.batch_execute("SELECT 1").await.expect("it answers");
    client
}

async fn log_in<S>(config: &Config, stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.unwrap_or_else(|error| panic!("{error} {error:?}"));
    tokio::spawn(connection);
    client
}

/// Lets this process have as many files open as it may. Returns how many that is.
///
/// # Errors
/// What the system says.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The memory that a process has, in bytes, once that has been the same for a second.
///
/// # Panics
/// If there is no such process.
pub async fn settled_memory(pid: u32) -> u64 {
    let mut last = memory(pid);
    let mut since = Instant::now();
    while since.elapsed() < SETTLED {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = memory(pid);
        if now.abs_diff(last) > 64 * 1024 {
            last = now;
            since = Instant::now();
        }
    }
    memory(pid)
}

/// VmRSS.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kilobytes: u64 = kilobytes
        .and_then(|number| number.trim().parse().ok())
        .expect("Linux tells");
    kilobytes * 1024
}
