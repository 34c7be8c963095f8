//! What a client was told of a statement, and that it gets nothing else.
//!
//! A client describes a statement once and reads its rows by that ever after. A server that has the statement holds it to the columns it
//! began with, and says 0A000 where a definition has changed them; one that does not have it makes it anew, with whatever columns it has
//! by then. So where a client was told of columns, a server that is not known to have the statement with these is asked for them ahead of
//! the Bind, and its answer is held against what the client was told. Parameters' types are declared as they were told, which is what
//! Postgres goes by when it analyzes a statement again.
//!
//! Owns: what was told, and asking first where what comes behind cannot be taken back. Never does: reading the answer (`relay.rs`). Main
//! types: [`Told`], [`Described`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pgherd_pool::{Columns, Shape};
use pgherd_protocol::error::field;
use pgherd_protocol::{Frame, FrontendMessage, PgError, SqlState};
use pgherd_router::{Access, Action};
use pgherd_topology::NodeId;
use smallvec::SmallVec;

use crate::attempt::Relayed;
use crate::block::is_control;
use crate::failure::Failure;
use crate::legs::encode;
use crate::message::{Step, single_plan};
use crate::script::{Audience, Prepared, Reply, Script};
use crate::session::Session;
use crate::statements::Statement;

/// What Postgres says of a statement that was prepared before a definition changed what it returns.
pub const STALE_PLAN: &str = "cached plan must not change result type";

/// That, as an error: 0A000. Drivers tell it from others by the name of the function that raises it, and prepare their statement again.
pub fn stale_plan() -> PgError {
    PgError::error(SqlState::FEATURE_NOT_SUPPORTED, STALE_PLAN)
        .with(field::ROUTINE, "RevalidateCachedQuery")
}

/// What a server said of a statement or portal that its client had described.
#[derive(Debug)]
pub struct Described {
    /// The parameters' types as the home shard's ids; `None` for a portal.
    pub parameters: Option<Box<[u32]>>,
    /// The columns.
    pub columns: Columns,
}

impl Described {
    /// As digests.
    pub fn shape(&self) -> Shape {
        Shape {
            columns: Some(self.columns),
            ..Shape::with_parameters(self.parameters.as_deref().unwrap_or_default())
        }
    }
}

/// What a client was told of a statement.
#[derive(Debug, Default)]
pub struct Told {
    /// The parameters' types as the home shard's ids, which never change.
    parameters: OnceLock<Box<[u32]>>,
    /// The columns as it was told last.
    columns: Mutex<Option<Columns>>,
}

impl Told {
    /// The parameters' types as the home shard's ids, if it was told.
    pub fn parameters(&self) -> Option<&[u32]> {
        self.parameters.get().map(AsRef::as_ref)
    }

    /// As digests.
    pub fn shape(&self) -> Shape {
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        Shape {
            columns: *columns,
            ..Shape::with_parameters(self.parameters().unwrap_or_default())
        }
    }

    /// It was told.
    pub fn note(&self, described: &Described) {
        if let Some(types) = &described.parameters {
            // told before: they are the same
            let _ = self.parameters.set(types.clone());
        }
        let mut columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        *columns = Some(described.columns);
    }
}

/// A statement that must be on a server as its client was told.
pub(crate) type Promised = (Arc<Statement>, Shape);

impl Session {
    /// The statements of a run whose servers must have said what they return before the run is sent: those of which the client was told,
    /// where anything in the run has effects, which would stay or be undone while the client hears of the other.
    pub(crate) fn asked_first(&self, steps: &[(Step, Frame)]) -> SmallVec<[Promised; 1]> {
        let mut promised = SmallVec::new();
        if self.open_run.is_none() && !steps.iter().any(|(step, _)| has_effects(step)) {
            return promised;
        }
        let asks = asked_with_portals(steps);
        for (step, _) in steps {
            let (statement, told) = match step {
                Step::Bind { bound, .. } => {
                    (&bound.statement, told_at_bind(&bound.statement, &asks))
                }
                Step::DescribeStatement(statement) => (statement, statement.told.shape()),
                _ => continue,
            };
            if let Some(Action::Execute { name, .. }) =
                single_plan(statement).map(|plan| &plan.action)
                && let Some(executed) = self.executed_by(name)
            {
                promised.push((Arc::clone(executed), told.without_parameters()));
            }
            promised.push((Arc::clone(statement), told));
        }
        promised.retain(|(_, told)| *told != Shape::default());
        promised
    }

    /// Asks a server for what is promised where that is not known. `None` where all is as the client was told.
    ///
    /// # Errors
    /// 54000 where a statement does not fit a message.
    pub(crate) async fn ask_first(
        &mut self,
        node: NodeId,
        promised: &[Promised],
        within_run: bool,
    ) -> Result<Option<Relayed>, Failure> {
        let unknown: SmallVec<[&Promised; 1]> = promised
            .iter()
            .filter(|(statement, told)| {
                let known = self.known_on(node, &Script::default(), statement);
                let known = known.unwrap_or_else(|| statement.shape_when_made());
                !known.is_as(told)
            })
            .collect();
        if unknown.is_empty() {
            return Ok(None);
        }
        let queue = |session: &mut Self, node: NodeId, script: &mut Script| {
            for (statement, told) in &unknown {
                session.ensure_prepared(node, script, statement, *told)?;
            }
            let out = &mut session.legs.at(node).connection.transport.outbox;
            if within_run {
                return encode(&FrontendMessage::Flush, out);
            }
            script.expect(Reply::Sync, Audience::Pgherd);
            encode(&FrontendMessage::Sync, out)
        };
        let relayed = self.relay_on(node, false, &queue).await?;
        Ok(match relayed {
            Ok(outcome) if outcome.error.is_none() => None,
            other => Some(other),
        })
    }

    /// What is known of a statement on a server that has it, or will once it has read what is queued; `None` where it has not.
    pub(crate) fn known_on(
        &mut self,
        node: NodeId,
        script: &Script,
        statement: &Statement,
    ) -> Option<Shape> {
        let leg = self.legs.at(node);
        let prepared = &mut leg.connection.prepared;
        match statement.prepared {
            Prepared::Shared(id) => {
                if !leg.used.contains(&id) {
                    leg.used.push(id);
                }
                prepared
                    .uses(id)
                    .or_else(|| script.will_know(statement.prepared))
            }
            Prepared::Unnamed(text) => script.will_know(statement.prepared).or_else(|| {
                prepared
                    .unnamed(text)
                    .filter(|_| !script.replaces_unnamed())
            }),
            Prepared::Own | Prepared::Aside => None,
        }
    }
}

/// The statements, by their generation, whose columns a run asks for with a portal.
pub(crate) fn asked_with_portals(steps: &[(Step, Frame)]) -> SmallVec<[u64; 2]> {
    let asked = steps.iter().filter_map(|(step, _)| match step {
        Step::DescribePortal(bound) => Some(bound.statement.generation),
        _ => None,
    });
    asked.collect()
}

/// What the client goes by when it binds. Who asks for the portal's columns goes by those.
pub(crate) fn told_at_bind(statement: &Statement, asked_with_portals: &[u64]) -> Shape {
    let told = statement.told.shape();
    if asked_with_portals.contains(&statement.generation) {
        told.without_columns()
    } else {
        told
    }
}

/// Whether a message does more than read.
fn has_effects(step: &Step) -> bool {
    match step {
        Step::Execute { bound } => single_plan(&bound.statement).is_some_and(|plan| {
            plan.access != Access::Read || !plan.residue.is_none() || is_control(&plan.action)
        }),
        Step::OnCursor(_) => true,
        _ => false,
    }
}
