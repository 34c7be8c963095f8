//! What an open block's own DDL makes of the catalog.
//!
//! Owns: noticing that the published catalog no longer says what the block sees, reading the system catalogs through the block's own
//! connections, and the block's catalog made of that. Costs nothing in a block without DDL. Never does: reading what is committed
//! (control). Main type: [`Definitions`].
//!
//! Reading takes one round trip to each server that takes part, before the next statement that is planned (COMMIT is not), so that
//! DDL upon DDL in a migration is planned with what came before it.

use std::sync::Arc;

use pgherd_pool::PoolMode;
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{Action, Planned, StatementPlan};
use pgherd_topology::catalog::reading::{
    Assembly, Reader, Reading, as_the_transaction_sees_it, compared, queries,
};
use pgherd_topology::{Catalog, NodeId, Role};

use crate::block::is_control;
use crate::failure::Failure;
use crate::session::Session;

/// The catalog as an open block sees it.
#[derive(Debug, Default)]
pub enum Definitions {
    /// As it is published: the block ran no DDL.
    #[default]
    Published,
    /// DDL ran, or was undone, since it was last read.
    Changed {
        /// The catalog before that.
        last: Option<Arc<Catalog>>,
    },
    /// Read by the block itself.
    Read(Arc<Catalog>),
}

impl Definitions {
    /// DDL ran, or was undone.
    pub fn change(&mut self) {
        *self = match std::mem::take(self) {
            Self::Published => Self::Changed { last: None },
            Self::Changed { last } => Self::Changed { last },
            Self::Read(catalog) => Self::Changed {
                last: Some(catalog),
            },
        };
    }

    /// ROLLBACK TO: DDL since the savepoint is undone.
    pub fn roll_back(&mut self) {
        match self {
            Self::Published => {}
            Self::Changed { .. } | Self::Read(_) => self.change(),
        }
    }

    /// Whether the block ran DDL: what is published is out of date once it is committed.
    pub fn are_changed(&self) -> bool {
        !matches!(self, Self::Published)
    }

    /// The newest catalog of the block's own.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        match self {
            Self::Published => None,
            Self::Changed { last } => last.as_ref(),
            Self::Read(catalog) => Some(catalog),
        }
    }
}

impl Session {
    /// Whether the block's catalog must be read before anything but transaction control is planned. Where there is but one
    /// shard to go to, plans do not depend on it.
    pub(crate) fn definitions_are_stale(&self) -> bool {
        self.block.as_ref().is_some_and(|block| {
            !block.failed
                && matches!(block.definitions, Definitions::Changed { .. })
                && !self.rules.sharding.is_unsharded()
        })
    }

    /// Whether the published catalog must be read again before a text is planned by it. Where there is one shard, definitions upon definitions
    /// wait for no reading, and on a connection that serves nobody else only what is given a name there.
    pub(crate) fn must_read_before(&self, planned: &Planned) -> bool {
        let statements = &planned.plan.statements;
        if !self.catalog_is_due() {
            return false;
        }
        if self.legs.mode() == PoolMode::Session && !self.database.is_read_only() {
            return statements
                .iter()
                .any(|statement| matches!(statement.action, Action::Prepare { .. }));
        }
        !statements.iter().all(is_free_of_catalog)
    }

    /// Whether definitions were committed, on a database of one shard, that the published catalog does not hold.
    pub(crate) fn catalog_is_due(&self) -> bool {
        self.database.catalog_requests().are_due() && self.rules.sharding.is_unsharded()
    }

    /// Reads the system catalogs as the open block sees them, on every server that it may have changed.
    ///
    /// # Errors
    /// The server's: the block has failed then.
    pub(crate) async fn read_definitions(&mut self) -> Result<(), Failure> {
        let sharding = self.sharding();
        let text = as_the_transaction_sees_it(&queries(&compared(&sharding)));
        let published = self.database.catalog();
        let mut readings = published.readings().to_vec();
        for node in self.legs.in_block() {
            let leg = self.legs.at(node);
            if leg.role == Role::Replica {
                continue;
            }
            let index = leg.shard.index();
            if readings.len() <= index {
                readings.resize(index + 1, None);
            }
            let known = readings[index].clone();
            readings[index] = Some(Arc::new(self.read_on(node, known.as_deref(), &text).await?));
        }
        let assembly = Assembly {
            readings,
            sharding: &sharding,
            version: self.database.next_block_catalog(),
        };
        let catalog = assembly.catalog().ok_or_else(|| {
            PgError::error(
                SqlState::CANNOT_CONNECT_NOW,
                "the catalog of the home shard was not read yet",
            )
        })?;
        if let Some(block) = &mut self.block {
            block.definitions = Definitions::Read(Arc::new(catalog));
        }
        Ok(())
    }

    async fn read_on(
        &mut self,
        node: NodeId,
        known: Option<&Reading>,
        text: &str,
    ) -> Result<Reading, Failure> {
        let settings = known.map(|reading| reading.settings().clone());
        let mut reader = Reader::new(settings.unwrap_or_default());
        let mut unread = None;
        let ran = self
            .execute_for_rows(node, text, |columns| {
                if let Err(error) = reader.row(columns) {
                    unread.get_or_insert(error);
                }
            })
            .await;
        if let Err(trouble) = ran {
            self.fail_block();
            return Err(trouble.into());
        }
        match unread {
            None => Ok(reader.finish()),
            Some(error) => {
                self.fail_block();
                Err(PgError::error(SqlState::INTERNAL_ERROR, error.to_string()).into())
            }
        }
    }
}

/// Whether a text controls the transaction and does nothing else: no catalog is needed to plan it.
pub fn only_controls(planned: &Planned) -> bool {
    let statements = &planned.plan.statements;
    !statements.is_empty()
        && statements
            .iter()
            .all(|statement| is_control(&statement.action))
}

/// Whether the plan of a statement for the only shard is the same whatever tables and functions there are.
fn is_free_of_catalog(statement: &StatementPlan) -> bool {
    let action = &statement.action;
    is_control(action) || matches!(action, Action::Ddl(_) | Action::Set(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_without_ddl_never_reads() {
        let mut definitions = Definitions::default();
        definitions.roll_back();
        assert!(!definitions.are_changed());
        assert!(definitions.catalog().is_none());
    }

    #[test]
    fn rolling_back_to_a_savepoint_has_the_catalog_read_again() {
        let mut definitions = Definitions::Read(Arc::new(Catalog::empty()));
        definitions.roll_back();
        assert!(matches!(
            definitions,
            Definitions::Changed { last: Some(_) }
        ));
        assert!(definitions.are_changed());
    }
}
