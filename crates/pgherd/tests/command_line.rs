//! The program as its users run it: what it prints and how it exits.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn pgherd(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(arguments)
        .env_remove("PGHERD_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A configuration of a database whose only server answers nobody.
fn configuration(directory: &Path, listen: &str) -> String {
    let path = directory.join("pgherd.yaml");
    let source = format!(
        "listen: {{ address: \"{listen}\" }}\ndatabases:\n  shop:\n    users: [{{ name: app, password: app }}]\n    \
         shards:\n      - {{ name: s0, servers: [{{ name: s0a, address: \"127.0.0.1:1\" }}] }}\n"
    );
    std::fs::write(&path, source).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_names_every_subcommand_and_gives_examples() {
    let output = pgherd(&["--help"], "");
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in [
        "serve",
        "check",
        "schema",
        "hash-password",
        "demo",
        "completions",
        "Examples:",
    ] {
        assert!(help.contains(word), "{word}:\n{help}");
    }
    for subcommand in [
        "serve",
        "check",
        "schema",
        "hash-password",
        "demo",
        "completions",
    ] {
        let help = text(&pgherd(&[subcommand, "--help"], "").stdout);
        assert!(help.contains("Example"), "{subcommand}:\n{help}");
    }
    let version = text(&pgherd(&["--version"], "").stdout);
    assert_eq!(version, format!("pgherd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_exits_with_2_where_the_file_is_wrong_and_0_where_it_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "127.0.0.1:6432");
    let output = pgherd(&["check", "--config", &path], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        format!("{path} is right: 1 database, 1 shard, 1 server\n")
    );

    std::fs::write(&path, "database: {}\n").unwrap();
    let output = pgherd(&["check", "--config", &path], "");
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(
        error.contains("pgherd.yaml:1:1")
            && error.contains("^^^^^^^^")
            && error.contains("`databases`"),
        "{error}"
    );

    let output = pgherd(&["serve", "--config", &path], "");
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(2), error)
    );

    let output = pgherd(&["check", "--config", "no-such-file.yaml"], "");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr).lines().count(), 1);
}

#[test]
fn check_exits_with_1_where_a_server_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "127.0.0.1:6432");
    let output = pgherd(&["check", "--config", &path, "--servers"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("shop/s0/s0a"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), &address);
    let output = pgherd(&["serve", "--config", &path], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("pgherd: cannot listen on {address}: ")),
        "{said}"
    );
}

#[test]
fn a_signal_before_the_servers_were_found_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "127.0.0.1:0");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(["serve", "--config", &path])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = directory.path().join("state.json");
    let begun = Instant::now();
    while !state.exists() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        child.try_wait().unwrap().is_none(),
        "a reload does not end it"
    );
    kill(pid, Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it did not wait for its servers"
    );
}

#[test]
fn hash_password_reads_a_pipe_and_prints_nothing_but_the_verifier() {
    let output = pgherd(&["hash-password"], "secret\n");
    assert_eq!(output.status.code(), Some(0));
    let verifier = text(&output.stdout);
    assert!(
        verifier.starts_with("SCRAM-SHA-256$4096:") && verifier.ends_with('\n'),
        "{verifier}"
    );
    assert_eq!(text(&output.stderr), "");
    let output = pgherd(&["hash-password"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "pgherd: the password is empty\n");
}

#[test]
fn schema_and_completions_are_printed() {
    let schema = text(&pgherd(&["schema"], "").stdout);
    assert!(
        serde_json::from_str::<serde_json::Value>(&schema).unwrap()["properties"]["databases"]
            .is_object()
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&pgherd(&["completions", shell], "").stdout);
        assert!(script.contains("hash-password"), "{shell}");
    }
}
