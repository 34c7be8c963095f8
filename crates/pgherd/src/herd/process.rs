//! What the standard library does not do with a server's processes: signals, children, waiting with a limit.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Between two looks at a process.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// Kills a server's main process and all its others, and waits for the main one.
pub(super) fn kill_all(child: &mut Child) {
    let workers = children_of(child.id());
    // these fail only for processes that have ended meanwhile
    let _ = child.kill();
    for worker in workers {
        let _ = nix::sys::signal::kill(worker, Signal::SIGKILL);
    }
    let _ = child.wait();
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

/// The processes whose parent is `pid`, from `/proc/*/stat`.
pub(super) fn children_of(pid: u32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let child: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent_in(&stat)? == pid).then(|| Pid::from_raw(child))
        })
        .collect()
}

/// The fourth field of a `stat` line; the second is a name in parentheses that may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_process_name() {
        assert_eq!(parent_in("77 (postgres: a) b) S 42 77 77 0"), Some(42));
        assert_eq!(parent_in("77"), None);
    }
}
