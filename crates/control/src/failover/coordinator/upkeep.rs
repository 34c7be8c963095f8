//! A shard between two changes of primary.
//!
//! Owns seeing to it that standbys follow the primary, that one that was deposed takes no writes when it comes back, and that a failover would be possible.
//! Never changes the primary. Main function: [`Coordinator::look_after`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::Address;
use tokio::time::Instant;

use super::{Coordinator, Member};
use crate::error::ControlError;
use crate::failover::conninfo::Conninfo;
use crate::failover::evidence::Evidence;
use crate::failover::names::{is_nobody, tag};
use crate::failover::primary;
use crate::failover::standby::{self, Look};
use crate::preflight::{Severity, check_failover};
use crate::state_store::{Quarantine, ShardRecord, StandbySettings};
use crate::testimony::{Replication, Standing};

/// Between two looks at what a failover would need.
const PREFLIGHT: Duration = Duration::from_secs(600);
/// The same while something is lacking.
const PREFLIGHT_AGAIN: Duration = Duration::from_secs(15);

impl Coordinator {
    /// One round.
    ///
    /// # Errors
    /// What a server or the store says; the rest is left to the next round.
    pub(super) async fn look_after(&mut self, record: &ShardRecord) -> Result<(), ControlError> {
        self.fence_deposed(record).await?;
        if !self.primary_answers(record) {
            return Ok(());
        }
        if let Some(names) = record.fenced.clone() {
            let primary = self.member(&record.primary)?;
            primary::set_acknowledgers(&primary.line, &names).await?;
            self.update(record.epoch, |record| record.fenced = None)
                .await?;
        }
        self.see_what_is_lacking().await;
        if self
            .lacking
            .as_ref()
            .is_none_or(|lacking| !lacking.is_empty())
        {
            // what is set by halves is worse than what was there
            return Ok(());
        }
        let followers = self.make_standbys_follow(record).await?;
        self.release_followers(record, &followers).await?;
        self.look_after_acknowledging(record, &followers).await
    }

    fn primary_answers(&self, record: &ShardRecord) -> bool {
        let published = self.with_shard(|shard| {
            let primary = shard.primary()?;
            (*primary.name == *record.primary).then_some(primary.health)
        });
        published.flatten() == Some(pgherd_topology::Health::Up)
    }

    /// A server out of recovery that does not reign takes no writes: whoever connects to it around pgherd would lose them.
    async fn fence_deposed(&mut self, record: &ShardRecord) -> Result<(), ControlError> {
        let claimants: Vec<(usize, bool)> = {
            let view = self.view.borrow();
            let is_later = |evidence: &Evidence| {
                let said = evidence.said.as_ref().map(|(_, said)| said);
                said.is_some_and(|said| {
                    said.system_identifier == record.system_identifier
                        && said.reign > Some(record.epoch)
                })
            };
            if view.evidence.iter().any(is_later) {
                // the record is an old one: who takes writes may do so rightly
                return Ok(());
            }
            let claims = view
                .evidence
                .iter()
                .enumerate()
                .filter_map(|(position, evidence)| {
                    let said = &evidence.said.as_ref().filter(|_| evidence.answers())?.1;
                    let is_claim = matches!(said.standing, Standing::Claimant { .. })
                        && said.system_identifier == record.system_identifier
                        && self.members.get(position)?.name() != record.primary;
                    let is_fenced = match &said.replication {
                        Replication::Sends {
                            synchronous_standby_names,
                        } => is_nobody(synchronous_standby_names),
                        Replication::Receives(_) => true,
                    };
                    is_claim.then_some((position, is_fenced))
                });
            claims.collect()
        };
        for (position, is_fenced) in claimants {
            let member = Arc::clone(&self.members[position]);
            let name = member.name().to_owned();
            if !record.quarantine.contains_key(&name) {
                let text = format!("{name} takes writes, and {} is the primary", record.primary);
                self.notify("quarantine", &text);
                self.quarantine(record, &name, text, false).await?;
            }
            if !is_fenced {
                // the others are looked after whether it can be or not
                if let Err(error) = primary::fence(&member.line, record.epoch).await {
                    tracing::error!(shard = %self.name, server = name, %error, "a deposed primary is not fenced yet");
                    continue;
                }
                let text = format!("{name} is fenced: it was a primary once, and is none");
                tracing::warn!(shard = %self.name, "{text}");
                self.notify("quarantine", &text);
            }
        }
        Ok(())
    }

    /// Neither writes to a server nor reads from it any more.
    pub(super) async fn quarantine(
        &mut self,
        record: &ShardRecord,
        server: &str,
        reason: String,
        by_operator: bool,
    ) -> Result<(), ControlError> {
        let server = server.to_owned();
        self.update(record.epoch, move |record| {
            let quarantine = Quarantine {
                reason,
                by_operator,
            };
            record.quarantine.insert(server, quarantine);
        })
        .await
        .map(drop)
    }

    /// What of a failover would not be possible is said once, and keeps pgherd from beginning one.
    async fn see_what_is_lacking(&mut self) {
        if Instant::now() < self.next_preflight {
            return;
        }
        let found = check_failover(&self.settings, self.shard, self.failover(), &[]).await;
        let lacking: Vec<String> = found
            .shortfalls
            .iter()
            .filter(|found| found.shortfall.severity() == Severity::Prevents)
            .map(|found| match found.servers.is_empty() {
                true => found.shortfall.to_string(),
                false => format!("{}: {}", found.servers.join(", "), found.shortfall),
            })
            .collect();
        let pause = match lacking.is_empty() {
            true => PREFLIGHT,
            false => PREFLIGHT_AGAIN,
        };
        self.next_preflight = Instant::now() + pause;
        if self.lacking.as_ref() != Some(&lacking) && !lacking.is_empty() {
            let text = format!("the shard could not be failed over: {}", lacking.join("; "));
            tracing::error!(shard = %self.name, "{text}");
            self.notify("refusal", &text);
        }
        self.lacking = Some(lacking);
    }

    /// Points each standby at the primary that does not look there. Returns those that follow, with how they are set.
    async fn make_standbys_follow(
        &mut self,
        record: &ShardRecord,
    ) -> Result<Vec<(usize, Look)>, ControlError> {
        let positions = self.answering_standbys(record);
        let looks = self
            .at_once(positions, |_, member| async move {
                standby::look(&member.line).await
            })
            .await;
        let primary = self.member(&record.primary)?;
        let mut followers = Vec::new();
        for (position, look) in looks {
            let member = Arc::clone(&self.members[position]);
            let look = match look {
                Ok(look) if look.in_recovery => look,
                Ok(_) | Err(_) => continue,
            };
            let parted = record.parted.get(member.name());
            let before = match parted {
                Some(before) if look.settings.conninfo.is_empty() => before,
                _ => &look.settings,
            };
            let name = self.name_of(record, &member, before);
            let is_half_way = look.settings.slot.starts_with("revoked_e");
            if is_half_way || !points_at(&look.settings, &primary.address) {
                tracing::info!(shard = %self.name, server = member.name(), primary = record.primary, "a standby is pointed at the primary");
                let new = (Some(&primary.line), &primary.address);
                if let Err(error) = standby::follow(&member.line, before, new, &name).await {
                    tracing::warn!(shard = %self.name, server = member.name(), %error, "a standby does not follow");
                    continue;
                }
                if parted.is_some() {
                    let server = member.name().to_owned();
                    self.update(record.epoch, move |record| {
                        record.parted.remove(&server);
                    })
                    .await?;
                }
            } else {
                followers.push((position, look));
            }
        }
        Ok(followers)
    }

    /// The name that a standby is to go by.
    fn name_of(&self, record: &ShardRecord, member: &Member, before: &StandbySettings) -> String {
        match self.failover().sync {
            Some(_) => tag(member.name(), record.epoch),
            None => before.application_name.clone(),
        }
    }

    /// Those that answer, but the ones an operator has put in quarantine.
    fn answering_standbys(&self, record: &ShardRecord) -> Vec<usize> {
        let view = self.view.borrow();
        let standbys = view
            .evidence
            .iter()
            .enumerate()
            .filter(|(position, evidence)| {
                let name = self.members.get(*position).map(|member| member.name());
                let said = evidence.said.as_ref().map(|(_, said)| said);
                let is_kept = name
                    .and_then(|name| record.quarantine.get(name))
                    .is_some_and(|quarantine| quarantine.by_operator);
                evidence.answers()
                    && !is_kept
                    && name.is_some_and(|name| name != record.primary)
                    && said.is_some_and(|said| {
                        said.system_identifier == record.system_identifier
                            && said.stream().is_some()
                    })
            });
        standbys.map(|(position, _)| position).collect()
    }

    /// A deposed primary that streams on the reign's timeline is a standby again: one whose history is another cannot.
    async fn release_followers(
        &mut self,
        record: &ShardRecord,
        followers: &[(usize, Look)],
    ) -> Result<(), ControlError> {
        for (position, look) in followers {
            let name = self.members[*position].name().to_owned();
            let is_held = record.quarantine.contains_key(&name);
            if is_held && look.receives && look.timeline == record.timeline {
                let text = format!("{name} follows {}", record.primary);
                tracing::info!(shard = %self.name, "{text}");
                self.chronicle.note("released", text);
                self.update(record.epoch, move |record| {
                    record.quarantine.remove(&name);
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Whether a standby's `primary_conninfo` names this server.
fn points_at(settings: &StandbySettings, primary: &Address) -> bool {
    let Ok(conninfo) = Conninfo::parse(&settings.conninfo) else {
        return false;
    };
    let wanted = conninfo.redirected(primary, "");
    conninfo.get("host") == wanted.get("host")
        && conninfo.get("hostaddr").is_none()
        && conninfo.get("port").unwrap_or("5432") == wanted.get("port").unwrap_or("5432")
}
