//! Conditions over the columns in scope that fix no key.

use super::expression::TYPES;
use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::Type;
use crate::sql;

impl Generator {
    /// A condition.
    pub(super) fn condition(&mut self, scope: &[Source], depth: usize) -> Node {
        let data_type = *self.random.choose(TYPES);
        if data_type == Type::Boolean {
            return match self.column(scope, Type::Boolean) {
                Some(column) => column,
                None => "true".into(),
            };
        }
        let operand = self.operand(scope, data_type);
        let simple = sql!(operand.clone(), " = ", self.constant(data_type));
        if self.random.percent(25) {
            return simple;
        }
        let made = match self.random.below(19) {
            0 => sql!(operand, " IS NULL"),
            1 => sql!(operand, " IS NOT NULL"),
            2 => sql!(operand, " IS DISTINCT FROM ", self.constant(data_type)),
            3 => {
                let values = (0..3).map(|_| self.constant(data_type)).collect();
                let not = self.random.word(&["", "NOT "]);
                sql!(operand, " ", not, "IN (", Node::list(", ", values, 1), ")")
            }
            4 => sql!(
                operand,
                " BETWEEN ",
                self.constant(data_type),
                " AND ",
                self.constant(data_type)
            ),
            5 => {
                let pattern = self.random.word(&["'a%'", "'%n'", "'_ob'", "'%'", "'\\%'"]);
                sql!(self.operand(scope, Type::Text), " LIKE ", pattern)
            }
            6 if depth > 0 => sql!("NOT (", self.condition(scope, depth - 1), ")"),
            7 if depth > 0 => sql!(
                "(",
                Node::list(
                    " OR ",
                    vec![
                        self.condition(scope, depth - 1),
                        self.condition(scope, depth - 1)
                    ],
                    1
                ),
                ")"
            ),
            8 if depth > 0 => self.exists(scope, depth - 1),
            9 if depth > 0 => self.in_subquery(scope, depth - 1),
            10 if depth > 0 => sql!(
                operand,
                " = ",
                self.scalar_subquery(scope, data_type, depth - 1)
            ),
            11 => {
                let other = self.operand(scope, Type::Int4);
                sql!(
                    "(",
                    operand,
                    ", ",
                    other,
                    ") < (",
                    self.constant(data_type),
                    ", ",
                    self.constant(Type::Int4),
                    ")"
                )
            }
            12 => sql!(
                operand,
                " = ANY (ARRAY[",
                self.constant(data_type),
                ", ",
                self.constant(data_type),
                "])"
            ),
            13 => sql!(
                "(",
                operand,
                " = ",
                self.constant(data_type),
                ") IS NOT TRUE"
            ),
            14 => {
                let right = self.expression(scope, data_type, depth);
                sql!(operand, " <= ", right)
            }
            15 => sql!(operand, " = NULL"),
            16 => sql!(operand, " <> ALL (ARRAY[", self.constant(data_type), "])"),
            17 => sql!(
                "coalesce(",
                operand,
                " > ",
                self.constant(data_type),
                ", false)"
            ),
            _ => sql!(
                operand,
                " ",
                self.random.word(&["<", ">=", "<>", ">"]),
                " ",
                self.constant(data_type)
            ),
        };
        made.or_simpler(simple)
    }
}
