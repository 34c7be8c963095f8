//! Expressions of a given type over the columns in scope.

use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::Type;
use crate::sql;

/// The types that expressions are made of.
pub(super) const TYPES: &[Type] = &[
    Type::Int8,
    Type::Int4,
    Type::Text,
    Type::Text,
    Type::Numeric,
    Type::Boolean,
    Type::Date,
];

impl Generator {
    /// A column of the type, if there is one.
    pub(super) fn column(&mut self, scope: &[Source], data_type: Type) -> Option<Node> {
        let mut fitting = Vec::new();
        for source in scope {
            for (column, found) in &source.columns {
                let same_texts = found.is_text() && data_type.is_text();
                if *found == data_type || same_texts {
                    fitting.push((source, column));
                }
            }
        }
        if fitting.is_empty() {
            return None;
        }
        let (source, column) = fitting[self.random.below(fitting.len())];
        let reference = self.reference(source, column, scope.len() == 1);
        Some(reference.into())
    }

    /// A column of the type or, where there is none, a constant.
    pub(super) fn operand(&mut self, scope: &[Source], data_type: Type) -> Node {
        match self.column(scope, data_type) {
            Some(column) => column,
            None => self.constant(data_type),
        }
    }

    /// An expression of the type.
    pub(super) fn expression(&mut self, scope: &[Source], data_type: Type, depth: usize) -> Node {
        let operand = self.operand(scope, data_type);
        if depth == 0 || self.random.percent(60) {
            return operand;
        }
        let depth = depth - 1;
        let made = match self.random.below(8) {
            0 => sql!(
                "CASE WHEN ",
                self.condition(scope, depth),
                " THEN ",
                self.typed(scope, data_type, depth),
                " ELSE ",
                operand.clone(),
                " END"
            ),
            1 => sql!(
                "coalesce(",
                operand.clone(),
                ", ",
                self.constant(data_type),
                ")"
            ),
            2 => sql!(
                "nullif(",
                operand.clone(),
                ", ",
                self.constant(data_type),
                ")"
            ),
            3 if depth > 0 => self.scalar_subquery(scope, data_type, depth),
            _ => self.particular(scope, data_type, depth, &operand),
        };
        made.or_simpler(operand)
    }

    /// An expression whose type does not depend on a parameter's.
    fn typed(&mut self, scope: &[Source], data_type: Type, depth: usize) -> Node {
        let inner = self.expression(scope, data_type, depth);
        sql!("(", inner, ")::", data_type.name())
    }

    fn particular(
        &mut self,
        scope: &[Source],
        data_type: Type,
        depth: usize,
        operand: &Node,
    ) -> Node {
        let operand = operand.clone();
        match data_type {
            Type::Int8 => match self.random.below(4) {
                0 => sql!("(", operand, " % 5)"),
                1 => sql!("(", operand, " / 3)"),
                2 => sql!("(length(", self.operand(scope, Type::Text), "))::bigint"),
                _ => sql!("(-", operand, " / 2)"),
            },
            Type::Int4 => match self.random.below(5) {
                0 => sql!("(", operand, " + 1)"),
                1 => sql!("length(", self.operand(scope, Type::Text), ")"),
                2 => sql!("greatest(", operand, ", ", self.constant(Type::Int4), ")"),
                3 => sql!(
                    "extract(year FROM ",
                    self.operand(scope, Type::Date),
                    ")::int"
                ),
                _ => sql!("(", operand, " * 2 - 1)"),
            },
            Type::Text | Type::Varchar => match self.random.below(8) {
                0 => sql!("upper(", operand, ")"),
                1 => sql!("(", operand, " || 'x')"),
                2 => sql!("substr(", operand, ", 1, 2)"),
                3 => sql!("(", self.operand(scope, Type::Numeric), ")::text"),
                4 => sql!(
                    "concat(",
                    operand,
                    ", '-', ",
                    self.operand(scope, Type::Int4),
                    ")"
                ),
                5 => sql!("replace(", operand, ", 'n', '''')"),
                6 => sql!("to_char(", self.operand(scope, Type::Date), ", 'YYYY-MM')"),
                _ => sql!("lower(", self.expression(scope, Type::Text, depth), ")"),
            },
            Type::Numeric => match self.random.below(4) {
                0 => sql!("round(", operand, ", 1)"),
                1 => sql!("(", operand, " * 1.5)"),
                2 => sql!("(", operand, " / 7)"),
                _ => sql!("(", self.operand(scope, Type::Int4), " / 2.0)"),
            },
            Type::Boolean => self.condition(scope, depth),
            Type::Date => sql!("(", operand, " + 1)"),
            Type::Timestamp => sql!("date_trunc('month', ", operand, ")"),
            Type::Uuid => operand,
        }
    }

    /// An aggregate, and the type of its result.
    pub(super) fn aggregate(&mut self, scope: &[Source], depth: usize) -> Node {
        let call = match self.random.below(14) {
            0 | 1 => Node::from("count(*)"),
            2 => sql!("count(", self.operand(scope, Type::Text), ")"),
            3 => sql!("count(DISTINCT ", self.operand(scope, Type::Text), ")"),
            4 => sql!("sum(", self.operand(scope, Type::Int4), ")"),
            5 => sql!("sum(", self.expression(scope, Type::Numeric, depth), ")"),
            6 => sql!("avg(", self.operand(scope, Type::Numeric), ")"),
            7 => sql!("avg(", self.operand(scope, Type::Int4), ")"),
            8 => sql!("min(", self.expression(scope, Type::Text, depth), ")"),
            9 => sql!("max(", self.operand(scope, Type::Int8), ")"),
            10 => sql!("bool_or(", self.condition(scope, 0), ")"),
            11 => sql!("sum(", self.operand(scope, Type::Int8), ")"),
            12 => {
                let text = self.operand(scope, Type::Text);
                sql!("string_agg(", text.clone(), ", ',' ORDER BY ", text, ")")
            }
            _ => {
                let number = self.operand(scope, Type::Int4);
                sql!(
                    "array_agg(",
                    number.clone(),
                    " ORDER BY ",
                    number,
                    " DESC NULLS LAST)"
                )
            }
        };
        if self.random.percent(12) {
            let condition = self.condition(scope, 0);
            return sql!(call, sql!(" FILTER (WHERE ", condition, ")").droppable());
        }
        call
    }

    /// A window function whose value no order of equal rows decides.
    pub(super) fn window(&mut self, scope: &[Source]) -> Node {
        let function = match self.random.below(6) {
            0 => Node::from("rank()"),
            1 => Node::from("dense_rank()"),
            2 => Node::from("count(*)"),
            3 => sql!("sum(", self.operand(scope, Type::Int4), ")"),
            4 => sql!("max(", self.operand(scope, Type::Text), ")"),
            _ => Node::from("cume_dist()"),
        };
        let partition = sql!("PARTITION BY ", self.operand(scope, Type::Text)).droppable();
        let order = sql!(" ORDER BY ", self.operand(scope, Type::Int4)).droppable();
        sql!(function, " OVER (", partition, order, ")")
    }
}
