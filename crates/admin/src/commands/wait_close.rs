//! WAIT_CLOSE: until what RECONNECT or RELOAD made outdated is closed.

use pgherd_protocol::PgError;

use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "WAIT_CLOSE [db]",
    description: "Waits until the server connections are closed that RECONNECT, or RELOAD with other settings, has made outdated.",
    words: "WAIT_CLOSE",
    arguments: (0, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let databases = acting.databases(arguments)?;
    let left = || {
        let counts = databases.iter().map(|database| database.pools().outdated());
        counts.sum()
    };
    acting.until_none("outdated server connections", left).await
}
