//! The demo's proxy: the very program that runs the demo, as `pgherd serve`.
//!
//! A process of its own, so that what is shown is what a user would run. Main type: [`Endpoint`].

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio_postgres::{Client, NoTls};

use super::{DemoError, shop};
use crate::herd::guard::Guard;
use crate::herd::{APPLICATION_PASSWORD, APPLICATION_USER};

/// How long the proxy may take until it answers.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to let its clients go.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The running proxy. Ended on drop.
#[derive(Debug)]
pub(super) struct Endpoint {
    child: Mutex<Child>,
    guard: Option<Guard>,
    log: PathBuf,
    port: u16,
}

impl Endpoint {
    /// Starts the proxy and returns when it answers a query.
    pub(super) async fn start(
        configuration: &Path,
        directory: &Path,
        port: u16,
    ) -> Result<Self, DemoError> {
        let log = directory.join("log").join("pgherd.log");
        let starting = |source| DemoError::Io {
            what: "starting the proxy".into(),
            source,
        };
        let file = std::fs::File::create(&log).map_err(starting)?;
        let program = std::env::current_exe().map_err(starting)?;
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            // out of the terminal's group: a Ctrl-C reaches the demo, which stops the proxy before the servers
            .process_group(0)
            .spawn()
            .map_err(starting)?;
        let guard = Guard::of_process(child.id());
        let mut endpoint = Self {
            child: Mutex::new(child),
            guard: None,
            log,
            port,
        };
        // not before the child is in hands that end it
        endpoint.guard = Some(guard?);
        endpoint.wait_until_ready().await?;
        Ok(endpoint)
    }

    /// A connection as an application has it.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(APPLICATION_USER)
            .password(APPLICATION_PASSWORD)
            .dbname(shop::DATABASE)
            .application_name("pgherd demo")
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .await?;
        // ends with the client, whose next call has its error
        tokio::spawn(connection);
        Ok(client)
    }

    /// Returns when the proxy ends by itself.
    pub(super) async fn failure(&self) -> DemoError {
        loop {
            if let Some(error) = self.ended() {
                return error;
            }
            tokio::time::sleep(10 * POLL).await;
        }
    }

    /// Lets the clients go and ends the proxy.
    pub(super) async fn stop(self) {
        self.terminate();
        let begun = Instant::now();
        while self.ended().is_none() && begun.elapsed() < STOP_LIMIT {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_until_ready(&self) -> Result<(), DemoError> {
        let begun = Instant::now();
        loop {
            let error = match self.connect().await {
                Ok(client) => match client.simple_query("SELECT 1").await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            if begun.elapsed() > READY_LIMIT {
                return Err(DemoError::client("the proxy does not answer")(error));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why it has ended, if it has.
    fn ended(&self) -> Option<DemoError> {
        match self.lock().try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(DemoError::Endpoint(format!(
                "{status}; {}",
                self.last_words()
            ))),
            Err(error) => Some(DemoError::Endpoint(error.to_string())),
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").trim().to_owned()
    }

    fn terminate(&self) {
        let child = self.lock();
        if let Ok(pid) = i32::try_from(child.id()) {
            // fails only if it is gone
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // both do nothing where it has been stopped
        let _ = child.kill();
        let _ = child.wait();
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}
