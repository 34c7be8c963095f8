//! The leading comment by which one statement names its shard: `/* pgherd: shard=s1 role=replica */`.
//!
//! Owns the comment's grammar: `name=value` pairs between blanks or commas, a value quoted with `'`
//! where it holds either. Never decides what a hint overrides. Main type: [`Hint`].

use crate::rejection::{Rejection, label};
use pgherd_protocol::SqlState;

/// What the leading comment of a query string asks for. It holds for that query string alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    /// The shard's name, unchecked.
    pub shard: Option<Box<str>>,
    /// The kind of server.
    pub role: Option<HintRole>,
    /// The text of a sharding key, as in `SET pgherd.sharding_key`.
    pub sharding_key: Option<Box<str>>,
}

/// The kind of server that a hint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HintRole {
    /// The shard's primary.
    Primary,
    /// One of its replicas.
    Replica,
}

impl Hint {
    /// Does it name a shard, by name or by key?
    #[must_use]
    pub fn names_shard(&self) -> bool {
        self.shard.is_some() || self.sharding_key.is_some()
    }

    /// Reads the blanks and comments before a statement's first token.
    ///
    /// # Errors
    /// 22023 where a comment announces itself with `pgherd:` and cannot be understood: a hint that
    /// was meant and is not followed would send the statement elsewhere.
    pub(crate) fn read(leading: &[u8]) -> Result<Option<Self>, Rejection> {
        let mut rest = leading;
        while let Some(open) = find(rest, b"/*") {
            // a line comment before it hides the opening
            if let Some(line) = find(&rest[..open], b"--") {
                let end = rest[line..]
                    .iter()
                    .position(|&byte| byte == b'\n' || byte == b'\r');
                match end {
                    Some(end) => rest = &rest[line + end..],
                    None => return Ok(None),
                }
                continue;
            }
            rest = &rest[open + 2..];
            let text = rest.trim_ascii_start();
            if let Some(body) = text.strip_prefix(b"pgherd:") {
                let end = find(body, b"*/").unwrap_or(body.len());
                return Self::parse(&body[..end]).map(Some);
            }
            match find(rest, b"*/") {
                Some(end) => rest = &rest[end + 2..],
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn parse(body: &[u8]) -> Result<Self, Rejection> {
        let body =
            std::str::from_utf8(body).map_err(|_| unreadable("the comment is not valid UTF-8"))?;
        let mut hint = Self::default();
        let mut rest = body.trim_matches(is_separator);
        while !rest.is_empty() {
            let (name, after) = rest
                .split_once('=')
                .ok_or_else(|| unreadable(&format!("\"{rest}\" is not name=value")))?;
            let (value, after) = take_value(after.trim_start())?;
            match name.trim().to_ascii_lowercase().as_str() {
                "shard" => hint.shard = Some(value.into()),
                "sharding_key" => hint.sharding_key = Some(value.into()),
                "role" => {
                    hint.role = Some(match value {
                        "primary" => HintRole::Primary,
                        "replica" => HintRole::Replica,
                        other => {
                            return Err(unreadable(&format!(
                                "role is \"{other}\" but must be primary or replica"
                            )));
                        }
                    });
                }
                other => return Err(unreadable(&format!("there is no hint \"{other}\""))),
            }
            rest = after.trim_start_matches(is_separator);
        }
        Ok(hint)
    }
}

fn take_value(text: &str) -> Result<(&str, &str), Rejection> {
    if let Some(quoted) = text.strip_prefix('\'') {
        return quoted
            .split_once('\'')
            .ok_or_else(|| unreadable("a quoted value does not end"));
    }
    let end = text.find(is_separator).unwrap_or(text.len());
    Ok(text.split_at(end))
}

fn is_separator(character: char) -> bool {
    character.is_ascii_whitespace() || character == ','
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn unreadable(why: &str) -> Rejection {
    Rejection::new(
        SqlState::INVALID_PARAMETER_VALUE,
        label::HINT,
        "cannot read the pgherd hint in the leading comment",
    )
    .detail(why)
    .hint("Write it as /* pgherd: shard=s1 role=replica sharding_key=42 */.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_leading_comment_names_shard_role_and_key() {
        let hint = Hint::read(b" /* pgherd: shard=s1 role=replica, sharding_key='a b' */ ")
            .unwrap()
            .unwrap();
        assert_eq!(hint.shard.as_deref(), Some("s1"));
        assert_eq!(hint.role, Some(HintRole::Replica));
        assert_eq!(hint.sharding_key.as_deref(), Some("a b"));
        assert!(hint.names_shard());
    }

    #[test]
    fn other_comments_are_no_hint() {
        for text in [
            "",
            "/* a */",
            "-- /* pgherd: shard=s1 */\n",
            "/* a pgherd: shard=s1 */",
        ] {
            assert_eq!(Hint::read(text.as_bytes()).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn a_hint_after_another_comment_counts() {
        let hint = Hint::read(b"/* a */ -- b\n /* pgherd: role=primary */").unwrap();
        assert_eq!(hint.unwrap().role, Some(HintRole::Primary));
    }

    #[test]
    fn a_hint_that_cannot_be_read_is_refused() {
        for text in [
            "/* pgherd: shard */",
            "/* pgherd: roll=primary */",
            "/*pgherd: role=x*/",
        ] {
            let rejection = Hint::read(text.as_bytes()).unwrap_err();
            assert_eq!(rejection.code, SqlState::INVALID_PARAMETER_VALUE, "{text}");
        }
    }
}
