//! Whom to promote, and whether that may be done.
//!
//! Owns applying the arithmetic of `candidate` to what the servers have said. Main functions: [`Coordinator::foresee`], [`Coordinator::judge`].

use std::collections::BTreeMap;

use pgherd_topology::Lsn;

use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::candidate::{Loss, Standby, choose};
use crate::failover::names::server_of;
use crate::failover::quorum::SyncSet;
use crate::failover::standby::Look;
use crate::settings::WhenTooFew;
use crate::state_store::{ChangeKind, ShardRecord, StandbySettings};
use crate::testimony::{Replication, Standing, Stream};

/// What is known of a server that may follow the primary.
pub(super) struct Known {
    /// Its place among the members.
    pub(super) position: usize,
    /// Whether it can be asked now, and was taken from the primary where that is needed.
    pub(super) reached: bool,
    timeline: Option<u32>,
    stream: Option<Stream>,
}

impl Known {
    pub(super) fn looked_at(position: usize, look: &Look, application_name: &str) -> Self {
        Self {
            position,
            reached: true,
            timeline: Some(look.timeline),
            stream: Some(Stream {
                received: Some(look.reached()),
                replayed: Some(look.reached()),
                application_name: Some(server_of(application_name).into()),
                ..Stream::default()
            }),
        }
    }

    /// It may have said something, and cannot be counted on now.
    pub(super) fn unreached(self) -> Self {
        Self {
            reached: false,
            ..self
        }
    }

    fn reached_to(&self) -> Option<Lsn> {
        self.stream.as_ref()?.reached()
    }
}

impl Coordinator {
    /// Those that may follow: all but the primary and those in quarantine.
    pub(super) fn others(&self, record: &ShardRecord) -> Vec<usize> {
        let others = self.members.iter().enumerate().filter(|(_, member)| {
            member.name() != record.primary && !record.quarantine.contains_key(member.name())
        });
        others.map(|(position, _)| position).collect()
    }

    /// Whether a failover now would come to a good end, as far as the servers' last answers tell.
    ///
    /// # Errors
    /// [`ControlError::NotNow`] with the reason why not.
    pub(super) fn foresee(&self, record: &ShardRecord) -> Result<usize, ControlError> {
        let known: Vec<Known> = self
            .others(record)
            .into_iter()
            .map(|position| self.last_known(record, position))
            .collect();
        let acknowledged_by = self.acknowledged_by(record);
        self.judge(
            record,
            ChangeKind::Failover,
            None,
            acknowledged_by.as_deref(),
            &known,
        )
    }

    /// What a server said last; its name where it never said one is the one that it was given.
    pub(super) fn last_known(&self, record: &ShardRecord, position: usize) -> Known {
        let view = self.view.borrow();
        let evidence = view.evidence.get(position);
        let said = evidence
            .and_then(|evidence| evidence.said.as_ref())
            .map(|(_, said)| said)
            .filter(|said| said.system_identifier == record.system_identifier);
        let mut stream = said.and_then(|said| said.stream()).cloned();
        if record.sync.is_some() {
            let stream = stream.get_or_insert_default();
            let own = self.members[position].name();
            let said = match record.parted.get(own) {
                Some(before) => Some(before.application_name.as_str()),
                None => stream.application_name.as_deref(),
            };
            let name = said.map_or(own, server_of);
            stream.application_name = Some(name.into());
        }
        Known {
            position,
            reached: evidence.is_some_and(|evidence| evidence.answers()),
            timeline: said.and_then(|said| match &said.standing {
                Standing::Standby { timelines } => timelines.iter().max().copied(),
                Standing::Claimant { .. } => None,
            }),
            stream,
        }
    }

    /// The primary's `synchronous_standby_names`, as it said last.
    pub(super) fn acknowledged_by(&self, record: &ShardRecord) -> Option<String> {
        let view = self.view.borrow();
        let evidence = view.evidence.get(self.position(&record.primary)?)?;
        match &evidence.said.as_ref()?.1.replication {
            Replication::Sends {
                synchronous_standby_names,
            } => Some(synchronous_standby_names.to_string()),
            Replication::Receives(_) => None,
        }
    }

    /// Who is to be promoted of those that are known.
    ///
    /// # Errors
    /// [`ControlError::NotNow`] where nobody can be, or what was acknowledged could be lost and nobody has accepted that.
    pub(super) fn judge(
        &self,
        record: &ShardRecord,
        kind: ChangeKind,
        wanted: Option<&str>,
        acknowledged_by: Option<&str>,
        known: &[Known],
    ) -> Result<usize, ControlError> {
        let standbys: Vec<Standby<'_>> = known
            .iter()
            .map(|known| self.standby(known, kind, wanted))
            .collect();
        // a server is the same whichever epoch named it
        let sets: Vec<Option<SyncSet>> = match &record.sync {
            Some(sync) => std::iter::once(&sync.new)
                .chain(&sync.before)
                .map(|names| Some(names.to_servers()))
                .collect(),
            None => vec![acknowledged_by.and_then(|names| SyncSet::parse(names).ok())],
        };
        let mut candidate = None;
        for set in &sets {
            let prospect = choose(set.as_ref(), &standbys);
            let index = prospect.candidate.ok_or_else(|| {
                ControlError::NotNow("no standby that may be promoted is reached".to_owned())
            })?;
            let is_accepted = match prospect.loss {
                Loss::None => true,
                Loss::Asynchronous => {
                    self.accepts_asynchronous() && self.is_near(record, &known[index])?
                }
                _ => false,
            };
            if !is_accepted && kind != ChangeKind::Forced {
                return Err(ControlError::NotNow(format!(
                    "this could be lost: {}; FAILOVER SHARD {} FORCE promotes all the same",
                    prospect.loss, self.name
                )));
            }
            candidate = Some(index);
        }
        let index = candidate.unwrap_or_default();
        let found = known.get(index).map(|known| known.position);
        let found = found.ok_or_else(|| ControlError::NotNow("there is no standby".to_owned()))?;
        match wanted {
            Some(wanted) if self.members[found].name() != wanted => {
                Err(ControlError::NotNow(format!(
                    "{wanted} cannot be promoted: it is not reached, has priority 0, or {} has more",
                    self.members[found].name()
                )))
            }
            Some(_) | None => Ok(found),
        }
    }

    fn standby<'a>(
        &'a self,
        known: &'a Known,
        kind: ChangeKind,
        wanted: Option<&str>,
    ) -> Standby<'a> {
        let member: &Member = &self.members[known.position];
        let is_wanted = wanted == Some(member.name());
        let priority = match (is_wanted, wanted, kind) {
            (true, _, _) => u32::MAX,
            // nobody else is asked for
            (false, Some(_), ChangeKind::Forced) => 0,
            (false, _, _) => member.priority,
        };
        Standby::known(
            member.name(),
            priority,
            known.reached,
            known.stream.as_ref(),
            known.timeline,
        )
    }

    fn accepts_asynchronous(&self) -> bool {
        self.failover()
            .sync
            .is_none_or(|sync| sync.when_too_few == WhenTooFew::Async)
    }

    /// Whether a candidate has what the primary was last seen to have, but for `max_lag`.
    fn is_near(&self, record: &ShardRecord, known: &Known) -> Result<bool, ControlError> {
        let most = self.failover().max_lag;
        let primary = self.with_shard(|shard| {
            let node = shard
                .nodes
                .iter()
                .find(|node| *node.name == *record.primary)?;
            node.samples.latest()
        });
        let (Some(primary), Some(reached)) = (primary.flatten(), known.reached_to()) else {
            // it was never seen: nothing says that it is far
            return Ok(true);
        };
        let behind = primary.lsn.0.saturating_sub(reached.0);
        if behind > most {
            return Err(ControlError::NotNow(format!(
                "{} is {behind} bytes of WAL behind, and max_lag is {most}",
                self.members[known.position].name()
            )));
        }
        Ok(true)
    }
}

/// The name that each acknowledges by, as it was set before it was taken from the primary.
pub(super) fn name_before<'a>(
    undo: &'a BTreeMap<String, StandbySettings>,
    server: &str,
    look: &'a Look,
) -> &'a str {
    undo.get(server)
        .map_or(&look.settings.application_name, |before| {
            &before.application_name
        })
}
