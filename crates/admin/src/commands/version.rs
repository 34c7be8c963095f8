//! SHOW VERSION.

use crate::answer::{Answer, Column, text};

pub(super) const COLUMNS: &[Column] = &[text("version", "The version of pgherd.")];

pub(super) fn rows() -> Answer {
    let mut answer = Answer::new(COLUMNS);
    answer.row([concat!("pgherd ", env!("CARGO_PKG_VERSION")).into()]);
    answer
}
