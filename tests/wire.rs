//! A client that says what no driver says: raw bytes over a plain connection.
//!
//! Main type: [`RawClient`].

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A message from the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse, such as `C`, the SQLSTATE.
    #[must_use]
    pub fn field(&self, kind: u8) -> Option<String> {
        self.body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&kind))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }
}

/// A connection on which any bytes can be sent.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// What BackendKeyData held: the process id and the secret key.
    key: Vec<u8>,
}

impl RawClient {
    /// Connects and says nothing.
    ///
    /// # Panics
    /// If the endpoint does not accept.
    pub async fn connect(endpoint: &str) -> Self {
        let stream = TcpStream::connect(endpoint).await.expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self {
            stream,
            key: Vec::new(),
        }
    }

    /// Connects and logs in; the user must be trusted.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn log_in(endpoint: &str, user: &str, database: &str) -> Self {
        Self::log_in_with(endpoint, &[("user", user), ("database", database)]).await
    }

    /// Connects and logs in with these parameters of the startup message; the user must be trusted.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn log_in_with(endpoint: &str, parameters: &[(&str, &str)]) -> Self {
        let mut client = Self::connect(endpoint).await;
        client.send(&startup_with(3 << 16, parameters)).await;
        loop {
            let message = client.message().await.expect("the login is answered");
            match message.tag {
                b'E' => panic!("refused: {:?}", message.field(b'M')),
                b'R' => assert_eq!(message.body, [0, 0, 0, 0], "the user must be trusted"),
                b'K' => client.key = message.body,
                b'Z' => return client,
                _ => {}
            }
        }
    }

    /// The same; what it is refused with, or `None` if the connection is lost on the way.
    ///
    /// # Errors
    /// The ErrorResponse.
    pub async fn try_log_in(
        endpoint: &str,
        user: &str,
        database: &str,
    ) -> Result<Self, Option<Message>> {
        let stream = TcpStream::connect(endpoint).await.map_err(|_| None)?;
        stream.set_nodelay(true).map_err(|_| None)?;
        let mut client = Self {
            stream,
            key: Vec::new(),
        };
        let parameters = [("user", user), ("database", database)];
        client.send(&startup_with(3 << 16, &parameters)).await;
        loop {
            let message = client.message().await.ok_or(None)?;
            match message.tag {
                b'E' => return Err(Some(message)),
                b'K' => client.key = message.body,
                b'Z' => return Ok(client),
                _ => {}
            }
        }
    }

    /// Sends bytes. That the other side has hung up is no failure: what it said before is read next.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next message; `None` when the other side has closed the connection.
    pub async fn message(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Message {
            tag: header[0],
            body,
        })
    }

    /// Messages up to and with ReadyForQuery, or to the end of the connection.
    pub async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await {
            let ready = message.tag == b'Z';
            messages.push(message);
            if ready {
                break;
            }
        }
        messages
    }

    /// Sends a simple query and reads its answer.
    pub async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql)).await;
        self.until_ready().await
    }

    /// What a CancelRequest for it says, to be sent by [`cancel`].
    #[must_use]
    pub fn cancel_key(&self) -> Vec<u8> {
        self.key.clone()
    }

    /// The connection, to read and write it as a test pleases.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// Sends a CancelRequest and waits until the endpoint has closed its connection.
///
/// # Panics
/// If the endpoint does not accept.
pub async fn cancel(endpoint: &str, key: &[u8]) {
    let mut client = RawClient::connect(endpoint).await;
    let mut request = BytesMut::new();
    request.put_u32(u32::try_from(8 + key.len()).expect("a key is short"));
    request.put_u32(80_877_102);
    request.put_slice(key);
    client.send(&request).await;
    assert_eq!(client.message().await, None);
}

/// A frame of that type.
///
/// # Panics
/// If the body is too long for a frame.
#[must_use]
pub fn frame(tag: u8, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).expect("a test's body is short"));
    out.put_slice(body);
    out
}

/// A StartupMessage.
///
/// # Panics
/// If the names are too long.
#[must_use]
pub fn startup(version: u32, user: &str, database: &str) -> BytesMut {
    startup_with(version, &[("user", user), ("database", database)])
}

/// A StartupMessage with these parameters.
///
/// # Panics
/// If they are too long.
#[must_use]
pub fn startup_with(version: u32, parameters: &[(&str, &str)]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u32(version);
    for (name, value) in parameters {
        put_text(&mut body, name);
        put_text(&mut body, value);
    }
    body.put_u8(0);
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(body.len() + 4).expect("a test's parameters are short"));
    out.extend_from_slice(&body);
    out
}

/// A simple query.
#[must_use]
pub fn query(sql: &str) -> BytesMut {
    let mut body = sql.as_bytes().to_vec();
    body.push(0);
    frame(b'Q', &body)
}

/// Parse of the unnamed statement, Bind without parameters, Execute: no Sync.
#[must_use]
pub fn unnamed(sql: &str) -> BytesMut {
    let mut body = vec![0];
    body.extend_from_slice(sql.as_bytes());
    body.extend_from_slice(&[0, 0, 0]);
    let mut out = frame(b'P', &body);
    out.extend_from_slice(&frame(b'B', &[0; 8]));
    out.extend_from_slice(&frame(b'E', &[0; 5]));
    out
}

/// Sync.
#[must_use]
pub fn sync() -> BytesMut {
    frame(b'S', &[])
}

/// Parse.
#[must_use]
pub fn parse(name: &str, sql: &str, types: &[u32]) -> BytesMut {
    let mut body = BytesMut::new();
    put_text(&mut body, name);
    put_text(&mut body, sql);
    put_count(&mut body, types.len());
    for type_oid in types {
        body.put_u32(*type_oid);
    }
    frame(b'P', &body)
}

/// Bind of values in text format.
#[must_use]
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> BytesMut {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    bind_in(portal, statement, &[], &values, &[])
}

/// Bind with formats (0 text, 1 binary) of values and results.
#[must_use]
pub fn bind_in(
    portal: &str,
    statement: &str,
    formats: &[i16],
    values: &[&[u8]],
    results: &[i16],
) -> BytesMut {
    let mut body = BytesMut::new();
    put_text(&mut body, portal);
    put_text(&mut body, statement);
    put_count(&mut body, formats.len());
    formats.iter().for_each(|format| body.put_i16(*format));
    put_count(&mut body, values.len());
    for value in values {
        put_length(&mut body, value.len());
        body.put_slice(value);
    }
    put_count(&mut body, results.len());
    results.iter().for_each(|format| body.put_i16(*format));
    frame(b'B', &body)
}

/// Describe of a statement (`S`) or portal (`P`).
#[must_use]
pub fn describe(kind: char, name: &str) -> BytesMut {
    frame(b'D', format!("{kind}{name}\0").as_bytes())
}

/// Close of a statement (`S`) or portal (`P`).
#[must_use]
pub fn close(kind: char, name: &str) -> BytesMut {
    frame(b'C', format!("{kind}{name}\0").as_bytes())
}

/// Execute; 0 rows are all.
#[must_use]
pub fn execute(portal: &str, max_rows: u32) -> BytesMut {
    let mut body = BytesMut::new();
    put_text(&mut body, portal);
    body.put_u32(max_rows);
    frame(b'E', &body)
}

/// Flush.
#[must_use]
pub fn flush() -> BytesMut {
    frame(b'H', &[])
}

/// CopyData.
#[must_use]
pub fn copy_data(data: &str) -> BytesMut {
    frame(b'd', data.as_bytes())
}

/// CopyDone.
#[must_use]
pub fn copy_done() -> BytesMut {
    frame(b'c', &[])
}

/// CopyFail.
#[must_use]
pub fn copy_fail(reason: &str) -> BytesMut {
    frame(b'f', format!("{reason}\0").as_bytes())
}

fn put_text(body: &mut BytesMut, text: &str) {
    body.put_slice(text.as_bytes());
    body.put_u8(0);
}

fn put_count(body: &mut BytesMut, count: usize) {
    body.put_u16(u16::try_from(count).expect("a test binds few values"));
}

fn put_length(body: &mut BytesMut, length: usize) {
    body.put_u32(u32::try_from(length).expect("a test's values are short"));
}
