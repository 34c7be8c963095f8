//! A small shell that outlives us: if we are killed without a chance to stop what we started, it does.
//!
//! It waits for the end of its input, which is a pipe that only we hold. Main type: [`Guard`].

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::binaries::{Postgres, RunsAs};
use super::error::{HerdError, Naming};

/// `$1` is pg_ctl, the rest are data directories. One that holds no running server is no error.
const STOP_SERVERS: &str = r#"
while read -r _; do :; done
control=$1; shift
for directory; do
    "$control" stop -D "$directory" -m fast -W >/dev/null 2>&1
done
"#;

/// `$1` is a process.
const TERMINATE: &str = r#"
while read -r _; do :; done
kill -TERM "$1"
"#;

/// The running shell.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// Stops the servers of these data directories.
    pub(super) fn of_servers(
        postgres: &Postgres,
        directories: &[PathBuf],
    ) -> Result<Self, HerdError> {
        let mut shell = postgres.runs_as().command("/bin/sh");
        shell
            .args(["-c", STOP_SERVERS, "herd-guard"])
            .arg(postgres.directory().join("pg_ctl"))
            .args(directories);
        Self::start(shell)
    }

    /// Sends SIGTERM to a process of ours.
    pub(crate) fn of_process(pid: u32) -> Result<Self, HerdError> {
        let mut shell = RunsAs::Ourselves.command("/bin/sh");
        shell.args(["-c", TERMINATE, "process-guard", &pid.to_string()]);
        Self::start(shell)
    }

    fn start(mut shell: Command) -> Result<Self, HerdError> {
        let shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // out of the terminal's group: a Ctrl-C is for us to handle
            .process_group(0)
            .spawn()
            .naming(|| "starting a guard".into())?;
        Ok(Self { shell })
    }

    /// Ends the shell without letting it act. For when all that it guards has ended.
    pub(crate) fn dismiss(mut self) {
        // both fail only if it is gone already
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
