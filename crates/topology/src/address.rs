//! Where a server listens.
//!
//! Owns the text form of addresses; never resolves or connects. Main type: [`Address`].

use std::fmt;
use std::str::FromStr;

/// The port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 5432;

/// Where a Postgres server listens: `host`, `host:port`, `[::1]:port`, or the directory of its Unix
/// socket, `/run/postgresql` or `/run/postgresql:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A host name or an IP address (IPv6 without brackets).
    Tcp {
        /// Host name or IP address.
        host: Box<str>,
        /// TCP port, from 1.
        port: u16,
    },
    /// A Unix socket, by its directory: the socket is `.s.PGSQL.<port>` within.
    Unix {
        /// Absolute path of the directory.
        directory: Box<str>,
        /// The port in the socket's name.
        port: u16,
    },
}

/// The text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing before the port.
    #[error("the host is missing")]
    NoHost,
    /// Not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// `::1:5432` could be either: an IPv6 address stands in brackets.
    #[error("an IPv6 address stands in brackets, as in [::1]:5432")]
    Brackets,
    /// White space or a control character within.
    #[error("an address has no white space")]
    Space,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            let (directory, port) = match text.rsplit_once(':') {
                Some((directory, port)) => (directory, read_port(port)?),
                None => (text, DEFAULT_PORT),
            };
            return Ok(Self::Unix {
                directory: directory.into(),
                port,
            });
        }
        if text
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
        {
            return Err(AddressError::Space);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(AddressError::Brackets)?;
                let port = match (port, port.strip_prefix(':')) {
                    ("", _) => DEFAULT_PORT,
                    (_, Some(port)) => read_port(port)?,
                    (_, None) => return Err(AddressError::Brackets),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(AddressError::Brackets),
                Some((host, port)) => (host, read_port(port)?),
                None => (text, DEFAULT_PORT),
            },
        };
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        Ok(Self::Tcp {
            host: host.into(),
            port,
        })
    }
}

fn read_port(text: &str) -> Result<u16, AddressError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AddressError::Port),
        Ok(port) => Ok(port),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix { directory, port } => write!(formatter, "{directory}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for (text, written) in [
            ("127.0.0.1:5501", "127.0.0.1:5501"),
            ("db.example", "db.example:5432"),
            ("[::1]:6000", "[::1]:6000"),
            ("[fe80::1]", "[fe80::1]:5432"),
            ("/run/postgresql", "/run/postgresql:5432"),
            ("/tmp:5433", "/tmp:5433"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, error) in [
            ("", AddressError::NoHost),
            (":5432", AddressError::NoHost),
            ("[]:1", AddressError::NoHost),
            ("a:", AddressError::Port),
            ("a:0", AddressError::Port),
            ("a:65536", AddressError::Port),
            ("a:+1", AddressError::Port),
            ("/tmp:x", AddressError::Port),
            ("::1", AddressError::Brackets),
            ("[::1", AddressError::Brackets),
            ("[::1]x", AddressError::Brackets),
            ("a b:1", AddressError::Space),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }
}
