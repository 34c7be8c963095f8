//! SHOW HELP: the console's commands.

use super::columns;
use crate::answer::{Answer, Column, text};
use crate::command::Show;

pub(super) const COLUMNS: &[Column] = &[
    text("command", "What to type."),
    text("description", "What it shows."),
    text("columns", "Its columns, each with its meaning."),
];

pub(super) fn rows() -> Answer {
    let mut answer = Answer::new(COLUMNS);
    for show in Show::ALL {
        let meanings: Vec<String> = columns(show)
            .iter()
            .map(|column| format!("{}: {}", column.name, column.meaning))
            .collect();
        answer.row([
            format!("SHOW {}", show.word()).into(),
            show.description().into(),
            meanings.join("\n").into(),
        ]);
    }
    answer
}
