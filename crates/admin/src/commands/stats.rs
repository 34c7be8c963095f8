//! SHOW STATS: a row for each database, with what was counted since the start, and averages over the last period.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, integer, text};
use crate::statistics::Figures;

pub(super) const SHOW: Show = Show {
    word: "STATS",
    description: "What was counted for each database, and averages: SHOW STATS_TOTALS and SHOW STATS_AVERAGES together.",
    columns: COLUMNS,
    named_by: "database",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    integer(
        "total_server_assignment_count",
        "How often a server connection was handed out.",
    ),
    integer(
        "total_xact_count",
        "Transaction blocks that have ended, and queries outside of one.",
    ),
    integer(
        "total_query_count",
        "Queries that servers have answered; what a client sends up to a Sync is one.",
    ),
    integer("total_received", "Bytes that came from clients."),
    integer("total_sent", "Bytes that went to clients."),
    integer("total_xact_time", "Not measured: 0."),
    integer(
        "total_query_time",
        "How long the queries took, in microseconds.",
    ),
    integer(
        "total_wait_time",
        "How long requests waited for a server connection, in microseconds.",
    ),
    integer("total_client_parse_count", "Not counted: 0."),
    integer("total_server_parse_count", "Not counted: 0."),
    integer("total_bind_count", "Not counted: 0."),
    integer(
        "avg_server_assignment_count",
        "How often a server connection was handed out, per second.",
    ),
    integer("avg_xact_count", "Transactions per second."),
    integer("avg_query_count", "Queries per second."),
    integer("avg_recv", "Bytes that came from clients, per second."),
    integer("avg_sent", "Bytes that went to clients, per second."),
    integer("avg_xact_time", "Not measured: 0."),
    integer("avg_query_time", "How long a query took, in microseconds."),
    integer(
        "avg_wait_time",
        "How long was waited for a server connection, in microseconds for each that was handed out.",
    ),
    integer("avg_client_parse_count", "Not counted: 0."),
    integer("avg_server_parse_count", "Not counted: 0."),
    integer("avg_bind_count", "Not counted: 0."),
];

fn rows(Sight { herd, operations }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let totals = Figures::of(herd, &database);
        let averages = operations.statistics().averages(herd, &database);
        answer.row_of(
            [database.name().into()]
                .into_iter()
                .chain(totals.values())
                .chain(averages.values()),
        );
    }
    answer
}
