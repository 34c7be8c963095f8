//! Constants: the ones that keys are, and their many spellings.

use super::generator::Generator;
use super::node::{Node, Value};
use super::schema::{LARGE_IDS, Type, WORDS, quoted, uuid};

impl Generator {
    /// The text of the key at a position, for each type.
    pub(super) fn key_text(&mut self, data_type: Type, position: usize) -> String {
        match data_type {
            Type::Int8 if position >= 14 => LARGE_IDS[position % LARGE_IDS.len()].to_string(),
            Type::Text | Type::Varchar => WORDS[position % WORDS.len()].to_owned(),
            Type::Uuid => uuid(position),
            _ => position.to_string(),
        }
    }

    /// The position of a key: mostly the statement's own.
    pub(super) fn position(&mut self) -> usize {
        match self.random.below(12) {
            0 => self.random.below(20),
            1 => 14 + self.random.below(LARGE_IDS.len()),
            _ => self.focus,
        }
    }

    /// A text of the type.
    pub(super) fn any_text(&mut self, data_type: Type) -> String {
        match data_type {
            Type::Int8 | Type::Int4 => self.random.below(45).to_string(),
            Type::Text | Type::Varchar => match self.random.below(4) {
                0 => self
                    .random
                    .word(&["de", "fr", "us", "jp", "gift", "late"])
                    .to_owned(),
                1 => format!("v{}", self.random.below(12)),
                _ => (*self.random.choose(WORDS)).to_owned(),
            },
            Type::Uuid => uuid(self.random.below(14)),
            Type::Numeric => format!("{}.{}", self.random.below(40), self.random.below(3) * 25),
            Type::Boolean => self.random.word(&["true", "false"]).to_owned(),
            Type::Date => format!(
                "200{}-0{}-0{}",
                self.random.below(10),
                1 + self.random.below(9),
                1 + self.random.below(9)
            ),
            Type::Timestamp => format!("2024-02-0{} 10:00:00", 1 + self.random.below(5)),
        }
    }

    /// A constant of the type.
    pub(super) fn constant(&mut self, data_type: Type) -> Node {
        let text = self.any_text(data_type);
        self.literal(data_type, &text)
    }

    /// A text as a constant of its type, in any of its spellings, or as a parameter.
    pub(super) fn literal(&mut self, data_type: Type, text: &str) -> Node {
        let other_text = match data_type {
            _ if self.random.percent(30) => text.to_owned(),
            Type::Int8 | Type::Int4 | Type::Text | Type::Varchar | Type::Uuid => {
                let position = self.random.below(14);
                self.key_text(data_type, position)
            }
            _ => self.any_text(data_type),
        };
        let literal = self.spelling(data_type, text);
        Node::Value(Value {
            literal,
            text: text.to_owned(),
            other_text,
            data_type,
            is_parameter: self.random.percent(60),
            is_declared: self.random.percent(40),
            cast: if self.random.percent(12) {
                cast(data_type)
            } else {
                ""
            },
        })
    }

    fn spelling(&mut self, data_type: Type, text: &str) -> String {
        let plain = plain(data_type, text);
        let string = quoted(text);
        let name = data_type.name();
        match self.random.below(20) {
            0 => format!("{plain}::{name}"),
            1 => format!("CAST({plain} AS {name})"),
            2 => format!("{name} {string}"),
            3 if data_type.is_integer() => string,
            4 => format!("E{}", string.replace('\\', "\\\\")),
            5 => format!("U&{}", string.replace('\\', "\\\\")),
            6 => format!("$${text}$$"),
            7 => format!("$q$%s{text}$q$").replace("%s", ""),
            8 => format!("({plain})"),
            9 => format!("{string}::{name}"),
            10 if data_type.is_text() => unicode_escaped(text),
            11 if data_type.is_text() && text.len() > 1 && text.is_ascii() => {
                let (one, other) = text.split_at(1);
                format!("{}\n  {}", quoted(one), quoted(other))
            }
            _ => plain,
        }
    }
}

/// The usual spelling.
fn plain(data_type: Type, text: &str) -> String {
    match data_type {
        Type::Int8 | Type::Int4 | Type::Numeric | Type::Boolean => text.to_owned(),
        _ => quoted(text),
    }
}

fn cast(data_type: Type) -> &'static str {
    match data_type {
        Type::Int8 => "::bigint",
        Type::Int4 => "::int",
        Type::Text => "::text",
        Type::Varchar => "::varchar",
        Type::Uuid => "::uuid",
        Type::Numeric => "::numeric",
        Type::Boolean => "::boolean",
        Type::Date => "::date",
        Type::Timestamp => "::timestamp",
    }
}

/// `U&'...'` with its first character escaped.
fn unicode_escaped(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|character| format!("\\{:04x}", u32::from(character)));
    let rest = quoted(characters.as_str()).replace('\\', "\\\\");
    format!("U&'{}{}", first.unwrap_or_default(), &rest[1..])
}
