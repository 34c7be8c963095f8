//! What standbys are called, and who of them acknowledges.
//!
//! Owns the names in `application_name`, `primary_slot_name` and `synchronous_standby_names`: each bears the epoch that gave it, so that a standby
//! repointed late by a coordinator of an earlier epoch acknowledges nothing. Never asks a server.

use super::quorum::SyncSet;
use crate::state_store::SyncNames;

/// Postgres cuts names after this many bytes.
const MOST_BYTES: usize = 63;

/// What a server goes by as a standby in an epoch.
pub(crate) fn tag(server: &str, epoch: u64) -> String {
    let suffix = format!("_e{epoch}");
    let room = MOST_BYTES - suffix.len();
    // names in the configuration are ASCII
    format!("{}{suffix}", server.get(..room).unwrap_or(server))
}

/// The server that bears such a name; a name that is none stays as it is.
pub(crate) fn server_of(name: &str) -> &str {
    match name.rsplit_once("_e") {
        Some((server, epoch))
            if !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            server
        }
        _ => name,
    }
}

/// A replication slot that does not exist: what a standby's `primary_slot_name` says once it was taken from its primary.
pub(crate) fn revoked_slot(epoch: u64) -> String {
    format!("revoked_e{epoch}")
}

/// A standby that does not exist: commits on a fenced server wait for it.
pub(crate) fn nobody(epoch: u64) -> String {
    format!("\"pgherd_fenced_e{epoch}\"")
}

/// Whether it is [`nobody`] of any epoch.
pub(crate) fn is_nobody(synchronous_standby_names: &str) -> bool {
    synchronous_standby_names.starts_with("\"pgherd_fenced_e")
}

impl SyncNames {
    /// As `synchronous_standby_names` takes it.
    pub(crate) fn to_setting(&self) -> String {
        if self.names.is_empty() {
            return String::new();
        }
        let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let names: Vec<String> = self.names.iter().map(quoted).collect();
        format!("ANY {} ({})", self.acks, names.join(", "))
    }

    /// What it means.
    pub(crate) fn to_set(&self) -> SyncSet {
        self.to_set_of(|name| name)
    }

    /// The servers that bear the names, each once.
    pub(crate) fn to_servers(&self) -> SyncSet {
        self.to_set_of(server_of)
    }

    fn to_set_of(&self, name: impl Fn(&str) -> &str) -> SyncSet {
        let mut names: Vec<Box<str>> = Vec::new();
        for listed in &self.names {
            let listed = name(listed);
            if !names.iter().any(|known| **known == *listed) {
                names.push(listed.into());
            }
        }
        if names.is_empty() {
            return SyncSet::Nobody;
        }
        SyncSet::Named {
            acks: usize::from(self.acks),
            names,
        }
    }
}

/// A string constant, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_set_is_written_as_postgres_reads_it() {
        let names = SyncNames {
            acks: 1,
            names: vec![tag("s0-b", 6), tag("s0c", 6)],
        };
        assert_eq!(names.to_setting(), "ANY 1 (\"s0-b_e6\", \"s0c_e6\")");
        assert_eq!(SyncSet::parse(&names.to_setting()).unwrap(), names.to_set());
        let none = SyncNames {
            acks: 1,
            names: Vec::new(),
        };
        assert_eq!(none.to_set(), SyncSet::parse(&none.to_setting()).unwrap());
    }

    #[test]
    fn no_name_is_longer_than_postgres_keeps() {
        let long = "x".repeat(63);
        assert_eq!(tag(&long, 123).len(), MOST_BYTES);
        assert!(tag(&long, 123).ends_with("_e123"));
    }

    #[test]
    fn a_server_is_the_same_in_every_epoch() {
        assert_eq!(server_of(&tag("s0-b", 12)), "s0-b");
        assert_eq!(server_of("node-b"), "node-b");
        assert_eq!(server_of("x_e"), "x_e");
        let names = SyncNames {
            acks: 2,
            names: vec![tag("b", 1), tag("b", 2), "c".into()],
        };
        assert_eq!(names.to_servers(), SyncSet::parse("ANY 2 (b, c)").unwrap());
    }

    #[test]
    fn literals_mean_their_text() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), "E'a\\\\'''");
    }

    #[test]
    fn a_fenced_server_is_known_by_its_setting() {
        assert!(is_nobody(&nobody(3)));
        assert!(!is_nobody("ANY 1 (\"s0b_e3\")"));
        assert!(SyncSet::parse(&nobody(3)).is_ok());
    }
}
