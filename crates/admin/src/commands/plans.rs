//! SHOW PLANS: a row for each cached plan, the most often found first.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, integer, text};

pub(super) const SHOW: Show = Show {
    word: "PLANS",
    description: "Cached plans: statement, class, hits.",
    columns: COLUMNS,
    named_by: "statement",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    text("fingerprint", "The plan's fingerprint."),
    text("statement", "The statement, its literals left out."),
    text("class", "The class of plan of each of its statements."),
    text("reason", "Why the first of them is planned so."),
    integer("hits", "How often it was found in the cache."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let mut plans = database.planner().plans();
        plans.sort_by(|one, other| {
            other
                .hits
                .cmp(&one.hits)
                .then_with(|| one.text.cmp(&other.text))
        });
        for plan in plans {
            let classes: Vec<&str> = plan.classes.iter().map(|class| class.as_str()).collect();
            answer.row([
                database.name().into(),
                plan.fingerprint.into(),
                (&*plan.text).into(),
                classes.join("; ").into(),
                (&*plan.reason).into(),
                plan.hits.into(),
            ]);
        }
    }
    answer
}
