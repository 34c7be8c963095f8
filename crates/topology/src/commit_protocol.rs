//! The two-phase commit of one transaction over several shards: names, texts and order, without any I/O.
//!
//! Owns what the committing session and recovery must agree on to the letter. Never sends anything and never decides
//! anything. Main types: [`Gid`], [`TransactionName`], [`CommitSecret`], [`InFlight`].
//!
//! # The idea
//!
//! The proxy holds no state that matters. The decision is a row in a table of one participant, the *anchor*: it is
//! inserted by the anchor's own transaction, so it is there exactly when the anchor's half is committed. Every
//! participant has such a table, `pgherd.commit_log`, and inserts its own row in its own transaction too, so that a
//! committed half can be told from one that was never there.
//!
//! A row's key is the [`TransactionName`]: what is common to the [`Gid`]s of all halves. On the anchor the row is the
//! decision; on another shard it says that this shard's half is committed. Only recovery writes `abort`.
//!
//! # Who may write a row
//!
//! Clients have no right on the table, only on two `SECURITY DEFINER` functions. A gid is no secret (everybody may
//! read `pg_prepared_xacts`), so the functions want to be shown a [`CommitSecret`] whose hash the gid carries in its
//! random field: only the session that drew it can write or read that transaction's rows, and the hash does not let it be
//! guessed. It goes to the server as a *bound parameter* ([`RECORD`] by Parse, Bind, Execute), never inside a text, because
//! `pg_stat_activity.query` and the statement log of errors show texts. What a client can do with the functions is to write rows about
//! transactions whose secret it drew itself, which concern nobody else.
//!
//! # What the committing session does, in this order
//!
//! *Participants* are the legs that have a transaction id: ask each with [`ASSIGNED_XID`] after its last statement and
//! after [`CHECK_DEFERRED`] (deferred triggers may write). None: COMMIT everywhere. One: COMMIT there, then end the others.
//! Two or more: the *anchor* is the first of them, and this protocol follows. Legs without a transaction id stay open until the decision
//! is known and then get COMMIT (they hold snapshots and locks that the writes rely on).
//!
//! The anchor has its transaction id *before* the first PREPARE; clean-up of tombstones relies on that.
//!
//! 0. Draw 32 random bytes: [`CommitSecret`]. Make the [`TransactionName`] from it, and one [`Gid`] per participant with the
//!    *anchor's* epoch. Then [`InFlight::register`], before anything is sent, and keep the guard.
//! 1. On every participant but the anchor, in parallel, each step's answer awaited or pipelined as you like:
//!    1. [`BECOME_LOGIN`] (simple query): a transaction prepared under `SET ROLE` cannot be finished by the login.
//!    2. [`RECORD`] with [`Record::parameters`]: this shard's row. It also raises `synchronous_commit` for this transaction if it was lowered.
//!    3. [`Gid::prepare`]. Note the epoch of the shard in the topology. The command tag must be `PREPARE TRANSACTION`; the tag
//!       `ROLLBACK` means that the transaction had failed, which is an error.
//! 2. Any error or lost connection up to here: the outcome is abort. ROLLBACK on the anchor *first*, its answer or the loss of its connection
//!    awaited; then [`Gid::rollback_prepared`] on every participant whose PREPARE was acknowledged. 42704 there counts as done. A participant
//!    whose PREPARE has no answer is left to recovery (drop the guard). The client hears the error that caused it, or 40001.
//! 3. On the anchor: [`RECORD`] with the anchor's epoch. 23505 says that recovery has decided on abort: proceed as in 2,
//!    the client hears 40001. Any other error: as in 2.
//! 4. Compare each participant's epoch in the newest topology with the one noted at its PREPARE, and the anchor's with the
//!    gid's. If one differs: as in 2, 40001.
//! 5. On the anchor: COMMIT. Its CommandComplete with the tag `COMMIT` is the decision. An ErrorResponse of severity ERROR, or the tag
//!    `ROLLBACK`, is an abort: as in 2, without the ROLLBACK. Severity FATAL or PANIC, a WARNING 57P01 or a lost connection: nobody
//!    knows; drop the guard and answer 08007. Never touch the prepared halves yourself then.
//! 6. On every other participant, in parallel: [`Gid::commit_prepared`], outside of a transaction, as the same login in the same database. If the connection is lost,
//!    another one may be used. 42704: someone else may have finished it; ask [`OUTCOME`] there: `commit` means done, anything else is left to
//!    recovery. 55000 (busy): again after some milliseconds, a few times.
//! 7. All acknowledged: [`InFlightGuard::finish`], and the client hears success. Otherwise drop the guard and answer 08007: the decision stands, recovery
//!    delivers it. After step 5 the client never hears an abort.
//!
//! A name is used once. A retry of the client's transaction draws a new secret.
//!
//! # What recovery does
//!
//! At start and every few seconds, and at once when a guard was dropped unfinished, for each shard's primary:
//!
//! 1. List `pg_prepared_xacts` of this database. Of another herd, or naming an unknown shard: left alone. Only *then* look whether this process still
//!    has the transaction in flight: left alone. Those of another proxy are left alone until they are a few seconds old.
//! 2. On the anchor's primary, in one statement that commits by itself and with a `lock_timeout`: [`TOMBSTONE`]. An open anchor transaction that has
//!    inserted its row makes this wait, then fail with 55P03: nothing is decided, later again.
//! 3. Then read the row: [`READ_OUTCOME`]. Its outcome alone decides, whoever wrote it. Any number of recoverers read the same.
//! 4. COMMIT PREPARED or ROLLBACK PREPARED as the half's owner. 42704 after a commit is done only where the shard's own row is seen.
//!
//! If the anchor's primary has changed since (the gid's epoch is an older one), its decision may be lost with WAL that
//! never reached the new primary. Then no tombstone is written: a row on any shard means commit, and none on every one of them means abort.
//!
//! Rows are deleted only after a retention time: an anchor's commit row when every participant's row was seen, a
//! tombstone when no transaction older than it runs on the anchor ([`EXPIRE_TOMBSTONES`]).
//!
//! See <https://www.postgresql.org/docs/current/sql-prepare-transaction.html>.

mod gid;
mod in_flight;
mod statements;

pub use gid::{Gid, GidError, HerdId, MAX_GID_LENGTH, MAX_SHARD_NAME, ProxyId, TransactionName};
pub use in_flight::{InFlight, InFlightGuard};
pub use statements::{
    ASSIGNED_XID, BECOME_LOGIN, CHECK_DEFERRED, EXPIRE_TOMBSTONES, INSTALL, OUTCOME,
    OUTCOME_PARAMETER_TYPES, PROTOCOL_VERSION, READ_OUTCOME, RECORD, RECORD_PARAMETER_TYPES,
    Record, TOMBSTONE,
};

use sha2::{Digest, Sha256};

/// What only the committing session knows: whoever shows it to a server may write and read the rows of one transaction.
///
/// Drawn once per transaction from a cryptographic source and never stored.
#[derive(Clone)]
pub struct CommitSecret([u8; 32]);

impl CommitSecret {
    /// `bytes` come from the operating system's random source, 32 fresh ones for each transaction.
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The gid's random field: the first 128 bits of the secret's SHA-256.
    pub fn digest(&self) -> [u8; 16] {
        let hash = Sha256::digest(self.0);
        let mut digest = [0; 16];
        for (to, from) in digest.iter_mut().zip(hash) {
            *to = from;
        }
        digest
    }

    /// The text form of a `bytea` parameter, for [`RECORD`] and [`OUTCOME`].
    pub fn parameter(&self) -> String {
        format!("\\x{}", gid::hexadecimal(&self.0))
    }
}

impl std::fmt::Debug for CommitSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CommitSecret(***)")
    }
}
