//! `pgherd demo`: a herd of real Postgres servers, a shop in it, and where its queries go.
//!
//! Owns the tale from nothing to a served endpoint with data; the servers are [`herd`](crate::herd)'s, the proxy is the same that
//! `pgherd serve` runs. Everything in the database is made and read through the endpoint. Main function: [`run`].

mod configuration;
mod endpoint;
mod progress;
mod shop;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::herd::{Herd, HerdError, ports};
use configuration::Addresses;
use endpoint::Endpoint;
use progress::Reporter;

/// Options of `pgherd demo`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How many shards.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// How many replicas each shard has.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=8))]
    pub replicas: u16,
    /// Where clients connect, on 127.0.0.1.
    #[arg(long, default_value_t = 6432, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Where the servers' data, their logs and the configuration go; a demo that is there is started again.
    #[arg(long, value_name = "DIR", default_value_os_t = default_directory())]
    pub dir: PathBuf,
    /// End after the tour, with everything stopped.
    #[arg(long)]
    pub once: bool,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("port {0} on 127.0.0.1 is taken: choose another with --port")]
    PortTaken(u16),
    #[error("{0}")]
    Herd(#[from] HerdError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    #[error("the proxy ended: {0}")]
    Endpoint(String),
    #[error("the shop's rows: {0}")]
    Shop(String),
    #[error("{what}: {}", client_message(source))]
    Client {
        what: String,
        source: tokio_postgres::Error,
    },
}

impl DemoError {
    fn client(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |source| Self::Client { what, source }
    }
}

/// Runs the demo until its end or a signal; the exit code is 0, or 1 with one line that says why.
pub async fn run(arguments: Arguments) -> ExitCode {
    match demonstrate(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgherd demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate(arguments: &Arguments) -> Result<(), DemoError> {
    let mut interruption = Interruption::watch()?;
    let running = tokio::select! {
        // what it has started ends with it when it is dropped half-way
        running = start(arguments) => running?,
        () = interruption.wait() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = running.present(arguments) => outcome,
        () = interruption.wait() => Ok(()),
    };
    // in any case: who is connected is let go before the servers are
    running.stop().await;
    outcome
}

/// The served herd.
struct Running {
    endpoint: Endpoint,
    herd: Herd,
    addresses: Addresses,
    configuration: PathBuf,
}

async fn start(arguments: &Arguments) -> Result<Running, DemoError> {
    if !ports::is_free(arguments.port) {
        return Err(DemoError::PortTaken(arguments.port));
    }
    let reporter = Reporter::new();
    println!(
        "A herd of {} shard(s), each a primary and {} replica(s), in {}",
        arguments.shards,
        arguments.replicas,
        arguments.dir.display()
    );
    let steps = reporter.clone();
    let herd = Herd::builder()
        .shards(arguments.shards)
        .replicas(arguments.replicas)
        .directory(&arguments.dir)
        .database(shop::DATABASE)
        .on_progress(move |progress| steps.step(&progress))
        .start()
        .await;
    reporter.finish();
    let herd = herd?;
    let addresses = Addresses::choose(arguments.port)?;
    let configuration = configuration::write(&arguments.dir, &herd, &addresses)?;
    let endpoint = Endpoint::start(&configuration, &arguments.dir, addresses.port).await?;
    shop::prepare(&endpoint, &herd, &reporter).await?;
    Ok(Running {
        endpoint,
        herd,
        addresses,
        configuration,
    })
}

impl Running {
    /// Shows what there is to see; unless it is to end after that, until the proxy does.
    async fn present(&self, arguments: &Arguments) -> Result<(), DemoError> {
        print!("{}", self.how_to_connect());
        tour::run(&self.endpoint).await?;
        if arguments.once {
            return Ok(());
        }
        println!(
            "\nCtrl-C stops it all; the next `pgherd demo` on the same directory goes on from here."
        );
        Err(self.endpoint.failure().await)
    }

    async fn stop(self) {
        self.endpoint.stop().await;
        self.herd.stop().await;
    }

    fn how_to_connect(&self) -> String {
        let Addresses { port, http_port } = self.addresses;
        let database = shop::DATABASE;
        format!(
            "\nConnect\n  psql postgresql://app:app@127.0.0.1:{port}/{database}\n\n\
             The console (SHOW SERVERS, POOLS, CLIENTS, PLANS, TABLES, BUCKETS)\n  \
             psql postgresql://admin:admin@127.0.0.1:{port}/pgherd\n\n\
             Metrics        http://127.0.0.1:{http_port}/metrics\n\
             Configuration  {}\n\
             Servers\' logs  {}\n",
            self.configuration.display(),
            self.herd.directory().join("log").display(),
        )
    }
}

/// Ctrl-C and SIGTERM.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    fn watch() -> Result<Self, DemoError> {
        let watch = |kind| {
            signal(kind).map_err(|source| DemoError::Io {
                what: "watching for signals".into(),
                source,
            })
        };
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
        })
    }

    /// Cancel safe.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Where the servers' user can get to: root's own home is closed to it.
fn default_directory() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return "/var/lib/pgherd/demo".into();
    }
    let home = std::env::home_dir().unwrap_or_else(|| "/var/tmp".into());
    home.join(".local/state/pgherd/demo")
}

/// The server's own words: tokio-postgres prints only "db error".
fn client_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => {
            let detail = answer.detail().map(|d| format!(" {d}")).unwrap_or_default();
            format!("{}: {}{detail}", answer.code().code(), answer.message())
        }
        None => error.to_string(),
    }
}
