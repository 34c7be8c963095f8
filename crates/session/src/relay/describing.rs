//! What a server says of statements and portals, held against what the client was told.
//!
//! Owns: reading descriptions, keeping what is known of the connection's statements, and letting nothing pass that the client would read
//! wrongly. Never does: asking for a description (`queue.rs`). Main function: [`Relay::described`].

use bytes::BytesMut;
use pgherd_pool::{Columns, ServerConnection};
use pgherd_protocol::{BackendMessage, Frame};

use super::{Relay, RelayError};
use crate::oids::describe_parameters;
use crate::script::{Audience, Awaited, Prepared, Reply};
use crate::shape::{Described, stale_plan};

impl Relay<'_> {
    /// The types of a statement's parameters; its columns come next.
    pub(super) fn parameter_description(
        &mut self,
        frame: &Frame,
        out: &mut BytesMut,
        client: bool,
    ) -> Result<(), RelayError> {
        let Ok(BackendMessage::ParameterDescription(types)) = BackendMessage::parse(frame) else {
            return Err(RelayError::Protocol { tag: 't' });
        };
        let types: Box<[u32]> = match self.translation.as_deref() {
            Some(translation) => translation.parameters(types).into(),
            None => types.iter().collect(),
        };
        if client {
            describe_parameters(&types, out).map_err(|_| RelayError::Protocol { tag: 't' })?;
        }
        self.parameters = Some(types);
        Ok(())
    }

    /// Whether a description is due.
    pub(super) fn is_describing(&self) -> bool {
        matches!(
            self.script.front(),
            Some(Awaited::Server(Reply::Describe { .. }, _))
        )
    }

    /// The columns of a RowDescription, as the home shard would give it.
    pub(super) fn columns(&self, frame: &Frame) -> Result<Columns, RelayError> {
        let Ok(BackendMessage::RowDescription(row)) = BackendMessage::parse(frame) else {
            return Err(RelayError::Protocol { tag: 'T' });
        };
        let home_type = |type_oid| match self.translation.as_deref() {
            Some(translation) => translation.home_type(type_oid),
            None => type_oid,
        };
        let fields = row.fields();
        Ok(Columns::of(fields.map(|field| {
            (field.name, home_type(field.type_oid), field.type_modifier)
        })))
    }

    /// The description that is due is there. Returns whether it is what the client was told, if it was told anything.
    pub(super) fn described(&mut self, leg: &mut ServerConnection, columns: Columns) -> bool {
        let answered = self.script.answered();
        let Some(Awaited::Server(Reply::Describe { of, told }, audience)) = self.script.pop()
        else {
            return true;
        };
        let described = Described {
            parameters: self.parameters.take(),
            columns,
        };
        let shape = described.shape();
        match of {
            Prepared::Shared(id) => leg.prepared.describe(id, shape),
            Prepared::Unnamed(text) => leg.prepared.describe_unnamed(text, shape),
            Prepared::Own | Prepared::Aside => {}
        }
        if !shape.is_as(&told) {
            // the server goes on, and nobody hears it
            self.script.silence();
            self.outcome.answered = answered;
            self.outcome.error = Some(Box::new(stale_plan()));
            self.outcome.error_is_ours = true;
            self.outcome.differs = true;
            return false;
        }
        if audience == Audience::Client {
            self.outcome.described.push(described);
        }
        true
    }
}
