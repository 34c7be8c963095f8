//! From a transport to a connection that is ready for its first query: start-up, authentication, parameters.
//!
//! Owns the order in which encryption is tried, and the exchange up to the first ReadyForQuery. Never sends a
//! password where the settings forbid it. Main item: [`open`]. Postgres documentation, chapters 55.2.1 (Start-up)
//! and 55.3 (SASL Authentication).

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use pgherd_protocol::auth::{ChannelBinding, ScramClient, md5, password, scram};
use pgherd_protocol::frontend::{SaslInitialResponse, encode_password};
use pgherd_protocol::{
    AuthError, Authentication, BackendMessage, CancelKey, Credential, Frame, FrontendMessage,
    MessageError, PgError, SqlState, StartupMessage, TransactionStatus, split_frame,
};
use pgherd_tls::server_end_point;

use super::connect::{Destination, Encryption, Way, attempts, open_transport};
use super::{Parameters, Server, UserLogin};
use crate::error::PoolError;
use crate::settings::{CleartextPassword, PoolSettings};
use crate::transport::Transport;

/// Longest message of a server during the login, in bytes.
const MAX_FRAME: usize = 64 * 1024;

/// A connection that waits for its first query.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) parameters: Parameters,
    /// 0 if the server gave none.
    pub(crate) pid: i32,
    pub(crate) cancel_key: Option<CancelKey>,
}

/// What is asked of a server at the start beside the login.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beginning<'a> {
    /// What the settings say.
    Settings,
    /// The same, under this `application_name`.
    Named(&'a str),
    /// These parameters of a client's, `replication` among them, and nothing else.
    Client(&'a [(String, String)]),
}

/// Connects and logs in. The caller limits the time that it takes as a whole.
///
/// Cancel-safe: dropped, the connection is closed.
pub(crate) async fn open(
    settings: &PoolSettings,
    server: &Server,
    login: &UserLogin,
    beginning: Beginning<'_>,
) -> Result<Opened, PoolError> {
    let mut first_error = None;
    for encryption in attempts(settings.tls.mode(), &server.address) {
        let mut encrypted = false;
        let way = Way {
            server,
            to: Destination::Any(&settings.resolver),
            tcp: &settings.tcp,
            tls: &settings.tls,
        };
        let result = async {
            let transport = open_transport(way, *encryption, settings.connect_timeout).await?;
            encrypted = transport.is_tls();
            let opened = Opened {
                transport,
                parameters: Parameters::default(),
                pid: 0,
                cancel_key: None,
            };
            let exchange = Exchange {
                settings,
                server,
                login,
                beginning,
                opened,
                stage: Stage::Unauthenticated,
            };
            exchange.run().await
        };
        let result = result.await;
        let error = match (result, first_error.take()) {
            (Ok(opened), _) => return Ok(opened),
            // that there is no TLS either is not what went wrong in the first place
            (Err(PoolError::TlsUnavailable { .. }), Some(first)) => first,
            (Err(error), _) => error,
        };
        if !is_about_encryption(&error, *encryption, encrypted) {
            return Err(error);
        }
        first_error = Some(error);
    }
    Err(first_error.unwrap_or_else(|| PoolError::protocol(server, "no way to connect was tried")))
}

/// Whether the same might go well with the other kind of connection: the handshake failed, or the server's
/// `pg_hba.conf` has no line for this kind. A wrong password is wrong on both.
fn is_about_encryption(error: &PoolError, encryption: Encryption, encrypted: bool) -> bool {
    match (error, encryption) {
        (PoolError::TlsHandshake { .. }, Encryption::IfOffered) => true,
        (PoolError::Login { error, .. }, Encryption::IfOffered) => {
            encrypted && error.code == SqlState::INVALID_AUTHORIZATION
        }
        (PoolError::Login { error, .. }, Encryption::Plain) => {
            error.code == SqlState::INVALID_AUTHORIZATION
        }
        _ => false,
    }
}

/// How far the authentication has come.
#[derive(Debug)]
enum Stage {
    /// The server has asked for nothing yet.
    Unauthenticated,
    /// SCRAM was begun.
    ScramBegun(ScramClient),
    /// Our proof is sent, the server's is to come.
    ScramProved(scram::ScramClientProof),
    /// All that was asked for is given, and the server has proved itself where the method has it do so.
    Answered,
    /// The server let us in.
    Authenticated,
}

struct Exchange<'a> {
    settings: &'a PoolSettings,
    server: &'a Server,
    login: &'a UserLogin,
    beginning: Beginning<'a>,
    opened: Opened,
    stage: Stage,
}

impl Exchange<'_> {
    async fn run(mut self) -> Result<Opened, PoolError> {
        self.startup_message()
            .encode(&mut self.opened.transport.outbox)
            .map_err(|error| self.malformed(&error))?;
        loop {
            // a few hundred bytes, which any socket takes: the server need not be read meanwhile
            self.opened
                .transport
                .flush()
                .await
                .map_err(|source| PoolError::lost(self.server, source))?;
            let frame = self.next_frame().await?;
            let message = BackendMessage::parse(&frame).map_err(|error| self.malformed(&error))?;
            if self.handle(message).await? {
                return Ok(self.opened);
            }
        }
    }

    fn startup_message(&self) -> StartupMessage {
        let mut parameters = vec![
            ("user".to_owned(), self.login.name.to_string()),
            ("database".to_owned(), self.settings.database.to_string()),
        ];
        if let Beginning::Client(asked) = self.beginning {
            parameters.extend_from_slice(asked);
            return StartupMessage::new(self.settings.protocol, parameters);
        }
        parameters.push(("client_encoding".to_owned(), "UTF8".to_owned()));
        let application_name = match self.beginning {
            Beginning::Named(name) => Some(name),
            _ => self.settings.application_name.as_deref(),
        };
        let optional = [
            ("application_name", application_name),
            ("options", self.settings.options.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                parameters.push((name.to_owned(), value.to_string()));
            }
        }
        if self.server.synchronous {
            // it beats what role, database and file say, and outlives RESET ALL
            parameters.push(("synchronous_commit".to_owned(), "on".to_owned()));
        }
        StartupMessage::new(self.settings.protocol, parameters)
    }

    async fn next_frame(&mut self) -> Result<Frame, PoolError> {
        loop {
            let transport = &mut self.opened.transport;
            let frame = split_frame(&mut transport.inbox, MAX_FRAME)
                .map_err(|error| PoolError::protocol(self.server, error.to_string()))?;
            if let Some(frame) = frame {
                return Ok(frame);
            }
            match transport.fill().await {
                Ok(0) => {
                    return Err(PoolError::lost(
                        self.server,
                        io::ErrorKind::UnexpectedEof.into(),
                    ));
                }
                Ok(_) => {}
                Err(source) => return Err(PoolError::lost(self.server, source)),
            }
        }
    }

    /// Returns whether the connection is ready.
    async fn handle(&mut self, message: BackendMessage<'_>) -> Result<bool, PoolError> {
        match (message, &self.stage) {
            (BackendMessage::ErrorResponse(fields), _) => Err(PoolError::Login {
                server: self.server.clone(),
                user: self.login.name.clone(),
                error: Box::new(PgError::from(fields)),
            }),
            (BackendMessage::NoticeResponse(_), _) => Ok(false),
            (BackendMessage::NegotiateProtocolVersion(answer), Stage::Unauthenticated) => {
                if answer.version > self.settings.protocol || answer.version.major != 3 {
                    return Err(PoolError::protocol(
                        self.server,
                        format!("it offers version {} of the protocol", answer.version),
                    ));
                }
                Ok(false)
            }
            (BackendMessage::Authentication(step), _) => {
                self.authenticate(step).await?;
                Ok(false)
            }
            (BackendMessage::ParameterStatus { name, value }, Stage::Authenticated) => {
                self.opened.parameters.set(
                    &String::from_utf8_lossy(name),
                    &String::from_utf8_lossy(value),
                );
                Ok(false)
            }
            (BackendMessage::BackendKeyData(data), Stage::Authenticated) => {
                self.opened.pid = data.pid;
                self.opened.cancel_key =
                    Some(data.cancel_key().map_err(|error| self.malformed(&error))?);
                Ok(false)
            }
            (BackendMessage::ReadyForQuery(TransactionStatus::Idle), Stage::Authenticated)
                if self.opened.transport.inbox.is_empty() =>
            {
                Ok(true)
            }
            (message, _) => Err(self.unexpected(message.tag())),
        }
    }

    async fn authenticate(&mut self, step: Authentication<'_>) -> Result<(), PoolError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Unauthenticated);
        self.stage = match (step, stage) {
            (Authentication::Ok, Stage::Unauthenticated | Stage::Answered) => Stage::Authenticated,
            // it lets us in without a proof that it knows the password: anyone could
            (Authentication::Ok, Stage::ScramBegun(_) | Stage::ScramProved(_)) => {
                return Err(self.failed(AuthError::ServerSignature));
            }
            (Authentication::CleartextPassword, Stage::Unauthenticated) => {
                self.send_password()?;
                Stage::Answered
            }
            (Authentication::Md5Password { salt }, Stage::Unauthenticated) => {
                let answer = md5::answer(&self.login.credential, &self.login.name, salt)
                    .map_err(|error| self.failed(error))?;
                self.put_password(answer.expose())?;
                Stage::Answered
            }
            (Authentication::Sasl(offered), Stage::Unauthenticated) => {
                let binding = self.channel_binding();
                let client = ScramClient::new(&self.login.credential, offered, binding)
                    .map_err(|error| self.failed(error))?;
                let first = client.client_first();
                SaslInitialResponse {
                    mechanism: client.mechanism().as_bytes(),
                    data: Some(&first),
                }
                .encode(&mut self.opened.transport.outbox)
                .map_err(|error| self.malformed(&error))?;
                Stage::ScramBegun(client)
            }
            (Authentication::SaslContinue(data), Stage::ScramBegun(client)) => {
                Stage::ScramProved(self.prove(client, data.to_vec()).await?)
            }
            (Authentication::SaslFinal(data), Stage::ScramProved(proof)) => {
                proof
                    .server_final(data)
                    .map_err(|error| self.failed(error))?;
                Stage::Answered
            }
            (Authentication::Gss | Authentication::GssContinue(_), Stage::Unauthenticated) => {
                return Err(self.missing("GSSAPI"));
            }
            (Authentication::Sspi, Stage::Unauthenticated) => return Err(self.missing("SSPI")),
            (Authentication::KerberosV5, Stage::Unauthenticated) => {
                return Err(self.missing("Kerberos V5"));
            }
            (_, _) => return Err(self.unexpected(b'R')),
        };
        Ok(())
    }

    /// Thousands of rounds of hashing take milliseconds, which the other connections of this thread do not wait.
    async fn prove(
        &mut self,
        client: ScramClient,
        data: Vec<u8>,
    ) -> Result<scram::ScramClientProof, PoolError> {
        let (answer, proof) = tokio::task::spawn_blocking(move || client.server_first(&data))
            .await
            .map_err(|error| PoolError::protocol(self.server, error.to_string()))?
            .map_err(|error| self.failed(error))?;
        FrontendMessage::Password(&answer)
            .encode(&mut self.opened.transport.outbox)
            .map_err(|error| self.malformed(&error))?;
        Ok(proof)
    }

    fn send_password(&mut self) -> Result<(), PoolError> {
        let password =
            password::answer(&self.login.credential).map_err(|error| self.failed(error))?;
        let stream = self.opened.transport.stream();
        match self.settings.cleartext_password {
            CleartextPassword::Anywhere => {}
            CleartextPassword::Protected if stream.is_tls() || stream.is_unix() => {}
            CleartextPassword::Protected => {
                return Err(PoolError::CleartextPassword {
                    server: self.server.clone(),
                    user: self.login.name.clone(),
                });
            }
        }
        self.put_password(password.expose())
    }

    fn put_password(&mut self, password: &[u8]) -> Result<(), PoolError> {
        let mut message = BytesMut::new();
        encode_password(&mut message, password).map_err(|error| self.malformed(&error))?;
        self.opened.transport.outbox.extend_from_slice(&message);
        Ok(())
    }

    /// What SCRAM can bind to: the certificate that the server showed on this very connection.
    fn channel_binding(&self) -> ChannelBinding {
        self.opened
            .transport
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|certificate| server_end_point(certificate))
            .map_or(
                ChannelBinding::NotSupported,
                ChannelBinding::TlsServerEndPoint,
            )
    }

    fn failed(&self, error: AuthError) -> PoolError {
        match error {
            AuthError::NoCredential { method } => self.missing(method),
            source => PoolError::Authentication {
                server: self.server.clone(),
                user: self.login.name.clone(),
                source: Arc::new(source),
            },
        }
    }

    fn missing(&self, method: &'static str) -> PoolError {
        PoolError::Credential {
            server: self.server.clone(),
            user: self.login.name.clone(),
            method,
            credential: match self.login.credential {
                Credential::Nothing => "nothing",
                Credential::Password(_) => "a password",
                Credential::Md5Hash(_) => "an md5 hash",
                Credential::ScramKeys(_) => "SCRAM keys learnt from the user's own login",
            },
        }
    }

    fn malformed(&self, error: &MessageError) -> PoolError {
        PoolError::protocol(self.server, error.to_string())
    }

    fn unexpected(&self, tag: u8) -> PoolError {
        PoolError::protocol(
            self.server,
            format!("message of type '{}' was not expected", tag.escape_ascii()),
        )
    }
}
