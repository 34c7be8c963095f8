//! Every message a client sends once it is connected, parsed and encoded.
//!
//! Owns [`FrontendMessage`] and the bodies that have parts: [`Parse`], [`Bind`], [`FunctionCall`] and the answers of an
//! authentication exchange. All borrow from their frame. Never decides what a message means for a session.
//!
//! Postgres documentation, chapter 55.7 (Message Formats).

use bytes::{BufMut, BytesMut};

use crate::frame::Frame;
use crate::lists::{Format, Formats, Oids, Values, ValuesIter};
use crate::tag::frontend as tag;
use crate::wire::{MessageError, Reader, put_string, put_value, write_message};

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

/// The body of a Parse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// One statement, or none.
    pub sql: &'a [u8],
    types: Oids<'a>,
}

impl<'a> Parse<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            name: reader.string("statement name")?,
            sql: reader.string("query string")?,
            types: Oids::read(reader, "parameter types")?,
        })
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        put_string(out, "statement name", self.name)?;
        put_string(out, "query string", self.sql)?;
        Oids::write(out, "parameter types", self.types.iter())
    }

    /// A Parse that leaves every parameter's type to the server.
    #[must_use]
    pub fn untyped(name: &'a [u8], sql: &'a [u8]) -> Self {
        Self {
            name,
            sql,
            types: Oids::default(),
        }
    }

    /// The types the client declares, in order; 0 leaves one to the server, and the list may be shorter than the parameters.
    pub fn parameter_types(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.types.iter()
    }
}

/// Never shows the SQL.
impl std::fmt::Debug for Parse<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Parse(\"{}\", {} bytes, {} types)",
            self.name.escape_ascii(),
            self.sql.len(),
            self.types.len()
        )
    }
}

/// Appends a Parse of parts that lie apart.
///
/// # Errors
/// [`MessageError`] if a string has a NUL in it or there are more than 65,535 types; `out` is then as it was.
pub fn encode_parse(
    out: &mut BytesMut,
    name: &[u8],
    sql: &[u8],
    parameter_types: impl IntoIterator<Item = u32>,
) -> Result<(), MessageError> {
    write_message(out, tag::PARSE, |out| {
        put_string(out, "statement name", name)?;
        put_string(out, "query string", sql)?;
        Oids::write(out, "parameter types", parameter_types)
    })
}

/// The body of a Bind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    parameter_formats: Formats<'a>,
    parameters: Values<'a>,
    result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let bind = Self {
            portal: reader.string("portal name")?,
            statement: reader.string("statement name")?,
            parameter_formats: Formats::read(reader, "parameter formats")?,
            parameters: Values::read(reader, "parameters")?,
            result_formats: Formats::read(reader, "result formats")?,
        };
        check_format_count(bind.parameter_formats, bind.parameters)?;
        Ok(bind)
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        put_string(out, "portal name", self.portal)?;
        put_string(out, "statement name", self.statement)?;
        Formats::write(out, "parameter formats", self.parameter_formats.iter())?;
        self.parameters.copy(out);
        Formats::write(out, "result formats", self.result_formats.iter())
    }

    /// How the parameter at `index` (from 0) is written.
    #[must_use]
    pub fn parameter_format(&self, index: usize) -> Format {
        self.parameter_formats.of(index)
    }

    /// The parameters' format codes as listed: none, one, or one each.
    #[must_use]
    pub const fn parameter_formats(&self) -> Formats<'a> {
        self.parameter_formats
    }

    /// The values in order; `None` for NULL.
    #[must_use]
    pub const fn parameters(&self) -> ValuesIter<'a> {
        self.parameters.iter()
    }

    /// The value at `index` (from 0), found by walking: `None` if there are not so many, `Some(None)` for NULL.
    #[must_use]
    pub fn parameter(&self, index: usize) -> Option<Option<&'a [u8]>> {
        self.parameters.nth(index)
    }

    /// How many values there are.
    #[must_use]
    pub const fn parameter_count(&self) -> usize {
        self.parameters.len()
    }

    /// The format codes for the result's columns as listed: none, one, or one each.
    #[must_use]
    pub const fn result_formats(&self) -> Formats<'a> {
        self.result_formats
    }
}

/// Never shows a value.
impl std::fmt::Debug for Bind<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Bind(\"{}\" of \"{}\", {:?})",
            self.portal.escape_ascii(),
            self.statement.escape_ascii(),
            self.parameters
        )
    }
}

fn check_format_count(formats: Formats<'_>, values: Values<'_>) -> Result<(), MessageError> {
    if formats.len() > 1 && formats.len() != values.len() {
        return Err(MessageError::FormatCount {
            formats: formats.len(),
            parameters: values.len(),
        });
    }
    Ok(())
}

/// Appends a Bind of parts that lie apart.
///
/// # Errors
/// [`MessageError`] if a name has a NUL in it or a list has more than 65,535 items; `out` is then as it was.
pub fn encode_bind<'v>(
    out: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    parameter_formats: impl IntoIterator<Item = Format>,
    parameters: impl IntoIterator<Item = Option<&'v [u8]>>,
    result_formats: impl IntoIterator<Item = Format>,
) -> Result<(), MessageError> {
    write_message(out, tag::BIND, |out| {
        put_string(out, "portal name", portal)?;
        put_string(out, "statement name", statement)?;
        Formats::write(out, "parameter formats", parameter_formats)?;
        Values::write(out, "parameters", parameters)?;
        Formats::write(out, "result formats", result_formats)
    })
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

/// The password in the body of a PasswordMessage (clear text or an md5 response).
///
/// # Errors
/// [`MessageError`] unless the body is exactly one terminated string.
pub fn password(body: &[u8]) -> Result<&[u8], MessageError> {
    let mut reader = Reader::new(body);
    let password = reader.string("password")?;
    reader.finish()?;
    Ok(password)
}

/// Appends a PasswordMessage.
///
/// # Errors
/// [`MessageError::EmbeddedNul`] if the password has a NUL in it.
pub fn encode_password(out: &mut BytesMut, password: &[u8]) -> Result<(), MessageError> {
    write_message(out, tag::PASSWORD, |out| {
        put_string(out, "password", password)
    })
}

/// The first answer of a client in a SASL exchange. Later ones are the bare bytes of [`FrontendMessage::Password`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism the client chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first message, if sent along.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of a [`FrontendMessage::Password`].
    ///
    /// # Errors
    /// [`MessageError`], 08P01.
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let response = Self {
            mechanism: reader.string("mechanism")?,
            data: reader.value("initial response")?,
        };
        reader.finish()?;
        Ok(response)
    }

    /// Appends the message.
    ///
    /// # Errors
    /// [`MessageError`] if the mechanism has a NUL in it or the data is over 2 GiB.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        write_message(out, tag::PASSWORD, |out| {
            put_string(out, "mechanism", self.mechanism)?;
            put_value(out, "initial response", self.data)
        })
    }
}

/// Never shows the data.
impl std::fmt::Debug for SaslInitialResponse<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "SaslInitialResponse(\"{}\")",
            self.mechanism.escape_ascii()
        )
    }
}

#[cfg(test)]
mod tests;
