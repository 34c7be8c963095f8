//! `set_config` in a query of the client's: what it sets follows the client as what SET sets.
//!
//! Owns: which settings a query's calls change at an execution, and noting them once their row has come. Never does: reading the query (router).
//! Main function: [`Session::note_set_config`].

use pgherd_protocol::{BackendMessage, Frame};
use pgherd_router::{Action, ParameterSource, Planned, SettingAction, SettingValue, StatementPlan};
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use crate::effects::set_text;
use crate::failure::Failure;
use crate::mode::check_authorization;
use crate::session::Session;
use crate::settings::NewValue;

/// A statement at an execution.
#[derive(Clone, Copy)]
pub(crate) struct Executed<'e> {
    pub(crate) statement: &'e StatementPlan,
    /// The plan of its query string.
    pub(crate) planned: &'e Planned,
    /// The query string.
    pub(crate) sql: &'e str,
    /// The values that it was bound to.
    pub(crate) parameters: Option<&'e (dyn ParameterSource + Sync)>,
}

/// What each call sets; `None` where that is not known.
type Changes = SmallVec<[Option<SettingAction>; 1]>;

impl Session {
    /// What the calls of a statement change. `row` is their result, if it is there.
    fn set_by(&self, executed: &Executed<'_>, row: Option<&Frame>) -> Changes {
        if let Some(execution) = self.execution(executed, None) {
            let inner = execution.as_executed();
            return inner.map_or_else(Changes::new, |inner| self.set_by(&inner, row));
        }
        let Action::SetConfig(calls) = &executed.statement.action else {
            return Changes::new();
        };
        let values = self.values(executed.planned, executed.sql, executed.parameters);
        let row = row.and_then(|row| match BackendMessage::parse(row) {
            Ok(BackendMessage::DataRow(row)) => Some(row),
            _ => None,
        });
        let column = |index: usize| row.as_ref()?.values().nth(index).flatten();
        calls
            .iter()
            .map(|call| call.read(&values, column(call.column)))
            .collect()
    }

    /// Whether the row of a statement tells what it has set.
    pub(crate) fn calls_set_config(&self, statement: &StatementPlan) -> bool {
        // the same text may have made it
        let run = self.run_by(statement);
        run.is_none_or(|run| matches!(run.action, Action::SetConfig(_)))
    }

    /// Refuses what SET would not be allowed to set.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_set_config(&self, executed: &Executed<'_>) -> Result<(), Failure> {
        let Action::SetConfig(calls) = &executed.statement.action else {
            return Ok(());
        };
        let values = self.values(executed.planned, executed.sql, executed.parameters);
        for call in calls {
            // a value that is not known yet is not the default
            if let Some(setting) = call.read(&values, Some(b"")) {
                check_authorization(self.legs.mode(), &setting)?;
                self.check_insisted(&setting)?;
            }
        }
        Ok(())
    }

    /// Whether a statement takes settings back to the login's.
    pub(crate) fn resets(&self, executed: &Executed<'_>) -> bool {
        let is_default = |setting: &SettingAction| setting.value == SettingValue::Default;
        match &executed.statement.action {
            Action::Set(setting) => is_default(setting),
            _ => self.set_by(executed, None).iter().flatten().any(is_default),
        }
    }

    /// A query that calls `set_config` has run on a server. `row` is its result, if it was seen.
    pub(crate) fn note_set_config(
        &mut self,
        executed: &Executed<'_>,
        row: Option<&Frame>,
        node: NodeId,
    ) {
        for change in self.set_by(executed, row) {
            let Some(setting) = change else {
                self.pin(node, "setting");
                continue;
            };
            if self.check_insisted(&setting).is_err() {
                // its value was not known before it was set
                let connection = &mut self.legs.at(node).connection;
                connection.mark_dirty("synchronous_commit was set");
                continue;
            }
            let value = match &setting.value {
                SettingValue::Texts(texts) => NewValue::Texts(texts),
                SettingValue::Default | SettingValue::Opaque => NewValue::Login,
            };
            let name = setting.name.as_deref().unwrap_or_default();
            let is_local = setting.scope == pgherd_router::SettingScope::Local;
            let text = set_text(name, value, is_local);
            self.note_set(&setting, &text, node);
        }
    }
}
