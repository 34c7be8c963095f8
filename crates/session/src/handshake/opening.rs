//! From the first byte to the startup message.
//!
//! Owns: TLS by request and at once, the refusal of GSSAPI encryption, and telling cancel requests from startup messages. Never does:
//! looking into a startup message. Main function: [`open`].

use std::io;
use std::sync::Arc;

use pgherd_pool::{Stream, Transport};
use pgherd_protocol::{
    CancelKey, FirstPacket, PgError, SqlState, StartupMessage, read_first_packet,
};
use pgherd_tls::ALPN;

use super::Refusal;
use crate::tls::ListenTls;

/// The first byte of a TLS handshake; no length of a first packet starts so.
const TLS_HANDSHAKE: u8 = 0x16;

/// Where a connection has come to.
pub(super) enum Opened {
    /// A client that wants a session.
    Startup(Transport, StartupMessage),
    /// A cancel request. The connection is closed when it has been forwarded: by that the client knows.
    Cancel(Transport, i32, CancelKey),
    /// An end without a word.
    Closed(Refusal),
    /// An end that the client is to be told.
    Refused(Transport, PgError),
}

/// Whether a client has asked for a kind of encryption yet: it may once for each.
#[derive(PartialEq, Eq)]
enum Asked {
    NotYet,
    Already,
}

/// Reads up to the startup message.
pub(super) async fn open(transport: Transport, tls: &ListenTls) -> Opened {
    let mut transport = match accept_direct_tls(transport, tls).await {
        Ok(transport) => transport,
        Err(refusal) => return Opened::Closed(refusal),
    };
    let mut tls_asked = if transport.is_tls() {
        Asked::Already
    } else {
        Asked::NotYet
    };
    let mut gss_asked = Asked::NotYet;
    loop {
        let packet = match read_packet(&mut transport).await {
            Ok(packet) => packet,
            Err(Refusal::Refused(error)) => return Opened::Refused(transport, error),
            Err(refusal) => return Opened::Closed(refusal),
        };
        match packet {
            FirstPacket::Startup(startup) => return Opened::Startup(transport, startup),
            FirstPacket::CancelRequest { pid, key } => return Opened::Cancel(transport, pid, key),
            FirstPacket::SslRequest if tls_asked == Asked::NotYet => {
                tls_asked = Asked::Already;
                transport = match answer_ssl_request(transport, tls).await {
                    Ok(transport) => transport,
                    Err(opened) => return opened,
                };
            }
            FirstPacket::GssEncRequest if gss_asked == Asked::NotYet => {
                gss_asked = Asked::Already;
                if !transport.inbox.is_empty() {
                    return Opened::Refused(transport, stuffed("GSSAPI encryption"));
                }
                transport.outbox.extend_from_slice(b"N");
                if let Err(error) = transport.flush().await {
                    return Opened::Closed(error.into());
                }
            }
            FirstPacket::SslRequest | FirstPacket::GssEncRequest => {
                let error = PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    "encryption was requested more than once",
                );
                return Opened::Refused(transport, error);
            }
        }
    }
}

async fn read_packet(transport: &mut Transport) -> Result<FirstPacket, Refusal> {
    loop {
        let packet = read_first_packet(&mut transport.inbox)
            .map_err(|error| PgError::fatal(error.code(), error.to_string()))?;
        if let Some(packet) = packet {
            return Ok(packet);
        }
        if transport.fill().await? == 0 {
            return Err(Refusal::Gone);
        }
    }
}

/// TLS without a request before it: only for clients that name Postgres as the protocol they want within (ALPN), so that nothing
/// that was meant for another service is taken for a client's words.
async fn accept_direct_tls(transport: Transport, tls: &ListenTls) -> Result<Transport, Refusal> {
    if !matches!(transport.stream(), Stream::Tcp(_)) {
        return Ok(transport);
    }
    match transport.stream().peek_first_byte().await? {
        Some(TLS_HANDSHAKE) => {}
        Some(_) => return Ok(transport),
        None => return Err(Refusal::Gone),
    }
    let config = tls.config().ok_or_else(|| {
        Refusal::Tls(io::Error::new(
            io::ErrorKind::Unsupported,
            "a client began with TLS, which is not configured",
        ))
    })?;
    let transport = transport
        .accept_tls(Arc::clone(config))
        .await
        .map_err(Refusal::Tls)?;
    if transport.stream().alpn_protocol() != Some(ALPN) {
        return Err(Refusal::Tls(io::Error::new(
            io::ErrorKind::InvalidData,
            "received direct SSL connection request without ALPN protocol negotiation extension",
        )));
    }
    Ok(transport)
}

async fn answer_ssl_request(
    mut transport: Transport,
    tls: &ListenTls,
) -> Result<Transport, Opened> {
    if !transport.inbox.is_empty() {
        return Err(Opened::Refused(transport, stuffed("SSL")));
    }
    let config = match transport.stream() {
        Stream::Tcp(_) => tls.config(),
        Stream::Unix(_) | Stream::TlsClient(_) | Stream::TlsServer(_) => None,
    };
    let answer: &[u8] = if config.is_some() { b"S" } else { b"N" };
    transport.outbox.extend_from_slice(answer);
    if let Err(error) = transport.flush().await {
        return Err(Opened::Closed(error.into()));
    }
    match config {
        Some(config) => transport
            .accept_tls(Arc::clone(config))
            .await
            .map_err(|error| Opened::Closed(Refusal::Tls(error))),
        None => Ok(transport),
    }
}

/// Bytes that came before the answer to a request for encryption: perhaps another's, which would be taken for the client's own.
fn stuffed(what: &str) -> PgError {
    PgError::fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("received unencrypted data after {what} request"),
    )
    .detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
}
