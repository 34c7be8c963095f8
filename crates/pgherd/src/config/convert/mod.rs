//! From the raw configuration to [`Config`]: defaults filled in, names resolved, rules checked.
//!
//! Owns every rule of the file beyond its shape, one file for each part of it: what stands at the top here, then
//! databases, users, sharding, and the advice that is no error. Notes each problem at the place of the value that
//! causes it and goes on, so that one run names them all. The main function is [`convert`].

mod advice;
mod auth;
mod database;
mod declarations;
mod failover;
mod function;
mod hba;
mod like;
mod pool;
mod sharding;
mod tcp;
mod user;

use std::path::PathBuf;
use std::time::Duration;

use pgherd_session::Timeouts;
use pgherd_tls::{ClientCertificate, ClientTls, Negotiation, Roots};

use super::located::{At, Number, Place, Size, Span, Text};
use super::raw;
use super::reader::Reader;
use super::settings::{
    Admin, Config, Listen, ListenAddress, ListenTls, Log, LogFormat, SslMode, TlsSettings,
};

const DEFAULT_ADDRESS: &str = "127.0.0.1:6432";
const DEFAULT_CONSOLE: &str = "pgherd";
/// The console's other name, which exporters made for PgBouncer connect to.
const CONSOLE_ALIAS: &str = "pgbouncer";

/// The configuration, unless an error was noted.
pub fn convert(file: &raw::File, reader: &mut Reader<'_>) -> Option<Config> {
    let listen = listen(file.listen.as_ref(), reader);
    let workers = reader.number(file.workers.as_ref(), 0, 0..=1024);
    let max_server_connections = client_limit(file.max_server_connections.as_ref(), reader);
    let admin = file.admin.as_ref().map(|raw| admin(raw, reader));
    let http = file
        .http
        .as_ref()
        .map(|raw| listen_address(&raw.address, reader));
    let state_file = state_file(file.state.as_ref(), reader);
    let dns_ttl = reader.span(
        file.dns.as_ref().and_then(|dns| dns.ttl.as_ref()),
        Duration::from_secs(15),
        Duration::ZERO,
    );
    let log = log(file.telemetry.as_ref(), reader);
    let databases = databases(file, admin.as_ref(), reader);
    if let (Some(limit), Some(databases)) = (max_server_connections, &databases) {
        pool::check_process_limit(
            file.max_server_connections.as_ref(),
            limit,
            databases,
            reader,
        );
        pool::check_server_limits(file, databases, reader);
    }
    if reader.failed() {
        return None;
    }
    let config = Config {
        listen: listen?,
        workers: workers?,
        max_server_connections: max_server_connections?,
        admin: transpose(admin)?,
        http: transpose(http)?,
        state_file: state_file?,
        dns_ttl: dns_ttl?,
        log: log?,
        databases: databases?,
    };
    advice::advise(file, &config, reader);
    Some(config)
}

/// `Some(None)`: not written. `None`: written, and wrong.
#[allow(clippy::option_option)]
fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
    }
}

fn listen(raw: Option<&At<raw::Listen>>, reader: &mut Reader<'_>) -> Option<Listen> {
    let nothing = raw::Listen::default();
    let raw = raw.map_or(&nothing, |raw| &raw.value);
    let addresses = match &raw.address {
        None => vec![parse_address(DEFAULT_ADDRESS)?],
        Some(written) => {
            let mut addresses = Vec::new();
            for text in written.each() {
                if let Some(address) = listen_address(&text, reader) {
                    if address.port != 0 && addresses.contains(&address) {
                        reader.error(
                            text.place,
                            format!("`{address}` is given twice"),
                            "keep one of them",
                        );
                    }
                    addresses.push(address);
                }
            }
            if addresses.is_empty() && !reader.failed() {
                reader.error(
                    written.place,
                    "there is no address here",
                    format!("write one: {DEFAULT_ADDRESS}"),
                );
            }
            addresses
        }
    };
    let unix = raw.unix.as_ref().map(|text| reader.path(text));
    let tls = raw.tls.as_ref().map(|tls| listen_tls(tls, reader));
    let tcp = tcp::tcp(raw.tcp.as_ref(), reader);
    let max_clients = reader.number(raw.max_clients.as_ref(), 10_000, 1..=1_000_000);
    let authentication_timeout = reader.span(
        raw.authentication_timeout.as_ref(),
        Duration::from_secs(60),
        Duration::from_millis(100),
    );
    let max_message = message_size(raw.max_message.as_ref(), reader);
    let drain_timeout = reader.span(
        raw.drain_timeout.as_ref(),
        Duration::from_secs(30),
        Duration::ZERO,
    );
    let hba = hba::hba(raw, reader);
    let ignored: Vec<Box<str>> = raw
        .ignore_startup_parameters
        .iter()
        .flat_map(|names| &names.value)
        .filter_map(|name| reader.text(name))
        .map(Into::into)
        .collect();
    Some(Listen {
        hba: transpose(hba)?,
        ignore_startup_parameters: ignored,
        addresses,
        unix: transpose(unix)?,
        tls: transpose(tls)?.flatten(),
        tcp: tcp?,
        max_clients: max_clients?,
        authentication_timeout: authentication_timeout?,
        max_message: max_message?,
        drain_timeout: drain_timeout?,
    })
}

/// Postgres itself takes no message of 1 GiB and more; one that holds a query must fit a little.
fn message_size(size: Option<&At<Size>>, reader: &mut Reader<'_>) -> Option<usize> {
    let bytes = reader.size(size, 256 << 20)?;
    if let Some(size) = size
        && !((64 << 10)..=(1 << 30)).contains(&bytes)
    {
        reader.error(
            size.place,
            format!("`{}` is out of range", size.value.0),
            "it goes from 64KiB to 1GiB",
        );
        return None;
    }
    usize::try_from(bytes).ok()
}

/// A limit of clients, where one is written.
#[allow(clippy::option_option)]
fn client_limit(number: Option<&At<Number>>, reader: &mut Reader<'_>) -> Option<Option<usize>> {
    match number {
        None => Some(None),
        Some(number) => reader.number(Some(number), 1, 1..=1_000_000).map(Some),
    }
}

/// How long clients may take. What is not written says nothing.
fn timeouts(raw: Option<&At<raw::Timeouts>>, reader: &mut Reader<'_>) -> Option<Timeouts> {
    let nothing = raw::Timeouts::default();
    let raw = raw.map_or(&nothing, |at| &at.value);
    let mut limit = |span: &Option<At<Span>>| match span {
        None => Some(None),
        Some(span) => reader
            .span(Some(span), Duration::ZERO, Duration::ZERO)
            .map(Some),
    };
    let query = limit(&raw.query);
    let idle_in_transaction = limit(&raw.idle_in_transaction);
    let client_idle = limit(&raw.client_idle);
    Some(Timeouts {
        query: query?,
        idle_in_transaction: idle_in_transaction?,
        client_idle: client_idle?,
    })
}

fn listen_address(text: &At<Text>, reader: &mut Reader<'_>) -> Option<ListenAddress> {
    let expanded = reader.text(text)?;
    let address = parse_address(&expanded);
    if address.is_none() {
        reader.error(
            text.place,
            format!("`{}` is not an address with a port", text.value.0),
            format!("write `{DEFAULT_ADDRESS}`, `[::1]:6432`, or `*:6432` for every address of this machine"),
        );
    }
    address
}

fn parse_address(text: &str) -> Option<ListenAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if host.is_empty() || host.contains(char::is_whitespace) || host.contains('/') || !digits {
        return None;
    }
    Some(ListenAddress {
        host: host.into(),
        port: port.parse().ok()?,
    })
}

/// `Some(None)` where TLS is disabled.
#[allow(clippy::option_option)]
fn listen_tls(raw: &At<raw::ListenTls>, reader: &mut Reader<'_>) -> Option<Option<ListenTls>> {
    let mode = ssl_mode(raw.mode.as_ref());
    let certificate = raw
        .certificate
        .as_ref()
        .map(|text| existing_file(text, reader));
    let key = raw.key.as_ref().map(|text| existing_file(text, reader));
    let root = raw
        .root_certificate
        .as_ref()
        .map(|text| existing_file(text, reader));
    let (certificate, key, root_certificate) =
        (transpose(certificate)?, transpose(key)?, transpose(root)?);
    if mode == SslMode::Disable {
        return Some(None);
    }
    let (Some(certificate), Some(key)) = (certificate, key) else {
        reader.error(
            raw.place,
            "TLS towards clients needs `certificate` and `key`",
            "add both, or `mode: disable`",
        );
        return None;
    };
    if root_certificate.is_none() && matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
        reader.error(
            raw.mode.as_ref().map_or(raw.place, |mode| mode.place),
            "clients' certificates cannot be verified without `root_certificate`",
            "add `root_certificate:` with the authority that signs them",
        );
        return None;
    }
    Some(Some(ListenTls {
        mode,
        certificate,
        key,
        root_certificate,
    }))
}

fn server_tls(raw: &At<raw::ServerTls>, reader: &mut Reader<'_>) -> Option<TlsSettings> {
    let roots = match &raw.root_certificate {
        None => Roots::None,
        Some(text) if text.value.0 == "system" => Roots::System,
        Some(text) => Roots::File(existing_file(text, reader)?),
    };
    let certificate = raw
        .certificate
        .as_ref()
        .map(|text| existing_file(text, reader));
    let key = raw.key.as_ref().map(|text| existing_file(text, reader));
    let certificate = match (transpose(certificate)?, transpose(key)?) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            reader.error(
                raw.place,
                "`certificate` and `key` belong together",
                "add the one that is missing",
            );
            return None;
        }
    };
    let settings = TlsSettings {
        mode: ssl_mode(raw.mode.as_ref()),
        negotiation: match raw
            .negotiation
            .as_ref()
            .map(|negotiation| negotiation.value)
        {
            None | Some(raw::Negotiation::Request) => Negotiation::Request,
            Some(raw::Negotiation::Direct) => Negotiation::Direct,
        },
        roots,
        certificate,
    };
    if let Err(error) = ClientTls::new(&settings) {
        let place = raw.mode.as_ref().map_or(raw.place, |mode| mode.place);
        reader.error(
            place,
            error.to_string(),
            "such as `tls: { mode: verify-full, root_certificate: root.crt }`",
        );
        return None;
    }
    Some(settings)
}

fn ssl_mode(mode: Option<&At<raw::TlsMode>>) -> SslMode {
    match mode.map(|mode| mode.value) {
        Some(raw::TlsMode::Disable) => SslMode::Disable,
        Some(raw::TlsMode::Allow) => SslMode::Allow,
        None | Some(raw::TlsMode::Prefer) => SslMode::Prefer,
        Some(raw::TlsMode::Require) => SslMode::Require,
        Some(raw::TlsMode::VerifyCa) => SslMode::VerifyCa,
        Some(raw::TlsMode::VerifyFull) => SslMode::VerifyFull,
    }
}

fn existing_file(text: &At<Text>, reader: &mut Reader<'_>) -> Option<PathBuf> {
    let path = reader.path(text)?;
    match std::fs::File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            reader.error(
                text.place,
                format!("cannot read {}: {error}", path.display()),
                "a path is relative to this configuration file",
            );
            None
        }
    }
}

fn admin(raw: &At<raw::Admin>, reader: &mut Reader<'_>) -> Option<Admin> {
    let database = match &raw.database {
        Some(text) => reader.text(text)?,
        None => DEFAULT_CONSOLE.to_owned(),
    };
    let settings = raw.users.iter().find_map(|user| user.settings.as_ref());
    if let Some(settings) = settings {
        reader.error(
            settings.place,
            "the console has no `settings`",
            "they are for users of databases",
        );
    }
    if let Some(pool) = raw.users.iter().find_map(|user| user.pool.as_ref()) {
        reader.error(
            pool.place,
            "the console has no `pool`",
            "it is for users of databases",
        );
    }
    Some(Admin {
        database: database.into(),
        users: user::users(&raw.users, "the console", reader)?,
    })
}

fn state_file(raw: Option<&At<raw::State>>, reader: &mut Reader<'_>) -> Option<PathBuf> {
    if let Some(raw) = raw
        && let (Some(_), Some(etcd)) = (&raw.file, &raw.etcd)
    {
        reader.error(
            etcd.place,
            "the state is kept in a file or in etcd, not in both",
            "take one of them out",
        );
        return None;
    }
    match raw.and_then(|raw| raw.file.as_ref()) {
        Some(text) => reader.path(text),
        None => Some(reader.default_path("state.json")),
    }
}

fn log(raw: Option<&At<raw::Telemetry>>, reader: &mut Reader<'_>) -> Option<Log> {
    let raw = raw.and_then(|telemetry| telemetry.log.as_ref());
    let format = raw.and_then(|log| log.format.as_ref());
    let level = match raw.and_then(|log| log.level.as_ref()) {
        None => "info".to_owned(),
        Some(text) => {
            let level = reader.text(text)?;
            if let Err(error) = pgherd_telemetry::logging::check_level(&level) {
                reader.error(
                    text.place,
                    error.to_string(),
                    "write `level: info`, or `level: info,pgherd_session=debug`",
                );
                return None;
            }
            level
        }
    };
    Some(Log {
        format: format.map_or(LogFormat::Text, |format| format.value),
        level: level.into(),
    })
}

fn databases(
    file: &raw::File,
    admin: Option<&Option<Admin>>,
    reader: &mut Reader<'_>,
) -> Option<Vec<super::settings::Database>> {
    let console = admin.map(|admin| {
        admin
            .as_ref()
            .map_or(DEFAULT_CONSOLE, |admin| &*admin.database)
    });
    let mut databases: Vec<super::settings::Database> = Vec::new();
    if file.databases.0.is_empty() {
        reader.error(
            file.databases.place,
            "there is no database here",
            "add one: `shop: { users: ..., shards: ... }`",
        );
    }
    for (name, raw) in &file.databases.value.0 {
        let Some(own_name) = reader.text(name) else {
            continue;
        };
        if console.is_some_and(|console| own_name == console || own_name == CONSOLE_ALIAS) {
            reader.error(
                name.place,
                format!("`{own_name}` is the console's name"),
                "give the database another name, or the console with `admin: { database: ... }`",
            );
        }
        if databases.iter().any(|known| *known.name == *own_name) {
            reader.error(
                name.place,
                format!("`{own_name}` is given twice"),
                "keep one of them",
            );
        }
        let Some(like) = like::effective(&own_name, raw, &file.databases, reader) else {
            continue;
        };
        let database = database::database(&own_name, name.place, &like, reader);
        if let Some(database) = &database {
            failover::check_is_alone(database, &databases, name.place, reader);
        }
        databases.extend(database);
    }
    (databases.len() == file.databases.0.len()).then_some(databases)
}

/// Notes an error for a name that was given before; says whether it was new.
fn claim<'a>(
    known: &mut Vec<&'a str>,
    name: &'a str,
    place: Place,
    kind: &str,
    reader: &mut Reader<'_>,
) -> bool {
    if known.contains(&name) {
        reader.error(
            place,
            format!("there are two {kind} named `{name}`"),
            "give one of them another name",
        );
        return false;
    }
    known.push(name);
    true
}
