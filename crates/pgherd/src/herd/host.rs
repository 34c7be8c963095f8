//! A network of its own for a server, so that its links can be cut.
//!
//! Main type: [`Host`]. The namespace is the caller's to make: only root can.

use std::net::Ipv4Addr;
use std::process::Command;

use super::binaries::{Postgres, RunsAs};

/// Where a server runs, if it is not to share our network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name of a network namespace, as of `ip netns`.
    pub namespace: String,
    /// An address in there: where the server listens.
    pub address: Ipv4Addr,
}

impl Host {
    /// A command that becomes `postgres` in there.
    pub(super) fn command(&self, postgres: &Postgres) -> Command {
        let mut command = RunsAs::Ourselves.command("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.namespace));
        if let RunsAs::Other { user, group } = postgres.runs_as() {
            command
                .arg(format!("--setuid={user}"))
                .arg(format!("--setgid={group}"));
        }
        command.arg("--").arg(postgres.directory().join("postgres"));
        command
    }
}
