//! How many clients there may be.
//!
//! Owns: the counts of clients in all, by database and by user, and their limits, worded as Postgres words them. Never does:
//! knowing who they are (see `registry`). Main types: [`Admission`], [`TooMany`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgherd_protocol::{PgError, SqlState};

/// How many clients a database, and a user of it, may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientLimits {
    /// Of the database; `None` is no limit but the one for all.
    pub database: Option<usize>,
    /// Of the user, in this database.
    pub user: Option<usize>,
}

/// Why a client is not let in (53300).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The limit for all clients.
    #[error("sorry, too many clients already")]
    Clients,
    /// The limit of one database.
    #[error("too many connections for database \"{0}\"")]
    OfDatabase(Box<str>),
    /// The limit of one user.
    #[error("too many connections for role \"{0}\"")]
    OfUser(Box<str>),
}

impl From<TooMany> for PgError {
    fn from(refusal: TooMany) -> Self {
        Self::fatal(SqlState::TOO_MANY_CONNECTIONS, refusal.to_string())
    }
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    databases: HashMap<Box<str>, DatabaseCounts>,
}

#[derive(Debug, Default)]
struct DatabaseCounts {
    total: usize,
    users: HashMap<Box<str>, usize>,
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    counts: Mutex<Counts>,
}

impl Admissions {
    pub(crate) fn admit(self: &Arc<Self>, max_clients: usize) -> Result<Admission, TooMany> {
        let mut counts = self.counts();
        if counts.total >= max_clients {
            return Err(TooMany::Clients);
        }
        counts.total += 1;
        Ok(Admission {
            admissions: Arc::clone(self),
            counted: Counted::Client,
        })
    }

    pub(crate) fn admit_operator(self: &Arc<Self>) -> Admission {
        Admission {
            admissions: Arc::clone(self),
            counted: Counted::Nowhere,
        }
    }

    pub(crate) fn admit_to(
        &self,
        admission: &mut Admission,
        database: &str,
        user: &str,
        limits: ClientLimits,
    ) -> Result<(), TooMany> {
        let mut counts = self.counts();
        let of_database = counts.databases.entry(database.into()).or_default();
        if limits
            .database
            .is_some_and(|limit| of_database.total >= limit)
        {
            return Err(TooMany::OfDatabase(database.into()));
        }
        let of_user = of_database.users.entry(user.into()).or_default();
        if limits.user.is_some_and(|limit| *of_user >= limit) {
            return Err(TooMany::OfUser(user.into()));
        }
        *of_user += 1;
        of_database.total += 1;
        admission.counted = Counted::User {
            database: database.into(),
            user: user.into(),
        };
        Ok(())
    }

    pub(crate) fn count_of_database(&self, database: &str) -> usize {
        self.counts()
            .databases
            .get(database)
            .map_or(0, |counts| counts.total)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a client is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    /// Not at all: the console.
    Nowhere,
    /// Among all clients.
    Client,
    /// Among all, and for its database and user.
    User { database: Box<str>, user: Box<str> },
}

/// A client's place among those allowed, given up when dropped.
#[derive(Debug)]
pub struct Admission {
    admissions: Arc<Admissions>,
    counted: Counted,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.admissions.counts();
        match &self.counted {
            Counted::Nowhere => return,
            Counted::Client => {}
            Counted::User { database, user } => {
                if let Some(of_database) = counts.databases.get_mut(database) {
                    of_database.total -= 1;
                    if let Some(of_user) = of_database.users.get_mut(user) {
                        *of_user -= 1;
                        if *of_user == 0 {
                            of_database.users.remove(user);
                        }
                    }
                    if of_database.total == 0 {
                        counts.databases.remove(database);
                    }
                }
            }
        }
        counts.total -= 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_place_given_up_is_free_for_the_next() {
        let admissions = Arc::new(Admissions::default());
        let first = admissions.admit(1).unwrap();
        assert_eq!(admissions.admit(1).unwrap_err(), TooMany::Clients);
        drop(first);
        admissions.admit(1).unwrap();
    }

    #[test]
    fn databases_and_users_have_limits_of_their_own() {
        let admissions = Arc::new(Admissions::default());
        let limits = ClientLimits {
            database: Some(2),
            user: Some(1),
        };
        let mut first = admissions.admit(10).unwrap();
        admissions
            .admit_to(&mut first, "shop", "app", limits)
            .unwrap();
        let mut second = admissions.admit(10).unwrap();
        assert_eq!(
            admissions.admit_to(&mut second, "shop", "app", limits),
            Err(TooMany::OfUser("app".into()))
        );
        admissions
            .admit_to(&mut second, "shop", "other", limits)
            .unwrap();
        let mut third = admissions.admit(10).unwrap();
        assert_eq!(
            admissions.admit_to(&mut third, "shop", "third", limits),
            Err(TooMany::OfDatabase("shop".into()))
        );
        assert_eq!(admissions.count_of_database("shop"), 2);
        drop(first);
        drop(second);
        assert_eq!(admissions.count_of_database("shop"), 0);
        assert!(admissions.counts().databases.is_empty());
        assert_eq!(admissions.counts().total, 1);
    }

    #[test]
    fn operators_are_let_in_where_clients_are_not() {
        let admissions = Arc::new(Admissions::default());
        let _client = admissions.admit(1).unwrap();
        let _operator = admissions.admit_operator();
        assert_eq!(admissions.counts().total, 1);
    }

    #[test]
    fn refusals_read_as_postgres_words_them() {
        assert_eq!(
            TooMany::Clients.to_string(),
            "sorry, too many clients already"
        );
        assert_eq!(
            TooMany::OfDatabase("a".into()).to_string(),
            "too many connections for database \"a\""
        );
        assert_eq!(
            TooMany::OfUser("a".into()).to_string(),
            "too many connections for role \"a\""
        );
    }
}
