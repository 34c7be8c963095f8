//! What must outlive a restart: whose herd this is, where buckets are, who reigned last, and what unknown users are shown.
//!
//! Owns the stored form and the file it is in. Never decides placement or primaries. Main types: [`State`], the state
//! in memory with every change saved before it counts, and [`StateStore`], where it is saved.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgherd_topology::commit_protocol::HerdId;
use pgherd_topology::{Epoch, StoredShardMap};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ControlError;

/// The layout of [`StoredState`]; another one is refused rather than guessed.
const FORMAT: u32 = 1;

/// A bucket table and everything in it is far smaller; a larger file is not ours.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Where a [`StoredState`] is kept.
pub trait StateStore: Send + Sync + std::fmt::Debug {
    /// What was saved last; `None` if nothing ever was.
    ///
    /// # Errors
    /// [`ControlError::StateDamaged`], [`ControlError::StateFile`]. Blocks on the disk.
    fn load(&self) -> Result<Option<StoredState>, ControlError>;

    /// Replaces what is kept, durably and as a whole: after a crash either the old or the new state is read.
    ///
    /// # Errors
    /// [`ControlError::StateFile`], [`ControlError::StateReadOnly`]. Blocks on the disk.
    fn save(&self, state: &StoredState) -> Result<(), ControlError>;
}

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredState {
    format: u32,
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
    reigns: BTreeMap<String, Reign>,
}

/// A [`StoredShardMap`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBuckets {
    version: u64,
    shards: Vec<Box<str>>,
    runs: Vec<(u16, u16)>,
}

/// The last primary that a shard was seen under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reign {
    /// Rises whenever one of the other fields changes.
    pub epoch: u64,
    /// The server's name in the configuration.
    pub primary: String,
    /// Its timeline, which Postgres raises with each promotion.
    pub timeline: u32,
    /// `pg_control_system()`'s, which all servers of one shard share.
    pub system_identifier: u64,
}

impl Reign {
    /// The epoch as a quantity.
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
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
                    herd: herd.to_string(),
                    mock_key: hexadecimal(&rand::random()),
                    databases: BTreeMap::new(),
                };
                store.save(&new)?;
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
    /// As [`StateStore::save`]; the old table stays in force then. Blocks on the disk.
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
        self.kept()
            .databases
            .get(database)?
            .reigns
            .get(shard)
            .cloned()
    }

    /// Saves the reign seen on a shard.
    ///
    /// # Errors
    /// As [`StateStore::save`]. Blocks on the disk.
    pub fn set_reign(&self, database: &str, shard: &str, reign: Reign) -> Result<(), ControlError> {
        self.change(database, |stored| {
            stored.reigns.insert(shard.to_owned(), reign);
        })
    }

    fn change(
        &self,
        database: &str,
        apply: impl FnOnce(&mut StoredDatabase),
    ) -> Result<(), ControlError> {
        let mut kept = self.kept();
        let mut next = kept.clone();
        apply(next.databases.entry(database.to_owned()).or_default());
        if next == *kept {
            return Ok(());
        }
        self.store.save(&next)?;
        *kept = next;
        Ok(())
    }

    // Replaced as a whole or not at all, so a panic elsewhere cannot leave it half changed.
    fn kept(&self) -> MutexGuard<'_, StoredState> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`StateStore`] in one JSON file.
///
/// Written beside its place, synced, renamed over it, and the directory synced. A lock on a file beside it keeps a
/// second process from writing.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    access: FileAccess,
}

#[derive(Debug)]
enum FileAccess {
    ReadOnly,
    // held for the lock that it bears
    Exclusive { _lock: File },
}

impl FileStore {
    /// Opens the file for this process alone; it need not exist, its directory must.
    ///
    /// # Errors
    /// [`ControlError::StateInUse`], [`ControlError::StateFile`].
    pub fn exclusive(path: impl Into<PathBuf>) -> Result<Self, ControlError> {
        let path = path.into();
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(beside(&path, ".lock"))
            .map_err(|source| failed(&path, "open its lock", source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path,
                access: FileAccess::Exclusive { _lock: lock },
            }),
            Err(TryLockError::WouldBlock) => Err(ControlError::StateInUse { path }),
            Err(TryLockError::Error(source)) => Err(failed(&path, "lock it", source)),
        }
    }

    /// Opens the file to look at it, beside a process that writes it.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            access: FileAccess::ReadOnly,
        }
    }
}

impl StateStore for FileStore {
    fn load(&self) -> Result<Option<StoredState>, ControlError> {
        let damaged = |detail: String| ControlError::StateDamaged {
            path: self.path.clone(),
            detail,
        };
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(&self.path, "read it", source)),
        };
        if length > MAX_FILE_BYTES {
            return Err(damaged(format!("it has {length} bytes")));
        }
        let text =
            std::fs::read(&self.path).map_err(|source| failed(&self.path, "read it", source))?;
        let state: StoredState =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if state.format != FORMAT {
            return Err(damaged(format!(
                "its format is {}, this release reads {FORMAT}",
                state.format
            )));
        }
        identity(&state).map_err(damaged)?;
        Ok(Some(state))
    }

    fn save(&self, state: &StoredState) -> Result<(), ControlError> {
        match &self.access {
            FileAccess::ReadOnly => return Err(ControlError::StateReadOnly),
            FileAccess::Exclusive { .. } => {}
        }
        let mut text = serde_json::to_vec_pretty(state)
            .map_err(|error| failed(&self.path, "write it", io::Error::other(error)))?;
        text.push(b'\n');
        replace(&self.path, &text).map_err(|source| failed(&self.path, "write it", source))
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

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(path, ".new");
    // it holds a secret
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> ControlError {
    ControlError::StateFile {
        path: path.to_owned(),
        action,
        source,
    }
}

/// A [`StateStore`] that forgets with the process: for tests, and for looking at a herd without leaving a trace.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Option<StoredState>>);

impl StateStore for MemoryStore {
    fn load(&self) -> Result<Option<StoredState>, ControlError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn save(&self, state: &StoredState) -> Result<(), ControlError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
