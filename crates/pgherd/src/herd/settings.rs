//! The text of the files that configure a server: `herd.conf` (included by `postgresql.conf`) and `pg_hba.conf`.
//!
//! Pure: builds strings. What an `ALTER SYSTEM` says still wins, as `postgresql.auto.conf` is read last; that is how a failover
//! repoints a replica.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use super::builder::Durability;

/// What is particular to one server.
#[derive(Debug, Clone)]
pub(super) struct ServerSettings<'a> {
    pub(super) name: &'a str,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    pub(super) sockets: &'a Path,
    pub(super) durability: Durability,
    /// Where the shard's primary listens, for a server that starts as its replica.
    pub(super) follows: Option<SocketAddrV4>,
    pub(super) has_tls: bool,
    /// Given by the builder's caller; the last word.
    pub(super) extra: &'a [(String, String)],
}

impl ServerSettings<'_> {
    /// The text of `herd.conf`.
    pub(super) fn render(&self) -> String {
        let mut lines: Vec<(String, String)> = [
            ("wal_level", "logical"),
            ("max_wal_senders", "16"),
            ("max_replication_slots", "32"),
            ("max_prepared_transactions", "100"),
            ("max_connections", "200"),
            ("hot_standby", "on"),
            ("wal_log_hints", "on"),
            // what a rewound server lacks: it has no slot meanwhile
            ("wal_keep_size", "256MB"),
            // the default of five seconds is how long a failover would wait when one attempt fails
            ("wal_retrieve_retry_interval", "200ms"),
            ("shared_buffers", "32MB"),
            ("max_wal_size", "512MB"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_statement", "all"),
            ("log_timezone", "UTC"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut set = |name: &str, value: String| lines.push((name.to_owned(), value));
        set("listen_addresses", self.address.to_string());
        set("port", self.port.to_string());
        set("cluster_name", self.name.to_owned());
        set(
            "unix_socket_directories",
            self.sockets.display().to_string(),
        );
        set("log_line_prefix", format!("%m [%p] {} %u@%d ", self.name));
        if self.durability == Durability::Fast {
            set("fsync", "off".into());
        }
        if self.has_tls {
            set("ssl", "on".into());
            set("ssl_cert_file", super::server::CERTIFICATE_FILE.into());
            set("ssl_key_file", super::server::KEY_FILE.into());
        }
        if let Some(primary) = self.follows {
            set("primary_conninfo", conninfo(self.name, primary));
            set("primary_slot_name", self.name.to_owned());
        }
        lines.extend(self.extra.iter().cloned());
        lines
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect()
    }
}

fn conninfo(name: &str, primary: SocketAddrV4) -> String {
    format!(
        "host={host} port={port} user={user} password={password} application_name={name}",
        host = primary.ip(),
        port = primary.port(),
        user = super::bootstrap::CONTROL_USER,
        password = super::bootstrap::CONTROL_PASSWORD,
    )
}

/// The text of `pg_hba.conf`. The superuser comes in by the Unix socket alone, whose directory only its owner may enter;
/// everybody else needs a password. `first` goes before all: the first line that matches decides.
pub(super) fn host_based_authentication(first: &[String]) -> String {
    let ours = [
        "local all postgres trust",
        "local all all scram-sha-256",
        "host replication pgherd 127.0.0.1/32 scram-sha-256",
        "host all postgres 0.0.0.0/0 reject",
        "host all all 127.0.0.1/32 scram-sha-256",
    ];
    first
        .iter()
        .map(String::as_str)
        .chain(ours)
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_settings_come_last_and_quotes_are_doubled() {
        let extra = [("work_mem".to_owned(), "it's".to_owned())];
        let text = ServerSettings {
            name: "s0b",
            address: Ipv4Addr::LOCALHOST,
            port: 15_432,
            sockets: Path::new("/tmp/herd/sockets"),
            durability: Durability::Fast,
            follows: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 15_431)),
            has_tls: false,
            extra: &extra,
        }
        .render();
        assert!(text.ends_with("work_mem = 'it''s'\n"), "{text}");
        assert!(text.contains("fsync = 'off'\n"));
        assert!(text.contains("primary_slot_name = 's0b'\n"));
        assert!(text.contains("port=15431"));
    }

    #[test]
    fn a_primary_follows_nobody_and_a_durable_one_syncs() {
        let text = ServerSettings {
            name: "s0a",
            address: Ipv4Addr::LOCALHOST,
            port: 15_432,
            sockets: Path::new(""),
            durability: Durability::Durable,
            follows: None,
            has_tls: false,
            extra: &[],
        }
        .render();
        assert!(!text.contains("primary_conninfo") && !text.contains("fsync"));
        assert!(text.contains("unix_socket_directories = ''\n"));
    }

    #[test]
    fn the_callers_host_lines_come_first() {
        let text = host_based_authentication(&["host all old 127.0.0.1/32 md5".into()]);
        assert!(text.starts_with("host all old 127.0.0.1/32 md5\nlocal all postgres trust\n"));
    }
}
