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
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How a TCP connection notices that its peer is gone without a word (tcp(7) of Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// How long nothing may come before the peer is asked for a sign of life; zero: it never is. Whole seconds.
    pub keepalive_idle: Duration,
    /// How long after one such question the next is sent. Whole seconds.
    pub keepalive_interval: Duration,
    /// How many of them may stay unanswered.
    pub keepalive_count: u32,
    /// How long what was sent may stay unacknowledged, or unread by a peer whose buffers are full; zero: as long as the system
    /// tries (a quarter of an hour, about) or the peer takes.
    pub user_timeout: Duration,
}

impl Default for TcpSettings {
    /// A silent peer is noticed after a minute, not after Linux' two hours.
    fn default() -> Self {
        Self {
            keepalive_idle: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_count: 3,
            user_timeout: Duration::ZERO,
        }
    }
}

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
    /// before), and what makes it notice that its peer is gone.
    ///
    /// # Errors
    /// When the socket is already gone.
    pub fn tcp(socket: TcpStream, settings: &TcpSettings) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        if !settings.keepalive_idle.is_zero() {
            let keepalive = TcpKeepalive::new()
                .with_time(settings.keepalive_idle)
                .with_interval(settings.keepalive_interval)
                .with_retries(settings.keepalive_count);
            options.set_tcp_keepalive(&keepalive)?;
        }
        if !settings.user_timeout.is_zero() {
            options.set_tcp_user_timeout(Some(settings.user_timeout))?;
        }
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

    /// Has the runtime of the current thread tell of what can be read and written, rather than the one that does so far.
    ///
    /// # Errors
    /// What the system reports; nothing has changed then.
    pub(crate) fn adopt(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => adopt_tcp(socket),
            Self::Unix(socket) => {
                let same = SockRef::from(&*socket).try_clone()?;
                *socket = UnixStream::from_std(same.into())?;
                Ok(())
            }
            Self::TlsClient(stream) => adopt_tcp(stream.get_mut().0),
            Self::TlsServer(stream) => adopt_tcp(stream.get_mut().0),
        }
    }

    /// Ready once a read would not have to wait: for TLS, once there are decrypted bytes or its end.
    pub(crate) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = match self {
            Self::Tcp(socket) => return socket.poll_read_ready(context),
            Self::Unix(socket) => return socket.poll_read_ready(context),
            Self::TlsClient(stream) => ready!(Pin::new(stream).poll_fill_buf(context)).map(drop),
            Self::TlsServer(stream) => ready!(Pin::new(stream).poll_fill_buf(context)).map(drop),
        };
        Poll::Ready(filled.or_else(end_without_goodbye))
    }
}

/// The old descriptor is closed, the connection lives on in the new one.
fn adopt_tcp(socket: &mut TcpStream) -> io::Result<()> {
    let same = SockRef::from(&*socket).try_clone()?;
    *socket = TcpStream::from_std(same.into())?;
    Ok(())
}

/// A peer that was killed sends no close_notify. The protocol's own lengths show a message that was cut off, so that this is an end like
/// any other.
fn end_without_goodbye(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(error),
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
        Poll::Ready(read.or_else(end_without_goodbye))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::TcpListener;

    use super::*;

    async fn connected(settings: &TcpSettings) -> Stream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        Stream::tcp(socket, settings).unwrap()
    }

    #[tokio::test]
    async fn a_socket_has_what_is_set() {
        let settings = TcpSettings {
            keepalive_idle: Duration::from_secs(7),
            keepalive_interval: Duration::from_secs(3),
            keepalive_count: 5,
            user_timeout: Duration::from_millis(1_500),
        };
        let Stream::Tcp(socket) = connected(&settings).await else {
            panic!("it is TCP");
        };
        let options = SockRef::from(&socket);
        assert!(options.keepalive().unwrap());
        assert_eq!(
            options.tcp_keepalive_time().unwrap(),
            settings.keepalive_idle
        );
        assert_eq!(
            options.tcp_keepalive_interval().unwrap(),
            settings.keepalive_interval
        );
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 5);
        assert_eq!(
            options.tcp_user_timeout().unwrap(),
            Some(settings.user_timeout)
        );
    }

    #[tokio::test]
    async fn zero_leaves_it_to_the_system() {
        let settings = TcpSettings {
            keepalive_idle: Duration::ZERO,
            ..TcpSettings::default()
        };
        let Stream::Tcp(socket) = connected(&settings).await else {
            panic!("it is TCP");
        };
        let options = SockRef::from(&socket);
        assert!(!options.keepalive().unwrap());
        assert_eq!(options.tcp_user_timeout().unwrap(), None);
    }
}
