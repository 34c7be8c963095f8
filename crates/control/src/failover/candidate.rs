//! Who would be promoted, and what would be lost.
//!
//! Owns the choice, a pure function of what the standbys have received. Never asks a server. Main function: [`choose`].
//!
//! That nothing would be lost is proven as far as the configuration names every server that acknowledges: one that it does not name could bear the
//! name of one that it does.

use std::cmp::Reverse;
use std::fmt;

use pgherd_topology::Lsn;

use super::Member;
use super::quorum::{SyncSet, missing};
use crate::testimony::{Standing, Stream};

/// A server that might follow the primary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standby<'a> {
    name: &'a str,
    priority: u32,
    /// Whether it answers now.
    reached: bool,
    /// What it last said, also while it does not answer; `None` where it never did, or is no standby of this cluster.
    pub(crate) stream: Option<&'a Stream>,
    /// The highest timeline that it has come to.
    pub(crate) timeline: Option<u32>,
}

impl<'a> Standby<'a> {
    /// A server beside a primary of this system identifier.
    pub(crate) fn of(member: &Member<'a>, system_identifier: Option<u64>) -> Self {
        let said = member
            .evidence
            .said
            .as_ref()
            .map(|(_, said)| said)
            .filter(|said| system_identifier.is_none_or(|own| said.system_identifier == own));
        let timeline = said.and_then(|said| match &said.standing {
            Standing::Standby { timelines } => timelines.iter().max().copied(),
            Standing::Claimant { .. } => None,
        });
        Self {
            name: member.name,
            priority: member.priority,
            reached: member.evidence.answers(),
            stream: said.and_then(|said| said.stream()),
            timeline,
        }
    }

    /// One that was asked otherwise.
    pub(crate) fn known(
        name: &'a str,
        priority: u32,
        reached: bool,
        stream: Option<&'a Stream>,
        timeline: Option<u32>,
    ) -> Self {
        Self {
            name,
            priority,
            reached,
            stream,
            timeline,
        }
    }

    /// How far it has come, if it can be asked now.
    fn position(&self) -> Option<(u32, Lsn)> {
        let stream = self.stream.filter(|_| self.reached)?;
        Some((self.timeline?, stream.reached()?))
    }

    fn goes_by(&self) -> Option<&'a str> {
        self.stream?.application_name.as_deref()
    }
}

/// What would come of a failover.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prospect<'a> {
    /// An index into the standbys.
    pub(crate) candidate: Option<usize>,
    /// What would be lost.
    pub(crate) loss: Loss<'a>,
}

/// What a failover would lose of what was acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loss<'a> {
    /// Nothing, and that is proven.
    None,
    /// There is nobody to promote.
    Everything,
    /// Commits are acknowledged before a standby has them.
    Asynchronous,
    /// It cannot be known who has acknowledged.
    Unprovable(&'static str),
    /// Two servers, or more, acknowledge under one name.
    Namesakes(&'a str),
    /// Too few of those that acknowledge are reached.
    TooFew {
        /// So many more are needed.
        missing: usize,
    },
    /// A server that must not be promoted has come further.
    Ahead(&'a str),
}

impl Loss<'_> {
    /// Whether nothing would be lost.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl fmt::Display for Loss<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("nothing that was acknowledged under synchronous_commit = on"),
            Self::Everything => formatter.write_str("there is nobody to promote"),
            Self::Asynchronous => formatter.write_str(
                "what no standby had received: synchronous_standby_names is empty, so that commits are acknowledged before a standby has them",
            ),
            Self::Unprovable(why) => write!(formatter, "not known: {why}"),
            Self::Namesakes(name) => write!(
                formatter,
                "not known: several servers replicate as \"{name}\", so that it cannot be told which of them has acknowledged; \
                 give each an application_name of its own in primary_conninfo"
            ),
            Self::TooFew { missing } => write!(
                formatter,
                "perhaps acknowledged writes: {missing} more of those that acknowledge them must be reached"
            ),
            Self::Ahead(name) => write!(
                formatter,
                "what {name} has beyond the candidate, which has priority 0 and is not to be promoted"
            ),
        }
    }
}

/// Chooses between the standbys that can be asked: the furthest, then the one of the highest priority, then the first. None of priority 0.
pub(crate) fn choose<'a>(set: Option<&SyncSet>, standbys: &[Standby<'a>]) -> Prospect<'a> {
    let candidate = standbys
        .iter()
        .enumerate()
        .filter(|(_, standby)| standby.priority > 0)
        .filter_map(|(index, standby)| {
            Some((standby.position()?, standby.priority, Reverse(index)))
        })
        .max();
    let Some((position, _, Reverse(index))) = candidate else {
        return Prospect {
            candidate: None,
            loss: Loss::Everything,
        };
    };
    let ahead = standbys
        .iter()
        .find(|standby| standby.position().is_some_and(|other| other > position));
    let loss = match (proven(set, standbys), ahead) {
        (Loss::None, Some(ahead)) => Loss::Ahead(ahead.name),
        (loss, _) => loss,
    };
    Prospect {
        candidate: Some(index),
        loss,
    }
}

/// Whether the standbys that can be asked have among them each commit that was acknowledged.
fn proven<'a>(set: Option<&SyncSet>, standbys: &[Standby<'a>]) -> Loss<'a> {
    let Some(set) = set else {
        return Loss::Unprovable("the primary never said who acknowledges its commits");
    };
    let (acks, names) = match set {
        SyncSet::Nobody => return Loss::Asynchronous,
        SyncSet::Anyone => {
            return Loss::Unprovable(
                "anything that streams may acknowledge commits (`*` in synchronous_standby_names): name the standbys there",
            );
        }
        SyncSet::Named { acks, names } => (*acks, names),
    };
    // whoever never said its name might be any of them
    if standbys.iter().any(|standby| standby.goes_by().is_none()) {
        return Loss::Unprovable(
            "a server has not said by which name it acknowledges commits: it was not reached yet, or the control login lacks pg_monitor",
        );
    }
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let namesake = standbys.iter().enumerate().find_map(|(index, standby)| {
        let name = standby.goes_by()?;
        let listed = names.iter().any(|listed| same(listed, name));
        let twice = standbys[..index]
            .iter()
            .any(|other| other.goes_by().is_some_and(|other| same(other, name)));
        (listed && twice).then_some(name)
    });
    if let Some(name) = namesake {
        return Loss::Namesakes(name);
    }
    let reached = standbys
        .iter()
        .filter(|standby| standby.position().is_some())
        .filter_map(Standby::goes_by);
    match missing(acks, names, reached) {
        0 => Loss::None,
        missing => Loss::TooFew { missing },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stream(reached: u64, name: &str) -> Stream {
        Stream {
            received: Some(Lsn(reached)),
            application_name: Some(name.into()),
            ..Stream::default()
        }
    }

    fn standby<'a>(name: &'a str, timeline: u32, priority: u32, stream: &'a Stream) -> Standby<'a> {
        Standby {
            name,
            priority,
            reached: true,
            stream: Some(stream),
            timeline: Some(timeline),
        }
    }

    fn set(text: &str) -> SyncSet {
        SyncSet::parse(text).unwrap()
    }

    #[test]
    fn the_furthest_is_promoted_whatever_its_priority() {
        let (near, far) = (stream(10, "b"), stream(20, "c"));
        let all = [standby("b", 1, 9, &near), standby("c", 1, 1, &far)];
        let prospect = choose(Some(&set("ANY 1 (b, c)")), &all);
        assert_eq!((prospect.candidate, prospect.loss), (Some(1), Loss::None));
        // a later timeline is further than any position on an earlier one
        let all = [standby("b", 2, 1, &near), standby("c", 1, 1, &far)];
        assert_eq!(choose(None, &all).candidate, Some(0));
    }

    #[test]
    fn among_equals_priority_decides_and_then_the_order() {
        let (one, two) = (stream(10, "b"), stream(10, "c"));
        let all = [standby("b", 1, 1, &one), standby("c", 1, 2, &two)];
        assert_eq!(choose(None, &all).candidate, Some(1));
        let all = [standby("b", 1, 1, &one), standby("c", 1, 1, &two)];
        assert_eq!(choose(None, &all).candidate, Some(0));
    }

    #[test]
    fn replayed_wal_counts_where_a_restart_has_forgotten_what_was_received() {
        let restarted = Stream {
            received: None,
            replayed: Some(Lsn(30)),
            ..stream(0, "b")
        };
        let other = stream(20, "c");
        let all = [standby("b", 1, 1, &restarted), standby("c", 1, 1, &other)];
        assert_eq!(choose(None, &all).candidate, Some(0));
    }

    #[test]
    fn priority_zero_is_never_promoted_and_what_it_alone_has_counts_as_lost() {
        let (near, far) = (stream(10, "b"), stream(20, "c"));
        let all = [standby("b", 1, 1, &near), standby("c", 1, 0, &far)];
        let prospect = choose(Some(&set("ANY 1 (b, c)")), &all);
        assert_eq!(
            (prospect.candidate, prospect.loss),
            (Some(0), Loss::Ahead("c"))
        );
        let only = [standby("c", 1, 0, &far)];
        assert_eq!(choose(None, &only).loss, Loss::Everything);
    }

    #[test]
    fn one_of_two_that_acknowledge_alone_proves_nothing() {
        let (one, two) = (stream(10, "b"), stream(10, "c"));
        let mut all = [standby("b", 1, 1, &one), standby("c", 1, 1, &two)];
        all[1].reached = false;
        let prospect = choose(Some(&set("ANY 1 (b, c)")), &all);
        assert_eq!(
            (prospect.candidate, prospect.loss),
            (Some(0), Loss::TooFew { missing: 1 })
        );
        assert_eq!(choose(Some(&set("ANY 2 (b, c)")), &all).loss, Loss::None);
    }

    #[test]
    fn nothing_is_proven_without_names_or_with_one_name_for_two() {
        let (one, two) = (stream(10, "b"), stream(10, "B"));
        let all = [standby("b", 1, 1, &one), standby("c", 1, 1, &two)];
        assert_eq!(
            choose(Some(&set("ANY 2 (b, x)")), &all).loss,
            Loss::Namesakes("B")
        );
        assert_eq!(choose(Some(&set("")), &all).loss, Loss::Asynchronous);
        assert!(matches!(
            choose(Some(&set("*")), &all).loss,
            Loss::Unprovable(_)
        ));
        assert!(matches!(choose(None, &all).loss, Loss::Unprovable(_)));
        let mut hidden = stream(10, "c");
        hidden.application_name = None;
        let all = [standby("b", 1, 1, &one), standby("c", 1, 1, &hidden)];
        assert!(matches!(
            choose(Some(&set("ANY 1 (b)")), &all).loss,
            Loss::Unprovable(_)
        ));
    }

    #[test]
    fn a_server_that_is_down_is_no_candidate() {
        let far = stream(20, "b");
        let mut all = [standby("b", 1, 1, &far)];
        all[0].reached = false;
        assert_eq!(choose(None, &all).candidate, None);
    }
}
