//! What becomes of a request whose server was lost, or deposed, in its midst.
//!
//! Owns: whether it is certain that nothing of it was done, whether it may then be run again, and what its client hears if not. Never does:
//! running it (`attempt`), waiting for another server (`holding`). Main types: [`Asked`], [`Loss`].

use pgherd_protocol::{PgError, SqlState, TransactionStatus};
use pgherd_router::{Access, Action, Residue, StatementPlan};
use pgherd_topology::{NodeId, Role, ShardId};

use crate::failure::Failure;
use crate::read_only::first_word;
use crate::relay::{Outcome, RelayError};
use crate::session::Session;

/// The first words of statements that Postgres undoes as a whole.
const UNDONE: &[&str] = &[
    "select", "with", "values", "table", "insert", "update", "delete", "merge", "show", "explain",
];

/// What makes of a definition one that commits in its midst, or runs outside of transactions.
const COMMITS_INSIDE: &[&str] = &["concurrently", "database", "tablespace", "system"];

/// What a request is about, as far as it matters to one whose server is lost.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// It ends the open block with COMMIT, or may.
    pub(crate) commits: bool,
    /// It is COMMIT, and does nothing besides.
    pub(crate) is_commit: bool,
    /// Whether Postgres undoes all of it where it is not completed. Looked at only once a server is lost.
    pub(crate) is_undone: &'a (dyn Fn() -> bool + Sync),
    /// Whether it is one statement, and all of its transaction: one whose id can be asked for ahead of its Sync. Looked at only where that
    /// is of use.
    pub(crate) is_watchable: &'a (dyn Fn() -> bool + Sync),
}

/// The end of a leg in the midst of a request.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) error: RelayError,
    /// What had come before.
    pub(crate) outcome: Outcome,
    /// Whether any of the request was written to the server.
    pub(crate) is_sent: bool,
}

impl Loss {
    /// Whether it is certain that nothing is left of a request that is undone as a whole: it was not sent, or its server has ended the session
    /// in its midst. A server that commits does not do that before it has said so: one that waits for its standbys then warns instead, and
    /// says no more (Postgres source, `SyncRepWaitForLSN`).
    pub(crate) fn is_undone(&self) -> bool {
        let RelayError::Server { said } = &self.error else {
            return false;
        };
        let was_ended = said
            .as_ref()
            .is_some_and(|said| said.code == SqlState::ADMIN_SHUTDOWN);
        let outcome = &self.outcome;
        !self.is_sent
            || (was_ended
                && outcome.completed == 0
                && outcome.tag.is_none()
                && outcome.unacknowledged.is_none())
    }

    /// Whether the client has got nothing of an answer, nor given any data.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.outcome.forwarded && !self.outcome.copied_in
    }
}

/// Whether Postgres undoes all that a statement does where it does not complete it.
pub(crate) fn is_undone(statement: &StatementPlan, text: &str) -> bool {
    if statement.residue.contains(Residue::UNREAD) {
        return false;
    }
    match &statement.action {
        Action::Run => {
            let first = first_word(text).to_ascii_lowercase();
            UNDONE.contains(&first.as_str())
        }
        Action::Ddl(_) => {
            let text = text.to_ascii_lowercase();
            !COMMITS_INSIDE.iter().any(|word| text.contains(word))
        }
        Action::Set(_)
        | Action::SetConfig(_)
        | Action::Show
        | Action::ReferenceWrite { .. }
        | Action::Prepare { .. }
        | Action::Copy { .. }
        | Action::Notify => true,
        _ => false,
    }
}

impl Session {
    /// Whether the server of a request, taken for the primary, says that it takes no writes, though its client has not asked for that:
    /// it was deposed, and another is, or will be, the primary.
    pub(crate) fn takes_no_writes(&mut self, node: NodeId, outcome: &Outcome) -> bool {
        let refuses = outcome.error.as_ref().is_some_and(|error| {
            error.code == SqlState::READ_ONLY_SQL_TRANSACTION && !outcome.error_is_ours
        });
        if !refuses || outcome.completed > 0 || outcome.forwarded {
            return false;
        }
        let leg = self.legs.at(node);
        let (shard, epoch, role) = (leg.shard, leg.connection.epoch(), leg.role);
        let recovers = leg.connection.parameters().value("in_hot_standby") == Some("on");
        role == Role::Primary
            && self.is_holding(shard)
            && (recovers || self.is_deposed(shard, node, epoch))
    }

    /// Whether a request whose server was lost may be run again, though it writes.
    pub(crate) fn may_repeat(&self, shard: ShardId, loss: &Loss, asked: &Asked<'_>) -> bool {
        loss.is_undone()
            && loss.is_unheard()
            && self.is_holding(shard)
            && (!loss.is_sent || (asked.is_undone)())
    }

    /// A leg is gone, or talks nonsense, in the midst of a request that is not run again.
    pub(crate) fn lost_in_request(
        &mut self,
        node: NodeId,
        loss: Loss,
        access: Access,
        asked: &Asked<'_>,
    ) -> Failure {
        let in_block = self.legs.get(node).is_some_and(|leg| leg.in_block);
        let was_lost = matches!(loss.error, RelayError::Server { .. });
        let is_undone = loss.is_undone() && (!loss.is_sent || in_block || (asked.is_undone)());
        let wrote = self
            .block
            .as_ref()
            .is_some_and(|block| block.writer.is_some());
        let forwarded = loss.outcome.forwarded;
        let failure = self.lost(node, loss.error);
        let Failure::Refused(error) = failure else {
            return failure;
        };
        if !was_lost {
            return Failure::Refused(error);
        }
        if in_block {
            if !asked.commits {
                return Failure::Refused(error);
            }
            self.forget_block();
            return if wrote && !is_undone {
                unknown(&error, "the outcome of the transaction is not known")
            } else {
                Failure::Refused(error)
            };
        }
        match access {
            Access::Write if is_undone => interrupted(&error),
            Access::Write => unknown(&error, "the outcome of the statement is not known"),
            Access::Read if forwarded => interrupted(&error),
            Access::Read => Failure::Refused(error),
        }
    }

    /// The open block is over, though nobody knows how.
    pub(crate) fn forget_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.lost = None;
        }
        self.follow_status(TransactionStatus::Idle);
    }
}

/// 08007.
pub(crate) fn unknown(cause: &PgError, message: &str) -> Failure {
    let detail = format!(
        "{}: {}",
        cause.message,
        cause.detail.as_deref().unwrap_or_default()
    );
    PgError::error(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, message)
        .detail(detail)
        .into()
}

/// 40001: nothing is left of the request, but it cannot be run again for its client.
fn interrupted(cause: &PgError) -> Failure {
    PgError::error(SqlState::SERIALIZATION_FAILURE, cause.message.clone())
        .detail(cause.detail.clone().unwrap_or_default())
        .hint("Nothing of the statement is kept. Try again.")
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pgherd_router::lexer::BackslashReading;
    use pgherd_router::{ClientEncoding, PlanContext, Planner, SettingsDigest};
    use pgherd_topology::{Catalog, Sharding};

    use super::*;
    use crate::relay::RelayError;

    fn loss(said: Option<SqlState>, is_sent: bool) -> Loss {
        let said = said.map(|code| Box::new(PgError::fatal(code, "the end")));
        Loss {
            error: RelayError::Server { said },
            outcome: Outcome::default(),
            is_sent,
        }
    }

    #[test]
    fn nothing_is_left_of_what_was_not_sent_or_was_ended_before_it_was_completed() {
        assert!(loss(None, false).is_undone());
        assert!(!loss(None, true).is_undone());
        assert!(loss(Some(SqlState::ADMIN_SHUTDOWN), true).is_undone());
        // one that crashes may have committed a moment before
        assert!(!loss(Some(SqlState::CRASH_SHUTDOWN), true).is_undone());
        let mut completed = loss(Some(SqlState::ADMIN_SHUTDOWN), true);
        completed.outcome.completed = 1;
        assert!(!completed.is_undone());
        let mut unacknowledged = loss(Some(SqlState::ADMIN_SHUTDOWN), true);
        unacknowledged.outcome.unacknowledged = Some(0);
        assert!(!unacknowledged.is_undone());
    }

    fn plan(sql: &str) -> StatementPlan {
        let context = PlanContext {
            database: "shop",
            sharding: &Sharding::unsharded("s0"),
            rules_version: 0,
            catalog: &Catalog::empty(),
            search_path: &[],
            backslash: BackslashReading::Literal,
            role: "app",
            settings: SettingsDigest::default(),
            encoding: ClientEncoding::default(),
            parameter_types: &[],
            named_shard: false,
        };
        let planned = Planner::new(1).plan(sql.as_bytes(), &context).unwrap();
        planned.plan.statements[0].clone()
    }

    #[test]
    fn what_may_commit_in_its_midst_is_not_undone() {
        for (sql, undone) in [
            ("INSERT INTO a VALUES (1)", true),
            ("  /* x */ WITH a AS (SELECT 1) DELETE FROM b", true),
            ("CREATE TABLE a (b int)", true),
            ("CREATE INDEX CONCURRENTLY a ON b (c)", false),
            ("CALL a()", false),
            ("DO 'BEGIN COMMIT; END'", false),
            ("VACUUM a", false),
        ] {
            assert_eq!(is_undone(&plan(sql), sql), undone, "{sql}");
        }
    }
}
