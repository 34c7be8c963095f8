//! The bodies of a server's messages that have parts.
//!
//! Owns one type for each, and functions that write the counted ones from parts that lie apart. Never copies a value
//! out of a frame.

use bytes::{BufMut, BytesMut};

use crate::cancel::{CancelKey, check_length};
use crate::lists::{Format, Formats, Oids, Values, ValuesIter};
use crate::startup::ProtocolVersion;
use crate::tag::backend as tag;
use crate::wire::{MessageError, Reader, put_list, put_string, write_message};

/// Where a session stands between queries: the byte in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// Not in a transaction block: `I`.
    Idle,
    /// In a transaction block: `T`.
    InTransaction,
    /// In a failed transaction block, which only takes its end: `E`.
    Failed,
}

impl TransactionStatus {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        match reader.u8("transaction status")? {
            b'I' => Ok(Self::Idle),
            b'T' => Ok(Self::InTransaction),
            b'E' => Ok(Self::Failed),
            other => Err(MessageError::InvalidValue {
                what: "transaction status",
                value: i64::from(other),
            }),
        }
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// What a CancelRequest for this session must name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The server process.
    pub pid: i32,
    /// Its secret, 4 to 256 bytes.
    pub key: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let data = Self {
            pid: reader.i32("process id")?,
            key: reader.take_rest(),
        };
        check_length(data.key.len())?;
        Ok(data)
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        check_length(self.key.len())?;
        out.put_i32(self.pid);
        out.put_slice(self.key);
        Ok(())
    }

    /// The key as one to keep.
    ///
    /// # Errors
    /// [`MessageError::InvalidValue`] unless it has 4 to 256 bytes; never for one that was parsed.
    pub fn cancel_key(&self) -> Result<CancelKey, MessageError> {
        CancelKey::new(self.key)
    }
}

/// Never shows the key.
impl std::fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "BackendKeyData {{ pid: {}, key: *** }}",
            self.pid
        )
    }
}

/// One column in a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The column's name.
    pub name: &'a [u8],
    /// The table it comes from, 0 for none.
    pub table_oid: u32,
    /// Its number in that table, 0 for none.
    pub column: i16,
    /// Its type.
    pub type_oid: u32,
    /// Its type's size in bytes; negative for varying length.
    pub type_size: i16,
    /// What the type is modified by, such as a length; -1 for nothing.
    pub type_modifier: i32,
    /// How its values will be written; always text where a statement is described.
    pub format: Format,
}

impl<'a> Field<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            name: reader.string("column name")?,
            table_oid: reader.u32("table")?,
            column: reader.i16("column number")?,
            type_oid: reader.u32("type")?,
            type_size: reader.i16("type size")?,
            type_modifier: reader.i32("type modifier")?,
            format: Format::from_code(reader.i16("format")?)?,
        })
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        put_string(out, "column name", self.name)?;
        out.put_u32(self.table_oid);
        out.put_i16(self.column);
        out.put_u32(self.type_oid);
        out.put_i16(self.type_size);
        out.put_i32(self.type_modifier);
        out.put_i16(self.format.code());
        Ok(())
    }
}

/// The columns of the rows to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: u16,
    raw: &'a [u8],
}

impl<'a> RowDescription<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let count = reader.u16("column count")?;
        let raw = reader.remaining();
        for _ in 0..count {
            Field::read(reader)?;
        }
        let length = raw.len() - reader.remaining().len();
        Ok(Self {
            count,
            raw: raw.get(..length).unwrap_or_default(),
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_u16(self.count);
        out.put_slice(self.raw);
        Ok(())
    }

    /// How many columns there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none (`SELECT` alone).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in order.
    #[must_use]
    pub const fn fields(&self) -> Fields<'a> {
        Fields {
            reader: Reader::new(self.raw),
            left: self.count,
        }
    }
}

/// Walks over the columns of a [`RowDescription`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        self.left = self.left.checked_sub(1)?;
        Field::read(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// Appends a RowDescription of these columns.
///
/// # Errors
/// [`MessageError`] if a name has a NUL in it or there are more than 65,535; `out` is then as it was.
pub fn encode_row_description<'f>(
    out: &mut BytesMut,
    fields: impl IntoIterator<Item = Field<'f>>,
) -> Result<(), MessageError> {
    write_message(out, tag::ROW_DESCRIPTION, |out| {
        put_list(out, "columns", fields, |out, field| field.write(out))
    })
}

/// Appends a ParameterDescription of these types.
///
/// # Errors
/// [`MessageError::TooLong`] if there are more than 65,535; `out` is then as it was.
pub fn encode_parameter_description(
    out: &mut BytesMut,
    types: impl IntoIterator<Item = u32>,
) -> Result<(), MessageError> {
    write_message(out, tag::PARAMETER_DESCRIPTION, |out| {
        Oids::write(out, "parameter types", types)
    })
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRow<'a> {
    values: Values<'a>,
}

impl<'a> DataRow<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            values: Values::read(reader, "columns")?,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        self.values.copy(out);
        Ok(())
    }

    /// How many columns there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none (`SELECT` alone).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values in order; `None` for NULL.
    #[must_use]
    pub const fn values(&self) -> ValuesIter<'a> {
        self.values.iter()
    }

    /// The value at `index` (from 0), found by walking: `None` if there are not so many, `Some(None)` for NULL.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<Option<&'a [u8]>> {
        self.values.nth(index)
    }
}

/// Appends a DataRow of these values.
///
/// # Errors
/// [`MessageError::TooLong`] if there are more than 65,535 or the row passes 2 GiB; `out` is then as it was.
pub fn encode_data_row<'v>(
    out: &mut BytesMut,
    values: impl IntoIterator<Item = Option<&'v [u8]>>,
) -> Result<(), MessageError> {
    write_message(out, tag::DATA_ROW, |out| {
        Values::write(out, "columns", values)
    })
}

/// How COPY data is written: the body of CopyInResponse, CopyOutResponse and CopyBothResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// The format of the whole: text (CSV too) or binary.
    pub format: Format,
    /// The format of each column.
    pub columns: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            format: Format::from_code(i16::from(reader.u8("copy format")?))?,
            columns: Formats::read(reader, "column formats")?,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_u8(match self.format {
            Format::Text => 0,
            Format::Binary => 1,
        });
        Formats::write(out, "column formats", self.columns.iter())
    }
}

/// A NOTIFY that a session listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The server process that notified.
    pub pid: i32,
    /// The channel.
    pub channel: &'a [u8],
    /// What was passed along; may be empty.
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            pid: reader.i32("process id")?,
            channel: reader.string("channel")?,
            payload: reader.string("payload")?,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_i32(self.pid);
        put_string(out, "channel", self.channel)?;
        put_string(out, "payload", self.payload)
    }
}

/// What a server says that speaks an older minor version than the client asked for, or knows not all its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The version the server will speak. The documentation says "minor version", Postgres sends both halves.
    pub version: ProtocolVersion,
    count: u32,
    options: &'a [u8],
}

impl<'a> NegotiateProtocolVersion<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let version = ProtocolVersion::from_code(reader.u32("protocol version")?);
        let count = reader.u32("option count")?;
        let options = reader.remaining();
        // a count beyond what the body can hold ends at the body's end
        for _ in 0..count {
            reader.string("option")?;
        }
        let length = options.len() - reader.remaining().len();
        Ok(Self {
            version,
            count,
            options: options.get(..length).unwrap_or_default(),
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        out.put_u32(self.version.code());
        out.put_u32(self.count);
        out.put_slice(self.options);
        Ok(())
    }

    /// The options the server does not know.
    pub fn options(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.options);
        std::iter::from_fn(move || reader.string("option").ok())
    }
}

/// Appends a NegotiateProtocolVersion.
///
/// # Errors
/// [`MessageError`] if an option has a NUL in it; `out` is then as it was.
pub fn encode_negotiate_protocol_version<'o>(
    out: &mut BytesMut,
    version: ProtocolVersion,
    options: impl ExactSizeIterator<Item = &'o [u8]>,
) -> Result<(), MessageError> {
    write_message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.put_u32(version.code());
        let length = options.len();
        let count = u32::try_from(length).map_err(|_| MessageError::TooLong {
            what: "options",
            length,
        })?;
        out.put_u32(count);
        for option in options {
            put_string(out, "option", option)?;
        }
        Ok(())
    })
}
