//! A statement whose plan is cached is planned and resolved without an allocation.

#![allow(clippy::unwrap_used)]

mod support;

use pgherd_router::{
    Destination, Overrides, ParameterFormat, ParameterSource, ParameterValue, Planned, Planner,
    ValueEncoding, Values,
};

struct One<'a>(ParameterFormat, &'a [u8]);

impl ParameterSource for One<'_> {
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>> {
        (index == 0).then_some(ParameterValue {
            format: self.0,
            bytes: Some(self.1),
        })
    }
}

/// Allocations of planning and resolving `sql`, once its plan is cached.
fn allocations(sql: &str, parameter: Option<One<'_>>) -> u64 {
    let catalog = support::catalog();
    let sharding = support::sharding();
    let path = ["public".into()];
    let context = support::context(&catalog, &sharding, &path, &[]);
    let planner = Planner::new(64);
    // as a session keeps it
    let key = context.key();
    let resolve = |planned: Planned| {
        let values = Values {
            sql: sql.as_bytes(),
            literals: &planned.literals,
            parameters: parameter.as_ref().map(|one| one as &dyn ParameterSource),
            encoding: ValueEncoding::SameAsServer,
        };
        let resolved = planned.plan.statements[0]
            .resolve(&values, &sharding, Overrides::default())
            .unwrap();
        assert!(!matches!(resolved.destination, Destination::Nowhere));
    };
    resolve(planner.plan(sql.as_bytes(), &context).unwrap());
    let hit = || resolve(planner.cached(sql.as_bytes(), &key, &[], false).unwrap());
    allocation_counter::measure(hit).count_total
}

#[test]
fn a_hit_allocates_nothing() {
    for sql in [
        "SELECT abalance FROM ledger WHERE amount = 12345",
        "SELECT name FROM users WHERE id = 7",
        "SELECT name FROM users WHERE id = -7",
        "SELECT name FROM users WHERE id = '7' AND name = 'x'",
        "UPDATE users SET balance = balance + 5 WHERE id = 7",
        "INSERT INTO orders (user_id, total, status) VALUES (7, 9.5, 'new')",
        "DELETE FROM orders WHERE user_id = 7 AND id = 3",
        "SELECT * FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 7 ORDER BY o.id LIMIT 10",
        "SELECT * FROM users WHERE id IN (7)",
        "SELECT * FROM users WHERE id = 3 + 4",
        "SELECT * FROM invoices WHERE region = 'eu'",
        "SELECT * FROM sessions WHERE token = '0b8c6f2e-7a5f-4a36-9d0c-0f6b6d1a2b3c'",
        "SELECT * FROM countries",
        "SELECT 1",
    ] {
        assert_eq!(allocations(sql, None), 0, "{sql}");
    }
    let sql = "SELECT name FROM users WHERE id = $1";
    let text = One(ParameterFormat::Text, b"12345");
    assert_eq!(allocations(sql, Some(text)), 0, "a parameter as text");
    let seven = 7_i64.to_be_bytes();
    let binary = One(ParameterFormat::Binary, &seven);
    assert_eq!(allocations(sql, Some(binary)), 0, "a parameter in binary");
}
