//! Any bytes as SQL: tokens must tile the text in order, and what stands between them must be blank or comment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgherd_router::BackslashReading;
use pgherd_router::lexer::{Lexer, TokenKind};
use pgherd_router::literal::Literal;

fuzz_target!(|input: (bool, &[u8])| {
    let (escape, sql) = input;
    let backslash = if escape {
        BackslashReading::Escape
    } else {
        BackslashReading::Literal
    };
    let mut lexer = Lexer::new(sql, backslash);
    let mut end = 0;
    while let Ok(Some(token)) = lexer.next_token() {
        assert!(token.start >= end && token.end > token.start);
        assert!(token.end as usize <= sql.len());
        let between = &sql[end as usize..token.start as usize];
        let blank = between
            .iter()
            .all(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
        let comment = between
            .windows(2)
            .any(|pair| pair == b"--" || pair == b"/*");
        assert!(blank || comment, "{between:?}");
        if let TokenKind::Literal(kind) = token.kind {
            let literal = Literal {
                kind,
                start: token.start,
                end: token.end,
            };
            let _ = literal.value(sql);
        }
        end = token.end;
    }
});
