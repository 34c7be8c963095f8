//! The bodies of the extended protocol's messages that have parts: Parse and Bind.
//!
//! Owns how they are read, renamed and written from parts that lie apart; never copies a value out of a frame.
//!
//! Postgres documentation, chapter 55.2.3 (Extended Query).

use bytes::BytesMut;

use crate::lists::{Format, Formats, Oids, Values, ValuesIter};
use crate::tag::frontend as tag;
use crate::wire::{MessageError, Reader, put_string, write_message};

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
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            name: reader.string("statement name")?,
            sql: reader.string("query string")?,
            types: Oids::read(reader, "parameter types")?,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
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
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
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

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
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

pub(super) fn check_format_count(
    formats: Formats<'_>,
    values: Values<'_>,
) -> Result<(), MessageError> {
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
