//! What `currval` and `lastval` say: of numbers that the client drew itself, never of another's.
//!
//! Owns: when a server connection is made to forget the numbers that other clients have drawn there. That costs nothing where nobody else has
//! drawn, and is left undone where nobody can ask. Never does: keeping a connection for what was drawn there, so that outside of a transaction
//! a client may find its own numbers forgotten (55000). Main function: [`Session::keep_sequences_apart`].
//! See Postgres documentation, chapter 9.17, and reference: DISCARD.

use pgherd_pool::Drawn;
use pgherd_router::{Action, CopyDirection, Residue, StatementPlan};
use pgherd_topology::NodeId;

use crate::bringing::queue_aside;
use crate::failure::Failure;
use crate::script::Script;
use crate::session::Session;

impl Session {
    /// Has a server forget what other clients have drawn there, where one of these statements may ask for it, or one that comes later on the
    /// same connection. Notes what these may draw.
    ///
    /// # Errors
    /// 54000, never in practice.
    pub(crate) fn keep_sequences_apart<'s>(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statements: impl Iterator<Item = &'s StatementPlan>,
    ) -> Result<(), Failure> {
        let client = self.registration.id().0;
        let (mut count, mut prepares, mut draws, mut asks) = (0, false, false, false);
        for statement in statements {
            count += 1;
            prepares |= matches!(statement.action, Action::Prepare { .. });
            let statement = self.run_by(statement).unwrap_or(statement);
            draws |= may_draw(statement);
            asks |= may_ask(statement);
        }
        if prepares && count > 1 {
            // what is executed is not known yet
            (draws, asks) = (true, true);
        }
        if !draws && !asks {
            return Ok(());
        }
        let goes_on = self.block.is_some() || count > 1;
        let leg = self.legs.at(node);
        let may_be_asked = asks || goes_on || leg.sticky;
        let connection = &mut leg.connection;
        if may_be_asked && connection.drawn.by_others(client) {
            connection.drawn = Drawn::default();
            queue_aside(connection, script, "DISCARD SEQUENCES")?;
            // a server that cannot do that skips what follows
            script.is_brought();
        }
        if draws {
            connection.drawn.add(client);
        }
        Ok(())
    }
}

/// Whether a statement may draw a number: for itself, for a column's default, or in code that is not read.
fn may_draw(statement: &StatementPlan) -> bool {
    let action = matches!(
        statement.action,
        Action::Ddl(_)
            | Action::Execute { .. }
            | Action::Copy {
                direction: CopyDirection::FromClient
            }
    );
    action || statement.residue.contains(Residue::SEQUENCE) || runs_unread_code(statement)
}

/// Whether a statement may ask which number was drawn last.
fn may_ask(statement: &StatementPlan) -> bool {
    matches!(statement.action, Action::Execute { .. })
        || statement.residue.contains(Residue::ASKS_SEQUENCE)
        || runs_unread_code(statement)
}

fn runs_unread_code(statement: &StatementPlan) -> bool {
    statement.residue.contains(Residue::OPAQUE) || statement.residue.contains(Residue::UNREAD)
}
