//! REJOIN SERVER: a deposed primary becomes a standby.

use pgherd_control::FailoverCommand;
use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "REJOIN SERVER server",
    description: "Has a server that was deposed follow the primary, by the database's failover.rejoin_command, and returns when it streams.",
    words: "REJOIN SERVER",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [server] = arguments else { return Ok(()) };
    let rejoin = FailoverCommand::Rejoin {
        server: server.as_str().into(),
    };
    acting.order_about(server, rejoin).await
}
