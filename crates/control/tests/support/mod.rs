//! Real Postgres servers in temporary directories, and settings that point at them.
//!
//! Owns starting and ending them. Not for use outside this crate's tests. Main type: [`TestServer`].

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pgherd_control::{
    Control, ControlLogin, ControlSettings, FailoverSettings, MemoryStore, Pace, ServerSettings,
    ShardSettings, State,
};
use pgherd_tls::{ClientTls, TlsSettings};
use pgherd_topology::commit_protocol::{InFlight, ProxyId};
use pgherd_topology::{Address, Sharding, Topology};
use tokio_postgres::{Client, NoTls};

pub struct TestServer {
    directory: tempfile::TempDir,
    pub port: u16,
}

/// An initialised data directory, made once and copied for each server.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| {
            let directory = directory();
            let data = directory.path().join("data");
            let arguments = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"];
            let locale = ["--locale-provider=icu", "--icu-locale=en-US"];
            run(binary("initdb")
                .arg("-D")
                .arg(&data)
                .args(arguments)
                .args(locale));
            directory
        })
        .path()
}

impl TestServer {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more lines of postgresql.conf.
    pub fn with(configuration: &str) -> Self {
        let server = Self {
            directory: directory(),
            port: free_port(),
        };
        run(as_postgres("cp")
            .arg("-a")
            .arg(template().join("data"))
            .arg(server.data()));
        server.configure(configuration);
        server.boot();
        server
    }

    /// A streaming replica of this server.
    pub fn replica(&self) -> Self {
        self.replica_with("")
    }

    /// One with more lines of postgresql.conf.
    pub fn replica_with(&self, configuration: &str) -> Self {
        let replica = Self {
            directory: directory(),
            port: free_port(),
        };
        let port = self.port.to_string();
        let from = [
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-p",
            &port,
        ];
        run(binary("pg_basebackup")
            .args(from)
            .arg("-D")
            .arg(replica.data()));
        replica.configure(configuration);
        replica.boot();
        replica
    }

    /// With files beside the data, which `configuration` names as `DIRECTORY/...`, and lines put before those of pg_hba.conf.
    pub fn with_files(configuration: &str, hba: &str, files: &[(&str, &str)]) -> Self {
        let server = Self {
            directory: directory(),
            port: free_port(),
        };
        run(as_postgres("cp")
            .arg("-a")
            .arg(template().join("data"))
            .arg(server.data()));
        for (name, content) in files {
            let path = server.path(name);
            std::fs::write(&path, content).unwrap();
            run(Command::new("chown")
                .arg("--reference")
                .arg(server.data())
                .arg(&path));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let directory = server.directory.path().display().to_string();
        server.configure(&configuration.replace("DIRECTORY", &directory));
        let path = server.data().join("pg_hba.conf");
        let rest = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{hba}\n{rest}")).unwrap();
        server.boot();
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, more: &str) {
        let path = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str(&format!(
            "\nport = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_prepared_transactions = 20\n\
             fsync = off\nwal_retrieve_retry_interval = 200ms\nmax_connections = 50\n{more}\n",
            self.port,
            self.directory.path().display()
        ));
        std::fs::write(&path, text).unwrap();
    }

    pub fn boot(&self) {
        self.boot_with("");
    }

    /// With options on its command line.
    pub fn boot_with(&self, options: &str) {
        let log = self.directory.path().join("log");
        run(binary("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .arg("-l")
            .arg(log)
            .args(["-o", options, "-w", "-s", "start"]));
    }

    pub fn stop(&self, mode: &str) {
        run(binary("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-w", "-s", "-m", mode, "stop"]));
    }

    /// Sends the postmaster a signal: as `kill` names it.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap();
        run(Command::new("kill").args([&format!("-{name}"), pid]));
    }

    pub fn promote(&self) {
        run(binary("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-w", "-s", "promote"]));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub async fn connect(&self) -> Client {
        self.connect_as("postgres").await
    }

    pub async fn connect_as(&self, user: &str) -> Client {
        let text = format!(
            "host=127.0.0.1 port={} user={user} dbname=postgres",
            self.port
        );
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub async fn sql(&self, text: &str) {
        self.connect().await.batch_execute(text).await.unwrap();
    }

    /// The first column of the first row, as text.
    pub async fn value(&self, text: &str) -> Option<String> {
        let text = format!("SELECT ({text})::text");
        self.connect()
            .await
            .query_one(&text, &[])
            .await
            .unwrap()
            .get(0)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let mut stop = binary("pg_ctl");
        stop.arg("-D")
            .arg(self.data())
            .args(["-w", "-s", "-m", "immediate", "stop"]);
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

fn binary(name: &str) -> Command {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path().join("bin").join(name))
                .collect()
        })
        .unwrap_or_default();
    versions.retain(|path| path.exists());
    versions.sort();
    as_postgres(versions.pop().unwrap_or_else(|| name.into()))
}

/// Postgres refuses to run as root.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
    };
    let user = USER.get_or_init(|| match id(&["-u"]) {
        Ok(0) => Some((
            id(&["-u", "postgres"]).unwrap(),
            id(&["-g", "postgres"]).unwrap(),
        )),
        _ => None,
    });
    let mut command = Command::new(program);
    if let Some((user, group)) = user {
        command.uid(*user).gid(*group);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let status = output.status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A herd's part of the settings: shards `s0`, `s1` ... of servers `s0a`, `s0b` ...
pub fn settings(shards: &[&[&TestServer]], sharding: Sharding) -> ControlSettings {
    let state = Arc::new(
        State::load_or_create(Box::new(MemoryStore::default()))
            .unwrap()
            .0,
    );
    let shards = shards
        .iter()
        .enumerate()
        .map(|(shard, servers)| ShardSettings {
            name: format!("s{shard}").into(),
            server_database: "postgres".into(),
            servers: servers
                .iter()
                .zip('a'..)
                .map(|(server, letter)| ServerSettings {
                    name: format!("s{shard}{letter}").into(),
                    address: Address::Tcp {
                        host: "127.0.0.1".into(),
                        port: server.port,
                    },
                    zone: None,
                    priority: 1,
                })
                .collect(),
        });
    ControlSettings {
        database: "shop".into(),
        login: ControlLogin {
            user: "postgres".into(),
            password: None,
            tls: ClientTls::new(&TlsSettings::default()).unwrap(),
        },
        shards: shards.collect(),
        sharding: Arc::new(sharding),
        herd: state.herd("shop"),
        proxy: ProxyId(7),
        in_flight: InFlight::default(),
        state,
        failover: FailoverSettings::default(),
        pace: Pace {
            recovery: Duration::from_millis(300),
            orphan: Duration::from_millis(200),
            fresh_login: Duration::from_secs(1),
            ..Pace::default()
        },
    }
}

pub async fn ready(settings: ControlSettings) -> Control {
    let control = Control::start(settings);
    control.wait_ready(Duration::from_secs(20)).await.unwrap();
    control
}

/// Waits until a topology satisfies the condition; how long it took.
pub async fn until(
    control: &Control,
    what: &str,
    condition: impl Fn(&Topology) -> bool,
) -> Duration {
    let begun = Instant::now();
    let mut topology = control.topology();
    let seen = tokio::time::timeout(
        Duration::from_secs(20),
        topology.wait_for(|topology| condition(topology)),
    )
    .await;
    assert!(
        seen.is_ok(),
        "never seen: {what}: {:?}",
        control.topology().borrow()
    );
    begun.elapsed()
}
