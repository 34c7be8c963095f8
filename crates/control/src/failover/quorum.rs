//! `synchronous_standby_names`: who must acknowledge a commit, and what that proves.
//!
//! Owns reading the setting (Postgres documentation, chapter 20.6.2, and the grammar of its scanner) and the arithmetic of quorums. Never
//! asks a server. Main type: [`SyncSet`].

use std::fmt;

/// The setting, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SyncSet {
    /// Nobody acknowledges: commits are acknowledged before any standby has them.
    Nobody,
    /// Any standby that calls itself so, also one that nobody configured.
    Anyone,
    /// So many of these.
    Named {
        /// How many must acknowledge, at least 1.
        acks: usize,
        /// Their names, each once.
        names: Vec<Box<str>>,
    },
}

/// A value that is no `synchronous_standby_names` of Postgres'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl SyncSet {
    /// Reads the setting's value.
    pub(crate) fn parse(value: &str) -> Result<Self, Unreadable> {
        let tokens = tokens(value)?;
        let (acks, listed) = match tokens.as_slice() {
            [] => return Ok(Self::Nobody),
            [
                Token::Word(method),
                Token::Word(acks),
                Token::Open,
                rest @ ..,
                Token::Close,
            ] if ["any", "first"]
                .iter()
                .any(|known| method.eq_ignore_ascii_case(known)) =>
            {
                (acks.parse().map_err(|_| Unreadable)?, rest)
            }
            [Token::Word(acks), Token::Open, rest @ .., Token::Close] => {
                (acks.parse().map_err(|_| Unreadable)?, rest)
            }
            all => (1, all),
        };
        let mut names: Vec<Box<str>> = Vec::new();
        for (position, token) in listed.iter().enumerate() {
            match token {
                Token::Word(name) | Token::Quoted(name) if position % 2 == 0 => {
                    if matches!(token, Token::Word(word) if &**word == "*") {
                        return Ok(Self::Anyone);
                    }
                    // Postgres compares them so
                    if !names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                        names.push(name.clone());
                    }
                }
                Token::Comma if position % 2 == 1 => {}
                _ => return Err(Unreadable),
            }
        }
        if acks == 0 || listed.len().is_multiple_of(2) {
            return Err(Unreadable);
        }
        Ok(Self::Named { acks, names })
    }
}

/// How many more of the set must be reached until those that are have among them each commit that was acknowledged. One is acknowledged once
/// `acks` of the set have it, whichever, so that any `size - acks + 1` of them include one that has it. With FIRST it is the same: those
/// that acknowledge are of the set.
pub(crate) fn missing<'a>(
    acks: usize,
    names: &[Box<str>],
    reached: impl Iterator<Item = &'a str>,
) -> usize {
    let mut counted = vec![false; names.len()];
    for name in reached {
        if let Some(index) = names
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))
        {
            counted[index] = true;
        }
    }
    let reached = counted.into_iter().filter(|counted| *counted).count();
    // with more acknowledgements asked for than there are standbys, no commit is acknowledged at all
    let needed = (names.len() + 1).saturating_sub(acks).max(1);
    needed.saturating_sub(reached)
}

impl fmt::Display for SyncSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => formatter.write_str("nobody"),
            Self::Anyone => formatter.write_str("any standby"),
            Self::Named { acks, names } => write!(formatter, "{acks} of {}", names.join(", ")),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(Box<str>),
    Quoted(Box<str>),
    Open,
    Close,
    Comma,
}

fn tokens(value: &str) -> Result<Vec<Token>, Unreadable> {
    let mut tokens = Vec::new();
    let mut rest = value.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '*' => (Token::Word("*".into()), 1),
            '"' => quoted(rest)?,
            _ => {
                let length = rest
                    .find(|character: char| {
                        !(character.is_ascii_alphanumeric()
                            || matches!(character, '_' | '$')
                            || !character.is_ascii())
                    })
                    .unwrap_or(rest.len());
                if length == 0 {
                    return Err(Unreadable);
                }
                (Token::Word(rest[..length].into()), length)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A name in double quotes, in which two stand for one; and its length with them.
fn quoted(text: &str) -> Result<(Token, usize), Unreadable> {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((index, character)) = characters.next() {
        if character != '"' {
            name.push(character);
        } else if characters.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Ok((Token::Quoted(name.into()), index + 1));
        }
    }
    Err(Unreadable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(acks: usize, names: &[&str]) -> Result<SyncSet, Unreadable> {
        let names = names.iter().map(|name| (*name).into()).collect();
        Ok(SyncSet::Named { acks, names })
    }

    #[test]
    fn every_form_of_the_setting_is_read() {
        for (text, expected) in [
            ("", Ok(SyncSet::Nobody)),
            ("  ", Ok(SyncSet::Nobody)),
            ("*", Ok(SyncSet::Anyone)),
            ("ANY 1 (*)", Ok(SyncSet::Anyone)),
            ("a", named(1, &["a"])),
            ("a, b", named(1, &["a", "b"])),
            ("2 (a,b , c)", named(2, &["a", "b", "c"])),
            ("first 1 (a)", named(1, &["a"])),
            (
                "ANY 2(\"s0-b_e6\", \"x\"\"y\")",
                named(2, &["s0-b_e6", "x\"y"]),
            ),
            ("\"*\"", named(1, &["*"])),
            ("any, first", named(1, &["any", "first"])),
            ("ANY 1 (A, a)", named(1, &["A"])),
        ] {
            assert_eq!(SyncSet::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_postgres_would_refuse_is_unreadable() {
        for text in [
            "a b",
            "ANY (a)",
            "ANY 1 (a",
            "a,",
            ",a",
            "ANY 0 (a)",
            "s0-b",
            "\"a",
            "1 ()",
        ] {
            assert_eq!(SyncSet::parse(text), Err(Unreadable), "{text}");
        }
    }

    fn missing_of(text: &str, reached: &[&str]) -> usize {
        match SyncSet::parse(text) {
            Ok(SyncSet::Named { acks, names }) => missing(acks, &names, reached.iter().copied()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_but_those_that_need_not_acknowledge_must_be_reached() {
        for (text, reached, expected) in [
            ("ANY 1 (b, c)", &["b"][..], 1),
            ("ANY 1 (b, c)", &["b", "c"], 0),
            ("ANY 2 (b, c)", &["C"], 0),
            ("ANY 2 (b, c)", &[], 1),
            ("ANY 1 (b)", &["c"], 1),
            ("FIRST 1 (b, c, d)", &["c", "d"], 1),
            // the same name twice is one standby's vote
            ("ANY 1 (b, c)", &["b", "b"], 1),
            ("ANY 3 (b, c)", &["b"], 0),
        ] {
            assert_eq!(missing_of(text, reached), expected, "{text} {reached:?}");
        }
    }

    /// Over all sets of up to five standbys: whichever acknowledge, and whichever enough are reached, they have one in common.
    #[test]
    fn enough_always_share_one_with_those_that_acknowledged() {
        for size in 1..=5_usize {
            let names: Vec<String> = (0..size).map(|number| format!("n{number}")).collect();
            for acks in 1..=size {
                let listed: Vec<Box<str>> = names.iter().map(|name| name.as_str().into()).collect();
                let of = |bits: usize| (0..size).filter(move |index| bits >> index & 1 == 1);
                for reached in 0..1 << size {
                    let reached_names = of(reached).map(|index| names[index].as_str());
                    let missing = missing(acks, &listed, reached_names);
                    let meets_all = (0..1_usize << size)
                        .filter(|by| of(*by).count() == acks)
                        .all(|by| by & reached != 0);
                    assert_eq!(missing == 0, meets_all, "{acks} of {size}, {reached:b}");
                }
            }
        }
    }
}
