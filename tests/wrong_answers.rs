//! What sharding proxies are known to answer wrongly: each statement is answered as one Postgres would, or refused with 0A000 and a
//! hint, and then nothing has changed.
//!
//! The statements are in `wrong_answers/`, by what they could get wrong. Each case is the statements of one client; it runs in the
//! simple protocol and in the extended one, with text and with binary results.
#![allow(clippy::unwrap_used)]

#[path = "wrong_answers/clients.rs"]
mod clients;
#[path = "wrong_answers/definitions.rs"]
mod definitions;
#[path = "wrong_answers/objects.rs"]
mod objects;
#[path = "wrong_answers/parameters.rs"]
mod parameters;
#[path = "wrong_answers/proofs.rs"]
mod proofs;
#[path = "wrong_answers/queries.rs"]
mod queries;
#[path = "wrong_answers/sessions.rs"]
mod sessions;
#[path = "wrong_answers/writes.rs"]
mod writes;

use pgherd_tests::oracle::client::Mode;
use pgherd_tests::oracle::comparison::Certainty;
use pgherd_tests::oracle::report::Tally;
use pgherd_tests::oracle::runner::{self, Step};
use pgherd_tests::oracle::shrinking;
use pgherd_tests::oracle::watch::Watch;
use pgherd_tests::oracle::world::{Pair, World};
use pgherd_tests::oracle::{Node, Value};

/// A name and the statements of one client.
pub struct Case(pub &'static str, pub &'static [&'static str]);

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_known_to_go_wrong_is_answered_wrongly() {
    let world = World::start(objects::plot(&[3, 2])).await;
    println!("made behind the proxy: {:#?}", world.refused_definitions);
    let pair = &world.pairs()[0];
    let mut watch = pair.watch().await;
    let keys = Keys::find(pair).await;
    let mut tally = Tally::default();
    let mut wrong = world.failed_definitions.clone();
    for Case(name, statements) in [
        queries::CASES,
        proofs::CASES,
        writes::CASES,
        definitions::CASES,
        sessions::CASES,
    ]
    .concat_cases()
    {
        for mode in [Mode::Simple, Mode::Text, Mode::Binary] {
            let round = keys.round(statements, mode);
            check(pair, &mut watch, &round, &mut tally, name, &mut wrong).await;
        }
    }
    for parameters::Case(name, statement, parameters) in parameters::CASES {
        let round = keys.bound(statement, parameters);
        check(pair, &mut watch, &round, &mut tally, name, &mut wrong).await;
    }
    wrong.extend(clients::check(pair, &mut watch, &keys).await);
    wrong.extend(clients::two_databases_are_told_apart(world.pairs()).await);
    println!("{}", tally.table("what is known to go wrong"));
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(tally.without_hint(), [""; 0], "refused without a hint");
    for pair in world.pairs() {
        for server in &pair.servers {
            // nobody but a superuser could read all keys
            pair.values(server, "ALTER TABLE secret DISABLE ROW LEVEL SECURITY")
                .await;
        }
    }
    let placed = world.check_rows();
    assert!(placed.is_ok(), "{placed:?}");
}

async fn check(
    pair: &Pair,
    watch: &mut Watch,
    round: &[Step],
    tally: &mut Tally,
    name: &str,
    wrong: &mut Vec<String>,
) {
    // after a difference the rest of the case goes on without that statement
    let mut round = round.to_vec();
    while let Some(difference) = runner::run(pair, watch, &round, tally).await {
        let until = &round[..=difference.step];
        wrong.push(format!(
            "{name}:\n{}{}",
            shrinking::describe(until),
            difference.what
        ));
        round.remove(difference.step);
    }
}

/// Ids of users: two on one shard, one on another.
pub struct Keys {
    a: String,
    b: String,
    c: String,
}

impl Keys {
    async fn find(pair: &Pair) -> Self {
        let mut shards = Vec::new();
        for server in &pair.servers {
            let ids = pair
                .values(
                    server,
                    "SELECT id FROM users WHERE id BETWEEN 2 AND 13 ORDER BY id",
                )
                .await;
            shards.push(ids);
        }
        // the first shard is where tables without a key lie: it would answer some rightly by chance
        shards.rotate_left(1);
        let pairs: Vec<&Vec<String>> = shards.iter().filter(|ids| ids.len() > 1).collect();
        let others: Vec<&Vec<String>> = shards
            .iter()
            .filter(|ids| !ids.is_empty() && *ids != pairs[0])
            .collect();
        Self {
            a: pairs[0][0].clone(),
            b: others[0][0].clone(),
            c: pairs[0][1].clone(),
        }
    }

    /// A text with the ids in it.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{a}", &self.a)
            .replace("{b}", &self.b)
            .replace("{c}", &self.c)
    }

    fn round(&self, statements: &[&str], mode: Mode) -> Vec<Step> {
        statements
            .iter()
            .map(|statement| self.step((*statement).into(), mode))
            .collect()
    }

    /// A statement with parameters, in every form of the extended protocol.
    fn bound(&self, statement: &str, parameters: &[(parameters::Declared, &str)]) -> Vec<Step> {
        let mut parts = Vec::new();
        let mut rest = statement;
        while let Some(at) = rest.find('$') {
            let (before, after) = rest.split_at(at);
            let digits = after[1..].chars().take_while(char::is_ascii_digit).count();
            parts.push(Node::from(self.fill(before)));
            parts.push(Node::Parameter(after[1..=digits].parse().unwrap()));
            rest = &after[1 + digits..];
        }
        parts.push(Node::from(self.fill(rest)));
        let values = parameters.iter().map(|(declared, text)| {
            let (data_type, is_declared) = declared.of();
            Value {
                literal: String::new(),
                text: self.fill(text),
                other_text: self.fill(text),
                data_type,
                is_parameter: true,
                is_declared,
                cast: "",
            }
        });
        let node = Node::Bound(Box::new(Node::All(parts)), values.collect());
        [Mode::Text, Mode::Binary, Mode::Prepared]
            .into_iter()
            .map(|mode| self.step(node.clone(), mode))
            .collect()
    }

    fn step(&self, node: Node, mode: Mode) -> Step {
        let node = match node {
            Node::Text(text) => Node::Text(self.fill(&text)),
            other => other,
        };
        let sql = node.render(false).sql;
        let certainty = if sql.contains("ORDER BY") {
            Certainty::Ordered
        } else if sql.contains("LIMIT") {
            Certainty::Count
        } else {
            Certainty::Rows
        };
        Step {
            node,
            mode,
            certainty,
            writes: true,
            copied: None,
        }
    }
}

trait Concat {
    fn concat_cases(&self) -> impl Iterator<Item = &'static Case>;
}

impl<const N: usize> Concat for [&'static [Case]; N] {
    fn concat_cases(&self) -> impl Iterator<Item = &'static Case> {
        self.iter().flat_map(|cases| cases.iter())
    }
}
