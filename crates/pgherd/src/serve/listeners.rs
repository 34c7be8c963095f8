//! Where clients come in.
//!
//! Owns binding, accepting, and the Unix socket's file. Who serves a connection is the workers' business, what happens to it the session's.
//! Main functions: [`bind`], [`accept_tcp`], [`accept_unix`].

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgherd_admin::Operations;
use pgherd_pool::Stream;
use pgherd_session::{Accepted, ConsoleLogin, Herd, Phase};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use super::ServeError;
use super::workers::Entrance;
use crate::config::settings::{Listen, ListenAddress};

/// After a failed accept (too many open files, as a rule) so long a pause, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The port in the Unix socket's name where there is no TCP address.
const DEFAULT_PORT: u16 = 6432;

/// What is listened to.
pub(super) struct Bound {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) unix: Option<(UnixListener, UnixSocket)>,
}

/// The file of a Unix socket, removed at the end.
#[derive(Debug)]
pub(super) struct UnixSocket(PathBuf);

impl UnixSocket {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // someone may have removed it already
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) async fn bind(listen: &Listen) -> Result<Bound, ServeError> {
    let mut tcp = Vec::with_capacity(listen.addresses.len());
    for address in &listen.addresses {
        tcp.push(bind_tcp(address).await?);
    }
    let unix = match &listen.unix {
        Some(directory) => {
            // named after the port that the system chose, where it was to choose
            let port = tcp
                .first()
                .and_then(|listener| listener.local_addr().ok())
                .map_or(DEFAULT_PORT, |address| address.port());
            let path = directory.join(format!(".s.PGSQL.{port}"));
            Some((bind_unix(&path).await?, UnixSocket(path)))
        }
        None => None,
    };
    Ok(Bound { tcp, unix })
}

/// The address of a listener for the log, with the port that the system chose.
pub(super) fn shown(listener: &TcpListener) -> String {
    match listener.local_addr() {
        Ok(address) => address.to_string(),
        Err(error) => format!("an address that is not known ({error})"),
    }
}

pub(super) async fn bind_tcp(address: &ListenAddress) -> Result<TcpListener, ServeError> {
    let host = if &*address.host == "*" {
        "::"
    } else {
        &address.host
    };
    let listener = TcpListener::bind((host, address.port)).await;
    // a machine without IPv6 has the other wildcard
    let listener = match (listener, &*address.host) {
        (Err(_), "*") => TcpListener::bind(("0.0.0.0", address.port)).await,
        (listener, _) => listener,
    };
    listener.map_err(|source| ServeError::Listen {
        address: address.to_string(),
        source,
    })
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen {
        address: path.display().to_string(),
        source,
    };
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        // left behind by a process that was killed
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // as Postgres: who may log in is not decided by the file
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

pub(super) async fn accept_tcp(
    listener: TcpListener,
    doors: Arc<Doors>,
    entrance: Entrance,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = stop_requested(&mut stopped) => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => bring(&entrance, socket.into_std(), &doors, |socket, doors| {
                    Stream::tcp(TcpStream::from_std(socket)?, &doors.herd.settings().tcp)
                }),
                Err(error) => pause(&error).await,
            },
        }
    }
}

pub(super) async fn accept_unix(
    listener: UnixListener,
    doors: Arc<Doors>,
    entrance: Entrance,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = stop_requested(&mut stopped) => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => bring(&entrance, socket.into_std(), &doors, |socket, _| {
                    UnixStream::from_std(socket).map(Stream::unix)
                }),
                Err(error) => pause(&error).await,
            },
        }
    }
}

/// Brings a socket that belongs to no runtime to a worker, whose runtime `adopt` has it belong to.
fn bring<S: Send + 'static>(
    entrance: &Entrance,
    socket: io::Result<S>,
    doors: &Arc<Doors>,
    adopt: impl FnOnce(S, &Doors) -> io::Result<Stream> + Send + 'static,
) {
    let doors = Arc::clone(doors);
    entrance.bring(move || async move {
        match socket.and_then(|socket| adopt(socket, &doors)) {
            Ok(stream) => serve_client(stream, doors).await,
            Err(error) => tracing::debug!(%error, "a client was gone at once"),
        }
    });
}

/// Returns once no more clients are to be let in. Cancel-safe.
async fn stop_requested(stopped: &mut watch::Receiver<bool>) {
    // a sender that is gone says stop as well
    drop(stopped.wait_for(|stop| *stop).await);
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve_client(stream: Stream, doors: Arc<Doors>) {
    let busy = doors.busy();
    // boxed, as is the console: the task of an idle session has no room for the work of others
    let accepted = Box::pin(pgherd_session::accept(stream, &doors.herd)).await;
    match accepted {
        Accepted::Application(login) => pgherd_session::run(login).await,
        Accepted::Replication(login) => Box::pin(pgherd_session::replicate(login)).await,
        Accepted::Console(login) => {
            // an operator may watch a drain, and does not hold it up
            drop(busy);
            Box::pin(serve_operator(*login, &doors)).await;
        }
        Accepted::Cancelled => {}
        Accepted::Closed(refusal) => tracing::debug!(%refusal, "a client was not let in"),
    }
}

async fn serve_operator(login: ConsoleLogin, doors: &Doors) {
    tokio::select! {
        served = pgherd_admin::serve_console(login, Arc::clone(&doors.operations)) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a console connection broke");
            }
        }
        () = doors.drained() => {}
    }
}

/// What all listeners share.
#[derive(Debug)]
pub(super) struct Doors {
    herd: Arc<Herd>,
    operations: Arc<Operations>,
    /// How many connections are not the console's, those that have not said yet among them.
    busy: watch::Sender<usize>,
}

impl Doors {
    pub(super) fn new(herd: Arc<Herd>, operations: Arc<Operations>) -> Arc<Self> {
        Arc::new(Self {
            herd,
            operations,
            busy: watch::Sender::new(0),
        })
    }

    fn busy(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|count| *count += 1);
        Busy(Arc::clone(self))
    }

    /// Returns once pgherd drains and nobody but operators is left. Cancel-safe.
    async fn drained(&self) {
        // a sender that is gone says so as well
        let _ = self
            .herd
            .phase()
            .wait_for(|phase| *phase == Phase::Draining)
            .await;
        self.left().await;
    }

    /// Returns while nobody but operators is there. Cancel-safe.
    pub(super) async fn left(&self) {
        let _ = self.busy.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts a connection for as long as it lives.
struct Busy(Arc<Doors>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}
