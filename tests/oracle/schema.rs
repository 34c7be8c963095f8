//! The tables that random statements are about.
//!
//! Owns their definitions, how they are sharded, and the rows that every round begins with. Main types: [`Table`], [`Type`].

/// A column's type, as far as the grammar tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `bigint`
    Int8,
    /// `integer`
    Int4,
    /// `text`
    Text,
    /// `varchar`
    Varchar,
    /// `uuid`
    Uuid,
    /// `numeric`
    Numeric,
    /// `boolean`
    Boolean,
    /// `date`
    Date,
    /// `timestamp`
    Timestamp,
}

impl Type {
    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "bigint",
            Self::Int4 => "integer",
            Self::Text => "text",
            Self::Varchar => "varchar",
            Self::Uuid => "uuid",
            Self::Numeric => "numeric",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }

    /// Its OID.
    #[must_use]
    pub fn oid(self) -> u32 {
        match self {
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Varchar => 1043,
            Self::Uuid => 2950,
            Self::Numeric => 1700,
            Self::Boolean => 16,
            Self::Date => 1082,
            Self::Timestamp => 1114,
        }
    }

    /// Is it a whole number?
    #[must_use]
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }

    /// Is it `text` or `varchar`?
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Varchar)
    }
}

/// Where a table's rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each on the shard of its key: these columns.
    Sharded(&'static [&'static str]),
    /// On every shard.
    Reference,
    /// On the first shard.
    Unlisted,
    /// A view over such tables; its sharding key, if one of its columns is one.
    View(&'static [&'static str]),
}

/// A table or view.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// As SQL writes it.
    pub name: &'static str,
    /// Where its rows lie.
    pub kind: Kind,
    /// Its columns, as SQL writes them.
    pub columns: &'static [(&'static str, Type)],
    /// Columns of a unique key.
    pub unique: &'static [&'static str],
}

use Kind::{Reference, Sharded, Unlisted, View};
use Type::{Boolean, Date, Int4, Int8, Numeric, Text, Timestamp, Uuid, Varchar};

/// All of them.
pub const TABLES: &[Table] = &[
    Table {
        name: "users",
        kind: Sharded(&["id"]),
        columns: &[
            ("id", Int8),
            ("name", Text),
            ("country", Text),
            ("age", Int4),
            ("score", Numeric),
            ("active", Boolean),
            ("born", Date),
        ],
        unique: &["id"],
    },
    Table {
        name: "orders",
        kind: Sharded(&["user_id"]),
        columns: &[
            ("user_id", Int8),
            ("id", Int4),
            ("amount", Numeric),
            ("note", Varchar),
            ("placed", Timestamp),
        ],
        unique: &["user_id", "id"],
    },
    Table {
        name: "documents",
        kind: Sharded(&["id"]),
        columns: &[("id", Uuid), ("owner", Int8), ("title", Text)],
        unique: &["id"],
    },
    Table {
        name: "notes",
        kind: Sharded(&["name"]),
        columns: &[("name", Text), ("body", Text), ("n", Int4)],
        unique: &["name"],
    },
    Table {
        name: "codes",
        kind: Sharded(&["code"]),
        columns: &[("code", Varchar), ("n", Int4)],
        unique: &["code"],
    },
    Table {
        name: "pairs",
        kind: Sharded(&["a", "b"]),
        columns: &[("a", Int8), ("b", Text), ("v", Int4)],
        unique: &["a", "b"],
    },
    Table {
        name: "\"Mixed Case\"",
        kind: Sharded(&["\"Id\""]),
        columns: &[("\"Id\"", Int4), ("\"select\"", Text), ("\"Group\"", Int4)],
        unique: &["\"Id\""],
    },
    Table {
        name: "countries",
        kind: Reference,
        columns: &[("code", Text), ("name", Text), ("vat", Numeric)],
        unique: &["code"],
    },
    Table {
        name: "currencies",
        kind: Reference,
        columns: &[("id", Int4), ("code", Varchar)],
        unique: &["id"],
    },
    Table {
        name: "settings",
        kind: Unlisted,
        columns: &[("name", Text), ("value", Text), ("n", Int4)],
        unique: &["name"],
    },
    Table {
        name: "tickets",
        kind: Unlisted,
        columns: &[("id", Int4), ("title", Text), ("made", Date)],
        unique: &["id"],
    },
    Table {
        name: "archive.users",
        kind: Unlisted,
        columns: &[("id", Int8), ("name", Text), ("age", Int4)],
        unique: &["id"],
    },
    Table {
        name: "everyone",
        kind: View(&["id"]),
        columns: &[("id", Int8), ("name", Text), ("country", Text)],
        unique: &["id"],
    },
    Table {
        name: "user_orders",
        kind: View(&["id"]),
        columns: &[
            ("id", Int8),
            ("name", Text),
            ("order_id", Int4),
            ("amount", Numeric),
        ],
        unique: &["id", "order_id"],
    },
    Table {
        name: "order_totals",
        kind: View(&["user_id"]),
        columns: &[("user_id", Int8), ("n", Int8), ("total", Numeric)],
        unique: &["user_id"],
    },
    Table {
        name: "places",
        kind: View(&[]),
        columns: &[("code", Text), ("name", Text)],
        unique: &["code"],
    },
    Table {
        name: "options",
        kind: View(&[]),
        columns: &[("name", Text), ("value", Text)],
        unique: &["name"],
    },
];

/// The names of the tables of a kind.
#[must_use]
pub fn tables_of(kind: impl Fn(Kind) -> bool) -> Vec<&'static str> {
    TABLES
        .iter()
        .filter(|table| kind(table.kind))
        .map(|table| table.name)
        .collect()
}

/// How the tables are sharded, as the configuration says it.
pub const SHARDING: &str = "
tables:
  users: { key: id }
  orders: { key: user_id, with: users }
  documents: { key: id }
  notes: { key: name }
  codes: { key: code }
  pairs: { key: [a, b] }
  '\"Mixed Case\"': { key: '\"Id\"' }
reference: [countries, currencies]
unlisted: s0";

/// The definitions, one statement each, in an order that works.
pub const DEFINITIONS: &[&str] = &[
    "CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL, vat numeric(4, 2) DEFAULT 19)",
    "CREATE TABLE currencies (id int PRIMARY KEY, code varchar(3) UNIQUE)",
    "CREATE TABLE users (id bigint PRIMARY KEY, name text, country text DEFAULT 'de', age int CHECK (age >= 0), score numeric(10, 2) DEFAULT 0, active boolean NOT NULL DEFAULT true, born date)",
    "CREATE TABLE orders (user_id bigint NOT NULL, id int NOT NULL, amount numeric(10, 2), note varchar(20), placed timestamp, PRIMARY KEY (user_id, id))",
    "CREATE TABLE documents (id uuid PRIMARY KEY, owner bigint, title text)",
    "CREATE TABLE notes (name text PRIMARY KEY, body text, n int DEFAULT 1)",
    "CREATE TABLE codes (code varchar(10) PRIMARY KEY, n int)",
    "CREATE TABLE pairs (a bigint, b text, v int, PRIMARY KEY (a, b))",
    "CREATE TABLE \"Mixed Case\" (\"Id\" int PRIMARY KEY, \"select\" text, \"Group\" int)",
    "CREATE TABLE settings (name text PRIMARY KEY, value text, n int DEFAULT 0)",
    "CREATE TABLE tickets (id int PRIMARY KEY, title text DEFAULT 'none', made date DEFAULT '2024-01-01')",
    "CREATE SCHEMA archive",
    "CREATE TABLE archive.users (id bigint PRIMARY KEY, name text, age int)",
    "CREATE VIEW everyone AS SELECT id, name, country FROM users",
    "CREATE VIEW user_orders AS SELECT u.id, u.name, o.id AS order_id, o.amount FROM users u JOIN orders o ON o.user_id = u.id",
    "CREATE VIEW order_totals AS SELECT user_id, count(*) AS n, sum(amount) AS total FROM orders GROUP BY user_id",
    "CREATE VIEW places AS SELECT code, name FROM countries",
    "CREATE VIEW options AS SELECT name, value FROM settings",
];

/// Texts that keys and other columns hold: some that collate, fold or compare in ways of their own.
pub const WORDS: &[&str] = &[
    "ann",
    "Ann",
    "bob",
    "ann ",
    "",
    "O'Neil",
    "zoë",
    "zoe",
    "Ångström",
    "a\\b",
    "eve",
    "%",
];

/// Ids beside the small ones: the same as a double, negative, the largest.
pub const LARGE_IDS: &[i64] = &[
    9_007_199_254_740_992,
    9_007_199_254_740_993,
    -1,
    9_223_372_036_854_775_807,
];

/// The uuid of that number.
#[must_use]
pub fn uuid(number: usize) -> String {
    format!("0000000a-000b-4000-8000-{number:012x}")
}

/// A text as a literal.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The rows that every round begins with, one statement each.
#[must_use]
pub fn rows() -> Vec<String> {
    let mut statements = Vec::new();
    let ids = (0..14).chain(LARGE_IDS.iter().copied());
    for (number, id) in ids.enumerate() {
        let word = quoted(WORDS[number % WORDS.len()]);
        let country = ["'de'", "'fr'", "NULL", "'us'"][number % 4];
        let age = ["30", "NULL", "41", "30", "7"][number % 5];
        statements.push(format!(
            "INSERT INTO users VALUES ({id}, {word}, {country}, {age}, {number}.5, {}, '200{}-03-0{}')",
            number % 3 != 0,
            number % 10,
            1 + number % 9
        ));
        for order in 0..number % 4 {
            statements.push(format!(
                "INSERT INTO orders VALUES ({id}, {order}, {}.25, {}, '2024-02-0{} 10:00:00')",
                order * 10,
                ["'gift'", "NULL", "'late'"][order % 3],
                1 + order
            ));
        }
    }
    for (number, word) in WORDS.iter().enumerate() {
        let quoted = quoted(word);
        statements.push(format!(
            "INSERT INTO documents VALUES ('{}', {number}, {quoted})",
            uuid(number)
        ));
        statements.push(format!(
            "INSERT INTO notes VALUES ({quoted}, 'b{number}', {})",
            number % 3
        ));
        statements.push(format!("INSERT INTO codes VALUES ({quoted}, {number})"));
        statements.push(format!(
            "INSERT INTO pairs VALUES ({}, {quoted}, {number})",
            number % 4
        ));
        statements.push(format!(
            "INSERT INTO \"Mixed Case\" VALUES ({number}, {quoted}, {})",
            number % 2
        ));
        statements.push(format!(
            "INSERT INTO settings VALUES ({quoted}, 'v{number}')"
        ));
        statements.push(format!(
            "INSERT INTO tickets VALUES ({number}, {quoted}, '2024-05-01')"
        ));
        statements.push(format!(
            "INSERT INTO archive.users VALUES ({number}, {quoted}, {number})"
        ));
    }
    for (number, code) in ["de", "fr", "us", "jp"].iter().enumerate() {
        statements.push(format!(
            "INSERT INTO countries VALUES ('{code}', 'C{number}', {number}.5)"
        ));
        statements.push(format!(
            "INSERT INTO currencies VALUES ({number}, '{code}')"
        ));
    }
    statements
}
