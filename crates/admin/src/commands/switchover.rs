//! SWITCHOVER SHARD: another primary, planned.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};
use crate::ordering::shard_to_server;

/// How it is typed.
const SYNTAX: &str = "SWITCHOVER SHARD [database.]shard [TO server]";

pub(super) const DOING: Doing = Doing {
    syntax: SYNTAX,
    description: "Makes another server the primary without losing anything: new work is held, transactions may end (for 5 s), the old primary is fenced, and the new one has all that it wrote before it is promoted. Without TO the furthest standby. Undone where the new one does not catch up.",
    words: "SWITCHOVER SHARD",
    arguments: (1, 3),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let (shard, to) = shard_to_server(arguments, SYNTAX)?;
    acting
        .order(shard, FailoverCommand::Switchover { to })
        .await
}
