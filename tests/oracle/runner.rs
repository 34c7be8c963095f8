//! Runs a round of statements on both sides, comparing as it goes.
//!
//! Owns what follows from a refusal: the plain side does not run the statement, or, within a transaction, fails at the same place.
//! Main types: [`Step`], [`Difference`].

use super::client::{Answer, Connection, Mode, exchanges, forget, request};
use super::comparison::{Certainty, describe, same};
use super::node::Node;
use super::report::Tally;
use super::watch::Watch;
use super::world::Pair;

/// A statement of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The statement.
    pub node: Node,
    /// How it is sent.
    pub mode: Mode,
    /// What of its answer is certain.
    pub certainty: Certainty,
    /// May it change rows?
    pub writes: bool,
    /// The data of COPY FROM.
    pub copied: Option<String>,
}

/// Where the sides came apart.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The step, from 0.
    pub step: usize,
    /// Both answers, or which tables differ.
    pub what: String,
}

/// Runs a round from the first rows on. Both sides are as they were only after the next [`Watch::reset`].
pub async fn run(
    pair: &Pair,
    watch: &mut Watch,
    round: &[Step],
    tally: &mut Tally,
) -> Option<Difference> {
    watch.reset().await;
    let mut sides = Sides {
        client: pair.client().await,
        plain: pair.plain().await,
    };
    for (number, step) in round.iter().enumerate() {
        let found = sides.step(step, tally).await;
        let what = match found {
            Err(what) => Some(what),
            Ok(refused) => {
                let settled = sides.plain.status() == b'I';
                let look = settled && (refused || step.writes);
                if look {
                    watch.sides_agree().await.err()
                } else {
                    None
                }
            }
        };
        if let Some(what) = what {
            return Some(Difference { step: number, what });
        }
    }
    None
}

struct Sides {
    client: Connection,
    plain: Connection,
}

impl Sides {
    /// `true` if it was refused.
    async fn step(&mut self, step: &Step, tally: &mut Tally) -> Result<bool, String> {
        let statement = step.node.render(step.mode != Mode::Simple);
        let copied = step.copied.as_deref().map(str::as_bytes);
        let mut types = Vec::new();
        for number in 0..exchanges(step.mode) {
            let bytes = request(step.mode, number, &statement, &types);
            let ours = self.client.exchange(&bytes, copied).await;
            if ours.is_refused() {
                tally.refused(&ours);
                self.fail_alike().await;
                self.forget(step.mode).await;
                if self.client.status() != self.plain.status() {
                    return Err(format!(
                        "  after the refusal pgherd is in state {}, and Postgres after an error in {}\n{}",
                        char::from(self.client.status()),
                        char::from(self.plain.status()),
                        describe(&ours)
                    ));
                }
                return Ok(true);
            }
            let theirs = self.plain.exchange(&bytes, copied).await;
            if !same(&ours, &theirs, step.certainty) {
                return Err(both(&ours, &theirs));
            }
            if let Some(failure) = theirs.failure() {
                self.forget(step.mode).await;
                tally.failed_alike(&failure.state);
                return Ok(false);
            }
            if number == 0 {
                types = theirs.parameter_types().to_vec();
            }
        }
        tally.answered();
        Ok(false)
    }

    /// An error within a transaction ends it: the plain side needs one of its own.
    async fn fail_alike(&mut self) {
        if self.plain.status() == b'T' {
            self.plain.simple("SELECT 1 / 0").await;
        }
    }

    async fn forget(&mut self, mode: Mode) {
        if mode == Mode::Prepared {
            self.client.exchange(&forget(), None).await;
            self.plain.exchange(&forget(), None).await;
        }
    }
}

fn both(ours: &Answer, theirs: &Answer) -> String {
    format!(
        "  pgherd:\n{}  Postgres:\n{}",
        describe(ours),
        describe(theirs)
    )
}
