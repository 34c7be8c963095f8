//! What to do when a primary dies.
//!
//! # Layout
//! - `evidence`: what is known of one server, and since when.
//! - `verdict`: whether a primary is dead.
//! - `quorum`: who acknowledges commits, and what that proves.
//! - `candidate`: who would be promoted, and what would be lost.
//! - `coordinator`: a change of primary, step by step, and looking after the shard between changes.
//! - `standby`, `primary`: what is done to a server. `names`, `conninfo`: how standbys are called and where they look. `hooks`: the operator's
//!   commands.
//!
//! What decides is pure: `monitor` feeds it and publishes the [`Outlook`].

pub(crate) mod candidate;
mod conninfo;
pub(crate) mod coordinator;
pub(crate) mod evidence;
mod hooks;
mod names;
mod primary;
pub(crate) mod quorum;
mod standby;
pub(crate) mod verdict;

pub(crate) use primary::acknowledged_row;

use pgherd_topology::{NodeId, Outlook, StandbyOutlook};
use tokio::time::Instant;

use candidate::{Standby, choose};
use evidence::{Contact, Evidence};
use quorum::SyncSet;
use verdict::{Patience, Verdict, decide};

use crate::heartbeat::Beat;
use crate::testimony::{Receiver, Replication};

/// One server of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) node: NodeId,
    pub(crate) name: &'a str,
    pub(crate) priority: u32,
    pub(crate) evidence: &'a Evidence,
}

/// What is to be thought of a shard whose primary is known, though it may be down.
pub(crate) fn outlook(
    primary: &Member<'_>,
    others: &[Member<'_>],
    beat: Beat,
    patience: &Patience,
    now: Instant,
) -> (Verdict, Outlook) {
    let verdict = decide(
        primary.evidence,
        others.iter().map(|member| member.evidence),
        beat,
        patience,
        now,
    );
    let said = primary.evidence.said.as_ref().map(|(_, said)| said);
    let set = said.and_then(|said| match &said.replication {
        Replication::Sends {
            synchronous_standby_names,
        } => SyncSet::parse(synchronous_standby_names).ok(),
        Replication::Receives(_) => None,
    });
    let standbys: Vec<Standby<'_>> = others
        .iter()
        .map(|member| Standby::of(member, said.map(|said| said.system_identifier)))
        .collect();
    let prospect = choose(set.as_ref(), &standbys);
    let outlook = Outlook {
        verdict: verdict.to_string().into(),
        dead: matches!(verdict, Verdict::Dead(_)),
        acknowledged_by: set
            .map_or_else(|| "not known".to_owned(), |set| set.to_string())
            .into(),
        standbys: others.iter().zip(&standbys).map(row).collect(),
        candidate: prospect.candidate.map(|index| others[index].node),
        loss: prospect.loss.to_string().into(),
        safe: prospect.loss.is_none(),
    };
    (verdict, outlook)
}

fn row((member, standby): (&Member<'_>, &Standby<'_>)) -> StandbyOutlook {
    let stream = standby.stream;
    StandbyOutlook {
        node: member.node,
        name: member.name.into(),
        state: state(member.evidence).into(),
        timeline: standby.timeline,
        reached: stream.and_then(|stream| stream.reached()),
        replayed: stream.and_then(|stream| stream.replayed),
        priority: member.priority,
        application_name: stream.and_then(|stream| stream.application_name.clone()),
    }
}

fn state(evidence: &Evidence) -> &'static str {
    let stream = evidence
        .said
        .as_ref()
        .map(|(_, said)| said.stream().map(|stream| &stream.receiver));
    match (evidence.contact, stream) {
        (Contact::Untried, _) => "not asked yet",
        (Contact::Refused, _) => "refuses connections",
        (Contact::Silent, _) => "does not answer",
        (Contact::NoRoom, _) => "has no connection left",
        (Contact::Starting, _) => "starts up",
        (Contact::Failed, _) => "answers with an error",
        (Contact::Answered { .. }, None) => "not asked yet",
        (Contact::Answered { .. }, Some(None)) => "is no standby",
        (Contact::Answered { .. }, Some(Some(Receiver::Lost))) => "does not stream",
        (Contact::Answered { .. }, Some(Some(Receiver::Streaming { .. } | Receiver::Hidden))) => {
            "streams"
        }
    }
}
