//! One byte stream, whatever carries it: TCP, a Unix socket, or TLS over TCP in either role.
//!
//! Owns the socket options (no delay, keep-alive) and the change from plain TCP to TLS. Never looks at a byte of
//! the protocol: that is the business of [`Transport`](crate::Transport)'s users. Main type: [`Stream`].

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A peer that answers nothing is noticed after [`KEEPALIVE_IDLE`] + 3 probes, not after Linux' two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// A connected byte stream. TLS is only spoken over TCP: Postgres offers none on Unix sockets.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS where we connected (to a Postgres server).
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// TLS where we accepted (from an application).
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// The peer's IP address and port.
    Tcp(SocketAddr),
    /// A Unix socket: its peer has no address.
    Unix,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Stream {
    /// Wraps a connected or accepted TCP socket: no delay (a request must not wait for the answer to the one
    /// before), and keep-alive so that a peer that vanished is noticed within about a minute.
    ///
    /// # Errors
    /// When the socket is already gone.
    pub fn tcp(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(socket))
    }

    /// Wraps a connected or accepted Unix socket.
    #[must_use]
    pub fn unix(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }

    /// Becomes the server end of TLS. Anything but plain TCP is an error of kind `Unsupported`.
    ///
    /// Not cancel-safe: dropped, the connection is closed.
    ///
    /// # Errors
    /// When the handshake fails or the peer goes away.
    pub async fn accept_tls(self, config: Arc<ServerConfig>) -> io::Result<Self> {
        let socket = self.into_tcp()?;
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        Ok(Self::TlsServer(Box::new(stream)))
    }

    /// Becomes the client end of TLS. Anything but plain TCP is an error of kind `Unsupported`.
    ///
    /// Not cancel-safe: dropped, the connection is closed.
    ///
    /// # Errors
    /// When the handshake fails, the certificate is refused, or the peer goes away.
    pub async fn connect_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let socket = self.into_tcp()?;
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        Ok(Self::TlsClient(Box::new(stream)))
    }

    fn into_tcp(self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(socket) => Ok(socket),
            Self::Unix(_) | Self::TlsClient(_) | Self::TlsServer(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "TLS is only possible on plain TCP",
            )),
        }
    }

    /// Waits for the first byte and returns it without taking it: a TLS client hello (0x16) can so be told from a
    /// start-up packet before anything reads. `None`: the peer closed, or the stream is not plain TCP (where
    /// direct TLS cannot come). Cancel-safe.
    ///
    /// # Errors
    /// What the socket reports.
    pub async fn peek_first_byte(&self) -> io::Result<Option<u8>> {
        match self {
            Self::Tcp(socket) => {
                let mut byte = [0];
                let read = socket.peek(&mut byte).await?;
                Ok((read == 1).then_some(byte[0]))
            }
            Self::Unix(_) | Self::TlsClient(_) | Self::TlsServer(_) => Ok(None),
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match self {
            Self::TlsClient(_) | Self::TlsServer(_) => true,
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Whether the peer is on this machine by way of a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(_) | Self::TlsClient(_) | Self::TlsServer(_) => false,
        }
    }

    /// The peer's address.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn peer_address(&self) -> io::Result<PeerAddress> {
        let socket = match self {
            Self::Unix(_) => return Ok(PeerAddress::Unix),
            Self::Tcp(socket) => socket,
            Self::TlsClient(stream) => stream.get_ref().0,
            Self::TlsServer(stream) => stream.get_ref().0,
        };
        socket.peer_addr().map(PeerAddress::Tcp)
    }

    /// The certificates that the peer presented, its own first. `None` without TLS or when it presented none.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TlsClient(stream) => stream.get_ref().1.peer_certificates(),
            Self::TlsServer(stream) => stream.get_ref().1.peer_certificates(),
        }
    }

    /// The application protocol agreed on (`postgresql`), if any.
    #[must_use]
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TlsClient(stream) => stream.get_ref().1.alpn_protocol(),
            Self::TlsServer(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The TLS version and cipher suite in use, for `SHOW` and logs. `None` without TLS.
    #[must_use]
    pub fn tls_description(&self) -> Option<String> {
        let (version, suite) = match self {
            Self::Tcp(_) | Self::Unix(_) => return None,
            Self::TlsClient(stream) => {
                let connection = stream.get_ref().1;
                (
                    connection.protocol_version(),
                    connection.negotiated_cipher_suite(),
                )
            }
            Self::TlsServer(stream) => {
                let connection = stream.get_ref().1;
                (
                    connection.protocol_version(),
                    connection.negotiated_cipher_suite(),
                )
            }
        };
        Some(format!("{:?}/{:?}", version?, suite?.suite()))
    }

    /// Whether bytes of the peer's have come, or its end, that nobody has read yet: asks the system, which knows before the runtime does.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(socket) => SockRef::from(socket).peek(&mut byte),
            Self::Unix(socket) => SockRef::from(socket).peek(&mut byte),
            Self::TlsClient(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
            Self::TlsServer(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
        };
        peeked.is_ok()
    }

    /// Ready once a read would not have to wait, as far as that can be known before reading: TLS may hold
    /// decrypted bytes already, so it is always worth asking there.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(context),
            Self::Unix(socket) => socket.poll_read_ready(context),
            Self::TlsClient(_) | Self::TlsServer(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.get_mut() {
            Self::Tcp(socket) => return Pin::new(socket).poll_read(context, buffer),
            Self::Unix(socket) => return Pin::new(socket).poll_read(context, buffer),
            Self::TlsClient(stream) => ready!(Pin::new(stream).poll_read(context, buffer)),
            Self::TlsServer(stream) => ready!(Pin::new(stream).poll_read(context, buffer)),
        };
        Poll::Ready(match read {
            // A peer that was killed sends no close_notify. The protocol's own lengths show a message that was cut
            // off, so that this is an end like any other.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::TlsClient(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::TlsServer(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
            Self::Unix(socket) => Pin::new(socket).poll_flush(context),
            Self::TlsClient(stream) => Pin::new(stream).poll_flush(context),
            Self::TlsServer(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(context),
            Self::TlsClient(stream) => Pin::new(stream).poll_shutdown(context),
            Self::TlsServer(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
