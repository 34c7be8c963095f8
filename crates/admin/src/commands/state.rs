//! SHOW STATE: whether pgherd works.

use pgherd_session::Phase;

use super::{Show, Sight};
use crate::answer::{Answer, Column, text};

pub(super) const SHOW: Show = Show {
    word: "STATE",
    description: "Whether pgherd takes work, is paused or shutting down.",
    columns: COLUMNS,
    named_by: "key",
    rows,
};

const COLUMNS: &[Column] = &[
    text(
        "key",
        "active: it is neither paused nor shutting down; paused: all databases are; suspended: never; draining: it is shutting down.",
    ),
    text("value", "yes or no."),
];

fn rows(Sight { herd, .. }: Sight<'_>) -> Answer {
    let draining = *herd.phase().borrow() == Phase::Draining;
    let databases = herd.databases();
    let paused = databases
        .values()
        .all(|database| database.pools().is_paused());
    let mut answer = Answer::new(COLUMNS);
    for (key, holds) in [
        ("active", !paused && !draining),
        ("paused", paused),
        ("suspended", false),
        ("draining", draining),
    ] {
        answer.row([key.into(), if holds { "yes" } else { "no" }.into()]);
    }
    answer
}
