//! What lies where: sharded, reference and unlisted tables.

use pgherd_topology::{RelationName, ShardId, TableRule, Unlisted};

use super::super::located::{At, OneOrMany, Place, Text};
use super::super::raw;
use super::super::read::suggestion;
use super::super::reader::Reader;
use super::super::settings::{Shard, Sharding};
use super::declarations::declarations;
use super::function;

const DEFAULT_BUCKETS: u16 = 4096;

/// Postgres' own limit of columns in a partition key.
const MAX_KEY_COLUMNS: usize = 32;

/// A table as read, and the places its later checks point at.
struct Read<'a> {
    rule: TableRule,
    place: Place,
    with: Option<&'a At<Text>>,
    function_place: Option<Place>,
}

/// The sharding of a database, unless an error was noted.
pub fn sharding(
    database: &raw::Database,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<Sharding> {
    let Some(raw) = &database.sharding else {
        if shards.len() > 1 {
            reader.error(
                database
                    .shards
                    .as_ref()
                    .map_or_else(Place::default, |shards| shards.place),
                format!(
                    "there are {} shards, and `sharding` does not say what lies where",
                    shards.len()
                ),
                "add `sharding: { tables: ..., reference: [...], unlisted: ... }`",
            );
            return None;
        }
        return Some(Sharding {
            buckets: DEFAULT_BUCKETS,
            tables: Vec::new(),
            reference: Vec::new(),
            unlisted: Unlisted::Shard(ShardId(0)),
            declarations: declarations(database, reader)?,
        });
    };
    let buckets = buckets(raw, shards, reader);
    let declarations = declarations(database, reader);
    let tables = tables(raw, shards, reader);
    let reference = reference(raw, reader);
    let unlisted = match &raw.unlisted {
        None => Some(Unlisted::Shard(ShardId(0))),
        Some(text) => unlisted(text, shards, reader),
    };
    if let (Some(tables), Some(reference)) = (&tables, &reference) {
        check_disjoint(tables, reference, raw, reader);
    }
    let mut tables = tables?;
    if !resolve_with(&mut tables, reader) {
        return None;
    }
    Some(Sharding {
        buckets: buckets?,
        tables: tables.into_iter().map(|read| read.rule).collect(),
        reference: reference?,
        unlisted: unlisted?,
        declarations: declarations?,
    })
}

fn buckets(raw: &At<raw::Sharding>, shards: &[Shard], reader: &mut Reader<'_>) -> Option<u16> {
    let buckets = reader.number(raw.buckets.as_ref(), DEFAULT_BUCKETS, 1..=u16::MAX)?;
    if usize::from(buckets) < shards.len() {
        reader.error(
            raw.buckets
                .as_ref()
                .map_or(raw.place, |buckets| buckets.place),
            format!(
                "{buckets} buckets cannot be spread over {} shards",
                shards.len()
            ),
            "take many more buckets than there will ever be shards: 4096",
        );
        return None;
    }
    Some(buckets)
}

fn tables<'a>(
    raw: &'a At<raw::Sharding>,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<Vec<Read<'a>>> {
    let Some(written) = &raw.tables else {
        return Some(Vec::new());
    };
    let mut tables: Vec<Read<'a>> = Vec::new();
    for (name, raw) in &written.value.0 {
        let Some(read) = table(name, raw, shards, reader) else {
            continue;
        };
        if tables
            .iter()
            .any(|known| known.rule.table == read.rule.table)
        {
            reader.error(
                name.place,
                format!("table {} is given twice", read.rule.table),
                "keep one of them",
            );
        }
        tables.push(read);
    }
    (tables.len() == written.value.0.len()).then_some(tables)
}

fn table<'a>(
    name: &At<Text>,
    raw: &'a At<raw::Table>,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<Read<'a>> {
    let relation = relation(name, reader);
    let key = match &raw.key {
        Some(key) => columns(key, reader),
        None => {
            reader.error(
                name.place,
                format!("table `{}` has no sharding key", name.value.0),
                "add `key:` with the column whose value says where a row lies",
            );
            None
        }
    };
    let function = function::function(raw, key.as_deref(), shards, reader);
    Some(Read {
        rule: TableRule {
            table: relation?,
            key: key?.into(),
            function: function?,
            with: None,
        },
        place: name.place,
        with: raw.with.as_ref(),
        function_place: raw.function.as_ref().map(|function| function.place),
    })
}

fn relation(text: &At<Text>, reader: &mut Reader<'_>) -> Option<RelationName> {
    match reader.text(text)?.parse() {
        Ok(relation) => Some(relation),
        Err(error) => {
            reader.error(
                text.place,
                format!("`{}` is not a table's name: {error}", text.value.0),
                "write `table` or `schema.table`, with double quotes as in SQL where Postgres needs them",
            );
            None
        }
    }
}

fn columns(key: &At<OneOrMany<Text>>, reader: &mut Reader<'_>) -> Option<Vec<Box<str>>> {
    let written = key.each();
    if written.is_empty() || written.len() > MAX_KEY_COLUMNS {
        reader.error(
            key.place,
            format!(
                "a key has from 1 to {MAX_KEY_COLUMNS} columns, and this one {}",
                written.len()
            ),
            "write `key: id`, or `key: [tenant, id]`",
        );
        return None;
    }
    let mut columns: Vec<Box<str>> = Vec::new();
    for text in &written {
        // a column is written as in SQL: folded, unless quoted
        let column = match reader.text(text)?.parse::<RelationName>() {
            Ok(name) if &*name.schema == "public" && !text.value.0.contains('.') => name.name,
            Ok(_) | Err(_) => {
                reader.error(
                    text.place,
                    format!("`{}` is not a column's name", text.value.0),
                    "write it as in SQL, without its table: `user_id`",
                );
                return None;
            }
        };
        if columns.contains(&column) {
            reader.error(
                text.place,
                format!("column `{column}` is in the key twice"),
                "keep one of them",
            );
            return None;
        }
        columns.push(column);
    }
    Some(columns)
}

pub(super) fn shard_of(
    text: &At<Text>,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<ShardId> {
    let name = reader.text(text)?;
    let index = shards.iter().position(|shard| *shard.name == *name);
    if index.is_none() {
        let names: Vec<&str> = shards.iter().map(|shard| &*shard.name).collect();
        reader.error(
            text.place,
            format!("there is no shard `{}`", text.value.0),
            suggestion(&name, &names, "shards"),
        );
    }
    index
        .and_then(|index| u16::try_from(index).ok())
        .map(ShardId)
}

fn unlisted(text: &At<Text>, shards: &[Shard], reader: &mut Reader<'_>) -> Option<Unlisted> {
    if text.value.0 == "refuse" {
        return Some(Unlisted::Refuse);
    }
    shard_of(text, shards, reader).map(Unlisted::Shard)
}

fn reference(raw: &At<raw::Sharding>, reader: &mut Reader<'_>) -> Option<Vec<RelationName>> {
    let written = raw
        .reference
        .as_ref()
        .map_or(&[][..], |reference| &reference.value);
    let mut tables = Vec::new();
    for text in written {
        let Some(table) = relation(text, reader) else {
            continue;
        };
        if tables.contains(&table) {
            reader.error(
                text.place,
                format!("table {table} is given twice"),
                "keep one of them",
            );
        }
        tables.push(table);
    }
    (tables.len() == written.len()).then_some(tables)
}

fn check_disjoint(
    tables: &[Read<'_>],
    reference: &[RelationName],
    raw: &raw::Sharding,
    reader: &mut Reader<'_>,
) {
    let written = raw
        .reference
        .as_ref()
        .map_or(&[][..], |reference| &reference.value);
    for (table, text) in reference.iter().zip(written) {
        if tables.iter().any(|read| read.rule.table == *table) {
            reader.error(
                text.place,
                format!("table {table} is sharded and a reference table"),
                "take it out of `tables` or of `reference`",
            );
        }
    }
}

/// Fills in each table's co-location root; says whether all was right.
fn resolve_with(tables: &mut [Read<'_>], reader: &mut Reader<'_>) -> bool {
    let mut right = true;
    // a table's co-located partner as an index; resolved names first, so that chains can be followed
    let mut partners: Vec<Option<usize>> = Vec::new();
    for read in tables.iter() {
        let Some(text) = read.with else {
            partners.push(None);
            continue;
        };
        let partner = relation(text, reader).map(|name| {
            let found = tables.iter().position(|other| other.rule.table == name);
            if found.is_none() {
                let names: Vec<String> = tables
                    .iter()
                    .map(|other| short_name(&other.rule.table))
                    .collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                reader.error(
                    text.place,
                    format!("`{}` is not a sharded table", text.value.0),
                    suggestion(&text.value.0, &names, "sharded tables"),
                );
            }
            found
        });
        right &= partner.flatten().is_some();
        partners.push(partner.flatten());
    }
    if !right {
        return false;
    }
    for index in 0..tables.len() {
        let Some(text) = tables[index].with else {
            continue;
        };
        let root = match root_of(index, &partners) {
            Some(root) => root,
            None => {
                reader.error(
                    text.place,
                    format!(
                        "table {} is co-located with itself",
                        tables[index].rule.table
                    ),
                    "let `with` name the table at the root, which has no `with`",
                );
                right = false;
                continue;
            }
        };
        right &= check_colocated(&tables[index], &tables[root], text, reader);
        tables[index].rule.with = Some(tables[root].rule.table.clone());
        tables[index].rule.function = tables[root].rule.function.clone();
    }
    right
}

/// The end of a chain of partners, or `None` for a chain without an end.
fn root_of(start: usize, partners: &[Option<usize>]) -> Option<usize> {
    let mut current = start;
    for _ in 0..partners.len() {
        match partners[current] {
            None => return Some(current),
            Some(next) => current = next,
        }
    }
    None
}

fn check_colocated(
    read: &Read<'_>,
    root: &Read<'_>,
    text: &At<Text>,
    reader: &mut Reader<'_>,
) -> bool {
    if read.rule.key.len() != root.rule.key.len() {
        reader.error(
            read.place,
            format!(
                "table {} has a key of {} columns, and {}, which it is co-located with, one of {}",
                read.rule.table,
                read.rule.key.len(),
                root.rule.table,
                root.rule.key.len()
            ),
            "co-located tables have keys of the same columns' types",
        );
        return false;
    }
    if let Some(place) = read.function_place {
        reader.error(
            place,
            format!(
                "`function` is that of `{}`, which this table is co-located with",
                text.value.0
            ),
            "take it out, or take `with` out",
        );
        return false;
    }
    true
}

fn short_name(name: &RelationName) -> String {
    let text = name.to_string();
    match text.strip_prefix("public.") {
        Some(short) => short.to_owned(),
        None => text,
    }
}
