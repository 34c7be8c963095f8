//! What one server is asked for: one row.
//!
//! Owns the query and its reading. Judges nothing. Main types: [`Question`], [`Answer`].

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::error::ControlError;
use crate::login::Server;

/// Functions that a failover calls and that only superusers may run by default.
pub(super) const FUNCTIONS: [&str; 3] = [
    "pg_promote(boolean, integer)",
    "pg_reload_conf()",
    "pg_wal_replay_resume()",
];

/// `pg_monitor` shows `primary_conninfo` and the whole of `pg_stat_wal_receiver`; `pg_signal_backend` ends sessions.
pub(super) const PREDEFINED_ROLES: [&str; 2] = ["pg_monitor", "pg_signal_backend"];

/// Parameters that a failover sets by ALTER SYSTEM.
pub(super) const CHANGED: [&str; 7] = [
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "wal_retrieve_retry_interval",
    "max_standby_streaming_delay",
    "recovery_min_apply_delay",
];

/// Parameters that are read beside those.
const READ: [&str; 16] = [
    "allow_alter_system",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "recovery_target_timeline",
    "restore_command",
    "synchronous_commit",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

/// From here on the right to ALTER SYSTEM can be granted, and asked for.
pub(super) const GRANTS_ALTER_SYSTEM: u32 = 150_000;

/// From here on a member of a role may be one that cannot SET ROLE to it, or does not inherit it.
pub(super) const GRANTS_WITH_OPTIONS: u32 = 160_000;

/// The rights on parameters, and what being able to become a role is called, depend on the version.
fn text(version: u32) -> String {
    let may_not_change = match version {
        ..GRANTS_ALTER_SYSTEM => "NOT r.rolsuper",
        GRANTS_ALTER_SYSTEM.. => "NOT has_parameter_privilege(p, 'ALTER SYSTEM')",
    };
    let can_become = match version {
        ..GRANTS_WITH_OPTIONS => "MEMBER",
        GRANTS_WITH_OPTIONS.. => "SET",
    };
    format!(
        "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()), \
         r.rolsuper, r.rolsuper OR r.rolreplication, \
         ARRAY(SELECT f FROM unnest($1::text[]) f WHERE has_function_privilege(to_regprocedure(f), 'EXECUTE') IS NOT TRUE), \
         ARRAY(SELECT p FROM unnest($2::text[]) p WHERE NOT pg_has_role(p, 'USAGE')), \
         ARRAY(SELECT p FROM unnest($3::text[]) p WHERE {may_not_change}), \
         ARRAY(SELECT w.rolname::text FROM pg_roles w WHERE w.rolname = ANY($4::text[]) AND NOT w.rolsuper \
           AND NOT pg_has_role(w.oid, '{can_become}') ORDER BY 1), \
         ARRAY(SELECT w.rolname::text FROM pg_roles w WHERE w.rolname = ANY($4::text[]) AND w.rolsuper ORDER BY 1), \
         (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'), s.names, s.settings, s.sources \
         FROM pg_roles r, (SELECT array_agg(name) AS names, array_agg(coalesce(setting, '')) AS settings, array_agg(source) AS sources \
           FROM pg_settings WHERE name = ANY($5::text[])) s \
         WHERE r.rolname = current_user"
    )
}

/// What every server of a shard is asked.
pub(super) struct Question {
    writers: Vec<String>,
}

/// What a server says of itself and of the control login.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Its name in the configuration.
    pub(super) server: Box<str>,
    pub(super) version: u32,
    pub(super) in_recovery: bool,
    pub(super) system_identifier: i64,
    pub(super) is_superuser: bool,
    /// Whether the login may make replication slots.
    pub(super) replicates: bool,
    /// Of [`FUNCTIONS`], those it may not run.
    pub(super) not_executable: Vec<String>,
    /// Of [`PREDEFINED_ROLES`], those whose rights it has not.
    pub(super) not_member: Vec<String>,
    /// Of [`CHANGED`], those it may not ALTER SYSTEM.
    pub(super) not_alterable: Vec<String>,
    /// The writers that it cannot become.
    pub(super) foreign_writers: Vec<String>,
    /// The writers that are superusers.
    pub(super) superusers: Vec<String>,
    /// How many logical replication slots there are.
    pub(super) logical_slots: u64,
    /// By name; what the login may not see is not there.
    pub(super) parameters: BTreeMap<String, Parameter>,
}

/// How a parameter is set.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    /// In the parameter's base unit.
    pub(super) value: String,
    /// As in `pg_settings`.
    pub(super) source: String,
}

impl Question {
    pub(super) fn new(writers: &[Box<str>]) -> Self {
        Self {
            writers: writers.iter().map(ToString::to_string).collect(),
        }
    }

    pub(super) async fn ask(&self, server: &Server) -> Result<Answer, ControlError> {
        const ACTION: &str = "say what a failover would need";
        const VERSION: &str = "SELECT current_setting('server_version_num')::int";
        let unreadable =
            |error: tokio_postgres::Error| server.unexpected(ACTION, error.to_string());
        let client = server.open_plain().await?;
        let patience = server.patience();
        let row = server.within(patience, ACTION, client.query_one(VERSION, &[]));
        let version: i32 = row.await?.try_get(0).map_err(unreadable)?;
        let version = u32::try_from(version).unwrap_or_default();
        let text = text(version);
        let read: Vec<&str> = CHANGED.into_iter().chain(READ).collect();
        let parameters: [&(dyn ToSql + Sync); 5] = [
            &&FUNCTIONS[..],
            &&PREDEFINED_ROLES[..],
            &&CHANGED[..],
            &self.writers,
            &read,
        ];
        let row = client.query_one(&text, &parameters);
        let row = server.within(patience, ACTION, row).await?;
        Answer::read(&server.name, version, &row).map_err(unreadable)
    }
}

impl Answer {
    fn read(server: &str, version: u32, row: &Row) -> Result<Self, tokio_postgres::Error> {
        let logical_slots: i64 = row.try_get(9)?;
        let names: Vec<String> = row.try_get(10)?;
        let values: Vec<String> = row.try_get(11)?;
        let sources: Vec<String> = row.try_get(12)?;
        let parameters = values
            .into_iter()
            .zip(sources)
            .map(|(value, source)| Parameter { value, source });
        Ok(Self {
            server: server.into(),
            version,
            in_recovery: row.try_get(0)?,
            system_identifier: row.try_get(1)?,
            is_superuser: row.try_get(2)?,
            replicates: row.try_get(3)?,
            not_executable: row.try_get(4)?,
            not_member: row.try_get(5)?,
            not_alterable: row.try_get(6)?,
            foreign_writers: row.try_get(7)?,
            superusers: row.try_get(8)?,
            logical_slots: u64::try_from(logical_slots).unwrap_or_default(),
            parameters: names.into_iter().zip(parameters).collect(),
        })
    }
}
