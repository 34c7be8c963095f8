//! Finds the built `pgherd` and runs it.
//!
//! Main type: [`Product`], one running process of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgherd::herd::ports;

/// How much of the log a failed test shows.
const LAST_LINES: usize = 40;

/// A running `pgherd serve`. Killed on drop if it does not end on SIGTERM within a few seconds.
#[derive(Debug)]
pub struct Product {
    child: Option<Child>,
    log: PathBuf,
}

impl Product {
    /// Starts `pgherd serve --config FILE`; its standard error goes to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn serve(configuration: &Path, log: &Path) -> Self {
        Self::serve_by(Command::new(binary()), configuration, log)
    }

    /// The same, by a command that becomes `pgherd` (by exec) with the arguments that it is given.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn serve_by(mut command: Command, configuration: &Path, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the directory is ours");
        let child = command
            .args(["serve", "--config"])
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary was just built");
        Self {
            child: Some(child),
            log: log.to_owned(),
        }
    }

    /// Starts it on two ports that nobody else listens on. `write` writes the configuration for the ports it is given; a port that is taken
    /// by the time that pgherd binds it is replaced.
    ///
    /// # Panics
    /// If there are no free ports.
    pub async fn serve_on_free_ports(
        configuration: &Path,
        log: &Path,
        mut write: impl FnMut(u16, u16),
    ) -> Self {
        for _ in 0..10 {
            let ports = ports::choose(2).expect("two of seventeen thousand ports are free");
            write(ports[0], ports[1]);
            let mut product = Self::serve(configuration, log);
            if product.has_its_ports().await {
                return product;
            }
            std::fs::remove_file(log).expect("pgherd made it");
        }
        panic!("ten times somebody else took the ports first");
    }

    /// Waits until it has bound its ports or ended; whether they were its to have.
    async fn has_its_ports(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            let ended = self.ended().is_some();
            let log = self.log_text();
            if log.contains("Address already in use") {
                return false;
            }
            if ended || log.contains("metrics and health are served on") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// What it has logged.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it has been killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("process ids fit");
        nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().expect("it is our child"))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended within the limit.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                begun.elapsed() < limit,
                "pgherd did not end within {limit:?}; it logged:\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, waited for.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if self.ended().is_none() && self.child.is_some() {
            self.signal(Signal::SIGTERM);
            let begun = Instant::now();
            while self.ended().is_none() && begun.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill9();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("pgherd logged, in the end:\n{}", last.join("\n"));
        }
    }
}

/// The built binary: `PGHERD_BINARY`, else the one beside this test's own profile, built now where it is out of date.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("PGHERD_BINARY") {
            return path.into();
        }
        // target/<profile>/deps/<this test>
        let test = std::env::current_exe().expect("Linux tells");
        let profile = test
            .parent()
            .and_then(Path::parent)
            .expect("cargo puts tests two levels deep");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "pgherd", "--bin", "pgherd"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs this");
        assert!(status.success(), "pgherd does not build");
        profile.join("pgherd")
    })
}
