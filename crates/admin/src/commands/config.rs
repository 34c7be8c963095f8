//! SHOW CONFIG: a row for each key of the configuration in force. Secrets are in none.

use super::{Show, Sight};
use crate::answer::{Answer, Column, text};

pub(super) const SHOW: Show = Show {
    word: "CONFIG",
    description: "The configuration in force.",
    columns: COLUMNS,
    named_by: "key",
    rows,
};

const COLUMNS: &[Column] = &[
    text(
        "key",
        "The key, as a path into the file; also PgBouncer's max_client_conn and max_user_connections, which is 0: no limit.",
    ),
    text(
        "value",
        "Its value; empty where there is none, which is no limit.",
    ),
    text("default", "Its value where the file says nothing."),
    text(
        "changeable",
        "yes: RELOAD puts another value in force; no: that takes a restart.",
    ),
];

fn rows(Sight { operations, .. }: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for entry in operations.configuration().iter() {
        answer.row([
            entry.key.as_str().into(),
            entry.value.as_deref().into(),
            entry.default.as_deref().into(),
            if entry.changeable { "yes" } else { "no" }.into(),
        ]);
    }
    answer
}
