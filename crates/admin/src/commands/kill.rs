//! KILL: a database's clients are ended, and it is paused.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "KILL db",
    description: "Pauses a database, ends its clients at once as KILL_CLIENT does, and returns when its server connections are closed. New clients wait until RESUME.",
    words: "KILL",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let databases = acting.databases(arguments)?;
    for database in &databases {
        database.pools().pause();
        for client in acting.herd.clients().snapshot() {
            if *client.identity().database == *database.name() {
                acting.herd.send_away(client.id());
            }
        }
    }
    let left = || {
        let counts = databases
            .iter()
            .map(|database| database.pools().connections());
        counts.sum()
    };
    acting
        .until_none("server connections that clients have", left)
        .await
}
