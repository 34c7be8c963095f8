//! A Postgres server of its own for each test, and what it takes to talk to it through a pool.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pgherd_pool::{Checkout, PoolError, PoolSettings, Pools, ServerConnection, Target, UserLogin};
use pgherd_protocol::{BackendMessage, Credential, FrontendMessage, PgError, Secret, split_frame};
use pgherd_topology::{Address, Epoch, NodeId, NodeState, ShardId};
use tempfile::TempDir;

/// A running server; ended when dropped.
pub struct TestServer {
    directory: TempDir,
    port: u16,
    child: Child,
}

impl TestServer {
    /// With these lines of pg_hba.conf for TCP (the Unix socket trusts everybody) and of postgresql.conf, and after
    /// these files were put into the data directory.
    pub async fn start_with(hba: &str, settings: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(template())
                .arg(&data)
                .status()
                .unwrap()
                .success()
        );
        give(directory.path());
        let put = |name: &str, text: &str| {
            fs::write(data.join(name), text).unwrap();
            fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            give(&data.join(name));
        };
        for (name, text) in files {
            put(name, text);
        }
        put("pg_hba.conf", &format!("local all all trust\n{hba}\n"));
        let port = free_port();
        put(
            "postgresql.conf",
            &format!(
                "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
                 fsync = off\nmax_connections = 30\nshared_buffers = 8MB\n{settings}\n",
                directory.path().display()
            ),
        );
        let child = spawn(directory.path());
        let server = Self {
            directory,
            port,
            child,
        };
        server.wait_until_ready().await;
        server
    }

    /// One that trusts everybody.
    pub async fn start() -> Self {
        Self::start_with("host all all 127.0.0.1/32 trust", "", &[]).await
    }

    /// Ends all its connections and comes back.
    pub async fn restart(&mut self) {
        self.stop("fast");
        self.child.wait().unwrap();
        self.child = spawn(self.directory.path());
        self.wait_until_ready().await;
    }

    pub fn stop(&self, mode: &str) {
        let mut command = as_postgres("pg_ctl");
        command
            .args(["stop", "-w", "-m", mode, "-D"])
            .arg(self.directory.path().join("data"));
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }

    async fn wait_until_ready(&self) {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            match self.admin().await {
                Ok(_) => return,
                Err(error) => {
                    let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
                    assert!(Instant::now() < give_up, "{error}\n{log}");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn tcp(&self) -> NodeState {
        self.node(Address::Tcp {
            host: "127.0.0.1".into(),
            port: self.port,
        })
    }

    pub fn named(&self, host: &str) -> NodeState {
        self.node(Address::Tcp {
            host: host.into(),
            port: self.port,
        })
    }

    pub fn unix(&self) -> NodeState {
        let directory = self.directory.path().to_str().unwrap().into();
        self.node(Address::Unix {
            directory,
            port: self.port,
        })
    }

    fn node(&self, address: Address) -> NodeState {
        NodeState::new(NodeId(0), "s0a", address)
    }

    async fn admin(&self) -> Result<Checkout, PoolError> {
        let pools = Pools::new(PoolSettings::new("postgres"));
        checkout(
            &pools,
            &login("postgres", Credential::Nothing),
            &self.unix(),
        )
        .await
    }

    /// Runs SQL as the superuser; the first column of its rows.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        query(&mut self.admin().await.unwrap(), sql).await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop("immediate");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data directory that is copied for each server; made once and kept below `target`.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let (version, _) = installed("initdb");
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pool-template-{version}"));
        if kept.exists() {
            return kept;
        }
        // made elsewhere, as the user postgres may not be able to reach `target`
        let directory = tempfile::tempdir().unwrap();
        give(directory.path());
        let data = directory.path().join("data");
        let mut command = as_postgres("initdb");
        command.args([
            "-N",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        let output = command.arg(&data).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let half = kept.with_extension(format!("{}", std::process::id()));
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(&data)
                .arg(&half)
                .status()
                .unwrap()
                .success()
        );
        fs::rename(&half, &kept).unwrap();
        kept
    })
}

fn spawn(directory: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    as_postgres("postgres")
        .arg("-D")
        .arg(directory.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Postgres refuses to run as root.
fn postgres_ids() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

fn give(path: &Path) {
    if let Some((user, group)) = postgres_ids() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// The newest one that is installed; version 0 stands for the one in the path.
fn installed(program: &str) -> (u32, PathBuf) {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin").join(program)))
        });
    versions
        .max()
        .unwrap_or_else(|| (0, PathBuf::from(program)))
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(installed(program).1);
    command.current_dir("/").env_remove("PGDATA");
    if let Some((user, group)) = postgres_ids() {
        command.uid(user).gid(group);
    }
    command
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub fn login(name: &str, credential: Credential) -> Arc<UserLogin> {
    Arc::new(UserLogin {
        name: name.into(),
        credential,
    })
}

pub fn password(name: &str, password: &str) -> Arc<UserLogin> {
    login(name, Credential::Password(Secret::from(password)))
}

pub fn superuser() -> Arc<UserLogin> {
    login("postgres", Credential::Nothing)
}

/// Of a small pool that waits a quarter of a second.
pub fn settings(size: usize) -> PoolSettings {
    PoolSettings {
        size,
        checkout_timeout: Duration::from_millis(250),
        ..PoolSettings::new("postgres")
    }
}

pub fn target(node: &NodeState) -> Target<'_> {
    Target {
        shard: ShardId(0),
        epoch: Epoch(1),
        node,
        synchronous: false,
    }
}

pub async fn checkout(
    pools: &Pools,
    login: &Arc<UserLogin>,
    node: &NodeState,
) -> Result<Checkout, PoolError> {
    pools.checkout(login, &target(node), None).await
}

/// Runs SQL as a session does; the first column of its rows.
pub async fn query(connection: &mut ServerConnection, sql: &str) -> Result<Vec<String>, PgError> {
    send(connection, sql);
    finish(connection).await
}

/// Puts a query on the outbox.
pub fn send(connection: &mut ServerConnection, sql: &str) {
    FrontendMessage::Query(sql.as_bytes())
        .encode(&mut connection.transport.outbox)
        .unwrap();
    connection.note_request();
}

/// Reads up to ReadyForQuery.
pub async fn finish(connection: &mut ServerConnection) -> Result<Vec<String>, PgError> {
    let mut rows = Vec::new();
    let mut failure = None;
    loop {
        while let Some(frame) = split_frame(&mut connection.transport.inbox, 1 << 20).unwrap() {
            match BackendMessage::parse(&frame).unwrap() {
                BackendMessage::DataRow(row) => {
                    let value = row.value(0).flatten().unwrap_or_default();
                    rows.push(String::from_utf8(value.to_vec()).unwrap());
                }
                BackendMessage::ErrorResponse(fields) => {
                    let error = PgError::from(fields);
                    if error.severity.as_str() == "FATAL" {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                BackendMessage::ParameterStatus { name, value } => connection.note_parameter(
                    std::str::from_utf8(name).unwrap(),
                    std::str::from_utf8(value).unwrap(),
                ),
                BackendMessage::ReadyForQuery(status) => {
                    connection.note_ready(status);
                    return failure.map_or(Ok(rows), Err);
                }
                _ => {}
            }
        }
        let exchanged = connection.transport.exchange().await.unwrap();
        assert_ne!(exchanged, pgherd_pool::Exchanged::Closed);
    }
}
