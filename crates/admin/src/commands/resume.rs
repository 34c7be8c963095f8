//! RESUME: what PAUSE or KILL stopped goes on.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing, not_in_state};

pub(super) const DOING: Doing = Doing {
    syntax: "RESUME [db]",
    description: "Ends PAUSE: those who have waited come first.",
    words: "RESUME",
    arguments: (0, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let mut resumed = 0;
    for database in acting.databases(arguments)? {
        if database.pools().is_paused() {
            database.pools().resume();
            resumed += 1;
        }
    }
    if resumed == 0 {
        return Err(not_in_state(match arguments.first() {
            Some(name) => format!("database \"{name}\" is not paused"),
            None => "no database is paused".to_owned(),
        }));
    }
    Ok(())
}
