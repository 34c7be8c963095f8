//! When a cached plan is used, and when it must not be.

#![allow(clippy::unwrap_used)]

mod support;

use pgherd_router::{
    Action, BackslashReading, ClientEncoding, PlanContext, Planner, SettingValue, SettingsDigest,
};
use pgherd_topology::{Catalog, Sharding};

struct World {
    catalog: Catalog,
    sharding: Sharding,
    planner: Planner,
    path: Vec<Box<str>>,
}

impl World {
    fn new() -> Self {
        Self {
            catalog: support::catalog(),
            sharding: support::sharding(),
            planner: Planner::new(100),
            path: vec!["public".into()],
        }
    }

    fn context(&self) -> PlanContext<'_> {
        support::context(&self.catalog, &self.sharding, &self.path, &[])
    }

    fn is_hit(&self, sql: &str) -> bool {
        self.is_hit_in(sql, &self.context())
    }

    fn is_hit_in(&self, sql: &str, context: &PlanContext<'_>) -> bool {
        self.planner.plan(sql.as_bytes(), context).unwrap().cached
    }
}

#[test]
fn another_value_of_a_key_is_the_same_plan() {
    let world = World::new();
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 7"));
    assert!(world.is_hit("SELECT * FROM users WHERE id = 7"));
    assert!(world.is_hit("SELECT * FROM users WHERE id = 8"));
    assert!(world.is_hit("SELECT  * FROM users -- note\n WHERE id = 9"));
    assert!(world.is_hit("/* a note */ SELECT * FROM users WHERE id = 9"));
}

#[test]
fn another_kind_of_literal_is_another_plan() {
    let world = World::new();
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = 7"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = '7'"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = 7.0"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = -7"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = E'7'"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = $$7$$"));
    assert!(!world.is_hit("SELECT * FROM ledger WHERE amount = $1"));
    assert!(world.is_hit("SELECT * FROM ledger WHERE amount = 8.5"));
}

#[test]
fn all_of_the_context_is_in_the_key() {
    let world = World::new();
    let sql = "SELECT * FROM users WHERE id = $1";
    let base = world.context();
    assert!(!world.is_hit_in(sql, &base));
    let others = [
        PlanContext {
            parameter_types: &[20],
            ..base
        },
        PlanContext {
            parameter_types: &[23],
            ..base
        },
        PlanContext {
            rules_version: 2,
            ..base
        },
        PlanContext {
            database: "shop2",
            ..base
        },
        PlanContext {
            backslash: BackslashReading::Escape,
            ..base
        },
        PlanContext {
            named_shard: true,
            ..base
        },
        PlanContext {
            role: "reader",
            ..base
        },
        PlanContext {
            settings: SettingsDigest::of(|name| (name == "transform_null_equals").then_some("on")),
            ..base
        },
    ];
    for other in &others {
        assert!(!world.is_hit_in(sql, other), "{other:?}");
        assert!(world.is_hit_in(sql, other));
    }
    let path = ["public".into(), "other".into()];
    let searched = PlanContext {
        search_path: &path,
        ..base
    };
    assert!(!world.is_hit_in(sql, &searched));
    assert!(world.is_hit_in(sql, &base));
}

#[test]
fn a_text_that_cannot_be_read_by_bytes_is_refused_on_a_sharded_database() {
    let world = World::new();
    let context = PlanContext {
        encoding: ClientEncoding::of_name("SJIS"),
        ..world.context()
    };
    // the second byte is that of a backslash
    let sql = b"SELECT * FROM users WHERE id = 7 AND name = '\x95\x5c'";
    let refused = world.planner.plan(sql, &context).unwrap_err();
    assert_eq!(refused.code.as_str(), "0A000");
    let ascii = b"SELECT * FROM users WHERE id = 7 AND name = 'a'";
    assert!(world.planner.plan(ascii, &context).is_ok());
    let unsharded = support::unsharded();
    let context = PlanContext {
        sharding: &unsharded,
        ..context
    };
    assert!(world.planner.plan(sql, &context).is_ok());
}

#[test]
fn lists_of_any_length_share_a_plan_but_not_where_it_depends_on_them() {
    let world = World::new();
    assert!(!world.is_hit("SELECT * FROM users WHERE id IN (7)"));
    assert!(world.is_hit("SELECT * FROM users WHERE id IN (7, 8, -9)"));
    assert!(!world.is_hit("SELECT * FROM users WHERE id IN ('7', '8')"));
    assert!(!world.is_hit("INSERT INTO users (id, name) VALUES (7, 'a')"));
    assert!(world.is_hit("INSERT INTO users (id, name) VALUES (7, 'a'), (8, 'b')"));
    // what is worked out while planning holds for these numbers alone
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 3 + 4"));
    assert!(world.is_hit("SELECT * FROM users WHERE id = 3 + 4"));
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 3 + 5"));
    assert!(!world.is_hit("INSERT INTO users (id) VALUES (3 + 4)"));
    assert!(!world.is_hit("INSERT INTO users (id) VALUES (3 + 4), (3 + 5)"));
}

#[test]
fn a_newer_catalog_is_planned_with_anew() {
    let world = World::new();
    let sql = "SELECT * FROM users WHERE id = 7";
    assert!(!world.is_hit(sql));
    let newer = Catalog::builder()
        .version(8)
        .table("users", &[("id", 20)])
        .build();
    let context = PlanContext {
        catalog: &newer,
        ..world.context()
    };
    assert!(!world.is_hit_in(sql, &context));
    assert!(world.is_hit(sql));
}

#[test]
fn a_literal_that_the_plan_depends_on_must_be_the_same() {
    let world = World::new();
    let value = |sql: &str| {
        let planned = world
            .planner
            .plan(sql.as_bytes(), &world.context())
            .unwrap();
        let Action::Set(setting) = &planned.plan.statements[0].action else {
            panic!("{sql}");
        };
        let SettingValue::Texts(texts) = &setting.value else {
            panic!("{sql}");
        };
        (texts[0].to_string(), planned.cached)
    };
    assert_eq!(value("SET pgherd.shard = 's1'"), ("s1".into(), false));
    assert_eq!(value("SET pgherd.shard = 's1'"), ("s1".into(), true));
    assert_eq!(value("SET pgherd.shard = 's2'"), ("s2".into(), false));
    assert_eq!(value("SET pgherd.shard = 's2'"), ("s2".into(), true));
    assert_eq!(value("SET pgherd.shard = 's1'"), ("s1".into(), false));
}

#[test]
fn a_hint_is_read_on_a_hit_too() {
    let world = World::new();
    let plan = |sql: &str| {
        world
            .planner
            .plan(sql.as_bytes(), &world.context())
            .unwrap()
    };
    let first = plan("/* pgherd: shard=s1 */ SELECT * FROM users WHERE id = 7");
    let second = plan("/* pgherd: shard=s2 */ SELECT * FROM users WHERE id = 7");
    assert!(!first.cached && second.cached);
    assert_eq!(second.hint.unwrap().shard.as_deref(), Some("s2"));
    // without a named shard it is another plan
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 7"));
}

#[test]
fn spans_and_literals_belong_to_the_text_of_the_hit() {
    let world = World::new();
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 7; SELECT 1"));
    let sql = "SELECT  *  FROM users WHERE id = 70000;  SELECT 123";
    let planned = world
        .planner
        .plan(sql.as_bytes(), &world.context())
        .unwrap();
    assert!(planned.cached);
    let texts: Vec<&[u8]> = planned
        .spans
        .iter()
        .map(|span| span.text(sql.as_bytes()))
        .collect();
    assert_eq!(
        texts,
        [
            &b"SELECT  *  FROM users WHERE id = 70000"[..],
            b"SELECT 123"
        ]
    );
    let literal = planned.literals.slot(0).unwrap();
    assert_eq!(literal.text(sql.as_bytes()), b"70000");
}

#[test]
fn explained_routes_are_not_cached_whole() {
    let world = World::new();
    assert!(!world.is_hit("EXPLAIN (ROUTE) SELECT 1"));
    assert!(!world.is_hit("EXPLAIN (ROUTE) SELECT 1"));
}

#[test]
fn the_cache_is_bounded() {
    let world = World::new();
    for index in 0..2_000 {
        assert!(!world.is_hit(&format!("SELECT 1 AS a{index}")));
    }
    let held = world.planner.plans().len();
    assert!(held <= 100, "{held}");
    let long = format!("SELECT 1 AS {}", "a".repeat(2 << 20));
    assert!(!world.is_hit(&long));
    assert!(!world.is_hit(&long));
}

#[test]
fn plans_are_shown_without_values() {
    let world = World::new();
    assert!(!world.is_hit("SELECT * FROM users WHERE id = 7 AND name = 'secret'"));
    assert!(world.is_hit("SELECT * FROM users WHERE id = 7 AND name = 'other'"));
    let plans = world.planner.plans();
    let [plan] = plans.as_slice() else {
        panic!("{plans:?}");
    };
    assert_eq!(&*plan.text, "SELECT * FROM users WHERE id = ? AND name = ?");
    assert_eq!(plan.hits, 1);
    assert_eq!(plan.fingerprint.len(), 32);
    assert_eq!(plan.classes[0].as_str(), "single shard");
}
