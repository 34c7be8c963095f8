//! From a plan to the servers of one request.
//!
//! Owns: planning a text under the client's settings (with one catalog reload where a name is unknown), resolving it with the values at hand and
//! the overrides in force, and merging the statements that run together into one route. Never does: I/O to data servers.
//! Main type: [`Route`].

use std::sync::Arc;

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::lexer::BackslashReading;
use pgherd_router::{
    Access, Action, ClientEncoding, Destination, Hint, HintRole, NamedCheck,
    Overrides as PlanOverrides, ParameterSource, Placement, PlanContext, Planned, Rejection,
    Resolved, SettingsDigest, StatementPlan, TEMPORARY_SCHEMA, Values,
};
use pgherd_topology::{Catalog, KeyInput, ShardId, Sharding, Topology};

use crate::definitions::only_controls;
use crate::failure::{Failure, not_supported};
use crate::message::{ANYWHERE, single_plan};
use crate::prepare::Execution;
use crate::read_only;
use crate::session::Session;
use crate::set_config::Executed;
use crate::settings::Known;
use crate::statements::PlanStamp;
use crate::temporary::Temporary;

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

    /// What a plan made now depends on.
    pub(crate) fn plan_stamp(&self) -> PlanStamp {
        PlanStamp {
            catalog: self.temporary.version_over(self.catalog_version()),
            rules: self.rules.version,
            settings: self.settings.version(),
        }
    }

    /// Plans a text. A name that the catalog does not know, or a table on which the shards disagreed, makes it be read again, once; DDL of the open block makes the block read its
    /// own catalog first. Where a key's parameter could be of several types, the home shard is asked which it is.
    ///
    /// # Errors
    /// The router's rejection; what a server says to the reading; 25006 for what may not run where there is only reading.
    pub(crate) async fn plan(
        &mut self,
        sql: &str,
        parameter_types: &[u32],
    ) -> Result<Planned, Failure> {
        self.renew_plan_key();
        let planned = match self.plan_now(sql, parameter_types) {
            Ok(planned) if !self.must_read_for(&planned) => planned,
            // boxed: most texts need no server to be planned
            planned => Box::pin(self.plan_by_asking(planned, sql, parameter_types)).await?,
        };
        if self.database.is_read_only() {
            read_only::check(&planned, sql)?;
        }
        Ok(planned)
    }

    /// Whether something is to be read before a plan holds: the catalog, what the open block has defined, or temporary tables.
    fn must_read_for(&self, planned: &Planned) -> bool {
        let may_change = !matches!(self.temporary, Temporary::None) || self.definitions_are_stale();
        self.must_read_before(planned) || (may_change && !only_controls(planned))
    }

    /// Reads what a text's plan lacks, and plans it again. `planned` is what came of it without.
    async fn plan_by_asking(
        &mut self,
        mut planned: Result<Planned, Rejection>,
        sql: &str,
        parameter_types: &[u32],
    ) -> Result<Planned, Failure> {
        if planned
            .as_ref()
            .is_ok_and(|planned| self.must_read_before(planned))
        {
            self.reload_catalog().await;
            planned = self.plan_now(sql, parameter_types);
        }
        let controls = planned.as_ref().is_ok_and(only_controls);
        if !controls && !matches!(self.temporary, Temporary::None) {
            self.see_temporary().await?;
            planned = self.plan_now(sql, parameter_types);
        }
        if self.definitions_are_stale() && !controls {
            self.read_definitions().await?;
            self.see_temporary().await?;
            planned = self.plan_now(sql, parameter_types);
        }
        let planned = match planned {
            Err(rejection) if rejection.catalog_may_help() => {
                self.reload_catalog().await;
                if self.may_have_defined() {
                    self.read_definitions().await?;
                }
                self.see_temporary().await?;
                self.plan_now(sql, parameter_types)
            }
            Err(rejection) if rejection.parameter_types_may_help() => {
                match self.ask_for_types(sql, parameter_types).await? {
                    Some(types) => self.plan_now(sql, &types),
                    None => Err(rejection),
                }
            }
            planned => planned,
        };
        match planned {
            Ok(planned) => Ok(planned),
            Err(rejection) => Err(self.refusal(rejection, sql, parameter_types).await),
        }
    }

    /// The types that the home shard gives to a statement's parameters. `None` in a block, which asking would draw that shard into.
    ///
    /// # Errors
    /// What its server says to the statement.
    async fn ask_for_types(
        &mut self,
        sql: &str,
        declared: &[u32],
    ) -> Result<Option<Vec<u32>>, Failure> {
        if self.block.is_some() || self.open_run.is_some() {
            return Ok(None);
        }
        let home = self.sharding().home();
        self.script.clear();
        let node = self.leg(home, Access::Write).await?;
        let types = self.describe_parameters_of(node, sql, declared).await?;
        Ok(Some(types))
    }

    /// Whether the open block may have made what nobody else can see, though no statement of it says so (a function, a DO).
    fn may_have_defined(&self) -> bool {
        self.block
            .as_ref()
            .is_some_and(|block| !block.failed && !block.read_only)
            && self.legs.iter().any(|leg| leg.in_block)
    }

    /// Plans a text with the catalog as it is.
    pub(crate) fn plan_now(
        &self,
        sql: &str,
        parameter_types: &[u32],
    ) -> Result<Planned, Rejection> {
        let overrides = self.settings.overrides();
        let named_shard = overrides.shard.is_some() || overrides.sharding_key.is_some();
        let planner = self.database.planner();
        if let Some((stamp, key)) = &self.plan_key
            && *stamp == self.plan_stamp()
            && let Some(planned) = planner.cached(sql.as_bytes(), key, parameter_types, named_shard)
        {
            self.database.metrics().plan_cache_hit();
            return Ok(planned);
        }
        self.with_context(parameter_types, |context| {
            let planned = planner.plan(sql.as_bytes(), context)?;
            if planned.cached {
                self.database.metrics().plan_cache_hit();
            } else {
                self.database.metrics().plan_cache_miss();
            }
            Ok(planned)
        })
    }

    /// What texts mean from now on is what the plan cache is asked for.
    fn renew_plan_key(&mut self) {
        let stamp = self.plan_stamp();
        if stamp.catalog == u64::MAX {
            self.plan_key = None;
        } else if self
            .plan_key
            .as_ref()
            .is_none_or(|(then, _)| *then != stamp)
        {
            let key = self.with_context(&[], |context| context.key());
            self.plan_key = Some((stamp, key));
        }
    }

    /// Calls back with what a text's meaning depends on now.
    fn with_context<T>(
        &self,
        parameter_types: &[u32],
        call: impl FnOnce(&PlanContext<'_>) -> T,
    ) -> T {
        let sharding = self.sharding();
        let catalog = match self.temporary.catalog() {
            Some(catalog) => Arc::clone(catalog),
            None => self.catalog(),
        };
        let overrides = self.settings.overrides();
        call(&PlanContext {
            sharding: &sharding,
            rules_version: self.rules.version,
            catalog: &catalog,
            database: self.database.name(),
            search_path: &self.search_path(&catalog),
            backslash: self.backslash(),
            role: self.settings.value("role").unwrap_or(&self.user_name),
            settings: SettingsDigest::of(|name| self.settings.value(name)),
            encoding: self
                .settings
                .value("client_encoding")
                .map_or(ClientEncoding::ByteSafe, ClientEncoding::of_name),
            parameter_types,
            named_shard: overrides.shard.is_some() || overrides.sharding_key.is_some(),
        })
    }

    /// How this client's plain literals read a backslash.
    fn backslash(&self) -> BackslashReading {
        let off = match self.settings.value("standard_conforming_strings") {
            Some(value) => is_off(value),
            None => !self
                .catalog()
                .settings()
                .standard_conforming_strings_of(&self.user.name),
        };
        if off {
            BackslashReading::Escape
        } else {
            BackslashReading::Literal
        }
    }

    /// The schemas in which an unqualified name is looked for.
    fn search_path(&self, catalog: &Catalog) -> Vec<Box<str>> {
        let mut schemas = self.schemas_under(self.settings.known(), catalog);
        // Postgres looks there first, unless the path names it
        if self.temporary.catalog().is_some()
            && !schemas.iter().any(|schema| **schema == *TEMPORARY_SCHEMA)
        {
            schemas.insert(0, TEMPORARY_SCHEMA.into());
        }
        schemas
    }

    /// The schemas of a search path. `"$user"` counts only where there is such a schema, as in Postgres: a table is created in the first one.
    pub(crate) fn schemas_under(&self, known: &Known, catalog: &Catalog) -> Vec<Box<str>> {
        let schemas: Vec<Box<str>> = match known.get("search_path") {
            None => catalog.settings().search_path_of(&self.user.name).to_vec(),
            Some(path) => path.split('\u{0}').map(Into::into).collect(),
        };
        let role = known.get("role").unwrap_or(&self.user_name);
        let named = schemas.into_iter().filter_map(|schema| match &*schema {
            "" => None,
            "$user" => catalog.has_schema(role).then(|| role.clone()),
            _ => Some(schema),
        });
        named.collect()
    }

    /// Asks control for a catalog that is read from now on, and waits for it.
    pub(crate) async fn reload_catalog(&self) {
        if !self.database.catalog_requests().reload().await {
            tracing::warn!(database = %self.database.name(), "the catalog could not be read again in time");
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

/// As Postgres reads a boolean.
fn is_off(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "off" | "of" | "false" | "fals" | "fal" | "fa" | "f" | "no" | "n" | "0"
    )
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
