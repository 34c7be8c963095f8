//! The process around the herd, as the console reaches it.
//!
//! Owns: the configuration in force as it is shown, the periods of statistics, and the channel by which the process is asked for what only it
//! can do. Never does: reading or changing a configuration, or ending the process; the binary does. Main type: [`Operations`].

use std::sync::{Arc, PoisonError, RwLock};

use pgherd_control::FailoverCommand;
use pgherd_protocol::{PgError, SqlState};
use pgherd_session::Herd;
use pgherd_topology::ShardId;
use tokio::sync::{mpsc, oneshot};

use crate::statistics::{PERIOD, Statistics};

/// A key of the configuration, as it is shown. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its path into the file.
    pub key: String,
    /// Its value in force; `None` is no limit, or nothing.
    pub value: Option<String>,
    /// Its value where the file says nothing.
    pub default: Option<String>,
    /// Whether a reload puts another value in force.
    pub changeable: bool,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Whoever is connected is cut off.
    AtOnce,
    /// Clients are ended with their transactions, in the time that a drain may take.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// What the console asks of the process.
#[derive(Debug)]
pub enum ProcessRequest {
    /// To read the configuration again. The answer names what takes a restart, or says why nothing was changed.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// To log at another level. The answer says what is wrong with it.
    LogLevel(String, oneshot::Sender<Result<(), String>>),
    /// To have a shard's primary changed, or one of its servers taken in or out.
    Order(Order),
    /// To promote of its own accord no more, or again. The answer says why that could not be remembered.
    Maintenance(bool, oneshot::Sender<Result<(), String>>),
    /// To end.
    Shutdown(Shutdown),
}

/// Something that control is to do with a shard.
#[derive(Debug)]
pub struct Order {
    /// The database.
    pub database: Box<str>,
    /// The shard.
    pub shard: ShardId,
    /// What.
    pub command: FailoverCommand,
    /// Told how far it has come.
    pub progress: mpsc::UnboundedSender<String>,
    /// What came of it, in words; or why it was not done.
    pub done: oneshot::Sender<Result<String, String>>,
}

/// So many requests may be under way.
const MOST_REQUESTS: usize = 16;

/// What the console knows of the process, and how it asks it for something.
#[derive(Debug)]
pub struct Operations {
    configuration: RwLock<Arc<[ConfigEntry]>>,
    statistics: Statistics,
    requests: mpsc::Sender<ProcessRequest>,
}

impl Operations {
    /// A process that starts now. Where the receiver is dropped, requests fail.
    pub fn channel() -> (Self, mpsc::Receiver<ProcessRequest>) {
        let (requests, asked) = mpsc::channel(MOST_REQUESTS);
        let operations = Self {
            configuration: RwLock::default(),
            statistics: Statistics::begin(),
            requests,
        };
        (operations, asked)
    }

    /// Asks the process for something, and waits for its answer.
    ///
    /// # Errors
    /// 57P01 where it takes no requests any more.
    pub(crate) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> ProcessRequest,
    ) -> Result<T, PgError> {
        let (answer, answered) = oneshot::channel();
        self.tell(request(answer)).await?;
        answered.await.map_err(|_| ending())
    }

    /// Asks the process for what has no answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn tell(&self, request: ProcessRequest) -> Result<(), PgError> {
        let told = self.requests.send(request).await;
        told.map_err(|_| ending())
    }

    /// The configuration in force.
    pub fn configuration(&self) -> Arc<[ConfigEntry]> {
        let configuration = self.configuration.read();
        Arc::clone(&configuration.unwrap_or_else(PoisonError::into_inner))
    }

    /// Another configuration is in force.
    pub fn set_configuration(&self, entries: Vec<ConfigEntry>) {
        let configuration = self.configuration.write();
        *configuration.unwrap_or_else(PoisonError::into_inner) = entries.into();
    }

    /// Figures over periods.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Notes the totals each period; never returns. Cancel-safe.
    pub async fn keep_statistics(&self, herd: &Herd) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.statistics.note(herd);
        }
    }
}

fn ending() -> PgError {
    PgError::error(SqlState::ADMIN_SHUTDOWN, "pgherd is shutting down")
}
