//! SHOW FAILOVERS: a row for each change of primary, with how long each step took.

use std::time::Duration;

use pgherd_topology::ChangeReport;

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, float, integer, text, time};

pub(super) const SHOW: Show = Show {
    word: "FAILOVERS",
    description: "Changes of primary, the last 16 of each shard and the one under way, with the time of each step.",
    columns: COLUMNS,
    named_by: "shard",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    text("shard", "The shard."),
    time("began", "When it began."),
    text(
        "kind",
        "failover: the primary was dead; switchover: planned; forced: an operator accepted a loss.",
    ),
    integer("epoch", "The reign that it led to."),
    text("from", "The primary before."),
    text(
        "to",
        "The primary afterwards; nothing while it is not chosen.",
    ),
    text("reason", "Why."),
    text(
        "outcome",
        "promoted, undone with the reason, or the phase that it is in.",
    ),
    float("took", "How long it took, in seconds."),
    text(
        "steps",
        "What was done, each with the milliseconds since the beginning.",
    ),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        for shard in &database.topology().shards {
            for change in &shard.chronicle.standing().changes {
                answer.row([
                    database.name().into(),
                    (&*shard.name).into(),
                    change.began.into(),
                    change.kind.into(),
                    change.epoch.0.into(),
                    (&*change.from).into(),
                    change.to.as_deref().into(),
                    (&*change.reason).into(),
                    (&*change.outcome).into(),
                    change.took.into(),
                    steps(change).into(),
                ]);
            }
        }
    }
    answer
}

fn steps(change: &ChangeReport) -> String {
    let step = |(step, after): &(Box<str>, Duration)| format!("{step} {}", after.as_millis());
    let steps: Vec<String> = change.steps.iter().map(step).collect();
    steps.join(", ")
}
