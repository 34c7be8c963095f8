//! Arrays of one dimension, as a client sends them for `= ANY`.
//!
//! Owns the reading of Postgres' text and binary forms of an array (Postgres documentation, 8.15.6).
//! What is rare (bounds, several dimensions) is not read. Never decides what an element means.

use std::borrow::Cow;

/// An element; `None` is NULL.
pub(crate) type Element<'a> = Option<Cow<'a, [u8]>>;

/// The elements of an array's text form; `None` where it is not read.
pub(crate) fn text_elements(text: &[u8]) -> Option<Vec<Element<'_>>> {
    let text = trimmed(text);
    let inside = text.strip_prefix(b"{")?.strip_suffix(b"}")?;
    if trimmed(inside).is_empty() {
        return Some(Vec::new());
    }
    let mut elements = Vec::new();
    let mut rest = inside;
    loop {
        let (element, after) = text_element(trimmed_start(rest))?;
        elements.push(element);
        match trimmed_start(after) {
            [] => return Some(elements),
            [b',', next @ ..] => rest = next,
            _ => return None,
        }
    }
}

/// One element, and what follows it.
fn text_element(text: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text
            .iter()
            .position(|&byte| byte == b',')
            .unwrap_or(text.len());
        let (word, after) = text.split_at(end);
        let word = trimmed(word);
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'{' | b'}');
        if word.is_empty() || word.iter().any(special) {
            return None;
        }
        let element = (!word.eq_ignore_ascii_case(b"null")).then_some(Cow::Borrowed(word));
        return Some((element, after));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Some(Cow::Owned(value)), &quoted[index + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(byte),
        }
    }
    None
}

/// The type of the elements of an array's binary form, and the elements; `None` where it is not read.
pub(crate) fn binary_elements(bytes: &[u8]) -> Option<(u32, Vec<Element<'_>>)> {
    let mut reader = Reader(bytes);
    let dimensions = reader.number()?;
    let _has_nulls = reader.number()?;
    let element_type = reader.number()?.cast_unsigned();
    let count = match dimensions {
        0 => 0,
        1 => {
            let count = usize::try_from(reader.number()?).ok()?;
            let _lower_bound = reader.number()?;
            count
        }
        _ => return None,
    };
    // each element has its length at least
    if count > reader.0.len() / 4 {
        return None;
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        elements.push(match reader.number()? {
            -1 => None,
            length => Some(Cow::Borrowed(reader.take(usize::try_from(length).ok()?)?)),
        });
    }
    reader.0.is_empty().then_some((element_type, elements))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<i32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*bytes))
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn trimmed_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(byte));
    &text[start.unwrap_or(text.len())..]
}

fn trimmed(text: &[u8]) -> &[u8] {
    let text = trimmed_start(text);
    let end = text.iter().rposition(|byte| !is_space(byte));
    &text[..end.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Option<Vec<Option<String>>> {
        let elements = text_elements(text.as_bytes())?;
        let text = |element: Element<'_>| {
            element.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        Some(elements.into_iter().map(text).collect())
    }

    fn some(elements: &[&str]) -> Option<Vec<Option<String>>> {
        Some(
            elements
                .iter()
                .map(|text| Some((*text).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn the_text_form_is_read_as_postgres_does() {
        assert_eq!(texts("{1,2,3}"), some(&["1", "2", "3"]));
        assert_eq!(texts(" { 1 , -2 } "), some(&["1", "-2"]));
        assert_eq!(texts("{}"), some(&[]));
        assert_eq!(
            texts(r#"{"a b","c\"d","",e f}"#),
            some(&["a b", "c\"d", "", "e f"])
        );
        assert_eq!(
            texts(r#"{null,"NULL",NULL}"#),
            Some(vec![None, Some("NULL".to_owned()), None])
        );
        for unread in [
            "",
            "1",
            "{1",
            "{1,}",
            "{,1}",
            "{{1},{2}}",
            "[1:1]={1}",
            r"{a\b}",
            "{\"a\"b}",
            "{\"a}",
        ] {
            assert_eq!(texts(unread), None, "{unread}");
        }
    }

    #[test]
    fn the_binary_form_names_its_type() {
        let mut bytes = Vec::new();
        for number in [1, 1, 20, 3, 1, 8] {
            bytes.extend_from_slice(&i32::to_be_bytes(number));
        }
        bytes.extend_from_slice(&7_i64.to_be_bytes());
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        bytes.extend_from_slice(&8_i32.to_be_bytes());
        bytes.extend_from_slice(&9_i64.to_be_bytes());
        let seven = 7_i64.to_be_bytes();
        let nine = 9_i64.to_be_bytes();
        let expected: Vec<Element<'_>> = vec![
            Some(Cow::Borrowed(&seven)),
            None,
            Some(Cow::Borrowed(&nine)),
        ];
        assert_eq!(binary_elements(&bytes), Some((20, expected)));
        for end in 0..bytes.len() {
            assert_eq!(binary_elements(&bytes[..end]), None);
        }
        let empty: Vec<u8> = [0, 0, 23]
            .iter()
            .flat_map(|n: &i32| n.to_be_bytes())
            .collect();
        assert_eq!(binary_elements(&empty), Some((23, Vec::new())));
    }
}
