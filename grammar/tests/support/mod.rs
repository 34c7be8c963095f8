//! The statements of the router's plan files.

#![allow(dead_code)]

use std::path::Path;

/// A statement of a plan file, and the `%` lines before it.
#[derive(Debug, Clone)]
pub struct Case {
    pub statement: String,
    pub directives: Vec<String>,
}

/// The statements of all plan files.
pub fn cases() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/router/tests/plans");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the plan files are there") {
        let path = entry.expect("a directory can be read").path();
        let text = std::fs::read_to_string(path).expect("a plan file is text");
        let mut statement = String::new();
        let mut directives = Vec::new();
        for line in text.lines() {
            if line.starts_with("->") {
                cases.push(Case {
                    statement: std::mem::take(&mut statement).trim_end().to_owned(),
                    directives: std::mem::take(&mut directives),
                });
            } else if let Some(directive) = line.strip_prefix('%') {
                directives.push(directive.trim().to_owned());
            } else if !(statement.is_empty() && (line.trim().is_empty() || line.starts_with('#'))) {
                statement.push_str(line);
                statement.push('\n');
            }
        }
    }
    assert!(cases.len() > 500, "{} statements", cases.len());
    cases
}
