//! PAUSE: no server connection is lent, and those that are come back and are closed.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing, not_in_state};

pub(super) const DOING: Doing = Doing {
    syntax: "PAUSE [db]",
    description: "Lets queries wait from now on, closes server connections as they come back (at the end of transactions; in mode session and for pinned ones when the client leaves), and returns when all are closed. Cancelled before that, it is taken back. pgherd's own connections stay. RESUME ends it.",
    words: "PAUSE",
    arguments: (0, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let databases = acting.databases(arguments)?;
    let paused: Vec<_> = databases
        .into_iter()
        .filter(|database| !database.pools().is_paused())
        .collect();
    if paused.is_empty() {
        return Err(not_in_state(match arguments.first() {
            Some(name) => format!("database \"{name}\" is paused already"),
            None => "all databases are paused already".to_owned(),
        }));
    }
    for database in &paused {
        database.pools().pause();
    }
    let left = || {
        let counts = paused.iter().map(|database| database.pools().connections());
        counts.sum()
    };
    let done = acting
        .until_none("server connections that clients have", left)
        .await;
    if done.is_err() {
        for database in &paused {
            database.pools().resume();
        }
    }
    done
}
