//! Whether a connection is as private, and its client as well known, as the listener's TLS mode demands.
//!
//! Owns: the refusals of `require`, `verify-ca` and `verify-full` (28000). Never does: the TLS handshake (see `opening`).

use pgherd_pool::{PeerAddress, Transport};
use pgherd_protocol::{PgError, SqlState};
use pgherd_tls::SslMode;

use crate::options::StartupOptions;
use crate::tls::common_name;

/// Refuses plain text where TLS is required, as a pg_hba.conf of `hostssl` lines does.
pub(super) fn check_encryption(
    transport: &Transport,
    mode: SslMode,
    peer: &PeerAddress,
    options: &StartupOptions,
) -> Result<(), PgError> {
    let address = match peer {
        // there is no TLS on Unix sockets, and no need of it
        PeerAddress::Unix => return Ok(()),
        PeerAddress::Tcp(address) => address.ip(),
    };
    match mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => Ok(()),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull if transport.is_tls() => Ok(()),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!(
                "no pg_hba.conf entry for host \"{address}\", user \"{}\", database \"{}\", no encryption",
                options.user, options.database
            ),
        )
        .detail(format!("pgherd listens with TLS mode {mode}."))
        .hint("Connect with sslmode=require or stronger.")),
    }
}

/// Demands a client certificate where the mode does, and with verify-full one that bears the user's name.
pub(super) fn check_certificate(
    transport: &Transport,
    mode: SslMode,
    user: &str,
) -> Result<(), PgError> {
    match mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => return Ok(()),
        SslMode::VerifyCa | SslMode::VerifyFull if !transport.is_tls() => return Ok(()),
        SslMode::VerifyCa | SslMode::VerifyFull => {}
    }
    let certificate = transport.peer_certificates().and_then(<[_]>::first);
    let Some(certificate) = certificate else {
        return Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "connection requires a valid client certificate",
        ));
    };
    if mode == SslMode::VerifyFull && common_name(certificate).as_deref() != Some(user) {
        return Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!("certificate authentication failed for user \"{user}\""),
        ));
    }
    Ok(())
}
