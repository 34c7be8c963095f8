//! Users: who may connect, and what they must show.

use std::net::IpAddr;

use pgherd_protocol::Verifier;

use super::super::located::{At, Named, Text};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::{Exchange, Password, Right, Trusted, User};
use super::pool::user_pool;
use super::{claim, client_limit, timeouts};

/// The users of a database or of the console.
pub fn users(
    raw: &At<Vec<At<raw::User>>>,
    whose: &str,
    reader: &mut Reader<'_>,
) -> Option<Vec<User>> {
    if raw.is_empty() {
        reader.error(
            raw.place,
            format!("nobody may use {whose}"),
            "add a user: `{ name: app, password: \"${APP_PASSWORD}\" }`",
        );
        return None;
    }
    let users: Vec<User> = raw.iter().filter_map(|raw| user(raw, reader)).collect();
    if users.len() != raw.len() {
        return None;
    }
    let mut names = Vec::new();
    for (user, raw) in users.iter().zip(&raw.value) {
        claim(&mut names, &user.name, raw.name.place, "users", reader);
    }
    Some(users)
}

fn user(raw: &At<raw::User>, reader: &mut Reader<'_>) -> Option<User> {
    let name = reader.text(&raw.name);
    let password = match &raw.password {
        Some(secret) => {
            let text = reader.secret(secret)?;
            match text.parse::<Verifier>() {
                Ok(_) => Some(Password(text)),
                // a mistyped verifier taken for a plain password would lock the user out
                Err(error) => {
                    reader.error(
                        secret.place,
                        error.to_string(),
                        "`pgherd hash-password` makes a verifier",
                    );
                    return None;
                }
            }
        }
        None => None,
    };
    let certificate = match &raw.certificate {
        Some(text) => Some(reader.text(text)?.into()),
        None => None,
    };
    let trust = match &raw.trust {
        Some(list) => {
            let list = list.each();
            let trusted: Vec<Trusted> = list
                .iter()
                .filter_map(|text| trusted(text, reader))
                .collect();
            if trusted.len() != list.len() {
                return None;
            }
            trusted
        }
        None => Vec::new(),
    };
    let max_clients = client_limit(raw.max_clients.as_ref(), reader);
    let timeouts = timeouts(raw.timeouts.as_ref(), reader);
    let settings = settings(raw.settings.as_ref(), reader);
    let pool = user_pool(raw.pool.as_ref(), reader);
    let name = name?;
    if password.is_none() && certificate.is_none() && trust.is_empty() {
        reader.error(
            raw.name.place,
            format!("user `{name}` has no password"),
            "add `password:`, or `certificate:` or `trust:` to let it in without one",
        );
        return None;
    }
    Some(User {
        name: name.into(),
        password,
        certificate,
        trust,
        exchange: raw
            .exchange
            .as_ref()
            .map_or(Exchange::Challenge, |exchange| exchange.value),
        max_clients: max_clients?,
        timeouts: timeouts?,
        settings: settings?,
        pool: pool?,
        right: raw.right.as_ref().map_or(Right::Admin, |right| right.value),
    })
}

/// Settings by name, as SET would take them. Whether there is such a setting only a server knows.
fn settings(
    raw: Option<&At<Named<At<Text>>>>,
    reader: &mut Reader<'_>,
) -> Option<Vec<(String, String)>> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let written = raw.map_or(&[][..], |raw| &raw.value.0);
    for (name, value) in written {
        let Some(own_name) = reader.text(name) else {
            continue;
        };
        let is_name = own_name.split('.').all(|part| {
            part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        });
        if !is_name || pgherd_session::parameters::is_own_setting(&own_name) {
            reader.error(
                name.place,
                format!("`{}` is not a setting of Postgres", name.value.0),
                "write such as `statement_timeout: 5s`",
            );
        } else if settings
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&own_name))
        {
            reader.error(
                name.place,
                format!("`{own_name}` is given twice"),
                "keep one of them",
            );
        }
        settings.push((own_name, reader.text(value)?));
    }
    (settings.len() == written.len()).then_some(settings)
}

fn trusted(text: &At<Text>, reader: &mut Reader<'_>) -> Option<Trusted> {
    let expanded = reader.text(text)?;
    let trusted = parse_trusted(&expanded);
    if trusted.is_none() {
        reader.error(
            text.place,
            format!("`{}` is not an address to trust", text.value.0),
            "write `127.0.0.1`, a network such as `10.0.0.0/8`, or `unix`",
        );
    }
    trusted
}

fn parse_trusted(text: &str) -> Option<Trusted> {
    if text == "unix" {
        return Some(Trusted::Unix);
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let prefix = prefix.unwrap_or(longest);
    (prefix <= longest).then_some(Trusted::Network { address, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_addresses_are_hosts_networks_and_the_unix_socket() {
        let network = |address: [u8; 4], prefix| {
            Some(Trusted::Network {
                address: address.into(),
                prefix,
            })
        };
        assert_eq!(parse_trusted("127.0.0.1"), network([127, 0, 0, 1], 32));
        assert_eq!(parse_trusted("10.0.0.0/8"), network([10, 0, 0, 0], 8));
        assert_eq!(parse_trusted("unix"), Some(Trusted::Unix));
        for wrong in ["10.0.0.0/33", "localhost", "::1/129", "10.0.0.0/", ""] {
            assert_eq!(parse_trusted(wrong), None, "{wrong}");
        }
    }
}
