//! One Postgres server of the test's own: in a temporary directory, gone with the test. Its Unix socket trusts everybody, its TCP port wants
//! SCRAM.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgherd_topology::Address;
use tokio_postgres::{Client, Config, NoTls};

pub struct Server {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    process: Child,
    port: u16,
}

impl Server {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        let binaries = find_binaries();
        let directory = tempfile::tempdir().unwrap();
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let mut initdb = command(&binaries, "initdb", directory.path());
        initdb.args(["-D", "data", "-U", "postgres", "-E", "UTF8", "--no-sync"]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        succeed(initdb.output().unwrap());
        let port = free_port();
        let mut postgres = command(&binaries, "postgres", directory.path());
        postgres
            .args(["-D", "data", "-c", "fsync=off"])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &format!("port={port}")])
            .arg("-c")
            .arg(setting("unix_socket_directories=", directory.path()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = postgres.spawn().unwrap();
        let server = Self {
            directory,
            binaries,
            process,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.try_connect().await.is_err() {
            assert!(Instant::now() < deadline, "the server did not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    /// Where it wants a password.
    pub fn tcp(&self) -> Address {
        Address::Tcp {
            host: "127.0.0.1".into(),
            port: self.port,
        }
    }

    /// A connection to the database `postgres`.
    pub async fn connect(&self) -> Client {
        self.try_connect().await.unwrap()
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config
            .host_path(self.directory.path())
            .port(self.port)
            .user("postgres")
            .dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = command(&self.binaries, "pg_ctl", self.directory.path());
        let stopped = stop
            .args(["stop", "-D", "data", "-m", "immediate", "-w"])
            .output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// A server program, run in the directory as a user that it accepts.
fn command(binaries: &Path, program: &str, directory: &Path) -> Command {
    let mut command = Command::new(binaries.join(program));
    command
        .current_dir(directory)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

/// User and group `postgres` where we are root, as whom Postgres does not run.
fn server_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = succeed(Command::new("id").args(arguments).output().unwrap());
        output.trim().parse::<u32>().unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

/// The directory that `PGHERD_POSTGRES_BIN` names, else the newest installation.
fn find_binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("PGHERD_POSTGRES_BIN") {
        return directory.into();
    }
    let packaged = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let packaged = packaged.flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(packaged)
        .filter(|directory| {
            directory.join("initdb").is_file() && directory.join("postgres").is_file()
        })
        .max_by_key(|directory| major_version(directory))
        .expect("the tests need Postgres' server binaries (Debian: apt-get install postgresql)")
}

fn major_version(binaries: &Path) -> u32 {
    let output = Command::new(binaries.join("postgres"))
        .arg("--version")
        .output()
        .unwrap();
    let version = succeed(output);
    let number = version
        .rsplit(' ')
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let digits = number
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Free a moment ago, which has to do.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn setting(name: &str, value: &Path) -> OsString {
    let mut setting = OsString::from(name);
    setting.push(value);
    setting
}

fn succeed(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
