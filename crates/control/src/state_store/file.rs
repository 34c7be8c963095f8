//! The state in one file.
//!
//! Owns how it is written and read: as a whole, durably, with a checksum, by one process. Never looks into it. Main type: [`FileStore`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{FORMAT, StateStore, StoredState, hexadecimal, identity};
use crate::error::ControlError;

/// A bucket table and everything in it is far smaller; a larger file is not ours.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The last line begins with it; what follows is the SHA-256 of all before that line.
const CHECKSUM: &[u8] = b"sha256 ";

/// A [`StateStore`] in one JSON file.
///
/// Written beside its place, synced, renamed over it, and the directory synced. A lock on a file beside it keeps a
/// second process from writing. A file that was put in its place meanwhile is not written over.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    access: FileAccess,
    changes: watch::Sender<u64>,
    /// Held over a look at the file and its replacement.
    turn: Mutex<()>,
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
                changes: watch::Sender::default(),
                turn: Mutex::default(),
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
            changes: watch::Sender::default(),
            turn: Mutex::default(),
        }
    }
}

impl FileStore {
    fn damaged(&self, detail: impl Into<String>) -> ControlError {
        ControlError::StateDamaged {
            path: self.path.clone(),
            detail: detail.into(),
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // nothing is behind it
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for FileStore {
    fn load(&self) -> Result<Option<StoredState>, ControlError> {
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(&self.path, "read it", source)),
        };
        if length > MAX_FILE_BYTES {
            return Err(self.damaged(format!("it has {length} bytes")));
        }
        let text =
            std::fs::read(&self.path).map_err(|source| failed(&self.path, "read it", source))?;
        let (text, is_checked) = checked(&text).map_err(|detail| self.damaged(detail))?;
        let state: StoredState =
            serde_json::from_slice(text).map_err(|error| self.damaged(error.to_string()))?;
        match (state.format, is_checked) {
            (FORMAT, true) | (1, _) => {}
            (FORMAT, false) => return Err(self.damaged("its last line, the checksum, is missing")),
            (format, _) => {
                return Err(self.damaged(format!(
                    "its format is {format}, this release reads up to {FORMAT}"
                )));
            }
        }
        identity(&state).map_err(|detail| self.damaged(detail))?;
        Ok(Some(state))
    }

    fn compare_and_swap(&self, expected: u64, state: &StoredState) -> Result<(), ControlError> {
        match &self.access {
            FileAccess::ReadOnly => return Err(ControlError::StateReadOnly),
            FileAccess::Exclusive { .. } => {}
        }
        let _turn = self.turn();
        let found = self.load()?.map_or(0, |found| found.version);
        if found != expected {
            return Err(ControlError::StateConflict { found, expected });
        }
        let mut text = serde_json::to_vec_pretty(state)
            .map_err(|error| failed(&self.path, "write it", io::Error::other(error)))?;
        text.push(b'\n');
        let checksum = hexadecimal(&Sha256::digest(&text).into());
        text.extend_from_slice(CHECKSUM);
        text.extend_from_slice(checksum.as_bytes());
        text.push(b'\n');
        replace(&self.path, &text).map_err(|source| failed(&self.path, "write it", source))?;
        self.changes.send_replace(state.version);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The text before the checksum, and whether there is one.
fn checked(text: &[u8]) -> Result<(&[u8], bool), &'static str> {
    let without_end = text.strip_suffix(b"\n").unwrap_or(text);
    let start = without_end
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    let (before, line) = (&text[..start], &without_end[start..]);
    let Some(checksum) = line.strip_prefix(CHECKSUM) else {
        return Ok((text, false));
    };
    if checksum == hexadecimal(&Sha256::digest(before).into()).as_bytes() {
        Ok((before, true))
    } else {
        Err("its checksum does not fit")
    }
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

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
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
