//! Whether a shard could be failed over, and what it lacks for that.
//!
//! Owns the questions and the requirements. Looks only: nothing is changed on a server. Main function: [`check_failover`].
//!
//! # Layout
//! - `question`: the one row that a server is asked for.
//! - `requirements`: from what the servers of a shard answered to what it lacks; pure.
//! - `shortfall`: what can be lacking, with its remedy; `wording` says it.

mod question;
mod requirements;
mod shortfall;
mod wording;

use pgherd_topology::ShardId;
use tokio::task::JoinSet;

use crate::error::ControlError;
use crate::servers::Servers;
use crate::settings::{ControlSettings, FailoverSettings};
use question::Question;
use requirements::{Circumstances, shortfalls};

pub use shortfall::{Fix, Purpose, Severity, Shortfall, ShortfallAt};

/// What a look at one shard's servers found.
#[derive(Debug)]
pub struct Preflight {
    /// What the shard lacks, as far as its servers answered.
    pub shortfalls: Vec<ShortfallAt>,
    /// The servers that did not answer.
    pub unanswered: Vec<(Box<str>, ControlError)>,
}

/// Asks all servers of a shard at once, through the control login, what a failover would need. `writers` are the roles that clients
/// write as. Opens one connection to each and closes it. Takes at most the pace's patience for each of three steps. Cancel-safe.
pub async fn check_failover(
    settings: &ControlSettings,
    shard: ShardId,
    failover: &FailoverSettings,
    writers: &[Box<str>],
) -> Preflight {
    let mut asking = JoinSet::new();
    for server in Servers::of_shard(settings, shard).iter() {
        let (server, question) = (server.clone(), Question::new(writers));
        asking.spawn(async move { (server.id, server.name.clone(), question.ask(&server).await) });
    }
    let mut replies = asking.join_all().await;
    replies.sort_by_key(|(id, ..)| *id);
    let mut preflight = Preflight {
        shortfalls: Vec::new(),
        unanswered: Vec::new(),
    };
    let mut answers = Vec::new();
    for (_, name, reply) in replies {
        match reply {
            Ok(answer) => answers.push(answer),
            Err(error) => preflight.unanswered.push((name, error)),
        }
    }
    if let Some(of_shard) = settings.shards.get(shard.index()) {
        let circumstances = Circumstances {
            login: &settings.login.user,
            shard: of_shard,
            several_shards: settings.shards.len() > 1,
            failover,
        };
        preflight.shortfalls = shortfalls(&circumstances, &answers);
    }
    preflight
}
