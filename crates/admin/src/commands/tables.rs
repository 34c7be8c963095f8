//! SHOW TABLES: a row for each table that the configuration names, and one for all others.

use pgherd_session::Database;
use pgherd_topology::{RelationName, ShardingFunction, Unlisted};

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, Value, boolean, text};

pub(super) const SHOW: Show = Show {
    word: "TABLES",
    description: "What is sharded by which key, and what every shard has a copy of.",
    columns: COLUMNS,
    named_by: "table",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    text(
        "table",
        "The table, with its schema; * for all that are named nowhere.",
    ),
    text(
        "distribution",
        "sharded (by key), reference (a copy on every shard), unsharded (on one shard) or refused.",
    ),
    text("key", "The columns of the sharding key."),
    text(
        "function",
        "How the key names a shard: hash, list or range.",
    ),
    text(
        "with",
        "The table whose rows of the same key lie on the same shard.",
    ),
    text("shard", "Where an unsharded table lies."),
    boolean(
        "exists",
        "Whether the servers have it; empty before their catalogs were read.",
    ),
    boolean("drifted", "Whether the shards disagree on its columns."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        add_database(&mut answer, &database);
    }
    answer
}

fn add_database(answer: &mut Answer, database: &Database) {
    let sharding = database.sharding();
    let state = |table: &RelationName| -> [Value; 2] {
        let catalog = database.catalog();
        if catalog.version() == 0 {
            return [Value::Null, Value::Null];
        }
        let relation = catalog.relation(table);
        [
            relation.is_some().into(),
            relation.map(|relation| relation.drifted).into(),
        ]
    };
    let mut rules: Vec<_> = sharding.tables().collect();
    rules.sort_by_key(|rule| rule.table.to_string());
    for rule in rules {
        let function = match rule.function {
            ShardingFunction::Hash => "hash",
            ShardingFunction::List(_) => "list",
            ShardingFunction::Range(_) => "range",
        };
        let [exists, drifted] = state(&rule.table);
        answer.row([
            database.name().into(),
            rule.table.to_string().into(),
            "sharded".into(),
            rule.key.join(", ").into(),
            function.into(),
            rule.with.as_ref().map(ToString::to_string).into(),
            Value::Null,
            exists,
            drifted,
        ]);
    }
    let mut references: Vec<_> = sharding.reference_tables().collect();
    references.sort_by_key(|table| table.to_string());
    for table in references {
        let [exists, drifted] = state(table);
        answer.row([
            database.name().into(),
            table.to_string().into(),
            "reference".into(),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            exists,
            drifted,
        ]);
    }
    let (distribution, shard) = match sharding.unlisted() {
        Unlisted::Shard(shard) => ("unsharded", Some(sharding.shard_name(shard))),
        Unlisted::Refuse => ("refused", None),
    };
    answer.row([
        database.name().into(),
        "*".into(),
        distribution.into(),
        Value::Null,
        Value::Null,
        Value::Null,
        shard.into(),
        Value::Null,
        Value::Null,
    ]);
}
