//! Makes a data directory with the roles and the database that pgherd works with.
//!
//! Everything happens before the server is started for the first time: `initdb`, then Postgres' single-user mode. A copy of the
//! result is therefore a complete replica.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::binaries::{Postgres, RunsAs, finished, program_name, run};
use super::error::{HerdError, Naming};

/// The control plane's role on the servers: no superuser.
pub const CONTROL_USER: &str = "pgherd";
/// Its password. The servers listen on 127.0.0.1 only, as does the password of [`APPLICATION_USER`].
pub const CONTROL_PASSWORD: &str = "pgherd";
/// The application's role, who owns the database.
pub const APPLICATION_USER: &str = "app";
/// Its password.
pub const APPLICATION_PASSWORD: &str = "app";

/// Who `pg_rewind` logs in as, on the database `postgres`: no superuser, but it may read every file of the server.
pub const REWIND_USER: &str = "rewind";
/// Its password.
pub const REWIND_PASSWORD: &str = "rewind";

/// Settings that only a superuser may change, which a failover without superuser rights changes (Postgres 15 and up can grant it).
const FAILOVER_SETTINGS: &str = "primary_conninfo, primary_slot_name, synchronous_standby_names, \
     default_transaction_read_only, wal_retrieve_retry_interval, max_standby_streaming_delay, recovery_min_apply_delay";

/// Makes the data directory of a primary at `target`, which must not exist; there is never half a one.
pub(super) async fn make_primary(
    postgres: &Postgres,
    target: &Path,
    database: &str,
) -> Result<(), HerdError> {
    let fresh = unfinished(postgres.runs_as(), target)?;
    let mut initdb = postgres.command("initdb");
    initdb.arg("--pgdata").arg(&fresh).args([
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--no-sync",
        "--no-instructions",
    ]);
    if postgres.major() >= 15 {
        // a test that passes under C alone would hide how text sorts elsewhere
        initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
    }
    run(initdb).await?;
    single_user(
        postgres,
        &fresh,
        "postgres",
        &cluster_statements(postgres, database),
    )
    .await?;
    for database in ["postgres", database] {
        single_user(postgres, &fresh, database, &database_statements()).await?;
    }
    single_user(postgres, &fresh, "postgres", &rewind_statements(postgres)).await?;
    append_include(&fresh)?;
    std::fs::rename(&fresh, target).naming(|| format!("moving {} in place", target.display()))
}

/// Makes a replica's data directory at `target` from the primary's, which must not be running.
pub(super) async fn make_replica(
    postgres: &Postgres,
    primary: &Path,
    target: &Path,
) -> Result<(), HerdError> {
    let fresh = unfinished(postgres.runs_as(), target)?;
    let mut copy = postgres.runs_as().command("cp");
    copy.arg("-pR").arg(primary.join(".")).arg(&fresh);
    run(copy).await?;
    write_owned(
        postgres.runs_as(),
        &fresh.join(super::server::STANDBY_FILE),
        "",
    )?;
    std::fs::rename(&fresh, target).naming(|| format!("moving {} in place", target.display()))
}

/// An empty directory beside the target to build it in; what an interrupted start left there is removed.
fn unfinished(runs_as: RunsAs, target: &Path) -> Result<PathBuf, HerdError> {
    use std::os::unix::fs::DirBuilderExt;
    let fresh = target.with_extension("unfinished");
    for stale in [&fresh, &target.to_path_buf()] {
        // a finished one without a record of the herd is of an interrupted start too; what is no data directory is not ours to remove
        if stale == &fresh && stale.exists() || stale.join("PG_VERSION").exists() {
            std::fs::remove_dir_all(stale).naming(|| format!("removing {}", stale.display()))?;
        }
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&fresh)
        .naming(|| format!("making {}", fresh.display()))?;
    // the servers' user may not write in the herd's directory, so it could not make this itself
    runs_as.give(&fresh)?;
    Ok(fresh)
}

/// Runs statements, one a line, in a database of a stopped server. The first error ends it.
async fn single_user(
    postgres: &Postgres,
    data: &Path,
    database: &str,
    statements: &[String],
) -> Result<(), HerdError> {
    let mut command = postgres.command("postgres");
    command
        .arg("--single")
        .arg("-D")
        .arg(data)
        .args(["-c", "exit_on_error=on", "-c", "fsync=off"])
        .args([
            "-c",
            "password_encryption=scram-sha-256",
            "-c",
            "log_checkpoints=off",
        ])
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let program = program_name(&command);
    let naming = || format!("running {program} --single");
    let mut child = command.spawn().naming(naming)?;
    let text = statements.join("\n") + "\n";
    let feeding = tokio::task::spawn_blocking(move || {
        // closed at the end of this block: that is how single-user mode is told to finish
        if let Some(mut input) = child.stdin.take() {
            // a server that gave up early says why on its error output
            let _ = input.write_all(text.as_bytes());
        }
        child.wait_with_output()
    });
    let output = feeding
        .await
        .map_err(std::io::Error::other)
        .and_then(|output| output)
        .naming(naming)?;
    finished(program, &output)
}

/// Roles and the database itself.
fn cluster_statements(postgres: &Postgres, database: &str) -> Vec<String> {
    let database = quote_identifier(database);
    let mut statements = vec![
        format!("CREATE ROLE {APPLICATION_USER} LOGIN PASSWORD '{APPLICATION_PASSWORD}';"),
        format!(
            "CREATE ROLE {CONTROL_USER} LOGIN REPLICATION PASSWORD '{CONTROL_PASSWORD}' \
             IN ROLE pg_monitor, pg_signal_backend, {APPLICATION_USER};"
        ),
        // it asks each server dozens of times a second: the log is for the statements of applications
        format!("ALTER ROLE {CONTROL_USER} SET log_statement = 'none';"),
        format!("CREATE DATABASE {database} OWNER {APPLICATION_USER};"),
        format!("GRANT CREATE ON DATABASE {database} TO {CONTROL_USER};"),
    ];
    if postgres.major() >= 15 {
        statements.push(format!(
            "GRANT ALTER SYSTEM ON PARAMETER {FAILOVER_SETTINGS} TO {CONTROL_USER};"
        ));
    }
    statements
}

/// Rights on functions, which every database has its own of.
fn database_statements() -> Vec<String> {
    [
        "pg_promote(boolean, integer)",
        "pg_reload_conf()",
        "pg_wal_replay_resume()",
    ]
    .map(|function| format!("GRANT EXECUTE ON FUNCTION {function} TO {CONTROL_USER};"))
    .into()
}

/// The role of [`REWIND_USER`] (documentation of pg_rewind, section Notes).
fn rewind_statements(postgres: &Postgres) -> Vec<String> {
    let mut statements = vec![format!(
        "CREATE ROLE {REWIND_USER} LOGIN PASSWORD '{REWIND_PASSWORD}' IN ROLE pg_monitor;"
    )];
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        statements.push(format!(
            "GRANT EXECUTE ON FUNCTION {function} TO {REWIND_USER};"
        ));
    }
    if postgres.major() >= 15 {
        // its timeline is in the primary's control file from the next checkpoint on
        statements.push(format!("GRANT pg_checkpoint TO {REWIND_USER};"));
    }
    statements
}

fn append_include(data: &Path) -> Result<(), HerdError> {
    let path = data.join("postgresql.conf");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "include = '{}'", super::server::SETTINGS_FILE))
        .naming(|| format!("writing {}", path.display()))
}

/// Writes a file that the server's user owns and only it may read.
pub(super) fn write_owned(runs_as: RunsAs, path: &Path, text: &str) -> Result<(), HerdError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            // an older file keeps the mode it had
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())
        })
        .naming(|| format!("writing {}", path.display()))?;
    runs_as.give(path)
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
