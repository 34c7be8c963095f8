//! Finding out whether a client is who it says.
//!
//! Owns: which method is used, and the exchange of messages (Postgres documentation, chapters 21 and 55.2.1). Where rules are configured (`hba`),
//! the one that fits names the method; else it follows from what is known of
//! the user: trust for a listed origin, a certificate, SCRAM-SHA-256 (with channel binding over TLS), md5 where only an md5 hash is known,
//! the password in clear where the configuration says so and the connection is private. Never does: the arithmetic (see
//! `pgherd_protocol::auth`). Main function: [`authenticate`].

use std::sync::Arc;

use pgherd_pool::{PeerAddress, Transport};
use pgherd_protocol::auth::{AuthError, ChannelBinding, ScramServer, md5, password};
use pgherd_protocol::backend::Mechanisms;
use pgherd_protocol::frontend::{self, SaslInitialResponse};
use pgherd_protocol::{
    Authentication, BackendMessage, Credential, MessageError, MockSecret, PgError, Secret,
    SqlState, Verifier, split_frame, tag,
};

use crate::handshake::Refusal;
use crate::hba::HbaMethod;
use crate::lookup::{Looked, UserLookup};
use crate::tls::common_name;
use crate::users::{PasswordExchange, User};

/// Someone who says who he is.
pub(crate) struct Candidate<'a> {
    /// Who that would be; `None`: nobody, which is not to be noticed.
    pub(crate) user: Option<Arc<User>>,
    /// Where the user was found, if the configuration does not name it.
    pub(crate) looked: Option<(Arc<UserLookup>, Looked)>,
    /// What the rule that fits demands, where there are rules.
    pub(crate) demand: Option<HbaMethod>,
    /// The name that was said.
    pub(crate) name: &'a str,
    /// Where he comes from.
    pub(crate) peer: &'a PeerAddress,
    /// What SCRAM binds to over TLS.
    pub(crate) end_point: Option<&'a [u8]>,
    /// What the exchange with nobody is made from.
    pub(crate) mock_secret: &'a MockSecret,
}

/// Runs the exchange. Gives the user, and what its login taught that servers may be logged in to with. AuthenticationOk is left to the
/// caller, and the last message of SCRAM in the outbox.
///
/// # Errors
/// [`Refusal::Refused`] with 28P01 for a wrong password or no such user, 28000 for a certificate or a connection that is not private, 08P01
/// for messages that are none.
pub(crate) async fn authenticate(
    transport: &mut Transport,
    mut candidate: Candidate<'_>,
) -> Result<(Arc<User>, Credential), Refusal> {
    let welcome = match candidate.demand {
        None => welcome_by_user(transport, &candidate)?,
        Some(demand) => welcome_by_rule(transport, &candidate, demand)?,
    };
    if let Some(user) = welcome {
        return Ok((user, Credential::Nothing));
    }
    let exchange = match candidate.method() {
        Method::Scram => scram_exchange(transport, &candidate).await,
        Method::Md5 => md5_exchange(transport, &mut candidate).await,
        Method::Cleartext => cleartext_exchange(transport, &mut candidate).await,
    };
    match (exchange, candidate.user) {
        (Ok(learnt), Some(user)) => Ok((user, learnt)),
        // nobody's exchange fails by itself; this is for the compiler and for the day it does not
        (Ok(_), None) => Err(refusal_of(AuthError::WrongPassword, candidate.name).into()),
        (Err(ExchangeError::Failed(error)), _) => Err(refusal_of(error, candidate.name).into()),
        (Err(ExchangeError::Ended(refusal)), _) => Err(refusal),
    }
}

/// Lets in without a password who comes from where it is trusted, or shows its certificate.
fn welcome_by_user(
    transport: &Transport,
    candidate: &Candidate<'_>,
) -> Result<Option<Arc<User>>, PgError> {
    let Some(user) = &candidate.user else {
        return Ok(None);
    };
    let trusted = user
        .trust
        .iter()
        .any(|origin| origin.contains(candidate.peer));
    let wanted = user.certificate.as_deref();
    if trusted || wanted.is_some_and(|wanted| shows_certificate_of(transport, wanted)) {
        return Ok(Some(Arc::clone(user)));
    }
    // said only to who has a certificate of a root of ours: others would learn that there is such a user
    if user.verifier.is_none() && wanted.is_some() && transport.peer_certificates().is_some() {
        return Err(wrong_certificate(candidate.name));
    }
    Ok(None)
}

/// The same where a rule says how: that alone counts.
fn welcome_by_rule(
    transport: &Transport,
    candidate: &Candidate<'_>,
    demand: HbaMethod,
) -> Result<Option<Arc<User>>, PgError> {
    match demand {
        HbaMethod::ScramSha256 | HbaMethod::Md5 | HbaMethod::Password => return Ok(None),
        HbaMethod::Trust => {}
        HbaMethod::Cert => {
            if transport.peer_certificates().is_none() {
                return Err(PgError::fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    "connection requires a valid client certificate",
                ));
            }
            let user = candidate.user.as_deref();
            let wanted = user.and_then(|user| user.certificate.as_deref());
            if !shows_certificate_of(transport, wanted.unwrap_or(candidate.name)) {
                return Err(wrong_certificate(candidate.name));
            }
        }
    }
    match &candidate.user {
        Some(user) => Ok(Some(Arc::clone(user))),
        None => Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!("role \"{}\" does not exist", candidate.name),
        )),
    }
}

fn wrong_certificate(user: &str) -> PgError {
    let message = format!("certificate authentication failed for user \"{user}\"");
    PgError::fatal(SqlState::INVALID_AUTHORIZATION, message)
}

impl Candidate<'_> {
    fn verifier(&self) -> Option<&Verifier> {
        self.user.as_ref()?.verifier.as_ref()
    }

    fn method(&self) -> Method {
        match (self.demand, self.verifier()) {
            (Some(HbaMethod::Password), _) => Method::Cleartext,
            (Some(HbaMethod::Md5), Some(Verifier::Md5(_))) => Method::Md5,
            (Some(_), _) => Method::Scram,
            (None, _) => self.user.as_deref().map_or(Method::Scram, method_of),
        }
    }

    /// The password did not fit what is remembered: whether the servers know another one by now, which is then the candidate's.
    async fn has_changed(&mut self) -> bool {
        let Some((lookup, looked)) = &self.looked else {
            return false;
        };
        let Some(user) = lookup.find_changed(looked).await else {
            return false;
        };
        self.user = Some(user);
        true
    }
}

/// How a password is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Scram,
    Md5,
    Cleartext,
}

fn method_of(user: &User) -> Method {
    match (user.exchange, &user.verifier) {
        (PasswordExchange::Cleartext, Some(_)) => Method::Cleartext,
        (PasswordExchange::Challenge, Some(Verifier::Md5(_))) => Method::Md5,
        // who has no password gets the exchange that everybody gets, and fails
        (PasswordExchange::Challenge, Some(Verifier::Scram(_) | Verifier::Plain(_)))
        | (PasswordExchange::Challenge | PasswordExchange::Cleartext, None) => Method::Scram,
    }
}

fn shows_certificate_of(transport: &Transport, wanted: &str) -> bool {
    let certificate = transport.peer_certificates().and_then(<[_]>::first);
    certificate
        .and_then(|certificate| common_name(certificate))
        .as_deref()
        == Some(wanted)
}

/// Why an exchange did not end well.
enum ExchangeError {
    /// By the rules.
    Failed(AuthError),
    /// Otherwise.
    Ended(Refusal),
}

impl From<AuthError> for ExchangeError {
    fn from(error: AuthError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for ExchangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Ended(refusal)
    }
}

impl From<PgError> for ExchangeError {
    fn from(error: PgError) -> Self {
        Self::Ended(Refusal::Refused(error))
    }
}

impl From<MessageError> for ExchangeError {
    fn from(error: MessageError) -> Self {
        PgError::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()).into()
    }
}

/// As a client is told: what is wrong with the password or the user is said of both in the same words.
fn refusal_of(error: AuthError, user: &str) -> PgError {
    let message = match &error {
        AuthError::WrongPassword => format!("password authentication failed for user \"{user}\""),
        other => other.to_string(),
    };
    PgError::fatal(error.code(), message)
}

async fn scram_exchange(
    transport: &mut Transport,
    candidate: &Candidate<'_>,
) -> Result<Credential, ExchangeError> {
    let verifier = match candidate.verifier() {
        Some(Verifier::Scram(verifier)) => Some(verifier),
        // plain passwords were made SCRAM verifiers when they were loaded (see `User::with_password`)
        Some(Verifier::Plain(_) | Verifier::Md5(_)) | None => None,
    };
    let binding = match candidate.end_point {
        Some(hash) if transport.is_tls() => ChannelBinding::TlsServerEndPoint(hash.to_vec()),
        Some(_) | None => ChannelBinding::NotSupported,
    };
    let server = ScramServer::new(candidate.name, verifier, candidate.mock_secret, binding);
    let offer = Authentication::Sasl(Mechanisms::new(server.mechanisms()));
    send(transport, offer).await?;
    let answer = receive(transport).await?;
    let initial = SaslInitialResponse::parse(answer.expose())?;
    let first = match initial.data {
        Some(data) => Secret::new(data),
        None => {
            send(transport, Authentication::SaslContinue(b"")).await?;
            receive(transport).await?
        }
    };
    let (challenge, proof) = server.client_first(initial.mechanism, first.expose())?;
    send(transport, Authentication::SaslContinue(&challenge)).await?;
    let answer = receive(transport).await?;
    let accepted = match proof.client_final(answer.expose()) {
        Ok(accepted) => accepted,
        Err(error) => {
            // too late for this exchange, whose salt is the old one; the next login finds the new one
            if let (AuthError::WrongPassword, Some((lookup, looked))) = (&error, &candidate.looked)
            {
                lookup.find_changed(looked).await;
            }
            return Err(error.into());
        }
    };
    put(transport, Authentication::SaslFinal(&accepted.server_final))?;
    Ok(Credential::ScramKeys(accepted.keys))
}

async fn md5_exchange(
    transport: &mut Transport,
    candidate: &mut Candidate<'_>,
) -> Result<Credential, ExchangeError> {
    let salt = md5::salt();
    send(transport, Authentication::Md5Password { salt }).await?;
    let answer = receive(transport).await?;
    let answer = frontend::password(answer.expose())?;
    let check = |candidate: &Candidate<'_>| {
        md5::verify(
            candidate.name,
            candidate.verifier(),
            candidate.mock_secret,
            salt,
            answer,
        )
    };
    match check(candidate) {
        Err(AuthError::WrongPassword) if candidate.has_changed().await => check(candidate)?,
        checked => checked?,
    }
    Ok(match candidate.verifier() {
        Some(Verifier::Md5(hash)) => Credential::Md5Hash(hash.clone()),
        Some(Verifier::Plain(_) | Verifier::Scram(_)) | None => Credential::Nothing,
    })
}

async fn cleartext_exchange(
    transport: &mut Transport,
    candidate: &mut Candidate<'_>,
) -> Result<Credential, ExchangeError> {
    if !transport.is_tls() && *candidate.peer != PeerAddress::Unix {
        let message = format!(
            "password authentication of user \"{}\" needs an encrypted connection",
            candidate.name
        );
        return Err(PgError::fatal(SqlState::INVALID_AUTHORIZATION, message)
            .hint("Connect with sslmode=require or stronger.")
            .into());
    }
    send(transport, Authentication::CleartextPassword).await?;
    let answer = receive(transport).await?;
    let given = Secret::new(frontend::password(answer.expose())?);
    match check_password(candidate, given.clone()).await? {
        Err(AuthError::WrongPassword) if candidate.has_changed().await => {
            check_password(candidate, given.clone()).await??;
        }
        checked => checked?,
    }
    Ok(Credential::Password(given))
}

/// Whether it is the password. Milliseconds of hashing, during which this thread serves others.
async fn check_password(
    candidate: &Candidate<'_>,
    given: Secret,
) -> Result<Result<(), AuthError>, ExchangeError> {
    let user = candidate.user.clone();
    let name = candidate.name.to_owned();
    let mock_secret = candidate.mock_secret.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let verifier = user.as_ref().and_then(|user| user.verifier.as_ref());
        password::verify(&name, verifier, &mock_secret, &given)
    });
    Ok(checked
        .await
        .map_err(|error| PgError::fatal(SqlState::INTERNAL_ERROR, error.to_string()))?)
}

fn put(transport: &mut Transport, step: Authentication<'_>) -> Result<(), ExchangeError> {
    Ok(BackendMessage::Authentication(step).encode(&mut transport.outbox)?)
}

async fn send(transport: &mut Transport, step: Authentication<'_>) -> Result<(), ExchangeError> {
    put(transport, step)?;
    transport.flush().await.map_err(Refusal::from)?;
    Ok(())
}

/// The body of the client's next message, which must be one of an exchange.
async fn receive(transport: &mut Transport) -> Result<Secret, ExchangeError> {
    loop {
        if let Some(other) = transport
            .inbox
            .first()
            .filter(|tag| **tag != tag::frontend::PASSWORD)
        {
            let message = format!("expected password response, got message type {other}");
            return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message).into());
        }
        let frame = split_frame(&mut transport.inbox, tag::frontend::PASSWORD_LIMIT)
            .map_err(|error| PgError::fatal(error.code(), error.to_string()))?;
        if let Some(frame) = frame {
            return Ok(Secret::new(frame.body()));
        }
        if transport.fill().await.map_err(Refusal::from)? == 0 {
            // psql closes here to ask for a password, and comes again
            return Err(Refusal::Gone.into());
        }
    }
}
