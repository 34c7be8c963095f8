//! SHOW BUCKETS: a row for each shard, with the buckets that it owns.

use pgherd_topology::BucketId;

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, float, integer, text};

pub(super) const SHOW: Show = Show {
    word: "BUCKETS",
    description: "Which buckets each shard owns.",
    columns: COLUMNS,
    named_by: "shard",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    text("shard", "The shard."),
    integer("buckets", "How many buckets it owns."),
    float("share", "Its share of all buckets, in percent."),
    text("ranges", "Which ones they are: 0-99, 103."),
    integer("map_version", "The version of the table of buckets."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let sharding = database.sharding();
        let map = sharding.map();
        for shard in sharding.shard_ids() {
            let owned: Vec<BucketId> = map.buckets_of(shard).collect();
            let count = u32::try_from(owned.len()).unwrap_or(u32::MAX);
            let share = f64::from(count) * 100.0 / f64::from(map.buckets());
            answer.row([
                database.name().into(),
                sharding.shard_name(shard).into(),
                owned.len().into(),
                ((share * 100.0).round() / 100.0).into(),
                ranges(&owned).into(),
                map.version().into(),
            ]);
        }
    }
    answer
}

/// Ascending numbers as ranges.
fn ranges(buckets: &[BucketId]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for bucket in buckets {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(bucket.0) => *last = bucket.0,
            Some(_) | None => runs.push((bucket.0, bucket.0)),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_in_a_row_are_written_as_a_range() {
        let buckets: Vec<_> = [0, 1, 2, 5, 7, 8, u16::MAX].map(BucketId).into();
        assert_eq!(ranges(&buckets), "0-2, 5, 7-8, 65535");
        assert_eq!(ranges(&[]), "");
    }
}
