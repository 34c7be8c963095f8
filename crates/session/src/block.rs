//! BEGIN, COMMIT, ROLLBACK and savepoints, over however many servers take part.
//!
//! Owns: what pgherd answers itself while no server takes part, and what it tells each that does. Where exactly one server takes part
//! the statement passes to it like any other; then only [`Session::note_control`] runs. Never does: the two-phase commit
//! (`two_phase.rs`). Main functions: [`Session::control`], [`Session::note_control`].

use bytes::BytesMut;
use pgherd_protocol::{BackendMessage, PgError, SqlState, TransactionStatus};
use pgherd_router::{Access, Action, StatementPlan, TransactionScope};
use pgherd_topology::NodeId;

use crate::failure::{Failure, block_failed};
use crate::session::Session;
use crate::transaction::{Block, quoted};

/// Whether a statement controls the transaction.
pub fn is_control(action: &Action) -> bool {
    matches!(
        action,
        Action::Begin(_)
            | Action::Commit { .. }
            | Action::Rollback { .. }
            | Action::Savepoint(_)
            | Action::Release(_)
            | Action::RollbackTo(_)
            | Action::PrepareTransaction
            | Action::SetTransaction(TransactionScope::Current, _)
    )
}

/// Whether a statement may run in a failed block.
pub fn ends_failed_block(action: &Action) -> bool {
    matches!(
        action,
        Action::Commit { .. }
            | Action::Rollback { .. }
            | Action::RollbackTo(_)
            | Action::PrepareTransaction
    )
}

/// Whether a statement ends a block in a way that is kept.
pub fn ends_for_good(statement: &StatementPlan) -> bool {
    matches!(
        statement.action,
        Action::Commit { .. } | Action::PrepareTransaction
    )
}

/// Whether a statement is COMMIT, and opens no other block.
pub fn is_plain_commit(statement: &StatementPlan) -> bool {
    matches!(statement.action, Action::Commit { chain: false })
}

/// Whether a statement opens a block that may write.
pub fn opens_for_writing(statement: &StatementPlan) -> bool {
    match &statement.action {
        Action::Begin(modes) => modes.read_only != Some(true),
        _ => false,
    }
}

impl Session {
    /// Whether a control statement must go through [`Session::control`]: it cannot just pass to the one server that takes part.
    pub(crate) fn controls_itself(&self) -> bool {
        match &self.block {
            None => true,
            Some(block) => block.failed || block.two_phase || self.legs.in_block().len() != 1,
        }
    }

    /// Carries a control statement out on every server that takes part. Returns what the client is told, without ReadyForQuery.
    ///
    /// # Errors
    /// As Postgres words them (25P02, 3B001, 25P01); those of [`Session::commit_legs`].
    pub(crate) async fn control(
        &mut self,
        action: &Action,
        sql: &str,
    ) -> Result<BytesMut, Failure> {
        let mut out = BytesMut::new();
        match action {
            Action::Begin(modes) => {
                let tag = if starts_with_word(sql, "start") {
                    "START TRANSACTION"
                } else {
                    "BEGIN"
                };
                match &self.block {
                    Some(block) if block.failed => return Err(block_failed()),
                    Some(_) => warn(
                        &mut out,
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "there is already a transaction in progress",
                    ),
                    None => {
                        let mut block = Block::new(sql, false, self.settings.mark());
                        block.take_modes(modes);
                        self.block = Some(Box::new(block));
                    }
                }
                complete(&mut out, tag);
            }
            Action::Commit { chain } => {
                let tag = self.end_block(&mut out, *chain, true).await?;
                complete(&mut out, tag);
            }
            Action::Rollback { chain } => {
                let tag = self.end_block(&mut out, *chain, false).await?;
                complete(&mut out, tag);
            }
            Action::PrepareTransaction => {
                let open = self.block.as_ref().is_some_and(|block| !block.failed);
                let tag = if open {
                    self.prepare_block(sql).await?;
                    "PREPARE TRANSACTION"
                } else {
                    // as Postgres has it, there is nothing to prepare
                    self.end_block(&mut out, false, false).await?
                };
                complete(&mut out, tag);
            }
            Action::Savepoint(_) | Action::Release(_) | Action::RollbackTo(_) => {
                self.savepoint(action).await?;
                let tag = match action {
                    Action::Savepoint(_) => "SAVEPOINT",
                    Action::Release(_) => "RELEASE",
                    _ => "ROLLBACK",
                };
                complete(&mut out, tag);
            }
            Action::SetTransaction(..) => {
                match &self.block {
                    None => warn(
                        &mut out,
                        SqlState::NO_ACTIVE_SQL_TRANSACTION,
                        "SET TRANSACTION can only be used in transaction blocks",
                    ),
                    Some(block) if block.failed => return Err(block_failed()),
                    Some(_) => {
                        self.tell_block(sql).await?;
                        self.note_control(action, sql);
                    }
                }
                complete(&mut out, "SET");
            }
            other => {
                return Err(PgError::error(
                    SqlState::INTERNAL_ERROR,
                    format!("{other:?} does not control a transaction"),
                )
                .into());
            }
        }
        Ok(out)
    }

    /// Notes a control statement that a server has carried out.
    pub(crate) fn note_control(&mut self, action: &Action, sql: &str) {
        match action {
            Action::Begin(modes) if self.block.is_none() => {
                // what the query string has done before is part of it
                let start = self.implicit_start.take();
                let start = start.unwrap_or_else(|| self.settings.mark());
                let mut block = Block::new(sql, false, start);
                block.take_modes(modes);
                self.block = Some(Box::new(block));
            }
            Action::PrepareTransaction => {
                self.subscriptions.changes.end(true);
                self.note_end(false, true);
            }
            Action::Commit { chain } => {
                // without a block it ends what a query string has done before it
                let committed = self.block.as_ref().is_none_or(|block| !block.failed);
                self.subscriptions.changes.end(committed);
                self.note_implicit_end(committed);
                self.note_end(*chain, committed);
            }
            Action::Rollback { chain } => {
                self.subscriptions.changes.end(false);
                self.note_implicit_end(false);
                self.note_end(*chain, false);
            }
            Action::Savepoint(name) => {
                let mark = self.settings.mark();
                self.subscriptions.changes.savepoint(name);
                if let Some(block) = &mut self.block {
                    block.savepoint(name, mark);
                }
                self.note_all_told(1);
            }
            Action::Release(name) => {
                self.subscriptions.changes.release(name);
                let before = self.block.as_deref().map_or(0, Block::told_len);
                if let Some(block) = &mut self.block {
                    block.release(name);
                    let gone = before - block.told_len();
                    for leg in self.legs.iter_mut().filter(|leg| leg.in_block) {
                        leg.told = leg.told.saturating_sub(gone);
                    }
                }
            }
            Action::RollbackTo(name) => {
                self.temporary.change();
                self.subscriptions.changes.rollback_to(name);
                if let Some(mark) = self
                    .block
                    .as_mut()
                    .and_then(|block| block.rollback_to(name))
                {
                    self.settings.undo_to(&mark);
                }
                if let Some(block) = &self.block {
                    for leg in self.legs.iter_mut().filter(|leg| leg.in_block) {
                        leg.told = leg.told.min(block.told_len());
                        leg.settings = block.settings_after(leg.told).cloned();
                    }
                }
            }
            Action::SetTransaction(TransactionScope::Current, modes) => {
                if let Some(block) = &mut self.block {
                    block.set_modes(sql, modes);
                }
                self.note_all_told(1);
            }
            _ => {}
        }
    }

    /// The servers in the block have carried out the last `count` of the statements that it tells late joiners.
    pub(crate) fn note_all_told(&mut self, count: usize) {
        let Some(block) = &self.block else { return };
        let told = block.told_len();
        for leg in self.legs.iter_mut().filter(|leg| leg.in_block) {
            if leg.told + count >= told {
                leg.told = told;
            }
        }
    }

    /// The server of the request at hand has carried out the last `count` of the statements that the block tells late joiners.
    pub(crate) fn note_told_here(&mut self, node: NodeId, count: usize) {
        let Some(block) = &self.block else { return };
        let told = block.told_len();
        if let Some(leg) = self.legs.get(node)
            && leg.told + count >= told
        {
            leg.told = told;
        }
    }

    /// What a query string or a pipeline did without a block is kept, or undone.
    pub(crate) fn note_implicit_end(&mut self, committed: bool) {
        if self.block.is_some() {
            return;
        }
        if let Some(start) = &mut self.implicit_start {
            if committed {
                *start = self.settings.mark();
            } else {
                self.settings.undo_to(start);
            }
        }
        for leg in self.legs.iter_mut() {
            leg.end_transaction(committed);
        }
    }

    /// The block ended: settings follow, portals are gone, what was committed is to be seen by later reads.
    fn note_end(&mut self, chain: bool, committed: bool) {
        let Some(block) = self.block.take() else {
            return;
        };
        self.database.metrics().block_ended();
        self.temporary.change();
        self.subscriptions.changes.end(committed);
        let now = std::time::Instant::now();
        let mut seen = Vec::new();
        if committed {
            self.settings.commit();
            self.catalog_changed |= block.definitions.are_changed();
        } else {
            self.settings.undo_to(block.start());
        }
        for leg in self
            .legs
            .iter_mut()
            .filter(|leg| block.took_part(leg.node) || leg.in_block)
        {
            leg.end_transaction(committed);
            leg.in_block = chain && leg.in_block;
            seen.push((leg.shard, leg.node));
        }
        self.implicit_start = Some(self.settings.mark());
        for (shard, node) in seen {
            self.tokens.observe(shard, node, now);
        }
        if chain {
            self.block = Some(Box::new(block.chained(self.settings.mark())));
            self.rules = self.database.rules();
        }
        self.statements.end_transaction();
    }

    async fn end_block(
        &mut self,
        out: &mut BytesMut,
        chain: bool,
        commit: bool,
    ) -> Result<&'static str, Failure> {
        let Some(block) = &mut self.block else {
            if chain {
                let word = if commit {
                    "COMMIT AND CHAIN"
                } else {
                    "ROLLBACK AND CHAIN"
                };
                return Err(PgError::error(
                    SqlState::NO_ACTIVE_SQL_TRANSACTION,
                    format!("{word} can only be used in transaction blocks"),
                )
                .into());
            }
            warn(
                out,
                SqlState::NO_ACTIVE_SQL_TRANSACTION,
                "there is no transaction in progress",
            );
            return Ok(if commit { "COMMIT" } else { "ROLLBACK" });
        };
        let lost = block.lost.take();
        let commits = commit && !block.failed;
        let nodes = self.legs.in_block();
        let result = if commits {
            self.commit_legs().await
        } else {
            self.roll_back_legs().await;
            Ok(())
        };
        if let Some(block) = &mut self.block {
            block.remember(&nodes);
        }
        self.note_end(chain && result.is_ok(), commits && result.is_ok());
        result?;
        match lost {
            // the client has not heard yet that its block came to nothing
            Some(error) if commit => Err(Failure::Refused(error)),
            _ => Ok(if commits { "COMMIT" } else { "ROLLBACK" }),
        }
    }

    /// PREPARE TRANSACTION of a block in which no server takes part yet.
    async fn prepare_block(&mut self, sql: &str) -> Result<(), Failure> {
        self.script.clear();
        let home = self.sharding().home();
        let node = self.leg(home, Access::Write).await?;
        if let Some(block) = &mut self.block {
            block.remember(&[node]);
        }
        let prepared = self.execute(node, sql).await;
        if prepared.is_ok() {
            self.note_control(&Action::PrepareTransaction, sql);
        } else {
            // nothing is left of it
            self.note_end(false, false);
        }
        prepared.map(drop).map_err(Failure::from)
    }

    async fn savepoint(&mut self, action: &Action) -> Result<(), Failure> {
        let (name, word) = match action {
            Action::Savepoint(name) => (name, "SAVEPOINT"),
            Action::Release(name) => (name, "RELEASE SAVEPOINT"),
            Action::RollbackTo(name) => (name, "ROLLBACK TO SAVEPOINT"),
            _ => return Ok(()),
        };
        let Some(block) = &mut self.block else {
            return Err(PgError::error(
                SqlState::NO_ACTIVE_SQL_TRANSACTION,
                format!("{word} can only be used in transaction blocks"),
            )
            .into());
        };
        if let Some(lost) = block.lost.clone() {
            return Err(Failure::Refused(lost));
        }
        if block.failed && !matches!(action, Action::RollbackTo(_)) {
            return Err(block_failed());
        }
        if !matches!(action, Action::Savepoint(_)) && !block.has_savepoint(name) {
            block.failed = true;
            return Err(PgError::error(
                SqlState::INVALID_SAVEPOINT_SPECIFICATION,
                format!("savepoint \"{name}\" does not exist"),
            )
            .into());
        }
        self.tell_block(&format!("{word} {}", quoted(name))).await?;
        self.note_control(action, "");
        Ok(())
    }

    /// Runs a statement on every server that takes part; an error fails the block.
    pub(crate) async fn tell_block(&mut self, sql: &str) -> Result<(), Failure> {
        for node in self.legs.in_block() {
            self.script.clear();
            self.bring(node)?;
            if let Err(trouble) = self.execute(node, sql).await {
                self.fail_block();
                return Err(trouble.into());
            }
        }
        Ok(())
    }

    /// A server that took part is gone: nothing of the block can be kept.
    pub(crate) fn lose_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
            block.lost.get_or_insert_with(|| {
                Box::new(
                    PgError::error(
                        SqlState::SERIALIZATION_FAILURE,
                        "a server that took part in the transaction was lost",
                    )
                    .hint("Nothing of the block is kept. Roll back and try again."),
                )
            });
        }
    }

    /// The open block, if any, accepts nothing but its end from here on.
    pub(crate) fn fail_block(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
    }

    /// The status that the client is shown when it is asked for its next request.
    pub(crate) fn status(&self) -> TransactionStatus {
        match &self.block {
            None => TransactionStatus::Idle,
            Some(block) if block.failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
        }
    }

    /// Brings what pgherd believes in line with what the server of a one-server request said.
    pub(crate) fn follow_status(&mut self, status: TransactionStatus) {
        match status {
            TransactionStatus::Idle => self.note_end(false, false),
            TransactionStatus::InTransaction => {}
            TransactionStatus::Failed => self.fail_block(),
        }
    }
}

/// CommandComplete.
pub fn complete(out: &mut BytesMut, tag: &str) {
    // a tag of ours is short and has no NUL
    let _ = BackendMessage::CommandComplete(tag.as_bytes()).encode(out);
}

fn warn(out: &mut BytesMut, code: SqlState, message: &str) {
    PgError::warning(code, message).encode_notice(out);
}

fn starts_with_word(sql: &str, word: &str) -> bool {
    let sql = sql.trim_start();
    sql.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}
