//! What a server reports at login, for clients that log in to pgherd.
//!
//! Owns: asking a server for its ParameterStatus set (Postgres documentation, chapter 55.2.7) with a client's settings in force, and
//! remembering it for a while, so that logging in to pgherd costs no server connection as a rule. A setting that the server refuses refuses the
//! login, as it would in Postgres. Never does: applying settings for good (the session does). Main type: [`ParameterCache`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgherd_pool::{Checkout, Drawn, PoolError, Target, UserLogin};
use pgherd_protocol::{
    BackendMessage, FrontendMessage, PgError, Severity, SqlState, escape, split_frame,
};
use pgherd_topology::Topology;

use crate::herd::Database;

/// How long an answer is believed. What a server reports changes with ALTER ROLE, ALTER DATABASE, and its configuration.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// How many answers are kept for one database.
const CAPACITY: usize = 256;
/// How long a client waits for a server that can be asked.
const SERVER_WAIT: Duration = Duration::from_secs(5);
/// The longest message taken in answer, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Reported as the client set it, without a server's word: no server refuses one.
const APPLICATION_NAME: &str = "application_name";
/// The number of no client.
const NOBODY: u64 = 0;
/// What the names of pgherd's own settings start with: no server knows them.
pub const OWN_PREFIX: &str = "pgherd.";

/// Names and values, in the order in which a server reported them.
pub type Parameters = pgherd_pool::Parameters;

/// A user on the servers, and the settings that a client of its asked for.
type Key = (Box<str>, Vec<(String, String)>);

#[derive(Debug)]
struct Answer {
    /// With the application's name of who was last told: clients that are called the same share it.
    parameters: Arc<Parameters>,
    at: Instant,
    /// Somebody asks again already.
    is_renewed: bool,
}

/// What servers reported, by user and settings.
#[derive(Debug, Default)]
pub struct ParameterCache {
    answers: Mutex<HashMap<Key, Answer>>,
}

impl ParameterCache {
    /// What a server reports to this user with these settings. An answer that is known is given at once, and where it is old a
    /// server is asked behind the client's back: busy or missing servers do not hold up a login, as sessions can start
    /// without one.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// FATAL: a server's own refusal of the login or of a setting, or 57P03 where there is no server.
    pub async fn fetch(
        &self,
        database: &Arc<Database>,
        login: &Arc<UserLogin>,
        settings: &[(String, String)],
    ) -> Result<Arc<Parameters>, PgError> {
        let asked: Vec<_> = settings
            .iter()
            .filter(|(name, _)| {
                !name.eq_ignore_ascii_case(APPLICATION_NAME) && !is_own_setting(name)
            })
            .cloned()
            .collect();
        let key: Key = (login.name.clone(), asked);
        let mut parameters = match self.known(&key) {
            Some((parameters, Age::Fresh)) => parameters,
            Some((parameters, Age::Stale)) => {
                let renewing = renew(Arc::clone(database), Arc::clone(login), key.clone());
                tokio::spawn(renewing);
                parameters
            }
            None => match ask(database, login, &key.1).await {
                Ok(parameters) => self.remember(key.clone(), parameters),
                Err(Failure::Unreachable(error) | Failure::Refused(error)) => return Err(error),
            },
        };
        let named = settings
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(APPLICATION_NAME));
        let application_name = named.map_or("", |(_, value)| value);
        if parameters.value(APPLICATION_NAME) != Some(application_name) {
            Arc::make_mut(&mut parameters).set(APPLICATION_NAME, application_name);
            if let Some(answer) = self.answers().get_mut(&key) {
                answer.parameters = Arc::clone(&parameters);
            }
        }
        Ok(parameters)
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.answers().clear();
    }

    /// What is known. [`Age::Stale`] is said to one caller at a time: to who renews it.
    fn known(&self, key: &Key) -> Option<(Arc<Parameters>, Age)> {
        let mut answers = self.answers();
        let answer = answers.get_mut(key)?;
        let age = if answer.is_renewed || answer.at.elapsed() < FRESH_FOR {
            Age::Fresh
        } else {
            answer.is_renewed = true;
            Age::Stale
        };
        Some((Arc::clone(&answer.parameters), age))
    }

    /// A server could not be asked: what is known is believed for as long again.
    fn keep(&self, key: &Key) {
        if let Some(answer) = self.answers().get_mut(key) {
            answer.at = Instant::now();
            answer.is_renewed = false;
        }
    }

    fn forget(&self, key: &Key) {
        self.answers().remove(key);
    }

    fn remember(&self, key: Key, parameters: Parameters) -> Arc<Parameters> {
        let parameters = Arc::new(parameters);
        let mut answers = self.answers();
        if answers.len() >= CAPACITY && !answers.contains_key(&key) {
            answers.retain(|_, answer| answer.at.elapsed() < FRESH_FOR);
            if answers.len() >= CAPACITY {
                answers.clear();
            }
        }
        let answer = Answer {
            parameters: Arc::clone(&parameters),
            at: Instant::now(),
            is_renewed: false,
        };
        answers.insert(key, answer);
        parameters
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Key, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks again for what is known. What a server refuses now is forgotten, so that the next login hears why.
async fn renew(database: Arc<Database>, login: Arc<UserLogin>, key: Key) {
    let cache = database.parameters();
    match ask(&database, &login, &key.1).await {
        Ok(parameters) => {
            cache.remember(key, parameters);
        }
        Err(Failure::Unreachable(_)) => cache.keep(&key),
        Err(Failure::Refused(_)) => cache.forget(&key),
    }
}

/// Whether a setting is pgherd's own.
pub fn is_own_setting(name: &str) -> bool {
    name.get(..OWN_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX))
}

/// The statement that puts settings in force as a startup message does: unlike SET, `set_config` takes a list (`search_path`) as one text.
/// `None` where there is none for a server.
pub fn settings_statement(settings: &[(String, String)], scope: SettingScope) -> Option<String> {
    let is_local = match scope {
        SettingScope::Transaction => "true",
        SettingScope::Session => "false",
    };
    let calls: Vec<String> = settings
        .iter()
        .filter(|(name, _)| !is_own_setting(name))
        .map(|(name, value)| {
            let (name, value) = (escape::escape_literal(name), escape::escape_literal(value));
            format!("pg_catalog.set_config({name}, {value}, {is_local})")
        })
        .collect();
    (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
}

/// How long a setting stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingScope {
    /// To the end of the transaction.
    Transaction,
    /// To the end of the session.
    Session,
}

enum Age {
    Fresh,
    Stale,
}

/// Why a server did not answer.
enum Failure {
    /// There was none to ask.
    Unreachable(PgError),
    /// It does not want this client.
    Refused(PgError),
}

/// Asks a primary, or a replica where there is none.
async fn ask(
    database: &Database,
    login: &Arc<UserLogin>,
    settings: &[(String, String)],
) -> Result<Parameters, Failure> {
    let mut connection = checkout(database, login).await?;
    // what another client has set, or left, is nothing to this one
    let undoing = connection.statements_to(NOBODY, None);
    if !undoing.is_empty() {
        let undone = parameters_after(&mut connection, &[&undoing.join("; ")]).await;
        if undone.is_err() {
            connection.mark_dirty("another client's settings");
        }
        undone?;
        connection.carried = None;
        connection.tainted_by = None;
        connection.drawn = Drawn::default();
    }
    match settings_statement(settings, SettingScope::Transaction) {
        None => Ok(connection.parameters().clone()),
        // in force for a transaction, in which the server reports what they made of its parameters
        Some(statement) => {
            let tried = format!("BEGIN; {statement}");
            parameters_after(&mut connection, &[&tried, "ROLLBACK"]).await
        }
    }
}

async fn checkout(database: &Database, login: &Arc<UserLogin>) -> Result<Checkout, Failure> {
    let mut watch = database.watch_topology();
    let wait = watch.wait_for(|topology| candidates(topology).next().is_some());
    // a topology with nobody in it is the start, when nobody has been asked yet who they are
    let topology = match tokio::time::timeout(SERVER_WAIT, wait).await {
        Ok(Ok(topology)) => Arc::clone(&topology),
        Ok(Err(_)) | Err(_) => return Err(Failure::Unreachable(no_server(database))),
    };
    let mut failure = no_server(database);
    for target in candidates(&topology) {
        match database.pools().checkout(login, &target, None).await {
            Ok(checkout) => return Ok(checkout),
            Err(error) if error.is_server_unreachable() => failure = fatal(&error),
            Err(error @ (PoolError::CheckoutTimeout { .. } | PoolError::Superseded { .. })) => {
                return Err(Failure::Unreachable(fatal(&error)));
            }
            Err(error) => return Err(Failure::Refused(fatal(&error))),
        }
    }
    Err(Failure::Unreachable(failure))
}

/// Primaries by shard, then replicas.
fn candidates(topology: &Topology) -> impl Iterator<Item = Target<'_>> {
    let primaries = topology
        .shards
        .iter()
        .filter_map(|shard| Some(Target::new(shard, shard.primary()?)));
    let replicas = topology
        .shards
        .iter()
        .flat_map(|shard| shard.replicas().map(|node| Target::new(shard, node)));
    primaries.chain(replicas)
}

fn no_server(database: &Database) -> PgError {
    PgError::fatal(
        SqlState::CANNOT_CONNECT_NOW,
        format!(
            "no server of database \"{}\" can be reached",
            database.name()
        ),
    )
}

fn fatal(error: &PoolError) -> PgError {
    let mut error = error.to_pg_error();
    error.severity = Severity::Fatal;
    error
}

/// Runs queries; the server's parameters after the first of them.
async fn parameters_after(
    connection: &mut Checkout,
    queries: &[&str],
) -> Result<Parameters, Failure> {
    // a simple query takes the place of the unnamed statement
    connection.prepared.forget_unnamed();
    let lost =
        |what: String| Failure::Unreachable(PgError::fatal(SqlState::CONNECTION_FAILURE, what));
    for query in queries {
        FrontendMessage::Query(query.as_bytes())
            .encode(&mut connection.transport.outbox)
            .map_err(|error| lost(error.to_string()))?;
        connection.note_request();
    }
    let mut after_first = None;
    let mut refused = None;
    while connection.owed() > 0 {
        let frame = split_frame(&mut connection.transport.inbox, MAX_MESSAGE)
            .map_err(|error| lost(error.to_string()))?;
        let Some(frame) = frame else {
            let exchanged = connection.transport.exchange().await;
            match exchanged.map_err(|error| lost(error.to_string()))? {
                pgherd_pool::Exchanged::Closed => {
                    return Err(lost("the server closed the connection".to_owned()));
                }
                pgherd_pool::Exchanged::Sent | pgherd_pool::Exchanged::Received(_) => continue,
            }
        };
        match BackendMessage::parse(&frame).map_err(|error| lost(error.to_string()))? {
            BackendMessage::ParameterStatus { name, value } => {
                let name = String::from_utf8_lossy(name);
                connection.note_parameter(&name, &String::from_utf8_lossy(value));
            }
            BackendMessage::ErrorResponse(fields) => {
                refused.get_or_insert_with(|| PgError::from(fields));
            }
            BackendMessage::ReadyForQuery(status) => {
                after_first.get_or_insert_with(|| connection.parameters().clone());
                connection.note_ready(status);
            }
            _ => {}
        }
    }
    match (refused, after_first) {
        (Some(mut error), _) => {
            error.severity = Severity::Fatal;
            error
                .others
                .retain(|(kind, _)| *kind != pgherd_protocol::error::field::LOCALIZED_SEVERITY);
            Err(Failure::Refused(error))
        }
        (None, Some(parameters)) => Ok(parameters),
        (None, None) => Err(lost("the server said nothing".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn settings_are_put_in_force_as_a_startup_message_does() {
        let settings = [
            pair("search_path", "a, \"B\""),
            pair("PgHerd.shard", "s1"),
            pair("x.y", "it's"),
        ];
        assert_eq!(
            settings_statement(&settings, SettingScope::Session).as_deref(),
            Some(
                "SELECT pg_catalog.set_config('search_path', 'a, \"B\"', false), \
                 pg_catalog.set_config('x.y', 'it''s', false)"
            )
        );
        assert_eq!(
            settings_statement(&settings[1..2], SettingScope::Session),
            None
        );
    }

    #[test]
    fn a_backslash_in_a_value_means_itself_whatever_the_server_is_set_to() {
        let statement = settings_statement(&[pair("a", r"b\'c")], SettingScope::Transaction);
        assert_eq!(
            statement.as_deref(),
            Some(r"SELECT pg_catalog.set_config('a',  E'b\\''c', true)")
        );
    }

    #[test]
    fn an_old_answer_is_renewed_by_one_caller_only() {
        let Some(long_ago) = Instant::now().checked_sub(FRESH_FOR * 2) else {
            // this machine has not been up for so long
            return;
        };
        let cache = ParameterCache::default();
        let key: Key = ("app".into(), Vec::new());
        assert!(cache.known(&key).is_none());
        cache.remember(key.clone(), Parameters::default());
        assert!(matches!(cache.known(&key), Some((_, Age::Fresh))));
        for answer in cache.answers().values_mut() {
            answer.at = long_ago;
        }
        assert!(matches!(cache.known(&key), Some((_, Age::Stale))));
        assert!(matches!(cache.known(&key), Some((_, Age::Fresh))));
        cache.keep(&key);
        assert!(matches!(cache.known(&key), Some((_, Age::Fresh))));
        cache.forget(&key);
        assert!(cache.known(&key).is_none());
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = ParameterCache::default();
        for number in 0..CAPACITY * 2 + 1 {
            let key = (Box::from("app"), vec![pair("a", &number.to_string())]);
            cache.remember(key, Parameters::default());
        }
        assert!(cache.answers().len() <= CAPACITY);
    }
}
