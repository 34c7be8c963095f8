//! A small shell that outlives us: if we are killed without a chance to stop the servers, it stops them.
//!
//! It waits for the end of its input, which is a pipe that only we hold. Main type: [`Guard`].

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::binaries::Postgres;
use super::error::{HerdError, Naming};

/// `$1` is pg_ctl, the rest are data directories. One that holds no running server is no error.
const SCRIPT: &str = r#"
while read -r _; do :; done
control=$1; shift
for directory; do
    "$control" stop -D "$directory" -m fast -W >/dev/null 2>&1
done
"#;

/// The running shell.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
}

impl Guard {
    pub(super) fn start(postgres: &Postgres, directories: &[PathBuf]) -> Result<Self, HerdError> {
        let shell = postgres
            .runs_as()
            .command("/bin/sh")
            .args(["-c", SCRIPT, "herd-guard"])
            .arg(postgres.directory().join("pg_ctl"))
            .args(directories)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // out of the terminal's group: a Ctrl-C is for us to handle
            .process_group(0)
            .spawn()
            .naming(|| "starting the servers' guard".into())?;
        Ok(Self { shell })
    }

    /// Ends the shell without letting it act. For when every server is stopped.
    pub(super) fn dismiss(mut self) {
        // both fail only if it is gone already
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
