//! The tables, views, functions, triggers and rules that the cases are about, beside those of the oracle.

use pgherd_tests::oracle::schema;
use pgherd_tests::oracle::world::Plot;

/// The oracle's, and tables that are there for one trap each.
const SHARDING: &str = "
tables:
  users: { key: id }
  orders: { key: user_id, with: users }
  documents: { key: id }
  notes: { key: name }
  codes: { key: code }
  pairs: { key: [a, b] }
  '\"Mixed Case\"': { key: '\"Id\"' }
  parts: { key: id }
  animals: { key: id }
  watched: { key: id }
  shifted: { key: id }
  ruled: { key: id }
  parents: { key: id }
  children: { key: id }
  secret: { key: id }
  made: { key: id }
  numbered: { key: id }
  moods: { key: id }
  measured: { key: id }
  daily: { key: day }
  moments: { key: at }
  things: { key: owner }
  loose: { key: name }
reference: [countries, currencies, stamps, counted]
unlisted: s0";

const SHARDED: &[&str] = &[
    "parts_2024",
    "animals",
    "dogs",
    "measured",
    "daily",
    "moments",
];

/// Without rows at first: some cannot be given any from outside.
const EMPTY: &[&str] = &[
    "watched", "shifted", "ruled", "parents", "children", "secret", "made", "numbered", "moods",
    "loose",
];

const DEFINITIONS: &[&str] = &[
    "CREATE EXTENSION citext",
    "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE TABLE parts (id bigint, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE parts_2024 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    "CREATE TABLE watched (id bigint PRIMARY KEY, v text)",
    "CREATE TABLE shifted (id bigint PRIMARY KEY, v text)",
    "CREATE TABLE ruled (id bigint PRIMARY KEY, v text)",
    "CREATE TABLE parents (id bigint PRIMARY KEY)",
    "CREATE TABLE children (id bigint PRIMARY KEY, parent bigint REFERENCES parents ON DELETE CASCADE)",
    "CREATE TABLE secret (id bigint PRIMARY KEY, v text)",
    "CREATE TABLE made (n int, id bigint GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY)",
    "CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
    "CREATE TABLE moods (id bigint PRIMARY KEY, m mood)",
    "CREATE TABLE measured (id bigint PRIMARY KEY, f float8)",
    "CREATE TABLE daily (day date PRIMARY KEY, n int)",
    "CREATE TABLE moments (at timestamptz PRIMARY KEY, n int)",
    "CREATE TABLE things (owner bigint, id bigserial, PRIMARY KEY (owner, id))",
    "CREATE TABLE stamps (code text PRIMARY KEY, at timestamptz DEFAULT now())",
    "CREATE TABLE counted (code text PRIMARY KEY, n serial)",
    "CREATE TABLE loose (name text COLLATE nocase PRIMARY KEY, v int)",
    "CREATE VIEW limited AS SELECT * FROM users ORDER BY id LIMIT 3",
    "CREATE VIEW everyone_twice AS SELECT id, name FROM everyone UNION ALL SELECT id, name FROM users",
    "CREATE VIEW first_user AS SELECT * FROM users WHERE id = 1",
    "CREATE VIEW next_number AS SELECT nextval('counter') AS n",
    "CREATE FUNCTION user_name(bigint) RETURNS text LANGUAGE sql STABLE AS 'SELECT name FROM users WHERE id = $1'",
    "CREATE FUNCTION count_users() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM users); END $$",
    "CREATE FUNCTION touch(bigint) RETURNS int LANGUAGE sql AS 'UPDATE users SET age = 1 WHERE id = $1 RETURNING 1'",
    "CREATE FUNCTION liar(bigint) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN touch($1); END $$",
    "CREATE FUNCTION all_users() RETURNS SETOF users LANGUAGE sql STABLE AS 'SELECT * FROM users'",
    "CREATE FUNCTION doubled(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'",
    "CREATE PROCEDURE touch_all() LANGUAGE sql AS 'UPDATE users SET age = 2'",
    "CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (TG_TABLE_NAME); RETURN NEW; END $$",
    "CREATE TRIGGER seen AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION write_audit()",
    "CREATE FUNCTION shift_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 1; RETURN NEW; END $$",
    "CREATE TRIGGER moved BEFORE INSERT ON shifted FOR EACH ROW EXECUTE FUNCTION shift_key()",
    "CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO audit VALUES ('ruled')",
    "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE secret FORCE ROW LEVEL SECURITY",
    "CREATE POLICY ordered ON secret USING (id IN (SELECT user_id FROM orders))",
    "CREATE SCHEMA odd",
    "CREATE FUNCTION odd.never(bigint, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false'",
    "CREATE OPERATOR odd.= (LEFTARG = bigint, RIGHTARG = int, FUNCTION = odd.never)",
];

/// What is on every server, though no rule says so: written there, it would lie where nobody looks.
const BEHIND: &[&str] = &[
    "CREATE TABLE audit (what text)",
    "CREATE SEQUENCE counter",
    "CREATE TABLE animals (id bigint PRIMARY KEY, name text)",
    "CREATE TABLE dogs (breed text) INHERITS (animals)",
];

/// Rows made from those that lie on the same shard.
const DIRECT: &[&str] = &[
    "INSERT INTO parts SELECT id, '2024-05-05', 1 FROM users",
    "INSERT INTO animals SELECT id, name FROM users",
    "INSERT INTO dogs SELECT id, name, 'breed' FROM users WHERE age = 30",
    "INSERT INTO measured SELECT id, id FROM users",
];

/// Rows written through the proxy.
const ROWS: &[&str] = &[
    "INSERT INTO daily VALUES ('2024-02-01', 1)",
    "INSERT INTO daily VALUES ('2024-01-02', 2)",
    "INSERT INTO moments VALUES ('2024-02-01 10:00:00+00', 1)",
    "INSERT INTO moments VALUES ('2024-02-01 05:00:00+00', 2)",
    "INSERT INTO stamps VALUES ('s0', '2024-01-01 00:00:00+00')",
];

fn owned(texts: &'static [&'static str]) -> impl Iterator<Item = String> {
    texts.iter().map(|text| (*text).to_owned())
}

/// What runs.
pub fn plot(shards: &[u16]) -> Plot {
    let tables = |kind: fn(schema::Kind) -> bool, more: &[&'static str]| {
        [schema::tables_of(kind), more.to_vec()].concat()
    };
    Plot {
        shard_counts: shards.to_vec(),
        replicas: 1,
        sharding: SHARDING,
        database: "",
        behind: owned(BEHIND).collect(),
        definitions: owned(schema::DEFINITIONS)
            .chain(owned(DEFINITIONS))
            .collect(),
        rows: schema::rows().into_iter().chain(owned(ROWS)).collect(),
        direct: owned(DIRECT).collect(),
        sharded: tables(|kind| matches!(kind, schema::Kind::Sharded(_)), SHARDED),
        empty: EMPTY.to_vec(),
        reference: tables(
            |kind| kind == schema::Kind::Reference,
            &["stamps", "counted"],
        ),
        unlisted: tables(|kind| kind == schema::Kind::Unlisted, &["audit"]),
    }
}
