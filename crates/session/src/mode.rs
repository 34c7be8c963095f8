//! What a pool's mode asks of a session beyond what mode transaction does.
//!
//! Owns: in mode session, which connections are kept and what is told of one that is lost; in mode statement, the refusal of what would
//! leave a transaction block open. Never does: giving connections back (`legs`).

use pgherd_pool::{PoolMode, ServerConnection};
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{Access, Action, SettingAction, SettingValue, StatementPlan};

use crate::failure::{Failure, not_supported};
use crate::session::Session;

/// Why a connection is kept in mode session.
const KEPT: &str = "mode session";

impl Session {
    /// The access that a connection is chosen for: one that is kept for all that is to come must be able to write.
    pub(crate) fn access_in_mode(&self, access: Access) -> Access {
        match self.legs.mode() {
            PoolMode::Session if !self.database.is_read_only() => Access::Write,
            PoolMode::Session | PoolMode::Transaction | PoolMode::Statement => access,
        }
    }

    /// Why a connection that was just taken is kept to the client's end, if it is. It serves nobody else before it is reset then.
    pub(crate) fn keeps_legs(&self, connection: &mut ServerConnection) -> Option<&'static str> {
        match self.legs.mode() {
            PoolMode::Session => {
                connection.mark_changed(KEPT);
                Some(KEPT)
            }
            PoolMode::Transaction | PoolMode::Statement => None,
        }
    }

    /// What is told of a lost connection: in mode session all that the session had there is gone with it.
    pub(crate) fn lost_in_mode(&self, error: PgError) -> Failure {
        match self.legs.mode() {
            PoolMode::Session => {
                let fatal = PgError::fatal(SqlState::ADMIN_SHUTDOWN, error.message);
                let fatal = match error.detail {
                    Some(detail) => fatal.detail(detail),
                    None => fatal,
                };
                Failure::Fatal(Box::new(fatal.hint(
                    "In mode session a client ends with its server connection. Whether the last statement took effect is not known.",
                )))
            }
            PoolMode::Transaction | PoolMode::Statement => error.into(),
        }
    }

    /// Refuses statements that the mode is not for: outside of mode session another session's authorization, in mode statement what would
    /// leave a transaction block open.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_mode<'a>(
        &self,
        statements: impl IntoIterator<Item = &'a StatementPlan> + Clone,
    ) -> Result<(), Failure> {
        for statement in statements.clone() {
            if let Action::Set(setting) = &statement.action {
                check_authorization(self.legs.mode(), setting)?;
                self.check_insisted(setting)?;
            }
        }
        if self.legs.mode() != PoolMode::Statement {
            return Ok(());
        }
        let opens = statements
            .into_iter()
            .fold(false, |open, statement| match &statement.action {
                Action::Begin(_) => true,
                Action::Commit { chain } | Action::Rollback { chain } => open && *chain,
                _ => open,
            });
        if opens {
            return Err(not_supported(
                "transaction blocks are not possible in mode statement",
                "The server connection is given back after each statement, and this would leave a block open.",
                "Send the whole block as one query string, or set the pool's mode to transaction.",
            ));
        }
        Ok(())
    }

    /// In mode statement a block that failed within its query string holds no server any more: the client can only end it.
    pub(crate) async fn end_failed_statement(&mut self) {
        if self.legs.mode() == PoolMode::Statement
            && self.open_run.is_none()
            && self.block.as_ref().is_some_and(|block| block.failed)
        {
            self.roll_back_legs().await;
        }
    }
}

/// Refuses another session's authorization outside of mode session. RESET is harmless: it leads back to the login.
///
/// # Errors
/// 0A000.
pub(crate) fn check_authorization(mode: PoolMode, setting: &SettingAction) -> Result<(), Failure> {
    let authorizes = setting.name.as_deref() == Some("session_authorization")
        && setting.value != SettingValue::Default;
    if mode == PoolMode::Session || !authorizes {
        return Ok(());
    }
    Err(not_supported(
        "SET SESSION AUTHORIZATION is possible in mode session only",
        "The server connection serves other clients too, and whoever is authorized there decides what they may do.",
        "Use SET ROLE, or set the pool's mode to session.",
    ))
}
