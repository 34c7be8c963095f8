//! SHOW MEM: the memory that the process has.

use super::{Show, Sight};
use crate::answer::{Answer, Column, integer, text};

pub(super) const SHOW: Show = Show {
    word: "MEM",
    description: "The memory that the process has, as the system counts it.",
    columns: COLUMNS,
    named_by: "name",
    rows,
};

const COLUMNS: &[Column] = &[
    text(
        "name",
        "What is counted: the kinds of the process's memory in /proc/self/status. There is no row where the system has no such file.",
    ),
    integer("size", "The bytes of one item: 1024."),
    integer("used", "How many items are used."),
    integer(
        "free",
        "How many are kept unused: 0, that is the allocator's.",
    ),
    integer("memtotal", "All of them, in bytes."),
];

/// What is told: everything, its peak, what processes have of their own, and what was reserved.
const KINDS: &[(&str, &str)] = &[
    ("resident", "VmRSS:"),
    ("resident_peak", "VmHWM:"),
    ("own", "RssAnon:"),
    ("data", "VmData:"),
];

const KIB: u64 = 1024;

fn rows(_: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, label) in KINDS {
        let kib = status.lines().find_map(|line| {
            let rest = line.strip_prefix(label)?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        });
        if let Some(kib) = kib {
            let total = kib.saturating_mul(KIB);
            answer.row([
                (*name).into(),
                KIB.into(),
                kib.into(),
                0_u64.into(),
                total.into(),
            ]);
        }
    }
    answer
}
