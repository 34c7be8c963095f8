//! What is no error and must not be passed over: settings not in force in this version, secrets in the open, logins
//! that are shared.

use pgherd_control::FailoverMode;
use pgherd_topology::Address;

use super::super::located::{At, Place};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::{Config, Database, SslMode, User, is_local_host};

const NOT_IN_FORCE: &str = "this version reads it and does not act on it";

/// Notes a warning for each.
pub fn advise(file: &raw::File, config: &Config, reader: &mut Reader<'_>) {
    if let Some(etcd) = file.state.as_ref().and_then(|state| state.etcd.as_ref()) {
        reader.warning(
            etcd.place,
            format!(
                "`etcd` is not in force: the state is kept in {}",
                config.state_file.display()
            ),
            "write `file:` to say where, and run one pgherd over this herd",
        );
    }
    if let Some(otlp) = file
        .telemetry
        .as_ref()
        .and_then(|telemetry| telemetry.otlp.as_ref())
    {
        check_otlp(otlp, reader);
        reader.warning(
            otlp.place,
            "`otlp` is not in force: no traces are sent",
            NOT_IN_FORCE,
        );
    }
    if let (Some(raw), Some(admin)) = (&file.admin, &config.admin) {
        weak_passwords(&raw.users, &admin.users, reader);
    }
    listen(file, config, reader);
    for ((_, raw), database) in file.databases.value.0.iter().zip(&config.databases) {
        not_in_force(raw, reader);
        of_failover(raw, database, reader);
        shared_login(raw, database, reader);
        plain_text_to_servers(raw, database, reader);
        if let Some(users) = &raw.users {
            weak_passwords(users, &database.users, reader);
            without_password(users.place, database, reader);
            if config.listen.hba.is_some() {
                idle_beside_rules(users, reader);
            }
        }
    }
}

fn check_otlp(otlp: &At<raw::Otlp>, reader: &mut Reader<'_>) {
    if let Some(endpoint) = reader.text(&otlp.endpoint)
        && !endpoint.starts_with("http://")
        && !endpoint.starts_with("https://")
    {
        reader.error(
            otlp.endpoint.place,
            format!("`{}` is not a URL", otlp.endpoint.value.0),
            "write `http://127.0.0.1:4317`",
        );
    }
    if let Some(sample) = &otlp.sample
        && let Some(text) = reader.text(sample)
        && !text
            .parse::<f64>()
            .is_ok_and(|fraction| (0.0..=1.0).contains(&fraction))
    {
        reader.error(
            sample.place,
            format!("`{}` is not a fraction", sample.value.0),
            "write a number from 0 to 1: 0.01",
        );
    }
}

fn listen(file: &raw::File, config: &Config, reader: &mut Reader<'_>) {
    let remote = config
        .listen
        .addresses
        .iter()
        .find(|address| !address.is_local());
    let insists = config
        .listen
        .tls
        .as_ref()
        .is_some_and(|tls| match tls.mode {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer => false,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => true,
        });
    if let Some(address) = remote
        && !insists
    {
        let raw = file.listen.as_ref();
        let place = raw
            .and_then(|listen| listen.tls.as_ref().map(|tls| tls.place))
            .or_else(|| {
                raw.and_then(|listen| listen.address.as_ref().map(|address| address.place))
            });
        reader.warning(
            place.unwrap_or_default(),
            format!("clients of {address} may connect without TLS: others can read what they send"),
            "set `listen: { tls: { mode: require, certificate: ..., key: ... } }`",
        );
    }
}

fn not_in_force(raw: &raw::Database, reader: &mut Reader<'_>) {
    if let Some(scratch) = &raw.scratch {
        reader.warning(
            scratch.place,
            "`scratch` is not in force: no statement runs there",
            NOT_IN_FORCE,
        );
    }
}

/// What a failover rests on, and what is written for one that will never be.
fn of_failover(raw: &raw::Database, database: &Database, reader: &mut Reader<'_>) {
    let promotes = database.failover.mode == FailoverMode::Promote;
    if let Some(failover) = raw.failover.as_ref().map(|at| &at.value) {
        let for_promoting: [(&str, Option<Place>); 4] = [
            ("max_lag", failover.max_lag.as_ref().map(|at| at.place)),
            (
                "fence_command",
                failover.fence_command.as_ref().map(|at| at.place),
            ),
            (
                "rejoin_command",
                failover.rejoin_command.as_ref().map(|at| at.place),
            ),
            (
                "notify_command",
                failover.notify_command.as_ref().map(|at| at.place),
            ),
        ];
        if let Some(demote) = &failover.demote_command {
            reader.warning(
                demote.place,
                "`demote_command` is not in force: after a planned change the old primary waits for REJOIN SERVER",
                NOT_IN_FORCE,
            );
        }
        if !promotes {
            warn_without_effect(&for_promoting, reader);
        }
        let is_guarded = failover.sync.is_some() || failover.fence_command.is_some();
        if let (Some(mode), true, false) = (&failover.mode, promotes, is_guarded) {
            reader.warning(
                mode.place,
                "a failover may lose writes, and nothing keeps an old primary from taking more: neither `sync` nor `fence_command` is set",
                "set `sync: { acks: 1 }`, so that a standby has each commit before it is acknowledged",
            );
        }
    }
    let priority = raw
        .shards
        .iter()
        .flat_map(|shards| &shards.value)
        .flat_map(|shard| &shard.servers.value)
        .find_map(|server| server.priority.as_ref());
    if let (Some(priority), false) = (priority, promotes) {
        reader.warning(
            priority.place,
            "`priority` has no effect in failover mode `observe`",
            "set `failover: { mode: promote }` to have pgherd promote",
        );
    }
}

fn warn_without_effect(written: &[(&str, Option<Place>)], reader: &mut Reader<'_>) {
    let names: Vec<String> = written
        .iter()
        .filter(|(_, place)| place.is_some())
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if let Some(place) = written.iter().find_map(|(_, place)| *place) {
        let verb = if names.len() == 1 { "has" } else { "have" };
        reader.warning(
            place,
            format!(
                "{} {verb} no effect in failover mode `observe`",
                names.join(", ")
            ),
            "set `mode: promote` to have pgherd promote",
        );
    }
}

fn shared_login(raw: &raw::Database, database: &Database, reader: &mut Reader<'_>) {
    if let (Some(written), Some(login)) = (&raw.server_login, &database.server_login)
        && database.users.len() > 1
    {
        let users: Vec<&str> = database.users.iter().map(|user| &*user.name).collect();
        reader.warning(
            written.place,
            format!(
                "users {} all become `{}` on the servers: each has the rights of that role",
                users.join(", "),
                login.user
            ),
            "without `server_login` each user logs in to the servers as itself",
        );
    }
}

fn plain_text_to_servers(raw: &raw::Database, database: &Database, reader: &mut Reader<'_>) {
    let remote = database
        .shards
        .iter()
        .flat_map(|shard| &shard.servers)
        .find(|server| match &server.address {
            Address::Tcp { host, .. } => !is_local_host(host),
            Address::Unix { .. } => false,
        });
    let Some(remote) = remote else { return };
    let weak = |mode: SslMode| match mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => true,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => false,
    };
    let place = |login: &Option<At<raw::ServerLogin>>| login.as_ref().map(|login| login.place);
    let logins = match &database.server_login {
        Some(login) => (login.tls.mode, place(&raw.server_login)),
        None => (
            database.server_tls.mode,
            raw.users.as_ref().map(|users| users.place),
        ),
    };
    let control = (database.control_login.tls.mode, place(&raw.control_login));
    for (mode, place) in [logins, control] {
        if let Some(place) = place
            && weak(mode)
        {
            reader.warning(
                place,
                format!(
                    "server `{}` may be spoken to without TLS: what passes can then be read on the way",
                    remote.name
                ),
                "set `tls: { mode: verify-full, root_certificate: ... }` of the login, or `server_tls`",
            );
        }
    }
}

fn weak_passwords(raw: &[At<raw::User>], users: &[User], reader: &mut Reader<'_>) {
    for (written, user) in raw.iter().zip(users) {
        if user
            .password
            .as_ref()
            .is_some_and(|password| is_md5(password.reveal()))
        {
            reader.warning(
                written.name.place,
                format!(
                    "the password of user `{}` is an md5 hash: whoever reads it can log in with it",
                    user.name
                ),
                "`pgherd hash-password` makes a SCRAM verifier",
            );
        }
    }
}

/// A user that logs in to the servers as itself, with nothing to show them.
fn without_password(place: Place, database: &Database, reader: &mut Reader<'_>) {
    if database.server_login.is_none()
        && let Some(user) = database.users.iter().find(|user| user.password.is_none())
    {
        reader.warning(
            place,
            format!(
                "user `{}` has no password here: it can use only servers that let it in without one",
                user.name
            ),
            "give it a `password`, or the database a `server_login`",
        );
    }
}

/// What a user's own settings say of logins does not count where rules say it.
fn idle_beside_rules(users: &[At<raw::User>], reader: &mut Reader<'_>) {
    for user in users {
        let written = [
            ("trust", user.trust.as_ref().map(|at| at.place)),
            ("exchange", user.exchange.as_ref().map(|at| at.place)),
        ];
        for (key, place) in written {
            if let Some(place) = place {
                reader.warning(
                    place,
                    format!("`{key}` does not count: the rules of `listen` say how a user logs in"),
                    "say it in a rule, and take it out here",
                );
            }
        }
    }
}

fn is_md5(password: &str) -> bool {
    password
        .strip_prefix("md5")
        .is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
