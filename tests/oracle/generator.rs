//! The state of the random grammar: what is in scope, and which key the statement is about.
//!
//! The grammar itself is in the modules beside this one, each an `impl` of [`Generator`]. It yields statements that Postgres mostly
//! accepts; what it does not accept must fail alike on both sides. It avoids what no server answers the same way twice: rows that
//! no order decides between, and errors that only some plans meet. Main types: [`Generator`], [`Source`].

use super::node::Node;
use super::random::Random;
use super::schema::{Kind, TABLES, Table, Type};

/// Makes random statements.
#[derive(Debug)]
pub struct Generator {
    pub(super) random: Random,
    /// The key that most conditions of the statement are about: a position among the keys of each type.
    pub(super) focus: usize,
    pub(super) aliases: usize,
    /// Named queries that the statement's FROM clauses may use.
    pub(super) named: Vec<Source>,
}

/// A table of a FROM clause, as expressions see it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// What qualifies its columns; as FROM introduces it.
    pub(super) alias: String,
    pub(super) columns: Vec<(String, Type)>,
    /// The columns by which rows lie on shards.
    pub(super) sharding: Vec<String>,
    /// Columns that no two rows agree in; empty where none are known.
    pub(super) unique: Vec<String>,
}

impl Source {
    pub(super) fn column_type(&self, name: &str) -> Option<Type> {
        self.columns
            .iter()
            .find(|(column, _)| column == name)
            .map(|(_, data_type)| *data_type)
    }
}

impl Generator {
    /// One whose statements follow from seed and stream.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        Self {
            random: Random::new(seed, stream),
            focus: 0,
            aliases: 0,
            named: Vec::new(),
        }
    }

    /// Forgets the last statement.
    pub(super) fn begin_statement(&mut self) {
        self.named.clear();
        self.aliases = 0;
        self.focus = self.random.below(14);
    }

    pub(super) fn table(&self, name: &str) -> &'static Table {
        TABLES
            .iter()
            .find(|table| table.name == name)
            .unwrap_or(&TABLES[0])
    }

    /// A new alias, of which some must be quoted.
    pub(super) fn alias(&mut self) -> String {
        self.aliases += 1;
        let number = self.aliases;
        match self.random.below(12) {
            0 => format!("\"T {number}\""),
            1 => format!("\"t{number}\""),
            _ => format!("t{number}"),
        }
    }

    /// A table as a source under an alias.
    pub(super) fn source_of(table: &Table, alias: &str) -> Source {
        let sharding = match table.kind {
            Kind::Sharded(key) | Kind::View(key) => key,
            Kind::Reference | Kind::Unlisted => &[],
        };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Source {
            alias: alias.to_owned(),
            columns: table
                .columns
                .iter()
                .map(|(name, data_type)| ((*name).to_owned(), *data_type))
                .collect(),
            sharding: owned(sharding),
            unique: owned(table.unique),
        }
    }

    /// A table's name, at times with its schema, in capitals or quoted.
    pub(super) fn spelled(&mut self, table: &Table) -> String {
        let name = table.name;
        let plain = !name.contains(['"', '.']);
        match self.random.below(14) {
            0 if plain => format!("public.{name}"),
            1 if plain => name.to_uppercase(),
            2 if plain => format!("\"{name}\""),
            3 if plain => format!("\"public\".{name}"),
            _ => name.to_owned(),
        }
    }

    /// A column as an expression names it: unqualified only where there is one source.
    pub(super) fn reference(&mut self, source: &Source, column: &str, alone: bool) -> String {
        let quoted = column.contains('"');
        let column = match self.random.below(12) {
            0 if !quoted => column.to_uppercase(),
            1 if !quoted => format!("\"{column}\""),
            _ => column.to_owned(),
        };
        if alone && self.random.percent(60) {
            return column;
        }
        format!("{}.{column}", source.alias)
    }

    /// A comment, a line break, or nothing: white space that means nothing.
    pub(super) fn space(&mut self) -> Node {
        match self.random.below(30) {
            0 => Node::from(" /* id = 3 */ ").or_simpler(" "),
            1 => Node::from(" -- id = 3; 'it''s\n ").or_simpler(" "),
            2 => Node::from("\n\t").or_simpler(" "),
            3 => Node::from(" /* /* nested */ $1 */ ").or_simpler(" "),
            _ => Node::from(" "),
        }
    }
}
