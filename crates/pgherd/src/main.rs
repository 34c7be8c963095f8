//! The binary: reads the command line and calls the library. Decides the exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use pgherd::check::{self, Scope};
use pgherd::cli::{Cli, Command};
use pgherd::serve::ServeError;

/// The configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => match pgherd::serve::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(ServeError::Config(error)) => {
                eprintln!("{}", error.to_string().trim_end());
                ExitCode::from(EXIT_CONFIGURATION)
            }
            Err(error) => {
                eprintln!("pgherd: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Demo(arguments) => match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime.block_on(pgherd::demo::run(arguments)),
            Err(error) => {
                eprintln!("pgherd: cannot start the runtime: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Check {
            config,
            servers,
            rows,
        } => check::run(&config, Scope { servers, rows }),
        Command::Schema => {
            print!("{}", pgherd::schema::schema());
            ExitCode::SUCCESS
        }
        Command::HashPassword => match pgherd::hash_password::hash_password() {
            Ok(verifier) => {
                println!("{verifier}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("pgherd: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "pgherd", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}
