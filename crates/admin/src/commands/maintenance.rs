//! MAINTENANCE: whether pgherd promotes of its own accord.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing, not_in_state};
use crate::operations::ProcessRequest;
use crate::ordering::misread;

/// How it is typed.
const SYNTAX: &str = "MAINTENANCE ON | OFF";

pub(super) const DOING: Doing = Doing {
    syntax: SYNTAX,
    description: "Whether primaries that die are left alone, in all databases. SWITCHOVER and FAILOVER go on to work. It is remembered over restarts.",
    words: "MAINTENANCE",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let on = match arguments {
        [word] if word.eq_ignore_ascii_case("ON") => true,
        [word] if word.eq_ignore_ascii_case("OFF") => false,
        _ => return Err(misread(SYNTAX)),
    };
    let set = acting
        .operations
        .ask(|answer| ProcessRequest::Maintenance(on, answer));
    set.await?.map_err(not_in_state)
}
