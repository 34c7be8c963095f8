//! Statements of pgherd's own on a leg, apart from what the client asked for.
//!
//! Owns: running one to its end and reading its answer. Never does: relaying. Main types: [`Answer`], [`Trouble`].

use std::borrow::Cow;
use std::time::Instant;

use bytes::BytesMut;
use pgherd_pool::Shape;
use pgherd_protocol::frontend::{encode_bind, encode_parse};
use pgherd_protocol::{BackendMessage, FrontendMessage, PgError, SqlState, Target, split_frame};
use pgherd_topology::NodeId;

use crate::committing::unacknowledged;
use crate::failure::Failure;
use crate::legs::encode;
use crate::relay::{Outcome, Relay, RelayError};
use crate::script::{Audience, Prepared, Reply, Script};
use crate::session::Session;

/// What a server answered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The tags of the statements that completed, in order.
    pub tags: Vec<String>,
    /// The first column of the last row, as text; `None` where it was null or there was no row.
    pub value: Option<String>,
    /// How many rows came.
    pub rows: u64,
}

/// Why a statement of pgherd's own came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// The server refused it; the connection is as good as before.
    Refused(Box<PgError>),
    /// The connection is gone, and whether the statement took effect is not known. The leg is closed.
    Lost(Failure),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(error) => Self::Refused(error),
            Trouble::Lost(failure) => failure,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Lost(failure)
    }
}

impl Session {
    /// Runs a text (one or several statements) to its end.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn execute(&mut self, node: NodeId, sql: &str) -> Result<Answer, Trouble> {
        let mut script = self.with_what_is_queued();
        self.legs.at(node).queue_query(sql)?;
        script.expect(Reply::Query, Audience::Client);
        self.read_reply(node, &mut script).await
    }

    /// The replies to what taking the leg has queued.
    fn with_what_is_queued(&mut self) -> Script {
        std::mem::take(&mut self.script)
    }

    /// Runs a text (one or several statements) to its end, and hands over each row of its results, as text.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn execute_for_rows(
        &mut self,
        node: NodeId,
        sql: &str,
        mut each: impl FnMut(&[Option<&str>]),
    ) -> Result<(), Trouble> {
        let mut script = self.with_what_is_queued();
        self.legs.at(node).queue_query(sql)?;
        script.expect(Reply::Query, Audience::Client);
        let mut sink = BytesMut::new();
        let outcome = self
            .collect(node, &mut script, &mut sink)
            .await
            .map_err(Trouble::Lost)?;
        if let Some(error) = outcome.error {
            return Err(Trouble::Refused(error));
        }
        while let Ok(Some(frame)) = split_frame(&mut sink, usize::MAX) {
            if let Ok(BackendMessage::DataRow(row)) = BackendMessage::parse(&frame) {
                let texts: Vec<Option<Cow<'_, str>>> = row
                    .values()
                    .map(|value| value.map(String::from_utf8_lossy))
                    .collect();
                let columns: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
                each(&columns);
            }
        }
        Ok(())
    }

    /// Has a server say which types a statement's parameters have, without running it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn describe_parameters_of(
        &mut self,
        node: NodeId,
        sql: &str,
        declared: &[u32],
    ) -> Result<Vec<u32>, Trouble> {
        let mut script = self.with_what_is_queued();
        let connection = &mut self.legs.at(node).connection;
        connection.prepared.forget_unnamed();
        let out = &mut connection.transport.outbox;
        encode_parse(out, b"", sql.as_bytes(), declared.iter().copied()).map_err(Failure::from)?;
        let describe = FrontendMessage::Describe {
            target: Target::Statement,
            name: b"",
        };
        encode(&describe, out)?;
        encode(&FrontendMessage::Sync, out)?;
        script.expect(
            Reply::Parse(Prepared::Own, Shape::default()),
            Audience::Pgherd,
        );
        script.expect(Reply::describe(Prepared::Own), Audience::Client);
        script.expect(Reply::Sync, Audience::Pgherd);
        let mut sink = BytesMut::new();
        let outcome = self.collect(node, &mut script, &mut sink).await;
        script.clear();
        self.script = script;
        let outcome = outcome.map_err(Trouble::Lost)?;
        if let Some(leg) = self.legs.get(node) {
            leg.connection.prepared.forget_unnamed();
        }
        if let Some(error) = outcome.error {
            return Err(Trouble::Refused(error));
        }
        let mut found = Vec::new();
        while let Ok(Some(frame)) = split_frame(&mut sink, usize::MAX) {
            if let Ok(BackendMessage::ParameterDescription(types)) = BackendMessage::parse(&frame) {
                found.extend(types.iter());
            }
        }
        Ok(found)
    }

    /// Runs one statement with parameters in text format, which appear in no log of the server's.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn execute_bound(
        &mut self,
        node: NodeId,
        sql: &str,
        types: &[u32],
        parameters: &[String],
    ) -> Result<Answer, Trouble> {
        let mut script = self.with_what_is_queued();
        let connection = &mut self.legs.at(node).connection;
        connection.prepared.forget_unnamed();
        let out = &mut connection.transport.outbox;
        encode_parse(out, b"", sql.as_bytes(), types.iter().copied()).map_err(Failure::from)?;
        let values = parameters
            .iter()
            .map(|parameter| Some(parameter.as_bytes()));
        encode_bind(out, b"", b"", [], values, []).map_err(Failure::from)?;
        encode(
            &FrontendMessage::Execute {
                portal: b"",
                max_rows: 0,
            },
            out,
        )?;
        encode(&FrontendMessage::Sync, out)?;
        script.expect(
            Reply::Parse(Prepared::Own, Shape::default()),
            Audience::Pgherd,
        );
        script.expect(Reply::Bind, Audience::Pgherd);
        script.expect(Reply::Execute, Audience::Client);
        script.expect(Reply::Sync, Audience::Client);
        self.read_reply(node, &mut script).await
    }

    async fn read_reply(&mut self, node: NodeId, script: &mut Script) -> Result<Answer, Trouble> {
        let mut sink = BytesMut::new();
        let outcome = self
            .collect(node, script, &mut sink)
            .await
            .map_err(Trouble::Lost)?;
        match outcome.error {
            Some(error) => Err(Trouble::Refused(error)),
            None => Ok(read_answer(sink)),
        }
    }

    /// Follows a leg to the end of a script, collecting the client's share of the replies.
    ///
    /// # Errors
    /// A lost server, after which the leg is closed.
    pub(crate) async fn collect(
        &mut self,
        node: NodeId,
        script: &mut Script,
        sink: &mut BytesMut,
    ) -> Result<Outcome, Failure> {
        self.collect_while(node, script, sink, false).await
    }

    /// [`Session::collect`] for a request of the client's: should the client go away, it is cancelled.
    ///
    /// # Errors
    /// As [`Session::collect`].
    pub(crate) async fn collect_for_client(
        &mut self,
        node: NodeId,
        script: &mut Script,
        sink: &mut BytesMut,
    ) -> Result<Outcome, Failure> {
        self.collect_while(node, script, sink, true).await
    }

    async fn collect_while(
        &mut self,
        node: NodeId,
        script: &mut Script,
        sink: &mut BytesMut,
        client_stays: bool,
    ) -> Result<Outcome, Failure> {
        let leg = self.legs.at(node);
        let mut relay = Relay::new(script, leg.translation.as_mut(), false);
        relay.serving(&leg.client);
        relay.hearing(leg.hears, &leg.listened);
        relay.hearing_aside(self.subscriptions.heard_aside());
        relay.insisting(leg.synchronous);
        let client = client_stays.then_some(&mut self.client);
        let result = relay.collect(&mut leg.connection, sink, client).await;
        self.client_left |= relay.was_abandoned();
        if let Err(error) = result {
            return Err(self.lost(node, error));
        }
        let outcome = relay.into_outcome();
        if outcome.notified {
            let shard = leg.shard;
            self.tokens.observe(shard, node, Instant::now());
        }
        if outcome.unacknowledged.is_some() && !Box::pin(self.is_acknowledged_now(node)).await {
            self.legs.close(node);
            return Err(unacknowledged());
        }
        if outcome.not_brought {
            // it is not where the client is, nor where it was
            self.legs.close(node);
        }
        Ok(outcome)
    }

    /// A leg is gone, or talks nonsense. It is closed; a block that it took part in has failed.
    pub(crate) fn lost(&mut self, node: NodeId, error: RelayError) -> Failure {
        let leg = self.legs.at(node);
        let in_block = leg.in_block;
        let server = leg.connection.server().name.clone();
        self.legs.close(node);
        let reason = match error {
            RelayError::Client(_) => return Failure::ClientGone,
            RelayError::Unsynchronized { .. } => {
                return Failure::Fatal(Box::new(PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    "terminating connection because protocol synchronization was lost",
                )));
            }
            RelayError::Protocol { tag } => {
                if in_block {
                    self.lose_block();
                }
                return PgError::error(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("server \"{server}\" sent an unexpected message of type {tag:?}"),
                )
                .into();
            }
            RelayError::Server { said: Some(said) } => said.message,
            RelayError::Server { said: None } => {
                "The server closed the connection unexpectedly.".to_owned()
            }
        };
        if in_block {
            self.lose_block();
            let error = PgError::error(
                SqlState::SERIALIZATION_FAILURE,
                format!(
                    "the connection to server \"{server}\" was lost within a transaction block"
                ),
            );
            return self.lost_in_mode(
                error
                    .detail(reason)
                    .hint("Nothing of the block is kept. Roll back and try again."),
            );
        }
        let error = PgError::error(
            SqlState::CONNECTION_FAILURE,
            format!("the connection to server \"{server}\" was lost"),
        );
        self.lost_in_mode(error.detail(reason))
    }
}

fn read_answer(mut bytes: BytesMut) -> Answer {
    let mut answer = Answer::default();
    while let Ok(Some(frame)) = split_frame(&mut bytes, usize::MAX) {
        match BackendMessage::parse(&frame) {
            Ok(BackendMessage::CommandComplete(tag)) => {
                answer.tags.push(String::from_utf8_lossy(tag).into_owned())
            }
            Ok(BackendMessage::DataRow(row)) => {
                answer.rows += 1;
                answer.value = row
                    .values()
                    .next()
                    .flatten()
                    .map(|value| String::from_utf8_lossy(value).into_owned());
            }
            _ => {}
        }
    }
    answer
}
