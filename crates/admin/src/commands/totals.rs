//! SHOW TOTALS: SHOW STATS over all databases, a row for each figure.

use super::{Show, Sight, sorted_databases, stats};
use crate::answer::{Answer, Column, Value, integer, text};

pub(super) const SHOW: Show = Show {
    word: "TOTALS",
    description: "SHOW STATS over all databases together.",
    columns: COLUMNS,
    named_by: "name",
    rows,
};

const COLUMNS: &[Column] = &[
    text(
        "name",
        "The name of a column of SHOW STATS, which says what it means.",
    ),
    integer("value", "Its value."),
];

fn rows(Sight { herd, operations }: Sight<'_>) -> Answer {
    let databases = sorted_databases(herd);
    let (totals, averages) = operations.statistics().over_all(herd, &databases);
    let values: Vec<Value> = totals.values().chain(averages.values()).collect();
    let mut answer = Answer::new(COLUMNS);
    let names = stats::SHOW.columns.iter().skip(1);
    for (column, value) in names.zip(values) {
        answer.row([column.name.into(), value]);
    }
    answer
}
