//! Random statements are answered as one Postgres with the same rows would answer them, or refused with nothing changed.
//!
//! `make fuzz-sql N=20000 [SEED=..] [SHARDS=..]` runs any number of them.
#![allow(clippy::unwrap_used)]

use pgherd_tests::oracle::report::Tally;
use pgherd_tests::oracle::shrinking::{describe, shrink};
use pgherd_tests::oracle::world::{Pair, Plot, World};
use pgherd_tests::oracle::{Generator, runner, schema};

/// What `make test` runs.
const SEED: u64 = 20_261_125;
const STATEMENTS: usize = 1_000;
/// Statements of one client, from the first rows on.
const ROUND: usize = 40;
/// More differences than this tell nothing new.
const MOST_DIFFERENCES: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_answered_as_one_postgres_would() {
    run(SEED, STATEMENTS, &[1, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "for any number of statements: make fuzz-sql"]
async fn any_number_of_statements_is_answered_as_one_postgres_would() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let statements = number("N").map_or(20_000, |n: u64| usize::try_from(n).unwrap());
    let seed = number("SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    let shards = std::env::var("SHARDS").unwrap_or_default();
    let shards: Vec<u16> = match shards.as_str() {
        "" => vec![1, 3, 4],
        list => list.split([',', ' ']).map(|n| n.parse().unwrap()).collect(),
    };
    run(seed, statements, &shards).await;
}

async fn run(seed: u64, statements: usize, shards: &[u16]) {
    println!("seed {seed}, {statements} statements over {shards:?} shards");
    let world = World::start(plot(shards)).await;
    assert_eq!(world.failed_definitions, [""; 0]);
    let runs: Vec<_> = world
        .pairs()
        .iter()
        .map(|pair| tokio::spawn(run_pair(pair.clone(), seed, statements)))
        .collect();
    let mut differences = Vec::new();
    let mut served = Vec::new();
    for (run, shards) in runs.into_iter().zip(shards) {
        let (tally, found) = run.await.unwrap();
        println!("{}", tally.table(&format!("over {shards} shards")));
        println!("SQLSTATEs of failures alike: {}\n", tally.failures());
        served.push((*shards, tally.served(), tally.total()));
        differences.extend(found);
    }
    assert!(
        differences.is_empty(),
        "{} differences, printed above; make fuzz-sql N={statements} SEED={seed} shows them again",
        differences.len()
    );
    let placed = world.check_rows();
    assert!(placed.is_ok(), "{placed:?}");
    for (shards, served, total) in served {
        assert!(
            served > total / 4,
            "over {shards} shards only {served} of {total} were answered at all"
        );
    }
}

fn plot(shards: &[u16]) -> Plot {
    Plot {
        shard_counts: shards.to_vec(),
        replicas: std::env::var("REPLICAS").map_or(0, |n| n.parse().unwrap()),
        sharding: schema::SHARDING,
        database: "",
        behind: Vec::new(),
        definitions: schema::DEFINITIONS
            .iter()
            .map(|d| (*d).to_owned())
            .collect(),
        rows: schema::rows(),
        direct: Vec::new(),
        sharded: schema::tables_of(|kind| matches!(kind, schema::Kind::Sharded(_))),
        empty: Vec::new(),
        reference: schema::tables_of(|kind| kind == schema::Kind::Reference),
        unlisted: schema::tables_of(|kind| kind == schema::Kind::Unlisted),
    }
}

async fn run_pair(pair: Pair, seed: u64, statements: usize) -> (Tally, Vec<String>) {
    let mut tally = Tally::default();
    let mut watch = pair.watch().await;
    let mut differences = Vec::new();
    let rounds = statements.div_ceil(ROUND);
    for number in 0..rounds {
        let length = ROUND.min(statements - number * ROUND);
        let stream = u64::try_from(number).unwrap();
        let round = Generator::new(seed, stream).round(length);
        let Some(difference) = runner::run(&pair, &mut watch, &round, &mut tally).await else {
            continue;
        };
        let (smallest, difference) = shrink(&pair, &mut watch, &round, difference).await;
        let text = format!(
            "seed {seed}, round {number}, {} shards:\n{}{}",
            pair.shards,
            describe(&smallest),
            difference.what
        );
        println!("{text}");
        differences.push(text);
        if differences.len() >= MOST_DIFFERENCES {
            break;
        }
    }
    (tally, differences)
}
