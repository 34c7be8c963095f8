//! What a statement changes for those behind it in the same query string or pipeline.
//!
//! Owns: telling where what follows can be understood only once it has run. A name may then stand for another prepared statement, and on a
//! sharded database, where a plan says where rows are, a text may mean something else under other settings. Never does: following what has
//! changed (`effects.rs`). Main functions: [`Session::ends_understanding`], [`Session::check_order`].

use pgherd_router::{
    Action, MEANING_SETTINGS, Planned, SettingAction, SettingScope, SettingValue, StatementPlan,
};

use crate::block::is_control;
use crate::effects::canonical;
use crate::failure::{Failure, not_supported};
use crate::message::{Step, single_plan};
use crate::parameters::is_own_setting;
use crate::session::Session;
use crate::settings::{Overrides, Settings};

/// Settings that decide what a name stands for, beside [`MEANING_SETTINGS`].
const NAMING_SETTINGS: [&str; 3] = ["search_path", "role", "session_authorization"];

/// The settings behind a statement of a query string.
enum Then {
    /// Those before it.
    Unchanged,
    Settings(Settings),
    Unknown,
}

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

    /// Refuses a query string in which a statement would be placed otherwise if what stands before it had run: it is planned as a whole.
    ///
    /// # Errors
    /// 0A000 on a sharded database.
    pub(crate) fn check_order(&mut self, planned: &Planned, sql: &str) -> Result<(), Failure> {
        let mut now = Then::Unchanged;
        for (index, statement) in planned.plan.statements.iter().enumerate() {
            let same = means_always_the_same(statement)
                || match &now {
                    Then::Unchanged => true,
                    Then::Unknown => false,
                    Then::Settings(settings) => self.is_placed_alike(settings, planned, index, sql),
                };
            if !same {
                return Err(not_supported(
                    "a query string cannot change settings that decide what its later statements mean",
                    "Where rows are is decided before anything runs, by search_path, role, time zone and the like as they are then.",
                    "Send the SET, or what ends a SET LOCAL, by itself.",
                ));
            }
            if self.changes_meaning(statement) {
                now = self.foresee(now, statement);
            } else if may_undo(&statement.action) && !matches!(now, Then::Unchanged) {
                now = Then::Unknown;
            }
        }
        Ok(())
    }

    /// What the settings will be once a statement that changes them has run.
    fn foresee(&self, now: Then, statement: &StatementPlan) -> Then {
        let mut settings = match now {
            Then::Unchanged => self.settings.clone(),
            Then::Settings(settings) => settings,
            Then::Unknown => return Then::Unknown,
        };
        match &statement.action {
            Action::Set(setting) if self.knows_after(setting, &mut settings) => {
                Then::Settings(settings)
            }
            _ => Then::Unknown,
        }
    }

    /// Follows SET and RESET as far as texts mean something else by them. False where what they lead to is not known.
    fn knows_after(&self, setting: &SettingAction, settings: &mut Settings) -> bool {
        let Some(name) = setting.name.as_deref() else {
            let begins_otherwise = *settings.overrides() != Overrides::default()
                || self
                    .beginning
                    .startup()
                    .iter()
                    .any(|(name, _)| is_own_setting(name));
            settings.reset_all();
            for (name, texts) in self.beginning.lists() {
                if name != "role" {
                    settings.know(&name, Some(&texts.join("\u{0}")), false);
                }
            }
            return !begins_otherwise;
        };
        let is_local = setting.scope == SettingScope::Local;
        let value = match &setting.value {
            SettingValue::Texts(texts) if texts.iter().all(|text| text.is_ascii()) => {
                Some(canonical(name, texts, settings.value(name)))
            }
            SettingValue::Default => self.beginning.texts(name),
            SettingValue::Texts(_) | SettingValue::Opaque => return false,
        };
        let value = value.map(|texts| texts.join("\u{0}"));
        settings.know(name, value.as_deref(), is_local);
        true
    }

    /// Whether a statement of a text is planned under other settings as it was, its literals included.
    fn is_placed_alike(
        &mut self,
        settings: &Settings,
        planned: &Planned,
        index: usize,
        sql: &str,
    ) -> bool {
        let now = std::mem::replace(&mut self.settings, settings.clone());
        let then = self.plan_now(sql, &[]);
        self.settings = now;
        let statement = planned.plan.statements.get(index);
        // what EXECUTE runs is planned by itself
        !matches!(
            statement.map(|statement| &statement.action),
            Some(Action::Prepare { .. } | Action::Execute { .. })
        ) && then.is_ok_and(|then| {
            then.literals == planned.literals && then.plan.statements.get(index) == statement
        })
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

/// Whether a statement may take back what others before it in the text have set.
fn may_undo(action: &Action) -> bool {
    is_control(action) && !matches!(action, Action::Begin(_) | Action::Savepoint(_))
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
