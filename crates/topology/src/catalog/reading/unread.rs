//! Which functions run along with a statement though it names none: those of defaults, CHECK constraints, domains and row level
//! security policies.
//!
//! Owns the rule of which count: as with a call in a statement, those that users wrote and did not call IMMUTABLE. What is written in C is
//! trusted to leave nothing on its connection. Main type: [`Unread`].

use std::collections::HashMap;

use super::Reading;
use super::expression;
use super::rows::{FunctionRow, TypeRow};
use crate::catalog::{FIRST_USER_OID, Relation};
use crate::names::RelationName;

/// Volatile functions of Postgres that leave nothing on their connection but what is drawn from a sequence, which the session follows.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// One shard's expressions, by what they belong to.
pub(super) struct Unread<'a> {
    reading: &'a Reading,
    functions: HashMap<u32, &'a FunctionRow>,
    types: HashMap<u32, &'a TypeRow>,
    /// Those of a domain: its default and its constraints.
    of_types: HashMap<u32, Vec<&'a str>>,
}

impl<'a> Unread<'a> {
    pub(super) fn new(reading: &'a Reading) -> Self {
        let mut of_types: HashMap<u32, Vec<&str>> = HashMap::new();
        for row in &reading.checks {
            of_types
                .entry(row.domain)
                .or_default()
                .push(&row.expression);
        }
        for row in &reading.types {
            let default = row.default.as_deref();
            of_types.entry(row.oid).or_default().extend(default);
        }
        of_types.retain(|oid, expressions| *oid >= FIRST_USER_OID && !expressions.is_empty());
        Self {
            reading,
            functions: reading.functions.iter().map(|row| (row.oid, row)).collect(),
            types: reading.types.iter().map(|row| (row.oid, row)).collect(),
            of_types,
        }
    }

    /// Notes on relations of users what runs along with statements on them; `names` are those of all relations.
    pub(super) fn note(
        &self,
        relations: &mut HashMap<u32, Relation>,
        names: &HashMap<u32, &RelationName>,
    ) {
        for (oid, relation) in relations
            .iter_mut()
            .filter(|(oid, _)| **oid >= FIRST_USER_OID)
        {
            let columns = self.reading.columns.get(oid).map_or(&[][..], Vec::as_slice);
            for column in columns {
                let calls = &mut relation.writing_calls;
                self.add_type(column.type_oid, calls, &mut Vec::new());
                if let Some(default) = &column.default {
                    self.add(default, calls, &mut Vec::new());
                }
            }
        }
        for row in &self.reading.checks {
            if let Some(relation) = relations.get_mut(&row.relation) {
                self.add(
                    &row.expression,
                    &mut relation.writing_calls,
                    &mut Vec::new(),
                );
            }
        }
        for row in &self.reading.policies {
            let Some(relation) = relations.get_mut(&row.relation) else {
                continue;
            };
            let calls = if row.reads {
                &mut relation.reading_calls
            } else {
                &mut relation.writing_calls
            };
            self.add(&row.expression, calls, &mut Vec::new());
            let read = expression::relations(&row.expression);
            for name in read.filter_map(|oid| names.get(&oid)) {
                push(&mut relation.policies_read, name);
            }
        }
    }

    /// Those that run where a value becomes one of a type.
    pub(super) fn of_type(&self, oid: u32) -> Vec<RelationName> {
        let mut calls = Vec::new();
        self.add_type(oid, &mut calls, &mut Vec::new());
        calls
    }

    /// `seen`: the types whose expressions are being looked at or were.
    fn add(&self, expression: &str, calls: &mut Vec<RelationName>, seen: &mut Vec<u32>) {
        for oid in expression::calls(expression).functions {
            match self.functions.get(&oid) {
                Some(function) if leaves_nothing(function) => {}
                Some(function) => push(calls, &function.name),
                None => push(calls, &RelationName::new("", oid.to_string())),
            }
        }
        for oid in expression::results(expression) {
            self.add_type(oid, calls, seen);
        }
    }

    fn add_type(&self, oid: u32, calls: &mut Vec<RelationName>, seen: &mut Vec<u32>) {
        if oid < FIRST_USER_OID || self.of_types.is_empty() || seen.contains(&oid) {
            return;
        }
        seen.push(oid);
        for expression in self.of_types.get(&oid).into_iter().flatten() {
            self.add(expression, calls, seen);
        }
        if let Some(row) = self.types.get(&oid) {
            let fields = self
                .reading
                .columns
                .get(&row.relation)
                .into_iter()
                .flatten();
            let fields = fields.map(|column| column.type_oid);
            for part in [row.element, row.base, row.subtype, row.range]
                .into_iter()
                .chain(fields)
            {
                self.add_type(part, calls, seen);
            }
        }
    }
}

fn push(names: &mut Vec<RelationName>, name: &RelationName) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

fn leaves_nothing(function: &FunctionRow) -> bool {
    let is_builtin = function.oid < FIRST_USER_OID;
    match function.volatility {
        b'i' => true,
        b'v' if is_builtin => HARMLESS.contains(&&*function.name.name),
        _ => is_builtin || function.is_compiled,
    }
}
