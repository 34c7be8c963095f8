//! `pgherd check --servers`: could the shards be failed over?
//!
//! Owns how that is said: errors where pgherd is to promote, and one warning where it only observes. What a failover needs is
//! known in [`pgherd_control`]. Main function: [`check_failover`].

use std::sync::Arc;

use pgherd_control::{FailoverMode, MemoryStore, Severity, Shortfall, ShortfallAt, State};
use pgherd_topology::ShardId;

use super::Findings;
use super::rows::control_settings;
use crate::config::settings::{Config, Database, Shard};
use crate::serve::AssembleError;

/// How many places one line names.
const PLACES_NAMED: usize = 4;

/// A shortfall and where it is, over all shards.
struct Lacking {
    shortfall: Shortfall,
    /// Whether it is the shards' as a whole.
    of_shards: bool,
    /// Names of shards, else of servers.
    places: Vec<Box<str>>,
}

/// Looks at every shard that could be failed over: one that only observes its one server is passed over.
///
/// # Errors
/// [`AssembleError`] where a certificate cannot be read.
pub(super) async fn check_failover(
    config: &Config,
    database: &Database,
    findings: &mut Findings,
) -> Result<(), AssembleError> {
    let promotes = database.failover.mode == FailoverMode::Promote;
    let concerns = |shard: &Shard| promotes || shard.servers.len() > 1;
    if !database.shards.iter().any(concerns) {
        return Ok(());
    }
    // where buckets lie does not matter here, so that nothing need be stored yet
    let (state, _) = State::load_or_create(Box::new(MemoryStore::default()))?;
    let settings = control_settings(database, &Arc::new(state))?;
    let writers = writers(config, database);
    let mut lacking = Vec::new();
    let mut all_answered = true;
    for (id, shard) in (0..).map(ShardId).zip(&database.shards) {
        if !concerns(shard) {
            continue;
        }
        let found =
            pgherd_control::check_failover(&settings, id, &database.failover, &writers).await;
        // that a server does not answer is said already
        all_answered &= found.unanswered.is_empty();
        for shortfall in found.shortfalls {
            note(&mut lacking, shard, shortfall);
        }
    }
    match database.failover.mode {
        FailoverMode::Promote => say_each(database, &lacking, all_answered, findings),
        FailoverMode::Observe => say_together(database, &lacking, findings),
    }
    Ok(())
}

/// The roles that clients write as: those of other entries to the same shards too.
fn writers(config: &Config, database: &Database) -> Vec<Box<str>> {
    let entries = config
        .databases
        .iter()
        .filter(|entry| entry.owner() == &*database.name && !entry.reads.only);
    let mut writers: Vec<Box<str>> = entries
        .flat_map(|entry| match &entry.server_login {
            Some(login) => vec![login.user.clone()],
            None => entry.users.iter().map(|user| user.name.clone()).collect(),
        })
        .collect();
    writers.sort();
    writers.dedup();
    writers
}

fn note(lacking: &mut Vec<Lacking>, shard: &Shard, found: ShortfallAt) {
    let of_shards = found.servers.is_empty();
    let places = match of_shards {
        true => vec![shard.name.clone()],
        false => found.servers,
    };
    let known = lacking
        .iter_mut()
        .find(|known| known.shortfall == found.shortfall);
    match known {
        Some(known) => known.places.extend(places),
        None => lacking.push(Lacking {
            shortfall: found.shortfall,
            of_shards,
            places,
        }),
    }
}

/// Whether it is an error of its own, with or without failover.
fn is_said_already(shortfall: &Shortfall) -> bool {
    matches!(
        shortfall,
        Shortfall::TooOld { .. } | Shortfall::DifferentSystem { .. }
    )
}

/// Whether it is a warning of its own, with or without failover.
fn is_warned_of(shortfall: &Shortfall) -> bool {
    matches!(shortfall, Shortfall::NotMember { roles, .. } if *roles == ["pg_monitor"])
}

fn say_each(database: &Database, lacking: &[Lacking], all_answered: bool, findings: &mut Findings) {
    let name = &database.name;
    for each in lacking
        .iter()
        .filter(|each| !is_said_already(&each.shortfall))
    {
        let place = each.place(database);
        match each.shortfall.severity() {
            Severity::Prevents => {
                findings.error(format!("{name}, {place}: no failover: {}", each.shortfall));
            }
            Severity::Advice => {
                findings.warning(format!("{name}, {place}: for failover: {}", each.shortfall));
            }
        }
    }
    let prevented = lacking
        .iter()
        .any(|each| each.shortfall.severity() == Severity::Prevents);
    if all_answered && !prevented {
        findings.line(format!("{name}: every shard has what a failover needs"));
    }
}

/// Who does not want failover is told once, and no advice.
fn say_together(database: &Database, lacking: &[Lacking], findings: &mut Findings) {
    let lines: Vec<String> = lacking
        .iter()
        .filter(|each| each.shortfall.severity() == Severity::Prevents)
        .filter(|each| !is_said_already(&each.shortfall) && !is_warned_of(&each.shortfall))
        .map(|each| format!("\n  {}: {}", each.place(database), each.shortfall))
        .collect();
    if !lines.is_empty() {
        findings.warning(format!(
            "{}: failover would need these to be put right:{}",
            database.name,
            lines.concat()
        ));
    }
}

impl Lacking {
    /// Where, in few words.
    fn place(&self, database: &Database) -> String {
        let (noun, all) = match self.of_shards {
            true => ("shard", database.shards.len()),
            false => ("server", database.servers().count()),
        };
        let count = self.places.len();
        if count == all && count > 1 {
            return format!("every {noun}");
        }
        let plural = if count == 1 { "" } else { "s" };
        if count > PLACES_NAMED {
            let named = self.places[..PLACES_NAMED - 1].join(", ");
            return format!(
                "{noun}{plural} {named} and {} more",
                count - PLACES_NAMED + 1
            );
        }
        format!("{noun}{plural} {}", self.places.join(", "))
    }
}
