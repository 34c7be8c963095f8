//! The demo's `pgherd.yaml`: an ordinary configuration file, which `pgherd serve` would take as well.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{DemoError, shop};
use crate::herd::{
    APPLICATION_PASSWORD, APPLICATION_USER, CONTROL_PASSWORD, CONTROL_USER, Herd, ports,
};

/// How far the HTTP port is from the endpoint's by default: 9632 goes with 6432.
const HTTP_PORT_DISTANCE: u16 = 3200;

/// The ports that the demo's proxy listens on, on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) port: u16,
    pub(super) http_port: u16,
}

impl Addresses {
    pub(super) fn choose(port: u16) -> Result<Self, DemoError> {
        let usual = port.checked_add(HTTP_PORT_DISTANCE);
        let http_port = match usual.filter(|port| ports::is_free(*port)) {
            Some(usual) => usual,
            None => ports::choose(1)?[0],
        };
        Ok(Self { port, http_port })
    }
}

/// Writes the file; returns its path.
pub(super) fn write(
    directory: &Path,
    herd: &Herd,
    addresses: &Addresses,
) -> Result<PathBuf, DemoError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join("pgherd.yaml");
    // it holds passwords
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(render(herd, addresses).as_bytes()))
        .map_err(|source| DemoError::Io {
            what: format!("writing {}", path.display()),
            source,
        })?;
    Ok(path)
}

fn render(herd: &Herd, addresses: &Addresses) -> String {
    let Addresses { port, http_port } = addresses;
    let mut text = format!(
        "# Written by `pgherd demo` at each start. `pgherd serve --config` takes it as it is.
listen: {{ address: 127.0.0.1:{port} }}
http: {{ address: 127.0.0.1:{http_port} }}
admin:
  users: [{{ name: admin, password: admin }}]
state: {{ file: state.json }}

databases:
  {database}:
    users:
      - {{ name: {APPLICATION_USER}, password: {APPLICATION_PASSWORD} }}
    control_login: {{ user: {CONTROL_USER}, password: {CONTROL_PASSWORD} }}
    reads: {{ from: replicas, consistency: session }}
",
        database = shop::DATABASE,
    );
    if herd.servers().count() > herd.shards().len() {
        text += &failover(herd);
    }
    text += "    shards:\n";
    for shard in herd.shards() {
        text += &format!("      - name: {}\n        servers:\n", shard.name());
        for server in shard.servers() {
            // writing to a string does not fail
            let _ = writeln!(
                text,
                "          - {{ name: {}, address: \"127.0.0.1:{}\" }}",
                server.name(),
                server.port()
            );
        }
    }
    text + &sharding(herd.shards()[0].name())
}

/// With one replica a shard goes on alone once its primary is dead.
fn failover(herd: &Herd) -> String {
    let when_too_few = match herd.servers().count() / herd.shards().len() {
        ..=2 => "async",
        _ => "block",
    };
    format!(
        "    failover:
      mode: promote
      sync: {{ acks: 1, when_too_few: {when_too_few} }}
      rejoin_command: \"{}\"
",
        herd.rejoin_command()
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
    )
}

fn sharding(home: &str) -> String {
    format!(
        "    sharding:
      tables:
        users: {{ key: id }}
        orders: {{ key: user_id, with: users }}
      reference: [countries]
      unlisted: {home}
"
    )
}
