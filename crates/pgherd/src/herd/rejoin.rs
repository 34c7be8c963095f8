//! Puts `deploy/rejoin.sh` into a herd's directory: the binary may be all that there is on this machine.

use std::path::Path;

use super::binaries::Postgres;
use super::bootstrap::{REWIND_PASSWORD, REWIND_USER};
use super::error::{HerdError, Naming};

const SCRIPT: &str = include_str!("../../../../deploy/rejoin.sh");

/// Writes the script; returns the command that calls it, for a shell in which `PGHERD_SERVER` is the server's name.
pub(super) fn install(postgres: &Postgres, directory: &Path) -> Result<String, HerdError> {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("rejoin.sh");
    // renamed into place: an old one may be running
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, SCRIPT)
        .and_then(|()| std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&fresh, &path))
        .naming(|| format!("writing {}", path.display()))?;
    Ok(format!(
        "PGHERD_REWIND_USER={REWIND_USER} PGHERD_REWIND_PASSWORD={REWIND_PASSWORD} {script} --bin {binaries} \
         --data {home}/\"$PGHERD_SERVER\" --log {home}/log/\"$PGHERD_SERVER\".log",
        script = quoted(&path),
        binaries = quoted(postgres.directory()),
        home = quoted(directory),
    ))
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
