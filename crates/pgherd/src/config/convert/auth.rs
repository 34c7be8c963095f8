//! How users are looked up on the servers.

use std::time::Duration;

use super::super::located::At;
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::{Auth, Login, Password, TlsSettings};
use super::transpose;

/// What is written of it, unless an error was noted; the rest is that of the database.
pub fn auth(
    raw: &At<raw::Auth>,
    server_database: Option<&str>,
    control_login: &Login,
    tls: &TlsSettings,
    reader: &mut Reader<'_>,
) -> Option<Auth> {
    let query = raw.query.as_ref().map(|text| reader.text(text));
    let user = raw.user.as_ref().map(|text| reader.text(text));
    let password = raw.password.as_ref().map(|secret| reader.secret(secret));
    let database = raw.database.as_ref().map(|text| reader.text(text));
    let cache = reader.span(raw.cache.as_ref(), Duration::from_secs(10), Duration::ZERO);
    if let (Some(query), Some(Some(text))) = (&raw.query, &query)
        && !text.contains("$1")
    {
        reader.error(
            query.place,
            "the query asks for nobody: it has no `$1`",
            "such as `SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1`",
        );
        return None;
    }
    let (user, password) = (transpose(user)?, transpose(password)?);
    let login = match (user, password) {
        (Some(user), password) => Login {
            user: user.into(),
            password: password.map(Password),
            tls: tls.clone(),
        },
        (None, None) => control_login.clone(),
        (None, Some(_)) => {
            reader.error(
                raw.place,
                "there is a `password` and no `user`",
                "add `user:`",
            );
            return None;
        }
    };
    let database = match transpose(database)? {
        Some(database) => database,
        None => server_database?.to_owned(),
    };
    Some(Auth {
        query: transpose(query)?.map(Into::into),
        login,
        database: database.into(),
        cache: cache?,
    })
}
