//! From the file's text to the raw structs, and what YAML or serde say against it turned into a [`Problem`].
//!
//! Owns the suggestions of nearest right names. Never shows what may be a secret.

use serde_saphyr::Error;

use super::located::Place;
use super::problem::{Problem, may_be_secret};
use super::raw::File;

/// Largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads the raw structs.
///
/// # Errors
/// The first thing that is wrong: YAML stops there.
pub fn read(source: &str) -> Result<File, Problem> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        reject_unsupported_tags: true,
    };
    serde_saphyr::from_str_with_options(source, options).map_err(|error| explain(source, &error))
}

/// The name nearest to `wrong`, if one is near enough to have been meant.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&wrong, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= 1 + name.len().min(wrong.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "one of `a`, `b`", led by the nearest if there is one.
pub(super) fn suggestion(wrong: &str, names: &[&str], kind: &str) -> String {
    let list = names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match (nearest(wrong, names.iter().copied()), names) {
        (Some(name), _) => format!("did you mean `{name}`? The {kind} are {list}"),
        (None, []) => format!("there are no {kind} here"),
        (None, _) => format!("the {kind} here are {list}"),
    }
}

fn explain(source: &str, error: &Error) -> Problem {
    let error = error.without_snippet();
    let place = error.location().map(Place::from).unwrap_or_default();
    let hidden = may_be_secret(source, place);
    match error {
        Error::AliasError { error, .. } => Problem {
            place,
            ..explain(source, error)
        },
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let field_place = Place {
                length: field.chars().count(),
                ..place
            };
            Problem::error(
                field_place,
                format!("`{field}` is not a key that belongs here"),
            )
            .help(suggestion(field, expected, "keys"))
            .hide_behind()
        }
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } if !hidden => Problem::error(place, format!("`{variant}` is not a value of this key"))
            .help(suggestion(variant, expected, "values")),
        Error::SerdeMissingField { field, .. } => {
            Problem::error(place, format!("`{field}` is missing here"))
                .help(format!("add `{field}:`"))
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } if !hidden => Problem::error(place, format!("found {unexpected}, expected {expected}")),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            Problem::error(place, format!("expected {expected}"))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } if !hidden => {
            Problem::error(place, format!("`{key}` is given twice")).help("keep one of them")
        }
        Error::NullIntoString { .. } => Problem::error(place, "the value is missing")
            .help("write the value behind the colon, in quotes if it is empty or `null`"),
        Error::Eof { .. } => {
            Problem::error(Place::default(), "the file is empty").help("begin it with `databases:`")
        }
        Error::Unexpected { expected, .. } => {
            let expected = match *expected {
                "mapping start" => "keys and their values",
                "sequence start" => "a list, such as [a, b]",
                "string scalar" => "a single value",
                other => other,
            };
            Problem::error(place, format!("expected {expected}"))
        }
        Error::MultipleDocuments { .. } => {
            Problem::error(place, "a second YAML document begins here")
                .help("one file holds one configuration: take out the `---`")
        }
        // what a dependency says may quote the value itself
        _ if hidden => Problem::error(place, "this is not valid here"),
        other => Problem::error(place, without_position(&other.to_string())),
    }
}

/// The parser's message without the position it ends with: the snippet shows that.
fn without_position(message: &str) -> &str {
    message
        .rfind(" at line ")
        .map_or(message, |position| &message[..position])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let names = ["pool", "reads", "shards", "sharding"];
        assert_eq!(nearest("pol", names), Some("pool"));
        assert_eq!(nearest("Shard", names), Some("shards"));
        assert_eq!(nearest("certificate", names), None);
    }
}
