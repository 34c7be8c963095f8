//! What `pgherd check` says about each file of `tests/configuration`: the text beside it, word for word.
//!
//! `UPDATE_DOCUMENTS=1 cargo test -p pgherd --test configuration` writes the texts anew; read them before keeping them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use pgherd::config::{ConfigError, parse};

/// Texts that stand for passwords in the files, and in the environment they are read with.
const SECRETS: [&str; 2] = ["hunter2", "s3cret"];

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configuration");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    cases.sort();
    assert!(cases.len() > 20);
    cases
}

/// What is said about a file, with the file named without its directory.
fn said(path: &Path) -> String {
    let source = std::fs::read_to_string(path).unwrap();
    let variable = |name: &str| (name == "APP_PASSWORD").then(|| "s3cret".to_owned());
    let name = Path::new(path.file_name().unwrap());
    match parse(name, &source, &variable, false) {
        Ok(loaded) => format!("{}right\n", loaded.warnings),
        Err(ConfigError::Invalid(report)) => report.to_string(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_file_is_answered_as_recorded() {
    let mut different = Vec::new();
    for path in cases() {
        let recorded = path.with_extension("txt");
        let said = said(&path);
        if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
            std::fs::write(&recorded, &said).unwrap();
        }
        if std::fs::read_to_string(&recorded).unwrap_or_default() != said {
            different.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn no_answer_holds_a_password() {
    for path in cases() {
        let said = said(&path);
        for secret in SECRETS {
            assert!(!said.contains(secret), "{}:\n{said}", path.display());
        }
    }
}
