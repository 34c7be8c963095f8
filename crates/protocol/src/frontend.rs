//! Every message a client sends once it is connected, parsed and encoded.
//!
//! Owns [`FrontendMessage`] and the bodies that have parts: [`Parse`], [`Bind`], [`FunctionCall`] and the answers of an
//! authentication exchange. All borrow from their frame. Never decides what a message means for a session.
//!
//! Postgres documentation, chapter 55.7 (Message Formats).

mod answers;
mod extended;

use bytes::{BufMut, BytesMut};

pub use answers::{SaslInitialResponse, encode_password, password};
use extended::check_format_count;
pub use extended::{Bind, Parse, encode_bind, encode_parse};

use crate::frame::Frame;
use crate::lists::{Format, Formats, Values, ValuesIter};
use crate::tag::frontend as tag;
use crate::wire::{MessageError, Reader, put_string, write_message};

/// A message from a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FrontendMessage<'a> {
    /// A query string, of any number of statements.
    Query(&'a [u8]),
    /// Prepares a statement.
    Parse(Parse<'a>),
    /// Makes a portal of a statement and values.
    Bind(Bind<'a>),
    /// Asks for parameters and columns.
    Describe {
        /// What kind of thing is named.
        target: Target,
        /// Its name; empty for the unnamed one.
        name: &'a [u8],
    },
    /// Runs a portal.
    Execute {
        /// Its name; empty for the unnamed one.
        portal: &'a [u8],
        /// How many rows to stop after; 0 (or less) for all.
        max_rows: i32,
    },
    /// Forgets a statement or portal.
    Close {
        /// What kind of thing is named.
        target: Target,
        /// Its name; empty for the unnamed one.
        name: &'a [u8],
    },
    /// Ends a pipeline: commits, and asks for ReadyForQuery.
    Sync,
    /// Asks for the answers so far.
    Flush,
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// The end of COPY data.
    CopyDone,
    /// Gives up a COPY, with the reason.
    CopyFail(&'a [u8]),
    /// The end of the session.
    Terminate,
    /// Calls a function by OID.
    FunctionCall(FunctionCall<'a>),
    /// A step of the authentication exchange, whole: see [`password`], [`SaslInitialResponse`].
    Password(&'a [u8]),
}

/// What Describe and Close name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A prepared statement: `S`.
    Statement,
    /// A portal: `P`.
    Portal,
}

impl Target {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        match reader.u8("subtype")? {
            b'S' => Ok(Self::Statement),
            b'P' => Ok(Self::Portal),
            other => Err(MessageError::InvalidValue {
                what: "message subtype",
                value: i64::from(other),
            }),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

impl<'a> FrontendMessage<'a> {
    /// Reads a whole frame; nothing is copied.
    ///
    /// # Errors
    /// [`MessageError`]: 08P01, or 22023 for a format code. The frame was whole, so the connection can go on.
    pub fn parse(frame: &'a Frame) -> Result<Self, MessageError> {
        Self::parse_body(frame.tag(), frame.body())
    }

    /// Reads a body whose tag is known, wherever it lies.
    ///
    /// # Errors
    /// As [`FrontendMessage::parse`].
    pub fn parse_body(tag: u8, body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let message = match tag {
            tag::QUERY => Self::Query(reader.string("query string")?),
            tag::PARSE => Self::Parse(Parse::read(&mut reader)?),
            tag::BIND => Self::Bind(Bind::read(&mut reader)?),
            tag::DESCRIBE => Self::Describe {
                target: Target::read(&mut reader)?,
                name: reader.string("name")?,
            },
            tag::EXECUTE => Self::Execute {
                portal: reader.string("portal name")?,
                max_rows: reader.i32("row limit")?,
            },
            tag::CLOSE => Self::Close {
                target: Target::read(&mut reader)?,
                name: reader.string("name")?,
            },
            tag::SYNC => Self::Sync,
            tag::FLUSH => Self::Flush,
            tag::COPY_DATA => Self::CopyData(reader.take_rest()),
            tag::COPY_DONE => Self::CopyDone,
            tag::COPY_FAIL => Self::CopyFail(reader.string("error message")?),
            tag::TERMINATE => Self::Terminate,
            tag::FUNCTION_CALL => Self::FunctionCall(FunctionCall::read(&mut reader)?),
            tag::PASSWORD => Self::Password(reader.take_rest()),
            tag => return Err(MessageError::UnknownTag { tag }),
        };
        reader.finish()?;
        Ok(message)
    }

    /// The tag it is sent under.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Query(_) => tag::QUERY,
            Self::Parse(_) => tag::PARSE,
            Self::Bind(_) => tag::BIND,
            Self::Describe { .. } => tag::DESCRIBE,
            Self::Execute { .. } => tag::EXECUTE,
            Self::Close { .. } => tag::CLOSE,
            Self::Sync => tag::SYNC,
            Self::Flush => tag::FLUSH,
            Self::CopyData(_) => tag::COPY_DATA,
            Self::CopyDone => tag::COPY_DONE,
            Self::CopyFail(_) => tag::COPY_FAIL,
            Self::Terminate => tag::TERMINATE,
            Self::FunctionCall(_) => tag::FUNCTION_CALL,
            Self::Password(_) => tag::PASSWORD,
        }
    }

    /// What the protocol's documentation calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Query(_) => "Query",
            Self::Parse(_) => "Parse",
            Self::Bind(_) => "Bind",
            Self::Describe { .. } => "Describe",
            Self::Execute { .. } => "Execute",
            Self::Close { .. } => "Close",
            Self::Sync => "Sync",
            Self::Flush => "Flush",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::CopyFail(_) => "CopyFail",
            Self::Terminate => "Terminate",
            Self::FunctionCall(_) => "FunctionCall",
            Self::Password(_) => "Password",
        }
    }

    /// Appends the message to `out`.
    ///
    /// # Errors
    /// [`MessageError`] if a string has a NUL in it or a length does not fit; `out` is then as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        write_message(out, self.tag(), |out| match self {
            Self::Query(sql) => put_string(out, "query string", sql),
            Self::Parse(parse) => parse.write(out),
            Self::Bind(bind) => bind.write(out),
            Self::Describe { target, name } | Self::Close { target, name } => {
                out.put_u8(target.code());
                put_string(out, "name", name)
            }
            Self::Execute { portal, max_rows } => {
                put_string(out, "portal name", portal)?;
                out.put_i32(*max_rows);
                Ok(())
            }
            Self::CopyData(bytes) | Self::Password(bytes) => {
                out.put_slice(bytes);
                Ok(())
            }
            Self::CopyFail(reason) => put_string(out, "error message", reason),
            Self::FunctionCall(call) => call.write(out),
            Self::Sync | Self::Flush | Self::CopyDone | Self::Terminate => Ok(()),
        })
    }
}

/// Shows names and sizes: never SQL, values or passwords.
impl std::fmt::Debug for FrontendMessage<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.name();
        match self {
            Self::Query(bytes)
            | Self::CopyData(bytes)
            | Self::CopyFail(bytes)
            | Self::Password(bytes) => write!(formatter, "{kind}({} bytes)", bytes.len()),
            Self::Describe { target, name } | Self::Close { target, name } => {
                write!(formatter, "{kind}({target:?} \"{}\")", name.escape_ascii())
            }
            Self::Execute { portal, max_rows } => {
                write!(
                    formatter,
                    "{kind}(\"{}\", {max_rows} rows)",
                    portal.escape_ascii()
                )
            }
            Self::Parse(parse) => parse.fmt(formatter),
            Self::Bind(bind) => bind.fmt(formatter),
            Self::FunctionCall(call) => call.fmt(formatter),
            Self::Sync | Self::Flush | Self::CopyDone | Self::Terminate => {
                formatter.write_str(kind)
            }
        }
    }
}

/// The body of a FunctionCall: a function called by OID, which chapter 55.2.5 advises against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    /// The function.
    pub function: u32,
    argument_formats: Formats<'a>,
    arguments: Values<'a>,
    /// How the result is wanted.
    pub result_format: Format,
}

impl<'a> FunctionCall<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let call = Self {
            function: reader.u32("function")?,
            argument_formats: Formats::read(reader, "argument formats")?,
            arguments: Values::read(reader, "arguments")?,
            result_format: Format::from_code(reader.i16("result format")?)?,
        };
        check_format_count(call.argument_formats, call.arguments)?;
        Ok(call)
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_u32(self.function);
        Formats::write(out, "argument formats", self.argument_formats.iter())?;
        self.arguments.copy(out);
        out.put_i16(self.result_format.code());
        Ok(())
    }

    /// The arguments' format codes as listed.
    #[must_use]
    pub const fn argument_formats(&self) -> Formats<'a> {
        self.argument_formats
    }

    /// The arguments in order; `None` for NULL.
    #[must_use]
    pub const fn arguments(&self) -> ValuesIter<'a> {
        self.arguments.iter()
    }
}

#[cfg(test)]
mod tests;
