//! Statements and the plans they are to have, from the files in `plans/`.
//!
//! A case is a statement, over one line or several, and a line that begins with `->`:
//!
//! ```text
//! SELECT * FROM users WHERE id = 7
//! -> keyed(7) read | public.users (id)
//! ```
//!
//! After the arrow stands the plan as [`describe`] prints it, then, after `|`, parts that the reason (or
//! the rejection's message, detail and hint) must hold. `%` lines before a statement hold for it alone:
//! `%types 20 25` (declared parameters), `%named`, `%unsharded`, `%refuse` (unlisted tables), `%path a b`.
//!
//! `PGHERD_SHOW_PLANS=1` prints what every case gives.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::path::Path;

use pgherd_router::{
    Access, Action, KeyOrigin, KeySet, NamedCheck, Placement, Planned, Planner, Rejection,
};
use pgherd_topology::{Catalog, Sharding, Unlisted};

struct Case {
    line: usize,
    statement: String,
    directives: Vec<String>,
    expected: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut statement = String::new();
    let mut directives = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(expected) = line.strip_prefix("->") {
            cases.push(Case {
                line: index + 1,
                statement: std::mem::take(&mut statement).trim_end().to_owned(),
                directives: std::mem::take(&mut directives),
                expected: expected.trim().to_owned(),
            });
        } else if let Some(directive) = line.strip_prefix('%') {
            directives.push(directive.trim().to_owned());
        } else if statement.is_empty() && (line.trim().is_empty() || line.starts_with('#')) {
        } else {
            statement.push_str(line);
            statement.push('\n');
        }
    }
    assert!(
        statement.is_empty(),
        "a statement without a plan: {statement}"
    );
    cases
}

struct Databases {
    catalog: Catalog,
    sharded: Sharding,
    refusing: Sharding,
    unsharded: Sharding,
}

fn plan(case: &Case, databases: &Databases) -> Result<Planned, Rejection> {
    let mut sharding = &databases.sharded;
    let mut types = Vec::new();
    let mut path: Vec<Box<str>> = vec!["public".into()];
    let mut named = false;
    for directive in &case.directives {
        let mut words = directive.split(' ');
        match words.next().unwrap() {
            "types" => types = words.map(|word| word.parse().unwrap()).collect(),
            "path" => path = words.map(Into::into).collect(),
            "named" => named = true,
            "unsharded" => sharding = &databases.unsharded,
            "refuse" => sharding = &databases.refusing,
            other => panic!("line {}: %{other}", case.line),
        }
    }
    let mut context = support::context(&databases.catalog, sharding, &path, &types);
    context.named_shard = named;
    Planner::new(4).plan(case.statement.as_bytes(), &context)
}

fn describe_key(key: &KeySet, sql: &str, planned: &Planned) -> String {
    let parts: Vec<String> = key
        .columns
        .iter()
        .map(|source| {
            let literal = |slot: u32| {
                let texts: Vec<String> = planned
                    .literals
                    .elements(slot)
                    .map(|literal| literal.value(sql.as_bytes()).unwrap_or_default())
                    .map(|value| String::from_utf8_lossy(&value).into_owned())
                    .collect();
                texts.join("+")
            };
            let number = |index: u16| format!("${} {}", index + 1, source.key_type);
            match source.origin {
                KeyOrigin::Literal(slot) => literal(slot),
                KeyOrigin::Negated(slot) => format!("-{}", literal(slot)),
                KeyOrigin::Parameter(index) => number(index),
                KeyOrigin::Boolean(value) => value.to_string(),
                KeyOrigin::Integer(value) => format!("={value}"),
                KeyOrigin::ArrayLiteral(slot) => format!("each of {}", literal(slot)),
                KeyOrigin::ArrayParameter(index) => format!("each of {}", number(index)),
            }
        })
        .collect();
    parts.join("/")
}

/// One line for each statement of a plan, joined by ` ; `.
fn describe(sql: &str, planned: &Planned) -> String {
    let keys = |keys: &[KeySet]| {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| describe_key(key, sql, planned))
            .collect();
        keys.join(", ")
    };
    let mut lines = Vec::new();
    for statement in &planned.plan.statements {
        let mut line = match &statement.placement {
            Placement::Nowhere => "session".to_owned(),
            Placement::Any => "any".to_owned(),
            Placement::One(shard) => format!("home({shard})"),
            Placement::Keyed(keyed) => format!("keyed({})", keys(&keyed.keys)),
            Placement::All => "all".to_owned(),
            Placement::EachInTurn => "each".to_owned(),
            Placement::WhereCursorIs => "cursor".to_owned(),
            Placement::Named(NamedCheck::Free) => "named".to_owned(),
            Placement::Named(NamedCheck::OnlyOn(shard)) => format!("named(only {shard})"),
            Placement::Named(NamedCheck::Keys(keyed)) => format!("named({})", keys(&keyed.keys)),
            Placement::Named(NamedCheck::Impossible(_)) => "named(impossible)".to_owned(),
        };
        line.push_str(match statement.access {
            Access::Read => " read",
            Access::Write => " write",
        });
        for name in statement.residue.names() {
            write!(line, " +{name}").unwrap();
        }
        match &statement.action {
            Action::Run => {}
            Action::Ddl(ddl) => {
                line.push_str(" Ddl");
                if ddl.server_wide {
                    line.push_str(" server-wide");
                }
                for serial in &ddl.serial_columns {
                    write!(line, " serial {}.{}", serial.table, serial.column).unwrap();
                }
            }
            action => write!(line, " {action:?}").unwrap(),
        }
        if let Some(database) = &statement.vacates {
            write!(line, " vacates {database}").unwrap();
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return "empty".to_owned();
    }
    lines.join(" ; ")
}

fn check(case: &Case, databases: &Databases) -> Result<(), String> {
    let mut parts = case.expected.split('|').map(str::trim);
    let expected = parts.next().unwrap();
    let (actual, reasons) = match plan(case, databases) {
        Ok(planned) => {
            let reasons: Vec<&str> = planned
                .plan
                .statements
                .iter()
                .map(|statement| &*statement.reason)
                .collect();
            (describe(&case.statement, &planned), reasons.join("\n"))
        }
        Err(rejection) => {
            let code = rejection.code;
            let state = if code.as_str() == "0A000" {
                "refused".to_owned()
            } else {
                format!("error {code}")
            };
            let words = [Some(rejection.message), rejection.detail, rejection.hint];
            let words: Vec<&str> = words.iter().flatten().map(|part| &**part).collect();
            (state, words.join("\n"))
        }
    };
    if std::env::var_os("PGHERD_SHOW_PLANS").is_some() {
        println!(
            "{}\n-> {actual} | {}\n",
            case.statement,
            reasons.replace('\n', " / ")
        );
    }
    if actual != expected {
        return Err(format!(
            "expected {expected}\n      got {actual}\n      {reasons}"
        ));
    }
    for part in parts {
        if !reasons.contains(part) {
            return Err(format!("\"{part}\" is not in:\n{reasons}"));
        }
    }
    Ok(())
}

fn check_file(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/plans")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let databases = Databases {
        catalog: support::catalog(),
        sharded: support::sharding(),
        refusing: support::sharding_of(&["s0", "s1", "s2"], Unlisted::Refuse),
        unsharded: support::unsharded(),
    };
    let mut failures = String::new();
    for case in cases(&text) {
        if let Err(failure) = check(&case, &databases) {
            writeln!(
                failures,
                "{name}:{}: {}\n      {failure}",
                case.line, case.statement
            )
            .unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

macro_rules! files {
    ($($test:ident: $file:literal;)*) => {
        $(
            #[test]
            fn $test() {
                check_file($file);
            }
        )*
    };
}

files! {
    keyed_reads_go_to_one_shard: "select.txt";
    writes_are_placed_by_their_rows: "write.txt";
    wrong_answers_are_refused_or_placed: "wrong_answers.txt";
    reference_and_unlisted_tables: "tables.txt";
    functions_decide_access_and_residue: "functions.txt";
    psql_reads_the_catalogs: "psql.txt";
    session_statements: "session.txt";
    definitions: "ddl.txt";
    named_shards_and_unsharded_databases: "named.txt";
    traps_of_the_parser: "traps.txt";
    keys_by_lists_rows_and_branches: "keys.txt";
    constants_are_worked_out: "constants.txt";
    subqueries_show_and_are_asked: "subqueries.txt";
    merges_are_placed: "merge.txt";
    stored_keys_are_known_or_refused: "stored.txt";
    replicas_serve_proven_reads: "replica.txt";
}
