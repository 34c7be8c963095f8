//! Chooses ports on 127.0.0.1 that nobody listens on.
//!
//! Below the range from which the kernel takes the ports of outgoing connections (32768 and up by default): a server that is
//! stopped for a while would otherwise find its port taken by some client.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

use super::error::HerdError;

const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// Whether a server could listen there on 127.0.0.1 now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// As many different free ports as asked for, from a random place on, so that two herds that start together rarely meet.
///
/// # Errors
/// [`HerdError::NoPorts`].
pub fn choose(count: usize) -> Result<Vec<u16>, HerdError> {
    let span = LAST - FIRST;
    let start = rand::rng().random_range(0..span);
    let chosen: Vec<u16> = (0..span)
        .map(|step| FIRST + (start + step) % span)
        .filter(|port| is_free(*port))
        .take(count)
        .collect();
    if chosen.len() < count {
        return Err(HerdError::NoPorts { count });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn chosen_ports_are_free_and_differ() {
        let mut ports = choose(9).unwrap();
        assert!(ports.iter().all(|port| (FIRST..LAST).contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 9);
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
