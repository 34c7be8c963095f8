//! A server connection, lent.
//!
//! Owns its way back: dropped, it returns to the pool if another client may have it, and is closed otherwise.
//! Main type: [`Checkout`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::node_pool::NodePool;
use super::upkeep::AllPinned;
use crate::server::ServerConnection;

/// A server connection that the holder has to himself.
///
/// Dropped, it goes back to its pool if [`ServerConnection::is_clean`] says so and neither its epoch, its age nor a
/// reload speaks against it; otherwise it is closed, Terminate being sent if that does not have to wait. Either way
/// whoever waits first gets the connection, or the right to open another. Dropping never waits.
///
/// A statement that still runs when its connection is closed runs on until the server notices: cancel it first
/// ([`ServerConnection::canceller`]).
#[derive(Debug)]
pub struct Checkout {
    /// Empty only while it is being dropped.
    lent: Option<(Box<ServerConnection>, Arc<NodePool>)>,
}

impl Checkout {
    pub(super) fn new(connection: Box<ServerConnection>, pool: Arc<NodePool>) -> Self {
        Self {
            lent: Some((connection, pool)),
        }
    }

    /// Takes one of the places of those that may be kept beyond a transaction (`max_pinned`), unless it has one. It ends with
    /// [`Self::unpin`], or when the connection is given back.
    ///
    /// # Errors
    /// Who has them all.
    pub fn pin(&self) -> Result<(), AllPinned> {
        match &self.lent {
            Some((connection, pool)) => pool.pin(&connection.origin().member),
            None => Ok(()),
        }
    }

    /// As [`Self::pin`], though there be no place left: for what is found only when it is there.
    pub fn pin_anyway(&self) {
        self.origin().member.set_pinned(true);
    }

    /// Gives that place up.
    pub fn unpin(&self) {
        self.origin().member.set_pinned(false);
    }

    /// Takes the connection out; the caller sees to the pool's count.
    pub(super) fn into_connection(mut self) -> Box<ServerConnection> {
        let (connection, _) = self.lent.take().expect("only drop and this empty it");
        connection
    }
}

impl Deref for Checkout {
    type Target = ServerConnection;

    fn deref(&self) -> &ServerConnection {
        let (connection, _) = self
            .lent
            .as_ref()
            .expect("only drop and into_connection empty it");
        connection
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        let (connection, _) = self
            .lent
            .as_mut()
            .expect("only drop and into_connection empty it");
        connection
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some((connection, pool)) = self.lent.take() {
            pool.give_back(connection);
        }
    }
}
