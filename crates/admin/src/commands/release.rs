//! RELEASE SERVER: the end of a quarantine.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "RELEASE SERVER server",
    description: "Ends the quarantine of a server. A deposed primary is released by itself once it streams from the primary.",
    words: "RELEASE SERVER",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [server] = arguments else { return Ok(()) };
    let release = FailoverCommand::Release {
        server: server.as_str().into(),
    };
    acting.order_about(server, release).await
}
