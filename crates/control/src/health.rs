//! Asking one server again and again how it is.
//!
//! Owns the open connection that asks, and the fresh logins beside it. Never decides who is primary. Main type: [`Watcher`].
//!
//! Three ways to notice that a server is gone: its open connection breaks (at once), a question stays unanswered, or
//! a fresh login is refused while the open connection still answers (a killed postmaster leaves its backends behind).

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::{Health, NodeId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

use crate::error::ControlError;
use crate::failover::evidence::Contact;
use crate::login::{OpenConnection, Server};
use crate::settings::Pace;
use crate::testimony::{STATUS, Testimony};

/// Where pgherd promotes: the reign that wrote there last.
const REIGN: &str = "SELECT epoch FROM pgherd.reign";

/// What a watcher has found.
#[derive(Debug)]
pub(crate) struct Report {
    /// The server.
    pub(crate) node: NodeId,
    /// When it was asked.
    pub(crate) asked: Instant,
    /// Whether it answers.
    pub(crate) health: Health,
    /// What asking it met.
    pub(crate) contact: Contact,
    /// What it said; `None` where it did not answer.
    pub(crate) testimony: Option<Testimony>,
}

/// Watches one server until the reports are no longer received.
pub(crate) struct Watcher {
    server: Arc<Server>,
    pace: Pace,
    reports: mpsc::Sender<Report>,
    last: Health,
}

/// Where a watcher stands between two questions.
struct Watch {
    connection: OpenConnection,
    status: Statement,
    /// Where there is such a row.
    reign: Option<Statement>,
    next_fresh: Instant,
    /// [`Server::moves`] when it was opened.
    moves: u64,
}

impl Watcher {
    pub(crate) fn new(server: Arc<Server>, pace: Pace, reports: mpsc::Sender<Report>) -> Self {
        Self {
            server,
            pace,
            reports,
            last: Health::Unknown,
        }
    }

    /// Ends with the receiver of its reports, or by being aborted.
    pub(crate) async fn run(mut self) {
        let mut watch: Option<Watch> = None;
        let mut next_look_up = Instant::now();
        loop {
            let asked = Instant::now();
            if !self.pace.names.is_zero() && asked >= next_look_up {
                next_look_up = asked + self.pace.names;
                let server = Arc::clone(&self.server);
                // not waited for: a name server that is slow does not make this one seem so
                tokio::spawn(async move { server.look_up().await });
            }
            if watch
                .as_ref()
                .is_some_and(|open| open.moves != self.server.moves())
            {
                watch = None;
            }
            let answer = match &mut watch {
                Some(open) => self.ask(open).await,
                None => match self.connect().await {
                    Ok(opened) => self.ask(watch.insert(opened)).await,
                    Err(error) => Err(error),
                },
            };
            let pause = match answer {
                Ok(testimony) => {
                    let took = asked.elapsed();
                    let contact = Contact::Answered { took };
                    if !self.report(asked, contact, Some(testimony)).await {
                        return;
                    }
                    self.pace.health
                }
                Err(error) => {
                    let lost = watch.take().is_some();
                    if lost && matches!(error, ControlError::Statement { .. }) {
                        // Only the connection is known to be gone: the server may be there, ask it afresh at once.
                        tracing::debug!(server = %self.server.name, %error, "lost the open connection");
                        Duration::ZERO
                    } else {
                        self.log_once(&error);
                        let contact = Contact::of(&error);
                        if !self.report(asked, contact, None).await {
                            return;
                        }
                        self.pace.after_refusal
                    }
                }
            };
            self.wait(asked + pause, &mut watch).await;
        }
    }

    async fn connect(&self) -> Result<Watch, ControlError> {
        let moves = self.server.moves();
        let connection = self.server.open().await?;
        let status = self
            .server
            .within(
                self.pace.patience,
                "prepare the health check",
                connection.prepare(STATUS),
            )
            .await?;
        // most servers have no such table
        let reign = self
            .server
            .within(
                self.pace.patience,
                "prepare the health check",
                connection.prepare(REIGN),
            )
            .await
            .ok();
        Ok(Watch {
            connection,
            status,
            reign,
            next_fresh: Instant::now() + self.pace.fresh_login,
            moves,
        })
    }

    async fn ask(&self, watch: &mut Watch) -> Result<Testimony, ControlError> {
        let question = watch.connection.query_one(&watch.status, &[]);
        let row = self
            .server
            .within(self.pace.patience, "answer the health check", question)
            .await?;
        if Instant::now() >= watch.next_fresh {
            self.try_fresh_login().await?;
            watch.next_fresh = Instant::now() + self.pace.fresh_login;
        }
        let mut testimony = Testimony::read(&row)
            .map_err(|wrong| self.server.unexpected("answer the health check", wrong))?;
        if let Some(reign) = &watch.reign {
            let question = watch.connection.query_opt(reign, &[]);
            let row = self
                .server
                .within(self.pace.patience, "say who wrote there last", question)
                .await?;
            let reign: Option<i64> = row.and_then(|row| row.try_get(0).ok());
            testimony.reign = reign.map(i64::cast_unsigned);
        }
        Ok(testimony)
    }

    /// Only a refused or unanswered login says something about the server: having no room for one more or still
    /// starting does not, nor does a login that is wrong.
    async fn try_fresh_login(&self) -> Result<(), ControlError> {
        for last in [false, true] {
            match self.server.open().await {
                Ok(_) => return Ok(()),
                Err(error) if error.sql_state().is_some() => {
                    tracing::warn!(server = %self.server.name, %error, "a fresh login fails while the open connection answers");
                    return Ok(());
                }
                Err(error) if last => {
                    return Err(ControlError::Refused {
                        source: Box::new(error),
                    });
                }
                Err(_) => sleep(self.pace.after_refusal).await,
            }
        }
        Ok(())
    }

    /// False once nobody listens.
    async fn report(
        &mut self,
        asked: Instant,
        contact: Contact,
        testimony: Option<Testimony>,
    ) -> bool {
        let health = match testimony {
            Some(_) => Health::Up,
            None => Health::Down,
        };
        if health != self.last {
            match health {
                Health::Up => tracing::info!(server = %self.server.name, "server answers"),
                Health::Down | Health::Unknown => {}
            }
            self.last = health;
        }
        self.reports
            .send(Report {
                node: self.server.id,
                asked,
                health,
                contact,
                testimony,
            })
            .await
            .is_ok()
    }

    fn log_once(&self, error: &ControlError) {
        if self.last == Health::Down {
            tracing::debug!(server = %self.server.name, %error, "server is still down");
        } else {
            let wrong_login = [
                SqlState::INVALID_PASSWORD,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            ];
            if error
                .sql_state()
                .is_some_and(|state| wrong_login.contains(state))
            {
                tracing::error!(server = %self.server.name, %error, "the control login is refused");
            } else {
                tracing::warn!(server = %self.server.name, %error, "server is down");
            }
        }
    }

    /// Until `deadline`, or until the open connection breaks.
    async fn wait(&self, deadline: Instant, watch: &mut Option<Watch>) {
        match watch {
            None => sleep_until(deadline).await,
            Some(open) => tokio::select! {
                () = sleep_until(deadline) => {}
                () = self.server.nudged() => {}
                () = open.connection.closed() => {
                    tracing::debug!(server = %self.server.name, "the server closed the open connection");
                    *watch = None;
                }
            },
        }
    }
}
