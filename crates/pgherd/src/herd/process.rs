//! What the standard library does not do with a server's processes: signals, children, waiting with a limit.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Between two looks at a process.
pub(super) const POLL: Duration = Duration::from_millis(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Kills every process of the server with this data directory, orphans of a killed main process too, and waits until they are gone.
pub(super) fn kill_all(data: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < KILL_LIMIT {
        let processes = processes_in(data);
        if processes.is_empty() {
            return;
        }
        // the main one first: it would start others
        for process in postmaster_in(data).into_iter().chain(processes) {
            send(process, Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
}

/// Sends a signal. It fails only for a process that has ended meanwhile.
pub(super) fn send(process: Pid, signal: Signal) {
    let _ = nix::sys::signal::kill(process, signal);
}

pub(super) fn pid_of(child: &Child) -> Pid {
    // a process id is a positive i32 on every Unix; 0 would be our own group
    i32::try_from(child.id()).map_or(Pid::this(), Pid::from_raw)
}

pub(super) fn wait_at_most(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(POLL),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// The main process that `postmaster.pid` names, if it is the server of that directory: after a crash the number may be anybody's.
pub(super) fn postmaster_in(data: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let number = text.lines().next()?.trim().parse().ok()?;
    works_in(number, data).then_some(Pid::from_raw(number))
}

/// Every process of the server with this data directory: nobody else works there.
pub(super) fn processes_in(data: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| works_in(*number, data))
        .map(Pid::from_raw)
        .collect()
}

/// Those whose title, such as `postgres: s0a: walsender pgherd 127.0.0.1(4711) streaming 0/3000148`, holds a text.
pub(super) fn processes_titled(data: &Path, text: &str) -> Vec<Pid> {
    let titled = |process: &Pid| {
        std::fs::read(format!("/proc/{process}/cmdline"))
            .is_ok_and(|title| String::from_utf8_lossy(&title).contains(text))
    };
    let mut processes = processes_in(data);
    processes.retain(titled);
    processes
}

fn works_in(process: i32, data: &Path) -> bool {
    std::fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|working| working == data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_id_that_is_somebody_elses_names_no_server() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("postmaster.pid");
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(postmaster_in(data.path()), None);
        let here = std::env::current_dir().unwrap();
        assert!(processes_in(&here).contains(&Pid::this()));
    }
}
