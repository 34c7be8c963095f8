//! Calls of `set_config`: SET by another name, which drivers, row level security and ORMs send in a SELECT.
//!
//! Owns which queries certainly make each of their calls once, and what a call sets at an execution. Main type: [`SettingCall`].
//! See [Postgres documentation, 9.28.1](https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SET).

use std::borrow::Cow;

use pgherd_protocol::oid;
use pgherd_topology::{KeyType, KeyValue, Sharding};
use sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    GroupByExpr, Select, SelectItem, SetExpr, Statement, Value,
};

use crate::action::{Action, SettingAction, SettingScope, SettingValue};
use crate::functions::SET_CONFIG;
use crate::lexer::LiteralKind;
use crate::parse::slot_of;
use crate::place::{self, Draft};
use crate::plan::Access;
use crate::rejection::{Rejection, label};
use crate::resolve::{ParameterFormat, Values};
use crate::setting::{LISTS_OF_NAMES, list_members};
use crate::survey::{Subject, Survey, object_name};
use crate::value::parameter_index;

/// One call of `set_config` in a select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingCall {
    /// Its column in the result, from 0, which shows the value that the setting has then.
    pub column: usize,
    /// The setting.
    pub name: Given,
    /// What it becomes; NULL is its default.
    pub value: Given,
    /// Whether that ends with the transaction; NULL is no.
    pub is_local: Given,
}

/// An argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// NULL
    Null,
    /// A key word.
    Boolean(bool),
    /// The literal in this slot.
    Literal(u32),
    /// A parameter, from 0: `$1` is 0.
    Parameter(u16),
    /// Anything else: only the server knows.
    Computed,
}

impl SettingCall {
    /// What the call sets at an execution: `SET` with the same effect. `None` where that cannot be known, or where the setting is
    /// pgherd's own, of which no server knows. `returned` is what the call returned, which stands for a value that the server computed.
    #[must_use]
    pub fn read(&self, values: &Values<'_>, returned: Option<&[u8]>) -> Option<SettingAction> {
        let name = self.name(values)?;
        let text = match self.value {
            // which is not to be seen
            Given::Computed if name == "seed" => return None,
            Given::Computed => Some(returned?.into()),
            given => given.text(values)?,
        };
        let value = match text {
            None => SettingValue::Default,
            Some(text) => {
                let text = std::str::from_utf8(&text).ok()?;
                SettingValue::Texts(if LISTS_OF_NAMES.contains(&name.as_str()) {
                    list_members(text)
                } else {
                    [text.into()].into()
                })
            }
        };
        Some(SettingAction {
            scope: if self.is_local.boolean(values)? {
                SettingScope::Local
            } else {
                SettingScope::Session
            },
            name: Some(name.into()),
            value,
            override_name: None,
        })
    }

    /// The setting, in lower case; `None` where it cannot be known, or is pgherd's own.
    #[must_use]
    pub fn name(&self, values: &Values<'_>) -> Option<String> {
        let name = self.name.text(values)??;
        let name = std::str::from_utf8(&name).ok()?.to_ascii_lowercase();
        (!name.starts_with("pgherd.")).then_some(name)
    }
}

impl Given {
    /// A text, or NULL; `None` where it is not known.
    fn text<'a>(self, values: &Values<'a>) -> Option<Option<Cow<'a, [u8]>>> {
        match self {
            Self::Null => Some(None),
            Self::Literal(slot) => values.literals.slot(slot)?.value(values.sql).map(Some),
            // in either format
            Self::Parameter(index) => {
                let bytes = values.parameters?.parameter(index)?.bytes;
                Some(bytes.map(Cow::Borrowed))
            }
            Self::Boolean(_) | Self::Computed => None,
        }
    }

    /// Whether it is true, which NULL is not; `None` where it is not known.
    fn boolean(self, values: &Values<'_>) -> Option<bool> {
        let is_binary = match self {
            Self::Boolean(value) => return Some(value),
            Self::Parameter(index) => {
                values.parameters?.parameter(index)?.format == ParameterFormat::Binary
            }
            Self::Null | Self::Literal(_) | Self::Computed => false,
        };
        let Some(bytes) = self.text(values)? else {
            return Some(false);
        };
        let read = if is_binary {
            KeyType::Boolean.value_from_binary(&bytes)
        } else {
            KeyType::Boolean.value_from_text(&bytes)
        };
        match read {
            Ok(KeyValue::Boolean(value)) => Some(value),
            Ok(_) | Err(_) => None,
        }
    }
}

/// On a sharded database what is set must be known: the other servers are told.
///
/// # Errors
/// 0A000.
pub(crate) fn check(
    calls: &[SettingCall],
    values: &Values<'_>,
    sharding: &Sharding,
) -> Result<(), Rejection> {
    // Postgres refuses a NULL as a name
    let known = |call: &SettingCall| {
        call.name.text(values) == Some(None) || call.read(values, Some(b"")).is_some()
    };
    if sharding.is_unsharded() || calls.iter().all(known) {
        return Ok(());
    }
    Err(Rejection::unsupported(
        label::STATEMENT,
        "set_config of such a setting is not supported on a sharded database",
    )
    .detail("It is pgherd's own, or its name or whether it is local cannot be read.")
    .hint("Use SET or SET LOCAL."))
}

/// Places a query that is a statement of its own.
pub(crate) fn place(survey: &mut Survey<'_, '_>, statement: &Statement) -> Draft {
    let Some(calls) = calls(survey, statement) else {
        return place::place(survey);
    };
    survey.census.functions.sets = None;
    let mut draft = place::place(survey).access(Access::Write);
    draft.action = Action::SetConfig(calls);
    draft
}

/// The calls of a statement, if there are any and each is certainly made, once, and does nothing but set a setting that can be read.
fn calls(survey: &Survey<'_, '_>, statement: &Statement) -> Option<Box<[SettingCall]>> {
    let functions = &survey.census.functions;
    let others_may_change = functions.volatile.is_some()
        || functions.user.is_some()
        || functions.unknown.is_some()
        || functions.may_write.is_some()
        || functions.returns_set;
    if functions.setting_calls == 0 || others_may_change {
        return None;
    }
    let select = lone_select(statement)?;
    let mut calls = Vec::new();
    for (column, item) in select.projection.iter().enumerate() {
        let (SelectItem::UnnamedExpr(expression)
        | SelectItem::ExprWithAlias {
            expr: expression, ..
        }) = item
        else {
            return None;
        };
        if let Expr::Function(function) = expression
            && let Some([name, value, is_local]) = arguments(function)
        {
            let reader = Reader {
                subject: survey.subject,
            };
            calls.push(SettingCall {
                column,
                name: reader.text(name),
                value: reader.text(value),
                is_local: reader.boolean(is_local),
            });
        }
    }
    let is_known = |call: &SettingCall| ![call.name, call.is_local].contains(&Given::Computed);
    // one within another expression may be made or not
    let all = calls.len() == functions.setting_calls && calls.iter().all(is_known);
    all.then(|| calls.into())
}

/// A SELECT of one row: nothing in it but a select list.
fn lone_select(statement: &Statement) -> Option<&Select> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && select.from.is_empty()
        && select.selection.is_none()
        && select.distinct.is_none()
        && select.having.is_none()
        && select.into.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
    plain.then_some(select)
}

/// The arguments of `set_config(a, b, c)`.
fn arguments(function: &Function) -> Option<[&Expr; 3]> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let plain = function.over.is_none()
        && function.filter.is_none()
        && function.within_group.is_empty()
        && list.duplicate_treatment.is_none()
        && list.clauses.is_empty()
        && object_name(&function.name)?.name == SET_CONFIG;
    let arguments: Option<Vec<&Expr>> = list
        .args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
            _ => None,
        })
        .collect();
    arguments?.try_into().ok().filter(|_| plain)
}

struct Reader<'s, 'a> {
    subject: Subject<'s, 'a>,
}

impl Reader<'_, '_> {
    fn text(&self, expression: &Expr) -> Given {
        self.read(expression, &[oid::TEXT, oid::VARCHAR], is_text)
    }

    fn boolean(&self, expression: &Expr) -> Given {
        self.read(expression, &[oid::BOOL], |data_type| {
            matches!(data_type, DataType::Bool | DataType::Boolean)
        })
    }

    /// An argument of these types, or cast to one of them from what has no type of its own.
    fn read(&self, expression: &Expr, types: &[u32], is_type: fn(&DataType) -> bool) -> Given {
        match expression {
            Expr::Nested(inner) => self.read(inner, types, is_type),
            Expr::Value(value) => match &value.value {
                Value::Null => Given::Null,
                Value::Boolean(value) if types.contains(&oid::BOOL) => Given::Boolean(*value),
                Value::Placeholder(_) => self.parameter(&value.value, types),
                literal => self.literal(literal),
            },
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } if is_type(data_type) => self.read(expr, types, is_type),
            Expr::TypedString(typed) if is_type(&typed.data_type) => {
                self.literal(&typed.value.value)
            }
            _ => Given::Computed,
        }
    }

    fn literal(&self, literal: &Value) -> Given {
        let is_string = |slot: &u32| {
            self.subject.text.literal(*slot).is_some_and(|literal| {
                matches!(
                    literal.kind,
                    LiteralKind::String
                        | LiteralKind::EscapeString
                        | LiteralKind::UnicodeString
                        | LiteralKind::DollarString
                )
            })
        };
        slot_of(literal)
            .filter(is_string)
            .map_or(Given::Computed, Given::Literal)
    }

    /// A parameter whose bytes are of one of these types: the declared one, or that of its only use.
    fn parameter(&self, parameter: &Value, types: &[u32]) -> Given {
        let Some(index) = parameter_index(parameter) else {
            return Given::Computed;
        };
        let declared = self.subject.parameter_types.get(usize::from(index));
        let certain = if self.subject.is_declared(index) {
            declared.is_some_and(|declared| types.contains(declared))
        } else {
            self.subject.text.parameter_occurrences(index) == 1
        };
        if certain {
            Given::Parameter(index)
        } else {
            Given::Computed
        }
    }
}

/// `text`, or `varchar` without a length, which cut nothing off.
fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None)
    )
}
