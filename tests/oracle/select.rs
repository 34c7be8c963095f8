//! SELECT: blocks, set operations, WITH, subqueries.

use super::comparison::Certainty;
use super::expression::TYPES;
use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::Type;
use crate::sql;

impl Generator {
    /// A whole SELECT statement.
    pub(super) fn select_statement(&mut self) -> (Node, Certainty) {
        let with = if self.random.percent(14) {
            self.with()
        } else {
            Node::nothing()
        };
        let types = self.types();
        let body = self.body(&[], &types, 2);
        let (tail, certainty) = match self.random.below(20) {
            0..=5 => (self.ordered(types.len(), 30), Certainty::Ordered),
            6..=8 => (self.ordered(types.len(), 100), Certainty::Ordered),
            9 => (sql!(" LIMIT ", self.limit()), Certainty::Count),
            10 => (sql!(" OFFSET ", self.limit()), Certainty::Count),
            11 => {
                let lock = self
                    .random
                    .word(&[" FOR UPDATE", " FOR SHARE", " FOR NO KEY UPDATE"]);
                (Node::from(lock).droppable(), Certainty::Rows)
            }
            _ => (Node::nothing(), Certainty::Rows),
        };
        (sql!(with, body, tail), certainty)
    }

    /// One to three types.
    pub(super) fn types(&mut self) -> Vec<Type> {
        (0..=self.random.below(3))
            .map(|_| *self.random.choose(TYPES))
            .collect()
    }

    /// A query as it stands within another: no order, or an order and a limit.
    pub(super) fn query(&mut self, outer: &[Source], types: &[Type], depth: usize) -> Node {
        let body = self.body(outer, types, depth);
        if self.random.percent(12) {
            return sql!(body, self.ordered(types.len(), 100));
        }
        body
    }

    /// ORDER BY all output columns, so that no two rows that differ tie; at times with a limit.
    fn ordered(&mut self, columns: usize, limited: usize) -> Node {
        let items = (1..=columns)
            .map(|position| {
                let direction = self.random.word(&["", "", " DESC", " ASC"]);
                let nulls = self.random.word(&["", "", " NULLS FIRST", " NULLS LAST"]);
                Node::from(format!("{position}{direction}{nulls}"))
            })
            .collect();
        let limit = if self.random.percent(limited) {
            let rows = self.limit();
            let limit = match self.random.below(5) {
                0 => sql!(" FETCH FIRST 2 ROWS ONLY"),
                1 => sql!(" LIMIT ", rows, " OFFSET ", self.limit()),
                2 => sql!(" OFFSET ", rows),
                3 => sql!(" LIMIT ", rows, " + 1"),
                _ => sql!(" LIMIT ", rows),
            };
            limit.droppable()
        } else {
            Node::nothing()
        };
        sql!(
            Node::list(
                ", ",
                vec![sql!(" ORDER BY ", Node::list(", ", items, columns))],
                1
            ),
            limit
        )
        .droppable()
    }

    fn limit(&mut self) -> Node {
        let rows = self.random.below(5).to_string();
        self.literal(Type::Int8, &rows)
    }

    fn body(&mut self, outer: &[Source], types: &[Type], depth: usize) -> Node {
        if depth > 0 && self.random.percent(12) {
            let operation = self.random.word(&[
                " UNION ",
                " UNION ALL ",
                " INTERSECT ",
                " EXCEPT ",
                " EXCEPT ALL ",
            ]);
            let one = self.typed_block(outer, types, depth - 1);
            let other = self.typed_block(outer, types, depth - 1);
            return sql!(one.clone(), operation, other).or_simpler(one);
        }
        match self.random.below(12) {
            0 | 1 => self.grouped(outer, types.len(), depth),
            2 if types.len() == 1 => self.counted(outer, depth),
            _ => self.block(outer, types, depth),
        }
    }

    /// A block whose columns have exactly these types.
    fn typed_block(&mut self, outer: &[Source], types: &[Type], depth: usize) -> Node {
        let from = self.from(outer, depth);
        let items = types
            .iter()
            .map(|data_type| {
                let item = self.operand(&from.sources, *data_type);
                sql!("(", item, ")::", data_type.name())
            })
            .collect();
        let condition = self.filter(from.conditions, &from.sources, outer, depth);
        sql!(
            "SELECT ",
            Node::list(", ", items, 1),
            " FROM ",
            from.node,
            condition
        )
    }

    /// WHERE, of conditions that fix keys and others.
    fn filter(
        &mut self,
        mut conditions: Vec<Node>,
        sources: &[Source],
        outer: &[Source],
        depth: usize,
    ) -> Node {
        let visible = [sources, outer].concat();
        for _ in 0..self.random.below(3) {
            let further = self.condition(&visible, depth.min(1));
            let at = self.random.below(conditions.len() + 1);
            conditions.insert(at, further);
        }
        Node::clause(" WHERE ", " AND ", conditions)
    }

    /// `SELECT expressions FROM ... WHERE ...`
    fn block(&mut self, outer: &[Source], types: &[Type], depth: usize) -> Node {
        let from = self.from(outer, depth);
        let visible = [from.sources.as_slice(), outer].concat();
        let mut items: Vec<Node> = types
            .iter()
            .map(|data_type| self.expression(&visible, *data_type, depth.min(1)))
            .collect();
        if self.random.percent(8) {
            let last = items.len() - 1;
            items[last] = self.window(&from.sources);
        }
        if self.random.percent(15) {
            let last = items.len() - 1;
            let name = self
                .random
                .word(&[" AS x", " \"select\"", " AS \"X y\"", " AS total"]);
            items[last] = sql!(items[last].clone(), name);
        }
        let distinct = match self.random.below(14) {
            0 => Node::from("DISTINCT ").droppable(),
            1 if types.len() == 1 => {
                let column = items[0].clone();
                // of equal rows it does not matter which one stays
                items = vec![column.clone()];
                match column {
                    Node::Text(_) => sql!("DISTINCT ON (", column, ") "),
                    _ => Node::nothing(),
                }
            }
            _ => Node::nothing(),
        };
        let condition = self.filter(from.conditions, &from.sources, outer, depth);
        let (space, further) = (self.space(), self.space());
        sql!(
            "SELECT",
            space,
            distinct,
            Node::list(", ", items, 1),
            further,
            "FROM ",
            from.node,
            condition
        )
    }

    /// Groups: so many columns.
    fn grouped(&mut self, outer: &[Source], columns: usize, depth: usize) -> Node {
        let from = self.from(outer, depth);
        let keys = columns.saturating_sub(1).max(usize::from(columns > 1));
        let mut items = Vec::new();
        for _ in 0..keys {
            let data_type = *self.random.choose(TYPES);
            items.push(self.operand(&from.sources, data_type));
        }
        while items.len() < columns {
            items.push(self.aggregate(&from.sources, 0));
        }
        let groups: Vec<Node> = if keys > 0 {
            (1..=keys)
                .map(|position| position.to_string().into())
                .collect()
        } else {
            // a group by what is not selected
            vec![
                self.column(&from.sources, Type::Text)
                    .unwrap_or_else(|| "()".into()),
            ]
        };
        let having = if self.random.percent(30) {
            let aggregate = self
                .random
                .word(&["count(*) > 1", "count(*) < 3", "min(1) = 1"]);
            Node::from(format!(" HAVING {aggregate}")).droppable()
        } else {
            Node::nothing()
        };
        let condition = self.filter(from.conditions, &from.sources, outer, depth);
        sql!(
            "SELECT ",
            Node::list(", ", items, 1),
            " FROM ",
            from.node,
            condition,
            Node::clause(" GROUP BY ", ", ", groups),
            having
        )
    }

    /// One row of an aggregate.
    fn counted(&mut self, outer: &[Source], depth: usize) -> Node {
        let from = self.from(outer, depth);
        let aggregate = self.aggregate(&from.sources, 1);
        let condition = self.filter(from.conditions, &from.sources, outer, depth);
        sql!("SELECT ", aggregate, " FROM ", from.node, condition)
    }

    /// `WITH name (columns) AS (query)`, which FROM clauses may then use.
    pub(super) fn with(&mut self) -> Node {
        let types = self.types();
        let (names, source) = if self.random.percent(80) {
            self.renamed(&types)
        } else {
            // a name that is a table's too
            let (_, source) = self.renamed(&types);
            let source = Source {
                alias: "users".into(),
                ..source
            };
            let names: Vec<&str> = source
                .columns
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            (sql!("users (", names.join(", "), ")"), source)
        };
        let query = self.query(&[], &types, 1);
        let materialized = self
            .random
            .word(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
        self.named.push(source);
        sql!("WITH ", names, " AS ", materialized, "(", query, ") ").droppable()
    }

    /// EXISTS over a subquery that sees the query around it.
    pub(super) fn exists(&mut self, scope: &[Source], depth: usize) -> Node {
        let types = [Type::Int8];
        let query = self.typed_block(scope, &types, depth);
        let not = self.random.word(&["", "", "NOT "]);
        sql!(not, "EXISTS (", query, ")")
    }

    /// `column IN (SELECT ...)`
    pub(super) fn in_subquery(&mut self, scope: &[Source], depth: usize) -> Node {
        let data_type = *self.random.choose(&[Type::Int8, Type::Text, Type::Int4]);
        let operand = self.operand(scope, data_type);
        let query = self.typed_block(&[], &[data_type], depth);
        let operator = self
            .random
            .word(&[" IN (", " IN (", " NOT IN (", " = ANY (", " = SOME ("]);
        sql!(operand, operator, query, ")")
    }

    /// A subquery of one value.
    pub(super) fn scalar_subquery(
        &mut self,
        scope: &[Source],
        data_type: Type,
        depth: usize,
    ) -> Node {
        let from = self.from(scope, depth);
        let operand = self.operand(&from.sources, data_type);
        let aggregate = if matches!(data_type, Type::Boolean) {
            sql!("bool_and(", operand, ")")
        } else if data_type == Type::Uuid {
            sql!("min(", operand, "::text)::uuid")
        } else {
            sql!(self.random.word(&["min(", "max("]), operand, ")")
        };
        let condition = Node::clause(" WHERE ", " AND ", from.conditions);
        sql!("(SELECT ", aggregate, " FROM ", from.node, condition, ")")
    }
}
