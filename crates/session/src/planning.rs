//! From a text to its plan, under the client's settings.
//!
//! Owns: what a plan is made under and asked from the cache with, and reading the catalog, the open block's definitions or a server's word
//! on types where a plan lacks them. Never does: placing it (`route.rs`). Main function: [`Session::plan`].

use std::sync::Arc;

use pgherd_router::lexer::BackslashReading;
use pgherd_router::{
    Access, ClientEncoding, PlanContext, Planned, Rejection, SettingsDigest, TEMPORARY_SCHEMA,
};
use pgherd_topology::Catalog;

use crate::definitions::only_controls;
use crate::failure::Failure;
use crate::read_only;
use crate::session::Session;
use crate::settings::Known;
use crate::statements::PlanStamp;
use crate::temporary::Temporary;

impl Session {
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
            role: self.role_under(self.settings.known()),
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

    /// The role in force: that of SET ROLE, which `none` takes back (Postgres documentation, reference: SET ROLE), or who is authorized.
    fn role_under<'s>(&'s self, known: &'s Known) -> &'s str {
        known
            .get("role")
            .filter(|role| ***role != *"none")
            .or_else(|| known.get("session_authorization"))
            .unwrap_or(&self.user_name)
    }

    /// The schemas of a search path. `"$user"` counts only where there is such a schema, as in Postgres: a table is created in the first one.
    pub(crate) fn schemas_under(&self, known: &Known, catalog: &Catalog) -> Vec<Box<str>> {
        let schemas: Vec<Box<str>> = match known.get("search_path") {
            None => catalog.settings().search_path_of(&self.user.name).to_vec(),
            Some(path) => path.split('\u{0}').map(Into::into).collect(),
        };
        let role = self.role_under(known);
        let named = schemas.into_iter().filter_map(|schema| match &*schema {
            "" => None,
            "$user" => catalog.has_schema(role).then(|| role.into()),
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
}

/// As Postgres reads a boolean.
fn is_off(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "off" | "of" | "false" | "fals" | "fal" | "fa" | "f" | "no" | "n" | "0"
    )
}
