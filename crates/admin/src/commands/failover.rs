//! FAILOVER SHARD: another primary in the place of one that is gone.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};
use crate::ordering::shard_to_server;

/// How it is typed.
const SYNTAX: &str = "FAILOVER SHARD [database.]shard [TO server] [FORCE]";

pub(super) const DOING: Doing = Doing {
    syntax: SYNTAX,
    description: "Makes another server the primary in the place of one that is gone, where nothing that was acknowledged can be lost. With FORCE also where it can be, and of a primary that still answers: EXPLAIN FAILOVER says what.",
    words: "FAILOVER SHARD",
    arguments: (1, 4),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let (arguments, force) = match arguments {
        [before @ .., last] if last.eq_ignore_ascii_case("FORCE") => (before, true),
        all => (all, false),
    };
    let (shard, to) = shard_to_server(arguments, SYNTAX)?;
    acting
        .order(shard, FailoverCommand::Failover { to, force })
        .await
}
