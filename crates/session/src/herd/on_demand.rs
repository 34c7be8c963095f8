//! Databases that no configuration names: made when somebody who may asks for one.
//!
//! Owns: how many there are, and their end after nobody has used one for long, or when a server is to take one away. Never does: making one (the binary gives the recipe), or
//! finding out whether the servers have it: that is said by them at its first login. Main type: [`OnDemand`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgherd_protocol::{PgError, SqlState};

use super::Database;

/// How long Postgres waits for others to leave a database (`CountOtherDBBackends` in procarray.c).
const SERVERS_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked meanwhile whether a database's last client has gone.
const VACATING_PACE: Duration = Duration::from_millis(20);

/// The bounds of databases made on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDemandLimits {
    /// How many there may be at once.
    pub databases: usize,
    /// After how long without a client one goes.
    pub idle_timeout: Duration,
}

impl Default for OnDemandLimits {
    fn default() -> Self {
        Self {
            databases: 100,
            idle_timeout: Duration::from_secs(3600),
        }
    }
}

/// Makes the database of a name like the template.
type Recipe = Box<dyn Fn(&Database, &str) -> Arc<Database> + Send + Sync>;

struct Made {
    database: Arc<Database>,
    used: Instant,
}

/// Makes databases by a template.
pub struct OnDemand {
    template: Arc<Database>,
    recipe: Recipe,
    limits: Mutex<OnDemandLimits>,
    made: Mutex<HashMap<Box<str>, Made>>,
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OnDemand")
            .field("template", &self.template)
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

impl OnDemand {
    /// None is made yet. The template says who may connect; the recipe makes a database whose settings are the template's as they are then.
    pub fn new(
        template: Arc<Database>,
        limits: OnDemandLimits,
        recipe: impl Fn(&Database, &str) -> Arc<Database> + Send + Sync + 'static,
    ) -> Self {
        Self {
            template,
            recipe: Box::new(recipe),
            limits: Mutex::new(limits),
            made: Mutex::default(),
        }
    }

    /// What databases are made like. Nobody connects to it.
    pub fn template(&self) -> &Arc<Database> {
        &self.template
    }

    /// Changes the bounds. Databases beyond a smaller one stay until nobody uses them.
    pub fn set_limits(&self, limits: OnDemandLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The database of a name; made where it is not there, in the place of one that nobody uses where there are too many.
    ///
    /// # Errors
    /// FATAL 53300: clients are connected to as many others as there may be.
    pub fn database(&self, name: &str) -> Result<Arc<Database>, PgError> {
        let limit = self.limits().databases;
        let now = Instant::now();
        let mut made = self.made();
        if let Some(known) = made.get_mut(name) {
            known.used = now;
            return Ok(Arc::clone(&known.database));
        }
        while made.len() >= limit {
            let longest = made
                .iter()
                .filter(|(_, made)| is_unused(made))
                .min_by_key(|(_, made)| made.used)
                .map(|(name, _)| name.clone());
            let Some(unused) = longest.and_then(|name| made.remove(&name)) else {
                return Err(PgError::fatal(
                    SqlState::TOO_MANY_CONNECTIONS,
                    "too many databases are in use",
                )
                .detail(format!(
                    "Clients are connected to {limit} databases that the configuration does not name."
                ))
                .hint("Raise `on_demand.databases` of the database \"*\"."));
            };
            unused.database.pools().close();
        }
        let database = (self.recipe)(&self.template, name);
        let kept = Made {
            database: Arc::clone(&database),
            used: now,
        };
        made.insert(name.into(), kept);
        Ok(database)
    }

    /// Gives a database up that turned out not to be on the servers, unless others use it. The caller holds it.
    pub fn give_up(&self, database: &Arc<Database>) {
        let mut made = self.made();
        let is_it = made
            .get(database.name())
            .is_some_and(|made| Arc::ptr_eq(&made.database, database));
        // here and with the caller
        if is_it && Arc::strong_count(database) <= 2 {
            made.remove(database.name());
            drop(made);
            database.pools().close();
        }
    }

    /// Closes the connections to a database that a server is asked to take away or to copy, once no client uses it. Postgres waits for that: five
    /// seconds, as is done here. Must be called within a tokio runtime.
    pub fn vacate(self: &Arc<Self>, name: &str) {
        if self.close_unused(name) {
            return;
        }
        let (on_demand, name) = (Arc::clone(self), Box::<str>::from(name));
        tokio::spawn(async move {
            let closed = async {
                while !on_demand.close_unused(&name) {
                    tokio::time::sleep(VACATING_PACE).await;
                }
            };
            // who still uses it then may go on
            let _ = tokio::time::timeout(SERVERS_PATIENCE, closed).await;
        });
    }

    /// Whether none of that name is left.
    fn close_unused(&self, name: &str) -> bool {
        let mut made = self.made();
        if made.get(name).is_some_and(|made| !is_unused(made)) {
            return false;
        }
        if let Some(unused) = made.remove(name) {
            unused.database.pools().close();
        }
        true
    }

    /// Ends databases that nobody has used for long. To be called now and then.
    pub fn sweep(&self) {
        let limits = self.limits();
        let mut made = self.made();
        let now = Instant::now();
        let many = made.len() > limits.databases;
        made.retain(|name, made| {
            if !is_unused(made) {
                made.used = now;
            }
            let goes =
                is_unused(made) && (many || now.duration_since(made.used) >= limits.idle_timeout);
            if goes {
                tracing::info!(database = &**name, "nobody uses the database: it is closed");
                made.database.pools().close();
            }
            !goes
        });
    }

    /// Those that are there now.
    pub fn all(&self) -> Vec<Arc<Database>> {
        self.made()
            .values()
            .map(|made| Arc::clone(&made.database))
            .collect()
    }

    fn limits(&self) -> OnDemandLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<Box<str>, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions and logins under way hold the database.
fn is_unused(made: &Made) -> bool {
    Arc::strong_count(&made.database) == 1
}
