//! INSERT, UPDATE, DELETE, and WITH that writes.

use super::comparison::Certainty;
use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::{Kind, Table, Type, quoted, uuid};
use crate::sql;

/// Tables that are written, the usual ones more often.
const WRITTEN: &[&str] = &[
    "users",
    "users",
    "users",
    "users",
    "orders",
    "orders",
    "orders",
    "documents",
    "notes",
    "codes",
    "pairs",
    "\"Mixed Case\"",
    "countries",
    "currencies",
    "settings",
    "tickets",
    "archive.users",
];

impl Generator {
    /// A statement that writes.
    pub(super) fn write_statement(&mut self) -> (Node, Certainty) {
        let name = self.random.word(WRITTEN);
        let table = self.table(name);
        let node = match self.random.below(20) {
            0..=7 => self.insert(table),
            8 => self.insert_select(),
            9..=13 => self.update(table),
            14..=16 => self.delete(table),
            17 => self.merge(),
            _ => self.writing_with(),
        };
        (node, Certainty::Rows)
    }

    fn insert(&mut self, table: &'static Table) -> Node {
        let mut columns: Vec<(&str, Type)> = Vec::new();
        for (name, data_type) in table.columns {
            let needed = table.unique.contains(name) || *name == "name";
            if needed && !self.random.percent(2) || self.random.percent(45) {
                let at = if self.random.percent(30) {
                    self.random.below(columns.len() + 1)
                } else {
                    columns.len()
                };
                columns.insert(at, (*name, *data_type));
            }
        }
        let mut list = Node::nothing();
        if columns.len() == table.columns.len() && self.random.percent(50) {
            columns = table.columns.to_vec();
        } else {
            let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
            list = sql!(" (", names.join(", "), ")");
        }
        let rows = if self.random.percent(60) {
            1
        } else {
            2 + self.random.below(2)
        };
        let same_key = self.random.percent(60);
        let mut position = self.new_position();
        let mut items = Vec::new();
        for row in 0..rows {
            if !same_key {
                position = self.new_position();
            }
            let values = columns
                .iter()
                .map(|(name, data_type)| self.inserted(table, name, *data_type, position, row))
                .collect::<Vec<_>>();
            let least = values.len();
            items.push(sql!("(", Node::list(", ", values, least), ")"));
        }
        let spelled = self.spelled(table);
        let conflict = self.conflict(table);
        let returning = self.returning(table, None);
        sql!(
            "INSERT INTO ",
            spelled,
            list,
            " VALUES ",
            Node::list(", ", items, 1),
            conflict,
            returning
        )
    }

    /// The position of a key that may be new.
    fn new_position(&mut self) -> usize {
        if self.random.percent(40) {
            self.position()
        } else {
            100 + self.random.below(60)
        }
    }

    fn inserted(
        &mut self,
        table: &Table,
        column: &str,
        data_type: Type,
        position: usize,
        row: usize,
    ) -> Node {
        let is_key = match table.kind {
            Kind::Sharded(key) => key.contains(&column),
            _ => table.unique.contains(&column),
        };
        if !is_key {
            // the second part of orders' key tells its rows apart
            if table.unique.contains(&column) {
                return self.literal(data_type, &(position % 7 + row).to_string());
            }
            return match self.random.below(10) {
                0 => "DEFAULT".into(),
                1 => "NULL".into(),
                2 => self.expression(&[], data_type, 1),
                _ => self.constant(data_type),
            };
        }
        let text = match data_type {
            Type::Text | Type::Varchar if position >= 100 => format!("k{position}"),
            Type::Uuid => uuid(position),
            Type::Int8 | Type::Int4 if position >= 100 => position.to_string(),
            _ => self.key_text(data_type, position),
        };
        let value = self.literal(data_type, &text);
        if self.random.percent(88) {
            return value;
        }
        let trap = match data_type {
            Type::Int8 | Type::Int4 => match self.random.below(10) {
                0 => format!("{text}.6"),
                1 => format!("{text}.5"),
                2 => format!("{text}.5::float8"),
                3 => format!("'{text}'"),
                4 => format!("1 + {text}"),
                5 => format!("(SELECT {text})"),
                6 => format!("'{text}.5'"),
                7 => format!("{text}::smallint"),
                8 => "DEFAULT".into(),
                _ => "NULL".into(),
            },
            Type::Text | Type::Varchar => {
                let string = quoted(&text);
                match self.random.below(7) {
                    0 => format!("{string}::bpchar"),
                    1 => format!("{string}::char(9)"),
                    2 => format!("lower({string})"),
                    3 => format!("{string} || ''"),
                    4 => "17".into(),
                    5 => format!("{string}::name"),
                    _ => "'longer than ten characters'".into(),
                }
            }
            _ => return value,
        };
        Node::from(trap).or_simpler(value)
    }

    fn conflict(&mut self, table: &Table) -> Node {
        let unique = table.unique.join(", ");
        let clause = match self.random.below(12) {
            0 => sql!(" ON CONFLICT DO NOTHING"),
            1 => sql!(" ON CONFLICT (", &unique, ") DO NOTHING"),
            2 | 3 => {
                let assignments = self.assignments(table, &[]);
                sql!(" ON CONFLICT (", &unique, ") DO UPDATE SET ", assignments)
            }
            4 => {
                let Some((column, _)) = table
                    .columns
                    .iter()
                    .find(|(name, _)| !table.unique.contains(name))
                else {
                    return Node::nothing();
                };
                sql!(
                    " ON CONFLICT (",
                    &unique,
                    ") DO UPDATE SET ",
                    *column,
                    " = excluded.",
                    *column
                )
            }
            5 if self.random.percent(30) => {
                let key = table.unique[0];
                sql!(
                    " ON CONFLICT (",
                    &unique,
                    ") DO UPDATE SET ",
                    key,
                    " = excluded.",
                    key
                )
            }
            _ => return Node::nothing(),
        };
        clause.droppable()
    }

    /// RETURNING, with columns qualified by an alias where other tables are in sight.
    fn returning(&mut self, table: &Table, alias: Option<&str>) -> Node {
        if self.random.percent(65) {
            return Node::nothing();
        }
        let items = match self.random.below(4) {
            0 => match alias {
                Some(alias) => format!("{alias}.*"),
                None => "*".to_owned(),
            },
            _ => {
                let columns: Vec<String> = (0..=self.random.below(2))
                    .map(|_| {
                        let (column, _) = *self.random.choose(table.columns);
                        match alias {
                            Some(alias) => format!("{alias}.{column}"),
                            None => column.to_owned(),
                        }
                    })
                    .collect();
                columns.join(", ")
            }
        };
        sql!(" RETURNING ", items).droppable()
    }

    /// `a = ..., b = ...`, rarely of a key's column.
    fn assignments(&mut self, table: &Table, scope: &[Source]) -> Node {
        let free: Vec<(&str, Type)> = table
            .columns
            .iter()
            .copied()
            .filter(|(name, _)| !table.unique.contains(name))
            .collect();
        let mut items = Vec::new();
        for (name, data_type) in &free {
            if self.random.percent(35) {
                let value = match self.random.below(8) {
                    0 => Node::from("DEFAULT"),
                    1 | 2 => self.constant(*data_type),
                    _ => self.expression(scope, *data_type, 1),
                };
                items.push(sql!(*name, " = ", value));
            }
        }
        if free.len() > 1 && self.random.percent(8) {
            let (one, other) = (free[0], free[1]);
            items = vec![sql!(
                "(",
                one.0,
                ", ",
                other.0,
                ") = (",
                self.constant(one.1),
                ", ",
                self.constant(other.1),
                ")"
            )];
        }
        if items.is_empty() || self.random.percent(5) {
            let (name, data_type) = if self.random.percent(50) || free.is_empty() {
                *self.random.choose(table.columns)
            } else {
                *self.random.choose(&free)
            };
            let value = self.constant(data_type);
            items = vec![sql!(name, " = ", value)];
        }
        Node::list(", ", items, 1)
    }

    fn update(&mut self, table: &'static Table) -> Node {
        let spelled = self.spelled(table);
        let alias = self.alias();
        let source = Self::source_of(table, &alias);
        let joined = self.joined(&source);
        let scope = if joined.is_some() {
            // two sources: every column is qualified
            vec![
                source.clone(),
                Source {
                    columns: Vec::new(),
                    ..source.clone()
                },
            ]
        } else {
            vec![source.clone()]
        };
        let assignments = self.assignments(table, &scope);
        let (from, conditions, qualified) = self.written_rows(&source, joined);
        let returning = self.returning(table, qualified.then_some(alias.as_str()));
        sql!(
            "UPDATE ",
            spelled,
            " AS ",
            &alias,
            " SET ",
            assignments,
            from.map_or_else(Node::nothing, |from| sql!(" FROM ", from)),
            conditions,
            returning
        )
    }

    fn delete(&mut self, table: &'static Table) -> Node {
        let spelled = self.spelled(table);
        let alias = self.alias();
        let source = Self::source_of(table, &alias);
        let joined = self.joined(&source);
        let (from, conditions, qualified) = self.written_rows(&source, joined);
        let returning = self.returning(table, qualified.then_some(alias.as_str()));
        sql!(
            "DELETE FROM ",
            spelled,
            " ",
            &alias,
            from.map_or_else(Node::nothing, |from| sql!(" USING ", from)),
            conditions,
            returning
        )
    }

    /// At times another table to join with the one that is written.
    fn joined(&mut self, target: &Source) -> Option<(Node, Source)> {
        if !self.random.percent(18) {
            return None;
        }
        let name = self
            .random
            .word(&["users", "orders", "everyone", "countries", "settings"]);
        let table = self.table(name);
        // two sharded tables are joined by their keys, or the result would be too large to be of use
        let alias = self.alias();
        let source = Self::source_of(table, &alias);
        let _ = target;
        Some((sql!(name, " ", &alias), source))
    }

    /// FROM, WHERE, and whether columns are to be qualified.
    fn written_rows(
        &mut self,
        target: &Source,
        joined: Option<(Node, Source)>,
    ) -> (Option<Node>, Node, bool) {
        let mut conditions = Vec::new();
        let mut from = None;
        let mut scope = vec![target.clone()];
        if let Some((node, source)) = joined {
            if let Some(linked) = self.link(target, &source) {
                conditions.push(linked);
            }
            scope.push(source);
            from = Some(node);
        }
        let qualified = from.is_some();
        if !self.random.percent(8) {
            conditions.extend(self.key_conditions(target, !qualified));
        }
        if target.sharding.is_empty() && !target.unique.is_empty() {
            let column = target.unique[0].clone();
            let data_type = target.column_type(&column).unwrap_or(Type::Text);
            let reference = self.reference(target, &column, !qualified);
            let value = self.constant(data_type);
            conditions.push(sql!(reference, " = ", value));
        }
        if self.random.percent(35) {
            conditions.push(self.condition(&scope, 1));
        }
        (
            from,
            Node::clause(" WHERE ", " AND ", conditions),
            qualified,
        )
    }

    fn link(&mut self, one: &Source, other: &Source) -> Option<Node> {
        let ([own], [theirs]) = (one.sharding.as_slice(), other.sharding.as_slice()) else {
            return None;
        };
        if one.column_type(own) != other.column_type(theirs) {
            return None;
        }
        let (own, theirs) = (
            self.reference(one, own, false),
            self.reference(other, theirs, false),
        );
        Some(sql!(own, " = ", theirs))
    }

    fn insert_select(&mut self) -> Node {
        let source = Self::source_of(self.table("users"), "u");
        let condition = Node::clause(" WHERE ", " AND ", self.key_conditions(&source, false));
        let number = 200 + self.random.below(60);
        match self.random.below(4) {
            0 => sql!(
                "INSERT INTO orders (user_id, id, amount) SELECT u.id, ",
                number.to_string(),
                ", 1.5 FROM users u",
                condition
            ),
            1 => sql!(
                "INSERT INTO orders (id, user_id) SELECT o.id + 100, o.user_id FROM orders o JOIN users u ON u.id = o.user_id",
                condition,
                sql!(" RETURNING id").droppable()
            ),
            2 => sql!(
                "INSERT INTO users (id, name) SELECT ",
                number.to_string(),
                ", u.name FROM users u",
                condition
            ),
            _ => sql!(
                "INSERT INTO settings (name, value) SELECT 's' || u.id, u.name FROM users u",
                condition,
                " ON CONFLICT DO NOTHING"
            ),
        }
    }

    fn writing_with(&mut self) -> Node {
        let target = Self::source_of(self.table("orders"), "orders");
        let user = Self::source_of(self.table("users"), "users");
        let orders = Node::clause(" WHERE ", " AND ", self.key_conditions(&target, true));
        let users = Node::clause(" WHERE ", " AND ", self.key_conditions(&user, true));
        let position = self.new_position();
        let text = self.key_text(Type::Int8, position);
        let key = self.literal(Type::Int8, &text);
        match self.random.below(5) {
            0 => sql!(
                "WITH gone AS (DELETE FROM orders",
                orders,
                " RETURNING *) SELECT count(*), sum(amount) FROM gone"
            ),
            1 => sql!(
                "WITH made AS (INSERT INTO users (id, name) VALUES (",
                key,
                ", 'new') ON CONFLICT DO NOTHING RETURNING id, name) SELECT * FROM made"
            ),
            2 => sql!(
                "WITH changed AS (UPDATE users SET score = score + 1",
                users,
                " RETURNING id, score) SELECT c.score, (SELECT count(*) FROM orders o WHERE o.user_id = c.id) FROM changed c"
            ),
            3 => sql!(
                "WITH made AS (INSERT INTO users (id) VALUES (",
                key.clone(),
                ") RETURNING id) INSERT INTO orders (user_id, id) SELECT id, 77 FROM made"
            ),
            _ => sql!(
                "WITH gone AS (DELETE FROM orders",
                orders,
                " RETURNING user_id) UPDATE users SET age = 1",
                users
            ),
        }
    }
}
