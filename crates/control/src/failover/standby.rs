//! What is done to a standby: taking it from its primary, and pointing it at one.
//!
//! Owns the statements. Each is idempotent. Never decides whether or when. Main functions: [`look`], [`revoke`], [`follow`].

use std::time::Duration;

use pgherd_topology::{Address, Lsn};
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use super::conninfo::Conninfo;
use super::names::{literal, revoked_slot};
use super::primary::{END_SESSIONS, make_slot};
use crate::error::ControlError;
use crate::line::Line;
use crate::state_store::StandbySettings;

/// How it is set, and how far it has come.
///
/// Only what ALTER SYSTEM has set is put back by it: what stands in another file stays there.
///
/// Without a WAL receiver nothing says at once which timeline it has come to: the control file does from the next restartpoint on. What WAL it has
/// written does too.
const LOOK: &str = "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()), \
     current_setting('primary_conninfo'), current_setting('primary_slot_name'), \
     coalesce(btrim(substring(current_setting('primary_conninfo') FROM 'application_name\\s*=\\s*(''[^'']*''|[^\\s&]+)'), ''''), \
       nullif(current_setting('cluster_name'), ''), 'walreceiver'), \
     (SELECT setting FROM pg_settings WHERE name = 'max_standby_streaming_delay' AND sourcefile LIKE '%postgresql.auto.conf'), \
     (SELECT setting FROM pg_settings WHERE name = 'recovery_min_apply_delay' AND sourcefile LIKE '%postgresql.auto.conf'), \
     EXISTS (SELECT FROM pg_stat_wal_receiver), \
     pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), \
     greatest((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()), \
       (SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
       (SELECT max(('x' || left(name, 8))::bit(32)::bigint) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'))::bigint";

/// How long a WAL receiver may take to end, or to begin.
const RECEIVER_LIMIT: Duration = Duration::from_secs(5);
/// How long replay may take to reach what was received before the readers that may block it are ended.
const REPLAY_GRACE: Duration = Duration::from_secs(1);
/// How long it may take altogether.
const REPLAY_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// A standby, as it is.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) in_recovery: bool,
    pub(crate) system_identifier: u64,
    pub(crate) settings: StandbySettings,
    /// Whether a WAL receiver runs.
    pub(crate) receives: bool,
    received: Option<Lsn>,
    replayed: Option<Lsn>,
    pub(crate) timeline: u32,
}

impl Look {
    /// How far it has come for certain: after a restart `received` is nothing, or the start of a segment.
    pub(crate) fn reached(&self) -> Lsn {
        self.received.max(self.replayed).unwrap_or(Lsn(0))
    }

    /// Whether all that was received is replayed.
    fn is_replayed(&self) -> bool {
        self.replayed >= self.received
    }

    /// Whether it was taken from its primary in this epoch.
    pub(crate) fn is_revoked(&self, epoch: u64) -> bool {
        self.settings.slot == revoked_slot(epoch) && self.settings.conninfo.is_empty()
    }

    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let lsn = |column: usize| -> Result<Option<Lsn>, tokio_postgres::Error> {
            let position: Option<PgLsn> = row.try_get(column)?;
            Ok(position.map(|position| Lsn(u64::from(position))))
        };
        let timeline: Option<i64> = row.try_get(10)?;
        Ok(Self {
            in_recovery: row.try_get(0)?,
            // a 64-bit pattern that Postgres shows as a signed number
            system_identifier: row.try_get::<_, i64>(1)?.cast_unsigned(),
            settings: StandbySettings {
                conninfo: row.try_get(2)?,
                slot: row.try_get(3)?,
                application_name: row.try_get(4)?,
                max_standby_streaming_delay: row.try_get(5)?,
                recovery_min_apply_delay: row.try_get(6)?,
            },
            receives: row.try_get(7)?,
            received: lsn(8)?,
            replayed: lsn(9)?,
            timeline: timeline
                .and_then(|timeline| u32::try_from(timeline).ok())
                .unwrap_or(0),
        })
    }
}

/// Looks at it.
///
/// # Errors
/// As [`Line::run`].
pub(crate) async fn look(line: &Line) -> Result<Look, ControlError> {
    const ACTION: &str = "say how it is set";
    let row = line.row(ACTION, LOOK, &[]).await?;
    Look::read(&row).map_err(|error| line.server.unexpected(ACTION, error.to_string()))
}

/// Takes it from its primary: its WAL receiver has ended when this returns, so that nothing more is acknowledged by it. Replay goes on to the end
/// of what was received, whatever stood in its way.
///
/// # Errors
/// As [`Line::run`]; [`ControlError::Silent`] where the receiver does not end.
pub(crate) async fn revoke(line: &Line, epoch: u64) -> Result<Look, ControlError> {
    const ACTION: &str = "stop following its primary";
    let statements = [
        "ALTER SYSTEM SET primary_conninfo = ''".to_owned(),
        format!(
            "ALTER SYSTEM SET primary_slot_name = {}",
            literal(&revoked_slot(epoch))
        ),
        // a paused or delayed replay leaves the receiver running, and acknowledging
        "ALTER SYSTEM SET max_standby_streaming_delay = 0".to_owned(),
        "ALTER SYSTEM SET recovery_min_apply_delay = 0".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
        "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()".to_owned(),
    ];
    line.batch(ACTION, &statements).await?;
    let (begun, mut ended) = (Instant::now(), false);
    loop {
        let look = look(line).await?;
        if !look.receives && look.is_revoked(epoch) {
            return Ok(look);
        }
        if begun.elapsed() > REPLAY_GRACE && !ended {
            // a reader that replay waits for keeps it from seeing that it was told to end the receiver
            line.batch(ACTION, &[END_SESSIONS.to_owned()]).await?;
            ended = true;
        }
        if begun.elapsed() > RECEIVER_LIMIT {
            return Err(ControlError::Silent {
                server: line.server.name.clone(),
                action: ACTION,
                after: RECEIVER_LIMIT,
            });
        }
        sleep(POLL).await;
    }
}

/// Waits until all that it has received is replayed.
///
/// # Errors
/// As [`Line::run`]; [`ControlError::Silent`] after ten seconds.
pub(crate) async fn replay_all(line: &Line) -> Result<Look, ControlError> {
    const ACTION: &str = "replay what it has received";
    let (begun, mut ended) = (Instant::now(), false);
    loop {
        let look = look(line).await?;
        if look.is_replayed() {
            return Ok(look);
        }
        if begun.elapsed() > REPLAY_GRACE && !ended {
            line.batch(ACTION, &[END_SESSIONS.to_owned()]).await?;
            ended = true;
        }
        if begun.elapsed() > REPLAY_LIMIT {
            return Err(ControlError::Silent {
                server: line.server.name.clone(),
                action: ACTION,
                after: REPLAY_LIMIT,
            });
        }
        sleep(POLL).await;
    }
}

/// Waits until it has replayed up to a position.
///
/// # Errors
/// As [`Line::run`]; [`ControlError::Silent`] after `patience`.
pub(crate) async fn replay_to(
    line: &Line,
    position: Lsn,
    patience: Duration,
) -> Result<(), ControlError> {
    let begun = Instant::now();
    loop {
        if look(line).await?.replayed >= Some(position) {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(ControlError::Silent {
                server: line.server.name.clone(),
                action: "replay all that the primary has written",
                after: patience,
            });
        }
        sleep(POLL).await;
    }
}

/// Points it at a primary under a name, and puts back what [`revoke`] changed. `before` is how it was set before. Where it streams through a
/// replication slot, a new primary gets one of that name; an old one has it.
///
/// # Errors
/// As [`Line::run`]; [`ControlError::Unexpected`] where its `primary_conninfo` cannot be rewritten.
pub(crate) async fn follow(
    line: &Line,
    before: &StandbySettings,
    (new, address): (Option<&Line>, &Address),
    name: &str,
) -> Result<(), ControlError> {
    const ACTION: &str = "follow a primary";
    let conninfo = Conninfo::parse(&before.conninfo)
        .map_err(|wrong| line.server.unexpected(ACTION, wrong))?
        .redirected(address, name)
        .to_text();
    let put_back = |setting: &str, value: &Option<String>| match value {
        Some(value) => format!("ALTER SYSTEM SET {setting} = {}", literal(value)),
        None => format!("ALTER SYSTEM RESET {setting}"),
    };
    let slot = match before.slot.strip_prefix("revoked_e") {
        Some(_) => "",
        None => &before.slot,
    };
    if let (Some(new), false) = (new, slot.is_empty()) {
        make_slot(new, slot).await?;
    }
    let statements = [
        format!("ALTER SYSTEM SET primary_conninfo = {}", literal(&conninfo)),
        format!("ALTER SYSTEM SET primary_slot_name = {}", literal(slot)),
        put_back(
            "max_standby_streaming_delay",
            &before.max_standby_streaming_delay,
        ),
        put_back("recovery_min_apply_delay", &before.recovery_min_apply_delay),
        // as Postgres comes, one failed attempt costs five seconds
        "ALTER SYSTEM SET wal_retrieve_retry_interval = '200ms'".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ];
    line.batch(ACTION, &statements).await
}
