//! `pgherd demo`: from nothing to a served shop, and back to nothing.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgherd::herd::ports;
use pgherd_tests::product::binary;

fn demo(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["demo", "--shards", "2", "--replicas", "1", "--port"])
        .arg(port.to_string())
        .arg("--dir")
        .arg(directory)
        .stdin(Stdio::null());
    command
}

fn once(directory: &Path, port: u16) -> Output {
    demo(directory, port).arg("--once").output().unwrap()
}

/// Processes that work in the directory or name it on their command line.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let works_there =
                std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
            (works_there || line.contains(name)).then_some(line)
        })
        .collect()
}

fn gone_within(directory: &Path, limit: Duration) {
    let begun = Instant::now();
    loop {
        let left = processes_of(directory);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < limit, "{left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_shows_the_shop_ends_and_goes_on_from_there_the_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let port = ports::choose(1).unwrap()[0];
    let first = once(&path, port);
    let said = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(first.status.success(), "{said}\n{first:?}");
    assert_eq!(processes_of(&path), Vec::<String>::new());
    assert!(said.contains(&format!("psql postgresql://app:app@127.0.0.1:{port}/shop")));
    assert!(
        said.contains("Loaded 10000 users and 50000 orders"),
        "{said}"
    );
    assert!(said.contains("replica (now s"), "{said}");
    assert!(said.contains("refused: "), "{said}");
    assert!(path.join("pgherd.yaml").exists());
    let check = Command::new(binary())
        .args(["check", "--config"])
        .arg(path.join("pgherd.yaml"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");

    let second = once(&path, port);
    let said = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(second.status.success(), "{said}\n{second:?}");
    assert!(said.contains("The shop is there already."), "{said}");
    // five at the load, one at each of the two tours
    assert!(said.contains("   7\n"), "{said}");
    assert_eq!(processes_of(&path), Vec::<String>::new());
}

#[test]
fn a_signal_ends_it_wherever_it_is_and_a_kill_leaves_nothing_either() {
    for (signal, after, code) in [
        (Signal::SIGINT, 300, Some(0)),
        (Signal::SIGTERM, 1500, Some(0)),
        (Signal::SIGINT, 8000, Some(0)),
        (Signal::SIGKILL, 8000, None),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let port = ports::choose(1).unwrap()[0];
        let mut child = demo(&path, port)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        assert_eq!(
            child.wait().unwrap().code(),
            code,
            "{signal} after {after} ms"
        );
        // killed, it leaves it to its guards
        gone_within(&path, Duration::from_secs(20));
    }
}

#[test]
fn a_taken_port_and_missing_binaries_are_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = once(directory.path(), port);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("pgherd demo: port {port} on 127.0.0.1 is taken: choose another with --port\n")
    );
    let free = ports::choose(1).unwrap()[0];
    let output = demo(directory.path(), free)
        .arg("--once")
        .env("PGHERD_POSTGRES_BIN", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("pgherd demo: no Postgres server found"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
