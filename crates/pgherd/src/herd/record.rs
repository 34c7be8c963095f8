//! `herd.json`: what was made in a directory, so that a second start finds it again.
//!
//! Main type: [`Record`].

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{HerdError, Naming};

const FILE: &str = "herd.json";

/// The shape of a herd and the ports of its servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) postgres_major: u32,
    pub(super) database: String,
    pub(super) shards: u16,
    pub(super) replicas: u16,
    /// Shard by shard, the first primary first.
    pub(super) ports: Vec<u16>,
}

impl Record {
    /// What the directory holds; `None` if nothing was completed there.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, HerdError> {
        let path = directory.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).naming(|| format!("reading {}", path.display())),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| HerdError::Record { path, source })
    }

    /// Written when every data directory is complete: its presence says so.
    pub(super) fn write(&self, directory: &Path) -> Result<(), HerdError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|source| HerdError::Record {
            path: path.clone(),
            source,
        })?;
        // renamed into place: a reader sees the old or the new one whole
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .naming(|| format!("writing {}", path.display()))
    }

    /// In words, for the message that it is not what was asked for.
    pub(super) fn shape(&self) -> String {
        format!(
            "{} shard(s) with {} replica(s) each and database {}",
            self.shards, self.replicas, self.database
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_an_empty_directory_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), None);
        let record = Record {
            postgres_major: 15,
            database: "shop".into(),
            shards: 1,
            replicas: 1,
            ports: vec![15_001, 15_002],
        };
        record.write(directory.path()).unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), Some(record));
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        let error = Record::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("herd.json"), "{error}");
    }
}
