//! From a plan to the servers of one request.
//!
//! Owns: resolving a plan with the values at hand and the overrides in force, and merging the statements that run together into one route. Never
//! does: planning (`planning.rs`), I/O to data servers.
//! Main type: [`Route`].

use std::sync::Arc;

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::{
    Access, Action, Destination, Hint, HintRole, NamedCheck, Overrides as PlanOverrides,
    ParameterSource, Placement, Planned, Resolved, StatementPlan, Values,
};
use pgherd_topology::{Catalog, KeyInput, ShardId, Sharding, Topology};

use crate::failure::{Failure, not_supported};
use crate::message::{ANYWHERE, single_plan};
use crate::prepare::Execution;
use crate::session::Session;
use crate::set_config::Executed;

/// Where the statements of one request go, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The shards.
    pub place: Place,
    /// Write if any statement is not a proven read.
    pub access: Access,
    /// Whether any statement reads the moment at which the transaction began.
    pub reads_moment: bool,
    /// Why the client will keep the connection, if it will.
    pub pins: Option<&'static str>,
}

/// The shards of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// None: pgherd answers alone.
    Nowhere,
    /// Any one.
    Any,
    /// This one.
    Shard(ShardId),
    /// All of them, all or none.
    All,
    /// All of them, one after the other.
    EachInTurn,
}

impl Route {
    /// The route of nothing.
    pub const NOWHERE: Self = Self {
        place: Place::Nowhere,
        access: Access::Read,
        reads_moment: false,
        pins: None,
    };

    /// Adds a statement that runs in the same transaction.
    ///
    /// # Errors
    /// 0A000 where the two do not meet on one shard.
    pub fn join(&mut self, other: &Self, sharding: &Sharding) -> Result<(), Failure> {
        self.reads_moment |= other.reads_moment;
        self.pins = self.pins.or(other.pins);
        if other.place != Place::Nowhere && other.access == Access::Write {
            self.access = Access::Write;
        }
        self.place = match (self.place, other.place) {
            (place, Place::Nowhere)
            | (Place::Nowhere, place)
            | (Place::Any, place @ (Place::Any | Place::Shard(_))) => place,
            (place @ Place::Shard(_), Place::Any) => place,
            (Place::Shard(one), Place::Shard(other)) if one == other => Place::Shard(one),
            (Place::All, Place::All) => Place::All,
            (Place::EachInTurn, _) | (_, Place::EachInTurn) => {
                return Err(not_supported(
                    "a statement that runs on one shard after the other must be sent alone",
                    "It cannot be part of the transaction that a query string or a pipeline is.",
                    "Send it by itself.",
                ));
            }
            (one, other) => {
                return Err(not_supported(
                    "statements sent together must all run on one shard",
                    &format!(
                        "One goes to {}, another to {}.",
                        one.describe(sharding),
                        other.describe(sharding)
                    ),
                    "Send them one by one, each as a transaction of its own.",
                ));
            }
        };
        Ok(())
    }
}

impl Place {
    fn describe(self, sharding: &Sharding) -> String {
        match self {
            Self::Nowhere => "no shard".to_owned(),
            Self::Any => "any shard".to_owned(),
            Self::Shard(shard) => format!("shard \"{}\"", sharding.shard_name(shard)),
            Self::All | Self::EachInTurn => "every shard".to_owned(),
        }
    }
}

impl Session {
    /// The topology as of now.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.database.topology()
    }

    /// The catalog as of now: the open block's, where it ran DDL.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        match self.block_catalog() {
            Some(catalog) => Arc::clone(catalog),
            None => self.database.catalog(),
        }
    }

    /// The version of that.
    pub(crate) fn catalog_version(&self) -> u64 {
        match self.block_catalog() {
            Some(catalog) => catalog.version(),
            None => self.database.catalog_version(),
        }
    }

    fn block_catalog(&self) -> Option<&Arc<Catalog>> {
        self.block.as_ref()?.definitions.catalog()
    }

    /// What lies on which shard, for the open transaction or the request at hand.
    pub(crate) fn sharding(&self) -> Arc<Sharding> {
        Arc::clone(&self.rules.sharding)
    }

    /// Takes the rules as they are now, unless a transaction goes on.
    pub(crate) fn take_rules(&mut self) {
        if self.block.is_none()
            && self.open_run.is_none()
            && self.rules.version != self.database.rules_version()
        {
            self.rules = self.database.rules();
        }
    }

    /// Resolves one statement with this execution's values, under the overrides in force.
    ///
    /// # Errors
    /// The router's rejection; 22023 for a hint that names no shard.
    pub(crate) fn resolve(
        &self,
        statement: &StatementPlan,
        planned: &Planned,
        sql: &str,
        parameters: Option<&(dyn ParameterSource + Sync)>,
    ) -> Result<Resolved, Failure> {
        let sharding = self.sharding();
        let overrides = self.plan_overrides(planned, &sharding)?;
        let values = self.values(planned, sql, parameters);
        statement
            .resolve(&values, &sharding, overrides)
            .map_err(Failure::from)
    }

    /// The values of an execution.
    pub(crate) fn values<'v>(
        &self,
        planned: &'v Planned,
        sql: &'v str,
        parameters: Option<&'v (dyn ParameterSource + Sync)>,
    ) -> Values<'v> {
        Values {
            sql: sql.as_bytes(),
            literals: &planned.literals,
            parameters: parameters.map(|parameters| parameters as &dyn ParameterSource),
            encoding: self.encoding(),
        }
    }

    fn plan_overrides(
        &self,
        planned: &Planned,
        sharding: &Sharding,
    ) -> Result<PlanOverrides, Failure> {
        let mine = self.settings.overrides();
        let hint = planned.hint.as_ref();
        let shard = match hint.and_then(|hint| hint.shard.as_deref()) {
            Some(name) => Some(
                sharding
                    .shard_by_name(name)
                    .ok_or_else(|| unknown_shard(name))?,
            ),
            None => mine.shard,
        };
        let key = hint
            .and_then(|hint| hint.sharding_key.as_deref())
            .or(mine.sharding_key.as_deref());
        let shard = match (shard, key) {
            (None, Some(key)) => Some(shard_of_key(sharding, &self.catalog(), key)?),
            (shard, _) => shard,
        };
        Ok(PlanOverrides {
            shard,
            unchecked: mine.unchecked,
        })
    }

    /// Where one statement goes.
    ///
    /// # Errors
    /// See [`Session::resolve`].
    pub(crate) fn place(
        &self,
        statement: &StatementPlan,
        planned: &Planned,
        sql: &str,
        parameters: Option<&(dyn ParameterSource + Sync)>,
    ) -> Result<Route, Failure> {
        let executed = Executed {
            statement,
            planned,
            sql,
            parameters,
        };
        if matches!(statement.action, Action::Execute { .. }) {
            let execution = self.execution(&executed, None);
            return self.place_execution(execution.as_ref(), planned.hint.as_ref());
        }
        let resolved = self.resolve(statement, planned, sql, parameters)?;
        self.check_set_config(&executed)?;
        self.check_settings_table(statement, sql)?;
        let place = match resolved.destination {
            Destination::Shard(_) if self.is_signal(statement) => Place::Any,
            Destination::Nowhere => Place::Nowhere,
            Destination::Any => Place::Any,
            Destination::Shard(shard) => Place::Shard(shard),
            Destination::All => Place::All,
            Destination::EachInTurn => Place::EachInTurn,
            Destination::WhereCursorIs => self.cursor_place(&statement.action),
        };
        let access = match planned.hint.as_ref().and_then(|hint| hint.role) {
            Some(HintRole::Primary) => Access::Write,
            Some(HintRole::Replica) => Access::Read,
            None => statement.access,
        };
        Ok(Route {
            place,
            access,
            reads_moment: statement.reads_moment,
            pins: self.will_pin(statement),
        })
    }

    /// Where EXECUTE goes: where what it executes would go. `None` is a name that stands for nothing, which fails wherever it runs.
    ///
    /// # Errors
    /// See [`Session::resolve`]; 0A000 for arguments that are no constants, on a sharded database, where they may decide.
    pub(crate) fn place_execution(
        &self,
        execution: Option<&Execution>,
        hint: Option<&Hint>,
    ) -> Result<Route, Failure> {
        let Some(execution) = execution else {
            return Ok(ANYWHERE);
        };
        let named = single_plan(&execution.statement).is_some_and(goes_where_named);
        if !execution.is_known() && !named && !self.sharding().is_unsharded() {
            return Err(not_supported(
                "EXECUTE takes constants on a sharded database",
                "What an argument is decides where the statement goes, and an expression is known to a server alone.",
                "Work the value out first.",
            ));
        }
        if hint.is_some_and(Hint::names_shard) {
            return Err(not_supported(
                "a comment cannot name the shard of EXECUTE",
                "What it executes was planned without it.",
                "Name the shard with SET pgherd.shard.",
            ));
        }
        let Some(inner) = execution.as_executed() else {
            return Ok(ANYWHERE);
        };
        let mut planned = inner.planned.clone();
        planned.hint = planned.hint.or_else(|| hint.cloned());
        let mut route = self.place(inner.statement, &planned, inner.sql, inner.parameters)?;
        if !execution.is_known() {
            // it may do anything
            route.access = Access::Write;
        }
        Ok(route)
    }

    pub(crate) fn cursor_place(&self, action: &Action) -> Place {
        let cursor = match action {
            Action::Fetch(name) => Some(name),
            Action::Close(pgherd_router::CursorTarget::Named(name)) => Some(name),
            _ => None,
        };
        let shard = cursor
            .and_then(|name| self.cursors.get(name).copied())
            .or_else(|| {
                self.legs
                    .iter()
                    .find(|leg| leg.in_block)
                    .map(|leg| leg.shard)
            });
        // a cursor that nobody declared: any server says so as Postgres does
        shard.map_or(Place::Any, Place::Shard)
    }

    /// The shard for a statement that any one may serve: one that the session holds already, else the next in turn.
    pub(crate) fn any_shard(&mut self) -> ShardId {
        let held = self
            .legs
            .iter()
            .find(|leg| leg.in_block)
            .or_else(|| self.legs.iter().find(|leg| leg.sticky))
            .or_else(|| self.legs.iter().next());
        if let Some(leg) = held {
            return leg.shard;
        }
        let count = self.sharding().shards().len().max(1);
        self.turn = self.turn.wrapping_add(1);
        ShardId(u16::try_from(self.turn % count).unwrap_or_default())
    }
}

/// The shard where rows with this key live, for `pgherd.sharding_key`.
///
/// # Errors
/// 22023 where no rule can read the key, or rules place it on different shards.
fn shard_of_key(sharding: &Sharding, catalog: &Catalog, key: &str) -> Result<ShardId, Failure> {
    let mut found: Option<ShardId> = None;
    for rule in sharding.tables() {
        let [column] = &*rule.key else { continue };
        let key_type = catalog
            .relation(&rule.table)
            .and_then(|relation| relation.find_column(column))
            .and_then(|column| catalog.key_type(column.type_oid));
        let Some(key_type) = key_type else { continue };
        let Ok(location) = sharding.locate(rule, &[KeyInput::Text(key_type, key.as_bytes())])
        else {
            continue;
        };
        match found {
            None => found = Some(location.shard),
            Some(shard) if shard == location.shard => {}
            Some(_) => {
                return Err(PgError::error(SqlState::INVALID_PARAMETER_VALUE, "pgherd.sharding_key names several shards")
                    .detail("The sharded tables' keys have different types, and place this key differently.")
                    .hint("Use pgherd.shard.")
                    .into());
            }
        }
    }
    found.ok_or_else(|| {
        PgError::error(
            SqlState::INVALID_PARAMETER_VALUE,
            "pgherd.sharding_key names no shard",
        )
        .detail("No sharded table has a key of one column that can be read so.")
        .into()
    })
}

/// 22023.
pub fn unknown_shard(name: &str) -> PgError {
    PgError::error(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("there is no shard \"{name}\""),
    )
    .hint("SHOW BUCKETS on the console lists the shards.")
}

/// Whether a statement goes to the shard that is named, whatever its values are.
fn goes_where_named(statement: &StatementPlan) -> bool {
    match &statement.placement {
        Placement::Named(check) => !matches!(check, NamedCheck::Keys(_)),
        _ => false,
    }
}
