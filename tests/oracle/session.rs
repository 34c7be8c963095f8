//! Rounds: what one client sends, transactions and settings included.

use super::client::Mode;
use super::comparison::Certainty;
use super::generator::Generator;
use super::node::Node;
use super::runner::Step;
use super::schema::{Type, WORDS};
use crate::sql;

impl Generator {
    /// So many statements of one client.
    #[must_use]
    pub fn round(&mut self, statements: usize) -> Vec<Step> {
        let mut round = Vec::new();
        while round.len() < statements {
            match self.random.below(40) {
                0 | 1 => self.transaction(&mut round),
                2 => self.setting(&mut round),
                3 if self.random.percent(35) => self.prepared(&mut round),
                4 => self.copy(&mut round),
                5 => self.oddity(&mut round),
                _ => {
                    let step = self.statement();
                    round.push(step);
                }
            }
        }
        round.truncate(statements);
        round
    }

    fn statement(&mut self) -> Step {
        self.begin_statement();
        let writes = self.random.percent(38);
        let (node, certainty) = if self.random.percent(15) {
            self.across(writes)
        } else if writes {
            self.write_statement()
        } else {
            self.select_statement()
        };
        let mode = *self
            .random
            .choose(&[Mode::Simple, Mode::Text, Mode::Binary, Mode::Prepared]);
        Step {
            node,
            mode,
            certainty,
            writes,
            copied: None,
        }
    }

    fn transaction(&mut self, round: &mut Vec<Step>) {
        let begin = self.random.word(&[
            "BEGIN",
            "begin",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN READ ONLY",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
        ]);
        round.push(self.plain(begin));
        let focus = self.random.below(14);
        let mut saved = false;
        for _ in 0..1 + self.random.below(5) {
            match self.random.below(8) {
                0 => {
                    saved = true;
                    round.push(self.plain("SAVEPOINT one"));
                }
                1 if saved => round.push(self.plain("ROLLBACK TO one")),
                2 if saved => {
                    saved = false;
                    round.push(self.plain("RELEASE SAVEPOINT one"));
                }
                3 => self.cursor(focus, round),
                _ => {
                    let step = self.statement();
                    round.push(step);
                }
            }
        }
        let end = self
            .random
            .word(&["COMMIT", "COMMIT", "END", "ROLLBACK", "COMMIT AND CHAIN"]);
        round.push(self.plain(end));
        if end == "COMMIT AND CHAIN" {
            round.push(self.plain("ROLLBACK"));
        }
    }

    fn cursor(&mut self, focus: usize, round: &mut Vec<Step>) {
        let id = self.key_text(Type::Int8, focus);
        let order = "ORDER BY 1, 2";
        round.push(Self::simple(format!(
            "DECLARE c CURSOR FOR SELECT id, amount FROM orders WHERE user_id = {id} {order}"
        )));
        let fetch = self.random.word(&[
            "FETCH 2 FROM c",
            "FETCH ALL FROM c",
            "MOVE 1 IN c",
            "FETCH NEXT FROM c",
        ]);
        round.push(Self::simple(fetch));
        round.push(Self::simple("CLOSE c"));
    }

    /// A setting for a few statements.
    fn setting(&mut self, round: &mut Vec<Step>) {
        let (set, reset) = *self.random.choose(&[
            ("SET search_path TO archive, public", "RESET search_path"),
            (
                "SET search_path TO archive, public",
                "SET search_path = public",
            ),
            ("SET search_path TO 'archive'", "SET search_path TO DEFAULT"),
            ("SHOW search_path", "SHOW DateStyle"),
            ("SET DateStyle = 'German'", "RESET DateStyle"),
            ("SET TIME ZONE 'America/New_York'", "RESET TIME ZONE"),
            (
                "SET standard_conforming_strings = off",
                "RESET standard_conforming_strings",
            ),
            ("SET transform_null_equals = on", "RESET ALL"),
            ("SET LOCAL search_path TO archive", "DISCARD ALL"),
        ]);
        round.push(self.plain(set));
        for _ in 0..1 + self.random.below(3) {
            let step = self.statement();
            round.push(step);
        }
        round.push(self.plain(reset));
    }

    /// PREPARE, EXECUTE and DEALLOCATE as statements.
    fn prepared(&mut self, round: &mut Vec<Step>) {
        self.begin_statement();
        let (text, keys) = *self.random.choose(&[
            (
                "PREPARE p (bigint) AS SELECT name FROM users WHERE id = $1",
                Type::Int8,
            ),
            (
                "PREPARE p AS SELECT count(*) FROM orders WHERE user_id = $1",
                Type::Int8,
            ),
            (
                "PREPARE p (text) AS DELETE FROM notes WHERE name = $1",
                Type::Text,
            ),
            (
                "PREPARE p (text) AS SELECT value FROM settings WHERE name = $1",
                Type::Text,
            ),
        ]);
        round.push(Self::simple(text));
        for _ in 0..2 {
            let position = self.position();
            let key = self.key_text(keys, position);
            let key = self.literal(keys, &key);
            let mut step = Self::simple("");
            step.node = sql!("EXECUTE p (", key, ")");
            round.push(step);
        }
        round.push(Self::simple("DEALLOCATE p"));
    }

    fn copy(&mut self, round: &mut Vec<Step>) {
        self.begin_statement();
        let id = self.position();
        let id = self.key_text(Type::Int8, id);
        let text = match self.random.below(7) {
            0 => format!("COPY (SELECT id, name FROM users WHERE id = {id}) TO STDOUT"),
            1 => "COPY countries TO STDOUT".into(),
            2 => "COPY settings (name, value) TO STDOUT".into(),
            3 => "COPY users TO STDOUT".into(),
            kind => {
                let (first, second) = (100 + self.random.below(50), 160 + self.random.below(50));
                let (target, data) = match kind {
                    4 => (
                        "users (id, name)",
                        format!("{first}\tcopied\n{second}\t\\N\n"),
                    ),
                    5 => ("settings (name, n)", format!("c{first}\t1\n")),
                    _ => ("countries", format!("c{first}\tx\t1.5\n")),
                };
                let mut step = Self::simple(format!("COPY {target} FROM STDIN"));
                step.copied = Some(data);
                round.push(step);
                return;
            }
        };
        round.push(Self::simple(text));
    }

    /// Statements that are no query, or wrong, or several at once.
    fn oddity(&mut self, round: &mut Vec<Step>) {
        self.begin_statement();
        let id = self.position();
        let id = self.key_text(Type::Int8, id);
        let word = *self.random.choose(WORDS);
        let word = super::schema::quoted(word);
        let text = match self.random.below(22) {
            0 => format!(
                "SELECT name FROM users WHERE id = {id}; SELECT n FROM notes WHERE name = {word}"
            ),
            1 => format!(
                "UPDATE users SET age = 3 WHERE id = {id}; UPDATE users SET age = 4 WHERE id = {id}"
            ),
            2 => "TABLE countries".into(),
            3 => "TABLE users".into(),
            4 => format!("VALUES (1, {word}), (2, 'b')"),
            5 => format!("SELECT * FROM users WHERE id = {id}"),
            6 => format!("SELECT u, u.* FROM users u WHERE u.id = {id}"),
            7 => "SELECT nothing FROM users WHERE id = 1".into(),
            8 => "SELECT * FROM nowhere".into(),
            9 => "SELEC 1".into(),
            10 => String::new(),
            11 => "; ;".into(),
            12 => "ROLLBACK".into(),
            13 => "SELECT 1 / 0".into(),
            14 => format!("SELECT id FROM ONLY users WHERE id = {id}"),
            15 => format!("SELECT count(*) FROM users TABLESAMPLE BERNOULLI (100) WHERE id = {id}"),
            16 => format!("INSERT INTO users (id) VALUES ({id}), ({id})"),
            17 => format!("SELECT 'a' 'b' FROM users WHERE id = {id}"),
            18 => format!("SELECT tableoid::regclass::text FROM users WHERE id = {id}"),
            19 => "TRUNCATE orders".into(),
            20 => "INSERT INTO users DEFAULT VALUES".into(),
            _ => format!("SELECT ctid IS NOT NULL FROM users WHERE id = {id}"),
        };
        let mut step = Self::simple(text);
        step.writes = true;
        if self.random.percent(30) && !text_has_several(&step.node) {
            step.mode = Mode::Binary;
        }
        round.push(step);
    }

    /// A statement without values, in any protocol.
    fn plain(&mut self, text: &str) -> Step {
        let mut step = Self::simple(text);
        step.mode = *self
            .random
            .choose(&[Mode::Simple, Mode::Simple, Mode::Text, Mode::Binary]);
        step
    }

    fn simple(text: impl Into<Node>) -> Step {
        Step {
            node: text.into(),
            mode: Mode::Simple,
            certainty: Certainty::Rows,
            writes: true,
            copied: None,
        }
    }
}

fn text_has_several(node: &Node) -> bool {
    node.render(false).sql.contains(';')
}
