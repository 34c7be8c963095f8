//! The command line.
//!
//! Owns the names of subcommands and options and what `--help` says. Does nothing itself: `main` acts on a [`Cli`].

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  pgherd demo                                  a herd to play with, on this machine
  pgherd serve --config pgherd.yaml            serve clients
  pgherd check --config pgherd.yaml            is the configuration right?
  pgherd hash-password                         make a SCRAM verifier for `password:`
  pgherd schema > pgherd.schema.json           let an editor complete the configuration
  pgherd completions bash > /etc/bash_completion.d/pgherd";

const SERVE_HELP: &str = "\
Example:
  pgherd serve --config pgherd.yaml

A minimal configuration:
  databases:
    shop:
      users: [{ name: app, password: \"${SHOP_PASSWORD}\" }]
      shards:
        - name: s0
          servers: [{ name: s0a, address: 127.0.0.1:5432 }]

Signals:
  SIGHUP           read the configuration again; a wrong one leaves the running one in force
  SIGTERM, SIGINT  stop accepting, let transactions end, then exit; a second one exits at once

Exit codes:
  0  ended as asked
  1  could not start, or failed
  2  the configuration is wrong";

const CHECK_HELP: &str = "\
Examples:
  pgherd check --config pgherd.yaml                     the file alone
  pgherd check --config pgherd.yaml --servers           and what it says of the servers
  pgherd check --config pgherd.yaml --rows              and where every row lies

Exit codes:
  0  all is right; warnings may have been shown
  1  the configuration is right, and a server or a row is not
  2  the configuration is wrong";

/// One Postgres endpoint over a herd of Postgres servers.
#[derive(Debug, Parser)]
#[command(name = "pgherd", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients until a signal ends it.
    #[command(after_help = SERVE_HELP)]
    Serve {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", env = "PGHERD_CONFIG")]
        config: PathBuf,
    },
    /// Start a herd of real Postgres servers with a shop in it, serve it, and show where queries go.
    #[command(after_help = "Example:\n  pgherd demo --shards 3 --replicas 1 --once")]
    Demo(crate::demo::Arguments),
    /// Check a configuration: what is wrong, where, and what would be right.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", env = "PGHERD_CONFIG")]
        config: PathBuf,
        /// Also connect to every server and check that pgherd can work with it, and what a failover would need.
        #[arg(long)]
        servers: bool,
        /// Also read every sharded table and list the rows that lie on a shard that does not own them.
        #[arg(long)]
        rows: bool,
    },
    /// Print the JSON Schema of the configuration.
    #[command(after_help = "Example:\n  pgherd schema > pgherd.schema.json")]
    Schema,
    /// Read a password without echo and print its SCRAM-SHA-256 verifier, for `password:` or CREATE ROLE.
    #[command(
        after_help = "Examples:\n  pgherd hash-password\n  printf %s \"$PASSWORD\" | pgherd hash-password"
    )]
    HashPassword,
    /// Print a completion script.
    #[command(after_help = "Example:\n  pgherd completions zsh > ~/.zfunc/_pgherd")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}
