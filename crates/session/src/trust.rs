//! The origins that a user is trusted from.
//!
//! Owns: networks and the Unix socket as the configuration names them (the address column of pg_hba.conf, Postgres documentation,
//! chapter 21.1). Never does: I/O. Main type: [`TrustedOrigin`].

use std::net::IpAddr;
use std::str::FromStr;

use pgherd_pool::PeerAddress;

/// An origin from which a user needs no password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedOrigin {
    /// Addresses whose first `prefix` bits are those of `address`.
    Network {
        /// Any address of the network.
        address: IpAddr,
        /// How many leading bits count: at most 32 for IPv4 and 128 for IPv6.
        prefix: u8,
    },
    /// The Unix socket.
    Unix,
}

/// A text that names no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither an address (127.0.0.1), a network (10.0.0.0/8) nor unix")]
pub struct OriginError {
    text: String,
}

impl TrustedOrigin {
    /// Whether `peer` comes from here. An IPv4 client of an IPv6 socket counts by its IPv4 address.
    pub fn contains(&self, peer: &PeerAddress) -> bool {
        match (self, peer) {
            (Self::Unix, PeerAddress::Unix) => true,
            (Self::Network { address, prefix }, PeerAddress::Tcp(client)) => {
                match (*address, client.ip().to_canonical()) {
                    (IpAddr::V4(network), IpAddr::V4(client)) => {
                        let ignored = 32 - u32::from(*prefix).min(32);
                        let mask = u32::MAX.checked_shl(ignored).unwrap_or(0);
                        network.to_bits() & mask == client.to_bits() & mask
                    }
                    (IpAddr::V6(network), IpAddr::V6(client)) => {
                        let ignored = 128 - u32::from(*prefix).min(128);
                        let mask = u128::MAX.checked_shl(ignored).unwrap_or(0);
                        network.to_bits() & mask == client.to_bits() & mask
                    }
                    (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
                }
            }
            (Self::Unix, PeerAddress::Tcp(_)) | (Self::Network { .. }, PeerAddress::Unix) => false,
        }
    }
}

impl FromStr for TrustedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || OriginError {
            text: text.to_owned(),
        };
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                (address, Some(prefix.parse::<u8>().map_err(|_| refused())?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most {
            Err(refused())
        } else {
            Ok(Self::Network { address, prefix })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::SocketAddr;

    use super::*;

    fn tcp(address: &str) -> PeerAddress {
        PeerAddress::Tcp(SocketAddr::new(address.parse().unwrap(), 1234))
    }

    #[test]
    fn a_network_contains_its_addresses_only() {
        let network: TrustedOrigin = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains(&tcp("10.1.200.3")));
        assert!(network.contains(&tcp("::ffff:10.1.2.3")));
        assert!(!network.contains(&tcp("10.2.0.1")));
        assert!(!network.contains(&tcp("::1")));
        assert!(!network.contains(&PeerAddress::Unix));
    }

    #[test]
    fn prefix_zero_contains_every_address_of_the_family() {
        let network: TrustedOrigin = "0.0.0.0/0".parse().unwrap();
        assert!(network.contains(&tcp("203.0.113.9")));
        assert!(!network.contains(&tcp("2001:db8::1")));
        let network: TrustedOrigin = "::/0".parse().unwrap();
        assert!(network.contains(&tcp("2001:db8::1")));
    }

    #[test]
    fn an_address_without_a_prefix_is_itself_alone() {
        let origin: TrustedOrigin = "::1".parse().unwrap();
        assert!(origin.contains(&tcp("::1")));
        assert!(!origin.contains(&tcp("::2")));
        let unix: TrustedOrigin = "unix".parse().unwrap();
        assert!(unix.contains(&PeerAddress::Unix));
    }

    #[test]
    fn what_names_no_origin_is_refused() {
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<TrustedOrigin>().is_err(), "{text:?}");
        }
    }
}
