//! Everything that a tree mentions, wherever it stands: functions, relations, casts.
//!
//! Owns the one walk over the whole tree. Never cares about scopes. Main type: [`Census`].

use std::ops::ControlFlow;

use pgherd_topology::{TypeKind, Volatility};
use sqlparser::ast::{
    ArrayElemTypeDef, DataType, Distinct, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, ObjectName, Query, Select, Statement, TableFactor, Value, Visit, Visitor,
};

use crate::functions::{Call, FunctionFacts, GRAMMAR_STABLE};
use crate::parse::fold;
use crate::plan::Residue;
use crate::survey::{Survey, object_name};
use crate::tokens::Name;

/// The counts and marks of one statement.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) functions: FunctionFacts,
    /// Mentions of relations, functions in FROM among them.
    pub(crate) relations: usize,
    /// A cast to `regclass` and its kin, whose OIDs are the home shard's.
    pub(crate) casts_to_oid: bool,
    /// LIMIT, OFFSET, FETCH, DISTINCT ON, TABLESAMPLE: which rows is a matter of order.
    pub(crate) picks_rows: bool,
    /// A cast to a date or a time, which may read the clock.
    pub(crate) casts_to_time: bool,
    /// An `OPERATOR(...)` of a user.
    pub(crate) foreign_operator: bool,
    /// The first operator behind which a user's function may be that is not immutable.
    pub(crate) changing_operator: Option<String>,
    /// A cast to a type whose input or checks may call a user's function.
    pub(crate) casts_to_user_type: bool,
    /// The first column that each server fills for itself, such as `ctid`.
    pub(crate) system_column: Option<String>,
}

impl Census {
    pub(crate) fn note_foreign_operator(&mut self) {
        self.foreign_operator = true;
    }
}

/// Walks the statement.
pub(crate) fn take(survey: &mut Survey<'_, '_>, statement: &Statement) {
    let mut walk = Walk { survey };
    let ControlFlow::Continue(()) = statement.visit(&mut walk);
}

struct Walk<'w, 's, 'a> {
    survey: &'w mut Survey<'s, 'a>,
}

impl Walk<'_, '_, '_> {
    fn call(&mut self, name: &ObjectName, is_local: bool, window: bool) {
        // an unreadable name is nowhere in the catalog
        let name = object_name(name).unwrap_or_else(|| Name::unqualified("?"));
        let call = Call {
            schema: name.schema.as_deref(),
            name: &name.name,
            is_local,
            window,
        };
        let names = self.survey.subject.names;
        self.survey.census.functions.add(&call, &names);
    }

    /// An operator that a user has defined too may be that one: its types are not known here.
    fn operator(&mut self, symbol: &str) {
        let names = self.survey.subject.names;
        let changing = names
            .catalog
            .operators(None, symbol, names.search_path)
            .any(|found| !found.is_builtin() && found.volatility != Volatility::Immutable);
        if changing {
            self.survey
                .census
                .changing_operator
                .get_or_insert_with(|| symbol.to_owned());
        }
    }

    fn note_column(&mut self, name: String) {
        const SYSTEM: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
        if SYSTEM.contains(&name.as_str()) {
            self.survey.census.system_column.get_or_insert(name);
        }
    }

    fn note_user_type(&mut self, data_type: &DataType) {
        match data_type {
            DataType::Array(
                ArrayElemTypeDef::SquareBracket(element, _)
                | ArrayElemTypeDef::Qualified(element, _),
            ) => self.note_user_type(element),
            DataType::Custom(name, _) => {
                let Some(name) = object_name(name) else {
                    self.survey.census.casts_to_user_type = true;
                    return;
                };
                let names = self.survey.subject.names;
                let found = match &name.schema {
                    Some(schema) => names.catalog.type_in(schema, &name.name),
                    None => names.catalog.resolve_type(&name.name, names.search_path),
                };
                let plain = found
                    .is_none_or(|found| found.is_builtin() || matches!(found.kind, TypeKind::Enum));
                let runs_code = found.is_some_and(|found| !names.are_trusted(&found.calls));
                self.survey.census.casts_to_user_type |= !plain;
                if runs_code {
                    self.survey.census.functions.residue |= Residue::OPAQUE;
                }
            }
            _ => {}
        }
    }

    fn cast(&mut self, data_type: &DataType) {
        self.note_user_type(data_type);
        let census = &mut self.survey.census;
        match data_type {
            DataType::Regclass => census.casts_to_oid = true,
            DataType::Custom(name, _) => {
                if let Some(name) = object_name(name) {
                    census.casts_to_oid |= name.name.starts_with("reg");
                    census.casts_to_time |=
                        matches!(name.name.as_str(), "timestamptz" | "timetz" | "abstime");
                }
            }
            DataType::Date
            | DataType::Timestamp(..)
            | DataType::Time(..)
            | DataType::Datetime(_) => census.casts_to_time = true,
            _ => {}
        }
    }
}

/// Is the third argument of set_config the key word true?
fn sets_locally(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else {
        return false;
    };
    matches!(
        list.args.get(2),
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))))
            if matches!(value.value, Value::Boolean(true))
    )
}

impl Visitor for Walk<'_, '_, '_> {
    type Break = std::convert::Infallible;

    fn pre_visit_relation(&mut self, _name: &ObjectName) -> ControlFlow<Self::Break> {
        self.survey.census.relations += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        self.survey.census.picks_rows |= query.limit_clause.is_some() || query.fetch.is_some();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        self.survey.census.picks_rows |= matches!(select.distinct, Some(Distinct::On(_)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                name, args, sample, ..
            } => {
                if args.is_some() {
                    self.call(name, false, false);
                }
                self.survey.census.picks_rows |= sample.is_some();
            }
            TableFactor::Function { name, .. } => self.call(name, false, false),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
        match expression {
            Expr::Function(function) => {
                let is_local = sets_locally(function);
                self.call(&function.name, is_local, function.over.is_some());
            }
            Expr::Identifier(name) => {
                let folded = fold(name);
                if name.quote_style.is_none() && GRAMMAR_STABLE.contains(&folded.as_str()) {
                    let name = ObjectName::from(vec![name.clone()]);
                    self.call(&name, false, false);
                }
                self.note_column(folded);
            }
            Expr::CompoundIdentifier(parts) => {
                if let Some(column) = parts.last() {
                    self.note_column(fold(column));
                }
            }
            Expr::Cast {
                expr, data_type, ..
            } => {
                self.cast(data_type);
                self.survey.value_reader().note_cast(expr, data_type);
            }
            Expr::TypedString(typed) => self.cast(&typed.data_type),
            Expr::BinaryOp { op, .. }
            | Expr::AnyOp { compare_op: op, .. }
            | Expr::AllOp { compare_op: op, .. } => self.operator(&op.to_string()),
            Expr::UnaryOp { op, .. } => self.operator(&op.to_string()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
