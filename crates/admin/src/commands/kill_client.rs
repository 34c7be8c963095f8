//! KILL_CLIENT: one client is ended.

use pgherd_protocol::{PgError, SqlState};
use pgherd_session::ClientId;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "KILL_CLIENT id",
    description: "Cancels what a client runs, rolls back what it has begun, and ends it (57P01). The number is its id in SHOW CLIENTS.",
    words: "KILL_CLIENT",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [number] = arguments else { return Ok(()) };
    let Ok(id) = number.parse() else {
        return Err(PgError::error(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("\"{number}\" is not the number of a client"),
        ));
    };
    if acting.herd.send_away(ClientId(id)) {
        Ok(())
    } else {
        let missing = format!("there is no client {id}");
        Err(PgError::error(SqlState::UNDEFINED_OBJECT, missing).hint("SHOW CLIENTS lists them."))
    }
}
