//! Names of relations, folded and quoted as Postgres does.
//!
//! Owns reading and writing of qualified names; never looks one up. Main type: [`RelationName`].

use std::fmt;
use std::str::FromStr;

/// Postgres cuts identifiers after this many bytes (`NAMEDATALEN` less one); here longer ones are
/// refused, since a cut name is rarely the one that was meant.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// A relation's schema and name, each as the system catalogs spell it.
///
/// Read from text (`FromStr`) it is folded as Postgres folds identifiers: unquoted ones to lower
/// case, quoted ones as they are; without a schema it is in `public`. Written (`Display`) it is
/// quoted where that is needed, so that it may stand in SQL
/// ([documentation, 4.1.1](https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationName {
    /// The schema, as `pg_namespace.nspname` has it.
    pub schema: Box<str>,
    /// The name, as `pg_class.relname` has it.
    pub name: Box<str>,
}

impl RelationName {
    /// A name from its parts as the catalogs spell them: nothing is folded.
    pub fn new(schema: impl Into<Box<str>>, name: impl Into<Box<str>>) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for RelationName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_identifier(formatter, &self.schema)?;
        formatter.write_str(".")?;
        write_identifier(formatter, &self.name)
    }
}

/// The text is not a name of a relation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A part of the name is missing, as in `a.` or the empty text.
    #[error("an identifier is missing")]
    Missing,
    /// More than a schema and a name.
    #[error("a name has at most two parts, schema and table")]
    TooManyParts,
    /// A `"` without its partner.
    #[error("a quoted identifier is not closed")]
    Unclosed,
    /// A character that must be quoted.
    #[error("the character {0:?} must stand within double quotes")]
    Character(char),
    /// Longer than Postgres keeps.
    #[error("an identifier has at most {MAX_IDENTIFIER_BYTES} bytes")]
    TooLong,
}

impl FromStr for RelationName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (first, rest) = read_identifier(text)?;
        let Some(rest) = rest.strip_prefix('.') else {
            return match rest.chars().next() {
                None => Ok(Self::new("public", first)),
                Some(character) => Err(NameError::Character(character)),
            };
        };
        let (second, rest) = read_identifier(rest)?;
        match rest.chars().next() {
            None => Ok(Self::new(first, second)),
            Some('.') => Err(NameError::TooManyParts),
            Some(character) => Err(NameError::Character(character)),
        }
    }
}

/// Takes one identifier off the front, folded; hands back what follows it.
fn read_identifier(text: &str) -> Result<(Box<str>, &str), NameError> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => read_quoted(quoted)?,
        None => {
            let end = text
                .char_indices()
                .find(|&(index, character)| !is_identifier_character(character, index == 0))
                .map_or(text.len(), |(index, _)| index);
            let (name, rest) = text.split_at(end);
            match rest.chars().next() {
                Some(character) if name.is_empty() && character != '.' => {
                    return Err(NameError::Character(character));
                }
                _ => (name.to_ascii_lowercase(), rest),
            }
        }
    };
    if name.is_empty() {
        return Err(NameError::Missing);
    }
    if name.len() > MAX_IDENTIFIER_BYTES {
        return Err(NameError::TooLong);
    }
    Ok((name.into(), rest))
}

/// The rest of a quoted identifier after its first `"`, in which `""` stands for one `"`.
fn read_quoted(text: &str) -> Result<(String, &str), NameError> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or(NameError::Unclosed)?;
        if let Some(nul) = part.chars().find(|&character| character == '\0') {
            return Err(NameError::Character(nul));
        }
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Ok((name, after)),
        }
    }
}

fn is_identifier_character(character: char, first: bool) -> bool {
    match character {
        'a'..='z' | 'A'..='Z' | '_' => true,
        '0'..='9' | '$' => !first,
        other => !other.is_ascii(),
    }
}

/// The identifier as it may stand in SQL: as it is where Postgres would read it back unchanged,
/// else within double quotes.
pub fn quote_identifier(name: &str) -> String {
    Quoted(name).to_string()
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_identifier(formatter, self.0)
    }
}

fn write_identifier(formatter: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let plain = name.bytes().enumerate().all(|(index, byte)| match byte {
        b'a'..=b'z' | b'_' => true,
        b'0'..=b'9' => index > 0,
        _ => false,
    });
    if plain && !name.is_empty() && KEYWORDS.binary_search(&name).is_err() {
        return formatter.write_str(name);
    }
    write!(formatter, "\"{}\"", name.replace('"', "\"\""))
}

/// Keywords that cannot stand everywhere as a name, over Postgres 14 to 18, sorted
/// ([documentation, appendix C](https://www.postgresql.org/docs/current/sql-keywords-appendix.html)).
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization",
    "between", "bigint", "binary", "bit", "boolean", "both", "case", "cast", "char", "character",
    "check", "coalesce", "collate", "collation", "column", "concurrently", "constraint", "create",
    "cross", "current_catalog", "current_date", "current_role", "current_schema", "current_time",
    "current_timestamp", "current_user", "dec", "decimal", "default", "deferrable", "desc",
    "distinct", "do", "else", "end", "except", "exists", "extract", "false", "fetch", "float",
    "for", "foreign", "freeze", "from", "full", "grant", "greatest", "group", "grouping", "having",
    "ilike", "in", "initially", "inner", "inout", "int", "integer", "intersect", "interval", "into",
    "is", "isnull", "join", "json", "json_array", "json_arrayagg", "json_exists", "json_object",
    "json_objectagg", "json_query", "json_scalar", "json_serialize", "json_table", "json_value",
    "lateral", "leading", "least", "left", "like", "limit", "localtime", "localtimestamp",
    "merge_action", "national", "natural", "nchar", "none", "normalize", "not", "notnull", "null",
    "nullif", "numeric", "offset", "on", "only", "or", "order", "out", "outer", "overlaps",
    "overlay", "placing", "position", "precision", "primary", "real", "references", "returning",
    "right", "row", "select", "session_user", "setof", "similar", "smallint", "some", "substring",
    "symmetric", "system_user", "table", "tablesample", "then", "time", "timestamp", "to",
    "trailing", "treat", "trim", "true", "union", "unique", "user", "using", "values", "varchar",
    "variadic", "verbose", "when", "where", "window", "with", "xmlattributes", "xmlconcat",
    "xmlelement", "xmlexists", "xmlforest", "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot",
    "xmlserialize", "xmltable",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<RelationName, NameError> {
        text.parse()
    }

    #[test]
    fn unquoted_names_fold_and_quoted_ones_do_not() {
        assert_eq!(read("Users").unwrap(), RelationName::new("public", "users"));
        assert_eq!(
            read("Shop.Orders").unwrap(),
            RelationName::new("shop", "orders")
        );
        assert_eq!(
            read("\"Shop\".\"a.b\"\"c\"").unwrap(),
            RelationName::new("Shop", "a.b\"c")
        );
        assert_eq!(read("größe").unwrap(), RelationName::new("public", "größe"));
        assert_eq!(read("t$1").unwrap(), RelationName::new("public", "t$1"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(read(""), Err(NameError::Missing));
        assert_eq!(read("a."), Err(NameError::Missing));
        assert_eq!(read(".a"), Err(NameError::Missing));
        assert_eq!(read("\"\""), Err(NameError::Missing));
        assert_eq!(read("a.b.c"), Err(NameError::TooManyParts));
        assert_eq!(read("\"a"), Err(NameError::Unclosed));
        assert_eq!(read("a b"), Err(NameError::Character(' ')));
        assert_eq!(read("a.1b"), Err(NameError::Character('1')));
        assert_eq!(read("\"a\"b"), Err(NameError::Character('b')));
        assert_eq!(read(&"x".repeat(64)), Err(NameError::TooLong));
        assert!(read(&"x".repeat(63)).is_ok());
    }

    #[test]
    fn a_written_name_is_quoted_where_needed_and_reads_back_the_same() {
        for (schema, name, written) in [
            ("public", "users", "public.users"),
            ("public", "Users", "public.\"Users\""),
            ("a b", "x\"y", "\"a b\".\"x\"\"y\""),
            ("public", "order", "public.\"order\""),
            ("public", "1a", "public.\"1a\""),
            ("public", "größe", "public.\"größe\""),
        ] {
            let name = RelationName::new(schema, name);
            assert_eq!(name.to_string(), written);
            assert_eq!(read(written).unwrap(), name);
        }
        assert_eq!(quote_identifier(""), "\"\"");
    }

    #[test]
    fn the_keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
    }
}
