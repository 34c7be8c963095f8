//! Writes the configuration file of a test's proxy.
//!
//! Main type: [`Configuration`]. Its parts are YAML as a user would write it, so that a test shows what it configures.

use std::collections::BTreeMap;
use std::fmt::Write;

use pgherd::herd::Herd;

/// The default `sharding:`: the shop's tables, and some of other key types.
const SHARDING: &str = "
tables:
  users: { key: id }
  orders: { key: user_id, with: users }
  documents: { key: id }
  pairs: { key: [a, b] }
  notes: { key: name }
reference: [countries, currencies]
unlisted: s0";

const USERS: &str = "- { name: app, password: app }";

/// What a configuration file says.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The port of the endpoint.
    pub port: u16,
    /// The port of `/metrics`, `/healthz` and `/readyz`.
    pub http_port: u16,
    /// `databases.shop.sharding`; empty for none.
    pub sharding: String,
    /// `databases.shop.users`.
    pub users: String,
    /// Further keys of `listen`.
    pub listen: String,
    /// Further keys of `databases.shop`, such as `reads: { from: primary }`.
    pub database: String,
    /// `databases.shop.failover`, such as `{ mode: promote }` without the braces; with it goes the herd's `rejoin_command`. Empty for none.
    pub failover: String,
    /// Further keys of each server of the shop, such as `max_connections: 20`.
    pub server: String,
    /// Further databases, such as `shop_ro: { like: shop, reads: only }`.
    pub databases: String,
    /// Further keys of the file.
    pub top: String,
    /// Servers that are reached by another port than their own.
    pub detours: BTreeMap<String, u16>,
}

impl Configuration {
    /// The default one on these ports.
    #[must_use]
    pub fn new(port: u16, http_port: u16) -> Self {
        Self {
            port,
            http_port,
            sharding: SHARDING.into(),
            users: USERS.into(),
            listen: String::new(),
            database: String::new(),
            failover: String::new(),
            server: String::new(),
            databases: String::new(),
            top: String::new(),
            detours: BTreeMap::new(),
        }
    }

    /// The file's text for a herd.
    ///
    /// # Panics
    /// Never: writing to a string does not fail.
    #[must_use]
    pub fn render(&self, herd: &Herd) -> String {
        let mut text = format!(
            "listen:\n  address: 127.0.0.1:{}\n{}http: {{ address: 127.0.0.1:{} }}\n\
             admin:\n  users: [{{ name: admin, password: admin }}, {{ name: watcher, password: watcher, right: monitor }}]\nstate: {{ file: state.json }}\n",
            self.port,
            indented(&self.listen, 2),
            self.http_port
        );
        text += &indented(&self.top, 0);
        text += "databases:\n  shop:\n    users:\n";
        text += &indented(&self.users, 6);
        text += "    control_login: { user: pgherd, password: pgherd }\n";
        text += &indented(&self.database, 4);
        if !self.failover.is_empty() {
            // as a text of YAML within quotes, in which a dollar names a variable
            let rejoin = herd.rejoin_command().replace('\'', "''").replace('$', "$$");
            text += "    failover:\n";
            text += &indented(&self.failover, 6);
            writeln!(text, "      rejoin_command: '{rejoin}'").expect("a string takes all");
        }
        text += "    shards:\n";
        for shard in herd.shards() {
            writeln!(text, "      - name: {}\n        servers:", shard.name())
                .expect("a string takes all");
            for server in shard.servers() {
                let more = if self.server.is_empty() { "" } else { ", " };
                writeln!(
                    text,
                    "          - {{ name: {}, address: \"127.0.0.1:{}\"{more}{} }}",
                    server.name(),
                    self.detours
                        .get(server.name().as_str())
                        .copied()
                        .unwrap_or(server.port()),
                    self.server
                )
                .expect("a string takes all");
            }
        }
        if !self.sharding.trim().is_empty() {
            text += "    sharding:\n";
            text += &indented(&self.sharding, 6);
        }
        text += &indented(&self.databases, 2);
        text
    }
}

fn indented(text: &str, by: usize) -> String {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("{:by$}{line}\n", ""))
        .collect()
}
