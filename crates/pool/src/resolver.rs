//! Host names of servers, asked for again every so often.
//!
//! Owns: what each name stood for last, and for how long that is believed. A look-up that fails takes nothing away. Never connects.
//! Main type: [`Resolver`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long one look-up may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of a host, without a port (0).
pub(crate) type Addresses = Arc<[SocketAddr]>;

/// What host names stand for. Clones are the same resolver; one serves the whole process.
#[derive(Clone, Debug, Default)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ttl: Mutex<Duration>,
    hosts: Mutex<HashMap<Box<str>, Arc<Host>>>,
}

#[derive(Debug, Default)]
struct Host {
    /// Held by who asks, so that a name is asked for once at a time.
    asking: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Addresses,
    asked: Option<Instant>,
    is_failing: bool,
}

impl Resolver {
    /// How many host names it has asked for.
    pub fn names(&self) -> usize {
        self.hosts().len()
    }

    /// Believes an answer for `ttl`. Zero: every connection asks, and what is open stays open.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let resolver = Self::default();
        resolver.set_ttl(ttl);
        resolver
    }

    /// See [`Resolver::new`].
    pub fn set_ttl(&self, ttl: Duration) {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl;
    }

    /// For how long an answer is believed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to connect to. At least one address.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// Why the name cannot be resolved, where it never could.
    pub(crate) async fn addresses(&self, name: &str) -> io::Result<Addresses> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok([SocketAddr::new(address, 0)].into());
        }
        let ttl = self.ttl();
        if ttl.is_zero() {
            return look_up(name).await;
        }
        let host = Arc::clone(self.hosts().entry(name.into()).or_default());
        if let Some(addresses) = host.fresh(ttl) {
            return Ok(addresses);
        }
        let _turn = host.asking.lock().await;
        match host.fresh(ttl) {
            // somebody else has asked meanwhile
            Some(addresses) => Ok(addresses),
            None => host.renew(name).await,
        }
    }

    /// What a name stands for as of the last look-up; `None` where connections are to stay wherever they are.
    pub(crate) fn known(&self, name: &str) -> Option<Addresses> {
        if self.ttl().is_zero() {
            return None;
        }
        let addresses = Arc::clone(&self.hosts().get(name)?.known().addresses);
        (!addresses.is_empty()).then_some(addresses)
    }

    /// Has a name that somebody connected to looked up again behind everybody's back, where it is time to.
    pub(crate) fn refresh(&self, name: &str) {
        let ttl = self.ttl();
        let Some(host) = self.hosts().get(name).cloned() else {
            return;
        };
        if ttl.is_zero() || host.fresh(ttl).is_some() {
            return;
        }
        let Ok(turn) = Arc::clone(&host.asking).try_lock_owned() else {
            return;
        };
        let name: Box<str> = name.into();
        tokio::spawn(async move {
            // who connects hears of it
            let _ = host.renew(&name).await;
            drop(turn);
        });
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Host>>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, ttl: Duration) -> Option<Addresses> {
        let known = self.known();
        let is_fresh = known.asked.is_some_and(|asked| asked.elapsed() < ttl);
        (is_fresh && !known.addresses.is_empty()).then(|| Arc::clone(&known.addresses))
    }

    /// Asks. What was known stays where there is no answer.
    async fn renew(&self, name: &str) -> io::Result<Addresses> {
        let answer = look_up(name).await;
        let mut known = self.known();
        known.asked = Some(Instant::now());
        match answer {
            Ok(addresses) => {
                if std::mem::take(&mut known.is_failing) {
                    tracing::info!(host = name, "the host name resolves again");
                }
                if !known.addresses.is_empty() && !are_same(&known.addresses, &addresses) {
                    tracing::info!(host = name, before = ?ips(&known.addresses), now = ?ips(&addresses), "the host name stands for other addresses: connections to those that are gone are closed");
                }
                known.addresses = Arc::clone(&addresses);
                Ok(addresses)
            }
            Err(error) if known.addresses.is_empty() => Err(error),
            Err(error) => {
                if !std::mem::replace(&mut known.is_failing, true) {
                    tracing::warn!(host = name, %error, "the host name cannot be resolved: what it stood for is used on");
                }
                Ok(Arc::clone(&known.addresses))
            }
        }
    }
}

async fn look_up(name: &str) -> io::Result<Addresses> {
    let found = timeout(PATIENCE, lookup_host((name, 0))).await;
    let found: Addresses = found.map_err(io::Error::from)??.collect();
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the host name has no address",
        ));
    }
    Ok(found)
}

/// Whether an address is among them, whatever its port.
pub(crate) fn contains(addresses: &[SocketAddr], address: IpAddr) -> bool {
    addresses.iter().any(|known| known.ip() == address)
}

fn are_same(one: &[SocketAddr], other: &[SocketAddr]) -> bool {
    one.iter().all(|address| contains(other, address.ip()))
        && other.iter().all(|address| contains(one, address.ip()))
}

fn ips(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    addresses.iter().map(SocketAddr::ip).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOWHERE: &str = "nowhere.invalid";

    #[tokio::test]
    async fn an_address_is_itself_and_never_looked_up() {
        let resolver = Resolver::new(Duration::from_secs(60));
        let addresses = resolver.addresses("192.0.2.1").await.unwrap();
        assert!(contains(&addresses, "192.0.2.1".parse().unwrap()));
        assert!(resolver.known("192.0.2.1").is_none());
        assert!(resolver.hosts().is_empty());
    }

    #[tokio::test]
    async fn a_name_that_never_resolved_is_an_error() {
        let resolver = Resolver::new(Duration::from_secs(60));
        resolver.addresses(NOWHERE).await.unwrap_err();
        assert!(resolver.known(NOWHERE).is_none());
    }

    #[tokio::test]
    async fn a_look_up_that_fails_keeps_what_was_known() {
        let resolver = Resolver::new(Duration::from_millis(1));
        let old: Addresses = ["192.0.2.1:0".parse().unwrap()].into();
        let host = Arc::clone(resolver.hosts().entry(NOWHERE.into()).or_default());
        host.known().addresses = Arc::clone(&old);
        let addresses = resolver.addresses(NOWHERE).await.unwrap();
        assert_eq!(addresses, old);
        assert_eq!(resolver.known(NOWHERE), Some(old));
        assert!(host.known().is_failing);
    }

    #[tokio::test]
    async fn what_is_known_is_believed_for_its_time_and_no_longer() {
        let resolver = Resolver::new(Duration::from_secs(60));
        resolver.addresses("localhost").await.unwrap();
        let host = Arc::clone(&resolver.hosts()["localhost"]);
        let moved: Addresses = ["192.0.2.1:0".parse().unwrap()].into();
        host.known().addresses = Arc::clone(&moved);
        assert_eq!(resolver.addresses("localhost").await.unwrap(), moved);
        resolver.set_ttl(Duration::from_nanos(1));
        let now = resolver.addresses("localhost").await.unwrap();
        assert!(now.iter().all(|address| address.ip().is_loopback()));
        resolver.set_ttl(Duration::ZERO);
        assert!(resolver.known("localhost").is_none());
    }
}
