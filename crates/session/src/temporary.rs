//! The temporary relations of one client: they live on one connection to the home shard, which stays with the client.
//!
//! Owns: noticing that they may have changed, reading them through that connection, and the catalog that they shadow names in. A client
//! that makes none pays nothing. Never does: deciding where a statement on them goes (router).
//! Main type: [`Temporary`].

use std::sync::Arc;

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{Action, Residue, StatementPlan, TEMPORARY_SCHEMA};
use pgherd_topology::{Catalog, Column, Persistence, Relation, RelationKind, RelationName};

use crate::failure::Failure;
use crate::session::Session;

/// One row for each column, and one without a column for a relation that has none.
const RELATIONS: &str = "SELECT c.relname, c.relkind, a.attname, a.atttypid, a.atttypmod \
  FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_attribute a \
  ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
  WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() ORDER BY c.oid, a.attnum";

/// What a client has made for itself.
#[derive(Debug, Default)]
pub enum Temporary {
    /// Nothing.
    #[default]
    None,
    /// Something was made, changed, or dropped, or undone by the end of a transaction.
    Changed,
    /// These, over that version of the catalog.
    Known {
        /// The relations.
        relations: Vec<Relation>,
        /// The version beneath.
        beneath: u64,
        /// The catalog with both.
        catalog: Arc<Catalog>,
    },
}

impl Temporary {
    /// A statement or the end of a transaction may have changed what there is.
    pub fn change(&mut self) {
        match self {
            Self::None => {}
            Self::Changed | Self::Known { .. } => *self = Self::Changed,
        }
    }

    /// What a plan depends on: the version of this over that of the catalog beneath. No plan is of a version that is not known.
    pub fn version_over(&self, beneath: u64) -> u64 {
        match self {
            Self::None => beneath,
            Self::Known {
                beneath: version,
                catalog,
                ..
            } if *version == beneath => catalog.version(),
            Self::Known { .. } | Self::Changed => u64::MAX,
        }
    }

    /// The catalog that statements are planned with, if it is not the ordinary one.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        match self {
            Self::None | Self::Changed => None,
            Self::Known { catalog, .. } => Some(catalog),
        }
    }
}

impl Session {
    /// Notes a statement that a server has carried out.
    pub(crate) fn note_temporary(&mut self, statement: &StatementPlan) {
        if statement.residue.contains(Residue::TEMPORARY) {
            self.temporary = Temporary::Changed;
        } else if matches!(statement.action, Action::Ddl(_) | Action::Discard) {
            self.temporary.change();
        }
    }

    /// Reads the temporary relations anew where they may have changed, and lays them over the newest catalog.
    ///
    /// # Errors
    /// 57P01, which ends the session, where the connection that had them is gone; the server's error.
    pub(crate) async fn see_temporary(&mut self) -> Result<(), Failure> {
        let failed = self.block.as_ref().is_some_and(|block| block.failed);
        if failed || matches!(self.temporary, Temporary::None) {
            return Ok(());
        }
        let beneath = self.catalog();
        let relations = match std::mem::take(&mut self.temporary) {
            Temporary::Known {
                relations,
                beneath: version,
                catalog,
            } if version == beneath.version() => {
                self.temporary = Temporary::Known {
                    relations,
                    beneath: version,
                    catalog,
                };
                return Ok(());
            }
            Temporary::Known { relations, .. } => relations,
            Temporary::None | Temporary::Changed => {
                self.temporary = Temporary::Changed;
                self.read_temporary().await?
            }
        };
        self.temporary = if relations.is_empty() {
            Temporary::None
        } else {
            let version = self.database.next_block_catalog();
            Temporary::Known {
                catalog: Arc::new(beneath.with_temporary(relations.iter().cloned(), version)),
                beneath: beneath.version(),
                relations,
            }
        };
        Ok(())
    }

    async fn read_temporary(&mut self) -> Result<Vec<Relation>, Failure> {
        let home = self.sharding().home();
        let Some(node) = self.legs.find(|leg| leg.shard == home && leg.sticky) else {
            return Err(Failure::Fatal(Box::new(
                PgError::fatal(
                    SqlState::ADMIN_SHUTDOWN,
                    "the connection to the server that held temporary tables was lost",
                )
                .detail("They cannot be made again, and another table of the same name could be taken for one."),
            )));
        };
        let mut relations: Vec<Relation> = Vec::new();
        self.execute_for_rows(node, RELATIONS, |row| {
            let [Some(name), Some(kind), column, type_oid, modifier] = row else {
                return;
            };
            let Some(kind) = kind.bytes().next().and_then(RelationKind::from_relkind) else {
                return;
            };
            if relations
                .last()
                .is_none_or(|last| *last.name.name != **name)
            {
                let full_name = RelationName::new(TEMPORARY_SCHEMA, *name);
                let mut relation = Relation::new(full_name, kind);
                relation.persistence = Persistence::Temporary;
                relations.push(relation);
            }
            if let (Some(last), Some(column), Some(Ok(type_oid))) = (
                relations.last_mut(),
                column,
                type_oid.map(str::parse::<u32>),
            ) {
                let modifier = modifier.and_then(|modifier| modifier.parse().ok());
                last.columns
                    .push(Column::new(column, type_oid).modifier(modifier.unwrap_or(-1)));
            }
        })
        .await
        .map_err(Failure::from)?;
        Ok(relations)
    }
}
