//! One row of a system catalog as plain data.
//!
//! Owns the conversion from text. Never knows where a row came from. Main type: [`Row`].

use std::str::FromStr;

use super::ReadingError;
use crate::catalog::ServerSettings;
use crate::names::RelationName;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RelationRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    pub(super) persistence: u8,
    pub(super) has_triggers: bool,
    pub(super) has_rules: bool,
    pub(super) has_row_security: bool,
    pub(super) parent: Option<u32>,
    /// The table of an index, or of the column that a sequence belongs to.
    pub(super) owner: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ColumnRow {
    /// `attnum`, by which keys name it.
    pub(super) number: i32,
    pub(super) name: Box<str>,
    pub(super) type_oid: u32,
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    pub(super) identity: u8,
    pub(super) generated: u8,
    pub(super) collation: u32,
    pub(super) default: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CollationKind {
    Nondeterministic,
    Bytewise,
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct UniqueKeyRow {
    pub(super) relation: u32,
    pub(super) is_primary: bool,
    pub(super) columns: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ForeignKeyRow {
    pub(super) relation: u32,
    pub(super) target: u32,
    pub(super) on_delete: u8,
    pub(super) on_update: u8,
    pub(super) columns: Vec<i32>,
    pub(super) target_columns: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ViewRow {
    pub(super) relation: u32,
    pub(super) definition: Box<str>,
    pub(super) reads: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct PolicyRow {
    pub(super) relation: u32,
    /// Whether it is asked of what is there, not of what is written.
    pub(super) reads: bool,
    pub(super) expression: Box<str>,
}

/// A CHECK constraint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckRow {
    /// 0 for that of a domain.
    pub(super) relation: u32,
    /// 0 for that of a table.
    pub(super) domain: u32,
    pub(super) expression: Box<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FunctionRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    pub(super) volatility: u8,
    pub(super) returns_set: bool,
    pub(super) arguments: Vec<u32>,
    pub(super) result: u32,
    /// Written in C, by Postgres or an extension.
    pub(super) is_compiled: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct OperatorRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
    pub(super) volatility: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct TypeRow {
    pub(super) oid: u32,
    pub(super) name: RelationName,
    pub(super) kind: u8,
    /// 0 unless it is a true array.
    pub(super) element: u32,
    pub(super) base: u32,
    pub(super) modifier: i32,
    pub(super) relation: u32,
    pub(super) subtype: u32,
    pub(super) range: u32,
    /// That of a domain.
    pub(super) default: Option<Box<str>>,
}

/// A row's columns as text, `None` for NULL. The first one names the query.
pub(super) struct Row<'a>(pub(super) &'a [Option<&'a str>]);

impl<'a> Row<'a> {
    pub(super) fn part(&self) -> &'a str {
        self.optional(0).unwrap_or_default()
    }

    fn optional(&self, column: usize) -> Option<&'a str> {
        self.0.get(column).copied().flatten()
    }

    pub(super) fn text(&self, column: usize) -> Result<&'a str, ReadingError> {
        self.optional(column).ok_or_else(|| self.unexpected(column))
    }

    /// A schema and the name after it.
    pub(super) fn name(&self, schema: usize) -> Result<RelationName, ReadingError> {
        Ok(RelationName::new(
            self.text(schema)?,
            self.text(schema + 1)?,
        ))
    }

    pub(super) fn number<T: FromStr>(&self, column: usize) -> Result<T, ReadingError> {
        self.text(column)?
            .parse()
            .map_err(|_| self.unexpected(column))
    }

    fn optional_number<T: FromStr>(&self, column: usize) -> Result<Option<T>, ReadingError> {
        match self.optional(column) {
            None => Ok(None),
            Some(_) => self.number(column).map(Some),
        }
    }

    fn numbers<T: FromStr>(&self, column: usize) -> Result<Vec<T>, ReadingError> {
        self.text(column)?
            .split_ascii_whitespace()
            .map(|number| number.parse().map_err(|_| self.unexpected(column)))
            .collect()
    }

    fn flag(&self, column: usize) -> Result<bool, ReadingError> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            _ => Err(self.unexpected(column)),
        }
    }

    /// A `"char"` that was cast to text: empty stands for zero.
    fn letter(&self, column: usize) -> Result<u8, ReadingError> {
        Ok(self.text(column)?.bytes().next().unwrap_or(0))
    }

    pub(super) fn unexpected(&self, column: usize) -> ReadingError {
        ReadingError {
            part: self.part().to_owned(),
            column,
            found: self.optional(column).map(str::to_owned),
        }
    }
}

pub(super) fn relation(row: &Row<'_>) -> Result<RelationRow, ReadingError> {
    Ok(RelationRow {
        oid: row.number(1)?,
        name: row.name(2)?,
        kind: row.letter(4)?,
        persistence: row.letter(5)?,
        has_triggers: row.flag(6)?,
        has_rules: row.flag(7)?,
        has_row_security: row.flag(8)?,
        parent: row.optional_number(9)?,
        owner: row.optional_number(10)?,
    })
}

/// The relation's OID comes first.
pub(super) fn column(row: &Row<'_>) -> Result<ColumnRow, ReadingError> {
    Ok(ColumnRow {
        number: row.number(2)?,
        name: row.text(3)?.into(),
        type_oid: row.number(4)?,
        modifier: row.number(5)?,
        not_null: row.flag(6)?,
        identity: row.letter(7)?,
        generated: row.letter(8)?,
        collation: row.number(9)?,
        default: row.optional(10).map(Into::into),
    })
}

pub(super) fn collation(row: &Row<'_>) -> Result<(u32, CollationKind), ReadingError> {
    let kind = match row.letter(2)? {
        b'n' => CollationKind::Nondeterministic,
        b'b' => CollationKind::Bytewise,
        _ => CollationKind::Other,
    };
    Ok((row.number(1)?, kind))
}

pub(super) fn unique_key(row: &Row<'_>) -> Result<UniqueKeyRow, ReadingError> {
    Ok(UniqueKeyRow {
        relation: row.number(1)?,
        is_primary: row.flag(2)?,
        columns: row.numbers(3)?,
    })
}

pub(super) fn foreign_key(row: &Row<'_>) -> Result<ForeignKeyRow, ReadingError> {
    Ok(ForeignKeyRow {
        relation: row.number(1)?,
        target: row.number(2)?,
        on_delete: row.letter(3)?,
        on_update: row.letter(4)?,
        columns: row.numbers(5)?,
        target_columns: row.numbers(6)?,
    })
}

pub(super) fn view(row: &Row<'_>) -> Result<ViewRow, ReadingError> {
    Ok(ViewRow {
        relation: row.number(1)?,
        definition: row.text(2)?.into(),
        reads: row.numbers(3)?,
    })
}

pub(super) fn policy(row: &Row<'_>) -> Result<PolicyRow, ReadingError> {
    Ok(PolicyRow {
        relation: row.number(1)?,
        reads: row.flag(2)?,
        expression: row.text(3)?.into(),
    })
}

pub(super) fn check(row: &Row<'_>) -> Result<CheckRow, ReadingError> {
    Ok(CheckRow {
        relation: row.number(1)?,
        domain: row.number(2)?,
        expression: row.text(3)?.into(),
    })
}

pub(super) fn function(row: &Row<'_>) -> Result<FunctionRow, ReadingError> {
    Ok(FunctionRow {
        oid: row.number(1)?,
        name: row.name(2)?,
        kind: row.letter(4)?,
        volatility: row.letter(5)?,
        returns_set: row.flag(6)?,
        arguments: row.numbers(7)?,
        result: row.number(8)?,
        is_compiled: row.flag(9)?,
    })
}

pub(super) fn operator(row: &Row<'_>) -> Result<OperatorRow, ReadingError> {
    Ok(OperatorRow {
        oid: row.number(1)?,
        name: row.name(2)?,
        left: row.number(4)?,
        right: row.number(5)?,
        result: row.number(6)?,
        volatility: row.letter(7)?,
    })
}

pub(super) fn type_row(row: &Row<'_>) -> Result<TypeRow, ReadingError> {
    Ok(TypeRow {
        oid: row.number(1)?,
        name: row.name(2)?,
        kind: row.letter(4)?,
        element: row.number(5)?,
        base: row.number(6)?,
        modifier: row.number(7)?,
        relation: row.number(8)?,
        subtype: row.number(9)?,
        range: row.number(10)?,
        default: row.optional(11).map(Into::into),
    })
}

pub(super) fn setting(row: &Row<'_>, settings: &mut ServerSettings) -> Result<(), ReadingError> {
    settings.version_num = row.number(1)?;
    settings.encoding = row.text(2)?.into();
    let value = row.optional(4).unwrap_or_default();
    match (row.text(3)?, row.optional(5)) {
        ("search_path", None) => settings.search_path = identifiers(value),
        ("search_path", Some(role)) => {
            let of_role = settings.roles.entry(role.into()).or_default();
            of_role.search_path = Some(identifiers(value));
        }
        ("standard_conforming_strings", None) => {
            settings.standard_conforming_strings = value != "off";
        }
        ("standard_conforming_strings", Some(role)) => {
            let of_role = settings.roles.entry(role.into()).or_default();
            of_role.standard_conforming_strings = Some(value != "off");
        }
        _ => {}
    }
    Ok(())
}

/// Splits a list of identifiers as `search_path` holds one.
fn identifiers(list: &str) -> Vec<Box<str>> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut characters = list.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                current.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => found.push(std::mem::take(&mut current)),
            (blank, false) if blank.is_whitespace() => {}
            (letter, false) => current.push(letter.to_ascii_lowercase()),
            (letter, true) => current.push(letter),
        }
    }
    found.push(current);
    found
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::identifiers;

    #[test]
    fn a_search_path_is_split_and_folded() {
        let split = |list: &str| {
            identifiers(list)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(split("\"$user\", public"), ["$user", "public"]);
        assert_eq!(
            split("Shop,\"My \"\"Own\"\", schema\""),
            ["shop", "My \"Own\", schema"]
        );
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("\"\""), [""; 0]);
    }
}
