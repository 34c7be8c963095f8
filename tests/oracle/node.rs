//! A statement as a tree of which parts can be left out.
//!
//! Owns the text with or without parameters, and every smaller form of a tree. Knows no SQL. Main type: [`Node`].

use super::schema::Type;

/// A part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Text as it is.
    Text(String),
    /// A constant that may be sent as a parameter.
    Value(Value),
    /// One after the other.
    All(Vec<Node>),
    /// A clause that can go.
    Droppable(Box<Node>),
    /// Items of which some can go.
    List(List),
    /// A part that something simpler could stand for.
    Simplifiable(Box<Node>, Box<Node>),
    /// A parameter by its number, within [`Node::Bound`].
    Parameter(usize),
    /// A text that names its parameters itself, and their values.
    Bound(Box<Node>, Vec<Value>),
}

/// Items with what stands between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Before the first, if there is one.
    pub before: &'static str,
    /// The items.
    pub items: Vec<Node>,
    /// Between two.
    pub separator: &'static str,
    /// How many must stay.
    pub least: usize,
}

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// As SQL.
    pub literal: String,
    /// As a parameter's text.
    pub text: String,
    /// Another text, for a second execution of the same statement.
    pub other_text: String,
    /// The type that it is of.
    pub data_type: Type,
    /// Sent as a parameter where the protocol can.
    pub is_parameter: bool,
    /// Its type is declared in Parse rather than left to the server.
    pub is_declared: bool,
    /// What follows `$1`, such as `::bigint`.
    pub cast: &'static str,
}

/// A statement's text and what its parameters are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The SQL.
    pub sql: String,
    /// `$1` and so on.
    pub parameters: Vec<Value>,
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Node {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

/// The parts one after the other.
#[macro_export]
macro_rules! sql {
    ($($part:expr),* $(,)?) => {
        $crate::oracle::Node::All(vec![$($crate::oracle::Node::from($part)),*])
    };
}

impl Node {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::All(Vec::new())
    }

    /// A clause that can go.
    #[must_use]
    pub fn droppable(self) -> Self {
        Self::Droppable(Box::new(self))
    }

    /// Something that a simpler part could stand for.
    #[must_use]
    pub fn or_simpler(self, simpler: impl Into<Self>) -> Self {
        Self::Simplifiable(Box::new(self), Box::new(simpler.into()))
    }

    /// Items with what stands between them, of which so many must stay.
    #[must_use]
    pub fn list(separator: &'static str, items: Vec<Self>, least: usize) -> Self {
        Self::List(List {
            before: "",
            items,
            separator,
            least,
        })
    }

    /// The same with a text before the first, left out with the last.
    #[must_use]
    pub fn clause(before: &'static str, separator: &'static str, items: Vec<Self>) -> Self {
        Self::List(List {
            before,
            items,
            separator,
            least: 0,
        })
    }

    /// The statement, its constants as literals or, where they are meant to be, as parameters.
    #[must_use]
    pub fn render(&self, with_parameters: bool) -> Rendered {
        let mut rendered = Rendered::default();
        self.write(with_parameters, &mut rendered);
        rendered
    }

    fn write(&self, with_parameters: bool, out: &mut Rendered) {
        match self {
            Self::Text(text) => out.sql.push_str(text),
            Self::Value(value) if with_parameters && value.is_parameter => {
                out.parameters.push(value.clone());
                let number = out.parameters.len();
                out.sql.push_str(&format!("${number}{}", value.cast));
            }
            Self::Value(value) => out.sql.push_str(&value.literal),
            Self::Parameter(number) => out.sql.push_str(&format!("${number}")),
            Self::Bound(inner, values) => {
                inner.write(with_parameters, out);
                out.parameters.extend(values.iter().cloned());
            }
            Self::All(parts) => parts
                .iter()
                .for_each(|part| part.write(with_parameters, out)),
            Self::Droppable(inner) | Self::Simplifiable(inner, _) => {
                inner.write(with_parameters, out);
            }
            Self::List(list) => {
                for (position, item) in list.items.iter().enumerate() {
                    let before = if position == 0 {
                        list.before
                    } else {
                        list.separator
                    };
                    out.sql.push_str(before);
                    item.write(with_parameters, out);
                }
            }
        }
    }

    /// Every tree that lacks one part of this one, large parts first.
    #[must_use]
    pub fn reductions(&self) -> Vec<Self> {
        let mut found = Vec::new();
        self.reduce(&mut |smaller| found.push(smaller));
        found.sort_by_key(Self::size);
        found
    }

    fn reduce(&self, found: &mut dyn FnMut(Self)) {
        match self {
            Self::Text(_) | Self::Parameter(_) | Self::Bound(..) => {}
            Self::Value(value) => {
                if value.is_parameter {
                    let mut literal = value.clone();
                    literal.is_parameter = false;
                    found(Self::Value(literal));
                }
            }
            Self::All(parts) => {
                for (position, part) in parts.iter().enumerate() {
                    part.reduce(&mut |smaller| {
                        let mut fewer = parts.clone();
                        fewer[position] = smaller;
                        found(Self::All(fewer));
                    });
                }
            }
            Self::Droppable(inner) => {
                found(Self::nothing());
                inner.reduce(&mut |smaller| found(Self::Droppable(Box::new(smaller))));
            }
            Self::Simplifiable(inner, simpler) => {
                found((**simpler).clone());
                inner.reduce(&mut |smaller| {
                    found(Self::Simplifiable(Box::new(smaller), simpler.clone()));
                });
            }
            Self::List(list) => {
                for position in 0..list.items.len() {
                    if list.items.len() > list.least {
                        let mut fewer = list.clone();
                        fewer.items.remove(position);
                        found(Self::List(fewer));
                    }
                    list.items[position].reduce(&mut |smaller| {
                        let mut fewer = list.clone();
                        fewer.items[position] = smaller;
                        found(Self::List(fewer));
                    });
                }
            }
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parameter(_) => 2,
            Self::Bound(inner, _) => inner.size(),
            // a parameter counts more than a literal: it is the harder to read
            Self::Value(value) => value.literal.len() + usize::from(value.is_parameter),
            Self::All(parts) => parts.iter().map(Self::size).sum(),
            Self::Droppable(inner) | Self::Simplifiable(inner, _) => 1 + inner.size(),
            Self::List(list) => list.items.iter().map(|item| 1 + item.size()).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reduction_lacks_one_part() {
        let tree = sql!(
            "SELECT ",
            Node::list(", ", vec!["1".into(), "2".into()], 1),
            sql!(" LIMIT 3").droppable()
        );
        let texts: Vec<String> = tree
            .reductions()
            .iter()
            .map(|tree| tree.render(false).sql)
            .collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts.contains(&"SELECT 1, 2".to_owned()));
        assert!(texts.contains(&"SELECT 2 LIMIT 3".to_owned()));
    }
}
