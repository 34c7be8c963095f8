//! Which shard owns which bucket, between the configuration and what is stored.
//!
//! Owns the rule that rows stay where they are: a bucket table that was stored once is used as it is, whatever the
//! configuration's weights would give today, and what of the configuration that leaves without effect is said. Never
//! moves a bucket. Main function: [`sharding`].

use std::sync::Arc;

use pgherd_control::State;
use pgherd_topology::{ShardId, ShardMap, Sharding, ShardingFunction, WeightedShard, propose};

use super::AssembleError;
use crate::config::settings::Database;

/// The rules of a database on its bucket table. The first time a table is sharded by hash the table is proposed and
/// stored.
///
/// # Errors
/// [`AssembleError::Map`], [`AssembleError::Buckets`], [`AssembleError::Sharding`], [`AssembleError::Control`] where the
/// table cannot be stored.
pub(crate) fn sharding(database: &Database, state: &State) -> Result<Sharding, AssembleError> {
    let mut builder = Sharding::builder(names(database))
        .map(Arc::new(bucket_table(database, state)?))
        .unlisted(database.sharding.unlisted)
        .declarations(database.sharding.declarations.clone());
    for rule in &database.sharding.tables {
        builder = builder.table(rule.clone());
    }
    for table in &database.sharding.reference {
        builder = builder.reference(table.clone());
    }
    builder.build().map_err(|source| AssembleError::Sharding {
        database: database.name.clone(),
        source,
    })
}

fn names(database: &Database) -> Vec<Box<str>> {
    database
        .shards
        .iter()
        .map(|shard| shard.name.clone())
        .collect()
}

fn bucket_table(database: &Database, state: &State) -> Result<ShardMap, AssembleError> {
    let uses_buckets = database
        .sharding
        .tables
        .iter()
        .any(|rule| rule.function == ShardingFunction::Hash);
    if !uses_buckets {
        // no row lies by its bucket, so that nothing is worth keeping
        return proposed(database, None);
    }
    let Some(stored) = state.buckets(database.owner()) else {
        let map = proposed(database, None)?;
        state.set_buckets(database.owner(), map.store(&names(database)))?;
        return Ok(map);
    };
    let map = stored
        .load(&names(database))
        .map_err(|source| AssembleError::Map {
            database: database.name.clone(),
            source,
        })?;
    if map.buckets() != database.sharding.buckets {
        return Err(AssembleError::Buckets {
            database: database.name.clone(),
            stored: map.buckets(),
            configured: database.sharding.buckets,
        });
    }
    warn_of_surplus(database, &map)?;
    Ok(map)
}

fn proposed(database: &Database, current: Option<&ShardMap>) -> Result<ShardMap, AssembleError> {
    let shards: Vec<WeightedShard<'_>> = (0..)
        .map(ShardId)
        .zip(&database.shards)
        .map(|(id, shard)| WeightedShard {
            id,
            name: &shard.name,
            weight: shard.weight,
        })
        .collect();
    propose(&shards, database.sharding.buckets, current).map_err(|source| AssembleError::Map {
        database: database.name.clone(),
        source,
    })
}

/// Weights and new shards ask for buckets that this version does not move.
fn warn_of_surplus(database: &Database, stored: &ShardMap) -> Result<(), AssembleError> {
    let wanted = proposed(database, Some(stored))?;
    let misplaced = wanted
        .owners()
        .iter()
        .zip(stored.owners())
        .filter(|(wanted, stored)| wanted != stored)
        .count();
    if misplaced > 0 {
        tracing::warn!(
            database = &*database.name,
            buckets = misplaced,
            "the shards and weights ask for other owners of these buckets; this version moves none, rows stay where they are"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use pgherd_control::MemoryStore;

    use super::*;
    use crate::config;

    fn state() -> State {
        State::load_or_create(Box::new(MemoryStore::default()))
            .unwrap()
            .0
    }

    fn database(shards: &[(&str, u32)], buckets: u16, tables: &str) -> Database {
        let mut source =
            "databases:\n  shop:\n    users: [{ name: a, password: b }]\n    shards:\n".to_owned();
        for (port, (name, weight)) in (5501..).zip(shards) {
            source += &format!(
                "      - {{ name: {name}, weight: {weight}, servers: [{{ name: {name}a, address: \"127.0.0.1:{port}\" }}] }}\n"
            );
        }
        source += &format!("    sharding: {{ buckets: {buckets}, tables: {tables} }}\n");
        let loaded = config::parse(Path::new("a.yaml"), &source, &|_| None, false).unwrap();
        loaded.config.databases[0].clone()
    }

    #[test]
    fn rows_stay_where_they_are_whatever_weights_say_later() {
        let state = state();
        let before = sharding(
            &database(&[("s0", 1), ("s1", 1)], 64, "{ t: { key: id } }"),
            &state,
        )
        .unwrap();
        let heavier = database(&[("s0", 1), ("s1", 9), ("s2", 1)], 64, "{ t: { key: id } }");
        let after = sharding(&heavier, &state).unwrap();
        assert_eq!(before.map().owners(), after.map().owners());
    }

    #[test]
    fn another_number_of_buckets_or_a_shard_taken_out_is_refused() {
        let state = state();
        sharding(
            &database(&[("s0", 1), ("s1", 1)], 64, "{ t: { key: id } }"),
            &state,
        )
        .unwrap();
        let other = database(&[("s0", 1), ("s1", 1)], 128, "{ t: { key: id } }");
        assert!(matches!(
            sharding(&other, &state),
            Err(AssembleError::Buckets {
                stored: 64,
                configured: 128,
                ..
            })
        ));
        let fewer = database(&[("s0", 1)], 64, "{ t: { key: id } }");
        assert!(matches!(
            sharding(&fewer, &state),
            Err(AssembleError::Map { .. })
        ));
    }

    #[test]
    fn a_database_without_hashed_tables_stores_nothing() {
        let state = state();
        sharding(&database(&[("s0", 1)], 64, "{}"), &state).unwrap();
        assert!(state.buckets("shop").is_none());
        sharding(&database(&[("renamed", 1)], 128, "{}"), &state).unwrap();
    }

    #[test]
    fn shards_may_change_their_order() {
        let state = state();
        let before = sharding(
            &database(&[("s0", 1), ("s1", 1)], 64, "{ t: { key: id } }"),
            &state,
        )
        .unwrap();
        let after = sharding(
            &database(&[("s1", 1), ("s0", 1)], 64, "{ t: { key: id } }"),
            &state,
        )
        .unwrap();
        for (first, second) in before.map().owners().iter().zip(after.map().owners()) {
            assert_eq!(before.shard_name(*first), after.shard_name(*second));
        }
    }
}
