//! Where in a client's text an error is that its server found in another one: names of prepared statements are replaced there.
//!
//! Owns that arithmetic. Main type: [`Positions`]. See Postgres documentation, chapter 55.8, field P.

use pgherd_protocol::PgError;
use pgherd_protocol::error::field;
use pgherd_router::BackslashReading;
use pgherd_router::lexer::{Lexer, TokenKind};

/// A text of a client's, and what a server was sent in its place: the same tokens, but for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    server: Box<str>,
    client: Box<str>,
}

impl Positions {
    /// What the server was sent, and what the client wrote.
    pub fn new(server: &str, client: &str) -> Self {
        Self {
            server: server.into(),
            client: client.into(),
        }
    }

    /// A position that the server tells, in characters from 1, in the client's text.
    fn in_clients(&self, position: usize) -> usize {
        let length = self.server.chars().count();
        if position > length + 1 {
            // within the text that EXECUTE runs: no place in this one
            return self.client.chars().count() + position - length;
        }
        let characters = self.server.char_indices();
        let at = characters.map(|(byte, _)| byte).nth(position.max(1) - 1);
        let at = at.unwrap_or(self.server.len());
        // the end of the last token before it, there and here, or its beginning where it is another name
        let mut known = (0, 0);
        for (server, client) in tokens(&self.server).zip(tokens(&self.client)) {
            if server.0 > at {
                break;
            }
            known = (server.0, client.0);
            if server.1 <= at {
                known = (server.1, client.1);
            } else if self.server.get(server.0..server.1) != self.client.get(client.0..client.1) {
                known = (at, client.0);
            }
        }
        let byte = known.1 + (at - known.0);
        let before = self.client.get(..byte).unwrap_or(&self.client);
        before.chars().count() + 1
    }

    /// An error with its position in the client's text; `None` where it has none.
    pub fn correct(&self, error: &PgError) -> Option<PgError> {
        let told = error.other(field::POSITION)?.parse().ok()?;
        let position = self.in_clients(told).to_string();
        Some(error.clone().with(field::POSITION, position))
    }
}

/// Where the tokens of a text are, but for semicolons, of which one text may have more.
fn tokens(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut lexer = Lexer::new(text.as_bytes(), BackslashReading::Literal);
    std::iter::from_fn(move || lexer.next_token().ok().flatten())
        .filter(|token| token.kind != TokenKind::Semicolon)
        .map(|token| (token.start as usize, token.end as usize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pgherd_protocol::{PgError, SqlState};

    use super::*;

    #[test]
    fn positions_behind_a_longer_name_are_the_clients() {
        let positions = Positions::new("PREPARE \"long\" AS 'ä' ;\nx", ";PREPARE p AS 'ä';x");
        for (there, here) in [
            (1, 2),
            (9, 10),
            (12, 10),
            (16, 12),
            (19, 15),
            (25, 19),
            (40, 34),
        ] {
            assert_eq!(positions.in_clients(there), here, "{there}");
        }

        let error = PgError::error(SqlState::SYNTAX_ERROR, "no").with(field::POSITION, "16");
        let corrected = positions.correct(&error).unwrap();
        assert_eq!(corrected.other(field::POSITION), Some("12"));
        assert_eq!(corrected.message, "no");
        let nowhere = PgError::error(SqlState::SYNTAX_ERROR, "no");
        assert!(positions.correct(&nowhere).is_none());
    }
}
