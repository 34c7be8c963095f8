//! All that is found out about a SELECT, INSERT, UPDATE or DELETE before its place is decided.
//!
//! Owns the collected facts. What speaks against a placement is noted, not returned, since a named
//! shard or an unsharded database does without it. Main type: [`Survey`].

use std::collections::HashMap;
use std::ops::ControlFlow;

use pgherd_topology::{Column, TableRule};
use sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Query, Statement, Visit, Visitor};

use crate::census::{self, Census};
use crate::output::Asked;
use crate::parse::{Parsed, fold};
use crate::plan::{KeySet, KeySource, KeyUsage};
use crate::predicate::{Level, Output};
use crate::rejection::{Rejection, label};
use crate::scope::{Names, TableKind, TableMode, TableUse};
use crate::tokens::{Name, StatementText};
use crate::value::{ParameterUses, ValueReader, array_oid, inferred_oid};

/// What is being planned, and in which surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'s, 'a> {
    pub(crate) text: &'s StatementText<'a>,
    pub(crate) names: Names<'s>,
    pub(crate) parameter_types: &'s [u32],
}

/// The findings.
pub(crate) struct Survey<'s, 'a> {
    pub(crate) subject: Subject<'s, 'a>,
    /// Every mention of a relation.
    pub(crate) tables: Vec<TableUse<'s>>,
    /// The keys that fix the sharded tables.
    pub(crate) keys: Vec<KeySet>,
    /// The keys of rows that the statement writes, for a named shard to be checked against.
    pub(crate) written_keys: Vec<KeySet>,
    /// The first sharded table that no key fixes.
    pub(crate) unfixed: Option<Rejection>,
    /// A write whose rows' place cannot be checked, or that would move rows.
    pub(crate) uncheckable: Option<Rejection>,
    /// The first relation that is not known, or is refused by configuration.
    pub(crate) unresolved: Option<Rejection>,
    pub(crate) uses: ParameterUses,
    pub(crate) census: Census,
    /// FOR UPDATE and its kin.
    pub(crate) locks: bool,
    /// SELECT INTO
    pub(crate) into: bool,
    /// A column of a reference table is left to a default that is not the same everywhere.
    pub(crate) varying_default: Option<String>,
    /// A date or a time is left to a default, which may be `now()`.
    pub(crate) default_moment: bool,
    /// UPDATE ... FROM or DELETE ... USING.
    pub(crate) joins_in_write: bool,
    /// RETURNING
    pub(crate) returning: bool,
    pub(crate) overriding_user_value: bool,
    /// Relations that the walk has met, to be compared with those in the tree.
    pub(crate) met: usize,
    /// What queries give, by their address.
    pub(crate) outputs: HashMap<usize, Option<Output>>,
    /// What is asked of queries, by their address.
    pub(crate) asked: HashMap<usize, Asked>,
    /// What each mention asks of a query of WITH, by its address.
    pub(crate) cte_uses: HashMap<usize, Vec<Asked>>,
}

/// Names that WITH defines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ctes<'w> {
    pub(crate) entries: &'w [CteEntry],
    pub(crate) parent: Option<&'w Ctes<'w>>,
}

/// One query of WITH.
#[derive(Debug, Clone)]
pub(crate) struct CteEntry {
    pub(crate) name: String,
    /// Of its query.
    pub(crate) address: usize,
    /// The columns it gives, under its own names for them.
    pub(crate) output: Option<Output>,
}

impl Ctes<'_> {
    pub(crate) const NONE: Ctes<'static> = Ctes {
        entries: &[],
        parent: None,
    };

    /// The query of WITH that a name means.
    pub(crate) fn find(&self, name: &Name) -> Option<&CteEntry> {
        if name.schema.is_some() {
            return None;
        }
        self.entries
            .iter()
            .find(|entry| entry.name == name.name)
            .or_else(|| self.parent?.find(name))
    }
}

/// The statement says something that the planner does not know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unread(pub(crate) &'static str);

impl<'s, 'a> Survey<'s, 'a> {
    /// Surveys a parsed statement.
    ///
    /// # Errors
    /// [`Unread`] where a part of the tree is not understood: nothing may be concluded then.
    pub(crate) fn of(subject: Subject<'s, 'a>, parsed: &Parsed) -> Result<Self, Unread> {
        let mut survey = Self {
            subject,
            tables: Vec::new(),
            keys: Vec::new(),
            written_keys: Vec::new(),
            unfixed: None,
            uncheckable: None,
            unresolved: None,
            uses: ParameterUses::default(),
            census: Census::default(),
            locks: false,
            into: false,
            varying_default: None,
            default_moment: false,
            joins_in_write: false,
            returning: false,
            overriding_user_value: parsed.overriding_user_value,
            met: 0,
            outputs: HashMap::new(),
            asked: HashMap::new(),
            cte_uses: HashMap::new(),
        };
        if parsed.foreign_operator {
            survey.census.note_foreign_operator();
        }
        census::take(&mut survey, &parsed.statement);
        match &parsed.statement {
            Statement::Query(query) => survey.query(query, None, &Ctes::NONE)?,
            statement => survey.write(statement, &Ctes::NONE)?,
        }
        if survey.met != survey.census.relations {
            return Err(Unread("The planner did not find its way to every table."));
        }
        survey.verify_parameters();
        Ok(survey)
    }

    /// Resolves a name and notes the mention.
    pub(crate) fn mention(&mut self, name: &Name, mode: TableMode) -> Option<TableUse<'s>> {
        match self.subject.names.table(name, mode) {
            Ok(table) => {
                self.tables.push(table.clone());
                Some(table)
            }
            Err(rejection) => {
                self.unresolved.get_or_insert(rejection);
                None
            }
        }
    }

    pub(crate) fn value_reader(&mut self) -> ValueReader<'_, 'a> {
        ValueReader {
            text: self.subject.text,
            catalog: self.subject.names.catalog,
            parameter_types: self.subject.parameter_types,
            uses: &mut self.uses,
        }
    }

    /// The value of an expression beside a column.
    pub(crate) fn value(
        &mut self,
        expression: &Expr,
        column: &Column,
        usage: KeyUsage,
    ) -> Result<KeySource, String> {
        self.value_reader().read(expression, column, usage)
    }

    /// Walks the subqueries of a part of the tree, which see `level`.
    pub(crate) fn subqueries(
        &mut self,
        part: &impl Visit,
        level: Option<&Level<'_>>,
        ctes: &Ctes<'_>,
    ) -> Result<(), Unread> {
        let mut walk = SubqueryWalk {
            survey: self,
            level,
            ctes,
            depth: 0,
        };
        match part.visit(&mut walk) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(unread) => Err(unread),
        }
    }

    /// Adds a key, unless one of the same values and placement is there. A value that is stored is
    /// held to more than one that is compared, so that use is kept.
    pub(crate) fn add_key(&mut self, key: KeySet) {
        // so many are of one INSERT, and hardly the same
        const MANY: usize = 64;
        if self.keys.len() >= MANY {
            self.keys.push(key);
            return;
        }
        let names = self.subject.names;
        let same = self.keys.iter_mut().find(|other| {
            let placed_alike = other.rule.table == key.rule.table
                || names.sharding.colocated(&other.rule.table, &key.rule.table);
            placed_alike
                && other.by_row == key.by_row
                && other.columns.len() == key.columns.len()
                && other
                    .columns
                    .iter()
                    .zip(&key.columns)
                    .all(|(one, other)| one.covers(other) || other.covers(one))
        });
        let Some(known) = same else {
            self.keys.push(key);
            return;
        };
        for (known, new) in known.columns.iter_mut().zip(&key.columns) {
            if new.covers(known) {
                *known = *new;
            }
        }
    }

    /// Notes that a sharded table is not fixed to a key.
    pub(crate) fn leave_unfixed(&mut self, rule: &TableRule, column: &str, why: Option<&str>) {
        let table = &rule.table;
        let detail = match why {
            Some(why) => format!("The sharding key {table}.{column} {why}."),
            None => format!("No condition fixes the sharding key {table}.{column} to a value."),
        };
        self.unfixed.get_or_insert_with(|| {
            Rejection::unsupported(
                label::NO_KEY,
                "the statement is not proven to belong on one shard",
            )
            .detail(detail)
            .hint(format!(
                "Compare {column} with a literal or a parameter by =, joined to the rest by AND, or name a shard with SET pgherd.shard."
            ))
        });
    }

    /// Takes back keys whose parameter's type turned out uncertain.
    fn verify_parameters(&mut self) {
        use crate::plan::KeyOrigin;
        let mut uncertain = None;
        for key in self.keys.iter().chain(&self.written_keys) {
            for source in &key.columns {
                let (index, inferred) = match source.origin {
                    KeyOrigin::Parameter(index) => (index, inferred_oid(source.key_type)),
                    KeyOrigin::ArrayParameter(index) => (index, array_oid(source.key_type)),
                    _ => continue,
                };
                if self.subject.is_declared(index) {
                    continue;
                }
                let occurrences = self.subject.text.parameter_occurrences(index);
                if !self.uses.agree(index, inferred, occurrences) {
                    uncertain.get_or_insert((key.rule.clone(), index, source.key_type));
                }
            }
        }
        if let Some((rule, index, key_type)) = uncertain {
            let number = u32::from(index) + 1;
            let rejection = Rejection::unsupported(
                label::PARAMETER_TYPE,
                "the type of a sharding key's parameter is not certain",
            )
            .detail(format!(
                "${number} is compared with the sharding key of {} and used elsewhere in the statement, where it may be given another type.",
                rule.table
            ))
            .hint(format!("Declare its type when preparing, or write ${number}::{key_type} everywhere."));
            self.unfixed.get_or_insert(rejection.clone());
            if !self.written_keys.is_empty() {
                self.uncheckable.get_or_insert(rejection);
            }
        }
    }

    pub(crate) fn writes(&self) -> bool {
        self.tables
            .iter()
            .any(|table| table.mode != TableMode::Read)
    }
}

impl Subject<'_, '_> {
    /// Did Parse declare the parameter's type?
    pub(crate) fn is_declared(&self, index: u16) -> bool {
        const UNKNOWN: u32 = 705;
        self.parameter_types
            .get(usize::from(index))
            .is_some_and(|oid| !matches!(*oid, 0 | UNKNOWN))
    }
}

/// Hands the outermost queries of an expression to the survey.
struct SubqueryWalk<'w, 's, 'a> {
    survey: &'w mut Survey<'s, 'a>,
    level: Option<&'w Level<'w>>,
    ctes: &'w Ctes<'w>,
    depth: usize,
}

impl Visitor for SubqueryWalk<'_, '_, '_> {
    type Break = Unread;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Unread> {
        self.depth += 1;
        if self.depth == 1
            && let Err(unread) = self.survey.query(query, self.level, self.ctes)
        {
            return ControlFlow::Break(unread);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Unread> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// A name of the tree with at most a schema before it; `None` for anything else.
pub(crate) fn object_name(name: &ObjectName) -> Option<Name> {
    let parts: Vec<&Ident> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(ident),
            ObjectNamePart::Function(_) => None,
        })
        .collect::<Option<_>>()?;
    match parts.as_slice() {
        [name] => Some(Name::unqualified(fold(name))),
        [.., schema, name] => Some(Name {
            schema: Some(fold(schema)),
            name: fold(name),
        }),
        [] => None,
    }
}

/// The rule of a sharded table.
pub(crate) fn rule_of<'t>(table: &'t TableUse<'_>) -> Option<&'t std::sync::Arc<TableRule>> {
    match &table.kind {
        TableKind::Sharded(rule) => Some(rule),
        TableKind::Reference | TableKind::Home | TableKind::System => None,
    }
}
