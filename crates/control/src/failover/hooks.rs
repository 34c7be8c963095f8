//! Commands of the operator's that a failover runs.
//!
//! Owns running them: through `sh -c`, with what they need to know in the environment, for a bounded time. The last line of what one says on stderr is
//! told where it fails. Main function: [`run`].

use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgherd_topology::Address;

use crate::error::ControlError;

/// Between two looks whether it has ended.
const POLL: Duration = Duration::from_millis(20);

/// Of a line that a command says.
const MOST_CHARACTERS: usize = 500;

/// What a command is told, beside the environment of pgherd itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge(Vec<(&'static str, String)>);

impl Knowledge {
    pub(crate) fn of(database: &str, shard: &str, epoch: u64) -> Self {
        Self(vec![
            ("PGHERD_DATABASE", database.to_owned()),
            ("PGHERD_SHARD", shard.to_owned()),
            ("PGHERD_EPOCH", epoch.to_string()),
        ])
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// The server that it is about.
    pub(crate) fn server(self, name: &str, address: &Address) -> Self {
        let (host, port) = parts(address);
        self.with("PGHERD_SERVER", name)
            .with("PGHERD_HOST", host)
            .with("PGHERD_PORT", port)
    }

    /// The server that is its shard's primary.
    pub(crate) fn primary(self, name: &str, address: &Address) -> Self {
        let (host, port) = parts(address);
        self.with("PGHERD_PRIMARY", name)
            .with("PGHERD_PRIMARY_HOST", host)
            .with("PGHERD_PRIMARY_PORT", port)
    }
}

fn parts(address: &Address) -> (String, String) {
    match address {
        Address::Tcp { host, port } => (host.to_string(), port.to_string()),
        Address::Unix { directory, port } => (directory.to_string(), port.to_string()),
    }
}

/// Runs it and waits for its end.
///
/// # Errors
/// [`ControlError::Hook`] where it cannot be started, fails, or takes longer than `patience`: it is killed then.
pub(crate) async fn run(
    hook: &'static str,
    command: &str,
    knowledge: Knowledge,
    patience: Duration,
) -> Result<(), ControlError> {
    let command = command.to_owned();
    let failed = |detail: String| ControlError::Hook { hook, detail };
    let running = tokio::task::spawn_blocking(move || wait(&command, &knowledge, patience));
    match running.await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed("it was not waited for".to_owned())),
    }
}

fn wait(command: &str, knowledge: &Knowledge, patience: Duration) -> Result<(), String> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .envs(knowledge.0.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let said = child.stderr.take().map(listen);
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let last = said.and_then(|said| said.join().ok()).unwrap_or_default();
                return Err(match last.as_str() {
                    "" => status.to_string(),
                    last => format!("{status}: {last}"),
                });
            }
            Ok(None) if begun.elapsed() > patience => {
                // its end is seen by the wait
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it took longer than {patience:?}"));
            }
            Ok(None) => std::thread::sleep(POLL),
            Err(error) => return Err(format!("it cannot be waited for: {error}")),
        }
    }
}

/// Logs what it says, line by line, and keeps the last one.
fn listen(said: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let line: String = line.chars().take(MOST_CHARACTERS).collect();
            tracing::info!("a command says: {line}");
            if !line.trim().is_empty() {
                last = line;
            }
        }
        last
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_command_is_told_what_it_is_about() {
        let address: Address = "db2:5502".parse().unwrap();
        let knowledge = Knowledge::of("shop", "s0", 7)
            .server("s0b", &address)
            .primary("s0a", &address);
        let command = "test \"$PGHERD_DATABASE.$PGHERD_SHARD $PGHERD_EPOCH $PGHERD_SERVER $PGHERD_HOST:$PGHERD_PORT $PGHERD_PRIMARY\" \
             = 'shop.s0 7 s0b db2:5502 s0a'";
        run("rejoin_command", command, knowledge, LONG)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn one_that_fails_or_takes_too_long_is_an_error() {
        let run = |command, patience| run("fence_command", command, Knowledge::default(), patience);
        let failed = run("echo begun >&2; echo 'no way there' >&2; exit 3", LONG).await;
        let failed = failed.unwrap_err().to_string();
        assert!(
            failed.contains("fence_command: exit status: 3: no way there"),
            "{failed}"
        );
        let slow = run("exec sleep 60", Duration::from_millis(50)).await;
        let slow = slow.unwrap_err().to_string();
        assert!(slow.contains("took longer"), "{slow}");
    }
}
