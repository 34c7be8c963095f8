//! The catalog read from real servers whose OIDs differ.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_control::Control;
use pgherd_topology::{
    Catalog, Collation, ColumnDefault, Persistence, RelationKind, RelationName, ShardId, ShardMap,
    Sharding, TableRule, TypeKind, Volatility, WeightedShard, propose,
};
use support::{TestServer, ready, settings};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN id AS bigint CHECK (value > 0);
    CREATE TYPE point3 AS (x int, m mood);
    CREATE TYPE span AS RANGE (subtype = float8);
    CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE users (id id PRIMARY KEY, name text COLLATE blind, raw text COLLATE \"C\", m mood DEFAULT 'sad', made timestamptz DEFAULT now(),
        n int DEFAULT 40 + 2, serial int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (3) STORED, dropped int);
    ALTER TABLE users DROP COLUMN dropped;
    CREATE TABLE orders (user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE, no int, UNIQUE (user_id, no));
    CREATE UNIQUE INDEX partial ON orders (no) WHERE no > 5;
    CREATE TABLE countries (code text PRIMARY KEY);
    CREATE TABLE events (user_id bigint, at date) PARTITION BY RANGE (at);
    CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER touch BEFORE INSERT ON events_old FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION f(text) RETURNS SETOF int VOLATILE LANGUAGE sql AS 'SELECT 1';
    CREATE VIEW plain AS SELECT id, lower(raw) FROM users WHERE id > 7;
    CREATE VIEW opaque AS SELECT f(n) FROM users;
    CREATE UNLOGGED TABLE scratch ();
    ALTER TABLE countries ENABLE ROW LEVEL SECURITY;
    CREATE FUNCTION tells(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE DOMAIN told AS int CHECK (tells(value) > 0);
    CREATE TYPE pair AS (a int, b told[]);
    CREATE TABLE of_pairs (p pair);
    CREATE TABLE trusting (a int DEFAULT nextval('users_serial_seq') CHECK (f(a) > 0), b uuid DEFAULT gen_random_uuid(), c id);
    CREATE TABLE setting (a text DEFAULT set_config('my.a', 'x', false));
    CREATE TABLE guarded (a int, b int DEFAULT tells(1));
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY reads ON guarded USING (f(a) > 0 AND tells(b) > 0 AND b IN (SELECT no FROM orders));
    CREATE TABLE guarded_writes (a int);
    ALTER TABLE guarded_writes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY writes ON guarded_writes FOR INSERT WITH CHECK (tells(a) > 0);
    CREATE TABLE unguarded (a int);
    CREATE POLICY idle ON unguarded USING (tells(a) > 0);
";

fn rules() -> Sharding {
    let names: Vec<Box<str>> = vec!["s0".into(), "s1".into()];
    let weighted: Vec<WeightedShard<'_>> = names
        .iter()
        .zip(0..)
        .map(|(name, id)| WeightedShard {
            id: ShardId(id),
            name,
            weight: 1,
        })
        .collect();
    let map: ShardMap = propose(&weighted, 64, None).unwrap();
    let users: RelationName = "users".parse().unwrap();
    Sharding::builder(["s0", "s1"])
        .map(Arc::new(map))
        .table(TableRule::hash(users.clone(), ["id"]))
        .table(TableRule::hash("orders".parse().unwrap(), ["user_id"]).with(users))
        .reference("countries".parse().unwrap())
        .build()
        .unwrap()
}

fn relation<'a>(catalog: &'a Catalog, name: &str) -> &'a pgherd_topology::Relation {
    catalog.relation(&name.parse().unwrap()).unwrap()
}

async fn herd() -> (TestServer, TestServer, Control) {
    let (home, other) = (TestServer::start(), TestServer::start());
    // moves the other's counter, and takes the name that an array type would have had
    other
        .sql("CREATE TABLE filler (); DROP TABLE filler; CREATE TABLE \"_mood\" (x int)")
        .await;
    home.sql(SCHEMA).await;
    other.sql(SCHEMA).await;
    let control = ready(settings(&[&[&home], &[&other]], rules())).await;
    (home, other, control)
}

#[tokio::test]
async fn what_the_home_shard_has_is_in_the_catalog() {
    let (_home, _other, control) = herd().await;
    let catalog = control.catalog().borrow().clone();
    assert!(catalog.settings().version_num >= 130_000);
    assert_eq!(&*catalog.settings().encoding, "UTF8");
    assert_eq!(
        catalog.settings().search_path,
        ["$user".into(), "public".into()] as [Box<str>; 2]
    );
    let users = relation(&catalog, "users");
    let defaults: Vec<ColumnDefault> = users.columns.iter().map(|column| column.default).collect();
    assert_eq!(
        defaults,
        [
            ColumnDefault::Null,
            ColumnDefault::Null,
            ColumnDefault::Null,
            ColumnDefault::Immutable,
            ColumnDefault::Varying,
            ColumnDefault::Immutable,
            ColumnDefault::IdentityAlways,
            ColumnDefault::Generated
        ]
    );
    let collations: Vec<Collation> = users.columns[..3]
        .iter()
        .map(|column| column.collation)
        .collect();
    assert_eq!(
        collations,
        [
            Collation::NotApplicable,
            Collation::Nondeterministic,
            Collation::Bytewise
        ]
    );
    assert_eq!(
        relation(&catalog, "countries").columns[0].collation,
        Collation::Deterministic
    );
    assert!(users.unique_keys[0].is_primary && users.columns[0].not_null);
    assert_eq!(users.cascades_to, ["orders".parse().unwrap()]);
    let orders = relation(&catalog, "orders");
    assert_eq!(orders.unique_keys.len(), 1);
    assert_eq!(
        orders.unique_keys[0].columns,
        ["user_id".into(), "no".into()] as [Box<str>; 2]
    );
    let events = relation(&catalog, "events");
    assert_eq!(events.kind, RelationKind::PartitionedTable);
    assert!(events.has_triggers && !users.has_triggers);
    assert_eq!(
        relation(&catalog, "events_old").parent,
        Some("events".parse().unwrap())
    );
    assert_eq!(
        relation(&catalog, "users_pkey").depends_on,
        ["users".parse().unwrap()]
    );
    assert_eq!(
        relation(&catalog, "users_serial_seq").depends_on,
        ["users".parse().unwrap()]
    );
    assert_eq!(
        relation(&catalog, "plain").depends_on,
        ["users".parse().unwrap()]
    );
    assert!(!relation(&catalog, "plain").is_opaque && relation(&catalog, "opaque").is_opaque);
    assert_eq!(
        relation(&catalog, "scratch").persistence,
        Persistence::Unlogged
    );
    assert!(relation(&catalog, "countries").has_row_security);
    assert!(
        catalog
            .relation(&RelationName::new("pg_catalog", "pg_class"))
            .is_some()
    );
    let path: Vec<Box<str>> = vec!["public".into()];
    assert_eq!(
        catalog.function_volatility(None, "f", &path),
        Some(Volatility::Volatile)
    );
    assert_eq!(
        catalog.function_volatility(None, "lower", &path),
        Some(Volatility::Immutable)
    );
    assert_eq!(catalog.functions(None, "f", &path).count(), 2);
    assert!(catalog.key_type(users.columns[0].type_oid).is_some());
    assert!(!catalog.relations().any(|relation| relation.drifted));
    control.shutdown().await;
}

#[tokio::test]
async fn functions_that_run_along_with_a_table_are_in_the_catalog() {
    let (_home, _other, control) = herd().await;
    let catalog = control.catalog().borrow().clone();
    let tells: &[RelationName] = &["tells".parse().unwrap()];
    for (table, reading, writing) in [
        ("guarded", tells, tells),
        ("guarded_writes", &[], tells),
        ("unguarded", &[], &[]),
        ("of_pairs", &[], tells),
        ("trusting", &[], &[]),
        ("users", &[], &[]),
        (
            "setting",
            &[],
            &[RelationName::new("pg_catalog", "set_config")],
        ),
    ] {
        let relation = relation(&catalog, table);
        assert_eq!(relation.reading_calls, reading, "{table}");
        assert_eq!(relation.writing_calls, writing, "{table}");
    }
    assert_eq!(
        relation(&catalog, "guarded").policies_read,
        ["orders".parse().unwrap()]
    );
    let calls_of = |name| &catalog.type_in("public", name).unwrap().calls;
    assert_eq!(
        (calls_of("told"), calls_of("pair")),
        (&tells.to_vec(), &tells.to_vec())
    );
    assert!(calls_of("id").is_empty());
    control.shutdown().await;
}

#[tokio::test]
async fn oids_translate_by_name() {
    let (home, other, control) = herd().await;
    let catalog = control.catalog().borrow().clone();
    let map = catalog.oid_map(ShardId(1));
    assert!(!map.is_identity() && catalog.oid_map(ShardId(0)).is_identity());
    let probes = [
        "'mood'::regtype::oid",
        "'mood[]'::regtype::oid",
        "'id'::regtype::oid",
        "'point3'::regtype::oid",
        "'point3[]'::regtype::oid",
        "'span'::regtype::oid",
        "'users'::regtype::oid",
        "'users'::regclass::oid",
        "(SELECT rngmultitypid FROM pg_range WHERE rngtypid = 'span'::regtype)",
    ];
    for probe in probes {
        let here: u32 = home.value(probe).await.unwrap().parse().unwrap();
        let there: u32 = other.value(probe).await.unwrap().parse().unwrap();
        assert_ne!(here, there, "{probe}");
        assert_eq!(
            (map.to_home(there), map.to_shard(here)),
            (Some(here), Some(there)),
            "{probe}"
        );
    }
    assert_eq!(map.to_home(20), Some(20));
    let mood: u32 = home
        .value("'mood[]'::regtype::oid")
        .await
        .unwrap()
        .parse()
        .unwrap();
    assert!(matches!(
        catalog.type_by_oid(mood).unwrap().kind,
        TypeKind::Array { .. }
    ));
    control.shutdown().await;
}

#[tokio::test]
async fn a_table_that_differs_or_is_missing_on_a_shard_has_drifted() {
    let (home, other, control) = herd().await;
    let drifted =
        |control: &Control, name: &str| relation(&control.catalog().borrow(), name).drifted;
    other.sql("ALTER TABLE users ADD COLUMN extra int").await;
    control.reloader().reload().await.unwrap();
    assert!(drifted(&control, "users") && !drifted(&control, "orders"));
    home.sql("ALTER TABLE users ADD COLUMN extra int").await;
    control.reloader().reload().await.unwrap();
    assert!(!drifted(&control, "users"));
    other.sql("ALTER TABLE orders ADD CHECK (no > 0)").await;
    home.sql("DROP TABLE countries").await;
    control.reloader().reload().await.unwrap();
    assert!(drifted(&control, "orders") && drifted(&control, "countries"));
    other.sql("DROP TABLE countries").await;
    control.reloader().reload().await.unwrap();
    assert!(
        control
            .catalog()
            .borrow()
            .relation(&"countries".parse().unwrap())
            .is_none()
    );
    control.shutdown().await;
}

#[tokio::test]
async fn ddl_around_the_proxy_is_noticed_and_nothing_else_makes_a_new_version() {
    let (home, other, control) = herd().await;
    let mut catalog = control.catalog();
    for (server, ddl) in [
        (&home, "CREATE TABLE fresh (x int)"),
        (&home, "ALTER TABLE fresh ALTER x SET NOT NULL"),
        (&home, "ALTER TABLE fresh DROP COLUMN x"),
        (&other, "CREATE TYPE fresh_type AS ENUM ()"),
        (
            &home,
            "CREATE OR REPLACE FUNCTION f(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
        ),
        (&home, "DROP TABLE fresh"),
        (
            &home,
            "ALTER DATABASE postgres SET search_path = elsewhere, public",
        ),
    ] {
        // the reading itself is under way at the start
        tokio::time::sleep(Duration::from_millis(300)).await;
        let version = catalog.borrow_and_update().version();
        let begun = Instant::now();
        server.sql(ddl).await;
        tokio::time::timeout(Duration::from_secs(3), catalog.changed())
            .await
            .expect(ddl)
            .unwrap();
        assert!(catalog.borrow_and_update().version() > version);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    assert_eq!(&*catalog.borrow().settings().search_path[0], "elsewhere");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let version = catalog.borrow_and_update().version();
    home.sql("CREATE TEMP TABLE mine AS SELECT 1; INSERT INTO countries VALUES ('de'); ANALYZE")
        .await;
    control.reloader().reload().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(catalog.borrow().version(), version);
    control.shutdown().await;
}

#[tokio::test]
async fn reloads_at_once_share_a_reading_and_each_sees_what_was_committed_before_it() {
    let (home, _other, control) = herd().await;
    let reloads = (0..30).map(|number| {
        let (reloader, catalog) = (control.reloader(), control.catalog());
        let home = &home;
        async move {
            home.sql(&format!("CREATE TABLE many_{number} ()")).await;
            reloader.reload().await.unwrap();
            let name = format!("many_{number}").parse().unwrap();
            assert!(catalog.borrow().relation(&name).is_some(), "{number}");
        }
    });
    let begun = Instant::now();
    for_all(reloads).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    control.shutdown().await;
}

/// Polls all of them together.
async fn for_all(futures: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut open: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        open.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if open.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
