//! What a server says about itself, in one row.
//!
//! Owns the question and reading its answer. Never decides what follows from it (see `roles` and `failover`). Main type: [`Testimony`].

use std::time::Duration;

use pgherd_topology::Lsn;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

/// One row about the server itself. A standby's timeline cannot be asked directly: what it receives (seen with
/// `pg_monitor`), its last restartpoint and its minimum recovery end are each proof enough that it got there.
///
/// Of `primary_conninfo`, which may hold a password, only the name that the standby goes by leaves the server; where none is given
/// there, it goes by its `cluster_name`, or as `walreceiver` (Postgres documentation, chapter 20.6.3).
pub(crate) const STATUS: &str = "SELECT s.recovering, \
     CASE WHEN s.recovering THEN NULL ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END, \
     ARRAY[r.received_tli, (SELECT timeline_id FROM pg_control_checkpoint()), \
           (SELECT min_recovery_end_timeline FROM pg_control_recovery())]::bigint[], \
     (SELECT system_identifier FROM pg_control_system()), \
     current_setting('max_prepared_transactions')::int, current_setting('server_version_num')::int, \
     r.pid IS NOT NULL, r.status, extract(epoch FROM clock_timestamp() - r.last_msg_receipt_time)::float8, \
     CASE WHEN s.recovering THEN pg_last_wal_receive_lsn() END, CASE WHEN s.recovering THEN pg_last_wal_replay_lsn() END, \
     CASE WHEN s.recovering AND s.sees THEN coalesce( \
       btrim(substring(current_setting('primary_conninfo') FROM 'application_name\\s*=\\s*(''[^'']*''|[^\\s&]+)'), ''''), \
       nullif(current_setting('cluster_name'), ''), 'walreceiver') END, \
     CASE WHEN NOT s.recovering THEN current_setting('synchronous_standby_names') END, \
     (SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_activity WHERE backend_type = 'checkpointer') \
     FROM (SELECT pg_is_in_recovery() AS recovering, pg_has_role('pg_read_all_settings', 'USAGE') AS sees) AS s \
     LEFT JOIN pg_stat_wal_receiver AS r ON true";

/// What a server last said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Testimony {
    /// Whether it replays WAL.
    pub(crate) standing: Standing,
    /// `pg_control_system()`'s.
    pub(crate) system_identifier: u64,
    /// `max_prepared_transactions`
    pub(crate) max_prepared_transactions: u32,
    /// `server_version_num`
    pub(crate) version: u32,
    /// When its checkpointer began, in microseconds since 1970: another value after each start, and after each crash of a backend. `None`
    /// without `pg_monitor`.
    pub(crate) begun: Option<i64>,
    /// The reign that wrote there last, where pgherd promotes.
    pub(crate) reign: Option<u64>,
    /// What it replicates.
    pub(crate) replication: Replication,
}

/// Whether a server replays WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Out of recovery, on this timeline.
    Claimant {
        /// Of its current WAL.
        timeline: u32,
    },
    /// In recovery.
    Standby {
        /// The timelines that it is known to have reached: what it receives, what its control file says.
        timelines: Vec<u32>,
    },
}

/// A server's part in replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replication {
    /// Out of recovery.
    Sends {
        /// `synchronous_standby_names`
        synchronous_standby_names: Box<str>,
    },
    /// In recovery.
    Receives(Stream),
}

/// What a standby receives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stream {
    /// Whether, and how lately.
    pub(crate) receiver: Receiver,
    /// The end of the WAL that it has received and flushed; after a restart `None`, or the start of a segment.
    pub(crate) received: Option<Lsn>,
    /// The end of what it has replayed.
    pub(crate) replayed: Option<Lsn>,
    /// By which its primary's `synchronous_standby_names` may know it; `None` where the control login may not see it.
    pub(crate) application_name: Option<Box<str>>,
}

impl Stream {
    /// How far it has come for certain.
    pub(crate) fn reached(&self) -> Option<Lsn> {
        self.received.max(self.replayed)
    }
}

/// A standby's WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Receiver {
    /// None runs, or it does not stream.
    #[default]
    Lost,
    /// It streams.
    Streaming {
        /// How old its primary's last message was.
        silent_for: Duration,
    },
    /// One runs, and the control login may not see more of it.
    Hidden,
}

impl Testimony {
    /// Reads the row that [`STATUS`] gives; what is wrong with it where no supported server would answer so.
    pub(crate) fn read(row: &Row) -> Result<Self, String> {
        let wrong = |error: tokio_postgres::Error| error.to_string();
        let recovering: bool = row.try_get(0).map_err(wrong)?;
        let standing = if recovering {
            let timelines: Vec<Option<i64>> = row.try_get(2).map_err(wrong)?;
            Standing::Standby {
                timelines: timelines
                    .into_iter()
                    .flatten()
                    .filter_map(|line| u32::try_from(line).ok())
                    .collect(),
            }
        } else {
            let timeline: i64 = row.try_get(1).map_err(wrong)?;
            let timeline = u32::try_from(timeline).map_err(|_| format!("timeline {timeline}"))?;
            Standing::Claimant { timeline }
        };
        let replication = if recovering {
            Replication::Receives(Stream::read(row).map_err(wrong)?)
        } else {
            let names: String = row.try_get(12).map_err(wrong)?;
            Replication::Sends {
                synchronous_standby_names: names.into(),
            }
        };
        let number = |column: usize| -> Result<u32, String> {
            Ok(u32::try_from(row.try_get::<_, i32>(column).map_err(wrong)?).unwrap_or(0))
        };
        Ok(Self {
            standing,
            // a 64-bit pattern that Postgres shows as a signed number
            system_identifier: row.try_get::<_, i64>(3).map_err(wrong)?.cast_unsigned(),
            max_prepared_transactions: number(4)?,
            version: number(5)?,
            begun: row.try_get(13).map_err(wrong)?,
            reign: None,
            replication,
        })
    }

    /// What a standby receives; `None` of a server out of recovery.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match &self.replication {
            Replication::Receives(stream) => Some(stream),
            Replication::Sends { .. } => None,
        }
    }
}

impl Stream {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let runs: bool = row.try_get(6)?;
        let status: Option<String> = row.try_get(7)?;
        let silent_for: Option<f64> = row.try_get(8)?;
        let receiver = match (runs, status.as_deref(), silent_for) {
            (true, Some("streaming"), Some(seconds)) => Receiver::Streaming {
                // a clock that was set back makes no message older
                silent_for: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX),
            },
            (true, None, _) => Receiver::Hidden,
            (true, Some(_), _) | (false, _, _) => Receiver::Lost,
        };
        let lsn = |column: usize| -> Result<Option<Lsn>, tokio_postgres::Error> {
            let position: Option<PgLsn> = row.try_get(column)?;
            Ok(position.map(|position| Lsn(u64::from(position))))
        };
        let application_name: Option<String> = row.try_get(11)?;
        Ok(Self {
            receiver,
            received: lsn(9)?,
            replayed: lsn(10)?,
            application_name: application_name.map(Into::into),
        })
    }
}
