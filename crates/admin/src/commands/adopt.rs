//! ADOPT SHARD: an operator names the primary.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};
use crate::ordering::misread;

/// How it is typed.
const SYNTAX: &str = "ADOPT SHARD [database.]shard PRIMARY server";

pub(super) const DOING: Doing = Doing {
    syntax: SYNTAX,
    description: "Takes a server that is out of recovery for the shard's primary, whatever the state store says: after the store was lost or an old one restored, or somebody else has promoted. What other servers have acknowledged beyond it is lost.",
    words: "ADOPT SHARD",
    arguments: (3, 3),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    match arguments {
        [shard, word, server] if word.eq_ignore_ascii_case("PRIMARY") => {
            let adopt = FailoverCommand::Adopt {
                primary: server.as_str().into(),
            };
            acting.order(shard, adopt).await
        }
        _ => Err(misread(SYNTAX)),
    }
}
