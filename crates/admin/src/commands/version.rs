//! SHOW VERSION.

use super::{Show, Sight};
use crate::answer::{Answer, Column, text};

pub(super) const SHOW: Show = Show {
    word: "VERSION",
    description: "The version of pgherd.",
    columns: COLUMNS,
    named_by: "version",
    rows,
};

const COLUMNS: &[Column] = &[text("version", "The version of pgherd.")];

fn rows(_: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    answer.row([concat!("pgherd ", env!("CARGO_PKG_VERSION")).into()]);
    answer
}
