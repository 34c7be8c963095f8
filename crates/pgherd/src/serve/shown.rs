//! The configuration in force, as the console shows it.
//!
//! Owns which keys are shown, and how. Secrets are not among them. Main function: [`entries`].

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use pgherd_admin::ConfigEntry;

use crate::config::Config;
use crate::config::settings::{Database, LogFormat};

use super::translate;

/// What has every default and nothing else.
const SMALLEST: &str = "databases: { any: { users: [{ name: any, password: any }], shards: [{ name: any, servers: [{ name: any, address: 127.0.0.1 }] }] } }";

/// A key with its value.
struct Shown {
    key: String,
    value: Option<String>,
    changeable: bool,
}

/// Every key of the process, then those of each database, and PgBouncer's names of two of them.
pub(super) fn entries(config: &Config) -> Vec<ConfigEntry> {
    let smallest = crate::config::parse(Path::new("any"), SMALLEST, &|_| None, false);
    let smallest = smallest.ok().map(|loaded| loaded.config);
    let defaults = |keys: &dyn Fn(&Config) -> Vec<Shown>| -> HashMap<String, String> {
        let shown = smallest.as_ref().map(keys).unwrap_or_default();
        shown
            .into_iter()
            // named after the database itself
            .filter(|shown| shown.key != "server_database")
            .filter_map(|shown| Some((shown.key, shown.value?)))
            .collect()
    };
    let of_process = defaults(&process);
    let of_database = defaults(&|config| config.databases.iter().flat_map(database).collect());
    let mut entries: Vec<ConfigEntry> = process(config)
        .into_iter()
        .map(|shown| entry(shown, &of_process, ""))
        .collect();
    for each in &config.databases {
        let path = format!("databases.{}.", each.name);
        let shown = database(each).into_iter();
        entries.extend(shown.map(|shown| entry(shown, &of_database, &path)));
    }
    entries
}

fn entry(shown: Shown, defaults: &HashMap<String, String>, path: &str) -> ConfigEntry {
    ConfigEntry {
        default: defaults.get(&shown.key).cloned(),
        key: format!("{path}{}", shown.key),
        value: shown.value,
        changeable: shown.changeable,
    }
}

fn process(config: &Config) -> Vec<Shown> {
    let listen = &config.listen;
    let addresses: Vec<String> = listen.addresses.iter().map(ToString::to_string).collect();
    let most = config.max_server_connections;
    vec![
        fixed("listen.address", addresses.join(", ")),
        maybe_fixed(
            "listen.unix",
            listen.unix.as_ref().map(|path| path.display().to_string()),
        ),
        changing(
            "listen.tls.mode",
            listen
                .tls
                .as_ref()
                .map_or("disable".to_owned(), |tls| tls.mode.to_string()),
        ),
        changing("listen.max_clients", listen.max_clients.to_string()),
        changing(
            "listen.authentication_timeout",
            time(listen.authentication_timeout),
        ),
        changing("listen.max_message", listen.max_message.to_string()),
        changing("listen.drain_timeout", time(listen.drain_timeout)),
        changing(
            "listen.ignore_startup_parameters",
            listen.ignore_startup_parameters.join(", "),
        ),
        fixed("workers", config.workers.to_string()),
        maybe("max_server_connections", most),
        maybe(
            "admin.database",
            config.admin.as_ref().map(|admin| &admin.database),
        ),
        maybe_fixed("http.address", config.http.as_ref()),
        fixed("state.file", config.state_file.display().to_string()),
        changing("dns.ttl", time(config.dns_ttl)),
        fixed(
            "telemetry.log.format",
            match config.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }
            .to_owned(),
        ),
        changing("telemetry.log.level", config.log.level.to_string()),
        changing("max_client_conn", listen.max_clients.to_string()),
        fixed("max_user_connections", 0.to_string()),
    ]
}

fn database(database: &Database) -> Vec<Shown> {
    let (pool, reads) = (&database.pool, translate::read_settings(&database.reads));
    let from = match reads.from {
        pgherd_session::ReadsFrom::Replicas => "replicas",
        pgherd_session::ReadsFrom::Any => "any",
        pgherd_session::ReadsFrom::Primary => "primary",
    };
    let consistency = match reads.consistency {
        pgherd_session::Consistency::Session => "session",
        pgherd_session::Consistency::Eventual => "eventual",
    };
    let timeouts = &database.timeouts;
    vec![
        maybe("max_clients", database.max_clients),
        fixed("server_database", database.server_database.to_string()),
        changing(
            "pool.mode",
            translate::pool_mode(pool.mode).name().to_owned(),
        ),
        changing("pool.size", pool.size.to_string()),
        changing("pool.min", pool.min.to_string()),
        changing("pool.reserve", pool.reserve.to_string()),
        changing("pool.reserve_after", time(pool.reserve_after)),
        maybe("pool.max_pinned", pool.max_pinned),
        maybe("pool.max_connections", pool.max_connections),
        changing("pool.checkout_timeout", time(pool.checkout_timeout)),
        changing("pool.connect_timeout", time(pool.connect_timeout)),
        changing("pool.idle_timeout", time(pool.idle_timeout)),
        changing("pool.lifetime", time(pool.lifetime)),
        changing("reads.from", from.to_owned()),
        changing("reads.consistency", consistency.to_owned()),
        changing("reads.max_lag", time(reads.max_lag)),
        maybe("reads.zone", reads.zone),
        changing("reads.only", database.reads.only.to_string()),
        maybe("timeouts.query", timeouts.query.map(time)),
        maybe(
            "timeouts.idle_in_transaction",
            timeouts.idle_in_transaction.map(time),
        ),
        maybe("timeouts.client_idle", timeouts.client_idle.map(time)),
        fixed(
            "failover.refused_after",
            time(database.failover.refused_after),
        ),
        fixed(
            "failover.silent_after",
            time(database.failover.silent_after),
        ),
        fixed("sharding.buckets", database.sharding.buckets.to_string()),
    ]
}

fn changing(key: &str, value: String) -> Shown {
    maybe(key, Some(value))
}

fn fixed(key: &str, value: String) -> Shown {
    maybe_fixed(key, Some(value))
}

/// What reload changes.
fn maybe(key: &str, value: Option<impl ToString>) -> Shown {
    Shown {
        key: key.to_owned(),
        value: value.map(|value| value.to_string()),
        changeable: true,
    }
}

fn maybe_fixed(key: &str, value: Option<impl ToString>) -> Shown {
    Shown {
        changeable: false,
        ..maybe(key, value)
    }
}

/// As it is written in the file.
fn time(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_have_their_values_and_their_defaults_and_no_secret_is_among_them() {
        let source = SMALLEST.replace("password: any", "password: very-secret")
            + "\nlisten: { max_clients: 7 }\nadmin: { users: [{ name: root, password: very-secret }] }";
        let config = crate::config::parse(Path::new("x"), &source, &|_| None, false)
            .unwrap_or_else(|error| panic!("{error}"))
            .config;
        let entries = entries(&config);
        let find = |key: &str| {
            let entry = entries.iter().find(|entry| entry.key == key).unwrap();
            let value = |text: &Option<String>| text.clone().unwrap_or_default();
            (value(&entry.value), value(&entry.default), entry.changeable)
        };
        let expected = |value: &str, default: &str, changeable| {
            (value.to_owned(), default.to_owned(), changeable)
        };
        assert_eq!(find("listen.max_clients"), expected("7", "10000", true));
        assert_eq!(find("max_client_conn"), expected("7", "10000", true));
        assert_eq!(
            find("databases.any.pool.lifetime"),
            expected("3600s", "3600s", true)
        );
        assert_eq!(find("workers"), expected("0", "0", false));
        assert_eq!(find("max_server_connections"), expected("", "", true));
        assert!(!format!("{entries:?}").contains("very-secret"));
    }
}
