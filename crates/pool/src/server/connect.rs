//! From an address to a transport: name resolution, sockets, and the request for TLS.
//!
//! Owns what happens before the first message of the protocol proper. Never logs in: [`super::login`] does. Main
//! item: [`open_transport`]. Postgres documentation, chapter 55.2.12 (SSL Session Encryption).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use pgherd_protocol::startup::encode_ssl_request;
use pgherd_tls::{ALPN, ClientTls, Negotiation, SslMode};
use pgherd_topology::Address;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::Server;
use crate::error::PoolError;
use crate::resolver::{Addresses, Resolver};
use crate::stream::{Stream, TcpSettings};
use crate::transport::Transport;

/// The pause before a Unix socket is tried again.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// How one attempt to connect deals with encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// None.
    Plain,
    /// If the server has it.
    IfOffered,
    /// Or not at all.
    Required,
}

/// Which way to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// The server.
    pub(super) server: &'a Server,
    /// Which of its addresses.
    pub(super) to: Destination<'a>,
    /// How the connection notices that it is gone.
    pub(super) tcp: &'a TcpSettings,
    /// TLS.
    pub(super) tls: &'a ClientTls,
}

/// Which of a server's addresses is connected to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination<'a> {
    /// Any that its host name stands for.
    Any(&'a Resolver),
    /// The one of another connection.
    Same(SocketAddr),
}

/// What a mode tries, in this order. After the first has failed for a reason that encryption can have, the next
/// is tried (as libpq does for `allow` and `prefer`).
pub(super) fn attempts(mode: SslMode, address: &Address) -> &'static [Encryption] {
    match (address, mode) {
        (Address::Unix { .. }, _) | (Address::Tcp { .. }, SslMode::Disable) => &[Encryption::Plain],
        (Address::Tcp { .. }, SslMode::Allow) => &[Encryption::Plain, Encryption::Required],
        (Address::Tcp { .. }, SslMode::Prefer) => &[Encryption::IfOffered, Encryption::Plain],
        (Address::Tcp { .. }, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => {
            &[Encryption::Required]
        }
    }
}

/// Connects and, as asked for, begins TLS. Each of a host's addresses gets an equal share of the time that is left.
///
/// Cancel-safe: dropped, the connection is closed.
pub(super) async fn open_transport(
    way: Way<'_>,
    encryption: Encryption,
    time_limit: Duration,
) -> Result<Transport, PoolError> {
    let Way { server, tls, .. } = way;
    let (host, port) = match &server.address {
        Address::Unix { directory, port } => {
            let path = format!("{directory}/.s.PGSQL.{port}");
            let socket = connect_unix(&path)
                .await
                .map_err(|source| PoolError::connect(server, source))?;
            return Ok(Transport::new(Stream::unix(socket)));
        }
        Address::Tcp { host, port } => (host, *port),
    };
    let transport = Transport::new(connect_tcp(way, host, port, time_limit).await?);
    match (encryption, tls.negotiation()) {
        (Encryption::Plain, _) => Ok(transport),
        (Encryption::Required, Negotiation::Direct) => {
            begin_tls(server, tls, host, transport).await
        }
        (Encryption::IfOffered | Encryption::Required, _) => {
            request_tls(server, tls, host, encryption, transport).await
        }
    }
}

/// Where the server's queue is full, a Unix socket refuses at once what TCP would hold back: try again, within the
/// time that the caller allows.
async fn connect_unix(path: &str) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(UNIX_RETRY).await;
            }
            result => return result,
        }
    }
}

async fn connect_tcp(
    way: Way<'_>,
    host: &str,
    port: u16,
    time_limit: Duration,
) -> Result<Stream, PoolError> {
    let server = way.server;
    let deadline = Instant::now() + time_limit;
    let addresses: Addresses = match way.to {
        Destination::Same(address) => [address].into(),
        Destination::Any(resolver) => {
            resolver
                .addresses(host)
                .await
                .map_err(|source| PoolError::Resolve {
                    server: server.clone(),
                    source: Arc::new(source),
                })?
        }
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (index, address) in addresses.iter().enumerate() {
        let mut address = *address;
        address.set_port(port);
        let share = deadline.saturating_duration_since(Instant::now())
            / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                return Stream::tcp(socket, way.tcp)
                    .map_err(|source| PoolError::connect(server, source));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    if last.kind() == io::ErrorKind::TimedOut {
        return Err(PoolError::ConnectTimeout {
            server: server.clone(),
            after: time_limit,
        });
    }
    Err(PoolError::connect(server, last))
}

async fn request_tls(
    server: &Server,
    tls: &ClientTls,
    host: &str,
    encryption: Encryption,
    mut transport: Transport,
) -> Result<Transport, PoolError> {
    encode_ssl_request(&mut transport.outbox);
    transport
        .flush()
        .await
        .map_err(|source| PoolError::lost(server, source))?;
    if transport
        .fill()
        .await
        .map_err(|source| PoolError::lost(server, source))?
        == 0
    {
        return Err(PoolError::lost(server, io::ErrorKind::UnexpectedEof.into()));
    }
    let answer = transport.inbox.get_u8();
    // Nothing may follow before the handshake. What does could be a man in the middle's, to be taken for the
    // server's first encrypted words.
    if !transport.inbox.is_empty() {
        return Err(PoolError::protocol(
            server,
            "it sent plaintext after its answer to the request for TLS",
        ));
    }
    match (answer, encryption) {
        (b'S', _) => begin_tls(server, tls, host, transport).await,
        (b'N', Encryption::IfOffered | Encryption::Plain) => Ok(transport),
        (b'N', Encryption::Required) => Err(PoolError::TlsUnavailable {
            server: server.clone(),
            mode: tls.mode(),
        }),
        // an error message, perhaps; whoever sent it is not known yet, so that its text is not to be shown
        _ => Err(PoolError::protocol(
            server,
            "it did not understand the request for TLS",
        )),
    }
}

async fn begin_tls(
    server: &Server,
    tls: &ClientTls,
    host: &str,
    transport: Transport,
) -> Result<Transport, PoolError> {
    let Some(config) = tls.config() else {
        return Err(PoolError::TlsUnavailable {
            server: server.clone(),
            mode: tls.mode(),
        });
    };
    let name = tls.server_name(host).map_err(|source| PoolError::Tls {
        server: server.clone(),
        source: Arc::new(source),
    })?;
    let transport = transport
        .connect_tls(config.clone(), name)
        .await
        .map_err(|source| PoolError::TlsHandshake {
            server: server.clone(),
            source: Arc::new(source),
        })?;
    match (tls.negotiation(), transport.stream().alpn_protocol()) {
        (_, Some(protocol)) if protocol == ALPN => Ok(transport),
        (Negotiation::Request, None) => Ok(transport),
        // what agreed to no protocol may be no Postgres at all, but, say, a web server that is made to listen
        (Negotiation::Direct | Negotiation::Request, _) => Err(PoolError::protocol(
            server,
            "it did not agree to the application protocol \"postgresql\"",
        )),
    }
}
