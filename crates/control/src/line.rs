//! A connection to a server that is open before it is needed.
//!
//! Owns opening it, and opening it anew where it broke: with every slot of a server taken, a new one is refused when it matters most.
//! Main type: [`Line`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::error::ControlError;
use crate::login::{OpenConnection, Server};

/// One server, and the connection to it.
pub(crate) struct Line {
    pub(crate) server: Arc<Server>,
    /// With [`Server::moves`] when it was opened.
    open: Mutex<Option<(Arc<OpenConnection>, u64)>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Line")
            .field("server", &self.server.name)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Opens nothing yet.
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self {
            server,
            open: Mutex::default(),
        }
    }

    /// The open connection, or a new one.
    ///
    /// # Errors
    /// [`ControlError::Connect`], [`ControlError::Silent`].
    pub(crate) async fn client(&self) -> Result<Arc<OpenConnection>, ControlError> {
        let mut open = self.open.lock().await;
        let moves = self.server.moves();
        if let Some((client, opened)) = &*open
            && !client.is_closed()
            && *opened == moves
        {
            return Ok(Arc::clone(client));
        }
        *open = None;
        let client = Arc::new(self.server.open().await?);
        *open = Some((Arc::clone(&client), moves));
        Ok(client)
    }

    /// Awaits statements on it for at most `bound`. Where they are not answered the connection is given up.
    ///
    /// # Errors
    /// Those of [`Line::client`], and [`ControlError::Statement`].
    pub(crate) async fn run<T, F>(
        &self,
        bound: Duration,
        action: &'static str,
        statements: impl FnOnce(Arc<OpenConnection>) -> F,
    ) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let client = self.client().await?;
        let done = self.server.within(bound, action, statements(client)).await;
        if let Err(ControlError::Silent { .. }) = &done {
            self.give_up().await;
        }
        done
    }

    /// Closes the connection, on which something may still be under way.
    pub(crate) async fn give_up(&self) {
        *self.open.lock().await = None;
    }

    /// Runs statements whose answers say nothing.
    ///
    /// # Errors
    /// As [`Line::run`], with the server's patience.
    pub(crate) async fn batch(
        &self,
        action: &'static str,
        statements: &[String],
    ) -> Result<(), ControlError> {
        let patience = self.server.patience();
        self.run(patience, action, async |client: Arc<OpenConnection>| {
            // one by one: ALTER SYSTEM does not run within the transaction of a string of statements
            for statement in statements {
                client.batch_execute(statement).await?;
            }
            Ok(())
        })
        .await
    }

    /// Asks for one row.
    ///
    /// # Errors
    /// As [`Line::run`], with the server's patience.
    pub(crate) async fn row(
        &self,
        action: &'static str,
        question: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, ControlError> {
        let patience = self.server.patience();
        self.run(patience, action, async |client: Arc<OpenConnection>| {
            Client::query_one(&client, question, parameters).await
        })
        .await
    }
}
