//! Statements with parameters, whose types the server infers or the client declares.

use pgherd_tests::oracle::schema::Type;

/// A name, a statement, and for each parameter the type to declare (0 for none) and its text.
pub struct Case(
    pub &'static str,
    pub &'static str,
    pub &'static [(Declared, &'static str)],
);

/// What Parse declares of a parameter.
#[derive(Clone, Copy)]
pub enum Declared {
    No,
    Int4,
    Int8,
    Text,
    Varchar,
    Numeric,
}

impl Declared {
    /// The type, and whether Parse names it.
    pub fn of(self) -> (Type, bool) {
        match self {
            Self::No => (Type::Text, false),
            Self::Int4 => (Type::Int4, true),
            Self::Int8 => (Type::Int8, true),
            Self::Text => (Type::Text, true),
            Self::Varchar => (Type::Varchar, true),
            Self::Numeric => (Type::Numeric, true),
        }
    }
}

use Declared::{Int4, Int8, No, Numeric, Text, Varchar};

pub const CASES: &[Case] = &[
    Case(
        "one parameter twice, first beside a double",
        "SELECT count(*) FROM measured WHERE f = $1 AND id = $1",
        &[(No, "9007199254740993")],
    ),
    Case(
        "one parameter twice, first beside the key",
        "SELECT count(*) FROM measured WHERE id = $1 AND f = $1",
        &[(No, "9007199254740993")],
    ),
    Case(
        "a parameter of the key's own type",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(No, "{b}")],
    ),
    Case(
        "a parameter of a smaller type",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(Int4, "{b}")],
    ),
    Case(
        "a parameter declared as text",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(Text, "{b}")],
    ),
    Case(
        "a parameter declared as numeric",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(Numeric, "{b}")],
    ),
    Case(
        "a parameter under a cast",
        "SELECT count(*) FROM users WHERE id = $1::int",
        &[(No, "{b}")],
    ),
    Case(
        "a parameter under a cast from text",
        "SELECT count(*) FROM users WHERE id = $1::text::bigint",
        &[(No, "{b}")],
    ),
    Case(
        "a parameter under a cast to a double",
        "SELECT count(*) FROM users WHERE id = $1::float8",
        &[(No, "9007199254740993")],
    ),
    Case(
        "a parameter that is no number",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(No, "no number")],
    ),
    Case(
        "a parameter too large",
        "SELECT count(*) FROM users WHERE id = $1",
        &[(No, "99999999999999999999")],
    ),
    Case(
        "parameters on two shards",
        "SELECT count(*) FROM users WHERE id IN ($1, $2)",
        &[(No, "{a}"), (No, "{b}")],
    ),
    Case(
        "parameters on one shard",
        "SELECT count(*) FROM users WHERE id IN ($1, $2)",
        &[(No, "{a}"), (Int8, "{c}")],
    ),
    Case(
        "an array as a parameter",
        "SELECT count(*) FROM users WHERE id = ANY ($1)",
        &[(No, "{{a},{b}}")],
    ),
    Case(
        "an array of one shard's ids",
        "SELECT count(*) FROM users WHERE id = ANY ($1)",
        &[(No, "{{a},{c}}")],
    ),
    Case(
        "an empty array",
        "SELECT count(*) FROM users WHERE id = ANY ($1)",
        &[(No, "{}")],
    ),
    Case(
        "an array with NULL",
        "SELECT count(*) FROM users WHERE id = ANY ($1::bigint[])",
        &[(No, "{NULL,{b}}")],
    ),
    Case(
        "a limit as a parameter",
        "SELECT count(*) FROM (SELECT 1 FROM users LIMIT $1 + 1) x",
        &[(No, "2")],
    ),
    Case(
        "a parameter in an inner query",
        "SELECT count(*) FROM users WHERE id = (SELECT $1::bigint)",
        &[(No, "{b}")],
    ),
    Case(
        "a parameter on either side",
        "SELECT count(*) FROM users WHERE $1 = id AND id = $2",
        &[(No, "{b}"), (No, "{b}")],
    ),
    Case(
        "two keys that differ",
        "SELECT count(*) FROM users WHERE id = $1 AND id = $2",
        &[(No, "{a}"), (No, "{b}")],
    ),
    Case(
        "a written key",
        "INSERT INTO users (id, name) VALUES ($1, $2) RETURNING id",
        &[(No, "1201"), (No, "p")],
    ),
    Case(
        "a written key as text",
        "INSERT INTO users (id) VALUES ($1)",
        &[(Text, "1202")],
    ),
    Case(
        "a written key as numeric",
        "INSERT INTO users (id) VALUES ($1)",
        &[(Numeric, "1203.6")],
    ),
    Case(
        "a written key under a cast",
        "INSERT INTO users (id) VALUES ($1::numeric)",
        &[(No, "1204.5")],
    ),
    Case(
        "a written key of a smaller type",
        "INSERT INTO users (id) VALUES ($1)",
        &[(Int4, "1205")],
    ),
    Case(
        "a written text that is too long",
        "INSERT INTO codes (code) VALUES ($1)",
        &[(Text, "ten blanks          ")],
    ),
    Case(
        "a written text under a cast",
        "INSERT INTO codes (code) VALUES ($1::varchar(3))",
        &[(Text, "abcdef")],
    ),
    Case(
        "several rows of parameters",
        "INSERT INTO orders (user_id, id) VALUES ($1, $2), ($1, $3)",
        &[(No, "{b}"), (No, "71"), (No, "72")],
    ),
    Case(
        "rows of parameters on two shards",
        "INSERT INTO users (id) VALUES ($1), ($2)",
        &[(No, "1206"), (No, "1207")],
    ),
    Case(
        "a key compared as varchar",
        "SELECT n FROM codes WHERE code = $1",
        &[(Varchar, "ann")],
    ),
    Case(
        "a key compared as text",
        "SELECT n FROM codes WHERE code = $1",
        &[(No, "ann ")],
    ),
    Case(
        "a key compared as blank-padded text",
        "SELECT count(*) FROM notes WHERE name = $1::bpchar",
        &[(No, "ann")],
    ),
    Case(
        "a composite key",
        "SELECT v FROM pairs WHERE a = $1 AND b = $2",
        &[(No, "1"), (No, "Ann")],
    ),
    Case(
        "a uuid",
        "SELECT owner FROM documents WHERE id = $1",
        &[(No, "0000000a-000b-4000-8000-000000000003")],
    ),
    Case(
        "a uuid in capitals",
        "SELECT owner FROM documents WHERE id = $1",
        &[(No, "0000000A-000B-4000-8000-000000000003")],
    ),
    Case(
        "a key to update to",
        "UPDATE users SET id = $1 WHERE id = $2",
        &[(No, "{b}"), (No, "{a}")],
    ),
    Case(
        "an update",
        "UPDATE users SET age = $1 WHERE id = $2 RETURNING age",
        &[(No, "61"), (No, "{b}")],
    ),
    Case(
        "a conflict",
        "INSERT INTO users (id, age) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET age = $2",
        &[(No, "{b}"), (No, "62")],
    ),
    Case(
        "a key in the select list",
        "SELECT $1::bigint, count(*) FROM users",
        &[(No, "{b}")],
    ),
    Case(
        "a date",
        "SELECT count(*) FROM daily WHERE day = $1",
        &[(No, "2024-02-01")],
    ),
    Case(
        "a time with a zone",
        "SELECT count(*) FROM moments WHERE at = $1",
        &[(No, "2024-02-01 10:00+00")],
    ),
    Case(
        "a time without a zone",
        "SELECT count(*) FROM moments WHERE at = $1",
        &[(No, "2024-02-01 10:00")],
    ),
    Case(
        "a reference table's row",
        "INSERT INTO countries VALUES ($1, $2, 1)",
        &[(No, "pa"), (No, "p")],
    ),
    Case(
        "a reference table's moment",
        "INSERT INTO stamps VALUES ($1, $2)",
        &[(No, "pb"), (No, "now")],
    ),
    Case(
        "a reference table's other moment",
        "INSERT INTO stamps VALUES ($1, $2)",
        &[(No, "pc"), (No, "2024-02-01")],
    ),
];
