//! Makes a round that shows a difference as small as it gets.
//!
//! Main function: [`shrink`].

use super::client::Mode;
use super::comparison::Certainty;
use super::node::Node;
use super::report::Tally;
use super::runner::{Difference, Step, run};
use super::watch::Watch;
use super::world::Pair;

/// How many smaller rounds are tried.
const ATTEMPTS: usize = 400;

/// The smallest round found that differs too, and how.
pub async fn shrink(
    pair: &Pair,
    watch: &mut Watch,
    round: &[Step],
    difference: Difference,
) -> (Vec<Step>, Difference) {
    let mut smallest = round[..=difference.step].to_vec();
    let mut shown = difference;
    let mut attempts = 0;
    // a difference in more than the order of rows stays one when ORDER BY is dropped
    let mut unordered = smallest.clone();
    for step in &mut unordered {
        if step.certainty == Certainty::Ordered {
            step.certainty = Certainty::Rows;
        }
    }
    if let Some(difference) = run(pair, watch, &unordered, &mut Tally::default()).await {
        smallest = unordered[..=difference.step].to_vec();
        shown = difference;
    }
    'smaller: loop {
        for candidate in smaller(&smallest) {
            attempts += 1;
            if attempts > ATTEMPTS {
                break 'smaller;
            }
            if let Some(difference) = run(pair, watch, &candidate, &mut Tally::default()).await {
                smallest = candidate[..=difference.step].to_vec();
                shown = difference;
                continue 'smaller;
            }
        }
        break;
    }
    (smallest, shown)
}

/// Every round that lacks something of this one: first whole statements, then parts of them.
fn smaller(round: &[Step]) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    let Some((last, before)) = round.split_last() else {
        return found;
    };
    if before.len() > 1 {
        found.push(vec![last.clone()]);
        found.push(round[round.len() / 2..].to_vec());
    }
    for position in 0..before.len() {
        let mut fewer = round.to_vec();
        fewer.remove(position);
        found.push(fewer);
    }
    for (position, step) in round.iter().enumerate().rev() {
        let mut with = |step: Step| {
            let mut changed = round.to_vec();
            changed[position] = step;
            found.push(changed);
        };
        if step.mode != Mode::Simple {
            with(Step {
                mode: Mode::Simple,
                ..step.clone()
            });
        }
        let ordered = step.certainty == Certainty::Ordered;
        for node in step.node.reductions() {
            if ordered && orders(&node) < orders(&step.node) {
                continue;
            }
            with(Step {
                node,
                ..step.clone()
            });
        }
    }
    found
}

fn orders(node: &Node) -> usize {
    node.render(false).sql.matches("ORDER BY").count()
}

/// A round as people read it.
#[must_use]
pub fn describe(round: &[Step]) -> String {
    round
        .iter()
        .map(|step| {
            let statement = step.node.render(step.mode != Mode::Simple);
            let values: Vec<String> = statement
                .parameters
                .iter()
                .enumerate()
                .map(|(position, value)| format!("${} = {:?}", position + 1, value.text))
                .collect();
            let values = if values.is_empty() {
                String::new()
            } else {
                format!("  with {}", values.join(", "))
            };
            format!("  {:?}: {}{values}\n", step.mode, statement.sql)
        })
        .collect()
}
