//! `pgherd serve`: the assembled proxy from start to end.
//!
//! Owns the order of things: what is bound, started, reloaded, drained and ended when. What a configuration becomes is
//! `assemble`'s business, who is let in the listeners'. Knows no SQL and no protocol. Main type: [`Server`].

mod assemble;
mod deposing;
mod listeners;
mod on_demand;
mod open_files;
pub(crate) mod placement;
mod reload;
mod requests;
mod shown;
mod signals;
pub(crate) mod translate;
mod warming;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgherd_admin::{Operations, ProcessRequest, Shutdown};
use pgherd_session::Herd;
use pgherd_telemetry::{LogHandle, LogSettings};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::settings::LogFormat;
use crate::config::{Config, ConfigError, Loaded, Report, Severity};
pub use assemble::AssembleError;
use assemble::Assembled;
use listeners::Doors;
use signals::{Request, Signals};
use workers::Workers;

/// How long the start waits for every shard to have a primary before clients are let in all the same.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// How often histograms are folded: until then they keep every value they were given.
const UPKEEP_PACE: Duration = Duration::from_secs(5);

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

/// Serves until a signal ends it. Blocks; this thread's runtime is the process's, beside those of the workers. Makes the process's log.
///
/// # Errors
/// [`ServeError`], each one line for a terminal except a configuration's report.
pub fn run(path: &Path) -> Result<(), ServeError> {
    let loaded = crate::config::load(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Process {
            what: "cannot start the runtime",
            source,
        })?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let log = start_log(&loaded.config)?;
        open_files::raise(&loaded.config);
        let Some(server) = start_unless_signalled(path, loaded, &mut signals, &log).await? else {
            return Ok(());
        };
        server.until_signalled(signals, &log).await;
        Ok(())
    })
}

/// `None` where a signal asked for the end before anybody was let in.
async fn start_unless_signalled(
    path: &Path,
    loaded: Loaded,
    signals: &mut Signals,
    log: &LogHandle,
) -> Result<Option<Server>, ServeError> {
    let mut starting = std::pin::pin!(Server::start(path, loaded));
    let mut reload_asked = false;
    loop {
        tokio::select! {
            started = &mut starting => {
                let mut server = started?;
                if reload_asked {
                    // the log has said how it went
                    let _ = server.reload(Some(log));
                }
                return Ok(Some(server));
            }
            request = signals.next() => match request {
                Request::Reload => reload_asked = true,
                Request::End => return Ok(None),
            },
        }
    }
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

/// A proxy that serves. Dropping it cuts off its clients; [`Server::drain`] lets their transactions end.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    config: Config,
    assembled: Assembled,
    operations: Arc<Operations>,
    /// What the console asks for.
    asked: mpsc::Receiver<ProcessRequest>,
    doors: Arc<Doors>,
    addresses: Vec<SocketAddr>,
    /// Those who let clients in.
    accepting: JoinSet<()>,
    stop_accepting: watch::Sender<bool>,
    /// Those who serve them.
    workers: Workers,
    /// HTTP and upkeep, which go on while clients drain.
    background: JoinSet<()>,
    _socket: Option<listeners::UnixSocket>,
}

impl Server {
    /// Binds every address, starts what the configuration describes, waits for its servers (10 s at most), and lets
    /// clients in. `path` is the file that a reload reads again. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError`]: nothing is left running then.
    pub async fn start(path: &Path, loaded: Loaded) -> Result<Self, ServeError> {
        let Loaded { config, warnings } = loaded;
        log_report(&warnings);
        let bound = listeners::bind(&config.listen).await?;
        let http = match &config.http {
            Some(address) => Some(listeners::bind_tcp(address).await?),
            None => None,
        };
        let assembled = Assembled::new(&config)?;
        let mut background = JoinSet::new();
        background.spawn(keep_up(Arc::clone(&assembled.herd)));
        let herd = Arc::clone(&assembled.herd);
        background.spawn(async move { herd.tend().await });
        if let Some(listener) = http {
            tracing::info!(
                "metrics and health are served on {}",
                listeners::shown(&listener)
            );
            background.spawn(serve_http(listener, Arc::clone(&assembled.herd)));
        }
        let (operations, asked) = Operations::channel();
        let operations = Arc::new(operations);
        operations.set_configuration(shown::entries(&config));
        let (noting, herd) = (Arc::clone(&operations), Arc::clone(&assembled.herd));
        background.spawn(async move { noting.keep_statistics(&herd).await });
        assembled.wait_ready(READY_PATIENCE).await;

        let doors = Doors::new(Arc::clone(&assembled.herd), Arc::clone(&operations));
        let (workers, entrance) =
            Workers::start(config.workers).map_err(|source| ServeError::Process {
                what: "cannot start the workers",
                source,
            })?;
        let (stop_accepting, stopped) = watch::channel(false);
        let mut accepting = JoinSet::new();
        let mut addresses = Vec::new();
        for listener in bound.tcp {
            tracing::info!("listening on {}", listeners::shown(&listener));
            addresses.extend(listener.local_addr());
            accepting.spawn(listeners::accept_tcp(
                listener,
                Arc::clone(&doors),
                entrance.clone(),
                stopped.clone(),
            ));
        }
        let socket = bound.unix.map(|(listener, socket)| {
            tracing::info!("listening on {}", socket.path().display());
            let doors = Arc::clone(&doors);
            accepting.spawn(listeners::accept_unix(listener, doors, entrance, stopped));
            socket
        });
        Ok(Self {
            path: path.to_owned(),
            config,
            assembled,
            operations,
            asked,
            doors,
            addresses,
            accepting,
            stop_accepting,
            workers,
            background,
            _socket: socket,
        })
    }

    /// The TCP addresses that are listened to, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What all its sessions share.
    pub fn herd(&self) -> &Arc<Herd> {
        &self.assembled.herd
    }

    /// Serves until SIGTERM, SIGINT or the console's SHUTDOWN; SIGHUP and RELOAD reload. A further SIGTERM or SIGINT ends a drain at once.
    async fn until_signalled(mut self, mut signals: Signals, log: &LogHandle) {
        let how = self.until_asked_to_end(&mut signals, log).await;
        let ending = async {
            match how {
                Shutdown::AtOnce => {}
                Shutdown::WaitForServers => self.drain().await,
                Shutdown::WaitForClients => self.until_left().await,
            }
        };
        tokio::select! {
            () = ending => {}
            () = signals.end() => tracing::warn!("a second signal: ending at once"),
        }
        self.shutdown().await;
        tracing::info!("ended");
    }

    async fn until_asked_to_end(&mut self, signals: &mut Signals, log: &LogHandle) -> Shutdown {
        loop {
            let request = tokio::select! {
                request = signals.next() => match request {
                    Request::Reload => {
                        // the log has said how it went
                        let _ = self.reload(Some(log));
                        continue;
                    }
                    Request::End => return Shutdown::WaitForServers,
                },
                // the sender is held above
                Some(request) = self.asked.recv() => request,
            };
            // who asked may be gone by now
            match request {
                ProcessRequest::Reload(answer) => drop(answer.send(self.reload(Some(log)))),
                ProcessRequest::LogLevel(level, answer) => {
                    let set = log.set_level(&level).map_err(|error| error.to_string());
                    if set.is_ok() {
                        self.config.log.level = level.into();
                        self.operations
                            .set_configuration(shown::entries(&self.config));
                    }
                    drop(answer.send(set));
                }
                ProcessRequest::Order(order) => self.assembled.carry_out(order),
                ProcessRequest::Maintenance(on, answer) => {
                    let set = self.assembled.set_maintenance(on);
                    drop(answer.send(set.map_err(|error| error.to_string())));
                }
                ProcessRequest::Shutdown(how) => return how,
            }
        }
    }

    /// Lets nobody in any more, and waits until the last client has left; operators do not count.
    async fn until_left(&mut self) {
        tracing::info!(
            clients = self.herd().clients().len(),
            "waiting for clients to leave"
        );
        self.stop_accepting.send_replace(true);
        while self.accepting.join_next().await.is_some() {}
        self.doors.left().await;
    }

    /// Lets nobody in any more, and waits until the sessions have ended with their transactions; those that have not
    /// after the configured `drain_timeout` are cut off.
    pub async fn drain(&mut self) {
        let herd = &self.assembled.herd;
        let patience = self.config.listen.drain_timeout;
        tracing::info!(clients = herd.clients().len(), ?patience, "draining");
        herd.drain();
        self.stop_accepting.send_replace(true);
        let emptied = async {
            while self.accepting.join_next().await.is_some() {}
            self.workers.emptied().await;
        };
        if tokio::time::timeout(patience, emptied).await.is_err() {
            tracing::warn!(
                clients = herd.clients().len(),
                "the drain timeout is over: the rest is cut off"
            );
        }
    }

    /// Cuts off whoever is left, and ends.
    pub async fn shutdown(mut self) {
        self.accepting.shutdown().await;
        self.workers.cut_off().await;
        self.assembled.shutdown().await;
        self.background.shutdown().await;
        self.workers.shutdown().await;
    }

    /// Reads the configuration again and puts in force what can be without dropping a client. A wrong file changes
    /// nothing. Everything is said in the log; `log` is whose level may change. Returns what takes a restart.
    ///
    /// # Errors
    /// Why nothing was changed, in words.
    pub fn reload(&mut self, log: Option<&LogHandle>) -> Result<Vec<String>, String> {
        match crate::config::load(&self.path) {
            Ok(Loaded { config, warnings }) => {
                log_report(&warnings);
                let kept = reload::apply(&mut self.config, config, &mut self.assembled, log);
                let shown = shown::entries(&self.config);
                self.operations.set_configuration(shown);
                kept
            }
            Err(error) => {
                if let ConfigError::Invalid(report) = &error {
                    log_report(report);
                }
                let why = match &error {
                    ConfigError::Invalid(_) => "it is wrong".to_owned(),
                    ConfigError::Unreadable { .. } | ConfigError::TooLarge { .. } => {
                        error.to_string()
                    }
                };
                tracing::error!(
                    file = %self.path.display(),
                    "the configuration was not reloaded, the running one stays in force: {why}"
                );
                Err(error.to_string())
            }
        }
    }
}

/// One event for each problem.
fn log_report(report: &Report) {
    for (severity, line) in report.log_lines() {
        match severity {
            Severity::Error => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
}

async fn serve_http(listener: TcpListener, herd: Arc<Herd>) {
    // it is ended from without
    if let Err(error) = pgherd_admin::serve_http(listener, herd, std::future::pending()).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn keep_up(herd: Arc<Herd>) {
    let mut pace = tokio::time::interval(UPKEEP_PACE);
    loop {
        pace.tick().await;
        herd.metrics().upkeep();
    }
}
