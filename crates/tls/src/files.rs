//! Certificates and keys in PEM files.
//!
//! Owns the reading. Blocks on the disk: called at start and reload only.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::TlsError;

/// Reads every certificate of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File {
        what: "certificate",
        path: path.into(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// Reads the first private key of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        what: "private key",
        path: path.into(),
        source,
    })
}
