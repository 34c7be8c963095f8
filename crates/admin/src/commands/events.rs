//! SHOW EVENTS: what has happened to the shards.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, text, time};

pub(super) const SHOW: Show = Show {
    word: "EVENTS",
    description: "What has happened to the shards since pgherd started: verdicts, refusals, promotions, quarantines. The last 256 of each.",
    columns: COLUMNS,
    named_by: "shard",
    rows,
};

const COLUMNS: &[Column] = &[
    time("at", "When."),
    text("database", "The database."),
    text("shard", "The shard."),
    text(
        "event",
        "verdict, refusal, promotion, quarantine, released, restored, acknowledging, alone, adoption or demotion.",
    ),
    text("text", "What."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        for shard in &database.topology().shards {
            for event in shard.chronicle.events() {
                answer.row([
                    event.at.into(),
                    database.name().into(),
                    (&*shard.name).into(),
                    event.kind.into(),
                    (&*event.text).into(),
                ]);
            }
        }
    }
    answer
}
