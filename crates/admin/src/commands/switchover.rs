//! SWITCHOVER SHARD: another primary, planned.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};
use crate::ordering::misread;

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
    let (shard, to) = match arguments {
        [shard] => (shard, None),
        [shard, word, server] if word.eq_ignore_ascii_case("TO") => {
            (shard, Some(server.as_str().into()))
        }
        _ => return Err(misread(SYNTAX)),
    };
    acting
        .order(shard, FailoverCommand::Switchover { to })
        .await
}
