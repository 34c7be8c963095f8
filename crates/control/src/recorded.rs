//! Who is a shard's primary where pgherd itself promotes: by the word of the state store.
//!
//! Owns the decision, a pure function; never asks a server and never changes one. Main function: [`decide`].
//!
//! That a server is out of recovery proves nothing: a deposed primary that comes back is too. One is the primary only where its name, its cluster
//! and its timeline are the record's, and no server bears the row of a later reign: the store would be an old one then.

use pgherd_topology::{Health, Role};

use crate::roles::{Complaint, Sighting, Verdict};
use crate::state_store::ShardRecord;
use crate::testimony::{Receiver, Standing, Testimony};

/// How long, in milliseconds, servers may take to be asked after a change.
const NEWS: u64 = 3000;

/// Decides for one shard that the store knows; `now` in milliseconds since 1970.
pub(crate) fn decide(record: &ShardRecord, sightings: &[Sighting], now: u64) -> Verdict {
    let mut complaints = Vec::new();
    let later = sightings
        .iter()
        .filter(|sighting| belongs(record, sighting))
        .filter_map(|sighting| Some((sighting, sighting.testimony.as_ref()?.reign?)))
        .find(|(_, reign)| *reign > record.epoch);
    if let Some((sighting, reign)) = later {
        complaints.push(Complaint::LaterReign {
            server: sighting.name.clone(),
            reign,
            expected: record.epoch,
        });
    }
    let reigning = sightings
        .iter()
        .position(|sighting| *sighting.name == *record.primary);
    let is_stable = record.change.is_none() && later.is_none();
    let primary = reigning.filter(|&index| is_stable && may_reign(record, &sightings[index]));
    // one that was promoted a moment ago may not have been asked since
    let is_news = record
        .history
        .last()
        .is_some_and(|last| last.to == record.primary && now < last.began + last.took + NEWS);
    if is_stable && primary.is_none() && !is_news {
        complaints.push(Complaint::Unbelieved {
            primary: record.primary.as_str().into(),
            timeline: record.timeline,
        });
    }
    let roles = sightings
        .iter()
        .enumerate()
        .map(|(index, sighting)| {
            if primary == Some(index) {
                Role::Primary
            } else {
                role_beside(record, sighting, &mut complaints)
            }
        })
        .collect();
    Verdict {
        primary,
        roles,
        reign: Some(record.reign()),
        complaints,
    }
}

/// Who may be taken at its word where the store knows nothing: the one server out of recovery, if all others answer and stream. Anything less could be
/// a deposed primary with a standby of its own.
pub(crate) fn first(sightings: &[Sighting]) -> Option<usize> {
    let mut primary = None;
    for (index, sighting) in sightings.iter().enumerate() {
        let testimony = sighting
            .testimony
            .as_ref()
            .filter(|_| sighting.health == Health::Up)?;
        match (&testimony.standing, testimony.stream()) {
            (Standing::Claimant { .. }, _) if primary.is_none() => primary = Some(index),
            (Standing::Standby { .. }, Some(stream))
                if !matches!(stream.receiver, Receiver::Lost) => {}
            (Standing::Claimant { .. } | Standing::Standby { .. }, _) => return None,
        }
    }
    let cluster = |sighting: &Sighting| {
        sighting
            .testimony
            .as_ref()
            .map(|said| said.system_identifier)
    };
    let own = cluster(sightings.get(primary?)?);
    sightings
        .iter()
        .all(|sighting| cluster(sighting) == own)
        .then_some(primary?)
}

fn belongs(record: &ShardRecord, sighting: &Sighting) -> bool {
    let said = sighting.testimony.as_ref();
    said.is_some_and(|said| said.system_identifier == record.system_identifier)
}

/// It stays the primary while it is down; while it answers it must be the one that is known.
fn may_reign(record: &ShardRecord, sighting: &Sighting) -> bool {
    match (&sighting.health, &sighting.testimony) {
        (Health::Down | Health::Unknown, _) | (Health::Up, None) => true,
        (Health::Up, Some(testimony)) => {
            testimony.system_identifier == record.system_identifier
                && testimony.standing
                    == Standing::Claimant {
                        timeline: record.timeline,
                    }
        }
    }
}

fn role_beside(record: &ShardRecord, sighting: &Sighting, complaints: &mut Vec<Complaint>) -> Role {
    let Some(testimony) = &sighting.testimony else {
        return Role::Unknown;
    };
    let server = sighting.name.clone();
    if testimony.system_identifier != record.system_identifier {
        complaints.push(Complaint::Stranger {
            server,
            system_identifier: testimony.system_identifier,
            expected: record.system_identifier,
        });
        return Role::Unknown;
    }
    match &testimony.standing {
        Standing::Claimant { timeline } => {
            let is_new = record.change.is_some();
            if sighting.health == Health::Up && *server != *record.primary && !is_new {
                complaints.push(Complaint::SecondPrimary {
                    server,
                    primary: record.primary.as_str().into(),
                    timeline: *timeline,
                });
            }
            Role::Unknown
        }
        Standing::Standby { .. } if record.quarantine.contains_key(&*server) => Role::Unknown,
        Standing::Standby { timelines } => role_of_standby(record, sighting, testimony, timelines),
    }
}

/// One that is beyond the reign's timeline, or not there yet, shows what is not the shard's.
fn role_of_standby(
    record: &ShardRecord,
    sighting: &Sighting,
    testimony: &Testimony,
    timelines: &[u32],
) -> Role {
    let beyond = timelines.iter().any(|timeline| *timeline > record.timeline);
    let reached = record.timeline == 1 || timelines.contains(&record.timeline);
    let streams = testimony
        .stream()
        .is_some_and(|stream| stream.receiver != Receiver::Lost);
    // between two primaries nobody streams
    let follows = streams || record.change.is_some() || sighting.health != Health::Up;
    if reached && !beyond && follows {
        Role::Replica
    } else {
        Role::Unknown
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state_store::{Change, ChangeKind, Quarantine, Reign};
    use crate::testimony::{Replication, Stream};

    const CLUSTER: u64 = 77;

    fn sighting(name: &str, standing: Standing, receiver: Receiver) -> Sighting {
        let replication = match standing {
            Standing::Claimant { .. } => Replication::Sends {
                synchronous_standby_names: "".into(),
            },
            Standing::Standby { .. } => Replication::Receives(Stream {
                receiver,
                ..Stream::default()
            }),
        };
        Sighting {
            name: name.into(),
            health: Health::Up,
            testimony: Some(Testimony {
                standing,
                system_identifier: CLUSTER,
                max_prepared_transactions: 0,
                version: 150_000,
                begun: None,
                reign: None,
                replication,
            }),
        }
    }

    fn claimant(name: &str, timeline: u32) -> Sighting {
        sighting(name, Standing::Claimant { timeline }, Receiver::Lost)
    }

    fn standby(name: &str, timeline: u32) -> Sighting {
        let timelines = vec![timeline];
        sighting(name, Standing::Standby { timelines }, Receiver::Hidden)
    }

    fn down(mut sighting: Sighting) -> Sighting {
        sighting.health = Health::Down;
        sighting
    }

    fn record(epoch: u64, primary: &str, timeline: u32) -> ShardRecord {
        Reign {
            epoch,
            primary: primary.into(),
            timeline,
            system_identifier: CLUSTER,
        }
        .into()
    }

    #[test]
    fn only_the_recorded_server_on_the_recorded_timeline_reigns() {
        let now = record(2, "b", 2);
        let decided = |sightings: &[Sighting]| decide(&now, sightings, 0).primary;
        assert_eq!(decided(&[standby("a", 2), claimant("b", 2)]), Some(1));
        // the deposed one is back, and the new one is down
        assert_eq!(
            decided(&[claimant("a", 1), down(claimant("b", 2))]),
            Some(1)
        );
        // promoted by somebody else, again, or restored from a backup
        assert_eq!(decided(&[claimant("a", 3), standby("b", 2)]), None);
        assert_eq!(decided(&[standby("a", 2), claimant("b", 3)]), None);
        assert_eq!(decided(&[standby("a", 2), claimant("b", 1)]), None);
    }

    #[test]
    fn a_deposed_primary_that_comes_back_has_no_role() {
        let verdict = decide(&record(2, "b", 2), &[claimant("a", 1), claimant("b", 2)], 0);
        assert_eq!(verdict.roles, [Role::Unknown, Role::Primary]);
        assert!(matches!(
            verdict.complaints[..],
            [Complaint::SecondPrimary { .. }]
        ));
    }

    #[test]
    fn nobody_reigns_while_the_primary_changes_and_standbys_are_read_from() {
        let mut changing = record(3, "a", 1);
        let change = Change::new(ChangeKind::Failover, "a", String::new(), String::new());
        changing.change = Some(change);
        let lost = |name| {
            let timelines = vec![1];
            sighting(name, Standing::Standby { timelines }, Receiver::Lost)
        };
        let verdict = decide(
            &changing,
            &[claimant("a", 1), lost("b"), claimant("c", 2)],
            0,
        );
        assert_eq!(verdict.primary, None);
        assert_eq!(verdict.roles, [Role::Unknown, Role::Replica, Role::Unknown]);
        assert_eq!(verdict.complaints, []);
    }

    #[test]
    fn an_old_store_is_believed_by_nobody() {
        let mut later = standby("b", 1);
        later.testimony.as_mut().unwrap().reign = Some(5);
        let verdict = decide(&record(4, "a", 1), &[claimant("a", 1), later.clone()], 0);
        assert_eq!(verdict.primary, None);
        assert!(matches!(
            verdict.complaints[0],
            Complaint::LaterReign {
                reign: 5,
                expected: 4,
                ..
            }
        ));
        let verdict = decide(&record(5, "a", 1), &[claimant("a", 1), later], 0);
        assert_eq!(verdict.primary, Some(0));
    }

    #[test]
    fn who_does_not_follow_the_primary_or_is_in_quarantine_is_not_read_from() {
        let mut now = record(2, "b", 2);
        let quarantine = Quarantine {
            reason: "an operator".into(),
            by_operator: true,
        };
        now.quarantine.insert("d".into(), quarantine);
        let lost = {
            let timelines = vec![2];
            sighting("c", Standing::Standby { timelines }, Receiver::Lost)
        };
        let verdict = decide(
            &now,
            &[standby("a", 1), claimant("b", 2), lost, standby("d", 2)],
            0,
        );
        assert_eq!(
            verdict.roles,
            [Role::Unknown, Role::Primary, Role::Unknown, Role::Unknown]
        );
    }

    #[test]
    fn without_a_record_one_primary_is_believed_that_all_others_stream_from() {
        assert_eq!(first(&[standby("a", 1), claimant("b", 1)]), Some(1));
        assert_eq!(first(&[claimant("a", 1)]), Some(0));
        // the real one may be the one that is down
        assert_eq!(
            first(&[claimant("a", 1), standby("b", 1), down(claimant("c", 2))]),
            None
        );
        assert_eq!(first(&[claimant("a", 1), claimant("b", 2)]), None);
        let lost = {
            let timelines = vec![2];
            sighting("c", Standing::Standby { timelines }, Receiver::Lost)
        };
        assert_eq!(first(&[claimant("a", 1), lost]), None);
        let mut stranger = standby("b", 1);
        stranger.testimony.as_mut().unwrap().system_identifier = 5;
        assert_eq!(first(&[claimant("a", 1), stranger]), None);
        assert_eq!(first(&[standby("a", 1)]), None);
    }
}
