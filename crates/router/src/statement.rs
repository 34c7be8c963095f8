//! One statement to one plan: the reader of its kind, by its first words.
//!
//! Owns the dispatch and what holds for every kind: the unsharded database and the named shard.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::action::Action;
use crate::literal::Literals;
use crate::plan::{Access, Placement, Residue, Span, StatementPlan};
use crate::planner::PlanContext;
use crate::rejection::{Rejection, label};

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
    _source: Source<'_>,
    context: &PlanContext<'_>,
    _named: bool,
) -> Result<StatementPlan, Rejection> {
    if context.sharding.is_unsharded() {
        return Ok(StatementPlan {
            action: Action::Run,
            placement: Placement::One(context.sharding.home()),
            access: Access::Write,
            residue: Residue::OPAQUE,
            reason: "the database has one shard".into(),
            relations: Box::default(),
            parameters: 0,
            checks_clock_words: false,
        });
    }
    Err(Rejection::unsupported(
        label::STATEMENT,
        "the statement is not planned for several shards",
    ))
}
