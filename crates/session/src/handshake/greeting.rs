//! What a client that has been let in is told before its first query.
//!
//! Owns: AuthenticationOk, ParameterStatus, BackendKeyData and ReadyForQuery, in this order. Never does: I/O.

use bytes::BytesMut;
use pgherd_protocol::backend::BackendKeyData;
use pgherd_protocol::{Authentication, BackendMessage, MessageError, PgError, TransactionStatus};

use super::internal;
use crate::options::StartupOptions;
use crate::parameters::Parameters;
use crate::registry::Client;

/// The version of Postgres whose clients the console gets on with. Not above any client's own, which would warn of it.
pub const CONSOLE_SERVER_VERSION: &str = concat!("14.0 (pgherd ", env!("CARGO_PKG_VERSION"), ")");

/// What the console reports of itself at login.
const CONSOLE_PARAMETERS: &[(&str, &str)] = &[
    ("server_version", CONSOLE_SERVER_VERSION),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "off"),
    ("default_transaction_read_only", "on"),
    ("in_hot_standby", "off"),
];

pub(super) fn put_authenticated(out: &mut BytesMut) -> Result<(), PgError> {
    put(out, &BackendMessage::Authentication(Authentication::Ok))
}

pub(super) fn put_parameters(out: &mut BytesMut, parameters: &Parameters) -> Result<(), PgError> {
    parameters
        .iter()
        .try_for_each(|(name, value)| put_parameter(out, name, value))
}

pub(super) fn put_console_parameters(
    out: &mut BytesMut,
    options: &StartupOptions,
) -> Result<(), PgError> {
    for (name, value) in CONSOLE_PARAMETERS {
        put_parameter(out, name, value)?;
    }
    put_parameter(out, "session_authorization", &options.user)?;
    put_parameter(
        out,
        "application_name",
        options.setting("application_name").unwrap_or_default(),
    )
}

pub(super) fn put_ready(out: &mut BytesMut, client: &Client) -> Result<(), PgError> {
    let key = BackendKeyData {
        pid: client.pid(),
        key: client.key().as_bytes(),
    };
    put(out, &BackendMessage::BackendKeyData(key))?;
    put(out, &BackendMessage::ReadyForQuery(TransactionStatus::Idle))
}

fn put_parameter(out: &mut BytesMut, name: &str, value: &str) -> Result<(), PgError> {
    put(
        out,
        &BackendMessage::ParameterStatus {
            name: name.as_bytes(),
            value: value.as_bytes(),
        },
    )
}

fn put(out: &mut BytesMut, message: &BackendMessage<'_>) -> Result<(), PgError> {
    message
        .encode(out)
        .map_err(|error: MessageError| internal(error))
}
