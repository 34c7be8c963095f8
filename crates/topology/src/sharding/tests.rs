#![allow(clippy::unwrap_used)]

use super::*;
use crate::catalog::{Catalog, Collation, Column, Relation, TypeInfo, TypeKind};
use crate::key::{KeyType, KeyValue};
use crate::ring::{WeightedShard, propose};

fn name(text: &str) -> RelationName {
    text.parse().unwrap()
}

fn map() -> Arc<ShardMap> {
    let shards = ["s0", "s1"]
        .iter()
        .zip(0..)
        .map(|(name, id)| WeightedShard {
            id: ShardId(id),
            name,
            weight: 1,
        });
    Arc::new(propose(&shards.collect::<Vec<_>>(), 4096, None).unwrap())
}

fn builder() -> ShardingBuilder {
    Sharding::builder(["s0", "s1"]).map(map())
}

fn list(values: &[(&str, u16)]) -> ShardingFunction {
    let values = values.iter().map(|&(value, shard)| (value, ShardId(shard)));
    ShardingFunction::List(Arc::new(ListFunction::of_values(values)))
}

type Bound<'a> = Option<&'a [&'a str]>;

fn ranges(ranges: &[(Bound<'_>, Bound<'_>, u16)]) -> ShardingFunction {
    let key = |bound: Bound<'_>| -> Option<Box<[Box<str>]>> {
        bound.map(|texts| texts.iter().map(|&text| text.into()).collect())
    };
    let ranges = ranges.iter().map(|&(from, to, shard)| RangeRule {
        from: key(from),
        to: key(to),
        shard: ShardId(shard),
    });
    ShardingFunction::Range(Arc::new(RangeFunction::new(ranges.collect())))
}

fn shard_of(sharding: &Sharding, table: &str, key: &[KeyInput<'_>]) -> Result<u16, KeyError> {
    let Distribution::Sharded(rule) = sharding.distribution(&name(table)) else {
        panic!("{table} is sharded");
    };
    sharding.locate(rule, key).map(|location| location.shard.0)
}

#[test]
fn each_table_has_the_distribution_its_rule_names() {
    let build = |unlisted| {
        builder()
            .table(TableRule::hash(name("users"), ["id"]))
            .reference(name("countries"))
            .unlisted(unlisted)
            .build()
            .unwrap()
    };
    let sharding = build(Unlisted::Shard(ShardId(1)));
    assert!(matches!(
        sharding.distribution(&name("users")),
        Distribution::Sharded(_)
    ));
    assert_eq!(
        sharding.distribution(&name("countries")),
        Distribution::Reference
    );
    assert_eq!(
        sharding.distribution_of("other", "users"),
        Distribution::Unsharded(ShardId(1))
    );
    assert_eq!(sharding.home(), ShardId(1));
    assert!(!sharding.is_unsharded());

    let sharding = build(Unlisted::Refuse);
    assert_eq!(
        sharding.distribution(&name("settings")),
        Distribution::Refused
    );
    assert_eq!(
        sharding.distribution_of("pg_catalog", "pg_class"),
        Distribution::Unsharded(ShardId(0))
    );
    assert!(Sharding::unsharded("s0").is_unsharded());
}

#[test]
fn a_hashed_key_lies_on_the_shard_that_owns_its_bucket() {
    let sharding = builder()
        .table(TableRule::hash(name("users"), ["id"]))
        .build()
        .unwrap();
    let rule = sharding.tables().next().unwrap();
    for id in 0..200_i64 {
        let text = id.to_string();
        let text = sharding.locate(rule, &[KeyInput::Text(KeyType::Int4, text.as_bytes())]);
        let binary = id.to_be_bytes();
        let binary = sharding.locate(rule, &[KeyInput::Binary(KeyType::Int8, &binary)]);
        assert_eq!(text, binary);
        let location = text.unwrap();
        assert_eq!(
            sharding.map().owner(location.bucket.unwrap()),
            location.shard
        );
    }
    assert_eq!(
        sharding.locate(rule, &[KeyInput::Null, KeyInput::Null]),
        Err(KeyError::Columns {
            expected: 1,
            given: 2
        })
    );
    // a NULL key hashes to 0, as under Postgres' own partitions
    let null = sharding.locate(rule, &[KeyInput::Null]).unwrap();
    assert_eq!(null.bucket, Some(BucketId(0)));
    let unclear = [KeyInput::Text(KeyType::Int8, b"1_000")];
    assert_eq!(
        sharding.locate(rule, &unclear),
        Err(KeyError::Invalid(KeyType::Int8))
    );
}

#[test]
fn a_listed_key_lies_where_the_list_says_and_others_nowhere() {
    let rule = TableRule::hash(name("invoices"), ["region"]).by(list(&[("eu", 0), ("us", 1)]));
    let sharding = builder().table(rule).build().unwrap();
    let shard = |key| shard_of(&sharding, "invoices", &[key]);
    assert_eq!(shard(KeyInput::Text(KeyType::Text, b"us")), Ok(1));
    assert_eq!(shard(KeyInput::Binary(KeyType::Varchar, b"eu")), Ok(0));
    assert_eq!(
        shard(KeyInput::Text(KeyType::Text, b"asia")),
        Err(KeyError::Unowned)
    );
    assert_eq!(shard(KeyInput::Null), Err(KeyError::Null));
    // read as another type than at first, and not valid for it
    assert_eq!(
        shard(KeyInput::Text(KeyType::Int4, b"1")),
        Err(KeyError::Rule)
    );
    assert_eq!(shard(KeyInput::Text(KeyType::Bpchar, b"eu  ")), Ok(0));
}

#[test]
fn spellings_of_one_listed_value_are_one_entry() {
    let rule = TableRule::hash(name("t"), ["k"]).by(list(&[("01", 0), ("1", 1)]));
    let sharding = builder().table(rule).build().unwrap();
    let key = [KeyInput::Text(KeyType::Int4, b"1")];
    assert_eq!(shard_of(&sharding, "t", &key), Err(KeyError::Rule));
    let rule = TableRule::hash(name("t"), ["k"]).by(list(&[("1.50", 0), ("2", 1)]));
    let sharding = builder().table(rule).build().unwrap();
    let key = [KeyInput::Text(KeyType::Numeric, b"15e-1")];
    assert_eq!(shard_of(&sharding, "t", &key), Ok(0));
}

#[test]
fn a_key_in_a_range_lies_on_its_shard_and_one_in_a_gap_nowhere() {
    let function = ranges(&[
        (Some(&["100"]), Some(&["200"]), 1),
        (None, Some(&["50"]), 0),
        (Some(&["1000"]), None, 0),
    ]);
    let sharding = builder()
        .table(TableRule::hash(name("t"), ["k"]).by(function))
        .build()
        .unwrap();
    let shard = |key: &str| {
        shard_of(
            &sharding,
            "t",
            &[KeyInput::Text(KeyType::Int8, key.as_bytes())],
        )
    };
    for (key, expected) in [
        ("-5", 0),
        ("49", 0),
        ("100", 1),
        ("199", 1),
        ("1000", 0),
        ("9999", 0),
    ] {
        assert_eq!(shard(key), Ok(expected), "{key}");
    }
    for key in ["50", "99", "200", "999"] {
        assert_eq!(shard(key), Err(KeyError::Unowned), "{key}");
    }
}

#[test]
fn ranges_that_overlap_or_are_empty_own_nothing() {
    let overlapping = ranges(&[(None, Some(&["10"]), 0), (Some(&["9"]), None, 1)]);
    let empty = ranges(&[(Some(&["10"]), Some(&["10"]), 0)]);
    let twice_unbounded = ranges(&[(None, Some(&["10"]), 0), (None, Some(&["5"]), 1)]);
    for function in [overlapping, empty, twice_unbounded] {
        let sharding = builder()
            .table(TableRule::hash(name("t"), ["k"]).by(function))
            .build()
            .unwrap();
        let key = [KeyInput::Text(KeyType::Int8, b"1")];
        assert_eq!(shard_of(&sharding, "t", &key), Err(KeyError::Rule));
    }
}

#[test]
fn ranges_over_several_columns_compare_as_rows_do() {
    let function = ranges(&[
        (None, Some(&["2026-01-01", "m"]), 0),
        (Some(&["2026-01-01", "m"]), None, 1),
    ]);
    let rule = TableRule::hash(name("t"), ["day", "name"]).by(function);
    let sharding = builder().table(rule).build().unwrap();
    for (day, name, expected) in [
        ("2025-12-31", "z", 0),
        ("2026-01-01", "a", 0),
        ("2026-01-01", "m", 1),
        ("2026-01-02", "a", 1),
    ] {
        let key = [
            KeyInput::Text(KeyType::Date, day.as_bytes()),
            KeyInput::Text(KeyType::Text, name.as_bytes()),
        ];
        assert_eq!(shard_of(&sharding, "t", &key), Ok(expected), "{day} {name}");
    }
}

#[test]
fn colocation_leads_to_the_first_table_of_the_group() {
    let sharding = builder()
        .table(TableRule::hash(name("items"), ["user_id"]).with(name("orders")))
        .table(TableRule::hash(name("orders"), ["user_id"]).with(name("users")))
        .table(TableRule::hash(name("users"), ["id"]))
        .table(TableRule::hash(name("alone"), ["id"]))
        .build()
        .unwrap();
    let colocated = |left, right| sharding.colocated(&name(left), &name(right));
    assert!(colocated("items", "users"));
    assert!(colocated("items", "orders"));
    assert!(colocated("alone", "alone"));
    assert!(!colocated("alone", "users"));
    assert!(!colocated("users", "unknown"));
    let Distribution::Sharded(items) = sharding.distribution(&name("items")) else {
        panic!("items is sharded");
    };
    assert_eq!(items.with, Some(name("users")));
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    let hash = |table: &str| TableRule::hash(name(table), ["id"]);
    let error = |builder: ShardingBuilder| builder.build().unwrap_err();
    assert_eq!(
        error(builder().table(hash("a")).table(hash("a"))),
        ShardingError::DuplicateTable(name("a"))
    );
    assert_eq!(
        error(builder().table(hash("a")).reference(name("a"))),
        ShardingError::DuplicateTable(name("a"))
    );
    assert_eq!(
        error(builder().reference(name("a")).reference(name("a"))),
        ShardingError::DuplicateTable(name("a"))
    );
    assert_eq!(
        error(builder().table(hash("a").with(name("b")))),
        ShardingError::UnknownWith {
            table: name("a"),
            with: name("b")
        }
    );
    let unlike = ShardingError::UnlikeWith {
        table: name("a"),
        with: name("b"),
    };
    let two = TableRule::hash(name("b"), ["x", "y"]);
    assert_eq!(
        error(builder().table(hash("a").with(name("b"))).table(two)),
        unlike
    );
    let listed = hash("b").by(list(&[("eu", 0)]));
    assert_eq!(
        error(builder().table(hash("a").with(name("b"))).table(listed)),
        unlike
    );
    let circle = builder()
        .table(hash("a").with(name("b")))
        .table(hash("b").with(name("c")))
        .table(hash("c").with(name("b")));
    assert_eq!(error(circle), ShardingError::CircularWith(name("a")));
    for key in [vec![], vec!["a", "a"], vec!["x"; 33]] {
        let rule = TableRule::hash(name("t"), key);
        assert_eq!(error(builder().table(rule)), ShardingError::Key(name("t")));
    }
    let elsewhere = hash("t").by(list(&[("eu", 7)]));
    assert_eq!(
        error(builder().table(elsewhere)),
        ShardingError::UnknownShard(ShardId(7))
    );
    let unlisted = builder().unlisted(Unlisted::Shard(ShardId(2)));
    assert_eq!(error(unlisted), ShardingError::UnknownShard(ShardId(2)));
    let composite = TableRule::hash(name("t"), ["a", "b"]).by(list(&[("eu", 0)]));
    assert_eq!(
        error(builder().table(composite)),
        ShardingError::RuleValues(name("t"))
    );
    assert_eq!(
        error(Sharding::builder(["a", "a"])),
        ShardingError::DuplicateShard("a".into())
    );
    assert_eq!(
        error(Sharding::builder([] as [&str; 0])),
        ShardingError::Shards(0)
    );
    assert_eq!(
        error(Sharding::builder(["a"]).table(hash("t"))),
        ShardingError::NoMap
    );
    assert_eq!(
        error(Sharding::builder(["a"]).map(map())),
        ShardingError::UnknownShard(ShardId(1))
    );
}

#[test]
fn a_range_over_everything_may_stand_alone_for_a_key_of_any_width() {
    let rule = TableRule::hash(name("t"), ["a", "b"]).by(ranges(&[(None, None, 1)]));
    let sharding = builder().table(rule).build().unwrap();
    let key = [
        KeyInput::Text(KeyType::Int8, b"1"),
        KeyInput::Text(KeyType::Text, b"x"),
    ];
    assert_eq!(shard_of(&sharding, "t", &key), Ok(1));
}

#[test]
fn a_key_that_the_catalog_rules_out_is_a_fault() {
    let catalog = Catalog::builder()
        .with_builtins()
        .user_type(TypeInfo::base("public", "mood", 20_000).of_kind(TypeKind::Enum))
        .table("users", &[("id", 20), ("mood", 20_000)])
        .table("orders", &[("user_id", 23), ("note", 25)])
        .relation(
            Relation::table("public", "folded")
                .column(Column::new("k", 25).collated(Collation::Nondeterministic)),
        )
        .build();
    let faults = |builder: ShardingBuilder| {
        let faults = builder.build().unwrap().check_keys(&catalog);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let users = TableRule::hash(name("users"), ["id"]);
    let orders = |key: &str| TableRule::hash(name("orders"), [key]).with(name("users"));
    let nothing: [&str; 0] = [];
    // integer and bigint hash alike; a table that does not exist yet may be created
    let sound = builder().table(users.clone()).table(orders("user_id"));
    assert_eq!(
        faults(sound.table(TableRule::hash(name("later"), ["k"]))),
        nothing
    );
    assert_eq!(
        faults(builder().table(users.clone()).table(orders("note"))),
        [
            "public.orders is co-located with public.users, but the types of their keys do not hash alike"
        ]
    );
    assert_eq!(
        faults(builder().table(TableRule::hash(name("users"), ["mood"]))),
        [
            "the sharding key of public.users, column \"mood\", has a type that cannot be a sharding key"
        ]
    );
    assert_eq!(
        faults(builder().table(TableRule::hash(name("users"), ["gone"]))),
        ["the sharding key of public.users, column \"gone\", does not exist"]
    );
    assert_eq!(
        faults(builder().table(TableRule::hash(name("folded"), ["k"]))),
        [
            "the sharding key of public.folded, column \"k\", has a collation that is not deterministic"
        ]
    );
    let listed = users.by(list(&[("eu", 0)]));
    assert_eq!(faults(builder().table(listed)).len(), 1);
}

#[test]
fn a_key_beyond_ascii_depends_on_the_clients_encoding() {
    assert!(KeyInput::Text(KeyType::Text, "ö".as_bytes()).depends_on_encoding());
    assert!(KeyInput::Binary(KeyType::Bpchar, "ö".as_bytes()).depends_on_encoding());
    assert!(!KeyInput::Text(KeyType::Text, b"o").depends_on_encoding());
    assert!(!KeyInput::Binary(KeyType::Bytea, &[255]).depends_on_encoding());
    assert!(!KeyInput::Null.depends_on_encoding());
    let value = KeyInput::Text(KeyType::Text, b"o").value().unwrap();
    assert_eq!(value, Some(KeyValue::Text(b"o".into())));
}
