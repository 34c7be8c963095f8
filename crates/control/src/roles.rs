//! Who is a shard's primary, and who replays it: decided from what the servers say.
//!
//! Owns the decision, a pure function; never asks a server and never changes one. Main type: [`Verdict`].
//!
//! A server that is out of recovery claims to be the primary. A claim is believed only where it follows from the last
//! reign: the same server, or one on a higher timeline, since Postgres raises the timeline with each promotion. So a
//! deposed primary that comes back is never followed. While the reigning primary answers, nobody else is followed
//! either: promoting beside a live primary makes two, and clients' writes go on where they were.

use std::fmt;

use pgherd_topology::{Health, Role};

use crate::state_store::Reign;
use crate::testimony::{Standing, Testimony};

/// One server as the monitor sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Its name in the configuration.
    pub(crate) name: Box<str>,
    /// Whether it answers.
    pub(crate) health: Health,
    /// What it last said, also while it is down.
    pub(crate) testimony: Option<Testimony>,
}

/// What follows for one shard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The primary, as an index into the sightings; it may be down.
    pub(crate) primary: Option<usize>,
    /// Each server's role.
    pub(crate) roles: Vec<Role>,
    /// The reign to publish and to keep; `None` while no primary was ever seen.
    pub(crate) reign: Option<Reign>,
    /// What an operator must know.
    pub(crate) complaints: Vec<Complaint>,
}

/// What is wrong with a shard's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// A server takes writes although another one is the primary.
    SecondPrimary {
        server: Box<str>,
        primary: Box<str>,
        timeline: u32,
    },
    /// Servers take writes, and nothing tells which is the right one.
    Ambiguous { servers: Vec<Box<str>> },
    /// The shard's primary is on an older timeline than before.
    Regressed {
        server: Box<str>,
        timeline: u32,
        expected: u32,
    },
    /// The server belongs to another cluster than its shard's primary.
    Stranger {
        server: Box<str>,
        system_identifier: u64,
        expected: u64,
    },
    /// A standby that is not known to follow the primary's timeline.
    NotFollowing { server: Box<str>, timeline: u32 },
    /// A server bears the row of a reign that the state store does not know.
    LaterReign {
        server: Box<str>,
        reign: u64,
        expected: u64,
    },
    /// The server that the state store names is not the primary that it knows.
    Unbelieved { primary: Box<str>, timeline: u32 },
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondPrimary {
                server,
                primary,
                timeline,
            } => write!(
                formatter,
                "server {server} takes writes (timeline {timeline}) although {primary} is the primary: it is not used; \
                 stop it, or rewind it to follow {primary}"
            ),
            Self::Ambiguous { servers } => write!(
                formatter,
                "servers {} all take writes on one timeline and none was the primary before: none is used; stop all but the right one",
                servers.join(", ")
            ),
            Self::Regressed {
                server,
                timeline,
                expected,
            } => write!(
                formatter,
                "primary {server} is on timeline {timeline} and was on {expected} before: it has lost what was written since; it is not used"
            ),
            Self::Stranger {
                server,
                system_identifier,
                expected,
            } => write!(
                formatter,
                "server {server} belongs to another cluster (system identifier {system_identifier}, the shard's is {expected}): it is not used"
            ),
            Self::NotFollowing { server, timeline } => write!(
                formatter,
                "standby {server} is not known to follow timeline {timeline}: it is not read from until it does \
                 (without pg_monitor the control login sees that only after the standby's next restartpoint)"
            ),
            Self::LaterReign {
                server,
                reign,
                expected,
            } => write!(
                formatter,
                "server {server} was written to in epoch {reign}, and the state store knows of {expected}: it is an old one; \
                 nobody is written to until ADOPT SHARD names the primary"
            ),
            Self::Unbelieved { primary, timeline } => write!(
                formatter,
                "{primary} is the primary on timeline {timeline} as the state store has it, and it is not: somebody else has promoted, restored or \
                 demoted a server; nobody is written to until ADOPT SHARD names the primary"
            ),
        }
    }
}

/// Decides for one shard. `reign` is the last one known, from this run or an earlier one.
pub(crate) fn decide(reign: Option<&Reign>, sightings: &[Sighting]) -> Verdict {
    let mut complaints = Vec::new();
    let primary = choose(reign, sightings, &mut complaints);
    let next = match primary.and_then(|index| follow(reign, &sightings[index])) {
        Some(next) => Some(next),
        None => reign.cloned(),
    };
    let roles = sightings
        .iter()
        .enumerate()
        .map(|(index, sighting)| match (primary, &next) {
            (Some(chosen), _) if chosen == index => Role::Primary,
            (_, Some(reign)) => role_beside(reign, sighting, &mut complaints),
            (_, None) => Role::Unknown,
        })
        .collect();
    Verdict {
        primary,
        roles,
        reign: next,
        complaints,
    }
}

fn choose(
    reign: Option<&Reign>,
    sightings: &[Sighting],
    complaints: &mut Vec<Complaint>,
) -> Option<usize> {
    let claims: Vec<(usize, u32, u64)> = sightings
        .iter()
        .enumerate()
        .filter_map(
            |(index, sighting)| match (sighting.health, sighting.testimony.as_ref()?) {
                (
                    Health::Up,
                    Testimony {
                        standing: Standing::Claimant { timeline },
                        system_identifier,
                        ..
                    },
                ) => Some((index, *timeline, *system_identifier)),
                (Health::Up | Health::Down | Health::Unknown, _) => None,
            },
        )
        .collect();
    let Some(reign) = reign else {
        return first(&claims, sightings, complaints);
    };

    let reigning = sightings
        .iter()
        .position(|sighting| *sighting.name == *reign.primary);
    let same_cluster = |claim: &&(usize, u32, u64)| claim.2 == reign.system_identifier;
    let held = claims
        .iter()
        .filter(same_cluster)
        .find(|claim| Some(claim.0) == reigning && claim.1 >= reign.timeline);
    if let Some(claim) = held {
        return Some(claim.0);
    }
    // Without a promotion, another server on the same timeline is believed only where the reigning one says itself
    // that it stands by, or is gone from the configuration: a planned change of roles between two clean stops.
    let holder = match reigning {
        None => Holder::GaveWay,
        Some(index) => Holder::of(&sightings[index]),
    };
    let believed: Vec<(usize, u32, u64)> = claims
        .iter()
        .filter(same_cluster)
        .filter(|claim| Some(claim.0) != reigning)
        .filter(|claim| {
            claim.1 > reign.timeline || (holder == Holder::GaveWay && claim.1 == reign.timeline)
        })
        .copied()
        .collect();
    if !believed.is_empty() {
        return first(&believed, sightings, complaints);
    }
    // A herd set up anew under old names: nothing of the remembered cluster is left.
    let forgotten = sightings.iter().all(|sighting| match &sighting.testimony {
        Some(testimony) => testimony.system_identifier != reign.system_identifier,
        None => sighting.health == Health::Down,
    });
    if forgotten && !claims.is_empty() {
        return first(&claims, sightings, complaints);
    }
    match holder {
        // It stays the primary until another one is proven.
        Holder::Silent => reigning,
        Holder::GaveWay | Holder::Unbelieved => None,
    }
}

/// What has become of the reigning primary whose claim was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// It is down, or was not seen yet in this run.
    Silent,
    /// It says that it stands by, or is no longer configured.
    GaveWay,
    /// It claims, but on an older timeline or of another cluster: restored from a backup, or set up anew.
    Unbelieved,
}

impl Holder {
    fn of(sighting: &Sighting) -> Self {
        match (sighting.health, &sighting.testimony) {
            (Health::Down | Health::Unknown, _) | (Health::Up, None) => Self::Silent,
            (Health::Up, Some(testimony)) => match testimony.standing {
                Standing::Standby { .. } => Self::GaveWay,
                Standing::Claimant { .. } => Self::Unbelieved,
            },
        }
    }
}

/// The claim on the highest timeline; none where two share it.
fn first(
    claims: &[(usize, u32, u64)],
    sightings: &[Sighting],
    complaints: &mut Vec<Complaint>,
) -> Option<usize> {
    let highest = claims.iter().map(|claim| claim.1).max()?;
    let rivals: Vec<usize> = claims
        .iter()
        .filter(|claim| claim.1 == highest)
        .map(|claim| claim.0)
        .collect();
    match rivals[..] {
        [only] => Some(only),
        _ => {
            let servers = rivals
                .iter()
                .map(|&index| sightings[index].name.clone())
                .collect();
            complaints.push(Complaint::Ambiguous { servers });
            None
        }
    }
}

/// The reign under this primary: the last one where nothing changed, else the next epoch.
fn follow(reign: Option<&Reign>, sighting: &Sighting) -> Option<Reign> {
    let Some(Testimony {
        standing: Standing::Claimant { timeline },
        system_identifier,
        ..
    }) = &sighting.testimony
    else {
        return None;
    };
    let next = Reign {
        epoch: reign.map_or(1, |reign| reign.epoch),
        primary: sighting.name.to_string(),
        timeline: *timeline,
        system_identifier: *system_identifier,
    };
    match reign {
        Some(reign) if *reign != next => Some(Reign {
            epoch: reign.epoch + 1,
            ..next
        }),
        Some(_) | None => Some(next),
    }
}

fn role_beside(reign: &Reign, sighting: &Sighting, complaints: &mut Vec<Complaint>) -> Role {
    let Some(testimony) = &sighting.testimony else {
        return Role::Unknown;
    };
    let server = sighting.name.clone();
    if testimony.system_identifier != reign.system_identifier {
        let (system_identifier, expected) = (testimony.system_identifier, reign.system_identifier);
        complaints.push(Complaint::Stranger {
            server,
            system_identifier,
            expected,
        });
        return Role::Unknown;
    }
    match (&testimony.standing, sighting.health) {
        (Standing::Claimant { timeline }, Health::Up) if *server == *reign.primary => {
            complaints.push(Complaint::Regressed {
                server,
                timeline: *timeline,
                expected: reign.timeline,
            });
            Role::Unknown
        }
        (Standing::Claimant { timeline }, Health::Up) => {
            complaints.push(Complaint::SecondPrimary {
                server,
                primary: (*reign.primary).into(),
                timeline: *timeline,
            });
            Role::Unknown
        }
        (Standing::Claimant { .. }, Health::Down | Health::Unknown) => Role::Unknown,
        // There is no other timeline that a standby of timeline 1 could follow.
        (Standing::Standby { timelines }, _)
            if reign.timeline == 1 || timelines.contains(&reign.timeline) =>
        {
            Role::Replica
        }
        (Standing::Standby { .. }, Health::Up) => {
            complaints.push(Complaint::NotFollowing {
                server,
                timeline: reign.timeline,
            });
            Role::Unknown
        }
        (Standing::Standby { .. }, Health::Down | Health::Unknown) => Role::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use crate::testimony::{Replication, Stream};

    const CLUSTER: u64 = 77;

    fn sighting(name: &str, health: Health, standing: Standing) -> Sighting {
        let replication = match standing {
            Standing::Claimant { .. } => Replication::Sends {
                synchronous_standby_names: "".into(),
            },
            Standing::Standby { .. } => Replication::Receives(Stream::default()),
        };
        let testimony = Testimony {
            standing,
            system_identifier: CLUSTER,
            max_prepared_transactions: 20,
            version: 150_000,
            begun: None,
            reign: None,
            replication,
        };
        Sighting {
            name: name.into(),
            health,
            testimony: Some(testimony),
        }
    }

    fn claimant(name: &str, timeline: u32) -> Sighting {
        sighting(name, Health::Up, Standing::Claimant { timeline })
    }

    fn standby(name: &str, timelines: &[u32]) -> Sighting {
        sighting(
            name,
            Health::Up,
            Standing::Standby {
                timelines: timelines.to_vec(),
            },
        )
    }

    fn down(mut sighting: Sighting) -> Sighting {
        sighting.health = Health::Down;
        sighting
    }

    fn reign(epoch: u64, primary: &str, timeline: u32) -> Reign {
        Reign {
            epoch,
            primary: primary.into(),
            timeline,
            system_identifier: CLUSTER,
        }
    }

    #[test]
    fn the_only_claimant_is_the_first_primary() {
        let verdict = decide(None, &[standby("a", &[1]), claimant("b", 1)]);
        assert_eq!(verdict.primary, Some(1));
        assert_eq!(verdict.roles, [Role::Replica, Role::Primary]);
        assert_eq!(verdict.reign, Some(reign(1, "b", 1)));
        assert_eq!(verdict.complaints, []);
    }

    #[test]
    fn nothing_changes_while_nothing_changes() {
        let verdict = decide(
            Some(&reign(4, "b", 1)),
            &[standby("a", &[1]), claimant("b", 1)],
        );
        assert_eq!(verdict.reign, Some(reign(4, "b", 1)));
    }

    #[test]
    fn a_promoted_replica_is_followed_once_the_primary_is_down() {
        let old = reign(1, "a", 1);
        let verdict = decide(Some(&old), &[down(claimant("a", 1)), standby("b", &[1])]);
        assert_eq!(
            (verdict.primary, verdict.reign),
            (Some(0), Some(old.clone()))
        );
        let verdict = decide(Some(&old), &[down(claimant("a", 1)), claimant("b", 2)]);
        assert_eq!(
            (verdict.primary, verdict.reign),
            (Some(1), Some(reign(2, "b", 2)))
        );
    }

    #[test]
    fn a_second_primary_beside_a_live_one_is_not_followed() {
        let verdict = decide(
            Some(&reign(1, "a", 1)),
            &[claimant("a", 1), claimant("b", 2)],
        );
        assert_eq!(verdict.primary, Some(0));
        assert_eq!(verdict.roles, [Role::Primary, Role::Unknown]);
        assert!(matches!(
            verdict.complaints[..],
            [Complaint::SecondPrimary { .. }]
        ));
    }

    #[test]
    fn a_deposed_primary_that_comes_back_is_never_followed() {
        let now = reign(2, "b", 2);
        for b in [claimant("b", 2), down(claimant("b", 2))] {
            let verdict = decide(Some(&now), &[claimant("a", 1), b]);
            assert_eq!(
                (verdict.primary, verdict.roles[0]),
                (Some(1), Role::Unknown)
            );
            assert_eq!(verdict.reign.as_ref(), Some(&now));
        }
    }

    #[test]
    fn on_the_same_timeline_another_is_followed_only_where_the_first_gave_way() {
        let old = reign(1, "a", 1);
        assert_eq!(
            decide(Some(&old), &[standby("a", &[1]), claimant("b", 1)]).primary,
            Some(1)
        );
        assert_eq!(decide(Some(&old), &[claimant("b", 1)]).primary, Some(0));
        assert_eq!(
            decide(Some(&old), &[down(claimant("a", 1)), claimant("b", 1)]).primary,
            Some(0)
        );
    }

    #[test]
    fn a_primary_restored_from_a_backup_is_not_followed() {
        let verdict = decide(
            Some(&reign(2, "a", 3)),
            &[claimant("a", 2), standby("b", &[3])],
        );
        assert_eq!(
            (verdict.primary, verdict.roles),
            (None, vec![Role::Unknown, Role::Replica])
        );
        assert!(matches!(
            verdict.complaints[..],
            [Complaint::Regressed { .. }]
        ));
    }

    #[test]
    fn two_first_claimants_on_one_timeline_are_both_left_alone() {
        let verdict = decide(None, &[claimant("a", 3), claimant("b", 3)]);
        assert_eq!((verdict.primary, verdict.reign), (None, None));
        assert_eq!(
            decide(None, &[claimant("a", 3), claimant("b", 4)]).primary,
            Some(1)
        );
    }

    #[test]
    fn a_server_of_another_cluster_is_a_stranger() {
        let mut stranger = standby("b", &[1]);
        stranger.testimony.as_mut().unwrap().system_identifier = 5;
        let verdict = decide(None, &[claimant("a", 1), stranger]);
        assert_eq!(verdict.roles, [Role::Primary, Role::Unknown]);
        assert!(matches!(
            verdict.complaints[..],
            [Complaint::Stranger { .. }]
        ));
    }

    #[test]
    fn a_herd_set_up_anew_is_followed_although_another_one_is_remembered() {
        let remembered = Reign {
            system_identifier: 5,
            ..reign(7, "a", 9)
        };
        let verdict = decide(Some(&remembered), &[claimant("a", 1), standby("b", &[1])]);
        assert_eq!(verdict.reign, Some(reign(8, "a", 1)));
    }

    #[test]
    fn after_a_promotion_a_standby_counts_only_once_it_follows() {
        let now = reign(2, "b", 2);
        let verdict = decide(
            Some(&now),
            &[standby("a", &[1]), claimant("b", 2), standby("c", &[2, 1])],
        );
        assert_eq!(verdict.roles, [Role::Unknown, Role::Primary, Role::Replica]);
        assert!(matches!(
            verdict.complaints[..],
            [Complaint::NotFollowing { .. }]
        ));
    }
}
