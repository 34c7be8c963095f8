//! Finds Postgres' server binaries, and runs them as a user they accept.
//!
//! Owns the choice of version and user; never knows of a herd. Main type: [`Postgres`].

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{HerdError, Naming};

/// Names a directory with server binaries that goes before every other.
const BINARIES_VARIABLE: &str = "PGHERD_POSTGRES_BIN";

/// One installation of Postgres' server binaries, with the user its processes run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    directory: PathBuf,
    version: Version,
    runs_as: RunsAs,
}

/// A released version sorts above its betas: they print as `18beta1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    released: bool,
    minor: u32,
}

/// The user of the server processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunsAs {
    /// Whoever runs us.
    Ourselves,
    /// The user `postgres`, because we are root.
    Other { user: u32, group: u32 },
}

impl Postgres {
    /// The newest installation in `PGHERD_POSTGRES_BIN`, `PATH` and `/usr/lib/postgresql/*/bin`; with `major`, the newest of that
    /// major version.
    ///
    /// # Errors
    /// [`HerdError::PostgresMissing`]; [`HerdError::NoServerUser`] for root without a user `postgres`.
    pub fn find(major: Option<u32>) -> Result<Self, HerdError> {
        let chosen = std::env::var_os(BINARIES_VARIABLE).map(PathBuf::from);
        let candidates = match chosen {
            Some(directory) => vec![directory],
            None => candidate_directories(),
        };
        let newest = candidates
            .into_iter()
            .filter_map(|directory| Some((version_in(&directory)?, directory)))
            .filter(|(version, _)| major.is_none_or(|major| version.major == major))
            .max_by_key(|(version, _)| *version);
        let (version, directory) = newest.ok_or(HerdError::PostgresMissing)?;
        Ok(Self {
            directory,
            version,
            runs_as: RunsAs::find()?,
        })
    }

    /// The major version, such as 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version.major
    }

    /// The version as Postgres writes it, such as `15.18`.
    #[must_use]
    pub fn version(&self) -> String {
        let Version {
            major,
            released,
            minor,
        } = self.version;
        format!("{major}{}{minor}", if released { "." } else { "beta" })
    }

    /// Where the binaries are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn runs_as(&self) -> RunsAs {
        self.runs_as
    }

    /// A command for one of the binaries, as the servers' user and in an environment that depends on nobody's shell.
    pub(super) fn command(&self, program: &str) -> Command {
        self.runs_as.command(self.directory.join(program))
    }
}

impl RunsAs {
    fn find() -> Result<Self, HerdError> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        match nix::unistd::User::from_name("postgres") {
            Ok(Some(user)) => Ok(Self::Other {
                user: user.uid.as_raw(),
                group: user.gid.as_raw(),
            }),
            _ => Err(HerdError::NoServerUser),
        }
    }

    /// A command as this user. Of the environment only what finding programs needs is kept: `PGDATA`, `PGPORT` or a locale of the
    /// caller's would change what the servers do and say.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        for kept in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if let Self::Other { user, group } = self {
            command.uid(user).gid(group);
        }
        command
    }

    /// Makes the servers' user the owner of a file or directory.
    pub(super) fn give(self, path: &Path) -> Result<(), HerdError> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { user, group } => std::os::unix::fs::chown(path, Some(user), Some(group))
                .naming(|| format!("giving {} to the user postgres", path.display())),
        }
    }
}

/// Runs a prepared command to its end; its output is in the error.
pub(super) async fn run(mut command: Command) -> Result<(), HerdError> {
    command.stdin(std::process::Stdio::null());
    let program = program_name(&command);
    // killed with the future: a start that is given up leaves no initdb behind
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .naming(|| format!("running {program}"))?;
    finished(program, &output)
}

/// What a finished program's output means.
pub(super) fn finished(program: String, output: &std::process::Output) -> Result<(), HerdError> {
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(HerdError::Program {
        program,
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&said), 3),
    })
}

pub(super) fn program_name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// The last lines that say something, joined to one.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}

fn candidate_directories() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        found.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    found
}

fn version_in(directory: &Path) -> Option<Version> {
    let complete = ["postgres", "initdb", "pg_ctl"]
        .iter()
        .all(|program| directory.join(program).is_file());
    if !complete {
        return None;
    }
    let output = Command::new(directory.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    parse_version(std::str::from_utf8(&output.stdout).ok()?)
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `postgres (PostgreSQL) 18beta1`.
fn parse_version(printed: &str) -> Option<Version> {
    let word = printed.split(") ").nth(1)?.split_whitespace().next()?;
    let digits = word.find(|c: char| !c.is_ascii_digit());
    let (major, rest) = word.split_at(digits.unwrap_or(word.len()));
    let minor: String = rest.chars().filter(char::is_ascii_digit).collect();
    Some(Version {
        major: major.parse().ok()?,
        released: rest.is_empty() || rest.starts_with('.'),
        minor: minor.parse().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_release_is_newer_than_its_beta_and_older_than_the_next_minor() {
        let debian =
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap();
        let beta = parse_version("postgres (PostgreSQL) 18beta1\n").unwrap();
        let release = parse_version("postgres (PostgreSQL) 18.0\n").unwrap();
        let minor = parse_version("postgres (PostgreSQL) 18.1\n").unwrap();
        assert!(debian < beta && beta < release && release < minor);
        assert_eq!((debian.major, debian.minor), (15, 18));
    }

    #[test]
    fn what_is_not_a_version_is_no_candidate() {
        assert_eq!(parse_version("postgres"), None);
        assert_eq!(parse_version("postgres (EDB) devel"), None);
    }

    #[test]
    fn the_last_lines_of_an_output_are_one_line() {
        assert_eq!(last_lines("a\n\n b\nc\n", 2), "b | c");
        assert_eq!(last_lines("", 2), "");
    }
}
