//! Conditions that fix a sharding key, or look as if they did.

use super::generator::{Generator, Source};
use super::node::Node;
use super::schema::{Type, quoted};
use crate::sql;

impl Generator {
    /// Conditions on all columns of a source's sharding key. Empty where it has none.
    pub(super) fn key_conditions(&mut self, source: &Source, alone: bool) -> Vec<Node> {
        let position = self.position();
        let columns = source.sharding.clone();
        if columns.len() > 1 && self.random.percent(35) {
            return vec![self.composite(source, position, alone)];
        }
        columns
            .iter()
            .map(|column| {
                let data_type = source.column_type(column).unwrap_or(Type::Int8);
                let position = if columns.len() > 1 && *column != columns[0] {
                    // the fixture's pairs are (n % 4, word n)
                    position
                } else if columns.len() > 1 {
                    position % 4
                } else {
                    position
                };
                let reference = self.reference(source, column, alone);
                self.key_condition(&reference, data_type, position)
            })
            .collect()
    }

    fn composite(&mut self, source: &Source, position: usize, alone: bool) -> Node {
        let (a, b) = (
            self.reference(source, &source.sharding[0], alone),
            self.reference(source, &source.sharding[1], alone),
        );
        let first = (position % 4).to_string();
        let second = self.key_text(Type::Text, position);
        let (x, y) = (
            self.literal(Type::Int8, &first),
            self.literal(Type::Text, &second),
        );
        match self.random.below(4) {
            0 => sql!("(", b, ", ", a, ") = (", y, ", ", x, ")"),
            1 => sql!("(", a, ", ", b, ") IN ((", x, ", ", y, "))"),
            2 => sql!("(", x, ", ", y, ") = (", a, ", ", b, ")"),
            _ => sql!("(", a, ", ", b, ") = (", x, ", ", y, ")"),
        }
    }

    /// A condition on one column of a key.
    pub(super) fn key_condition(&mut self, column: &str, data_type: Type, position: usize) -> Node {
        let text = self.key_text(data_type, position);
        let value = self.literal(data_type, &text);
        let simple = sql!(column, " = ", value.clone());
        if self.random.percent(55) {
            return simple;
        }
        let next = self.key_text(data_type, position + 1);
        let other = self.literal(data_type, &next);
        let found = match self.random.below(24) {
            0 => sql!(value, " = ", column),
            1 => sql!(column, " IN (", value, ")"),
            2 => sql!(
                column,
                " IN (",
                Node::list(", ", vec![value, other], 1),
                ")"
            ),
            3 => sql!(column, " = ANY (ARRAY[", value, "])"),
            4 => sql!(column, " = ANY (ARRAY[", value, ", ", other, "])"),
            5 => sql!("(", column, " = ", value, " OR ", column, " = ", other, ")"),
            6 => sql!("(", column, ") = (", value, ")"),
            7 => sql!("NOT (", column, " <> ", value, ")"),
            8 => sql!(column, " = ", value.clone(), " AND ", column, " = ", value),
            9 => sql!(column, " = ", value, " AND ", column, " = ", other),
            10 => sql!(column, " IS NOT DISTINCT FROM ", value),
            11 => sql!(column, " BETWEEN ", value.clone(), " AND ", value),
            12 => sql!(column, " IN (VALUES (", value, "), (", other, "))"),
            13 => sql!(column, " = (SELECT ", value, ")"),
            14 => sql!(column, " >= ", value),
            15 => sql!(column, " <> ", value),
            16 => sql!("(", column, " = ", value, ") IS TRUE"),
            17 => sql!(
                "CASE WHEN ",
                column,
                " = ",
                value,
                " THEN true ELSE false END"
            ),
            18 => sql!(column, " = NULL"),
            19 => sql!(column, " OPERATOR(pg_catalog.=) ", value),
            _ => self.typed_trap(column, data_type, &text),
        };
        found.or_simpler(simple)
    }

    /// Where another equality than the key type's own may be chosen.
    fn typed_trap(&mut self, column: &str, data_type: Type, text: &str) -> Node {
        let string = quoted(text);
        let trap = match data_type {
            Type::Int8 | Type::Int4 => match self.random.below(14) {
                0 => format!("{column} = {text}::float8"),
                1 => format!("{column} = {text}.0"),
                2 => format!("{column} = {text}::numeric"),
                3 => format!("{column} = 1 + {text} - 1"),
                4 => format!("{column} = ' {text} '"),
                5 => format!("{column} = +{text}"),
                6 => format!("{column} = abs({text})"),
                7 => format!("{column}::text = {string}"),
                8 => format!("{column} + 0 = {text}"),
                9 => format!("{column} = {text}::smallint"),
                10 => format!("{column} = - - {text}"),
                11 => format!("{column} = {text} !~ 'x'"),
                12 => format!("{column} = 9007199254740992::float8"),
                _ => format!("{column} = {string}::text::bigint"),
            },
            Type::Text | Type::Varchar => match self.random.below(12) {
                0 => format!("{column} = {string}::bpchar"),
                1 => format!("{column} = {string}::char(12)"),
                2 => format!("{column} = {string}::varchar"),
                3 => format!("{column} = {string} COLLATE \"C\""),
                4 => format!("{column} COLLATE \"en-x-icu\" = {string}"),
                5 => format!("{column} = {string}::name"),
                6 => format!("lower({column}) = lower({string})"),
                7 => format!("{column} LIKE {string}"),
                8 => format!("{column} = '' || {string}"),
                9 => format!("{column}::varchar(3) = {string}"),
                10 => format!("{column} = {string}::varchar(2)"),
                _ => format!("{column} ~~* {string}"),
            },
            Type::Uuid => match self.random.below(4) {
                0 => format!("{column} = '{}'", text.to_uppercase()),
                1 => format!("{column} = '{{{text}}}'"),
                2 => format!("{column} = '{}'", text.replace('-', "")),
                _ => format!("{column}::text = {string}"),
            },
            _ => format!("{column} = {string}"),
        };
        Node::from(trap)
    }
}
