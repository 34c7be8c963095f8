//! Counts what was answered and what was refused, by reason.
//!
//! Main type: [`Tally`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::client::Answer;

/// What became of the statements.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    answered: usize,
    failed_alike: BTreeMap<String, usize>,
    refused: BTreeMap<String, usize>,
    without_hint: BTreeSet<String>,
}

impl Tally {
    /// One more was answered.
    pub(super) fn answered(&mut self) {
        self.answered += 1;
    }

    /// One more failed as on one Postgres.
    pub(super) fn failed_alike(&mut self, state: &str) {
        *self.failed_alike.entry(state.to_owned()).or_default() += 1;
    }

    /// One more was refused.
    pub(super) fn refused(&mut self, answer: &Answer) {
        let message = answer.failure().map_or("", |failure| &failure.message);
        if answer
            .failure()
            .is_none_or(|failure| failure.hint.is_none())
        {
            self.without_hint.insert(reason(message));
        }
        *self.refused.entry(reason(message)).or_default() += 1;
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        for (state, count) in &other.failed_alike {
            *self.failed_alike.entry(state.clone()).or_default() += count;
        }
        for (reason, count) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += count;
        }
        self.without_hint.extend(other.without_hint.iter().cloned());
    }

    /// The reasons that came without a hint.
    #[must_use]
    pub fn without_hint(&self) -> Vec<&str> {
        self.without_hint.iter().map(String::as_str).collect()
    }

    /// All statements.
    #[must_use]
    pub fn total(&self) -> usize {
        self.served() + self.refused.values().sum::<usize>()
    }

    /// Those that were answered, errors as on one Postgres included.
    #[must_use]
    pub fn served(&self) -> usize {
        self.answered + self.failed()
    }

    fn failed(&self) -> usize {
        self.failed_alike.values().sum()
    }

    /// Which errors both sides had, by SQLSTATE.
    #[must_use]
    pub fn failures(&self) -> String {
        let states = self.failed_alike.iter();
        let states: Vec<String> = states
            .map(|(state, count)| format!("{state} {count}"))
            .collect();
        states.join(", ")
    }

    /// A table in Markdown.
    #[must_use]
    pub fn table(&self, title: &str) -> String {
        let share = |count: usize| {
            let thousandths = (count * 1000).checked_div(self.total()).unwrap_or_default();
            format!("{}.{} %", thousandths / 10, thousandths % 10)
        };
        let mut table = format!("| {title} | statements | share |\n|---|---:|---:|\n");
        let mut line = |what: &str, count: usize| {
            let _ = writeln!(table, "| {what} | {count} | {} |", share(count));
        };
        line("answered as by one Postgres", self.answered);
        line("failed as on one Postgres", self.failed());
        let mut refused: Vec<_> = self.refused.iter().collect();
        refused.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
        for (reason, count) in refused {
            line(&format!("refused: {reason}"), *count);
        }
        line("all", self.total());
        table
    }
}

/// An error's message without the names and numbers in it.
fn reason(message: &str) -> String {
    let mut reason = String::new();
    let mut quoted = false;
    for character in message.chars() {
        match character {
            '"' => {
                if !quoted {
                    reason.push('…');
                }
                quoted = !quoted;
            }
            _ if quoted => {}
            '0'..='9' => {
                if !reason.ends_with('N') {
                    reason.push('N');
                }
            }
            '|' => reason.push('/'),
            other => reason.push(other),
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_no_names_and_no_numbers() {
        assert_eq!(
            reason("table \"users\" has 12 columns"),
            "table … has N columns"
        );
    }
}
