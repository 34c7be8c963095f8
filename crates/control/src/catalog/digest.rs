//! Whether the system catalogs have changed, without reading them.
//!
//! Owns the digest's text and its shortcut. Main type: [`Digest`].
//!
//! Every change of a catalog row leaves a row of another xmin, or none; so the rows' OIDs and xmins add up to another
//! sum. Only rows of users' objects count, temporary ones do not. It costs some 10 ms at 1,000 tables, and nothing
//! while no transaction has ended since the last time.

use crate::error::ControlError;
use crate::login::Server;

/// What a shard's catalogs were like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Digest {
    /// `pg_current_snapshot()` before the sum was made.
    snapshot: String,
    sum: String,
}

/// No transaction with an id has begun or ended between two equal snapshots, so nothing can have changed.
const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text";

const SUM: &str = "SELECT concat_ws(' ', \
  (SELECT count(*) || ':' || sum(hashint8((c.xmin::text::bigint << 32) + c.oid::bigint)::bigint) FROM pg_class c \
    WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND c.relkind <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((a.xmin::text::bigint << 32) + a.attrelid::bigint * 2048 + a.attnum)::bigint) \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
    WHERE a.attrelid >= 16384 AND a.attnum > 0 AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')), \
  (SELECT count(*) || ':' || sum(hashint8((t.xmin::text::bigint << 32) + t.oid::bigint)::bigint) FROM pg_type t \
    WHERE t.oid >= 16384 AND t.typnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(temp|toast)')), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_constraint o \
    LEFT JOIN pg_class c ON c.oid = o.conrelid WHERE o.oid >= 16384 AND c.relpersistence IS DISTINCT FROM 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_attrdef o \
    JOIN pg_class c ON c.oid = o.adrelid WHERE c.relpersistence <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.indexrelid::bigint)::bigint) FROM pg_index o \
    JOIN pg_class c ON c.oid = o.indrelid WHERE o.indexrelid >= 16384 AND c.relpersistence <> 't' AND c.relkind <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_proc o WHERE o.oid >= 16384), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_trigger o \
    JOIN pg_class c ON c.oid = o.tgrelid WHERE c.relpersistence <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_rewrite o \
    JOIN pg_class c ON c.oid = o.ev_class WHERE o.oid >= 16384 AND c.relpersistence <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_policy o), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_operator o WHERE o.oid >= 16384), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_enum o), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.inhrelid::bigint)::bigint) FROM pg_inherits o \
    JOIN pg_class c ON c.oid = o.inhrelid WHERE c.relpersistence <> 't'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_collation o WHERE o.oid >= 16384), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.oid::bigint)::bigint) FROM pg_namespace o \
    WHERE o.nspname !~ '^pg_(temp|toast)'), \
  (SELECT count(*) || ':' || sum(hashint8((o.xmin::text::bigint << 32) + o.setrole::bigint)::bigint) FROM pg_db_role_setting o \
    WHERE o.setdatabase = 0 OR o.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())))";

/// What asking has shown.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nothing can have changed.
    Still,
    /// The digest now, whose sum may be the same.
    Now(Digest),
}

impl Digest {
    /// Whether both describe the same catalogs.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.sum == other.sum
    }
}

/// Asks one server.
pub(super) async fn ask(server: &Server, last: Option<&Digest>) -> Result<Seen, ControlError> {
    const ACTION: &str = "ask for the catalog's digest";
    let lease = server.lease().await?;
    let answer = server
        .within(server.patience(), ACTION, async {
            let statement = lease.prepare_cached(SNAPSHOT).await?;
            let snapshot: String = lease.query_one(&statement, &[]).await?.try_get(0)?;
            if last.is_some_and(|last| last.snapshot == snapshot) {
                return Ok(Seen::Still);
            }
            let statement = lease.prepare_cached(SUM).await?;
            let sum: String = lease.query_one(&statement, &[]).await?.try_get(0)?;
            Ok(Seen::Now(Digest { snapshot, sum }))
        })
        .await?;
    lease.give_back();
    Ok(answer)
}
