//! Having a deposed server follow the primary, by `rejoin_command`.
//!
//! Owns what the command is told, and waiting until the server is a replica. It runs beside the coordinator: it may take long, and the shard is looked after
//! meanwhile. Main type: [`Rejoin`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::{Health, Role, Topology};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::conninfo::Conninfo;
use crate::failover::hooks::{self, Knowledge};
use crate::failover::names::tag;
use crate::failover::standby;
use crate::state_store::ShardRecord;

/// How long `rejoin_command` may take: a copy of the whole database may be part of it.
const REJOIN_LIMIT: Duration = Duration::from_secs(3600);
/// How long a server may take to stream from the primary once its command has ended.
const STREAM_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

impl Coordinator {
    /// Checks that a server can be made to follow the primary, by `rejoin_command`.
    pub(super) async fn prepare_rejoin(&self, server: &str) -> Result<Rejoin, ControlError> {
        let record = self.stable_record()?;
        let member = self.other_than_primary(&record, server)?;
        let command = self.failover().rejoin_command.clone().ok_or_else(|| {
            ControlError::NotNow(
                "failover.rejoin_command is not set: rewind the server by hand, it is released once it streams".to_owned(),
            )
        })?;
        if streams(&member, record.timeline).await {
            return Err(ControlError::NotNow(format!(
                "{server} follows the primary already"
            )));
        }
        let knowledge = self.knowledge_of_standby(&record, &member).await?;
        let turn = Arc::clone(&member.rejoining)
            .try_lock_owned()
            .map_err(|_| ControlError::NotNow(format!("{server} rejoins already")))?;
        Ok(Rejoin {
            member,
            command,
            knowledge,
            primary: record.primary,
            topology: self.topology.clone(),
            _turn: turn,
        })
    }

    /// What a command needs to make a server a standby of the primary: also its `primary_conninfo`, as the other standbys have it.
    async fn knowledge_of_standby(
        &self,
        record: &ShardRecord,
        member: &Member,
    ) -> Result<Knowledge, ControlError> {
        let primary = self.member(&record.primary)?;
        let mut conninfo = record.conninfo.clone().unwrap_or_default();
        for position in self.others(record) {
            if let Ok(look) = standby::look(&self.members[position].line).await
                && !look.settings.conninfo.is_empty()
            {
                conninfo = look.settings.conninfo;
                break;
            }
        }
        let name = match self.failover().sync {
            Some(_) => tag(member.name(), record.epoch),
            None => member.name().to_owned(),
        };
        if conninfo.is_empty() {
            return Err(ControlError::NotNow(
                "no standby is known whose primary_conninfo could be taken".to_owned(),
            ));
        }
        let conninfo = Conninfo::parse(&conninfo)
            .map_err(|wrong| ControlError::NotNow(wrong.to_owned()))?
            .redirected(&primary.address, &name)
            .to_text();
        Ok(self
            .knowledge(record.epoch)
            .server(member.name(), &member.address)
            .primary(primary.name(), &primary.address)
            .with("PGHERD_PRIMARY_CONNINFO", conninfo))
    }
}

/// A server on its way to follow the primary.
pub(super) struct Rejoin {
    member: Arc<Member>,
    command: Box<str>,
    knowledge: Knowledge,
    primary: String,
    topology: watch::Receiver<Arc<Topology>>,
    /// One at a time.
    _turn: OwnedMutexGuard<()>,
}

impl Rejoin {
    /// Runs the command and waits until the server is a replica: that it streams ends its quarantine.
    pub(super) async fn run(
        self,
        progress: mpsc::UnboundedSender<String>,
        done: oneshot::Sender<Result<String, ControlError>>,
    ) {
        // nobody may be left to hear of it
        let tell = |text: &str| drop(progress.send(text.to_owned()));
        tell(&format!("rejoin_command for {}", self.member.name()));
        let knowledge = self.knowledge.clone();
        let outcome = async {
            hooks::run("rejoin_command", &self.command, knowledge, REJOIN_LIMIT).await?;
            tell("rejoin_command has ended; waiting until the server is a replica");
            self.wait_until_it_is_a_replica().await
        };
        drop(done.send(outcome.await));
    }

    async fn wait_until_it_is_a_replica(&self) -> Result<String, ControlError> {
        let begun = Instant::now();
        while !self.is_replica() {
            if begun.elapsed() > STREAM_LIMIT {
                return Err(ControlError::NotNow(format!(
                    "{} does not stream from {}: its log may say why",
                    self.member.name(),
                    self.primary
                )));
            }
            self.member.line.server.nudge();
            sleep(POLL).await;
        }
        Ok(format!("{} follows {}", self.member.name(), self.primary))
    }

    fn is_replica(&self) -> bool {
        let topology = self.topology.borrow();
        let node = topology.node(self.member.line.server.id);
        node.is_some_and(|node| (node.role, node.health) == (Role::Replica, Health::Up))
    }
}

/// Whether a server streams on a timeline, or a later one.
async fn streams(member: &Member, timeline: u32) -> bool {
    let look = standby::look(&member.line).await;
    look.is_ok_and(|look| look.in_recovery && look.receives && look.timeline >= timeline)
}
