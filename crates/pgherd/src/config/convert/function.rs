//! Sharding functions: by hash, by a list of values, by ranges of them.

use std::sync::Arc;

use pgherd_topology::{ListFunction, RangeFunction, RangeRule, ShardId, ShardingFunction};

use super::super::located::{At, Place, Text};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::Shard;
use super::sharding::shard_of;

/// How a table's key names its shard, unless an error was noted.
pub fn function(
    raw: &At<raw::Table>,
    key: Option<&[Box<str>]>,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<ShardingFunction> {
    let function = raw
        .function
        .as_ref()
        .map_or(raw::Function::Hash, |function| function.value);
    let place = raw
        .function
        .as_ref()
        .map_or(raw.place, |function| function.place);
    if let Some(values) = &raw.values
        && function != raw::Function::List
    {
        reader.error(
            values.place,
            "`values` belongs to `function: list`",
            "add `function: list`, or take it out",
        );
        return None;
    }
    if let Some(ranges) = &raw.ranges
        && function != raw::Function::Range
    {
        reader.error(
            ranges.place,
            "`ranges` belongs to `function: range`",
            "add `function: range`, or take it out",
        );
        return None;
    }
    if function != raw::Function::Hash && key.is_some_and(|key| key.len() > 1) {
        reader.error(
            place,
            "list and range take one column",
            "write `key: region`, or `function: hash`",
        );
        return None;
    }
    match function {
        raw::Function::Hash => Some(ShardingFunction::Hash),
        raw::Function::List => list(raw, place, shards, reader),
        raw::Function::Range => range(raw, place, shards, reader),
    }
}

fn list(
    raw: &raw::Table,
    place: Place,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<ShardingFunction> {
    let written = raw
        .values
        .as_ref()
        .map_or(&[][..], |values| &values.value.0);
    if written.is_empty() {
        reader.error(
            place,
            "`function: list` needs `values`",
            "add `values: { eu: s0, us: s1 }`",
        );
        return None;
    }
    let mut values: Vec<(String, ShardId)> = Vec::new();
    for (value, shard) in written {
        let (Some(value), Some(shard)) = (reader.text(value), shard_of(shard, shards, reader))
        else {
            continue;
        };
        if values.iter().any(|(known, _)| *known == value) {
            reader.error(
                place,
                format!("the value `{value}` is listed twice"),
                "keep one of them",
            );
        }
        values.push((value, shard));
    }
    (values.len() == written.len())
        .then(|| ShardingFunction::List(Arc::new(ListFunction::of_values(values))))
}

fn range(
    raw: &raw::Table,
    place: Place,
    shards: &[Shard],
    reader: &mut Reader<'_>,
) -> Option<ShardingFunction> {
    let written = raw.ranges.as_ref().map_or(&[][..], |ranges| &ranges.value);
    if written.is_empty() {
        reader.error(
            place,
            "`function: range` needs `ranges`",
            "add `ranges: [{ to: 1000, shard: s0 }, { from: 1000, shard: s1 }]`",
        );
        return None;
    }
    let mut ranges = Vec::new();
    for range in written {
        let mut bound = |text: &Option<At<Text>>| match text {
            Some(text) => reader.text(text).map(|text| Some(Box::from([text.into()]))),
            None => Some(None),
        };
        let (Some(from), Some(to)) = (bound(&range.from), bound(&range.to)) else {
            continue;
        };
        let Some(shard) = shard_of(&range.shard, shards, reader) else {
            continue;
        };
        ranges.push(RangeRule { from, to, shard });
    }
    (ranges.len() == written.len())
        .then(|| ShardingFunction::Range(Arc::new(RangeFunction::new(ranges))))
}
