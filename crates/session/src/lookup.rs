//! Users that no configuration names: found on the servers when they log in.
//!
//! Owns: the channel on which control is asked for a role's password, how long an answer is believed, and how many are remembered. A role that
//! was not found is not remembered, so that one just created can log in. Never does: asking a server itself. Main type: [`UserLookup`].
//!
//! # When a password was changed
//! What is remembered may be an older password. A login that fails by it makes the servers be asked again: a password in clear or an md5 hash is
//! then checked against the new one at once. SCRAM has shown the client the old salt by then, and the protocol knows no second try on one
//! connection: that login fails, and the next one is right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgherd_protocol::{PgError, Secret, SqlState, Verifier};
use tokio::sync::{mpsc, oneshot};

use crate::users::User;

/// How many roles of one database are remembered.
const CAPACITY: usize = 1000;
/// How long the servers may take to answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A role as the servers know it.
#[derive(Debug, Clone)]
pub struct FoundRole {
    /// Its password as kept: a SCRAM verifier, an md5 hash, or plain. `None` where none lets it in, one that has expired among them.
    pub password: Option<Secret>,
}

/// The question for one role. Dropped without an answer, the servers could not be asked.
#[derive(Debug)]
pub struct LookupRequest {
    /// The role's name.
    pub user: Box<str>,
    /// Where the answer goes; `None`: there is no such role.
    pub answer: oneshot::Sender<Option<FoundRole>>,
}

/// A user, and whether it was looked up for this very login.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The user.
    pub user: Arc<User>,
    at: Instant,
    is_remembered: bool,
}

/// What is known of one role; the lock is held while it is asked for, so that a crowd asks once.
type Slot = Arc<tokio::sync::Mutex<Option<Looked>>>;

/// Finds users on the servers.
#[derive(Debug)]
pub struct UserLookup {
    requests: mpsc::Sender<LookupRequest>,
    fresh_for: Duration,
    slots: Mutex<HashMap<Box<str>, Slot>>,
}

impl UserLookup {
    /// A lookup that believes an answer for so long, and the end where questions come out.
    pub fn channel(fresh_for: Duration) -> (Self, mpsc::Receiver<LookupRequest>) {
        let (requests, receiver) = mpsc::channel(64);
        let lookup = Self {
            requests,
            fresh_for,
            slots: Mutex::default(),
        };
        (lookup, receiver)
    }

    /// The user of this name, from memory where that is fresh. Cancel-safe.
    ///
    /// # Errors
    /// FATAL 57P03: the servers could not be asked.
    pub async fn find(&self, name: &str) -> Result<Option<Looked>, PgError> {
        self.find_since(name, None).await
    }

    /// The user as the servers know it now, where that is another than `looked` remembered. `None` also where the servers could not be asked:
    /// what failed stays failed.
    pub async fn find_changed(&self, looked: &Looked) -> Option<Arc<User>> {
        if !looked.is_remembered {
            return None;
        }
        let now = self.find_since(&looked.user.name, Some(looked.at)).await;
        let user = now.ok()??.user;
        (user.verifier != looked.user.verifier).then_some(user)
    }

    /// `after`: an answer that was got then is not enough.
    async fn find_since(
        &self,
        name: &str,
        after: Option<Instant>,
    ) -> Result<Option<Looked>, PgError> {
        let slot = self.slot(name);
        let mut known = slot.lock().await;
        if let Some(looked) = &*known
            && looked.at.elapsed() < self.fresh_for
            && after.is_none_or(|after| looked.at > after)
        {
            return Ok(Some(Looked {
                is_remembered: true,
                ..looked.clone()
            }));
        }
        // a question given up half-way leaves nothing to be believed
        *known = None;
        let Some(role) = self.ask(name).await? else {
            drop(known);
            self.slots().remove(name);
            return Ok(None);
        };
        let looked = Looked {
            user: Arc::new(user_of(name, role).await?),
            at: Instant::now(),
            is_remembered: false,
        };
        *known = Some(looked.clone());
        Ok(Some(looked))
    }

    async fn ask(&self, name: &str) -> Result<Option<FoundRole>, PgError> {
        let (answer, answered) = oneshot::channel();
        let request = LookupRequest {
            user: name.into(),
            answer,
        };
        let asking = async {
            self.requests.send(request).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT, asking).await {
            Ok(Some(role)) => Ok(role),
            Ok(None) | Err(_) => Err(PgError::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the servers cannot be asked who may connect",
            )
            .hint("Try again; pgherd's log says what is wrong.")),
        }
    }

    /// The place of a name, made where there is room for it. Where all places are taken by questions under way, one that nobody else finds.
    fn slot(&self, name: &str) -> Slot {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        if slots.len() >= CAPACITY {
            slots.retain(|_, slot| self.is_worth_keeping(slot));
        }
        if slots.len() >= CAPACITY {
            slots.retain(|_, slot| slot.try_lock().is_err());
        }
        let slot = Slot::default();
        if slots.len() < CAPACITY {
            slots.insert(name.into(), Arc::clone(&slot));
        }
        slot
    }

    fn is_worth_keeping(&self, slot: &Slot) -> bool {
        match slot.try_lock() {
            Ok(known) => known
                .as_ref()
                .is_some_and(|looked| looked.at.elapsed() < self.fresh_for),
            Err(_) => true,
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Box<str>, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user that a role is. A plain password costs some milliseconds of hashing, during which this thread serves others.
async fn user_of(name: &str, role: FoundRole) -> Result<User, PgError> {
    let Some(password) = role.password else {
        return Ok(User::without_password(name));
    };
    let verifier = std::str::from_utf8(password.expose())
        .ok()
        .and_then(|text| text.parse::<Verifier>().ok());
    let Some(verifier) = verifier else {
        tracing::warn!(
            user = name,
            "the password that the servers keep for this user is of a kind that pgherd does not know"
        );
        return Ok(User::without_password(name));
    };
    let owned = name.to_owned();
    tokio::task::spawn_blocking(move || User::with_password(&owned, &verifier))
        .await
        .map_err(|error| PgError::fatal(SqlState::INTERNAL_ERROR, error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Servers that know every role but `nobody`, with a password that says how often they were asked.
    fn servers(mut requests: mpsc::Receiver<LookupRequest>) -> Arc<AtomicUsize> {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(LookupRequest { user, answer }) = requests.recv().await {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let hash = format!("md5{number:032}");
                let role = (&*user != "nobody").then(|| FoundRole {
                    password: Some(Secret::from(hash)),
                });
                drop(answer.send(role));
            }
        });
        asked
    }

    #[tokio::test]
    async fn an_answer_is_remembered_and_asked_for_again_where_it_failed() {
        let (lookup, requests) = UserLookup::channel(Duration::from_secs(600));
        let asked = servers(requests);
        let first = lookup.find("app").await.unwrap().unwrap();
        assert!(lookup.find_changed(&first).await.is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let second = lookup.find("app").await.unwrap().unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(lookup.find_changed(&second).await.is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // another that failed by the same answer finds what was read since
        assert!(lookup.find_changed(&second).await.is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_crowd_of_one_user_asks_once() {
        let (lookup, requests) = UserLookup::channel(Duration::from_secs(600));
        let lookup = Arc::new(lookup);
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let lookup = Arc::clone(&lookup);
            crowd.spawn(async move { lookup.find("app").await.unwrap().is_some() });
        }
        let asked = servers(requests);
        assert!(crowd.join_all().await.into_iter().all(|found| found));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_is_nobody_is_not_remembered_and_memory_is_bounded() {
        let (lookup, requests) = UserLookup::channel(Duration::from_secs(600));
        let asked = servers(requests);
        assert!(lookup.find("nobody").await.unwrap().is_none());
        assert!(lookup.find("nobody").await.unwrap().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        for number in 0..CAPACITY + 10 {
            lookup.find(&number.to_string()).await.unwrap().unwrap();
        }
        assert!(lookup.slots().len() <= CAPACITY);
    }

    #[tokio::test]
    async fn servers_that_cannot_be_asked_are_no_missing_user() {
        let (lookup, requests) = UserLookup::channel(Duration::from_secs(600));
        drop(requests);
        let error = lookup.find("app").await.unwrap_err();
        assert_eq!(error.code, SqlState::CANNOT_CONNECT_NOW);
    }
}
