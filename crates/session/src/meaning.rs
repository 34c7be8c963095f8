//! What a statement changes for those behind it in the same query string or pipeline.
//!
//! Owns: telling where what follows can be understood only once it has run. A name may then stand for another prepared statement, and on a
//! sharded database, where a plan says where rows are, a text may mean something else under other settings. Never does: following what has
//! changed (`effects.rs`). Main functions: [`Session::ends_understanding`], [`Session::check_order`].

use pgherd_router::{Action, MEANING_SETTINGS, StatementPlan};

use crate::block::is_control;
use crate::failure::{Failure, not_supported};
use crate::message::{Step, single_plan};
use crate::session::Session;

/// Settings that decide what a name stands for, beside [`MEANING_SETTINGS`].
const NAMING_SETTINGS: [&str; 3] = ["search_path", "role", "session_authorization"];

impl Session {
    /// Whether the messages behind a step are read once it has run.
    pub(crate) fn ends_understanding(&self, step: &Step) -> bool {
        let Step::Execute { bound } = step else {
            return false;
        };
        single_plan(&bound.statement).is_some_and(|plan| {
            matches!(plan.action, Action::Prepare { .. } | Action::Deallocate(_))
                || self.changes_meaning(plan)
        })
    }

    /// Refuses a query string in which statements stand behind a change of what they mean: it is planned as a whole.
    ///
    /// # Errors
    /// 0A000 on a sharded database.
    pub(crate) fn check_order(&self, statements: &[StatementPlan]) -> Result<(), Failure> {
        let behind = statements
            .iter()
            .skip_while(|statement| !self.changes_meaning(statement));
        if behind.skip(1).all(means_always_the_same) {
            return Ok(());
        }
        Err(not_supported(
            "a query string cannot change settings that decide what its later statements mean",
            "Where rows are is decided before anything runs, by search_path, role, time zone and the like as they are then.",
            "Send the SET, or what ends a SET LOCAL, by itself.",
        ))
    }

    /// Whether texts may mean something else once a statement has run.
    fn changes_meaning(&self, statement: &StatementPlan) -> bool {
        if self.sharding().is_unsharded() {
            return false;
        }
        let Some(run) = self.run_by(statement) else {
            // made in the same text
            return true;
        };
        match &run.action {
            Action::Set(setting) => setting.name.as_deref().is_none_or(|name| {
                NAMING_SETTINGS.contains(&name) || MEANING_SETTINGS.contains(&name)
            }),
            Action::SetConfig(_) | Action::DiscardAll => true,
            Action::Commit { .. }
            | Action::Rollback { .. }
            | Action::RollbackTo(_)
            | Action::PrepareTransaction => self
                .block
                .as_ref()
                .is_some_and(|block| self.settings.may_change_at_end_of(block.start())),
            _ => false,
        }
    }
}

fn means_always_the_same(statement: &StatementPlan) -> bool {
    is_control(&statement.action)
        || matches!(
            statement.action,
            Action::Set(_)
                | Action::SetConfig(_)
                | Action::SetTransaction(..)
                | Action::Show
                | Action::Discard
                | Action::DiscardAll
                | Action::Deallocate(_)
                | Action::Close(_)
                | Action::Listen(_)
                | Action::Unlisten(_)
                | Action::Notify
        )
}
