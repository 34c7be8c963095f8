//! Who may connect, and with what.
//!
//! Owns: the users of a database or of the console, how each one's password is checked, and what pgherd logs in to the servers with in
//! its name. Never does: the exchange of messages (see `authentication`). Main types: [`Users`], [`User`].

use std::collections::HashMap;
use std::sync::Arc;

use pgherd_protocol::auth::ScramVerifier;
use pgherd_protocol::auth::scram::DEFAULT_ITERATIONS;
use pgherd_protocol::{Credential, Secret, Verifier};

use crate::timeouts::Timeouts;
use crate::trust::TrustedOrigin;

/// How a user shows that it knows its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PasswordExchange {
    /// It never says it: SCRAM-SHA-256, or md5 where only an md5 hash is known.
    #[default]
    Challenge,
    /// It says it in clear, which is accepted over TLS and on the Unix socket only. The servers may then want any method.
    Cleartext,
}

/// What a user of the console may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsoleRight {
    /// Everything.
    #[default]
    Admin,
    /// Look, and change nothing.
    Monitor,
}

/// Someone who may connect.
#[derive(Debug, Clone)]
pub struct User {
    /// The name, as in the startup message.
    pub name: Box<str>,
    /// What a password is checked against; `None` where no password lets this user in.
    pub verifier: Option<Verifier>,
    /// How the password is asked for.
    pub exchange: PasswordExchange,
    /// The password for the servers, where it is known as text.
    pub server_password: Option<Secret>,
    /// From where no password is needed.
    pub trust: Vec<TrustedOrigin>,
    /// The common name of a client certificate that makes a password unnecessary.
    pub certificate: Option<Box<str>>,
    /// How many clients of this user there may be in one database; `None` is no limit but the database's.
    pub max_clients: Option<usize>,
    /// What it may take longer or shorter for than the database allows.
    pub timeouts: Timeouts,
    /// Settings of its sessions, by name, which a client's own startup message goes before.
    pub settings: Vec<(String, String)>,
    /// What it may do, where it is a user of the console.
    pub right: ConsoleRight,
}

impl User {
    /// A user with a password as configured: plain text, `md5...` or a SCRAM verifier.
    ///
    /// A plain password is kept for the servers, and checked through a SCRAM verifier that is computed here, some milliseconds of work:
    /// make users when the configuration is loaded, not when they log in.
    pub fn with_password(name: &str, password: &Verifier) -> Self {
        let (verifier, server_password) = match password {
            Verifier::Plain(secret) => (
                Verifier::Scram(ScramVerifier::generate(secret, DEFAULT_ITERATIONS)),
                Some(secret.clone()),
            ),
            Verifier::Md5(_) | Verifier::Scram(_) => (password.clone(), None),
        };
        Self {
            verifier: Some(verifier),
            server_password,
            ..Self::without_password(name)
        }
    }

    /// A user that no password lets in: give it [`User::trust`] or [`User::certificate`].
    pub fn without_password(name: &str) -> Self {
        Self {
            name: name.into(),
            verifier: None,
            exchange: PasswordExchange::default(),
            server_password: None,
            trust: Vec::new(),
            certificate: None,
            max_clients: None,
            timeouts: Timeouts::default(),
            settings: Vec::new(),
            right: ConsoleRight::default(),
        }
    }

    /// What to log in to servers with in this user's name, where `learnt` is what its own login taught.
    pub fn server_credential(&self, learnt: Credential) -> Credential {
        match &self.server_password {
            Some(password) => Credential::Password(password.clone()),
            None => learnt,
        }
    }
}

/// Users by name.
#[derive(Debug, Clone, Default)]
pub struct Users {
    by_name: HashMap<Box<str>, Arc<User>>,
}

impl Users {
    /// The user of a name.
    pub fn find(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }
}

impl FromIterator<User> for Users {
    /// Of two users with one name the last stays.
    fn from_iter<T: IntoIterator<Item = User>>(users: T) -> Self {
        let by_name = users
            .into_iter()
            .map(|user| (user.name.clone(), Arc::new(user)))
            .collect();
        Self { by_name }
    }
}
