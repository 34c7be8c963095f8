//! What the configuration vouches for: functions, and the tables whose triggers keep to their shard.

use std::collections::{HashMap, HashSet};

use pgherd_topology::{Declarations, RelationName};

use super::super::located::{At, Named, Text};
use super::super::raw;
use super::super::reader::Reader;

/// All declarations of a database, unless an error was noted.
pub fn declarations(database: &raw::Database, reader: &mut Reader<'_>) -> Option<Declarations> {
    let sharding = database.sharding.as_ref();
    let reads = database.reads.as_ref().and_then(|reads| reads.mapping());
    let functions = functions(
        sharding.and_then(|sharding| sharding.functions.as_ref()),
        reader,
    );
    let reading_functions = names(
        reads.and_then(|reads| reads.functions.as_ref()),
        "function",
        reader,
    );
    let local_triggers = names(
        sharding.and_then(|sharding| sharding.triggers.as_ref()),
        "table",
        reader,
    );
    Some(Declarations {
        functions: functions?,
        reading_functions: reading_functions?,
        local_triggers: local_triggers?,
    })
}

fn functions(
    written: Option<&At<Named<raw::Names>>>,
    reader: &mut Reader<'_>,
) -> Option<HashMap<RelationName, Box<[RelationName]>>> {
    let written = written.map_or(&[][..], |functions| &functions.value.0);
    let mut functions = HashMap::new();
    let mut right = true;
    for (text, tables) in written {
        let function = name(text, "function", reader);
        let tables = names(Some(tables), "table", reader);
        let (Some(function), Some(tables)) = (function, tables) else {
            right = false;
            continue;
        };
        if functions
            .insert(function, tables.into_iter().collect())
            .is_some()
        {
            right = false;
            given_twice(text, "function", reader);
        }
    }
    right.then_some(functions)
}

fn names(
    written: Option<&raw::Names>,
    kind: &str,
    reader: &mut Reader<'_>,
) -> Option<HashSet<RelationName>> {
    let written = written.map_or(&[][..], |list| &list.value);
    let mut names = HashSet::new();
    let mut right = true;
    for text in written {
        let Some(name) = name(text, kind, reader) else {
            right = false;
            continue;
        };
        if !names.insert(name) {
            right = false;
            given_twice(text, kind, reader);
        }
    }
    right.then_some(names)
}

fn name(text: &At<Text>, kind: &str, reader: &mut Reader<'_>) -> Option<RelationName> {
    match reader.text(text)?.parse::<RelationName>() {
        Ok(name) => Some(name),
        Err(error) => {
            reader.error(
                text.place,
                format!("`{}` is not a {kind}'s name: {error}", text.value.0),
                format!("write `{kind}` or `schema.{kind}`, without parentheses"),
            );
            None
        }
    }
}

fn given_twice(text: &At<Text>, kind: &str, reader: &mut Reader<'_>) {
    reader.error(
        text.place,
        format!("{kind} `{}` is given twice", text.value.0),
        "keep one of them",
    );
}
