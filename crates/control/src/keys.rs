//! Whether the sharded tables' keys are such that rows can be placed by them.
//!
//! Owns the rules; what a running proxy does about a key that breaks one is refuse statements, one by one. Never changes anything.
//! Main function: [`check_keys`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::catalog::reading::{Assembly, compared};
use pgherd_topology::{Catalog, Collation, KeyType, RelationName, Sharding, TableRule};

use crate::catalog::read;
use crate::error::ControlError;
use crate::servers::Servers;
use crate::settings::ControlSettings;

/// How long one shard's catalogs may take to be read.
const READ_BOUND: Duration = Duration::from_secs(30);

/// Why a sharded table cannot be used, or not with the table that it is said to lie with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTrouble {
    /// The table.
    pub table: RelationName,
    /// What is wrong, as the rest of a sentence about the table.
    pub what: String,
}

/// Reads the catalogs of every shard's primary and checks each sharded table that exists. Cancel-safe.
///
/// # Errors
/// Where a shard has no primary that answers.
pub async fn check_keys(settings: &ControlSettings) -> Result<Vec<KeyTrouble>, ControlError> {
    let servers = Servers::new(settings);
    let sharding = &settings.sharding;
    let tables = compared(sharding);
    let mut readings = Vec::new();
    for (shard, shard_settings) in sharding.shard_ids().zip(&settings.shards) {
        let (server, _) = servers.find_primary(shard, &shard_settings.name).await?;
        let reading = read::read(&server, &tables, READ_BOUND).await?;
        readings.push(Some(Arc::new(reading)));
    }
    let assembly = Assembly {
        readings,
        sharding,
        version: 1,
    };
    Ok(assembly
        .catalog()
        .map(|catalog| troubles(&catalog, sharding))
        .unwrap_or_default())
}

fn troubles(catalog: &Catalog, sharding: &Sharding) -> Vec<KeyTrouble> {
    let mut troubles = Vec::new();
    for rule in sharding.tables() {
        let Some(relation) = catalog.relation(&rule.table) else {
            continue;
        };
        let mut trouble = |what: String| {
            troubles.push(KeyTrouble {
                table: rule.table.clone(),
                what,
            });
        };
        if relation.drifted {
            trouble("is not defined alike on every shard".into());
        }
        for name in &rule.key {
            match relation.find_column(name) {
                None => trouble(format!("has no column {name}, its sharding key")),
                Some(column) => {
                    if catalog.key_type(column.type_oid).is_none() {
                        trouble(format!(
                            "has the sharding key {name}, whose type cannot be one"
                        ));
                    }
                    if column.collation == Collation::Nondeterministic {
                        trouble(format!(
                            "has the sharding key {name}, under whose collation different texts are equal"
                        ));
                    }
                }
            }
        }
        if let Some(with) = unlike(catalog, sharding, rule) {
            trouble(format!(
                "is to lie with {with}, and equal values of their keys do not hash alike: the columns' types are of different families"
            ));
        }
    }
    troubles
}

/// The table that this one lies with, if their keys' types hash otherwise.
fn unlike<'a>(
    catalog: &Catalog,
    sharding: &'a Sharding,
    rule: &TableRule,
) -> Option<&'a RelationName> {
    let with = rule.with.as_ref()?;
    let root = sharding.tables().find(|other| other.table == *with)?;
    let families = |rule: &TableRule| {
        let relation = catalog.relation(&rule.table)?;
        rule.key
            .iter()
            .map(|name| {
                let column = relation.find_column(name)?;
                catalog.key_type(column.type_oid).map(KeyType::hash_family)
            })
            .collect::<Option<Vec<_>>>()
    };
    let differ = match (families(rule), families(root)) {
        (Some(own), Some(others)) => own != others,
        // said of the column already, or the table does not exist
        _ => false,
    };
    differ.then_some(&root.table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pgherd_topology::{Column, Relation, ShardId, ShardMap};

    use super::*;

    #[test]
    fn keys_that_cannot_place_a_row_are_named() {
        let public = |name: &str| RelationName::new("public", name);
        let sharding = Sharding::builder(["s0", "s1"])
            .map(Arc::new(ShardMap::single(ShardId(0), 4).unwrap()))
            .table(TableRule::hash(public("users"), ["id"]))
            .table(TableRule::hash(public("orders"), ["user_id"]).with(public("users")))
            .table(TableRule::hash(public("points"), ["place"]))
            .table(TableRule::hash(public("words"), ["word"]))
            .table(TableRule::hash(public("lost"), ["gone"]))
            .table(TableRule::hash(public("unborn"), ["id"]))
            .build()
            .unwrap();
        let words = Relation::table("public", "words")
            .column(Column::new("word", 25).collated(Collation::Nondeterministic));
        let catalog = Catalog::builder()
            .with_builtins()
            .table("users", &[("id", 20)])
            .table("orders", &[("user_id", 1700)])
            .table("points", &[("place", 600)])
            .table("lost", &[("id", 20)])
            .relation(words)
            .build();
        let found: Vec<String> = troubles(&catalog, &sharding)
            .into_iter()
            .map(|trouble| format!("{} {}", trouble.table.name, trouble.what))
            .collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("orders is to lie with public.users"));
        assert!(found[1].starts_with("points has the sharding key place, whose type"));
        assert!(found[2].starts_with("words has the sharding key word, under whose collation"));
        assert!(found[3].starts_with("lost has no column gone"));
    }
}
