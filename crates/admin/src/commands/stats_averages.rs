//! SHOW STATS_AVERAGES: a row for each database, with averages over the last period.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, integer, text};

pub(super) const SHOW: Show = Show {
    word: "STATS_AVERAGES",
    description: "Averages for each database since one to two periods of 60 s ago, or since the start.",
    columns: COLUMNS,
    named_by: "database",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    integer(
        "server_assignment_count",
        "How often a server connection was handed out, per second.",
    ),
    integer(
        "xact_count",
        "Transactions per second, as SHOW STATS_TOTALS counts them.",
    ),
    integer(
        "query_count",
        "Queries per second, as SHOW STATS_TOTALS counts them.",
    ),
    integer(
        "bytes_received",
        "Bytes that came from clients, per second.",
    ),
    integer("bytes_sent", "Bytes that went to clients, per second."),
    integer("xact_time", "Not measured: 0."),
    integer("query_time", "How long a query took, in microseconds."),
    integer(
        "wait_time",
        "How long was waited for a server connection, in microseconds for each that was handed out.",
    ),
    integer("client_parse_count", "Not counted: 0."),
    integer("server_parse_count", "Not counted: 0."),
    integer("bind_count", "Not counted: 0."),
];

fn rows(Sight { herd, operations }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let averages = operations.statistics().averages(herd, &database);
        answer.row_of(
            [database.name().into()]
                .into_iter()
                .chain(averages.values()),
        );
    }
    answer
}
