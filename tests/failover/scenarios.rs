//! Everything that is done to a shard, by number and name.
//!
//! Main items: [`ALL`], the list, and [`run`], which runs what is chosen and prints what it has cost.
//!
//! # Layout
//! - `crashes`: processes that die. `freezes`: processes that do not answer. `orders`: what operators ask for. `restarts`: pgherd itself dies.

mod crashes;
mod freezes;
pub mod orders;
mod restarts;

use std::collections::BTreeMap;
use std::pin::Pin;

pub use crashes::{killed, returned_and_rejoined};

use crate::checker::{COLUMNS, Verdict};

type Running = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Something that is done to a shard under load.
pub struct Scenario {
    pub number: u32,
    pub name: &'static str,
    run: fn() -> Running,
}

/// The list.
pub const ALL: &[Scenario] = &[
    Scenario {
        number: 1,
        name: "the primary's power is cut",
        run: || Box::pin(crashes::killed()),
    },
    Scenario {
        number: 1,
        name: "the postmaster is killed, a busy backend goes on",
        run: || Box::pin(crashes::orphaned()),
    },
    Scenario {
        number: 1,
        name: "the same power cut on an asynchronous shard",
        run: || Box::pin(crashes::killed_asynchronous()),
    },
    Scenario {
        number: 1,
        name: "the same orphan on an asynchronous shard",
        run: || Box::pin(crashes::orphaned_asynchronous()),
    },
    Scenario {
        number: 21,
        name: "five planned changes, each after a rejoin",
        run: || Box::pin(orders::switched_over(5)),
    },
    Scenario {
        number: 3,
        name: "the primary freezes, and thaws after the promotion",
        run: || Box::pin(freezes::frozen()),
    },
    Scenario {
        number: 18,
        name: "the old primary comes back, and rejoins",
        run: || Box::pin(crashes::returned_and_rejoined()),
    },
    Scenario {
        number: 4,
        name: "the postmaster alone freezes",
        run: || Box::pin(freezes::postmaster_frozen()),
    },
    Scenario {
        number: 8,
        name: "all connections of the primary are taken",
        run: || Box::pin(freezes::full()),
    },
    Scenario {
        number: 2,
        name: "the primary crashes and is back within a second",
        run: || Box::pin(crashes::restarted()),
    },
    Scenario {
        number: 9,
        name: "the primary dies while a standby that may have acknowledged is frozen",
        run: || Box::pin(freezes::unproven()),
    },
    Scenario {
        number: 22,
        name: "two primaries die within a minute",
        run: || Box::pin(crashes::killed_twice()),
    },
    Scenario {
        number: 22,
        name: "two primaries die at once",
        run: || Box::pin(crashes::killed_at_once()),
    },
    Scenario {
        number: 11,
        name: "pgherd is killed in the middle of failovers",
        run: || Box::pin(restarts::killed_while_failing_over()),
    },
    Scenario {
        number: 12,
        name: "the primary crashes three times in a row",
        run: || Box::pin(crashes::flapping()),
    },
    Scenario {
        number: 17,
        name: "the standbys do not replay",
        run: || Box::pin(freezes::replay_paused()),
    },
    Scenario {
        number: 15,
        name: "a backend is killed",
        run: || Box::pin(crashes::backend_killed()),
    },
    Scenario {
        number: 16,
        name: "writers that wait for a standby are cancelled, then the primary dies",
        run: || Box::pin(orders::cancelled_while_waiting("pg_cancel_backend")),
    },
    Scenario {
        number: 16,
        name: "writers that wait for a standby are terminated, then the primary dies",
        run: || Box::pin(orders::cancelled_while_waiting("pg_terminate_backend")),
    },
];

/// Runs those of these numbers, `repeat` times those that are about a change of primary alone. Returns the names of the failed.
pub async fn run(numbers: Option<&[u32]>, repeat: usize) -> Vec<String> {
    let is_chosen = |scenario: &&Scenario| numbers.is_none_or(|all| all.contains(&scenario.number));
    let mut failed = Vec::new();
    println!(" no  {COLUMNS}  fault");
    for scenario in ALL.iter().filter(is_chosen) {
        let times = match scenario.number {
            1 | 3 | 21 => repeat,
            _ => 1,
        };
        for _ in 0..times {
            // a panic is its own
            match tokio::spawn((scenario.run)()).await {
                Ok(verdict) => report(scenario, &verdict),
                Err(_) => {
                    println!(
                        "{:>3}  {:<43}  {}",
                        scenario.number, "FAILED", scenario.name
                    );
                    failed.push(scenario.name.to_owned());
                }
            }
        }
    }
    failed
}

fn report(scenario: &Scenario, verdict: &Verdict) {
    println!("{:>3}  {verdict}  {}", scenario.number, scenario.name);
    let mut told: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for error in &verdict.outside {
        let code = error.code.as_deref().unwrap_or("-----");
        told.entry(code).or_insert((0, &error.message)).0 += 1;
    }
    for (code, (times, first)) in told {
        println!("       {times} times outside of transactions {code}, as in: {first}");
    }
}
