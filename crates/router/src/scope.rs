//! Which relation a name means, and where its rows are.
//!
//! Owns name resolution and what stands in the way of using a relation at all (rules, policies,
//! drift, partitions). Never looks at conditions. Main types: [`Names`], [`TableUse`].

use std::sync::Arc;

use pgherd_topology::{
    Catalog, Distribution, Persistence, Relation, RelationKind, RelationName, ShardId, Sharding,
    TableRule,
};

use crate::functions::is_replicated_catalog;
use crate::rejection::{Rejection, label};
use crate::temporary;
use crate::tokens::Name;

/// Where a relation's rows are, as far as planning cares.
#[derive(Debug, Clone)]
pub(crate) enum TableKind {
    Sharded(Arc<TableRule>),
    Reference,
    /// On the shard of unlisted tables.
    Home,
    /// In pg_catalog or information_schema.
    System,
}

/// What a statement does to a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableMode {
    Read,
    Insert,
    Update,
    Delete,
}

/// One mention of a relation.
#[derive(Debug, Clone)]
pub(crate) struct TableUse<'c> {
    pub(crate) name: RelationName,
    pub(crate) relation: Option<&'c Relation>,
    pub(crate) kind: TableKind,
    pub(crate) mode: TableMode,
}

/// What a name turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Found<'c> {
    Relation(&'c Relation),
    /// In a system schema, but not in the catalog's list.
    System(RelationName),
    Unknown,
}

/// Resolves names as one session does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'c> {
    pub(crate) catalog: &'c Catalog,
    pub(crate) sharding: &'c Sharding,
    pub(crate) search_path: &'c [Box<str>],
}

pub(crate) fn is_system_schema(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema")
}

impl<'c> Names<'c> {
    /// The relation that a name means.
    pub(crate) fn find(&self, name: &Name) -> Found<'c> {
        let found = match &name.schema {
            Some(schema) => self.catalog.relation_in(schema, &name.name),
            None => self.catalog.resolve_relation(&name.name, self.search_path),
        };
        match found {
            Some(relation) => Found::Relation(relation),
            None => match &name.schema {
                Some(schema) if is_system_schema(schema) => {
                    Found::System(RelationName::new(schema.as_str(), name.name.as_str()))
                }
                None if name.name.starts_with("pg_") => {
                    Found::System(RelationName::new("pg_catalog", name.name.as_str()))
                }
                Some(_) | None => Found::Unknown,
            },
        }
    }

    /// The full name of a relation that a statement names, or would create.
    pub(crate) fn full_name(&self, name: &Name) -> RelationName {
        match self.find(name) {
            Found::Relation(relation) => relation.name.clone(),
            Found::System(full) => full,
            Found::Unknown => self.name_to_create(name),
        }
    }

    /// The full name of a relation that a statement creates: in the first schema of the path that
    /// exists.
    pub(crate) fn name_to_create(&self, name: &Name) -> RelationName {
        let schema = name.schema.as_deref().unwrap_or_else(|| {
            self.search_path
                .iter()
                .find(|schema| {
                    !is_system_schema(schema)
                        && &***schema != temporary::SCHEMA
                        && self.schema_exists(schema)
                })
                .map_or("public", |schema| schema)
        });
        RelationName::new(schema, name.name.as_str())
    }

    /// Is anything known to be in the schema? An empty one beside `public` is not seen.
    fn schema_exists(&self, schema: &str) -> bool {
        let catalog = self.catalog;
        schema == "public"
            || catalog
                .relations()
                .any(|relation| *relation.name.schema == *schema)
            || catalog.types().any(|found| *found.name.schema == *schema)
            || self
                .sharding
                .tables()
                .any(|rule| *rule.table.schema == *schema)
            || self
                .sharding
                .reference_tables()
                .any(|name| *name.schema == *schema)
    }

    /// The mention of a relation, or 42P01.
    pub(crate) fn table(&self, name: &Name, mode: TableMode) -> Result<TableUse<'c>, Rejection> {
        match self.find(name) {
            Found::Relation(relation) => Ok(TableUse {
                name: relation.name.clone(),
                relation: Some(relation),
                kind: self.kind_of(&relation.name)?,
                mode,
            }),
            Found::System(name) => Ok(TableUse {
                name,
                relation: None,
                kind: TableKind::System,
                mode,
            }),
            Found::Unknown => Err(Rejection::unknown_relation(&name.to_string())),
        }
    }

    /// Where a relation's rows are; refused where `unlisted: refuse` holds.
    pub(crate) fn kind_of(&self, name: &RelationName) -> Result<TableKind, Rejection> {
        if is_system_schema(&name.schema) {
            return Ok(TableKind::System);
        }
        if *name.schema == *temporary::SCHEMA {
            return Ok(TableKind::Home);
        }
        match self.sharding.distribution(name) {
            Distribution::Sharded(rule) => Ok(TableKind::Sharded(Arc::clone(rule))),
            Distribution::Reference => Ok(TableKind::Reference),
            Distribution::Unsharded(_) => Ok(TableKind::Home),
            Distribution::Refused => Err(Rejection::unsupported(
                label::UNLISTED,
                "the table is not listed in the sharding configuration",
            )
            .detail(format!(
                "{name} is neither sharded nor a reference table, and unlisted tables are refused."
            ))
            .hint("List it under sharding.tables or sharding.reference.")),
        }
    }

    pub(crate) fn home(&self) -> ShardId {
        self.sharding.home()
    }

    /// What forbids a use of a relation on a sharded database, whatever the conditions.
    pub(crate) fn check(&self, table: &TableUse<'c>) -> Result<(), Rejection> {
        let Some(relation) = table.relation else {
            return Ok(());
        };
        if matches!(table.kind, TableKind::System) {
            return Ok(());
        }
        let name = &table.name;
        // a catalog that is newer than the rules in force may compare a table that these leave at home
        if relation.drifted && !matches!(table.kind, TableKind::Home) {
            return Err(Rejection::unsupported(
                label::DRIFT,
                "the shards disagree on the table",
            )
            .detail(format!("{name} is not defined alike on every shard."))
            .hint("Make its definitions alike; the console's SHOW TABLES tells where they differ."));
        }
        let undeclared = !self.declared_local(name);
        if relation.has_rules && undeclared {
            return Err(not_declared(name, "has rewrite rules"));
        }
        if relation.has_row_security && undeclared {
            return Err(not_declared(name, "has row level security"));
        }
        if table.mode != TableMode::Read && relation.has_triggers && undeclared {
            return Err(not_declared(name, "has triggers"));
        }
        self.check_family(table, relation)?;
        match relation.kind {
            RelationKind::View | RelationKind::MaterializedView => self.check_view(table, relation),
            RelationKind::Table
            | RelationKind::PartitionedTable
            | RelationKind::Sequence
            | RelationKind::ForeignTable
            | RelationKind::Index
            | RelationKind::PartitionedIndex
            | RelationKind::CompositeType
            | RelationKind::Toast => {
                self.check_references(table, relation)?;
                self.check_cascades(table, relation)
            }
        }
    }

    /// Whether what fires along with the table is declared to keep to its shard.
    fn declared_local(&self, table: &RelationName) -> bool {
        self.sharding.declarations().local_triggers.contains(table)
    }

    /// A view is followed only where all that it reads is on the home shard.
    fn check_view(&self, table: &TableUse<'c>, relation: &Relation) -> Result<(), Rejection> {
        let name = &table.name;
        if table.mode != TableMode::Read || !matches!(table.kind, TableKind::Home) {
            return Err(not_followed(name, "is a view"));
        }
        if relation.is_opaque {
            return Err(not_followed(name, "is a view that calls functions"));
        }
        let Some(below) = self.catalog.relations_below(name) else {
            return Err(not_followed(name, "is a view whose tables are not known"));
        };
        for under in below {
            if under.is_opaque || under.has_rules || under.has_row_security {
                return Err(not_followed(
                    name,
                    &format!("is a view over {}", under.name),
                ));
            }
            match self.kind_of(&under.name)? {
                TableKind::Home | TableKind::System | TableKind::Reference => {}
                TableKind::Sharded(_) => {
                    return Err(not_followed(
                        name,
                        &format!("is a view over the sharded table {}", under.name),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Partitions and children have their parent's rows: both sides must be of one distribution.
    fn check_family(&self, table: &TableUse<'c>, relation: &Relation) -> Result<(), Rejection> {
        let name = &table.name;
        let mut ancestor = relation;
        for _ in 0..64 {
            let Some(parent) = ancestor
                .parent
                .as_ref()
                .and_then(|parent| self.catalog.relation(parent))
            else {
                break;
            };
            let placed_alike = match (self.kind_of(&parent.name)?, &table.kind) {
                (TableKind::Home | TableKind::System, TableKind::Home | TableKind::System) => true,
                (TableKind::Reference, TableKind::Reference) => true,
                (TableKind::Sharded(parent), TableKind::Sharded(child)) => {
                    parent.function == child.function && parent.key == child.key
                }
                _ => false,
            };
            if !placed_alike {
                return Err(not_followed(
                    name,
                    &format!("is a partition or child of {}", parent.name),
                )
                .hint(format!("Name {} instead.", parent.name)));
            }
            ancestor = parent;
        }
        if matches!(
            relation.kind,
            RelationKind::View | RelationKind::MaterializedView
        ) {
            return Ok(());
        }
        for child in self.catalog.relations_below(name).unwrap_or_default() {
            let listed_otherwise = match (self.sharding.distribution(&child.name), &table.kind) {
                // a partition without a rule of its own has its parent's
                (Distribution::Unsharded(_) | Distribution::Refused, _) => false,
                (Distribution::Reference, TableKind::Reference) => false,
                (Distribution::Sharded(child), TableKind::Sharded(rule)) => {
                    child.function != rule.function || child.key != rule.key
                }
                _ => true,
            };
            if listed_otherwise
                || (!self.declared_local(&child.name)
                    && (child.has_rules || (table.mode != TableMode::Read && child.has_triggers)))
            {
                return Err(not_followed(
                    name,
                    &format!("has the partition or child {}", child.name),
                ));
            }
        }
        Ok(())
    }

    /// A server checks foreign keys against its own rows: those on either side must lie together.
    fn check_references(&self, table: &TableUse<'c>, relation: &Relation) -> Result<(), Rejection> {
        if table.mode == TableMode::Read || relation.kind == RelationKind::Sequence {
            return Ok(());
        }
        let apart = |other: &Relation| {
            not_followed(
                &table.name,
                &format!(
                    "has a foreign key with {}, whose rows may lie elsewhere",
                    other.name
                ),
            )
        };
        for foreign in &relation.foreign_keys {
            if let Some(target) = self.catalog.relation(&foreign.target)
                && !self.lie_together(relation, target)?
            {
                return Err(apart(target));
            }
        }
        if table.mode != TableMode::Insert {
            for source in self.catalog.relations() {
                let refers = source
                    .foreign_keys
                    .iter()
                    .any(|foreign| foreign.target == relation.name);
                if refers && !self.lie_together(source, relation)? {
                    return Err(apart(source));
                }
            }
        }
        Ok(())
    }

    /// Is every row of `source` on a shard that has the row of `target` that its foreign key names?
    fn lie_together(&self, source: &Relation, target: &Relation) -> Result<bool, Rejection> {
        Ok(
            match (self.kind_of(&target.name)?, self.kind_of(&source.name)?) {
                (TableKind::Home | TableKind::System, TableKind::Home)
                | (TableKind::Reference, _) => true,
                (TableKind::Sharded(parent), TableKind::Sharded(child)) => {
                    self.sharding.colocated(&parent.table, &child.table)
                        && links_keys(source, &child, target, &parent)
                }
                _ => false,
            },
        )
    }

    /// Whether a statement on a table may run code that is not read: of triggers, of rewrite rules, and functions of views, policies, defaults
    /// and constraints; its own, or of tables whose rows it reads or changes along with it.
    pub(crate) fn runs_code(&self, table: &TableUse<'_>) -> bool {
        let writes = table.mode != TableMode::Read;
        let Some(relation) = table.relation else {
            return writes;
        };
        let mut seen: Vec<(&RelationName, bool)> = vec![(&relation.name, writes)];
        let mut open = vec![(relation, writes)];
        while let Some((relation, writes)) = open.pop() {
            let written = relation.has_triggers || !self.are_trusted(&relation.writing_calls);
            let read = relation.is_opaque
                || relation.has_rules
                || !self.are_trusted(&relation.reading_calls);
            if read || (writes && written) {
                return true;
            }
            let changed: &[RelationName] = if writes { &relation.cascades_to } else { &[] };
            let along = relation.depends_on.iter().chain(&relation.children);
            let along = along.chain(changed).map(|name| (name, writes));
            for (name, writes) in
                along.chain(relation.policies_read.iter().map(|name| (name, false)))
            {
                if !seen.contains(&(name, writes)) {
                    seen.push((name, writes));
                    open.extend(
                        self.catalog
                            .relation(name)
                            .map(|relation| (relation, writes)),
                    );
                }
            }
        }
        false
    }

    /// Whether functions of users are all declared to read only.
    pub(crate) fn are_trusted(&self, functions: &[RelationName]) -> bool {
        let declared = &self.sharding.declarations().reading_functions;
        functions.iter().all(|function| declared.contains(function))
    }

    /// Rows that foreign keys change along with this table must be on the same shard.
    fn check_cascades(&self, table: &TableUse<'c>, relation: &Relation) -> Result<(), Rejection> {
        if !matches!(table.mode, TableMode::Update | TableMode::Delete) {
            return Ok(());
        }
        let mut seen: Vec<&RelationName> = vec![&relation.name];
        let mut open = vec![relation];
        while let Some(target) = open.pop() {
            let target_kind = self.kind_of(&target.name)?;
            for source in &target.cascades_to {
                let Some(source) = self.catalog.relation(source) else {
                    continue;
                };
                let source_kind = self.kind_of(&source.name)?;
                let stays = match (&target_kind, &source_kind) {
                    (TableKind::Home, TableKind::Home) => true,
                    (TableKind::Reference, TableKind::Reference | TableKind::Sharded(_)) => true,
                    (TableKind::Sharded(parent), TableKind::Sharded(child)) => {
                        self.sharding.colocated(&parent.table, &child.table)
                            && links_keys(source, child, target, parent)
                    }
                    _ => false,
                };
                if !stays || (source.has_triggers && !self.declared_local(&source.name)) {
                    return Err(not_followed(
                        &table.name,
                        &format!(
                            "has a foreign key that changes rows of {} along with it",
                            source.name
                        ),
                    ));
                }
                if !seen.contains(&&source.name) {
                    seen.push(&source.name);
                    open.push(source);
                }
            }
        }
        Ok(())
    }

    /// May this relation be read on a replica?
    pub(crate) fn is_replica_safe(&self, table: &TableUse<'_>) -> bool {
        if is_system_schema(&table.name.schema) {
            return is_replica_safe_system(&table.name);
        }
        let below = self.catalog.relations_below(&table.name);
        let (Some(relation), Some(below)) = (table.relation, below) else {
            return false;
        };
        is_replica_safe(relation) && below.into_iter().all(is_replica_safe)
    }
}

fn is_replica_safe_system(name: &RelationName) -> bool {
    &*name.schema != "pg_catalog" || is_replicated_catalog(&name.name)
}

fn is_replica_safe(relation: &Relation) -> bool {
    if is_system_schema(&relation.name.schema) {
        return is_replica_safe_system(&relation.name);
    }
    relation.persistence == Persistence::Permanent
        && !relation.has_rules
        && !relation.has_row_security
        && match relation.kind {
            RelationKind::Table
            | RelationKind::PartitionedTable
            | RelationKind::MaterializedView => true,
            RelationKind::View => !relation.is_opaque,
            RelationKind::Sequence
            | RelationKind::ForeignTable
            | RelationKind::Index
            | RelationKind::PartitionedIndex
            | RelationKind::CompositeType
            | RelationKind::Toast => false,
        }
}

/// Does every foreign key from `source` to `target` join the whole sharding key of one to that of
/// the other?
fn links_keys(source: &Relation, child: &TableRule, target: &Relation, parent: &TableRule) -> bool {
    source
        .foreign_keys
        .iter()
        .filter(|foreign| foreign.target == target.name)
        .all(|foreign| {
            child.key.iter().zip(&parent.key).all(|(from, to)| {
                foreign
                    .columns
                    .iter()
                    .zip(&foreign.target_columns)
                    .any(|(column, target_column)| column == from && target_column == to)
            })
        })
}

fn not_declared(name: &RelationName, what: &str) -> Rejection {
    not_followed(name, what).hint(format!(
        "If they keep to rows of the same shard and leave sharding keys alone, list {name} under sharding.triggers; \
         or name a shard with SET pgherd.shard."
    ))
}

pub(crate) fn not_followed(name: &RelationName, what: &str) -> Rejection {
    Rejection::unsupported(
        label::NOT_FOLLOWED,
        "the statement may concern rows that the planner cannot place",
    )
    .detail(format!(
        "{name} {what}, which is not followed on a sharded database."
    ))
    .hint("Name the tables themselves, or name a shard with SET pgherd.shard.")
}
