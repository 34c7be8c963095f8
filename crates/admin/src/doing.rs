//! Commands that change something: what all of them share.
//!
//! Owns: who acts on what, telling an operator how far a long one has come, and waiting until it is done, cancelled, or nobody is left to
//! hear of it. Never does: the commands themselves (see `commands`). Main type: [`Doing`].

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_pool::Transport;
use pgherd_protocol::{PgError, Severity, SqlState};
use pgherd_session::{Client, ConsoleRight, Database, Herd};

use crate::commands::{Sight, sorted_databases};
use crate::operations::Operations;

/// How often it is looked whether what is waited for has come.
const LOOK_PACE: Duration = Duration::from_millis(20);
/// How often an operator is told how far it has come, at most.
const NOTICE_PACE: Duration = Duration::from_secs(1);
/// So many bytes an operator may send while it waits before its leaving is not noticed any more.
const READ_AHEAD: usize = 64 * 1024;

/// A command under way. Dropped, it has done what it has done so far.
pub(crate) type Run<'a> = Pin<Box<dyn Future<Output = Result<(), PgError>> + Send + 'a>>;

/// A command that changes something.
pub struct Doing {
    /// What to type.
    pub syntax: &'static str,
    /// What it does, in a sentence or some.
    pub description: &'static str,
    /// The words that it begins with, in upper case. The tag of its answer too.
    pub words: &'static str,
    /// How many arguments may follow.
    pub(crate) arguments: (usize, usize),
    pub(crate) run: for<'a> fn(&'a mut Acting<'_>, &'a [String]) -> Run<'a>,
}

impl PartialEq for Doing {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Doing {}

impl fmt::Debug for Doing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.syntax)
    }
}

/// An operator, and what it acts on.
pub(crate) struct Acting<'a> {
    pub(crate) herd: &'a Herd,
    pub(crate) operations: &'a Operations,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) right: ConsoleRight,
    pub(crate) transport: &'a mut Transport,
}

impl Acting<'_> {
    /// What is looked at.
    pub(crate) fn sight(&self) -> Sight<'_> {
        Sight {
            herd: self.herd,
            operations: self.operations,
        }
    }

    /// Runs a command, if the operator may, and has the log say who did what.
    ///
    /// # Errors
    /// 42501 for who may only look, and what the command says.
    pub(crate) async fn run(&mut self, doing: &Doing, arguments: &[String]) -> Result<(), PgError> {
        match self.right {
            ConsoleRight::Admin => {}
            ConsoleRight::Monitor => {
                let refused = format!("permission denied for {}", doing.words);
                return Err(PgError::error(SqlState::INSUFFICIENT_PRIVILEGE, refused)
                    .hint("A user of the console with `right: admin` may do it."));
            }
        }
        let identity = self.client.identity();
        let (user, address) = (&*identity.user, identity.peer.to_string());
        let command = [&[doing.words.to_owned()], arguments].concat().join(" ");
        tracing::info!(user, address, command, "a command of the console");
        let done = (doing.run)(self, arguments).await;
        if let Err(error) = &done {
            tracing::info!(
                user,
                address,
                command,
                error = error.message,
                "a command of the console was not done"
            );
        }
        done
    }

    /// Tells the operator something at once.
    ///
    /// # Errors
    /// 57P01 where it is gone.
    pub(crate) async fn notice(&mut self, text: impl Into<String>) -> Result<(), PgError> {
        PgError::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, text)
            .encode_notice(&mut self.transport.outbox);
        self.transport.flush().await.map_err(|error| gone(&error))
    }

    /// The database of a name; all of them where none is given.
    ///
    /// # Errors
    /// 3D000.
    pub(crate) fn databases(&self, arguments: &[String]) -> Result<Vec<Arc<Database>>, PgError> {
        let all = sorted_databases(self.herd);
        let Some(name) = arguments.first() else {
            return Ok(all);
        };
        let named: Vec<_> = all
            .into_iter()
            .filter(|database| database.name() == name)
            .collect();
        if named.is_empty() {
            return Err(PgError::error(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{name}\" does not exist"),
            )
            .hint("SHOW DATABASES lists them."));
        }
        Ok(named)
    }

    /// Waits until nothing is left, telling how much is. `what` names it in the plural.
    ///
    /// # Errors
    /// 57014 where the operator cancels it, 57P01 where it is gone.
    pub(crate) async fn until_none(
        &mut self,
        what: &str,
        left: impl Fn() -> usize + Send,
    ) -> Result<(), PgError> {
        let (mut told, mut next) = (0, Instant::now());
        loop {
            let count = left();
            if count == 0 {
                return Ok(());
            }
            if count != told && Instant::now() >= next {
                self.notice(format!("waiting for {count} {what}")).await?;
                (told, next) = (count, Instant::now() + NOTICE_PACE);
            }
            let transport = &mut *self.transport;
            tokio::select! {
                () = tokio::time::sleep(LOOK_PACE) => {}
                cause = self.client.cancelled() => return Err(cause.error()),
                error = poll_fn(|context| transport.poll_ended(context, READ_AHEAD)) => {
                    return Err(gone(&error));
                }
            }
        }
    }
}

fn gone(error: &io::Error) -> PgError {
    PgError::fatal(
        SqlState::ADMIN_SHUTDOWN,
        format!("the operator is gone: {error}"),
    )
}

/// Something is not as a command needs it.
pub(crate) fn not_in_state(text: impl Into<String>) -> PgError {
    PgError::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text)
}
