//! What must outlive a restart: whose herd this is, where buckets are, who reigns, and what unknown users are shown.
//!
//! Owns the stored form. Never decides placement or primaries. Main types: [`State`], the state in memory with every change
//! saved before it counts, and [`StateStore`], where it is saved.
//!
//! # Layout
//! - `record`: what is kept of one shard. `file`: the store that is a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgherd_topology::StoredShardMap;
use pgherd_topology::commit_protocol::HerdId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::error::ControlError;

mod file;
mod record;

pub use file::FileStore;
pub(crate) use record::since_epoch;
pub use record::{
    Change, ChangeKind, Outcome, PastChange, Phase, Quarantine, Reign, ShardRecord,
    StandbySettings, StoredHorizon, SyncNames, SyncRecord,
};

/// The layout of [`StoredState`]; a later one is refused rather than guessed. Files of the first one have no checksum.
const FORMAT: u32 = 2;

/// Where a [`StoredState`] is kept.
pub trait StateStore: Send + Sync + std::fmt::Debug {
    /// What was saved last; `None` if nothing ever was.
    ///
    /// # Errors
    /// [`ControlError::StateDamaged`], [`ControlError::StateFile`]. Blocks on the disk.
    fn load(&self) -> Result<Option<StoredState>, ControlError>;

    /// Replaces what is kept, durably and as a whole, if it is of version `expected` (0: nothing is kept): after a crash either the
    /// old or the new state is read.
    ///
    /// # Errors
    /// [`ControlError::StateConflict`] where another version is kept, [`ControlError::StateFile`], [`ControlError::StateReadOnly`]. Blocks
    /// on the disk.
    fn compare_and_swap(&self, expected: u64, state: &StoredState) -> Result<(), ControlError>;

    /// The version that was kept last, by whomever; 0 before anything was.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredState {
    format: u32,
    /// Rises with each change.
    #[serde(default)]
    version: u64,
    /// Nobody is promoted without being told to.
    #[serde(default)]
    maintenance: bool,
    herd: String,
    /// 32 bytes in hexadecimal: the key of [`State::mock_key`].
    mock_key: String,
    databases: BTreeMap<String, StoredDatabase>,
}

/// One database's part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDatabase {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    buckets: Option<StoredBuckets>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    reigns: BTreeMap<String, ShardRecord>,
}

/// A [`StoredShardMap`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBuckets {
    version: u64,
    shards: Vec<Box<str>>,
    runs: Vec<(u16, u16)>,
}

/// Whether [`State::load_or_create`] found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An earlier run's state: placement stays as it is there.
    Loaded,
    /// Nothing was kept: a new herd id was drawn and saved. If shards hold rows already, their
    /// placement is whatever the ring proposes now.
    Created,
}

/// The state of all databases, shared by their control planes; each change is saved before the call returns.
#[derive(Debug)]
pub struct State {
    store: Box<dyn StateStore>,
    herd: HerdId,
    mock_key: MockKey,
    kept: Mutex<StoredState>,
}

/// A secret that is drawn once for a herd.
type MockKey = [u8; 32];

impl State {
    /// Reads what `store` keeps, or draws a herd id and saves it.
    ///
    /// # Errors
    /// [`ControlError::StateDamaged`] where what is kept cannot be read: never replaced by something new.
    /// [`ControlError::StateReadOnly`] where nothing is kept and nothing may be written. Blocks.
    pub fn load_or_create(store: Box<dyn StateStore>) -> Result<(Self, Origin), ControlError> {
        let (kept, origin) = match store.load()? {
            Some(kept) => (kept, Origin::Loaded),
            None => {
                let herd = HerdId(rand::random());
                let new = StoredState {
                    format: FORMAT,
                    version: 1,
                    maintenance: false,
                    herd: herd.to_string(),
                    mock_key: hexadecimal(&rand::random()),
                    databases: BTreeMap::new(),
                };
                store.compare_and_swap(0, &new)?;
                (new, Origin::Created)
            }
        };
        let (herd, mock_key) = identity(&kept).map_err(|detail| ControlError::StateDamaged {
            path: PathBuf::new(),
            detail,
        })?;
        Ok((
            Self {
                store,
                herd,
                mock_key,
                kept: Mutex::new(kept),
            },
            origin,
        ))
    }

    /// Whose prepared transactions are ours: one id for each database of this store.
    ///
    /// Two databases may be the same one on the servers. Each counts its shards' epochs for itself, so neither may decide
    /// about the other's transactions.
    pub fn herd(&self, database: &str) -> HerdId {
        let mut hash = Sha256::new();
        hash.update(self.herd.to_string());
        hash.update(database);
        let start = hash.finalize().into_iter().take(8);
        HerdId(start.fold(0, |id, byte| id << 8 | u64::from(byte)))
    }

    /// The secret behind the salts that unknown users are shown: the same for every restart and every pgherd of the
    /// herd, so that they cannot be told from known ones.
    pub const fn mock_key(&self) -> [u8; 32] {
        self.mock_key
    }

    /// Where the buckets of a database are; `None` if that was never saved.
    pub fn buckets(&self, database: &str) -> Option<StoredShardMap> {
        let StoredBuckets {
            version,
            shards,
            runs,
        } = self.kept().databases.get(database)?.buckets.clone()?;
        Some(StoredShardMap {
            version,
            shards,
            runs,
        })
    }

    /// Saves where the buckets of a database are.
    ///
    /// # Errors
    /// As [`StateStore::compare_and_swap`]; the old table stays in force then. Blocks on the disk.
    pub fn set_buckets(&self, database: &str, buckets: StoredShardMap) -> Result<(), ControlError> {
        let StoredShardMap {
            version,
            shards,
            runs,
        } = buckets;
        self.change(database, |stored| {
            stored.buckets = Some(StoredBuckets {
                version,
                shards,
                runs,
            })
        })
    }

    /// The last reign seen on a shard.
    pub fn reign(&self, database: &str, shard: &str) -> Option<Reign> {
        self.shard(database, shard).map(|record| record.reign())
    }

    /// Saves the reign seen on a shard.
    ///
    /// # Errors
    /// As [`StateStore::compare_and_swap`]. Blocks on the disk.
    pub fn set_reign(&self, database: &str, shard: &str, reign: Reign) -> Result<(), ControlError> {
        self.change(database, |stored| match stored.reigns.get_mut(shard) {
            Some(record) => record.set_reign(reign),
            None => {
                stored.reigns.insert(shard.to_owned(), reign.into());
            }
        })
    }

    /// All that is kept of a shard.
    pub fn shard(&self, database: &str, shard: &str) -> Option<ShardRecord> {
        self.kept()
            .databases
            .get(database)?
            .reigns
            .get(shard)
            .cloned()
    }

    /// Changes what is kept of a shard, if it is in the reign that the caller knows (0: nothing is kept). Returns what is kept then.
    ///
    /// # Errors
    /// [`ControlError::Superseded`] where it is in another one, and as [`StateStore::compare_and_swap`]; what was kept stays then. Blocks on
    /// the disk.
    pub fn update_shard(
        &self,
        (database, shard): (&str, &str),
        epoch: u64,
        update: impl FnOnce(Option<ShardRecord>) -> ShardRecord,
    ) -> Result<ShardRecord, ControlError> {
        let mut updated = Err(ControlError::Superseded {
            shard: shard.into(),
            epoch,
        });
        self.change(database, |stored| {
            let record = stored.reigns.get(shard);
            if record.map_or(0, |record| record.epoch) == epoch {
                let next = update(record.cloned());
                stored.reigns.insert(shard.to_owned(), next.clone());
                updated = Ok(next);
            }
        })?;
        updated
    }

    /// Whether nobody is promoted without being told to.
    pub fn is_in_maintenance(&self) -> bool {
        self.kept().maintenance
    }

    /// Begins or ends maintenance.
    ///
    /// # Errors
    /// As [`StateStore::compare_and_swap`]. Blocks on the disk.
    pub fn set_maintenance(&self, on: bool) -> Result<(), ControlError> {
        self.replace(|next| next.maintenance = on)
    }

    /// Rises with each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    fn change(
        &self,
        database: &str,
        apply: impl FnOnce(&mut StoredDatabase),
    ) -> Result<(), ControlError> {
        self.replace(|next| apply(next.databases.entry(database.to_owned()).or_default()))
    }

    fn replace(&self, apply: impl FnOnce(&mut StoredState)) -> Result<(), ControlError> {
        let mut kept = self.kept();
        let mut next = kept.clone();
        apply(&mut next);
        if next == *kept {
            return Ok(());
        }
        next.format = FORMAT;
        next.version += 1;
        self.store.compare_and_swap(kept.version, &next)?;
        *kept = next;
        Ok(())
    }

    // Replaced as a whole or not at all, so a panic elsewhere cannot leave it half changed.
    fn kept(&self) -> MutexGuard<'_, StoredState> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes a herd itself.
fn identity(state: &StoredState) -> Result<(HerdId, MockKey), String> {
    let herd = state
        .herd
        .parse()
        .map_err(|_| "the herd id is not 16 hexadecimal digits")?;
    let mock_key =
        from_hexadecimal(&state.mock_key).ok_or("the mock key is not 64 hexadecimal digits")?;
    Ok((herd, mock_key))
}

fn hexadecimal(bytes: &MockKey) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<MockKey> {
    let mut key = MockKey::default();
    let digits = text.as_bytes();
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

/// A [`StateStore`] that forgets with the process: for tests, and for looking at a herd without leaving a trace.
#[derive(Debug, Default)]
pub struct MemoryStore {
    kept: Mutex<Option<StoredState>>,
    changes: watch::Sender<u64>,
}

impl StateStore for MemoryStore {
    fn load(&self) -> Result<Option<StoredState>, ControlError> {
        Ok(self.kept().clone())
    }

    fn compare_and_swap(&self, expected: u64, state: &StoredState) -> Result<(), ControlError> {
        let mut kept = self.kept();
        let found = kept.as_ref().map_or(0, |kept| kept.version);
        if found != expected {
            return Err(ControlError::StateConflict { found, expected });
        }
        *kept = Some(state.clone());
        drop(kept);
        self.changes.send_replace(state.version);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl MemoryStore {
    // replaced as a whole
    fn kept(&self) -> MutexGuard<'_, Option<StoredState>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::file::beside;
    use super::*;

    fn open(path: &Path) -> Result<(State, Origin), ControlError> {
        State::load_or_create(Box::new(FileStore::exclusive(path)?))
    }

    fn table() -> StoredShardMap {
        StoredShardMap {
            version: 3,
            shards: vec!["s0".into()],
            runs: vec![(0, 4096)],
        }
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let reign = Reign {
            epoch: 2,
            primary: "s0a".into(),
            timeline: 5,
            system_identifier: u64::MAX,
        };
        let identity = {
            let (state, origin) = open(&path).unwrap();
            assert_eq!(origin, Origin::Created);
            state.set_buckets("shop", table()).unwrap();
            state.set_reign("shop", "s0", reign.clone()).unwrap();
            (state.herd("shop"), state.mock_key())
        };
        let (state, origin) = open(&path).unwrap();
        assert_eq!(origin, Origin::Loaded);
        assert_eq!((state.herd("shop"), state.mock_key()), identity);
        assert_eq!(state.buckets("shop"), Some(table()));
        assert_ne!(state.herd("other"), identity.0);
        assert_eq!(state.buckets("other"), None);
        assert_eq!(state.reign("shop", "s0"), Some(reign));
    }

    #[test]
    fn only_its_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        drop(open(&path).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_reported_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        drop(open(&path).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for damage in [
            &whole[..whole.len() / 2],
            b"",
            b"{}",
            b"{\"format\":9,\"herd\":\"0000000000000000\",\"mock_key\":\"\",\"databases\":{}}",
            b"{\"format\":1,\"herd\":\"0000000000000000\",\"mock_key\":\"00\",\"databases\":{}}",
        ] {
            std::fs::write(&path, damage).unwrap();
            assert!(matches!(
                open(&path),
                Err(ControlError::StateDamaged { .. })
            ));
            assert_eq!(std::fs::read(&path).unwrap(), damage);
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_the_checksum() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        drop(open(&path).unwrap());
        let whole = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        std::fs::write(&path, whole.replace("\"version\": 1", "\"version\": 3")).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        // cut off cleanly before the last line
        let cut = whole.find("sha256 ").unwrap();
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }

    #[test]
    fn a_file_of_the_first_layout_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let first = format!(
            "{{\"format\":1,\"herd\":\"00000000000000aa\",\"mock_key\":\"{}\",\"databases\":{{\"shop\":{{\"reigns\":{{\"s0\":\
             {{\"epoch\":2,\"primary\":\"s0a\",\"timeline\":5,\"system_identifier\":7}}}}}}}}}}",
            "00".repeat(32)
        );
        std::fs::write(&path, first).unwrap();
        let (state, origin) = open(&path).unwrap();
        let reign = state.reign("shop", "s0").unwrap();
        assert_eq!(
            (origin, reign.epoch, reign.timeline),
            (Origin::Loaded, 2, 5)
        );
        state.set_maintenance(true).unwrap();
        drop(state);
        assert!(open(&path).unwrap().0.is_in_maintenance());
    }

    #[test]
    fn a_file_put_in_its_place_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (state, _) = open(&path).unwrap();
        let older = std::fs::read(&path).unwrap();
        state.set_maintenance(true).unwrap();
        std::fs::write(&path, &older).unwrap();
        let refused = state.set_maintenance(false);
        assert!(
            matches!(
                refused,
                Err(ControlError::StateConflict {
                    found: 1,
                    expected: 2
                })
            ),
            "{refused:?}"
        );
        assert!(state.is_in_maintenance());
        assert_eq!(std::fs::read(&path).unwrap(), older);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            state.set_maintenance(false),
            Err(ControlError::StateConflict { found: 0, .. })
        ));
    }

    #[test]
    fn a_shard_changes_only_for_who_knows_its_reign() {
        let (state, _) = State::load_or_create(Box::new(MemoryStore::default())).unwrap();
        let mut changes = state.changes();
        changes.mark_unchanged();
        let reign = Reign {
            epoch: 4,
            primary: "s0a".into(),
            timeline: 1,
            system_identifier: 7,
        };
        let begun = |record: Option<ShardRecord>| ShardRecord {
            epoch: 5,
            ..record.unwrap()
        };
        state
            .update_shard(("shop", "s0"), 0, |_| reign.into())
            .unwrap();
        assert!(changes.has_changed().unwrap());
        assert_eq!(
            state.update_shard(("shop", "s0"), 4, begun).unwrap().epoch,
            5
        );
        let late = state.update_shard(("shop", "s0"), 4, begun);
        assert!(matches!(
            late,
            Err(ControlError::Superseded { epoch: 4, .. })
        ));
        assert_eq!(state.shard("shop", "s0").unwrap().epoch, 5);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let herd = open(&path).unwrap().0.herd("shop");
        std::fs::write(beside(&path, ".new"), b"{\"format\":1,\"he").unwrap();
        let (state, origin) = open(&path).unwrap();
        assert_eq!((origin, state.herd("shop")), (Origin::Loaded, herd));
    }

    #[test]
    fn a_second_process_may_look_but_not_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (first, _) = open(&path).unwrap();
        assert!(matches!(open(&path), Err(ControlError::StateInUse { .. })));
        let (looking, _) = State::load_or_create(Box::new(FileStore::read_only(&path))).unwrap();
        assert_eq!(looking.herd("shop"), first.herd("shop"));
        assert!(matches!(
            looking.set_buckets("shop", table()),
            Err(ControlError::StateReadOnly)
        ));
        assert_eq!(looking.buckets("shop"), None);
    }
}
