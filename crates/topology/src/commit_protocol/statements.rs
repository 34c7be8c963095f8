//! The SQL texts of the commit protocol.
//!
//! Owns the texts and how their parameters are written. Never sends them. Main type: [`Record`].

use super::{CommitSecret, TransactionName};
use crate::Epoch;

/// Version of the table and the functions; kept as the comment of the schema `pgherd`.
pub const PROTOCOL_VERSION: &str = "pgherd commit protocol 1";

/// Says whether the transaction has written: one row, null while it has no transaction id.
pub const ASSIGNED_XID: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";

/// Runs what is deferred to the commit, so that it fails or writes before anything is prepared.
pub const CHECK_DEFERRED: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Makes the login the current user for the rest of the transaction, whatever the client has set: the one who
/// prepares owns the prepared half. A simple query of two statements.
pub const BECOME_LOGIN: &str = "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE none";

/// Writes the row of the shard it runs on, inside the transaction. Parameters: [`Record::parameters`], declared as
/// [`RECORD_PARAMETER_TYPES`], in text format. Returns one row of type `void`.
///
/// 23505: the transaction has a row already: recovery decided on abort. 42501 and 22023: the secret or the name is wrong, a defect.
pub const RECORD: &str = "SELECT pgherd.record_commit($1, $2, $3, $4)";

/// `bytea, text, bigint, text[]`
pub const RECORD_PARAMETER_TYPES: [u32; 4] = [17, 25, 20, 1009];

/// Reads the row of the shard it runs on: `commit`, `abort` or null. Parameters: [`CommitSecret::parameter`] and the
/// [`TransactionName`] as text, declared as [`OUTCOME_PARAMETER_TYPES`].
pub const OUTCOME: &str = "SELECT pgherd.recorded_outcome($1, $2)";

/// `bytea, text`
pub const OUTCOME_PARAMETER_TYPES: [u32; 2] = [17, 25];

/// Recovery's way to decide on abort unless there is a decision: `$1` the transaction's name, `$2` the epoch of the
/// anchor. Its own transaction, committed before [`READ_OUTCOME`].
pub const TOMBSTONE: &str = "INSERT INTO pgherd.commit_log (gid, outcome, epoch, participants) \
     VALUES ($1, 'abort', $2, '{}') ON CONFLICT (gid) DO NOTHING";

/// The outcome of `$1` on this shard, no row if it has none.
pub const READ_OUTCOME: &str = "SELECT outcome FROM pgherd.commit_log WHERE gid = $1";

/// Deletes tombstones of the herd `$1` (text) that are older than `$2` seconds and that no running transaction can still run into: the
/// anchor's transaction had its id before the first PREPARE, so it is over once every id up to the tombstone's is.
pub const EXPIRE_TOMBSTONES: &str = "DELETE FROM pgherd.commit_log \
     WHERE outcome = 'abort' AND split_part(gid, ':', 2) = $1 \
     AND at < now() - make_interval(secs => $2) AND xid < pg_snapshot_xmin(pg_current_snapshot())";

/// Creates what is missing; to be run as one simple query inside a transaction, under a lock of its own.
///
/// Everything in it belongs to the control login. `synchronous_commit` is raised because a decision that a crash can
/// take back is none.
pub const INSTALL: &str = r"
CREATE SCHEMA IF NOT EXISTS pgherd;
CREATE TABLE IF NOT EXISTS pgherd.commit_log (
    gid text PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')),
    epoch bigint NOT NULL,
    participants text[] NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
);
REVOKE ALL ON TABLE pgherd.commit_log FROM PUBLIC;
CREATE OR REPLACE FUNCTION pgherd.require_secret(secret bytea, gid text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF gid IS NULL OR gid !~ '^pgherd:[0-9a-f]{16}:[0-9a-f]{16}:[0-9a-f]{32}:[A-Za-z0-9_.-]{1,48}$' THEN
        RAISE EXCEPTION 'not the name of a transaction over shards' USING ERRCODE = '22023';
    END IF;
    IF secret IS NULL OR octet_length(secret) <> 32
       OR encode(substr(sha256(secret), 1, 16), 'hex') <> split_part(gid, ':', 4) THEN
        RAISE EXCEPTION 'only the session that commits a transaction may speak for it' USING ERRCODE = '42501';
    END IF;
END
$body$;
CREATE OR REPLACE FUNCTION pgherd.record_commit(secret bytea, gid text, epoch bigint, participants text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM pgherd.require_secret(secret, gid);
    IF epoch IS NULL OR participants IS NULL OR cardinality(participants) NOT BETWEEN 2 AND 4096 THEN
        RAISE EXCEPTION 'a transaction over shards has at least two participants' USING ERRCODE = '22023';
    END IF;
    IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO pgherd.commit_log (gid, outcome, epoch, participants)
    VALUES (record_commit.gid, 'commit', record_commit.epoch, record_commit.participants);
END
$body$;
CREATE OR REPLACE FUNCTION pgherd.recorded_outcome(secret bytea, gid text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM pgherd.require_secret(secret, gid);
    RETURN (SELECT log.outcome FROM pgherd.commit_log AS log WHERE log.gid = recorded_outcome.gid);
END
$body$;
REVOKE ALL ON FUNCTION pgherd.require_secret(bytea, text) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgherd TO PUBLIC;
GRANT EXECUTE ON FUNCTION pgherd.record_commit(bytea, text, bigint, text[]), pgherd.recorded_outcome(bytea, text) TO PUBLIC;
COMMENT ON SCHEMA pgherd IS 'pgherd commit protocol 1';
";

/// One shard's row, as [`RECORD`] takes it.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// What proves the right to write it.
    pub secret: &'a CommitSecret,
    /// The transaction.
    pub transaction: &'a TransactionName,
    /// The epoch of the shard that the row is written on.
    pub epoch: Epoch,
    /// The names of all participants, the anchor included; two or more, each fit for a [`super::Gid`].
    pub participants: &'a [&'a str],
}

impl Record<'_> {
    /// The four parameters of [`RECORD`] in text format. The first is secret: bind it, log none of them.
    pub fn parameters(&self) -> [String; 4] {
        // Names fit for a gid need no escape; the quotes keep one called "null" a name.
        let names: Vec<String> = self
            .participants
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        [
            self.secret.parameter(),
            self.transaction.to_string(),
            self.epoch.0.to_string(),
            format!("{{{}}}", names.join(",")),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::commit_protocol::{HerdId, ProxyId};

    #[test]
    fn parameters_are_what_postgres_reads_as_text() {
        let secret = CommitSecret::from_random([0x0f; 32]);
        let transaction = TransactionName::new(HerdId(1), ProxyId(2), &secret, "s0").unwrap();
        let record = Record {
            secret: &secret,
            transaction: &transaction,
            epoch: Epoch(5),
            participants: &["s0", "null"],
        };
        let [shown, name, epoch, participants] = record.parameters();
        assert_eq!(shown, format!("\\x{}", "0f".repeat(32)));
        assert_eq!(name, transaction.to_string());
        assert_eq!(
            (epoch.as_str(), participants.as_str()),
            ("5", r#"{"s0","null"}"#)
        );
    }

    #[test]
    fn the_installation_names_its_own_version() {
        assert!(INSTALL.contains(PROTOCOL_VERSION));
    }
}
