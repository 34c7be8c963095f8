//! The end of a block that wrote on several shards: all or none.
//!
//! Owns: the committing side of the protocol that `pgherd_topology::commit_protocol` describes, step by step under the same numbers.
//! Never does: recovery (control), nor deciding anything after the anchor's COMMIT was sent.
//! Main function: [`Session::commit_legs`].

use pgherd_protocol::{PgError, SqlState};
use pgherd_topology::commit_protocol::{
    ASSIGNED_XID, BECOME_LOGIN, CHECK_DEFERRED, CommitSecret, Gid, OUTCOME,
    OUTCOME_PARAMETER_TYPES, RECORD, RECORD_PARAMETER_TYPES, Record, TransactionName,
};
use pgherd_topology::{Epoch, NodeId};
use rand::RngExt;
use tokio::time::{Duration, sleep};

use crate::committing::ASK_AND_INSIST;
use crate::failure::Failure;
use crate::own::Trouble;
use crate::session::Session;

/// How often and how far apart COMMIT PREPARED is tried on a half that is busy.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What helps where Postgres does not prepare what a transaction has done (temporary tables, LISTEN, NOTIFY, cursors WITH HOLD).
const NOT_PREPARED: &str = "This transaction commits on several shards, which a trigger or statement of it does not allow. \
    Do that in a transaction of its own.";

/// A leg that has written.
struct Participant {
    node: NodeId,
    shard: Box<str>,
    epoch: Epoch,
}

/// One transaction on its way to a decision.
struct Commit {
    secret: CommitSecret,
    name: TransactionName,
    anchor: Participant,
    others: Vec<Participant>,
    /// The participants' names, the anchor's first.
    names: Vec<Box<str>>,
}

impl Commit {
    fn half(&self, participant: &Participant) -> Result<Gid, Failure> {
        self.name
            .half(&participant.shard, self.anchor.epoch)
            .map_err(|error| {
                PgError::error(
                    SqlState::INTERNAL_ERROR,
                    format!("a transaction over shards cannot be named: {error}"),
                )
                .into()
            })
    }

    fn record(&self, epoch: Epoch) -> [String; 4] {
        let participants: Vec<&str> = self.names.iter().map(AsRef::as_ref).collect();
        Record {
            secret: &self.secret,
            transaction: &self.name,
            epoch,
            participants: &participants,
        }
        .parameters()
    }
}

impl Session {
    /// Commits every leg of the open block: plainly where at most one has written, else in two phases.
    /// Afterwards no leg is in a transaction. Not cancel-safe.
    ///
    /// # Errors
    /// What a server refused, or 40001: nothing is kept. 08007: the outcome is not known to the client.
    pub(crate) async fn commit_legs(&mut self) -> Result<(), Failure> {
        let nodes = self.legs.in_block();
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for &node in &nodes {
            match self.has_written(node).await {
                Ok(true) => writers.push(node),
                Ok(false) => readers.push(node),
                Err(trouble) => {
                    self.roll_back_legs().await;
                    return Err(trouble.into());
                }
            }
        }
        match writers.as_slice() {
            [] => return self.commit_reads().await,
            [writer] => self.commit_alone(*writer, &readers).await?,
            [_, ..] => {
                self.registration.begin_decision().await;
                let committed = self.commit_in_two_phases(&writers, &readers).await;
                self.registration.end_decision();
                committed?;
            }
        }
        for node in self.legs.in_block() {
            // what only read has nothing to lose
            let _ = self.execute(node, "COMMIT").await;
            self.leave_block(node);
        }
        Ok(())
    }

    /// Ends a block that wrote nowhere. What it has read counts only if every server says so (a serializable transaction may
    /// fail here).
    async fn commit_reads(&mut self) -> Result<(), Failure> {
        for node in self.legs.in_block() {
            let ended = self.execute(node, "COMMIT").await;
            self.leave_block(node);
            if let Err(trouble) = ended {
                self.roll_back_legs().await;
                return Err(trouble.into());
            }
        }
        Ok(())
    }

    /// Asks the servers that were only read whether they are still there, last of all before the decision: what their snapshots and locks
    /// kept out may have happened since one was lost.
    async fn readers_stand(&mut self, readers: &[NodeId]) -> Result<(), Failure> {
        for &reader in readers {
            self.execute(reader, "").await?;
        }
        Ok(())
    }

    /// Rolls back every leg of the open block; one that does not answer is closed, which has the same effect.
    pub(crate) async fn roll_back_legs(&mut self) {
        for node in self.legs.in_block() {
            if let Err(Trouble::Refused(_)) = self.execute(node, "ROLLBACK").await {
                self.legs.close(node);
            }
            self.leave_block(node);
        }
    }

    pub(crate) fn leave_block(&mut self, node: NodeId) {
        if let Some(leg) = self.legs.get(node) {
            leg.in_block = false;
        }
    }

    async fn has_written(&mut self, node: NodeId) -> Result<bool, Trouble> {
        let asks = if self.legs.at(node).synchronous {
            ASK_AND_INSIST
        } else {
            ASSIGNED_XID
        };
        let text = format!("{CHECK_DEFERRED}; {asks}");
        Ok(self.execute(node, &text).await?.value.is_some())
    }

    /// The only writer commits; its answer is the decision.
    async fn commit_alone(&mut self, writer: NodeId, readers: &[NodeId]) -> Result<(), Failure> {
        if let Err(failure) = self.readers_stand(readers).await {
            self.roll_back_legs().await;
            return Err(failure);
        }
        match self.execute(writer, "COMMIT").await {
            Ok(answer) if answer.tags.iter().any(|tag| tag == "COMMIT") => {
                self.leave_block(writer);
                Ok(())
            }
            Ok(_) => {
                self.leave_block(writer);
                self.roll_back_legs().await;
                Err(serialization_failure(
                    "The server rolled the transaction back.",
                ))
            }
            Err(Trouble::Refused(error)) => {
                self.leave_block(writer);
                self.roll_back_legs().await;
                Err(Failure::Refused(error))
            }
            Err(Trouble::Lost(_)) => {
                self.roll_back_legs().await;
                Err(unknown_outcome(
                    "The connection was lost while COMMIT was under way.",
                ))
            }
        }
    }

    async fn commit_in_two_phases(
        &mut self,
        writers: &[NodeId],
        readers: &[NodeId],
    ) -> Result<(), Failure> {
        let commit = match self.name_commit(writers) {
            Ok(commit) => commit,
            Err(failure) => {
                self.roll_back_legs().await;
                return Err(failure);
            }
        };
        let in_flight = self
            .database
            .two_phase()
            .in_flight
            .register(commit.name.clone());

        let mut prepared = Vec::new();
        for other in &commit.others {
            match self.prepare(&commit, other).await {
                Ok(gid) => {
                    self.leave_block(other.node);
                    prepared.push((other.node, gid));
                }
                Err(trouble) => {
                    let all_known = matches!(trouble, Trouble::Refused(_));
                    if self.abort(commit.anchor.node, &prepared).await && all_known {
                        in_flight.finish();
                    }
                    self.roll_back_legs().await;
                    return Err(trouble.into());
                }
            }
        }

        let decided = self.decide(&commit, readers).await;
        match decided {
            Ok(()) => {}
            Err(Decision::Aborted(failure)) => {
                if self.abort(commit.anchor.node, &prepared).await {
                    in_flight.finish();
                }
                self.roll_back_legs().await;
                return Err(failure);
            }
            Err(Decision::Unknown) => {
                drop(in_flight);
                self.roll_back_legs().await;
                return Err(unknown_outcome(
                    "The connection was lost while the decision was under way; recovery settles it.",
                ));
            }
        }

        let mut delivered = true;
        for (node, gid) in &prepared {
            delivered &= self.deliver(&commit, *node, gid).await;
        }
        if delivered {
            in_flight.finish();
            Ok(())
        } else {
            drop(in_flight);
            Err(unknown_outcome(
                "The transaction is decided; a shard that could not be reached gets it through recovery.",
            ))
        }
    }

    /// Step 0.
    fn name_commit(&mut self, writers: &[NodeId]) -> Result<Commit, Failure> {
        let topology = self.topology();
        let mut participants = Vec::with_capacity(writers.len());
        for &node in writers {
            let shard = crate::taking::shard_state(&topology, self.legs.at(node).shard)?;
            participants.push(Participant {
                node,
                shard: shard.name.clone(),
                epoch: self.legs.at(node).connection.epoch(),
            });
        }
        let names = participants
            .iter()
            .map(|participant| participant.shard.clone())
            .collect();
        let anchor = participants.remove(0);
        let mut bytes = [0; 32];
        rand::rng().fill(&mut bytes);
        let secret = CommitSecret::from_random(bytes);
        let settings = &self.database.two_phase();
        let name = TransactionName::new(settings.herd, settings.proxy, &secret, &anchor.shard)
            .map_err(|error| {
                Failure::from(PgError::error(
                    SqlState::INTERNAL_ERROR,
                    format!("a transaction over shards cannot be named: {error}"),
                ))
            })?;
        Ok(Commit {
            secret,
            name,
            anchor,
            others: participants,
            names,
        })
    }

    /// Step 1.
    async fn prepare(&mut self, commit: &Commit, other: &Participant) -> Result<Gid, Trouble> {
        let gid = commit.half(other)?;
        self.execute(other.node, BECOME_LOGIN).await?;
        self.execute_bound(
            other.node,
            RECORD,
            &RECORD_PARAMETER_TYPES,
            &commit.record(other.epoch),
        )
        .await?;
        let prepared = self.execute(other.node, &gid.prepare()).await;
        let answer = prepared.map_err(|trouble| match trouble {
            Trouble::Refused(error) if error.code == SqlState::FEATURE_NOT_SUPPORTED => {
                Trouble::Refused(Box::new(error.hint(NOT_PREPARED)))
            }
            trouble => trouble,
        })?;
        if answer.tags.iter().any(|tag| tag == "PREPARE TRANSACTION") {
            Ok(gid)
        } else {
            Err(Trouble::Refused(Box::new(PgError::error(
                SqlState::SERIALIZATION_FAILURE,
                "the transaction could not be prepared on every shard",
            ))))
        }
    }

    /// Ends the client's SET ROLE on a server that has prepared its half: that belongs to the login, and is finished by nobody else. The
    /// role is put in force again before the client's next request there.
    async fn act_as_login(&mut self, node: NodeId) -> Result<(), Trouble> {
        if self.legs.at(node).acts_in_role() {
            self.execute(node, "SET ROLE none").await?;
            self.legs.at(node).forget_role();
        }
        Ok(())
    }

    async fn roll_back_prepared(&mut self, node: NodeId, gid: &Gid) -> Result<(), Trouble> {
        // PREPARE TRANSACTION has kept the settings of what is rolled back
        let connection = &mut self.legs.at(node).connection;
        connection.mark_dirty("what it had prepared was rolled back");
        self.act_as_login(node).await?;
        self.execute(node, &gid.rollback_prepared()).await?;
        Ok(())
    }

    /// Step 2. Returns whether every half is known to be gone.
    async fn abort(&mut self, anchor: NodeId, prepared: &[(NodeId, Gid)]) -> bool {
        if self.legs.get(anchor).is_some_and(|leg| leg.in_block) {
            // an anchor that does not answer is closed: it can decide nothing any more once its connection is gone
            if self.execute(anchor, "ROLLBACK").await.is_err() {
                self.legs.close(anchor);
                return false;
            }
            self.leave_block(anchor);
        }
        let mut all_known = true;
        for (node, gid) in prepared {
            all_known &= match self.legs.get(*node) {
                None => false,
                Some(_) => match self.roll_back_prepared(*node, gid).await {
                    Ok(()) => true,
                    Err(Trouble::Refused(error)) => error.code == SqlState::UNDEFINED_OBJECT,
                    Err(Trouble::Lost(_)) => false,
                },
            };
        }
        all_known
    }

    /// Steps 3 to 5.
    async fn decide(&mut self, commit: &Commit, readers: &[NodeId]) -> Result<(), Decision> {
        let anchor = commit.anchor.node;
        self.execute_bound(
            anchor,
            RECORD,
            &RECORD_PARAMETER_TYPES,
            &commit.record(commit.anchor.epoch),
        )
        .await
        .map_err(|trouble| match trouble {
            Trouble::Refused(error) if error.code == SqlState::UNIQUE_VIOLATION => {
                Decision::Aborted(serialization_failure(
                    "Recovery has rolled the transaction back.",
                ))
            }
            trouble => Decision::Aborted(trouble.into()),
        })?;
        self.readers_stand(readers)
            .await
            .map_err(Decision::Aborted)?;
        let topology = self.topology();
        let moved = std::iter::once(&commit.anchor)
            .chain(&commit.others)
            .any(|participant| {
                topology
                    .shard_by_name(&participant.shard)
                    .is_none_or(|shard| shard.epoch != participant.epoch)
            });
        if moved {
            return Err(Decision::Aborted(serialization_failure(
                "A shard's primary changed while the transaction was being committed.",
            )));
        }
        match self.execute(anchor, "COMMIT").await {
            Ok(answer) if answer.tags.iter().any(|tag| tag == "COMMIT") => {
                self.leave_block(anchor);
                Ok(())
            }
            Ok(_) => {
                self.leave_block(anchor);
                Err(Decision::Aborted(serialization_failure(
                    "The server rolled the transaction back.",
                )))
            }
            Err(Trouble::Refused(error)) => {
                self.leave_block(anchor);
                Err(Decision::Aborted(Failure::Refused(error)))
            }
            Err(Trouble::Lost(_)) => Err(Decision::Unknown),
        }
    }

    /// Step 6. Returns whether the half is known to be committed.
    async fn deliver(&mut self, commit: &Commit, node: NodeId, gid: &Gid) -> bool {
        if self.legs.get(node).is_none() || self.act_as_login(node).await.is_err() {
            return false;
        }
        for _ in 0..BUSY_TRIES {
            if self.legs.get(node).is_none() {
                return false;
            }
            match self.execute(node, &gid.commit_prepared()).await {
                Ok(_) => return true,
                Err(Trouble::Refused(error))
                    if error.code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE =>
                {
                    sleep(BUSY_PAUSE).await;
                }
                Err(Trouble::Refused(error)) if error.code == SqlState::UNDEFINED_OBJECT => {
                    let parameters = [commit.secret.parameter(), commit.name.to_string()];
                    let outcome = self
                        .execute_bound(node, OUTCOME, &OUTCOME_PARAMETER_TYPES, &parameters)
                        .await;
                    return outcome.is_ok_and(|answer| answer.value.as_deref() == Some("commit"));
                }
                Err(_) => return false,
            }
        }
        false
    }
}

/// Why the decision was not "commit".
enum Decision {
    Aborted(Failure),
    Unknown,
}

fn serialization_failure(detail: &str) -> Failure {
    PgError::error(
        SqlState::SERIALIZATION_FAILURE,
        "could not commit over several shards",
    )
    .detail(detail)
    .hint("Nothing of the transaction is kept. Try again.")
    .into()
}

fn unknown_outcome(detail: &str) -> Failure {
    PgError::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the outcome of the transaction is not known",
    )
    .detail(detail)
    .into()
}
