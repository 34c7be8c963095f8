//! FROM clauses: what is joined with what, and the conditions that fix keys.

use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::{TABLES, Type};
use crate::sql;

/// A FROM clause, and what WHERE should say of it.
pub(super) struct FromClause {
    pub(super) node: Node,
    pub(super) sources: Vec<Source>,
    pub(super) conditions: Vec<Node>,
}

/// Those whose rows lie by a user's id.
const BY_USER: &[&str] = &[
    "users",
    "users",
    "users",
    "users",
    "users",
    "orders",
    "orders",
    "orders",
    "orders",
    "everyone",
    "user_orders",
    "order_totals",
];
/// Other sharded tables.
const BY_OTHERS: &[&str] = &["documents", "notes", "codes", "pairs", "\"Mixed Case\""];
/// Those that lie whole on one server.
const WHOLE: &[&str] = &[
    "countries",
    "countries",
    "currencies",
    "settings",
    "tickets",
    "archive.users",
    "places",
    "options",
];

impl Generator {
    /// A FROM clause. `outer`: what a subquery sees of the query around it.
    pub(super) fn from(&mut self, outer: &[Source], depth: usize) -> FromClause {
        let alone = outer.is_empty();
        match self.random.below(20) {
            0..=5 => self.one_table(BY_USER, outer),
            6 => self.one_table(BY_OTHERS, outer),
            7 => self.one_table(BY_OTHERS, outer),
            8 | 9 if alone => self.one_table(WHOLE, outer),
            10..=13 => self.located_together(outer),
            14 => self.with_whole(outer),
            15 => self.anything_joined(outer),
            16 if depth > 0 => self.derived(outer, depth - 1),
            17 if depth > 0 => self.lateral(outer, depth - 1),
            18 => self.with_rows(outer),
            _ => match self.random.below(self.named.len() + 1).checked_sub(1) {
                Some(position) => self.named_query(position),
                None => self.one_table(BY_USER, outer),
            },
        }
    }

    /// A table under an alias, or under none.
    fn item(&mut self, name: &str, may_lack_alias: bool) -> (Node, Source) {
        let table = self.table(name);
        let spelled = self.spelled(table);
        if may_lack_alias && self.random.percent(25) {
            let visible = table.name.rsplit('.').next().unwrap_or(table.name);
            return (spelled.into(), Self::source_of(table, visible));
        }
        let alias = self.alias();
        let between = self.random.word(&[" ", " AS "]);
        (
            sql!(spelled, between, &alias),
            Self::source_of(table, &alias),
        )
    }

    fn one_table(&mut self, names: &[&'static str], outer: &[Source]) -> FromClause {
        let name = self.random.word(names);
        let (node, source) = self.item(name, outer.is_empty());
        let conditions = self.fixed(&source, outer, true);
        FromClause {
            node,
            sources: vec![source],
            conditions,
        }
    }

    /// Mostly conditions that fix a source's key: to a value, or to a key of the query around.
    fn fixed(&mut self, source: &Source, outer: &[Source], alone: bool) -> Vec<Node> {
        if source.sharding.is_empty() || self.random.percent(12) {
            return Vec::new();
        }
        if let Some(linked) = self.linked(source, outer)
            && self.random.percent(60)
        {
            return vec![linked];
        }
        self.key_conditions(source, alone && outer.is_empty())
    }

    /// An equality with the key of another source that lies by the same values.
    fn linked(&mut self, source: &Source, others: &[Source]) -> Option<Node> {
        let [own] = source.sharding.as_slice() else {
            return None;
        };
        let data_type = source.column_type(own)?;
        let other = others
            .iter()
            .filter(|other| other.sharding.len() == 1)
            .find(|other| other.column_type(&other.sharding[0]) == Some(data_type))?;
        let theirs = other.sharding[0].clone();
        let (own, theirs) = (
            self.reference(source, own, false),
            self.reference(other, &theirs, false),
        );
        Some(if self.random.percent(50) {
            sql!(own, " = ", theirs)
        } else {
            sql!(theirs, " = ", own)
        })
    }

    /// Two or three tables whose rows of one key lie together.
    fn located_together(&mut self, outer: &[Source]) -> FromClause {
        let name = self.random.word(BY_USER);
        let (first, source) = self.item(name, false);
        let mut sources = vec![source];
        let mut parts = vec![first];
        let mut conditions = Vec::new();
        for _ in 0..=self.random.below(2) {
            let name = self.random.word(BY_USER);
            let (node, source) = self.item(name, false);
            let mut on = Vec::new();
            if self.random.percent(90)
                && let Some(linked) = self.linked(&source, &sources)
            {
                on.push(linked);
            }
            let visible = [sources.as_slice(), std::slice::from_ref(&source)].concat();
            if self.random.percent(25) {
                on.push(self.condition(&visible, 1));
            }
            let same_column = sources.len() == 1 && source.sharding == sources[0].sharding;
            let join = match self.random.below(10) {
                0 | 1 => {
                    conditions.extend(on);
                    sql!(", ", node)
                }
                2 if same_column && on.len() == 1 => {
                    let column = source.sharding[0].clone();
                    sql!(" JOIN ", node, " USING (", column, ")")
                }
                3 => sql!(" CROSS JOIN ", node),
                kind => {
                    let kind = [
                        "JOIN",
                        "INNER JOIN",
                        "LEFT JOIN",
                        "RIGHT JOIN",
                        "FULL JOIN",
                        "LEFT OUTER JOIN",
                    ][kind % 6];
                    if on.is_empty() {
                        on.push("true".into());
                    }
                    sql!(" ", kind, " ", node, " ON ", Node::list(" AND ", on, 1))
                }
            };
            parts.push(join.droppable());
            sources.push(source);
        }
        let fixed = sources[self.random.below(sources.len())].clone();
        conditions.extend(self.fixed(&fixed, outer, false));
        if self.random.percent(15) {
            let fixed = sources[self.random.below(sources.len())].clone();
            conditions.extend(self.fixed(&fixed, outer, false));
        }
        FromClause {
            node: Node::All(parts),
            sources,
            conditions,
        }
    }

    /// A sharded table with one that is not.
    fn with_whole(&mut self, outer: &[Source]) -> FromClause {
        let (first, sharded) = self.item(BY_USER[0], false);
        let name = if self.random.percent(75) {
            "countries"
        } else {
            self.random.word(WHOLE)
        };
        let (second, whole) = self.item(name, false);
        let country = self.reference(&sharded, "country", false);
        let (column, _) = whole.columns[0].clone();
        let column = self.reference(&whole, &column, false);
        let kind = self.random.word(&["JOIN", "LEFT JOIN", "RIGHT JOIN"]);
        let conditions = self.fixed(&sharded, outer, false);
        FromClause {
            node: sql!(
                first,
                sql!(" ", kind, " ", second, " ON ", country, " = ", column).droppable()
            ),
            sources: vec![sharded, whole],
            conditions,
        }
    }

    /// Two tables that may have nothing to do with each other.
    fn anything_joined(&mut self, outer: &[Source]) -> FromClause {
        let mut pick = || {
            let table = self.random.choose(TABLES);
            self.item(table.name, false)
        };
        let (first, one) = pick();
        let (second, other) = pick();
        let mut conditions = self.fixed(&one, outer, false);
        conditions.extend(self.fixed(&other, outer, false));
        FromClause {
            node: sql!(first, sql!(", ", second).droppable()),
            sources: vec![one, other],
            conditions,
        }
    }

    /// A subquery in FROM.
    fn derived(&mut self, outer: &[Source], depth: usize) -> FromClause {
        let types = self.types();
        let query = self.query(&[], &types, depth);
        let (names, source) = self.renamed(&types);
        let mut node = sql!("(", query, ") ", names);
        let mut sources = vec![source];
        let mut conditions = Vec::new();
        if self.random.percent(40) {
            let name = self.random.word(BY_USER);
            let (joined, source) = self.item(name, false);
            conditions = self.fixed(&source, outer, false);
            node = sql!(node, sql!(", ", joined).droppable());
            sources.push(source);
        }
        FromClause {
            node,
            sources,
            conditions,
        }
    }

    /// A table and a LATERAL subquery that sees it.
    fn lateral(&mut self, outer: &[Source], depth: usize) -> FromClause {
        let name = self.random.word(BY_USER);
        let (first, source) = self.item(name, false);
        let types = self.types();
        let query = self.query(std::slice::from_ref(&source), &types, depth);
        let (names, lateral) = self.renamed(&types);
        let conditions = self.fixed(&source, outer, false);
        let join = if self.random.percent(50) {
            sql!(", LATERAL (", query, ") ", names)
        } else {
            sql!(" LEFT JOIN LATERAL (", query, ") ", names, " ON true")
        };
        FromClause {
            node: sql!(first, join.droppable()),
            sources: vec![source, lateral],
            conditions,
        }
    }

    /// A sharded table beside rows that are made on the spot.
    fn with_rows(&mut self, outer: &[Source]) -> FromClause {
        let (first, source) = self.item("users", false);
        let conditions = self.fixed(&source, outer, false);
        let alias = self.alias();
        let position = self.position();
        let key = self.key_text(Type::Int8, position);
        let rows = match self.random.below(4) {
            0 => sql!("generate_series(1, 3) AS ", &alias, "(n)"),
            1 => sql!("unnest(ARRAY[1, 2, 2]) AS ", &alias, "(n)"),
            2 => sql!("(VALUES (", &key, "), (2)) AS ", &alias, "(n)"),
            _ => sql!("(SELECT 5) AS ", &alias, "(n)"),
        };
        let id = self.reference(&source, "id", false);
        let condition = sql!(id, " = ", &alias, ".n");
        let mut conditions = conditions;
        if self.random.percent(50) {
            conditions.push(condition);
        }
        let rows_source = Source {
            alias,
            columns: vec![("n".to_owned(), Type::Int4)],
            sharding: Vec::new(),
            unique: Vec::new(),
        };
        FromClause {
            node: sql!(first, sql!(", ", rows).droppable()),
            sources: vec![source, rows_source],
            conditions,
        }
    }

    fn named_query(&mut self, position: usize) -> FromClause {
        let name = self.named[position].alias.clone();
        let alias = self.alias();
        let source = Source {
            alias: alias.clone(),
            ..self.named[position].clone()
        };
        FromClause {
            node: sql!(name, " ", alias),
            sources: vec![source],
            conditions: Vec::new(),
        }
    }

    /// `alias (c1, c2)` for a subquery whose columns are of these types.
    pub(super) fn renamed(&mut self, types: &[Type]) -> (Node, Source) {
        let alias = self.alias();
        let columns: Vec<(String, Type)> = types
            .iter()
            .enumerate()
            .map(|(position, data_type)| (format!("c{position}"), *data_type))
            .collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let node = sql!(&alias, " (", names.join(", "), ")");
        let source = Source {
            alias,
            columns,
            sharding: Vec::new(),
            unique: Vec::new(),
        };
        (node, source)
    }
}
