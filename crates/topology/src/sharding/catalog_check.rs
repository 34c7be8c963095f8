//! The rules held against a catalog: whether each key can be one.

use super::{Sharding, ShardingError, ShardingFunction, TableRule};
use crate::catalog::{Catalog, Collation};
use crate::key::HashFamily;

impl Sharding {
    /// What the rules and a catalog say against each other: a table that is not there is no fault
    /// (it may be created yet), a key that cannot be one is.
    pub fn check_keys(&self, catalog: &Catalog) -> Vec<ShardingError> {
        let mut faults = Vec::new();
        for rule in self.tables() {
            match key_families(rule, catalog) {
                Ok(None) => {}
                Ok(Some(families)) => {
                    if let Err(fault) = self.check_families(rule, &families, catalog) {
                        faults.push(fault);
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    fn check_families(
        &self,
        rule: &TableRule,
        families: &[HashFamily],
        catalog: &Catalog,
    ) -> Result<(), ShardingError> {
        let readable = match &rule.function {
            ShardingFunction::Hash => true,
            ShardingFunction::List(list) => list.is_valid_for(families),
            ShardingFunction::Range(range) => range.is_valid_for(families),
        };
        if !readable {
            return Err(ShardingError::RuleValues(rule.table.clone()));
        }
        let Some(root) = &rule.with else {
            return Ok(());
        };
        let root = self.tables.find(&root.schema, &root.name);
        match root.map(|root| key_families(root, catalog)) {
            Some(Ok(Some(others))) if others != families => Err(ShardingError::KeyTypes {
                table: rule.table.clone(),
                with: rule.root().clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// The families of a table's key columns; `None` where the table does not exist.
fn key_families(
    rule: &TableRule,
    catalog: &Catalog,
) -> Result<Option<Vec<HashFamily>>, ShardingError> {
    let Some(relation) = catalog.relation(&rule.table) else {
        return Ok(None);
    };
    let family = |name: &str| {
        let fault = |reason| ShardingError::KeyColumn {
            table: rule.table.clone(),
            column: name.into(),
            reason,
        };
        let column = relation
            .find_column(name)
            .ok_or_else(|| fault("does not exist"))?;
        if column.collation == Collation::Nondeterministic {
            return Err(fault("has a collation that is not deterministic"));
        }
        catalog
            .key_type(column.type_oid)
            .map(|key_type| key_type.hash_family())
            .ok_or_else(|| fault("has a type that cannot be a sharding key"))
    };
    rule.key
        .iter()
        .map(|name| family(name))
        .collect::<Result<_, _>>()
        .map(Some)
}
