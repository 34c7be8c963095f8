//! Connections: the network transport that clients and servers share, and the pools of server connections.

mod stream;
mod tls;
mod transport;

pub use stream::{PeerAddress, Stream};
pub use tls::{
    ALPN, ClientCertificate, ClientTls, Negotiation, Roots, SslMode, TlsError, TlsSettings,
    crypto_provider, read_certificates, read_private_key, server_end_point,
};
pub use transport::{Available, Exchanged, KEEP, MAX_READ, MIN_READ, Transport};
