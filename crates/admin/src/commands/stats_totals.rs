//! SHOW STATS_TOTALS: a row for each database, with what was counted since the start.

use super::{Show, Sight, sorted_databases};
use crate::answer::{Answer, Column, integer, text};
use crate::statistics::Figures;

pub(super) const SHOW: Show = Show {
    word: "STATS_TOTALS",
    description: "What was counted for each database since the start.",
    columns: COLUMNS,
    named_by: "database",
    rows,
};

const COLUMNS: &[Column] = &[
    text("database", "The database."),
    integer(
        "server_assignment_count",
        "How often a server connection was handed out.",
    ),
    integer(
        "xact_count",
        "Transaction blocks that have ended, and queries outside of one.",
    ),
    integer(
        "query_count",
        "Queries that servers have answered; what a client sends up to a Sync is one.",
    ),
    integer("bytes_received", "Bytes that came from clients."),
    integer("bytes_sent", "Bytes that went to clients."),
    integer("xact_time", "Not measured: 0."),
    integer("query_time", "How long the queries took, in microseconds."),
    integer(
        "wait_time",
        "How long requests waited for a server connection, in microseconds.",
    ),
    integer("client_parse_count", "Not counted: 0."),
    integer("server_parse_count", "Not counted: 0."),
    integer("bind_count", "Not counted: 0."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for database in sorted_databases(herd) {
        let figures = Figures::of(herd, &database);
        answer.row_of([database.name().into()].into_iter().chain(figures.values()));
    }
    answer
}
