//! VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT: run shard by shard, in no common transaction.
//!
//! Owns their lists of tables (Postgres documentation, reference, under each name).

use crate::action::Action;
use crate::ddl::{Reach, Reached, reach};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::plan::Placement;
use crate::statement::{NAME_A_SHARD, not_over_shards};
use crate::survey::Subject;
use crate::tokens::{Cursor, Name};

/// Reads one of these statements; `None` where it is another.
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    if at.takes("vacuum") {
        options(&mut at);
        while at.takes_any(&["full", "freeze", "verbose", "analyze", "analyse"]) {}
        return over(&tables(at)?, subject);
    }
    if at.takes_any(&["analyze", "analyse"]) {
        options(&mut at);
        at.takes("verbose");
        return over(&tables(at)?, subject);
    }
    if at.takes("reindex") {
        options(&mut at);
        let kind = at.name()?;
        at.takes("concurrently");
        return match kind.as_str() {
            "table" | "index" => over(&[at.qualified_name()?], subject),
            "schema" | "database" | "system" => over(&[], subject),
            _ => None,
        };
    }
    if at.takes("cluster") {
        options(&mut at);
        at.takes("verbose");
        if at.at_end() {
            return over(&[], subject);
        }
        return over(&[at.qualified_name()?], subject);
    }
    if at.peeks("checkpoint") {
        return Some(not_over_shards("CHECKPOINT", NAME_A_SHARD));
    }
    None
}

fn options(at: &mut Cursor<'_, '_>) {
    if at.kind() == Some(TokenKind::LeftParen) {
        at.skip_one();
    }
}

/// `[ONLY] name [*] [(columns)] [, ...]`
fn tables(at: Cursor<'_, '_>) -> Option<Vec<Name>> {
    at.split_at_commas()
        .into_iter()
        .map(|mut part| {
            part.takes("only");
            part.qualified_name()
        })
        .collect()
}

fn over(names: &[Name], subject: Subject<'_, '_>) -> Option<Draft> {
    if names.is_empty() {
        return Some(Draft::new(
            Action::Run,
            Placement::EachInTurn,
            "every shard's own tables, one shard after the other",
        ));
    }
    let Reached { reach, relations } = match reach(names, subject) {
        Ok(reached) => reached,
        Err(rejection) => return Some(Draft::refused(Action::Run, rejection)),
    };
    let (placement, reason) = match reach {
        Reach::Everywhere => (
            Placement::EachInTurn,
            "the table is on every shard: one shard after the other",
        ),
        Reach::Home => (
            Placement::One(subject.names.home()),
            "the table lives on the home shard",
        ),
    };
    Some(Draft::new(Action::Run, placement, reason).relations(relations))
}
