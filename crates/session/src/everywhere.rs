//! Statements that reach every shard: DDL and writes to reference tables (all or none), VACUUM and its like (one after
//! the other).
//!
//! Owns: running the same request on each shard in order, comparing the answers, and the remainders that serial columns of
//! sharded tables get. Never does: the commit itself (`two_phase.rs`). Main function: [`Session::everywhere`].

use std::sync::Arc;

use bytes::BytesMut;
use pgherd_protocol::{PgError, SqlState, split_frame, tag};
use pgherd_router::{Access, DdlPlan};
use pgherd_topology::{NodeId, ShardId, TwoPhase};

use crate::failure::Failure;
use crate::listening::Copies;
use crate::relay::Outcome;
use crate::script::Script;
use crate::session::{Session, quoted_text};
use crate::transaction::Block;

/// How far apart the values are that the shards' sequences make: the most shards that can make ids side by side.
const SEQUENCE_STRIDE: u32 = 1024;

/// What came of a request on one shard.
struct Answered {
    shard: ShardId,
    bytes: BytesMut,
}

impl Session {
    /// Runs a request on every shard, all or none: in the open block, which then commits in two phases, or in a
    /// transaction of its own. `queue` puts the request on one leg. Returns the replies for the client, without ReadyForQuery, and how many
    /// statements completed.
    ///
    /// # Errors
    /// The first server's error: nothing is kept (in a block: it has failed).
    pub(crate) async fn everywhere(
        &mut self,
        definitions: &[DdlPlan],
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<(BytesMut, Outcome), Failure> {
        self.check_two_phase()?;
        let shards = self.shards();
        self.take_each(&shards).await?;
        let own_block = self.block.is_none();
        if own_block {
            self.block = Some(Box::new(Block::new("BEGIN", false, self.settings.mark())));
        }
        let result = self.on_each_shard(definitions, &queue).await;
        match result {
            Ok((bytes, outcome)) if outcome.error.is_none() => {
                if own_block {
                    let committed = self.commit_legs().await;
                    self.block = None;
                    self.database.metrics().block_ended();
                    committed?;
                    self.observe_writes();
                } else if let Some(block) = &mut self.block {
                    block.two_phase = true;
                }
                Ok((bytes, outcome))
            }
            failed => {
                if own_block {
                    self.roll_back_legs().await;
                    self.block = None;
                    self.database.metrics().block_ended();
                } else {
                    self.fail_block();
                }
                failed
            }
        }
    }

    async fn on_each_shard(
        &mut self,
        definitions: &[DdlPlan],
        queue: &impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<(BytesMut, Outcome), Failure> {
        let mut first: Option<(Answered, Outcome)> = None;
        for shard in self.shards() {
            let (answered, outcome) = self.on_shard(shard, queue).await?;
            if outcome.error.is_some() {
                return Ok((answered.bytes, outcome));
            }
            let node = self.legs.find(|leg| leg.in_block && leg.shard == shard);
            for definition in definitions {
                if let Some(node) = node {
                    self.give_remainders(node, shard, definition).await?;
                }
            }
            match &first {
                None => first = Some((answered, outcome)),
                Some((reference, _)) => agree(reference, &answered)?,
            }
        }
        first
            .map(|(answered, outcome)| (answered.bytes, outcome))
            .ok_or_else(|| {
                PgError::error(SqlState::CANNOT_CONNECT_NOW, "the database has no shard").into()
            })
    }

    async fn on_shard(
        &mut self,
        shard: ShardId,
        queue: &impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<(Answered, Outcome), Failure> {
        let node = self.leg(shard, Access::Write).await?;
        let mut script = std::mem::take(&mut self.script);
        queue(self, node, &mut script)?;
        let mut bytes = BytesMut::new();
        let outcome = self.collect_for_client(node, &mut script, &mut bytes).await;
        script.clear();
        self.script = script;
        let outcome = outcome?;
        match outcome.error {
            // the client has not heard it
            Some(error) if outcome.error_is_ours => Err(error.into()),
            _ => Ok((Answered { shard, bytes }, outcome)),
        }
    }

    /// Runs a request on every shard in turn, each as a transaction of its own. The first error ends it.
    ///
    /// # Errors
    /// As [`Session::everywhere`], except that what ran on earlier shards stays.
    pub(crate) async fn each_in_turn(
        &mut self,
        queue: impl Fn(&mut Self, NodeId, &mut Script) -> Result<(), Failure>,
    ) -> Result<(BytesMut, Outcome), Failure> {
        let mut first = None;
        let copies = Arc::new(Copies::default());
        let queue = |session: &mut Self, node: NodeId, script: &mut Script| {
            session.announce_copies(node, &copies);
            queue(session, node, script)
        };
        for shard in self.shards() {
            let (answered, outcome) = self.on_shard(shard, &queue).await?;
            self.settle_listening().await;
            if outcome.error.is_some() {
                return Ok((answered.bytes, outcome));
            }
            first.get_or_insert((answered.bytes, outcome));
            self.legs.release();
        }
        first.ok_or_else(|| {
            PgError::error(SqlState::CANNOT_CONNECT_NOW, "the database has no shard").into()
        })
    }

    /// Every shard, lowest first.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        let count = self.sharding().shards().len();
        (0..u16::try_from(count).unwrap_or(u16::MAX))
            .map(ShardId)
            .collect()
    }

    /// Each shard's sequence behind a serial column makes its own remainder, so that ids never collide, whichever shard makes them.
    async fn give_remainders(
        &mut self,
        node: NodeId,
        shard: ShardId,
        definition: &DdlPlan,
    ) -> Result<(), Failure> {
        for serial in &definition.serial_columns {
            let start = u32::from(shard.0) + 1;
            let table = quoted_text(&serial.table.to_string());
            let column = quoted_text(&serial.column);
            let text = format!(
                "DO $pgherd$ BEGIN EXECUTE pg_catalog.format(\
                 'ALTER SEQUENCE %s INCREMENT BY {SEQUENCE_STRIDE} MINVALUE 1 START WITH {start} RESTART WITH {start}', \
                 pg_catalog.pg_get_serial_sequence({table}, {column})); END $pgherd$"
            );
            self.execute(node, &text).await?;
        }
        Ok(())
    }

    /// Refuses what needs a two-phase commit where a shard cannot take part in one.
    fn check_two_phase(&self) -> Result<(), Failure> {
        let topology = self.topology();
        if topology.shards.len() < 2 {
            return Ok(());
        }
        for shard in &topology.shards {
            let obstacle = match &shard.two_phase {
                TwoPhase::Ready => None,
                TwoPhase::Unknown => Some("it is not known yet whether it can take part in one."),
                TwoPhase::Impossible(why) => Some(why.as_ref()),
            };
            if let Some(obstacle) = obstacle {
                return Err(PgError::error(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "this statement must reach every shard or none, which needs a two-phase commit",
                )
                .detail(format!("Shard \"{}\": {obstacle}", shard.name))
                .into());
            }
        }
        Ok(())
    }

    /// Whatever this session writes next to any shard, its reads see what it has just committed everywhere.
    pub(crate) fn observe_writes(&mut self) {
        let now = std::time::Instant::now();
        for shard in &self.topology().shards {
            if let Some(primary) = shard.primary {
                self.tokens.observe(shard.id, primary, now);
            }
        }
    }
}

/// Whether two shards gave the same answer: tags, and rows where there are any.
fn agree(reference: &Answered, other: &Answered) -> Result<(), Failure> {
    if comparable(&reference.bytes) == comparable(&other.bytes) {
        return Ok(());
    }
    Err(PgError::error(SqlState::DATA_CORRUPTED, "the shards gave different answers to the same statement")
        .detail(format!(
            "Shard {} answered otherwise than shard {}; nothing is kept.",
            other.shard.0, reference.shard.0
        ))
        .hint("The copies of a reference table, or the shards' schemas, differ. Compare them before you write again.")
        .into())
}

fn comparable(bytes: &BytesMut) -> Vec<BytesMut> {
    let mut rest = bytes.clone();
    let mut messages = Vec::new();
    while let Ok(Some(frame)) = split_frame(&mut rest, usize::MAX) {
        if matches!(
            frame.tag(),
            tag::backend::DATA_ROW | tag::backend::COMMAND_COMPLETE
        ) {
            messages.push(BytesMut::from(frame.body()));
        }
    }
    messages
}
