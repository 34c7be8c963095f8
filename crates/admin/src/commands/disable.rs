//! DISABLE: no new clients are let into a database.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "DISABLE db",
    description: "Lets no new clients into a database (55000); those connected stay.",
    words: "DISABLE",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    for database in acting.databases(arguments)? {
        database.set_disabled(true);
    }
    Ok(())
}
