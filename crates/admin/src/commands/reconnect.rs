//! RECONNECT: new connections take the place of those that are open.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "RECONNECT [db]",
    description: "Closes every server connection that is open now, when it comes back. WAIT_CLOSE waits for that.",
    words: "RECONNECT",
    arguments: (0, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    for database in acting.databases(arguments)? {
        database.pools().drain();
    }
    Ok(())
}
