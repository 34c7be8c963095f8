//! The planner's tables, conjuncts and keys are those of Postgres' own tree.

#[path = "../../crates/router/tests/support/mod.rs"]
mod database;
mod support;
mod tree;

use std::collections::BTreeSet;

use pgherd_router::{Action, KeyOrigin, KeySet, Placement, Planned, Planner, Rejection, label};
use pgherd_topology::{Catalog, RelationName, Sharding};
use proptest::prelude::*;

struct Database {
    catalog: Catalog,
    sharding: Sharding,
    path: Vec<Box<str>>,
}

impl Database {
    fn new() -> Self {
        Self {
            catalog: database::catalog(),
            sharding: database::sharding(),
            path: vec!["public".into()],
        }
    }

    fn plan(&self, sql: &str, types: &[u32]) -> Result<Planned, Rejection> {
        let context = database::context(&self.catalog, &self.sharding, &self.path, types);
        Planner::new(1).plan(sql.as_bytes(), &context)
    }

    fn full_name(&self, schema: &str, name: &str) -> RelationName {
        if schema.is_empty() {
            self.catalog.resolve_relation(name, &self.path).map_or_else(
                || RelationName::new("pg_catalog", name),
                |found| found.name.clone(),
            )
        } else {
            RelationName::new(schema, name)
        }
    }
}

#[test]
fn the_tables_of_a_plan_are_those_of_the_tree() {
    let database = Database::new();
    let mut compared = 0;
    for case in support::cases() {
        if !case.directives.is_empty() {
            continue;
        }
        let Ok(tree) = pg_query::parse(&case.statement, 0) else {
            continue;
        };
        let tree = serde_json::to_value(&tree.protobuf).expect("a tree can be written");
        let (Some(statement), Ok(planned)) =
            (tree::only_query(&tree), database.plan(&case.statement, &[]))
        else {
            continue;
        };
        let [plan] = planned.plan.statements.as_slice() else {
            panic!(
                "{} statements in {}",
                planned.plan.statements.len(),
                case.statement
            );
        };
        let is_query = matches!(plan.action, Action::Run | Action::ReferenceWrite { .. });
        // the rule for psql's queries names no tables
        if !is_query || plan.reason.contains("no word of it names") {
            continue;
        }
        let theirs: BTreeSet<RelationName> = tree::relations(statement)
            .into_iter()
            .map(|(schema, name)| database.full_name(&schema, &name))
            .collect();
        let ours: BTreeSet<RelationName> = plan.relations.iter().cloned().collect();
        assert_eq!(ours, theirs, "{}", case.statement);
        compared += 1;
    }
    assert!(compared > 250, "{compared} compared");
}

/// The values of a key as the tree's side writes them.
fn values(keys: &[KeySet], planned: &Planned, sql: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for key in keys {
        for source in &key.columns {
            let mut literals = |slot: u32, sign: &str| {
                for literal in planned.literals.elements(slot) {
                    let value = literal.value(sql.as_bytes()).expect("a plain literal");
                    found.insert(format!("{sign}{}", String::from_utf8_lossy(&value)));
                }
            };
            match source.origin {
                KeyOrigin::Literal(slot) => literals(slot, ""),
                KeyOrigin::Negated(slot) => literals(slot, "-"),
                KeyOrigin::Integer(value) => {
                    found.insert(value.to_string());
                }
                KeyOrigin::Parameter(index) => {
                    found.insert(format!("${}", index + 1));
                }
                other => panic!("{other:?} in {sql}"),
            }
        }
    }
    found
}

/// Compares a statement on `users` with what its tree proves of `id`; `Ok(true)` where both prove it.
fn compare(database: &Database, sql: &str) -> Result<bool, String> {
    let Ok(tree) = pg_query::parse(sql, 0) else {
        return Ok(false);
    };
    let tree = serde_json::to_value(&tree.protobuf).expect("a tree can be written");
    let Some(statement) = tree::only_query(&tree) else {
        return Ok(false);
    };
    let proven = tree::proven(&statement["where_clause"]);
    match database.plan(sql, &[20, 25]) {
        Ok(planned) => {
            let Placement::Keyed(keyed) = &planned.plan.statements[0].placement else {
                return Err(format!("not keyed: {sql}"));
            };
            let ours = values(&keyed.keys, &planned, sql);
            if proven.contains(&ours) {
                Ok(true)
            } else {
                Err(format!("{sql}\n  pgherd: {ours:?}\n  the tree: {proven:?}"))
            }
        }
        Err(rejection) if rejection.label == label::UNPARSED || proven.is_empty() => Ok(false),
        Err(rejection) => Err(format!(
            "refused: {sql}\n  {:?}\n  the tree: {proven:?}",
            rejection.detail
        )),
    }
}

/// Conditions, some of which fix `id`.
const ATOMS: &[&str] = &[
    "id = 7",
    "7 = id",
    "u.id = 8",
    "id = $1",
    "id = '9'",
    "id = -7",
    "id = - 7",
    "id = 3 + 4 * 2",
    "id = (3 + 4) * 2",
    "id = 10 - 2 - 1",
    "id IN (7, 8)",
    "id IN (7)",
    "id IN (-7, $1)",
    "id NOT IN (7)",
    "id <> 7",
    "id > 7",
    "id = 7.5",
    "(id, name) = (7, 'x')",
    "(name, id) = ('x', 8)",
    "ROW(id, 1) = ROW(9, 1)",
    "(id, name) IN ((7, 'x'), (8, 'y'))",
    "(id, name) <> (7, 'x')",
    "name = 'x'",
    "name = $2",
    "name LIKE 'a%'",
    "name NOT ILIKE 'a%' ESCAPE '!'",
    "age BETWEEN 1 AND 5",
    "id BETWEEN 7 AND 7",
    "name ~ 'a'",
    "name !~* 'b'",
    "true",
    "id IS NULL",
    "id = age",
    "id IS NOT DISTINCT FROM 7",
    "name || 'b' = 'ab'",
    "id + 1 = 8",
    "- id = 7",
    "balance > 5 + 3",
    "id = abs(7)",
    "id = 7 << 1",
    "1 << id = 8",
    "id = 2 ^ 3",
    "id = 7 & 3",
    "u.name = 'y'",
    "EXISTS (SELECT 1)",
    "id::int = 7",
    "id = 7::int",
    "id = '7'::bigint",
    "@ id = 7",
    "id = 7 % 4",
];

/// Forms that hold one condition or two.
const FORMS: &[&str] = &[
    "A AND B",
    "A AND B",
    "A AND B",
    "A OR B",
    "A OR B",
    "NOT A",
    "(A)",
    "(A) AND B",
    "(A OR B)",
    "A IS TRUE",
    "(A) IS TRUE",
    "A IS NOT TRUE",
    "A IS UNKNOWN",
    "A IS NOT FALSE",
    "A ISNULL",
    "A NOTNULL",
    "A = B",
    "(A) = (B)",
    "A <> B",
    "CASE WHEN A THEN B ELSE true END",
    "coalesce(A, B)",
    "A IS DISTINCT FROM B",
    "A AND NOT B",
    "A ~ 'x'",
    "'x' ~ A",
    "A || B",
    "A IN (true)",
    "A BETWEEN B AND true",
    "A AT TIME ZONE 'x'",
    "A COLLATE \"C\"",
    "A::bool",
    "A AND B OR A",
    "A OR B AND A",
    "NOT A AND B",
    "NOT A OR B",
    "A = ANY ('{t}')",
];

fn condition() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(ATOMS.to_vec()).prop_map(str::to_owned);
    atom.prop_recursive(4, 12, 2, |inner| {
        (prop::sample::select(FORMS.to_vec()), inner.clone(), inner).prop_map(
            |(form, one, other)| {
                let mut text = String::new();
                // only the letters A and B that stand alone are places
                for (position, character) in form.char_indices() {
                    let alone =
                        |at: Option<char>| at.is_none_or(|beside| !beside.is_ascii_alphanumeric());
                    let before = form[..position].chars().next_back();
                    let after = form[position + 1..].chars().next();
                    match character {
                        'A' if alone(before) && alone(after) => text.push_str(&one),
                        'B' if alone(before) && alone(after) => text.push_str(&other),
                        character => text.push(character),
                    }
                }
                text
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_keys_of_random_conditions_are_those_of_the_tree(condition in condition()) {
        thread_local! {
            static DATABASE: Database = Database::new();
        }
        let sql = format!("SELECT * FROM users u WHERE {condition}");
        if let Err(difference) = DATABASE.with(|database| compare(database, &sql)) {
            return Err(TestCaseError::fail(difference));
        }
    }
}

#[test]
fn every_atom_is_compared_by_itself() {
    let database = Database::new();
    let mut proven = 0;
    for atom in ATOMS {
        match compare(&database, &format!("SELECT * FROM users u WHERE {atom}")) {
            Ok(found) => proven += usize::from(found),
            Err(difference) => panic!("{difference}"),
        }
    }
    assert!(proven >= 18, "{proven} prove the key");
}
