//! Every message a server sends, parsed and encoded.
//!
//! Owns [`BackendMessage`] and the bodies that have parts, in `messages`. All borrow from their frame. Never
//! decides what a message means for a session.
//!
//! Postgres documentation, chapter 55.7 (Message Formats).

mod authentication;
mod messages;

use bytes::{BufMut, BytesMut};

pub use authentication::{Authentication, Mechanisms};
pub use messages::{
    BackendKeyData, CopyResponse, DataRow, Field, Fields, NegotiateProtocolVersion, Notification,
    RowDescription, TransactionStatus, encode_data_row, encode_negotiate_protocol_version,
    encode_parameter_description, encode_row_description,
};

use crate::error::ErrorFields;
use crate::frame::Frame;
use crate::lists::Oids;
use crate::tag::backend as tag;
use crate::wire::{MessageError, Reader, put_string, put_value, write_message};

/// A message from a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BackendMessage<'a> {
    /// A step of the authentication exchange.
    Authentication(Authentication<'a>),
    /// What a CancelRequest for this session must name.
    BackendKeyData(BackendKeyData<'a>),
    /// A setting the server reports, at the start and whenever it changes.
    ParameterStatus {
        /// The setting.
        name: &'a [u8],
        /// Its value now.
        value: &'a [u8],
    },
    /// The server waits for the next query.
    ReadyForQuery(TransactionStatus),
    /// The columns of the rows to come.
    RowDescription(RowDescription<'a>),
    /// One row.
    DataRow(DataRow<'a>),
    /// A statement is done, with its command tag (`SELECT 5`).
    CommandComplete(&'a [u8]),
    /// A statement failed.
    ErrorResponse(ErrorFields<'a>),
    /// A warning or other remark.
    NoticeResponse(ErrorFields<'a>),
    /// Answers Parse.
    ParseComplete,
    /// Answers Bind.
    BindComplete,
    /// Answers Close.
    CloseComplete,
    /// Answers Describe for what returns no rows.
    NoData,
    /// Answers Describe of a statement: its parameters' types.
    ParameterDescription(Oids<'a>),
    /// An Execute stopped at its row limit.
    PortalSuspended,
    /// An empty query string is done.
    EmptyQueryResponse,
    /// The server wants COPY data.
    CopyInResponse(CopyResponse<'a>),
    /// The server sends COPY data.
    CopyOutResponse(CopyResponse<'a>),
    /// Both at once, for replication.
    CopyBothResponse(CopyResponse<'a>),
    /// A piece of COPY data.
    CopyData(&'a [u8]),
    /// The end of COPY data.
    CopyDone,
    /// A NOTIFY that this session listens for.
    NotificationResponse(Notification<'a>),
    /// The server speaks an older minor version, or knows not all options.
    NegotiateProtocolVersion(NegotiateProtocolVersion<'a>),
    /// The result of a FunctionCall; `None` for NULL.
    FunctionCallResponse(Option<&'a [u8]>),
}

impl<'a> BackendMessage<'a> {
    /// Reads a whole frame; nothing is copied.
    ///
    /// # Errors
    /// [`MessageError`]; a server that sends such is not to be trusted with the rest of the stream.
    pub fn parse(frame: &'a Frame) -> Result<Self, MessageError> {
        Self::parse_body(frame.tag(), frame.body())
    }

    /// Reads a body whose tag is known, wherever it lies.
    ///
    /// # Errors
    /// As [`BackendMessage::parse`].
    pub fn parse_body(tag: u8, body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let message = match tag {
            tag::AUTHENTICATION => Self::Authentication(Authentication::read(&mut reader)?),
            tag::BACKEND_KEY_DATA => Self::BackendKeyData(BackendKeyData::read(&mut reader)?),
            tag::PARAMETER_STATUS => Self::ParameterStatus {
                name: reader.string("parameter name")?,
                value: reader.string("parameter value")?,
            },
            tag::READY_FOR_QUERY => Self::ReadyForQuery(TransactionStatus::read(&mut reader)?),
            tag::ROW_DESCRIPTION => Self::RowDescription(RowDescription::read(&mut reader)?),
            tag::DATA_ROW => Self::DataRow(DataRow::read(&mut reader)?),
            tag::COMMAND_COMPLETE => Self::CommandComplete(reader.string("command tag")?),
            tag::ERROR_RESPONSE => Self::ErrorResponse(ErrorFields::read(&mut reader)?),
            tag::NOTICE_RESPONSE => Self::NoticeResponse(ErrorFields::read(&mut reader)?),
            tag::PARSE_COMPLETE => Self::ParseComplete,
            tag::BIND_COMPLETE => Self::BindComplete,
            tag::CLOSE_COMPLETE => Self::CloseComplete,
            tag::NO_DATA => Self::NoData,
            tag::PARAMETER_DESCRIPTION => {
                Self::ParameterDescription(Oids::read(&mut reader, "parameter types")?)
            }
            tag::PORTAL_SUSPENDED => Self::PortalSuspended,
            tag::EMPTY_QUERY_RESPONSE => Self::EmptyQueryResponse,
            tag::COPY_IN_RESPONSE => Self::CopyInResponse(CopyResponse::read(&mut reader)?),
            tag::COPY_OUT_RESPONSE => Self::CopyOutResponse(CopyResponse::read(&mut reader)?),
            tag::COPY_BOTH_RESPONSE => Self::CopyBothResponse(CopyResponse::read(&mut reader)?),
            tag::COPY_DATA => Self::CopyData(reader.take_rest()),
            tag::COPY_DONE => Self::CopyDone,
            tag::NOTIFICATION_RESPONSE => {
                Self::NotificationResponse(Notification::read(&mut reader)?)
            }
            tag::NEGOTIATE_PROTOCOL_VERSION => {
                Self::NegotiateProtocolVersion(NegotiateProtocolVersion::read(&mut reader)?)
            }
            tag::FUNCTION_CALL_RESPONSE => {
                Self::FunctionCallResponse(reader.value("function result")?)
            }
            tag => return Err(MessageError::UnknownTag { tag }),
        };
        reader.finish()?;
        Ok(message)
    }

    /// The tag it is sent under.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Authentication(_) => tag::AUTHENTICATION,
            Self::BackendKeyData(_) => tag::BACKEND_KEY_DATA,
            Self::ParameterStatus { .. } => tag::PARAMETER_STATUS,
            Self::ReadyForQuery(_) => tag::READY_FOR_QUERY,
            Self::RowDescription(_) => tag::ROW_DESCRIPTION,
            Self::DataRow(_) => tag::DATA_ROW,
            Self::CommandComplete(_) => tag::COMMAND_COMPLETE,
            Self::ErrorResponse(_) => tag::ERROR_RESPONSE,
            Self::NoticeResponse(_) => tag::NOTICE_RESPONSE,
            Self::ParseComplete => tag::PARSE_COMPLETE,
            Self::BindComplete => tag::BIND_COMPLETE,
            Self::CloseComplete => tag::CLOSE_COMPLETE,
            Self::NoData => tag::NO_DATA,
            Self::ParameterDescription(_) => tag::PARAMETER_DESCRIPTION,
            Self::PortalSuspended => tag::PORTAL_SUSPENDED,
            Self::EmptyQueryResponse => tag::EMPTY_QUERY_RESPONSE,
            Self::CopyInResponse(_) => tag::COPY_IN_RESPONSE,
            Self::CopyOutResponse(_) => tag::COPY_OUT_RESPONSE,
            Self::CopyBothResponse(_) => tag::COPY_BOTH_RESPONSE,
            Self::CopyData(_) => tag::COPY_DATA,
            Self::CopyDone => tag::COPY_DONE,
            Self::NotificationResponse(_) => tag::NOTIFICATION_RESPONSE,
            Self::NegotiateProtocolVersion(_) => tag::NEGOTIATE_PROTOCOL_VERSION,
            Self::FunctionCallResponse(_) => tag::FUNCTION_CALL_RESPONSE,
        }
    }

    /// What the protocol's documentation calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authentication(_) => "Authentication",
            Self::BackendKeyData(_) => "BackendKeyData",
            Self::ParameterStatus { .. } => "ParameterStatus",
            Self::ReadyForQuery(_) => "ReadyForQuery",
            Self::RowDescription(_) => "RowDescription",
            Self::DataRow(_) => "DataRow",
            Self::CommandComplete(_) => "CommandComplete",
            Self::ErrorResponse(_) => "ErrorResponse",
            Self::NoticeResponse(_) => "NoticeResponse",
            Self::ParseComplete => "ParseComplete",
            Self::BindComplete => "BindComplete",
            Self::CloseComplete => "CloseComplete",
            Self::NoData => "NoData",
            Self::ParameterDescription(_) => "ParameterDescription",
            Self::PortalSuspended => "PortalSuspended",
            Self::EmptyQueryResponse => "EmptyQueryResponse",
            Self::CopyInResponse(_) => "CopyInResponse",
            Self::CopyOutResponse(_) => "CopyOutResponse",
            Self::CopyBothResponse(_) => "CopyBothResponse",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::NotificationResponse(_) => "NotificationResponse",
            Self::NegotiateProtocolVersion(_) => "NegotiateProtocolVersion",
            Self::FunctionCallResponse(_) => "FunctionCallResponse",
        }
    }

    /// Appends the message to `out`.
    ///
    /// # Errors
    /// [`MessageError`] if a string has a NUL in it or a length does not fit; `out` is then as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        write_message(out, self.tag(), |out| match self {
            Self::Authentication(authentication) => authentication.write(out),
            Self::BackendKeyData(key) => key.write(out),
            Self::ParameterStatus { name, value } => {
                put_string(out, "parameter name", name)?;
                put_string(out, "parameter value", value)
            }
            Self::ReadyForQuery(status) => {
                out.put_u8(status.code());
                Ok(())
            }
            Self::RowDescription(description) => description.write(out),
            Self::DataRow(row) => row.write(out),
            Self::CommandComplete(command) => put_string(out, "command tag", command),
            Self::ErrorResponse(fields) | Self::NoticeResponse(fields) => {
                fields.write(out);
                Ok(())
            }
            Self::ParameterDescription(types) => Oids::write(out, "parameter types", types.iter()),
            Self::CopyInResponse(response)
            | Self::CopyOutResponse(response)
            | Self::CopyBothResponse(response) => response.write(out),
            Self::CopyData(bytes) => {
                out.put_slice(bytes);
                Ok(())
            }
            Self::NotificationResponse(notification) => notification.write(out),
            Self::NegotiateProtocolVersion(negotiation) => negotiation.write(out),
            Self::FunctionCallResponse(result) => put_value(out, "function result", *result),
            Self::ParseComplete
            | Self::BindComplete
            | Self::CloseComplete
            | Self::NoData
            | Self::PortalSuspended
            | Self::EmptyQueryResponse
            | Self::CopyDone => Ok(()),
        })
    }
}

/// Shows names and sizes, settings and errors: never values or keys.
impl std::fmt::Debug for BackendMessage<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.name();
        match self {
            Self::Authentication(authentication) => write!(formatter, "{kind}({authentication:?})"),
            Self::BackendKeyData(key) => key.fmt(formatter),
            Self::ParameterStatus { name, value } => write!(
                formatter,
                "{kind}({} = \"{}\")",
                name.escape_ascii(),
                value.escape_ascii()
            ),
            Self::ReadyForQuery(status) => write!(formatter, "{kind}({status:?})"),
            Self::RowDescription(description) => {
                write!(formatter, "{kind}({} columns)", description.len())
            }
            Self::DataRow(row) => row.fmt(formatter),
            Self::CommandComplete(command) => {
                write!(formatter, "{kind}(\"{}\")", command.escape_ascii())
            }
            Self::ErrorResponse(fields) | Self::NoticeResponse(fields) => {
                write!(formatter, "{kind}({fields:?})")
            }
            Self::ParameterDescription(types) => write!(formatter, "{kind}({types:?})"),
            Self::CopyInResponse(response)
            | Self::CopyOutResponse(response)
            | Self::CopyBothResponse(response) => write!(formatter, "{kind}({response:?})"),
            Self::CopyData(bytes) => write!(formatter, "{kind}({} bytes)", bytes.len()),
            Self::NotificationResponse(notification) => write!(
                formatter,
                "{kind}(\"{}\" from {})",
                notification.channel.escape_ascii(),
                notification.pid
            ),
            Self::NegotiateProtocolVersion(negotiation) => {
                write!(formatter, "{kind}({})", negotiation.version)
            }
            Self::FunctionCallResponse(_)
            | Self::ParseComplete
            | Self::BindComplete
            | Self::CloseComplete
            | Self::NoData
            | Self::PortalSuspended
            | Self::EmptyQueryResponse
            | Self::CopyDone => formatter.write_str(kind),
        }
    }
}

#[cfg(test)]
mod tests;
