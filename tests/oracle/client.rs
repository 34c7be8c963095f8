//! A statement's way to a server and back, in each form that the protocol has.
//!
//! Owns what is sent and how the answer is read into something that can be compared. Never compares. Main types: [`Connection`],
//! [`Answer`].

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::encode::binary;
use super::node::{Rendered, Value};
use crate::wire::{Message, RawClient, frame, query, startup, sync};

/// How long a server may take over an answer.
const LIMIT: Duration = Duration::from_secs(60);
/// The limit's SQLSTATE, so that it can be seen as any other error.
const NO_ANSWER: &str = "no answer";

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A simple query.
    Simple,
    /// Parse, Bind, Describe, Execute at once; parameters and results as text.
    Text,
    /// Parse and Describe; then Bind and Execute with what the server says the parameters are; all in binary.
    Binary,
    /// A named statement, executed twice, with other values the second time.
    Prepared,
}

/// One part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The types that the server gave the parameters.
    Parameters(Vec<u32>),
    /// The columns.
    Columns(Vec<Column>),
    /// A row.
    Row(Vec<Option<Vec<u8>>>),
    /// Data of COPY TO.
    Copied(Vec<u8>),
    /// The command's tag.
    Tag(String),
    /// A warning, by SQLSTATE.
    Warning(String),
    /// An error.
    Error(Failure),
    /// Any other message, by its type.
    Other(u8),
}

/// What an ErrorResponse says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE.
    pub state: String,
    /// The message.
    pub message: String,
    /// The detail.
    pub detail: Option<String>,
    /// The hint.
    pub hint: Option<String>,
}

/// A column as RowDescription has it, without what names the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_oid: u32,
    /// Its type's modifier.
    pub modifier: i32,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

/// All that was answered, up to ReadyForQuery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// In order.
    pub parts: Vec<Part>,
    /// The transaction's state: `I`, `T`, `E`, or 0 if the connection was closed.
    pub status: u8,
}

impl Answer {
    /// The first error.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.parts.iter().find_map(|part| match part {
            Part::Error(failure) => Some(failure),
            _ => None,
        })
    }

    /// Was the statement refused as unsupported?
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.failure()
            .is_some_and(|failure| failure.state == "0A000")
    }

    /// The parameters' types, if the server told them.
    #[must_use]
    pub fn parameter_types(&self) -> &[u32] {
        self.parts
            .iter()
            .find_map(|part| match part {
                Part::Parameters(types) => Some(types.as_slice()),
                _ => None,
            })
            .unwrap_or_default()
    }
}

/// A connection to the proxy or to a server.
#[derive(Debug)]
pub struct Connection {
    client: RawClient,
    status: u8,
}

impl Connection {
    /// Connects as `app`, who must be trusted.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(endpoint: &str, database: &str) -> Self {
        Self::try_open(endpoint, database)
            .await
            .unwrap_or_else(|answer| panic!("{database} at {endpoint}: {answer:?}"))
    }

    /// Connects as `app`, who must be trusted.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn try_open(endpoint: &str, database: &str) -> Result<Self, Answer> {
        let mut connection = Self {
            client: RawClient::connect(endpoint).await,
            status: 0,
        };
        let answer = connection
            .exchange(&startup(3 << 16, "app", database), None)
            .await;
        match answer.failure() {
            None => Ok(connection),
            Some(_) => Err(answer),
        }
    }

    /// The transaction's state after the last answer.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Runs a simple query.
    pub async fn simple(&mut self, sql: &str) -> Answer {
        self.exchange(&query(sql), None).await
    }

    /// Sends bytes and reads to ReadyForQuery. `copied` is sent where the server asks for COPY's data.
    pub async fn exchange(&mut self, bytes: &[u8], copied: Option<&[u8]>) -> Answer {
        self.send(bytes).await;
        self.receive(copied).await
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.client.send(bytes).await;
    }

    /// Reads to ReadyForQuery.
    pub async fn receive(&mut self, copied: Option<&[u8]>) -> Answer {
        let mut answer = Answer::default();
        loop {
            let message = tokio::time::timeout(LIMIT, self.client.message()).await;
            match message {
                Ok(Some(message)) if message.tag == b'Z' => {
                    answer.status = message.body.first().copied().unwrap_or_default();
                    break;
                }
                Ok(Some(message)) => {
                    if message.tag == b'G' {
                        let mut data = frame(b'd', copied.unwrap_or_default());
                        data.extend_from_slice(&frame(b'c', &[]));
                        self.client.send(&data).await;
                    }
                    answer.parts.extend(part(&message));
                }
                Ok(None) | Err(_) => {
                    answer.parts.push(Part::Error(Failure {
                        state: NO_ANSWER.into(),
                        message: "the connection was closed, or nothing came".into(),
                        detail: None,
                        hint: None,
                    }));
                    break;
                }
            }
        }
        self.status = answer.status;
        answer
    }
}

/// The exchanges of a statement: what is sent, one after the other, each up to its Sync. The second part of [`Mode::Binary`] and
/// [`Mode::Prepared`] depends on the types that the first was answered.
#[must_use]
pub fn exchanges(mode: Mode) -> usize {
    match mode {
        Mode::Simple | Mode::Text => 1,
        Mode::Binary => 2,
        Mode::Prepared => 3,
    }
}

/// The bytes of one of the exchanges, from 0.
#[must_use]
pub fn request(mode: Mode, step: usize, statement: &Rendered, types: &[u32]) -> BytesMut {
    match (mode, step) {
        (Mode::Simple, _) => query(&statement.sql),
        (Mode::Text, _) => {
            let mut out = parse("", statement);
            out.extend_from_slice(&bind("", statement, None, false));
            out.extend_from_slice(&describe(b'P', ""));
            out.extend_from_slice(&frame(b'E', &[0; 5]));
            out.extend_from_slice(&sync());
            out
        }
        (Mode::Binary | Mode::Prepared, 0) => {
            let name = name(mode);
            let mut out = parse(name, statement);
            out.extend_from_slice(&describe(b'S', name));
            out.extend_from_slice(&sync());
            out
        }
        (Mode::Binary | Mode::Prepared, _) => {
            let name = name(mode);
            let second = step == 2;
            let mut out = bind(name, statement, Some(types), second);
            out.extend_from_slice(&frame(b'E', &[0; 5]));
            if second {
                out.extend_from_slice(&close(name));
            }
            out.extend_from_slice(&sync());
            out
        }
    }
}

fn name(mode: Mode) -> &'static str {
    if mode == Mode::Prepared { "again" } else { "" }
}

/// Closes the named statement that [`Mode::Prepared`] may have left open.
#[must_use]
pub fn forget() -> BytesMut {
    let mut out = close("again");
    out.extend_from_slice(&sync());
    out
}

fn close(name: &str) -> BytesMut {
    let mut body = vec![b'S'];
    body.extend_from_slice(name.as_bytes());
    body.push(0);
    frame(b'C', &body)
}

fn parse(name: &str, statement: &Rendered) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_slice(name.as_bytes());
    body.put_u8(0);
    body.put_slice(statement.sql.as_bytes());
    body.put_u8(0);
    put_count(&mut body, statement.parameters.len());
    for parameter in &statement.parameters {
        body.put_u32(if parameter.is_declared {
            parameter.data_type.oid()
        } else {
            0
        });
    }
    frame(b'P', &body)
}

/// With types: each parameter in binary where its text can be encoded as its type.
fn bind(name: &str, statement: &Rendered, types: Option<&[u32]>, second: bool) -> BytesMut {
    let text = |value: &Value| {
        if second {
            value.other_text.clone()
        } else {
            value.text.clone()
        }
    };
    let encoded: Vec<(i16, Vec<u8>)> = statement
        .parameters
        .iter()
        .enumerate()
        .map(|(position, value)| {
            let text = text(value);
            let oid = types.and_then(|types| types.get(position));
            match oid.and_then(|oid| binary(*oid, &text)) {
                Some(bytes) => (1, bytes),
                None => (0, text.into_bytes()),
            }
        })
        .collect();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_slice(name.as_bytes());
    body.put_u8(0);
    put_count(&mut body, encoded.len());
    for (format, _) in &encoded {
        body.put_i16(*format);
    }
    put_count(&mut body, encoded.len());
    for (_, bytes) in &encoded {
        body.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
        body.put_slice(bytes);
    }
    body.put_i16(1);
    body.put_i16(i16::from(types.is_some()));
    frame(b'B', &body)
}

fn describe(what: u8, name: &str) -> BytesMut {
    let mut body = vec![what];
    body.extend_from_slice(name.as_bytes());
    body.push(0);
    frame(b'D', &body)
}

fn put_count(body: &mut BytesMut, count: usize) {
    body.put_u16(u16::try_from(count).unwrap_or_default());
}

/// What a message is in an answer; `None` for what says nothing of the statement.
fn part(message: &Message) -> Option<Part> {
    Some(match message.tag {
        b'S' | b'K' | b'A' | b'R' => return None,
        b't' => {
            let types = message.body.get(2..).unwrap_or_default().chunks_exact(4);
            Part::Parameters(
                types
                    .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                    .collect(),
            )
        }
        b'T' => Part::Columns(columns(&message.body)),
        b'D' => Part::Row(row(&message.body)),
        b'd' => Part::Copied(message.body.clone()),
        b'C' => Part::Tag(
            String::from_utf8_lossy(&message.body)
                .trim_end_matches('\0')
                .to_owned(),
        ),
        b'N' => match message.field(b'V').as_deref() {
            Some("WARNING") => Part::Warning(message.field(b'C').unwrap_or_default()),
            _ => return None,
        },
        b'E' => Part::Error(Failure {
            state: message.field(b'C').unwrap_or_default(),
            message: message.field(b'M').unwrap_or_default(),
            detail: message.field(b'D'),
            hint: message.field(b'H'),
        }),
        other => Part::Other(other),
    })
}

/// Reads a message's body from the front. A body that ends too soon reads as zeros: it will not compare as equal.
struct Body<'b>(&'b [u8]);

impl<'b> Body<'b> {
    fn take(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }
}

fn columns(body: &[u8]) -> Vec<Column> {
    let mut body = Body(body);
    let count = u16::from_be_bytes(body.number());
    (0..count)
        .map(|_| {
            let end = body.0.iter().position(|byte| *byte == 0).unwrap_or(0);
            let name = String::from_utf8_lossy(body.take(end)).into_owned();
            // the zero, the table and the column's number in it
            body.take(1 + 4 + 2);
            let type_oid = u32::from_be_bytes(body.number());
            body.take(2);
            Column {
                name,
                type_oid,
                modifier: i32::from_be_bytes(body.number()),
                format: i16::from_be_bytes(body.number()),
            }
        })
        .collect()
}

fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut body = Body(body);
    let count = u16::from_be_bytes(body.number());
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(body.number());
            let length = usize::try_from(length).ok()?;
            Some(body.take(length).to_vec())
        })
        .collect()
}
