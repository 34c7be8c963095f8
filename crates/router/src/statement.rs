//! One statement to one plan: the reader of its kind, by its first words.
//!
//! Owns the dispatch and what holds for every kind: the unsharded database and the named shard.
//! Main function: [`plan`].

use std::cell::RefCell;
use std::collections::BTreeSet;

use sqlparser::ast::Statement;

use crate::action::Action;
use crate::lexer::TokenKind;
use crate::literal::Literals;
use crate::parse::with_parsed;
use crate::place::{Draft, place};
use crate::plan::{Access, NamedCheck, Placement, Span, StatementPlan};
use crate::planner::PlanContext;
use crate::rejection::{Rejection, label};
use crate::scope::Names;
use crate::survey::{Subject, Survey, Unread};
use crate::tokens::{Cursor, StatementText};
use crate::{
    copy, cursor, ddl, explain, maintenance, prepared, set_config, setting, transaction, unparsed,
    utility,
};

/// Statements of more tokens are not read: the tree would take a hundred times their size.
const MAX_TOKENS: usize = 400_000;

/// A statement of a query string.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) sql: &'a [u8],
    pub(crate) span: Span,
    pub(crate) literals: &'a Literals,
    pub(crate) guards: &'a RefCell<BTreeSet<u32>>,
}

/// Plans one statement; `named`: the client named a shard.
pub(crate) fn plan(
    source: Source<'_>,
    context: &PlanContext<'_>,
    named: bool,
) -> Result<StatementPlan, Rejection> {
    let text = StatementText::read(
        source.sql,
        source.span,
        context.backslash,
        source.literals,
        source.guards,
        MAX_TOKENS,
    );
    let Some(text) = text else {
        let draft = unparsed::too_long();
        return finish(draft, context, named, 0);
    };
    let subject = Subject {
        text: &text,
        names: Names {
            catalog: context.catalog,
            sharding: context.sharding,
            search_path: context.search_path,
        },
        parameter_types: context.parameter_types,
    };
    let draft = read(subject)?;
    finish(draft, context, named, text.highest_parameter())
}

/// Reads a statement of any kind.
///
/// # Errors
/// Only what is refused whatever the database is like: a `SET pgherd.*` that makes no sense.
pub(crate) fn read(subject: Subject<'_, '_>) -> Result<Draft, Rejection> {
    let start = subject.text.cursor();
    if begins_query(start) {
        return Ok(surveyed(subject, start.at, start.end, set_config::place));
    }
    if let Some(draft) = setting::read(start, subject)? {
        return Ok(draft);
    }
    let readers = [
        transaction::read,
        cursor::read,
        prepared::read,
        copy::read,
        explain::read,
        utility::read,
        maintenance::read,
        ddl::read,
    ];
    Ok(readers
        .iter()
        .find_map(|reader| reader(start, subject))
        .unwrap_or_else(|| {
            unparsed::draft(subject, Unread("The planner does not know this statement."))
        }))
}

/// Does a query, or a statement that sqlparser reads, begin here?
pub(crate) fn begins_query(mut at: Cursor<'_, '_>) -> bool {
    while at.takes_kind(TokenKind::LeftParen) {}
    at.peeks_any(&[
        "select", "with", "values", "table", "insert", "update", "delete", "merge",
    ])
}

/// Plans the query in the tokens `from..to` of another statement.
pub(crate) fn read_query(subject: Subject<'_, '_>, from: usize, to: usize) -> Draft {
    surveyed(subject, from, to, |survey, _| place(survey))
}

fn surveyed(
    subject: Subject<'_, '_>,
    from: usize,
    to: usize,
    place: fn(&mut Survey<'_, '_>, &Statement) -> Draft,
) -> Draft {
    with_parsed(subject.text, from, to, |parsed| {
        let surveyed = parsed
            .map_err(Unread)
            .and_then(|parsed| Ok((Survey::of(subject, parsed)?, parsed)));
        match surveyed {
            Ok((mut survey, parsed)) => place(&mut survey, &parsed.statement),
            Err(unread) => unparsed::draft(subject, unread),
        }
    })
}

/// Applies what holds for every kind of statement.
fn finish(
    draft: Draft,
    context: &PlanContext<'_>,
    named: bool,
    parameters: u16,
) -> Result<StatementPlan, Rejection> {
    let Draft {
        action,
        placement,
        check,
        access,
        residue,
        reason,
        relations,
        checks_clock_words,
        reads_moment,
        vacates,
    } = draft;
    let unsharded = context.sharding.is_unsharded();
    let answered_by_session =
        matches!(placement, Ok(Placement::Nowhere | Placement::WhereCursorIs));
    let keeps_its_place =
        answered_by_session || matches!(action, Action::Set(_) | Action::SetTransaction(..));
    let (placement, reason) = if unsharded {
        match placement {
            Ok(placement) if answered_by_session => (placement, reason),
            Ok(_) | Err(_) => (
                Placement::One(context.sharding.home()),
                "the database has one shard".into(),
            ),
        }
    } else if named {
        match placement {
            Ok(placement) if keeps_its_place => (placement, reason),
            Ok(_) | Err(_) => (Placement::Named(check), "the client named the shard".into()),
        }
    } else {
        (placement?, reason)
    };
    let action = match action {
        Action::ReferenceWrite { .. } if !matches!(placement, Placement::All) => Action::Run,
        action => action,
    };
    Ok(StatementPlan {
        reads_moment,
        vacates,
        checks_clock_words: checks_clock_words && matches!(placement, Placement::All),
        action,
        placement,
        access,
        residue,
        reason: reason.into(),
        relations: relations.into(),
        parameters,
    })
}

/// A statement that is not run over shards, with what to do instead.
pub(crate) fn not_over_shards(what: &str, hint: &str) -> Draft {
    let rejection = Rejection::unsupported(
        label::STATEMENT,
        format!("{what} is not supported on a sharded database"),
    )
    .hint(hint);
    Draft::refused(Action::Run, rejection)
}

/// The hint of statements that one shard alone may run.
pub(crate) const NAME_A_SHARD: &str = "Name a shard with SET pgherd.shard.";

/// A statement that only reads, for the session or any server to answer.
pub(crate) fn answered(action: Action, placement: Placement, reason: &str) -> Draft {
    Draft {
        check: NamedCheck::Free,
        ..Draft::new(action, placement, reason).access(Access::Read)
    }
}
