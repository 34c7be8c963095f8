//! `pgherd serve`: the assembled proxy from start to end.
//!
//! Owns the listeners, the signals, reloading and draining. What a configuration becomes is [`assemble`]'s. Knows no SQL and
//! no protocol. Main type: [`Server`].

mod assemble;
mod listeners;
mod reload;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgherd_session::Herd;
use pgherd_telemetry::{LogHandle, LogSettings};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::settings::LogFormat;
use crate::config::{Config, ConfigError, Loaded};
pub use assemble::AssembleError;
use assemble::Assembled;

/// How long the start waits for every shard to have a primary before clients are let in all the same.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// Why pgherd cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// What it describes cannot be put together.
    #[error("{0}")]
    Assemble(#[from] AssembleError),
    /// An address cannot be listened to.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The process cannot be set up.
    #[error("{what}: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The log cannot be set up.
    #[error("{0}")]
    Log(#[from] pgherd_telemetry::LoggingError),
}

/// Serves until a signal ends it. Blocks; makes the runtime that the configuration asks for.
///
/// # Errors
/// [`ServeError`], each one line for a terminal except a configuration's report.
pub fn run(path: &Path) -> Result<(), ServeError> {
    let loaded = crate::config::load(path)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if loaded.config.workers > 0 {
        builder.worker_threads(loaded.config.workers);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|source| ServeError::Process {
            what: "cannot start the runtime",
            source,
        })?;
    runtime.block_on(async {
        let log = start_log(&loaded.config)?;
        let server = Server::start(path, loaded).await?;
        server.until_signalled(&log).await
    })
}

fn start_log(config: &Config) -> Result<LogHandle, ServeError> {
    let format = match config.log.format {
        LogFormat::Text => pgherd_telemetry::LogFormat::Text,
        LogFormat::Json => pgherd_telemetry::LogFormat::Json,
    };
    let settings = LogSettings {
        format,
        level: config.log.level.to_string(),
    };
    Ok(pgherd_telemetry::logging::start(&settings)?)
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    config: Config,
    assembled: Assembled,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    _sockets: Vec<listeners::UnixSocket>,
}

impl Server {
    /// Binds every address, starts what the configuration describes, and lets clients in.
    ///
    /// # Errors
    /// [`ServeError`]: nothing is left running then.
    pub async fn start(path: &Path, loaded: Loaded) -> Result<Self, ServeError> {
        let Loaded { config, warnings } = loaded;
        log_report(&warnings.to_string());
        let bound = listeners::bind(&config.listen).await?;
        let http = match &config.http {
            Some(address) => Some(listeners::bind_tcp(address).await?),
            None => None,
        };
        let assembled = Assembled::new(&config).await?;
        assembled.wait_ready(READY_PATIENCE).await;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut sockets = Vec::new();
        for listener in bound.tcp {
            tasks.spawn(listeners::accept_tcp(
                listener,
                Arc::clone(&assembled.herd),
                stopped.clone(),
            ));
        }
        if let Some((listener, socket)) = bound.unix {
            tasks.spawn(listeners::accept_unix(
                listener,
                Arc::clone(&assembled.herd),
                stopped.clone(),
            ));
            sockets.push(socket);
        }
        if let Some(listener) = http {
            tasks.spawn(serve_http(listener, Arc::clone(&assembled.herd), stopped));
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            assembled,
            tasks,
            stop,
            _sockets: sockets,
        })
    }

    /// Serves until SIGTERM or SIGINT; SIGHUP reloads.
    async fn until_signalled(mut self, log: &LogHandle) -> Result<(), ServeError> {
        use tokio::signal::unix::{SignalKind, signal};
        let watch = |kind| {
            signal(kind).map_err(|source| ServeError::Process {
                what: "cannot watch for signals",
                source,
            })
        };
        let mut hang_up = watch(SignalKind::hangup())?;
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = hang_up.recv() => self.reload(log),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tokio::select! {
            () = self.drain() => {}
            _ = terminate.recv() => tracing::warn!("a second signal: ending at once"),
            _ = interrupt.recv() => tracing::warn!("a second signal: ending at once"),
        }
        self.assembled.shutdown().await;
        Ok(())
    }

    /// Lets nobody in any more, and waits until the sessions have ended with their transactions, at most for the drain timeout.
    async fn drain(&mut self) {
        let herd = &self.assembled.herd;
        let patience = self.config.listen.drain_timeout;
        tracing::info!(clients = herd.clients().len(), ?patience, "draining");
        herd.drain();
        self.stop.send_replace(true);
        let emptied = async {
            while !herd.clients().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(patience, emptied).await.is_err() {
            tracing::warn!(
                clients = herd.clients().len(),
                "the drain timeout is over: the rest is cut off"
            );
        }
        self.tasks.shutdown().await;
    }

    fn reload(&mut self, log: &LogHandle) {
        match crate::config::load(&self.path) {
            Ok(Loaded { config, warnings }) => {
                log_report(&warnings.to_string());
                reload::apply(&mut self.config, config, &self.assembled, log);
            }
            Err(error) => {
                tracing::error!(
                    "the configuration was not reloaded, the running one stays in force:\n{error}"
                );
            }
        }
    }
}

fn log_report(report: &str) {
    if !report.trim().is_empty() {
        tracing::warn!("{}", report.trim_end());
    }
}

async fn serve_http(listener: TcpListener, herd: Arc<Herd>, mut stopped: watch::Receiver<bool>) {
    let ended = async move {
        // a sender that is gone says stop as well
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Err(error) = pgherd_admin::serve_http(listener, herd, ended).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}
