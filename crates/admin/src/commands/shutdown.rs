//! SHUTDOWN: pgherd ends.

use pgherd_protocol::{PgError, SqlState};

use crate::doing::{Acting, Doing};
use crate::operations::{ProcessRequest, Shutdown};

const SYNTAX: &str = "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]";

pub(super) const DOING: Doing = Doing {
    syntax: SYNTAX,
    description: "Ends pgherd at once; with WAIT_FOR_SERVERS as SIGTERM does: nobody new is let in, and clients are ended with their transactions (after listen.drain_timeout in any case); with WAIT_FOR_CLIENTS nobody new is let in, and pgherd ends when the last client has left.",
    words: "SHUTDOWN",
    arguments: (0, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let mode = arguments.first().map(|mode| mode.to_ascii_uppercase());
    let how = match mode.as_deref() {
        None => Shutdown::AtOnce,
        Some("WAIT_FOR_SERVERS") => Shutdown::WaitForServers,
        Some("WAIT_FOR_CLIENTS") => Shutdown::WaitForClients,
        Some(_) => {
            return Err(PgError::error(
                SqlState::SYNTAX_ERROR,
                format!("the command is {SYNTAX}"),
            ));
        }
    };
    acting.operations.tell(ProcessRequest::Shutdown(how)).await
}
