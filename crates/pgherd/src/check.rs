//! `pgherd check`: is the configuration right, and do servers and rows agree with it?
//!
//! Owns what is looked at and how it is said: what is right on standard output, what is not on standard error. Changes
//! nothing anywhere. Main function: [`run`].

mod failover;
mod probe;
mod rows;
mod servers;

use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, ConfigError, Loaded};

pub use rows::check_rows;
pub use servers::check_servers;

/// The configuration is right, and a server or a row is not.
const EXIT_FINDINGS: u8 = 1;

/// The configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;

/// What `check` looks at beside the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The servers.
    pub servers: bool,
    /// The rows.
    pub rows: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is right, or neither.
    pub lines: Vec<String>,
    /// What pgherd works with, but not fully.
    pub warnings: Vec<String>,
    /// What it cannot work with.
    pub errors: Vec<String>,
}

impl Findings {
    fn line(&mut self, text: String) {
        self.lines.push(text);
    }

    fn warning(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn error(&mut self, text: String) {
        self.errors.push(text);
    }

    /// Prints them and says whether there was no error.
    fn print(&self) -> bool {
        for line in &self.lines {
            println!("{line}");
        }
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
        for error in &self.errors {
            eprintln!("error: {error}");
        }
        self.errors.is_empty()
    }
}

/// Checks, prints, and gives the exit code. Blocks.
pub fn run(path: &Path, scope: Scope) -> ExitCode {
    let loaded = match check_file(path) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{}", error.to_string().trim_end());
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    eprint!("{}", loaded.warnings);
    print!("{}", summary(path, &loaded));
    if scope == Scope::default() {
        return ExitCode::SUCCESS;
    }
    let looked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
        .and_then(|runtime| runtime.block_on(look_around(&loaded, scope)));
    match looked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FINDINGS),
        Err(error) => {
            eprintln!("pgherd: {error}");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}

async fn look_around(loaded: &Loaded, scope: Scope) -> Result<bool, String> {
    let mut right = true;
    if scope.servers {
        let findings = check_servers(&loaded.config).await;
        right &= findings.map_err(|error| error.to_string())?.print();
    }
    if scope.rows {
        let findings = check_rows(&loaded.config).await;
        right &= findings.map_err(|error| error.to_string())?.print();
    }
    Ok(right)
}

/// Checks the file alone; its warnings are to be shown.
///
/// # Errors
/// [`ConfigError`].
pub fn check_file(path: &Path) -> Result<Loaded, ConfigError> {
    config::load(path)
}

/// A line that sums up a configuration that is right.
fn summary(path: &Path, loaded: &Loaded) -> String {
    let databases = &loaded.config.databases;
    // another entry to the same shards adds none
    let own = || databases.iter().filter(|database| database.like.is_none());
    let shards: usize = own().map(|database| database.shards.len()).sum();
    let servers: usize = own()
        .flat_map(|database| &database.shards)
        .map(|shard| shard.servers.len())
        .sum();
    format!(
        "{} is right: {}, {}, {}\n",
        path.display(),
        count(databases.len(), "database"),
        count(shards, "shard"),
        count(servers, "server")
    )
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
