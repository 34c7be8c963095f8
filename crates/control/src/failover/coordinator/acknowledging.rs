//! Who acknowledges commits (`failover.sync`).
//!
//! Owns `synchronous_standby_names` on the primary, and the names by which standbys go. A change of it is on record, with what was before, until a row was
//! acknowledged under the new one: whoever acknowledged under either may be needed. Main function:
//! [`Coordinator::look_after_acknowledging`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Coordinator;
use crate::error::ControlError;
use crate::failover::names::tag;
use crate::failover::primary;
use crate::failover::quorum::SyncSet;
use crate::failover::standby::{self, Look};
use crate::settings::{SyncSettings, WhenTooFew};
use crate::state_store::{ShardRecord, SyncNames, SyncRecord};

/// After so long without a stream a standby is no longer counted on: a failover need not reach it then.
const ABSENT_LIMIT: Duration = Duration::from_secs(10);
/// How long a row may wait for its acknowledgement under another set.
const ROW_LIMIT: Duration = Duration::from_secs(5);

impl Coordinator {
    /// Names that commits are to wait for: those that are there, or, where they are too few, as the operator has chosen.
    pub(super) fn fitting(
        &self,
        sync: SyncSettings,
        present: Vec<String>,
        all: impl FnOnce() -> Vec<String>,
    ) -> SyncNames {
        let acks = sync.acks;
        if present.len() >= usize::from(acks) {
            return SyncNames {
                acks,
                names: present,
            };
        }
        match sync.when_too_few {
            WhenTooFew::Block => SyncNames { acks, names: all() },
            WhenTooFew::Async => SyncNames {
                acks: u16::try_from(present.len()).unwrap_or(acks),
                names: present,
            },
        }
    }

    /// One step nearer to what is wanted.
    pub(super) async fn look_after_acknowledging(
        &mut self,
        record: &ShardRecord,
        followers: &[(usize, Look)],
    ) -> Result<(), ControlError> {
        let Some(sync) = self.failover().sync else {
            return Ok(());
        };
        let primary = self.member(&record.primary)?;
        let in_force = primary::acknowledgers(&primary.line).await?;
        let known = match &record.sync {
            Some(known) => known.clone(),
            None => SyncRecord {
                new: read(&in_force),
                before: Vec::new(),
            },
        };
        if in_force != known.new.to_setting() && record.sync.is_some() || !known.before.is_empty() {
            // a change that was not seen to its end, or somebody else's
            return self.set_names(record, known.new).await;
        }
        let streaming: Vec<&(usize, Look)> =
            followers.iter().filter(|(_, look)| look.receives).collect();
        let untagged = streaming.iter().find(|(position, look)| {
            look.settings.application_name != tag(self.members[*position].name(), record.epoch)
        });
        if let Some((position, look)) = untagged {
            return self.tag_standby(record, &known.new, *position, look).await;
        }
        let wanted = self.wanted(record, sync, &known.new, &streaming);
        if wanted != known.new || record.sync.is_none() {
            return self.set_names(record, wanted).await;
        }
        Ok(())
    }

    /// Gives a standby its name. One that acknowledges under another one is listed under both before.
    async fn tag_standby(
        &mut self,
        record: &ShardRecord,
        known: &SyncNames,
        position: usize,
        look: &Look,
    ) -> Result<(), ControlError> {
        let member = Arc::clone(&self.members[position]);
        let name = tag(member.name(), record.epoch);
        let acknowledges = known
            .names
            .iter()
            .any(|known| known.eq_ignore_ascii_case(&look.settings.application_name));
        if acknowledges && !known.names.contains(&name) {
            let mut names = known.names.clone();
            names.push(name);
            let both = SyncNames {
                acks: known.acks,
                names,
            };
            return self.set_names(record, both).await;
        }
        let primary = self.member(&record.primary)?;
        standby::follow(
            &member.line,
            &look.settings,
            (Some(&primary.line), &primary.address),
            &name,
        )
        .await
    }

    fn wanted(
        &mut self,
        record: &ShardRecord,
        sync: SyncSettings,
        known: &SyncNames,
        streaming: &[&(usize, Look)],
    ) -> SyncNames {
        let now = Instant::now();
        let name = |position: usize| tag(self.members[position].name(), record.epoch);
        let mut present: Vec<String> = Vec::new();
        for position in self.others(record) {
            let name = name(position);
            if streaming.iter().any(|(streams, _)| *streams == position) {
                self.absent.remove(&name);
                present.push(name);
            } else if known.names.contains(&name)
                && self.absent.entry(name.clone()).or_insert(now).elapsed() < ABSENT_LIMIT
            {
                present.push(name);
            }
        }
        let others = self.others(record);
        let wanted = self.fitting(sync, present, || {
            // those that acknowledge now go on to
            if known.names.is_empty() {
                others.into_iter().map(name).collect()
            } else {
                known.names.clone()
            }
        });
        if wanted.names.len() < known.names.len() || wanted.acks < known.acks {
            let lost = wanted.acks < sync.acks;
            let text = format!("commits wait for {}", wanted.to_set());
            if lost {
                tracing::error!(shard = %self.name, "{text}: too few standbys are left, so that a failover may lose what was acknowledged (when_too_few: async)");
            } else {
                tracing::warn!(shard = %self.name, "{text}");
            }
            self.chronicle.note("acknowledging", text);
        }
        wanted
    }

    /// Puts another set in force: on record first, and what was before forgotten only once a row was acknowledged under it.
    async fn set_names(
        &mut self,
        record: &ShardRecord,
        names: SyncNames,
    ) -> Result<(), ControlError> {
        let primary = self.member(&record.primary)?;
        let setting = names.to_setting();
        let in_force = primary::acknowledgers(&primary.line).await?;
        let record = self
            .update(record.epoch, move |record| {
                let mut before = match record.sync.take() {
                    Some(known) => {
                        let mut before = known.before;
                        before.push(known.new);
                        before
                    }
                    None => vec![read(&in_force)],
                };
                before.retain(|before| *before != names);
                before.dedup();
                record.sync = Some(SyncRecord { new: names, before });
            })
            .await?;
        primary::set_acknowledgers(&primary.line, &setting).await?;
        primary::acknowledged_row(&primary.line, &self.name, record.epoch, ROW_LIMIT).await?;
        tracing::info!(shard = %self.name, names = setting, "who acknowledges commits");
        self.update(record.epoch, |record| {
            if let Some(sync) = &mut record.sync {
                sync.before.clear();
            }
        })
        .await
        .map(drop)
    }
}

/// As somebody else has set it. What cannot be read, or lets anybody acknowledge, proves nothing: as if nobody did.
fn read(setting: &str) -> SyncNames {
    match SyncSet::parse(setting) {
        Ok(SyncSet::Named { acks, names }) => SyncNames {
            acks: u16::try_from(acks).unwrap_or(u16::MAX),
            names: names.into_iter().map(String::from).collect(),
        },
        Ok(SyncSet::Nobody | SyncSet::Anyone) | Err(_) => SyncNames {
            acks: 0,
            names: Vec::new(),
        },
    }
}
