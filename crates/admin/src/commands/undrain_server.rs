//! UNDRAIN SERVER: reads go to a server again.

use std::sync::atomic::Ordering;

use pgherd_protocol::PgError;

use super::drain_server::servers;
use crate::doing::{Acting, Doing};

pub(super) const DOING: Doing = Doing {
    syntax: "UNDRAIN SERVER server",
    description: "Sends reads to a server again that DRAIN SERVER has taken them from.",
    words: "UNDRAIN SERVER",
    arguments: (1, 1),
    run: |acting, arguments| Box::pin(run(acting, arguments)),
};

async fn run(acting: &mut Acting<'_>, arguments: &[String]) -> Result<(), PgError> {
    let [name] = arguments else { return Ok(()) };
    for (_, _, node) in servers(acting, name)? {
        node.drained.store(false, Ordering::Relaxed);
    }
    Ok(())
}
