//! A herd's directory: made, opened to the servers' user, locked, and cleared of what a killed run left.
//!
//! Main type: [`Sockets`].

use std::fs::File;
use std::path::{Path, PathBuf};

use super::binaries::{Postgres, RunsAs};
use super::error::{HerdError, Naming};
use super::record::Record;
use super::server::ServerName;

/// A socket's address holds 107 bytes, of which its file name takes 15.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// Makes the directory if it is missing; returns its path as the system knows it.
pub(super) fn prepare(directory: &Path) -> Result<PathBuf, HerdError> {
    let log = directory.join("log");
    std::fs::create_dir_all(&log).naming(|| format!("making {}", log.display()))?;
    directory
        .canonicalize()
        .naming(|| format!("finding {}", directory.display()))
}

/// Where a server's data goes.
pub(super) fn of_server(directory: &Path, shard: usize, server: usize) -> PathBuf {
    directory.join(ServerName::new(shard, server).as_str())
}

/// Lets the servers' user through the herd's directory, and makes sure that it can get there.
pub(super) async fn open_to_servers(runs_as: RunsAs, directory: &Path) -> Result<(), HerdError> {
    use std::os::unix::fs::PermissionsExt;
    if runs_as == RunsAs::Ourselves {
        return Ok(());
    }
    let naming = || format!("opening {} to the servers", directory.display());
    let mode = directory.metadata().naming(naming)?.permissions().mode();
    if mode & 0o001 == 0 {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode | 0o011))
            .naming(naming)?;
    }
    let mut command = runs_as.command("/bin/sh");
    command
        .args(["-c", "cd \"$1\"", "herd-reach"])
        .arg(directory);
    super::binaries::run(command)
        .await
        .map_err(|error| match error {
            HerdError::Program { .. } => HerdError::Unreachable {
                directory: directory.to_path_buf(),
            },
            other => other,
        })
}

pub(super) fn lock(directory: &Path) -> Result<File, HerdError> {
    let path = directory.join("herd.lock");
    let naming = || format!("locking {}", path.display());
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .naming(naming)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(HerdError::Locked {
            directory: directory.to_path_buf(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(error).naming(naming),
    }
}

/// Stops servers of a former run that was killed together with its guard.
pub(super) async fn stop_survivors(
    postgres: &Postgres,
    directory: &Path,
    record: &Record,
) -> Result<(), HerdError> {
    for shard in 0..usize::from(record.shards) {
        for server in 0..=usize::from(record.replicas) {
            let data = of_server(directory, shard, server);
            if super::process::postmaster_in(&data).is_none() {
                continue;
            }
            let mut command = postgres.command("pg_ctl");
            command.args(["stop", "-w", "-m", "fast", "-D"]).arg(&data);
            super::binaries::run(command).await?;
        }
    }
    Ok(())
}

/// The sockets' directory, which only its owner may enter.
#[derive(Debug)]
pub(super) enum Sockets {
    /// In the herd's directory.
    Inside(PathBuf),
    /// A short path, where the herd's own is too long for a socket's address. Removed on drop.
    Elsewhere(tempfile::TempDir),
}

impl Sockets {
    pub(super) fn make(runs_as: RunsAs, directory: &Path) -> Result<Self, HerdError> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::DirBuilderExt;
        let inside = directory.join("sockets");
        let sockets = if inside.as_os_str().as_bytes().len() > LONGEST_SOCKET_DIRECTORY {
            let short = tempfile::Builder::new()
                .prefix("pgherd-")
                .tempdir_in("/tmp")
                .naming(|| "making a directory for sockets".into())?;
            Self::Elsewhere(short)
        } else {
            match std::fs::DirBuilder::new().mode(0o700).create(&inside) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
            .naming(|| format!("making {}", inside.display()))?;
            Self::Inside(inside)
        };
        runs_as.give(sockets.path())?;
        Ok(sockets)
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Inside(path) => path,
            Self::Elsewhere(directory) => directory.path(),
        }
    }
}
