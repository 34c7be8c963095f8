//! CANCEL FAILOVER SHARD: a change of primary is undone.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "CANCEL FAILOVER SHARD [database.]shard",
    description: "Undoes a change of primary under way, as long as no server was told to become the primary.",
    words: "CANCEL FAILOVER SHARD",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [shard] = arguments else { return Ok(()) };
    acting.order(shard, FailoverCommand::Cancel).await
}
