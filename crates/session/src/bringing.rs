//! Bringing a server connection to where the client is, in the same write as the request that needs it.
//!
//! Owns: what is sent ahead of a request: the client's settings where the connection has others, BEGIN and what else a late joiner of a
//! block is told. All of it goes as extended messages without a Sync, behind which a server skips everything once one of them fails: a
//! request never runs under other settings, as another role, or outside of its block. An empty simple query commits the settings and, unlike
//! a Sync, does not end the skipping (Postgres documentation, chapter 55.2.3). Never does: choosing or waiting for the connection
//! (`taking.rs`). Main function: [`Session::bring`].

use pgherd_pool::{Drawn, ServerConnection, Shape};
use pgherd_protocol::frontend::{encode_bind, encode_parse};
use pgherd_protocol::{FrontendMessage, Target};
use pgherd_router::BackslashReading;
use pgherd_router::lexer::{Lexer, TokenKind};
use pgherd_topology::NodeId;

use crate::failure::Failure;
use crate::legs::encode;
use crate::script::{Audience, Prepared, Reply, Script};
use crate::session::Session;

/// The most statements that a server connection keeps for whoever wants them, but for those of one request.
const MAX_PREPARED: usize = 500;

impl Session {
    /// Queues what brings a leg to the client's settings and into its block, replies expected in the session's script.
    ///
    /// # Errors
    /// 54000 where something does not fit a message.
    pub(crate) fn bring(&mut self, node: NodeId) -> Result<(), Failure> {
        let client = self.registration.id().0;
        let leg = self.legs.at(node);
        let connection = &mut leg.connection;
        let script = &mut self.script;
        // ahead of all else: a Close behind something that fails is skipped, and what it was to close stays
        while let Some(id) = connection.prepared.next_to_close(MAX_PREPARED) {
            queue_close(connection, script, id.to_string().as_bytes())?;
        }
        if !leg.in_block {
            let wanted = match &self.block {
                Some(block) => block.start().session(),
                None => self.settings.session(),
            };
            let statements = connection.statements_to(client, wanted.as_ref());
            if !statements.is_empty() {
                leg.inherited = connection.carried.is_some() || connection.tainted_by.is_some();
                for statement in statements.iter().flat_map(|text| single_statements(text)) {
                    queue_statement(connection, script, statement)?;
                }
                encode(
                    &FrontendMessage::Query(b""),
                    &mut connection.transport.outbox,
                )?;
                script.expect(Reply::Query, Audience::Pgherd);
            }
            // a connection that does not get there is closed
            connection.carried.clone_from(wanted);
            if connection.tainted_by.is_some_and(|owner| owner != client) {
                connection.tainted_by = None;
                connection.drawn = Drawn::default();
            }
        }
        if let Some(block) = &self.block {
            if !leg.in_block {
                queue_statement(connection, script, block.begin())?;
                leg.in_block = true;
                leg.told = 0;
            }
            for statement in block.told_after(leg.told) {
                queue_statement(connection, script, &statement)?;
            }
            leg.told = block.told_len();
            leg.settings = block.settings_after(leg.told).cloned();
        }
        script.is_brought();
        Ok(())
    }
}

/// The statements of a text (`connect_query` may have several).
fn single_statements(text: &str) -> Vec<&str> {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    let mut statements = Vec::new();
    let (mut start, mut is_empty) = (0, true);
    while let Ok(Some(token)) = lexer.next_token() {
        if token.kind != TokenKind::Semicolon {
            is_empty = false;
            continue;
        }
        if !is_empty {
            statements.extend(text.get(start..token.start as usize));
        }
        (start, is_empty) = (token.end as usize, true);
    }
    if !is_empty {
        statements.extend(text.get(start..));
    }
    statements
}

/// Queues one statement as extended messages without a Sync.
///
/// # Errors
/// 54000 where it does not fit a message.
pub fn queue_statement(
    connection: &mut ServerConnection,
    script: &mut Script,
    sql: &str,
) -> Result<(), Failure> {
    connection.prepared.forget_unnamed();
    let out = &mut connection.transport.outbox;
    encode_parse(out, b"", sql.as_bytes(), [])?;
    encode_bind(out, b"", b"", [], std::iter::empty::<Option<&[u8]>>(), [])?;
    encode(
        &FrontendMessage::Execute {
            portal: b"",
            max_rows: 0,
        },
        out,
    )?;
    script.expect(
        Reply::Parse(Prepared::Own, Shape::default()),
        Audience::Pgherd,
    );
    script.expect(Reply::Bind, Audience::Pgherd);
    script.expect(Reply::Execute, Audience::Pgherd);
    Ok(())
}

/// Queues one statement in the midst of a client's pipeline: its unnamed statement and portal stay as they are.
///
/// # Errors
/// 54000 where it does not fit a message.
pub fn queue_aside(
    connection: &mut ServerConnection,
    script: &mut Script,
    sql: &str,
) -> Result<(), Failure> {
    const NAME: &[u8] = b"pgherd_aside";
    let out = &mut connection.transport.outbox;
    encode_parse(out, NAME, sql.as_bytes(), [])?;
    encode_bind(out, NAME, NAME, [], std::iter::empty::<Option<&[u8]>>(), [])?;
    encode(
        &FrontendMessage::Execute {
            portal: NAME,
            max_rows: 0,
        },
        out,
    )?;
    encode(
        &FrontendMessage::Close {
            target: Target::Portal,
            name: NAME,
        },
        out,
    )?;
    script.expect(
        Reply::Parse(Prepared::Aside, Shape::default()),
        Audience::Pgherd,
    );
    script.expect(Reply::Bind, Audience::Pgherd);
    script.expect(Reply::Execute, Audience::Pgherd);
    script.expect(Reply::Close, Audience::Pgherd);
    queue_close(connection, script, NAME)
}

/// Queues the end of a prepared statement.
///
/// # Errors
/// 54000 where its name does not fit a message.
pub fn queue_close(
    connection: &mut ServerConnection,
    script: &mut Script,
    name: &[u8],
) -> Result<(), Failure> {
    let close = FrontendMessage::Close {
        target: Target::Statement,
        name,
    };
    encode(&close, &mut connection.transport.outbox)?;
    script.expect(Reply::Close, Audience::Pgherd);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_its_statements_end() {
        assert_eq!(
            single_statements("SET a = ';'; /* ; */ SET b = E'\\;' ;; -- end"),
            ["SET a = ';'", " /* ; */ SET b = E'\\;' "]
        );
        assert_eq!(single_statements("RESET ALL"), ["RESET ALL"]);
    }
}
