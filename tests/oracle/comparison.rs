//! Whether two answers say the same.
//!
//! Owns what may differ: the order of rows that no ORDER BY gives, the OIDs of types that users made, the words of errors.
//! Main function: [`same`].

use super::client::{Answer, Part};

/// The first OID of a type that was not there when the server was made.
const FIRST_OF_USERS: u32 = 16_384;

/// What of an answer's rows is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The rows and their order.
    Ordered,
    /// The rows.
    Rows,
    /// How many they are.
    Count,
}

/// Do both say the same?
#[must_use]
pub fn same(ours: &Answer, theirs: &Answer, certainty: Certainty) -> bool {
    if ours.status != theirs.status {
        return false;
    }
    match (ours.failure(), theirs.failure()) {
        // how far a statement came before it failed depends on the order of rows
        (Some(ours), Some(theirs)) => {
            ours.state == theirs.state || both_unknown(&ours.state, &theirs.state)
        }
        (None, None) => normalised(ours, certainty) == normalised(theirs, certainty),
        _ => false,
    }
}

/// Of several mistakes in a text pgherd may see another first: a relation or function that is not there before a column's name,
/// a type or a literal that is not allowed, and a transaction that only reads before anything of the text.
fn both_unknown(ours: &str, theirs: &str) -> bool {
    match ours {
        "42P01" | "42883" => theirs.starts_with("42") || theirs == "0A000",
        "25006" => true,
        _ => false,
    }
}

fn normalised(answer: &Answer, certainty: Certainty) -> Vec<Part> {
    let mut parts: Vec<Part> = answer.parts.iter().map(without_user_types).collect();
    if certainty == Certainty::Count {
        parts
            .iter_mut()
            .filter(|part| is_data(part))
            .for_each(|part| *part = Part::Row(Vec::new()));
    }
    if certainty == Certainty::Rows {
        for run in parts.chunk_by_mut(|one, next| is_data(one) && is_data(next)) {
            run.sort_by_cached_key(|part| format!("{part:?}"));
        }
    }
    parts
}

fn is_data(part: &Part) -> bool {
    matches!(part, Part::Row(_) | Part::Copied(_))
}

fn without_user_types(part: &Part) -> Part {
    let builtin = |oid: u32| {
        if oid < FIRST_OF_USERS {
            oid
        } else {
            FIRST_OF_USERS
        }
    };
    match part {
        Part::Parameters(types) => Part::Parameters(types.iter().copied().map(builtin).collect()),
        Part::Columns(columns) => {
            let mut columns = columns.clone();
            for column in &mut columns {
                column.type_oid = builtin(column.type_oid);
            }
            Part::Columns(columns)
        }
        other => other.clone(),
    }
}

/// An answer in a few lines, for people.
#[must_use]
pub fn describe(answer: &Answer) -> String {
    const MOST: usize = 12;
    let mut lines: Vec<String> = answer
        .parts
        .iter()
        .map(|part| match part {
            Part::Row(values) => {
                let values: Vec<String> = values.iter().map(describe_value).collect();
                format!("({})", values.join(", "))
            }
            Part::Copied(data) => format!("copied {:?}", String::from_utf8_lossy(data)),
            Part::Columns(columns) => {
                let columns: Vec<String> = columns
                    .iter()
                    .map(|column| {
                        format!(
                            "{} {}/{}{}",
                            column.name,
                            column.type_oid,
                            column.modifier,
                            if column.format == 1 { " binary" } else { "" }
                        )
                    })
                    .collect();
                format!("columns {}", columns.join(", "))
            }
            Part::Error(failure) => {
                let further = [&failure.detail, &failure.hint];
                let further: Vec<&str> =
                    further.into_iter().flatten().map(String::as_str).collect();
                format!(
                    "ERROR {} {} {}",
                    failure.state,
                    failure.message,
                    further.join(" ")
                )
            }
            Part::Other(tag) => format!("message {}", char::from(*tag)),
            other => format!("{other:?}"),
        })
        .collect();
    let further = lines.len().saturating_sub(MOST);
    if further > 0 {
        lines.truncate(MOST);
        lines.push(format!("... {further} further parts"));
    }
    lines.push(format!("status {}", char::from(answer.status)));
    lines
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect::<String>()
}

fn describe_value(value: &Option<Vec<u8>>) -> String {
    match value {
        None => "NULL".into(),
        Some(bytes) if bytes.iter().all(|byte| !byte.is_ascii_control()) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Some(bytes) => bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
            text += &format!("{byte:02x}");
            text
        }),
    }
}
