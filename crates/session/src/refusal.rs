//! What a client hears of a statement that cannot be planned.
//!
//! Much of what the planner refuses is wrong on any Postgres: a misspelled table, an unknown column, a syntax error. A server is asked to
//! analyze such a text, without running it, and where it finds an error the client hears that, with its SQLSTATE, its words and its position.
//! Owns: when a server is asked, and which of its answers count. Never does: deciding what is refused (router). Main function:
//! [`Session::refusal`].

use pgherd_protocol::{PgError, SqlState};
use pgherd_router::lexer::{BackslashReading, Lexer, TokenKind};
use pgherd_router::{Access, Rejection};
use pgherd_topology::NodeId;

use crate::failure::Failure;
use crate::own::Trouble;
use crate::session::Session;

impl Session {
    /// What a client hears whose text was rejected: what a server finds wrong with it, if it does.
    pub(crate) async fn refusal(
        &mut self,
        rejection: Rejection,
        sql: &str,
        parameter_types: &[u32],
    ) -> Failure {
        if !may_be_wrong_anywhere(&rejection) || !is_one_statement(sql) {
            return rejection.into();
        }
        // that there is no server to ask is not what the client asked for
        let Ok(Some(node)) = self.who_can_tell().await else {
            return rejection.into();
        };
        // another shard than the home one lacks the tables without a rule: it is believed only where the planner knows none either
        let home = self.sharding().home();
        let knows_tables =
            self.legs.at(node).shard == home || rejection.code == SqlState::UNDEFINED_TABLE;
        match self.analyze_text(node, sql, parameter_types).await {
            Err(Trouble::Refused(error))
                if is_of_the_text(&error)
                    && (knows_tables || error.code != SqlState::UNDEFINED_TABLE) =>
            {
                Failure::Refused(error)
            }
            Err(Trouble::Lost(failure)) if self.block.is_some() => failure,
            Ok(()) | Err(_) => rejection.into(),
        }
    }

    /// Has a server analyze a text. What an open block has done stays: messages ahead of this one may still be to be carried out.
    async fn analyze_text(
        &mut self,
        node: NodeId,
        sql: &str,
        parameter_types: &[u32],
    ) -> Result<(), Trouble> {
        let in_block = self.block.is_some();
        if in_block {
            self.execute(node, "SAVEPOINT pgherd_analyzes").await?;
        }
        let said = self
            .describe_parameters_of(node, sql, parameter_types)
            .await;
        if in_block && !matches!(said, Err(Trouble::Lost(_))) {
            let back = "ROLLBACK TO SAVEPOINT pgherd_analyzes; RELEASE SAVEPOINT pgherd_analyzes";
            self.execute(node, back).await?;
        }
        said.map(|_| ())
    }

    /// A server that knows the definitions as the client sees them: of an open block one that takes part, so that none is drawn in while
    /// others are held.
    async fn who_can_tell(&mut self) -> Result<Option<NodeId>, Failure> {
        let is_failed = self.block.as_ref().is_some_and(|block| block.failed);
        if is_failed || self.open_run.is_some() {
            return Ok(None);
        }
        let home = self.sharding().home();
        let taking_part = self.legs.in_block().first().copied();
        let shard = match (self.held(home), taking_part) {
            (None, Some(node)) => self.legs.at(node).shard,
            (Some(_), _) | (None, None) => home,
        };
        self.script.clear();
        self.leg(shard, Access::Write).await.map(Some)
    }
}

/// Whether the reason for a rejection may be that the text is wrong, not that it concerns several shards.
fn may_be_wrong_anywhere(rejection: &Rejection) -> bool {
    [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
    ]
    .contains(&rejection.code)
}

/// Whether a text holds one statement, which is none of pgherd's own.
fn is_one_statement(sql: &str) -> bool {
    // where backslashes are read otherwise, a literal may end elsewhere: then nobody is asked, or a server says so
    let mut lexer = Lexer::new(sql.as_bytes(), BackslashReading::Literal);
    let mut ended = false;
    let mut first = true;
    while let Ok(Some(token)) = lexer.next_token() {
        if token.kind == TokenKind::Semicolon {
            ended = true;
            continue;
        }
        let word = sql.get(token.start as usize..token.end as usize);
        if ended || (first && word.is_some_and(|word| word.eq_ignore_ascii_case("explain"))) {
            return false;
        }
        first = false;
    }
    !first
}

/// Whether an error is about the text: of syntax and names (42), of values in it (22), or of what Postgres does not do either.
fn is_of_the_text(error: &PgError) -> bool {
    let code = error.code.as_str();
    ["42", "22", "0A", "3F"]
        .iter()
        .any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_statements_are_asked_about() {
        for one in ["SELECT 1", "SELECT 1;;", "SELECT ';' -- ; x", "  (TABLE a)"] {
            assert!(is_one_statement(one), "{one}");
        }
        for other in ["", ";", "SELECT 1; SELECT 2", "explain (route) SELECT 1"] {
            assert!(!is_one_statement(other), "{other}");
        }
    }
}
