//! Runs the command that a program was given beside endpoints that the program has started.

use std::path::Path;
use std::process::ExitCode;

use crate::cluster::Cluster;

/// Runs the command that this process's arguments name, with ports in environment variables, to its end. What pgherd logged is written to `LOGS`, if that
/// directory is named, under the given names. Ends with the command's exit code, with 2 where none is named.
pub async fn run_beside(ports: &[(&str, u16)], logs: &[(&Cluster, &str)]) -> ExitCode {
    let mut command = std::env::args_os().skip(1);
    let Some(program) = command.next() else {
        eprintln!("no command is given to run beside the endpoints");
        return ExitCode::from(2);
    };
    let ended = tokio::process::Command::new(&program)
        .args(command)
        .envs(ports.iter().map(|(name, port)| (name, port.to_string())))
        .kill_on_drop(true)
        .status()
        .await;
    if let Some(directory) = std::env::var_os("LOGS") {
        for (cluster, name) in logs {
            let written = std::fs::write(Path::new(&directory).join(name), cluster.product_log());
            written.unwrap_or_else(|error| eprintln!("{name} is not written: {error}"));
        }
    }
    match ended {
        Ok(status) => status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            eprintln!("{} does not run: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}
