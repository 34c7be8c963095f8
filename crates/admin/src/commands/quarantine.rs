//! QUARANTINE SERVER: nothing is expected of a standby.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "QUARANTINE SERVER server",
    description: "Neither reads from a standby nor counts on its acknowledgements any more, and never promotes it, until RELEASE SERVER. It is remembered over restarts.",
    words: "QUARANTINE SERVER",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [server] = arguments else { return Ok(()) };
    let quarantine = FailoverCommand::Quarantine {
        server: server.as_str().into(),
    };
    acting.order_about(server, quarantine).await
}
