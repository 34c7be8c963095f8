//! What a server's host name stands for, as the control plane's connections take it.
//!
//! Owns: the addresses of the last look-up that was answered. Never decides when to look up. Main type: [`HostName`].

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgherd_topology::Address;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::Config;

/// What a look-up has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Every address that was known, or nothing new to go by.
    Same,
    /// Not all of those that were known.
    Others,
}

/// The host of a server, where it is a name.
#[derive(Debug, Default)]
pub(crate) struct HostName {
    name: Option<(Box<str>, u16)>,
    /// Empty until it was looked up.
    known: Mutex<HashSet<IpAddr>>,
}

impl HostName {
    /// Of an address.
    pub(crate) fn of(address: &Address) -> Self {
        let name = match address {
            Address::Tcp { host, port } if host.parse::<IpAddr>().is_err() => {
                Some((Box::from(&**host), *port))
            }
            Address::Tcp { .. } | Address::Unix { .. } => None,
        };
        Self {
            name,
            ..Self::default()
        }
    }

    /// Looks it up, within `patience`. Without an answer nothing changes.
    pub(crate) async fn look_up(&self, patience: Duration) -> Found {
        let Some((host, port)) = &self.name else {
            return Found::Same;
        };
        let Ok(Ok(found)) = timeout(patience, lookup_host((&**host, *port))).await else {
            return Found::Same;
        };
        let found: HashSet<IpAddr> = found.map(|address| address.ip()).collect();
        if found.is_empty() {
            return Found::Same;
        }
        let mut known = self.known();
        let all_there = known.is_subset(&found);
        *known = found;
        if all_there {
            Found::Same
        } else {
            Found::Others
        }
    }

    /// Has a connection go to what is known, rather than ask again and fail where there is no answer.
    pub(crate) fn put_addresses(&self, configuration: &mut Config) {
        let Some((host, _)) = &self.name else {
            return;
        };
        for (index, address) in self.known().iter().enumerate() {
            if index > 0 {
                // each address has its name, which TLS verifies
                configuration.host(&**host);
            }
            configuration.hostaddr(*address);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_go_to_what_was_found_last() {
        let address = Address::Tcp {
            host: "localhost".into(),
            port: 5432,
        };
        let name = HostName::of(&address);
        let mut configuration = Config::new();
        configuration.host("localhost");
        name.put_addresses(&mut configuration);
        assert!(configuration.get_hostaddrs().is_empty());
        assert_eq!(name.look_up(Duration::from_secs(10)).await, Found::Same);
        name.put_addresses(&mut configuration);
        assert!(!configuration.get_hostaddrs().is_empty());
        assert_eq!(
            configuration.get_hosts().len(),
            configuration.get_hostaddrs().len()
        );
        name.known().insert(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(name.look_up(Duration::from_secs(10)).await, Found::Others);
    }
}
