#![allow(clippy::unwrap_used)]

use super::*;

fn path(schemas: &[&str]) -> Vec<Box<str>> {
    schemas.iter().map(|&schema| schema.into()).collect()
}

#[test]
fn a_name_is_found_along_the_search_path_and_pg_catalog_comes_first() {
    let catalog = Catalog::builder()
        .with_builtins()
        .relation(Relation::table("a", "t"))
        .relation(Relation::table("b", "t"))
        .relation(Relation::table("a", "pg_class"))
        .build();
    let schema = |name, schemas: &[&str]| {
        let path = path(schemas);
        catalog
            .resolve_relation(name, &path)
            .map(|relation| relation.name.schema.to_string())
    };
    assert_eq!(schema("t", &["a", "b"]).unwrap(), "a");
    assert_eq!(schema("t", &["x", "b", "a"]).unwrap(), "b");
    assert_eq!(schema("t", &["x"]), None);
    assert_eq!(schema("pg_class", &["a"]).unwrap(), "pg_catalog");
    assert_eq!(schema("pg_class", &["a", "pg_catalog"]).unwrap(), "a");
}

#[test]
fn the_volatility_of_a_name_is_the_worst_of_its_visible_overloads() {
    let catalog = Catalog::builder()
        .function(Function::builtin("f", Volatility::Immutable))
        .function(Function::builtin("f", Volatility::Stable))
        .function(Function::of_user("shop", "f", Volatility::Volatile))
        .build();
    let worst = |schema, schemas: &[&str]| catalog.function_volatility(schema, "f", &path(schemas));
    assert_eq!(worst(None, &["public"]), Some(Volatility::Stable));
    assert_eq!(worst(None, &["shop"]), Some(Volatility::Volatile));
    assert_eq!(
        worst(Some("pg_catalog"), &["shop"]),
        Some(Volatility::Stable)
    );
    assert_eq!(worst(Some("elsewhere"), &["shop"]), None);
    assert_eq!(catalog.functions(None, "f", &path(&["shop"])).count(), 3);
}

#[test]
fn domains_are_looked_through_to_the_type_that_hashes() {
    let domain = |name, oid, base, modifier| {
        TypeInfo::base("public", name, oid).of_kind(TypeKind::Domain { base, modifier })
    };
    let catalog = Catalog::builder()
        .with_builtins()
        .types([
            domain("id", 20_000, 20, -1),
            domain("user_id", 20_001, 20_000, -1),
            domain("code", 20_002, 1043, 7),
            domain("circle", 20_003, 20_003, -1),
            TypeInfo::base("public", "mood", 20_004).of_kind(TypeKind::Enum),
        ])
        .build();
    assert_eq!(catalog.key_type(20), Some(KeyType::Int8));
    assert_eq!(catalog.key_type(20_001), Some(KeyType::Int8));
    for oid in [20_002, 20_003, 20_004, 99_999, 701] {
        assert_eq!(catalog.key_type(oid), None, "{oid}");
    }
    assert_eq!(&*catalog.type_by_oid(20_004).unwrap().name.name, "mood");
    assert!(catalog.resolve_type("mood", &path(&["public"])).is_some());
    assert!(catalog.resolve_type("mood", &[]).is_none());
}

#[test]
fn links_back_are_filled_in() {
    let users = RelationName::new("public", "users");
    let reference = |on_delete| ForeignKey {
        columns: vec!["user_id".into()],
        target: users.clone(),
        target_columns: vec!["id".into()],
        on_delete,
        on_update: ReferentialAction::Refuse,
    };
    let catalog = Catalog::builder()
        .table("users", &[("id", 20)])
        .relation(
            Relation::table("public", "orders").foreign_key(reference(ReferentialAction::Cascade)),
        )
        .relation(
            Relation::table("public", "notes").foreign_key(reference(ReferentialAction::Refuse)),
        )
        .relation(Relation::table("public", "users_1").child_of(users.clone()))
        .relation(Relation::view("public", "v", [users.clone()]))
        .relation(Relation::view(
            "public",
            "w",
            [RelationName::new("public", "v")],
        ))
        .build();
    let found = catalog.relation(&users).unwrap();
    assert_eq!(found.cascades_to, [RelationName::new("public", "orders")]);
    assert_eq!(found.children, [RelationName::new("public", "users_1")]);
    let below = catalog
        .relations_below(&RelationName::new("public", "w"))
        .unwrap();
    let below: Vec<&str> = below.iter().map(|relation| &*relation.name.name).collect();
    assert_eq!(below, ["v", "users", "users_1"]);
    assert!(
        catalog
            .relations_below(&RelationName::new("public", "x"))
            .is_none()
    );
}

#[test]
fn oids_translate_by_shard_and_unknown_ones_are_not_guessed() {
    let catalog = Catalog::builder()
        .oid_map(ShardId(0), OidMap::identity())
        .oid_map(ShardId(2), OidMap::from_pairs([(16_400, 16_500), (25, 25)]))
        .build();
    let home = catalog.oid_map(ShardId(0));
    assert!(home.is_identity());
    assert_eq!(home.to_home(99_999), Some(99_999));
    let other = catalog.oid_map(ShardId(2));
    assert!(!other.is_identity());
    assert_eq!(other.to_home(16_400), Some(16_500));
    assert_eq!(other.to_shard(16_500), Some(16_400));
    assert_eq!(other.to_home(16_500), None);
    assert_eq!(other.to_home(1_700), Some(1_700));
    // of these nothing was read
    for shard in [1, 7] {
        assert_eq!(catalog.oid_map(ShardId(shard)).to_home(20), Some(20));
        assert_eq!(catalog.oid_map(ShardId(shard)).to_home(16_400), None);
    }
}
