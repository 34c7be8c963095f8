//! ENABLE: clients are let into a database again.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "ENABLE db",
    description: "Lets clients into a database again that DISABLE has closed.",
    words: "ENABLE",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    for database in acting.databases(arguments)? {
        database.set_disabled(false);
    }
    Ok(())
}
