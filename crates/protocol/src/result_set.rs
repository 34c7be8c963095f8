//! Small results that pgherd itself gives: the console's, SHOW of its own settings, EXPLAIN (ROUTE).
//!
//! Owns [`ResultSet`], in text format; never relays a server's rows.

use bytes::BytesMut;

use crate::backend::{BackendMessage, Field, encode_data_row, encode_row_description};
use crate::lists::Format;
use crate::oid;
use crate::wire::MessageError;

/// Columns and rows of text, to be written as RowDescription, DataRows and CommandComplete.
#[derive(Debug, Clone)]
pub struct ResultSet {
    columns: Vec<(String, u32)>,
    rows: BytesMut,
    row_count: usize,
    fault: Option<MessageError>,
}

impl ResultSet {
    /// A result without rows yet; each column is a name and a type's OID.
    #[must_use]
    pub fn new(columns: &[(&str, u32)]) -> Self {
        Self {
            columns: columns
                .iter()
                .map(|(name, oid)| ((*name).to_owned(), *oid))
                .collect(),
            rows: BytesMut::new(),
            row_count: 0,
            fault: None,
        }
    }

    /// Adds a row, in each type's text format; `None` is NULL.
    ///
    /// A row of more or fewer values than columns makes the encoders fail rather than show something wrong.
    pub fn row(&mut self, values: &[Option<&str>]) {
        let written = if values.len() == self.columns.len() {
            encode_data_row(
                &mut self.rows,
                values.iter().map(|value| value.map(str::as_bytes)),
            )
        } else {
            Err(MessageError::InvalidValue {
                what: "number of values in a row",
                value: i64::try_from(values.len()).unwrap_or(i64::MAX),
            })
        };
        match written {
            Ok(()) => self.row_count += 1,
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
    }

    /// How many rows there are.
    #[must_use]
    pub const fn row_count(&self) -> usize {
        self.row_count
    }

    /// Appends the RowDescription alone, as Describe is answered.
    ///
    /// # Errors
    /// [`MessageError`] if a column's name has a NUL in it or there are more than 65,535.
    pub fn encode_description(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        encode_row_description(
            out,
            self.columns.iter().map(|(name, type_oid)| Field {
                name: name.as_bytes(),
                table_oid: 0,
                column: 0,
                type_oid: *type_oid,
                type_size: oid::type_size(*type_oid),
                type_modifier: -1,
                format: Format::Text,
            }),
        )
    }

    /// Appends the DataRows alone.
    ///
    /// # Errors
    /// The first fault of a row that could not be taken.
    pub fn encode_rows(&self, out: &mut BytesMut) -> Result<(), MessageError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        out.extend_from_slice(&self.rows);
        Ok(())
    }

    /// Appends RowDescription, DataRows and CommandComplete with this tag (`SHOW`, `SELECT 3`), as a simple query is answered.
    /// ReadyForQuery is the caller's.
    ///
    /// # Errors
    /// As the parts; `out` is then as it was.
    pub fn encode(&self, out: &mut BytesMut, command_tag: &str) -> Result<(), MessageError> {
        let start = out.len();
        let written = self
            .encode_description(out)
            .and_then(|()| self.encode_rows(out))
            .and_then(|()| BackendMessage::CommandComplete(command_tag.as_bytes()).encode(out));
        if written.is_err() {
            out.truncate(start);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::{Frame, split_frame};

    fn frames(mut bytes: BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap()).collect()
    }

    #[test]
    fn a_result_is_a_description_then_rows_then_the_tag() {
        let mut result = ResultSet::new(&[("shard", oid::TEXT), ("bucket", oid::INT4)]);
        result.row(&[Some("s1"), Some("17")]);
        result.row(&[Some("s2"), None]);
        let mut out = BytesMut::new();
        result.encode(&mut out, "SELECT 2").unwrap();
        let frames = frames(out);
        let tags: Vec<u8> = frames.iter().map(Frame::tag).collect();
        assert_eq!(tags, b"TDDC");
        let BackendMessage::RowDescription(description) =
            BackendMessage::parse(&frames[0]).unwrap()
        else {
            panic!("a RowDescription")
        };
        let sizes: Vec<i16> = description.fields().map(|field| field.type_size).collect();
        assert_eq!(sizes, [-1, 4]);
        let BackendMessage::DataRow(row) = BackendMessage::parse(&frames[2]).unwrap() else {
            panic!("a DataRow")
        };
        assert_eq!(row.values().collect::<Vec<_>>(), [Some(&b"s2"[..]), None]);
    }

    #[test]
    fn a_row_of_the_wrong_width_is_never_sent() {
        let mut result = ResultSet::new(&[("one", oid::TEXT)]);
        result.row(&[Some("1"), Some("2")]);
        let mut out = BytesMut::from(&b"x"[..]);
        assert!(result.encode(&mut out, "SHOW").is_err());
        assert_eq!(&out[..], b"x");
    }
}
