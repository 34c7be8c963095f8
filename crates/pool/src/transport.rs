//! A stream with its two buffers, and the three ways to move bytes: fill, flush, exchange.
//!
//! Owns reading and writing without losing or repeating a byte when a future is dropped. Never parses: frames are
//! taken off the inbox and put on the outbox by the protocol's users. Main type: [`Transport`].
//!
//! # Deadlock
//! Postgres stops reading a pipeline whose answers nobody reads (about 3 MB on a local socket), and a client that
//! writes without reading does the same to us. Whoever writes more than a few bytes to a peer that answers must
//! therefore use [`Transport::exchange`], or poll [`Transport::poll_flush`] and [`Transport::poll_fill`] of all its
//! legs from one `std::future::poll_fn`, and never await [`Transport::flush`] alone.
//!
//! # Cancel safety
//! Every method that awaits may be dropped at any point: bytes that were read are in the inbox, bytes that were
//! written are gone from the outbox, and a later call goes on from there.
//!
//! # Bounds
//! One fill reads at most once: it uses the room that the inbox has, and makes at most [`MAX_READ`] bytes of it.
//! How far the inbox grows is so decided by the caller, who stops filling when it holds enough. A buffer that grew
//! beyond [`KEEP`] for one huge message is given back once it is empty.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::cutoff::Cutoff;
use crate::stream::{PeerAddress, Stream};

/// The room made for a read at first: a typical request or answer, whole.
pub const MIN_READ: usize = 8 * 1024;

/// The room made for a read while a peer keeps filling what it is given (a large result, COPY).
pub const MAX_READ: usize = 64 * 1024;

/// A buffer larger than this is not kept once it is empty.
pub const KEEP: usize = 128 * 1024;

/// A connected peer with a buffer for what came and one for what shall go.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    /// What was read and not yet taken. Take frames off its front.
    pub inbox: BytesMut,
    /// What shall be written. Append to it.
    pub outbox: BytesMut,
    /// How much room the next read gets.
    next_read: usize,
    /// The most that the outbox held since it was last given back.
    outbox_peak: usize,
    /// TLS holds encrypted bytes that the socket has not taken.
    unflushed: bool,
    /// The peer's end, or an error, was read.
    ended: bool,
    /// Writing has failed.
    broken: bool,
    /// By which somebody else may end it.
    cutoff: Option<Arc<Cutoff>>,
    written: u64,
    read: u64,
}

/// What [`Transport::exchange`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// All of the outbox is written; nothing came meanwhile.
    Sent,
    /// So many bytes (at least one) were added to the inbox. The outbox may still hold bytes: look.
    Received(usize),
    /// The peer will send nothing more.
    Closed,
}

/// What could be read at once, without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// Nothing has come, and the peer is, as far as is known, still there.
    Nothing,
    /// So many bytes (at least one) were added to the inbox.
    Bytes(usize),
    /// The peer will send nothing more.
    Closed,
}

impl Transport {
    /// Wraps a stream; the buffers take no memory before they are used.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            next_read: MIN_READ,
            outbox_peak: 0,
            unflushed: false,
            ended: false,
            broken: false,
            cutoff: None,
            written: 0,
            read: 0,
        }
    }

    /// Once this is cut, reading and writing fail with `ConnectionAborted`, and whoever waits for bytes is woken.
    pub(crate) fn end_with(&mut self, cutoff: Arc<Cutoff>) {
        self.cutoff = Some(cutoff);
    }

    /// Reads once, waiting for at least one byte. Returns how many were added to the inbox; 0: the peer will send
    /// nothing more. Cancel-safe.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_fill(context)).await
    }

    /// [`Self::fill`] as a poll, to be combined with others in one `poll_fn`. One task at a time is woken: the last
    /// that polled.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = self.poll_read(context);
        let is_cut = match &self.cutoff {
            None => false,
            Some(cutoff) if read.is_pending() => cutoff.wake(context),
            Some(cutoff) => cutoff.is_cut(),
        };
        let filled = if is_cut {
            // what came meanwhile goes nowhere
            self.inbox.clear();
            Err(aborted())
        } else {
            ready!(read)
        };
        self.ended |= !matches!(filled, Ok(1..));
        Poll::Ready(filled)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // asked before there is a buffer, so that a connection nobody talks on costs none
        ready!(self.stream.poll_readable(context))?;
        let room = self.make_room();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.inbox)).poll(context) else {
            // what seemed readable was not
            self.release_inbox();
            return Poll::Pending;
        };
        let read = read?;
        self.read += read as u64;
        if read == room {
            self.next_read = (self.next_read * 2).min(MAX_READ);
        } else if read < MIN_READ {
            self.next_read = MIN_READ;
        }
        Poll::Ready(Ok(read))
    }

    /// Waits for the end of a peer that may send more before: what it sends goes to the inbox while that holds less than
    /// `bound` bytes. Once it holds as many, the end is not looked for any more.
    pub fn poll_ended(&mut self, context: &mut Context<'_>, bound: usize) -> Poll<io::Error> {
        while self.inbox.len() < bound {
            match ready!(self.poll_fill(context)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// Whether the peer's end, or an error instead of its bytes, has been read. It may still take what is written.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether writing has failed: nothing reaches the peer any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What [`Self::poll_fill`] would give without waiting. Costs no system call while the runtime has not seen the
    /// socket become readable. Not to be used while another task waits in `fill`: that one would not be woken.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub fn try_fill(&mut self) -> io::Result<Available> {
        match self.poll_fill(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(Available::Nothing),
            Poll::Ready(Ok(0)) => Ok(Available::Closed),
            Poll::Ready(Ok(read)) => Ok(Available::Bytes(read)),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Writes the whole outbox. Only for peers that do not have to be read meanwhile (see the module's first
    /// section). Cancel-safe.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// [`Self::flush`] as a poll; ready at once when there is nothing to write.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &self.cutoff {
            Some(cutoff) if cutoff.is_cut() => Err(aborted()),
            Some(_) | None => ready!(self.poll_write(context)),
        };
        if flushed.is_err() {
            self.broken = true;
            // what TLS holds goes nowhere any more
            self.unflushed = false;
        }
        Poll::Ready(flushed)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox_peak = self.outbox_peak.max(self.outbox.len());
        while !self.outbox.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outbox))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written);
            self.written += written as u64;
            self.unflushed = self.stream.is_tls();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        if self.outbox_peak > KEEP {
            self.outbox = BytesMut::new();
            self.outbox_peak = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// How many bytes were taken off the outbox and written, ever.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// How many bytes were read into the inbox, ever.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Whether everything was handed to the socket. An empty outbox does not say so: TLS takes bytes that the socket has no room for.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && !self.unflushed
    }

    /// Writes and reads together, and returns as soon as bytes came or all was written. With nothing to write it
    /// waits for bytes. Cancel-safe.
    ///
    /// # Errors
    /// What the socket or TLS reports. When writing fails, what the peer sent before is read first: a server that
    /// ends a connection says why.
    pub async fn exchange(&mut self) -> io::Result<Exchanged> {
        poll_fn(|context| self.poll_exchange(context)).await
    }

    /// [`Self::exchange`] as a poll.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Exchanged>> {
        let had_to_write = !self.is_flushed();
        let flushed = self.poll_flush(context);
        match (self.poll_fill(context), flushed) {
            (Poll::Ready(Ok(read)), _) if read > 0 => Poll::Ready(Ok(Exchanged::Received(read))),
            (Poll::Ready(_), Poll::Ready(Err(error))) | (Poll::Ready(Err(error)), _) => {
                Poll::Ready(Err(error))
            }
            (Poll::Ready(Ok(_)), _) => Poll::Ready(Ok(Exchanged::Closed)),
            (Poll::Pending, Poll::Ready(Ok(()))) if had_to_write => {
                Poll::Ready(Ok(Exchanged::Sent))
            }
            // also when writing failed: the end of the other direction is then on its way
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    /// See [`Stream::adopt`].
    ///
    /// # Errors
    /// What the system reports; nothing has changed then.
    pub(crate) fn adopt(&mut self) -> io::Result<()> {
        self.stream.adopt()
    }

    /// Gives back the memory of empty buffers. For a peer that is about to be silent for long; the next read or
    /// write takes new memory.
    pub fn release_buffers(&mut self) {
        self.release_inbox();
        if self.outbox.is_empty() {
            self.outbox = BytesMut::new();
            self.outbox_peak = 0;
        }
    }

    fn release_inbox(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
    }

    /// Writes what is left and ends the sending half (with TLS: close_notify). Put a time limit on it: a peer that
    /// does not read keeps it waiting. Cancel-safe.
    ///
    /// # Errors
    /// What the socket or TLS reports.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await
    }

    /// Writes as much as the socket takes at once, ends the stream and closes it. Never waits.
    pub fn close_at_once(mut self) {
        let mut context = Context::from_waker(Waker::noop());
        // best effort: the peer may be gone, and nobody is left to be told
        if let Poll::Ready(Ok(())) = self.poll_flush(&mut context) {
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
        }
    }

    /// Becomes the server end of TLS. Not cancel-safe: dropped, the connection is closed.
    ///
    /// # Errors
    /// `InvalidData` when plaintext came after the request for TLS (it could be a man in the middle's, and would
    /// be taken for the client's own words), else what the handshake reports.
    pub async fn accept_tls(self, config: Arc<ServerConfig>) -> io::Result<Self> {
        let stream = self.into_unread_stream()?;
        stream.accept_tls(config).await.map(Self::new)
    }

    /// Becomes the client end of TLS. Not cancel-safe: dropped, the connection is closed.
    ///
    /// # Errors
    /// `InvalidData` when plaintext came before the handshake, else what the handshake reports.
    pub async fn connect_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let stream = self.into_unread_stream()?;
        stream.connect_tls(config, name).await.map(Self::new)
    }

    fn into_unread_stream(self) -> io::Result<Stream> {
        if !self.inbox.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "received unencrypted data where a TLS handshake was expected",
            ));
        }
        if !self.is_flushed() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "unencrypted data was still to be written when TLS should begin",
            ));
        }
        Ok(self.stream)
    }

    /// The stream below, for what only it knows.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn peer_address(&self) -> io::Result<PeerAddress> {
        self.stream.peer_address()
    }

    /// The peer's address and port; `None` for a Unix socket, and where the socket is no longer connected.
    pub(crate) fn peer_socket(&self) -> Option<SocketAddr> {
        match self.peer_address() {
            Ok(PeerAddress::Tcp(address)) => Some(address),
            Ok(PeerAddress::Unix) | Err(_) => None,
        }
    }

    /// The certificates that the peer presented, its own first. `None` without TLS or when it presented none.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.stream.peer_certificates()
    }

    /// Makes room for one read and returns how much there is.
    fn make_room(&mut self) -> usize {
        if self.inbox.is_empty() {
            // an empty buffer reclaims all it ever had, which shows its true size
            self.inbox.reserve(self.next_read);
            if self.inbox.capacity() > KEEP {
                self.inbox = BytesMut::with_capacity(self.next_read);
            }
        } else if self.inbox.capacity() - self.inbox.len() < MIN_READ / 2 {
            self.inbox.reserve(self.next_read);
        }
        self.inbox.capacity() - self.inbox.len()
    }
}

fn aborted() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server is no longer its shard's primary",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use bytes::BufMut;
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::*;

    fn pair() -> (Transport, Transport) {
        let (left, right) = UnixStream::pair().unwrap();
        (
            Transport::new(Stream::unix(left)),
            Transport::new(Stream::unix(right)),
        )
    }

    #[tokio::test]
    async fn both_ends_write_megabytes_by_exchange_without_a_deadlock() {
        const TOTAL: usize = 8 << 20;
        async fn drive(mut transport: Transport) -> usize {
            transport.outbox.put_bytes(b'x', TOTAL);
            let mut received = 0;
            while received < TOTAL || !transport.is_flushed() {
                match transport.exchange().await.unwrap() {
                    Exchanged::Received(read) => {
                        assert_eq!(transport.inbox.len(), read);
                        transport.inbox.clear();
                        received += read;
                    }
                    Exchanged::Sent => assert!(transport.outbox.is_empty()),
                    Exchanged::Closed => break,
                }
            }
            received
        }
        let (left, right) = pair();
        let both = async { tokio::join!(drive(left), drive(right)) };
        assert_eq!(
            timeout(Duration::from_secs(20), both).await.unwrap(),
            (TOTAL, TOTAL)
        );
    }

    #[tokio::test]
    async fn a_dropped_flush_goes_on_where_it_stopped() {
        const TOTAL: usize = 4 << 20;
        let (mut left, mut right) = pair();
        for index in 0..TOTAL {
            left.outbox.put_u8((index / 7) as u8);
        }
        let mut received = BytesMut::new();
        while received.len() < TOTAL {
            let _ = timeout(Duration::from_millis(1), left.flush()).await;
            if let Ok(read) = timeout(Duration::from_millis(1), right.fill()).await {
                assert!(read.unwrap() > 0);
                received.unsplit(right.inbox.split());
            }
        }
        assert!(
            received
                .iter()
                .enumerate()
                .all(|(index, byte)| *byte == (index / 7) as u8)
        );
        assert!(left.is_flushed());
    }

    #[tokio::test]
    async fn buffers_shrink_after_a_huge_message() {
        let (mut left, mut right) = pair();
        left.outbox.put_bytes(b'x', 4 << 20);
        right.inbox.reserve(5 << 20);
        while !left.is_flushed() || right.inbox.len() < 4 << 20 {
            tokio::select! {
                result = left.flush(), if !left.is_flushed() => result.unwrap(),
                result = right.fill() => assert!(result.unwrap() > 0),
            }
        }
        assert!(left.outbox.capacity() <= KEEP);
        right.inbox.advance(4 << 20);
        left.outbox.put_slice(b"y");
        left.flush().await.unwrap();
        right.fill().await.unwrap();
        assert!(right.inbox.capacity() <= KEEP, "{}", right.inbox.capacity());
        assert_eq!(&right.inbox[..], b"y");
    }

    #[tokio::test]
    async fn nothing_available_costs_no_buffer_and_an_end_is_seen() {
        let (mut left, right) = pair();
        assert_eq!(left.try_fill().unwrap(), Available::Nothing);
        assert_eq!(left.inbox.capacity(), 0);
        drop(right);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(left.try_fill().unwrap(), Available::Closed);
    }

    #[tokio::test]
    async fn last_words_are_read_though_writing_fails() {
        let (mut left, mut right) = pair();
        right.outbox.put_slice(b"because");
        right.flush().await.unwrap();
        drop(right);
        left.outbox.put_slice(b"a question");
        assert_eq!(left.exchange().await.unwrap(), Exchanged::Received(7));
        assert!(left.exchange().await.is_err());
    }

    #[tokio::test]
    async fn one_fill_reads_at_most_what_a_read_may_take() {
        let (mut left, mut right) = pair();
        left.outbox.put_bytes(b'x', 1 << 20);
        for _ in 0..8 {
            let _ = timeout(Duration::from_millis(1), left.flush()).await;
            right.inbox.clear();
            assert!(right.fill().await.unwrap() <= KEEP);
        }
    }
}
