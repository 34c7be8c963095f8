//! SHOW HELP: the console's commands.

use super::{DOINGS, Show, Sight, explain_failover};
use crate::answer::{Answer, Column, Value, text};

pub(super) const SHOW: Show = Show {
    word: "HELP",
    description: "These commands.",
    columns: COLUMNS,
    named_by: "command",
    rows,
};

const COLUMNS: &[Column] = &[
    text("command", "What to type."),
    text("description", "What it shows or does."),
    text("columns", "Its columns, each with its meaning."),
];

fn rows(_: Sight<'_>) -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for show in Show::ALL {
        answer.row([
            format!("SHOW {} [LIKE 'pattern']", show.word).into(),
            format!(
                "{} LIKE looks at the column {}.",
                show.description, show.named_by
            )
            .into(),
            meanings(show.columns).into(),
        ]);
    }
    let (command, description) = explain_failover::HELP;
    let columns = meanings(explain_failover::COLUMNS);
    answer.row([command.into(), description.into(), columns.into()]);
    for doing in DOINGS {
        answer.row([doing.syntax.into(), doing.description.into(), Value::Null]);
    }
    answer
}

fn meanings(columns: &[Column]) -> String {
    let lines: Vec<String> = columns
        .iter()
        .map(|column| format!("{}: {}", column.name, column.meaning))
        .collect();
    lines.join("\n")
}
