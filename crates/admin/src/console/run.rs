//! Running one command.

use pgherd_protocol::{PgError, SqlState, TransactionStatus};

use crate::answer::{Answer, Column, integer, text};
use crate::command::AdminCommand;
use crate::commands::explain_failover;
use crate::doing::Acting;

/// The column of a setting that a driver asks for.
const SETTING: &[Column] = &[text("setting", "Its value on the console.")];
/// The column of `SELECT 1`, named as Postgres names it.
const PING: &[Column] = &[integer("?column?", "The number asked for.")];

/// What came of a command.
pub(super) enum Outcome {
    /// No rows, and a tag.
    Done(&'static str),
    /// Rows, and a tag.
    Rows(Answer, &'static str),
}

/// The columns of what a command gives; `None` where it gives no rows.
pub(super) fn columns_of(command: &AdminCommand) -> Option<&'static [Column]> {
    match command {
        AdminCommand::Show { show, .. } => Some(show.columns),
        AdminCommand::ExplainFailover { .. } => Some(explain_failover::COLUMNS),
        AdminCommand::ShowSetting { .. } => Some(SETTING),
        AdminCommand::Ping { .. } => Some(PING),
        AdminCommand::Do { .. }
        | AdminCommand::Set { .. }
        | AdminCommand::Begin { .. }
        | AdminCommand::End { .. } => None,
    }
}

/// Runs a command. Blocks mean nothing here but what drivers see of them: a status, and 25P02 after an error.
///
/// # Errors
/// 25P02, and what the command itself says.
pub(super) async fn run(
    command: &AdminCommand,
    acting: &mut Acting<'_>,
    status: &mut TransactionStatus,
) -> Result<Outcome, PgError> {
    let failed = *status == TransactionStatus::Failed;
    Ok(match command {
        AdminCommand::End { tag } => {
            *status = TransactionStatus::Idle;
            // as Postgres: what failed is rolled back, whatever was asked
            Outcome::Done(if failed { "ROLLBACK" } else { tag })
        }
        _ if failed => {
            return Err(PgError::error(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        AdminCommand::Begin { tag } => {
            *status = TransactionStatus::InTransaction;
            Outcome::Done(tag)
        }
        AdminCommand::Do { doing, arguments } => {
            acting.run(doing, arguments).await?;
            Outcome::Done(doing.words)
        }
        AdminCommand::Set { tag } => Outcome::Done(tag),
        AdminCommand::Show { show, like } => {
            Outcome::Rows(show.rows(acting.sight(), like.as_deref()), "SHOW")
        }
        AdminCommand::ExplainFailover { shard } => {
            Outcome::Rows(explain_failover::rows(acting.sight(), shard)?, "EXPLAIN")
        }
        AdminCommand::ShowSetting { value, .. } => {
            let mut answer = Answer::new(SETTING);
            answer.row([(*value).into()]);
            Outcome::Rows(answer, "SHOW")
        }
        AdminCommand::Ping { value } => {
            let mut answer = Answer::new(PING);
            answer.row([(*value).into()]);
            Outcome::Rows(answer, "SELECT 1")
        }
    })
}
