//! CREATE INDEX: a unique one must contain the sharding key.

use crate::action::DdlPlan;
use crate::ddl::{Reach, at_home, concurrently_refused, everywhere, reach_of, refused};
use crate::lexer::TokenKind;
use crate::place::Draft;
use crate::scope::TableKind;
use crate::survey::Subject;
use crate::table_definition::{check_unique, made_by_identity};
use crate::tokens::Cursor;

/// `[UNIQUE] INDEX [CONCURRENTLY] [[IF NOT EXISTS] name] ON [ONLY] table [USING method] (columns) ...`
pub(crate) fn read(mut at: Cursor<'_, '_>, subject: Subject<'_, '_>) -> Option<Draft> {
    let unique = at.takes("unique");
    at.takes("index");
    let concurrently = at.takes("concurrently");
    at.takes_all(&["if", "not", "exists"]);
    if !at.takes("on") {
        at.name()?;
        if !at.takes("on") {
            return None;
        }
    }
    at.takes("only");
    let name = at.qualified_name()?;
    if at.takes("using") {
        at.name()?;
    }
    let elements = at.parenthesised()?;
    let (reach, full) = match reach_of(&name, subject) {
        Ok(found) => found,
        Err(rejection) => return Some(refused(rejection)),
    };
    if reach == Reach::Home {
        return Some(at_home(subject, vec![full]));
    }
    if concurrently {
        return Some(refused(concurrently_refused("CREATE INDEX CONCURRENTLY")));
    }
    if let (true, Ok(TableKind::Sharded(rule))) = (unique, subject.names.kind_of(&full)) {
        // an expression is no column: it contains the key in no way that separates shards
        let columns: Vec<String> = elements
            .split_at_commas()
            .into_iter()
            .filter_map(|mut element| {
                let column = element.name()?;
                let plain = !matches!(element.kind(), Some(TokenKind::LeftParen | TokenKind::Dot));
                plain.then_some(column)
            })
            .collect();
        let relation = subject.names.catalog.relation(&full);
        let made = |column: &str| made_by_identity(relation, column);
        if let Err(rejection) = check_unique(&rule, &columns, made) {
            return Some(refused(rejection));
        }
    }
    Some(everywhere(DdlPlan::default(), vec![full]))
}
