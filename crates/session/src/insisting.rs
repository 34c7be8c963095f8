//! `synchronous_commit` on shards whose commits standbys acknowledge: nobody does with less.
//!
//! Owns: the refusal of what would make a commit wait for less than the standbys. What code hides that is not read, COMMIT takes back
//! (`committing`). Never does: I/O. Main function: [`check`].

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{SettingAction, SettingValue, StatementPlan};
use pgherd_topology::Topology;

use crate::failure::Failure;
use crate::read_only::first_word;
use crate::session::Session;

const NAME: &str = "synchronous_commit";

/// The values, as Postgres reads them, with which a commit does not wait until standbys have it on disk.
const WEAKER: [&str; 6] = ["off", "local", "remote_write", "false", "no", "0"];

/// Whether a setting lets commits wait for less than the standbys.
pub(crate) fn weakens(name: &str, value: &str) -> bool {
    name.eq_ignore_ascii_case(NAME)
        && WEAKER
            .iter()
            .any(|weaker| weaker.eq_ignore_ascii_case(value.trim()))
}

fn is_synchronous(topology: &Topology) -> bool {
    let mut shards = topology.shards.iter();
    shards.any(|shard| shard.continuity.synchronous)
}

/// Refuses a startup message that asks for it.
///
/// # Errors
/// FATAL 0A000.
pub(crate) fn check_startup(
    settings: &[(String, String)],
    topology: &Topology,
) -> Result<(), PgError> {
    let weaker = settings.iter().find(|(name, value)| weakens(name, value));
    match weaker {
        Some((_, value)) if is_synchronous(topology) => Err(refusal(PgError::fatal, value)),
        _ => Ok(()),
    }
}

fn refusal(kind: impl FnOnce(SqlState, String) -> PgError, value: &str) -> PgError {
    kind(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("synchronous_commit cannot be \"{value}\" here"),
    )
    .detail("Standbys acknowledge each commit (failover.sync), so that a failover loses nothing that was acknowledged. A commit that does not wait for them would be lost.")
    .hint("Leave synchronous_commit as it is: \"on\" and \"remote_apply\" are possible.")
}

impl Session {
    /// Refuses a setting that would make commits wait for less.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_insisted(&self, setting: &SettingAction) -> Result<(), Failure> {
        let name = setting.name.as_deref().unwrap_or_default();
        let SettingValue::Texts(texts) = &setting.value else {
            return Ok(());
        };
        match texts.iter().find(|text| weakens(name, text)) {
            Some(value) if is_synchronous(&self.topology()) => {
                Err(refusal(PgError::error, value).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses an update of the settings as a table: which it sets is not read.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_settings_table(
        &self,
        statement: &StatementPlan,
        text: &str,
    ) -> Result<(), Failure> {
        let names_it = statement
            .relations
            .iter()
            .any(|relation| &*relation.name == "pg_settings");
        if !names_it
            || !first_word(text).eq_ignore_ascii_case("update")
            || !is_synchronous(&self.topology())
        {
            return Ok(());
        }
        Err(PgError::error(
            SqlState::FEATURE_NOT_SUPPORTED,
            "pg_settings cannot be updated here",
        )
        .detail("It could set synchronous_commit, and standbys acknowledge each commit (failover.sync).")
        .hint("Use SET, or set_config.")
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_less_is_told_from_what_does_not() {
        for value in ["off", "LOCAL", " remote_write", "false", "0"] {
            assert!(weakens("Synchronous_Commit", value), "{value}");
        }
        for value in ["on", "remote_apply", "true", "1", "default"] {
            assert!(!weakens("synchronous_commit", value), "{value}");
        }
        assert!(!weakens("jit", "off"));
    }
}
