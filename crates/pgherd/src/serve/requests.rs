//! What sessions ask of the control plane, which they never see.
//!
//! Owns the tasks between the two: each takes questions from a channel of the session's and has control answer. They end with who asks.

use std::sync::Arc;

use pgherd_control::{CatalogReloader, RoleLookup};
use pgherd_session::{CatalogRequests, FoundRole, LookupRequest, UserLookup};

use crate::config::settings;

/// Requests for a newer catalog; `end` comes once nobody can ask any more.
pub(super) fn catalog_requests(
    reloader: CatalogReloader,
    end: impl Future<Output = ()> + Send + 'static,
) -> CatalogRequests {
    let (requests, mut asked) = CatalogRequests::channel();
    tokio::spawn(async move {
        while let Some(answer) = asked.recv().await {
            let reloader = reloader.clone();
            tokio::spawn(async move {
                match reloader.reload().await {
                    // who asked may have stopped waiting
                    Ok(()) => drop(answer.send(())),
                    Err(error) => tracing::warn!(%error, "the catalog could not be read again"),
                }
            });
        }
        end.await;
    });
    requests
}

/// Questions about users that the configuration does not name.
pub(super) fn user_lookup(lookup: RoleLookup, database: &settings::Database) -> UserLookup {
    let cache = database.auth.as_ref().map(|auth| auth.cache);
    let (requests, mut asked) = UserLookup::channel(cache.unwrap_or_default());
    let lookup = Arc::new(lookup);
    let name = database.name.clone();
    tokio::spawn(async move {
        while let Some(LookupRequest { user, answer }) = asked.recv().await {
            let (lookup, name) = (Arc::clone(&lookup), name.clone());
            tokio::spawn(async move {
                match lookup.password(&user).await {
                    Ok(found) => drop(answer.send(found.map(|password| FoundRole { password }))),
                    Err(error) => tracing::error!(
                        database = &*name,
                        %error,
                        "the servers could not be asked about a user"
                    ),
                }
            });
        }
    });
    requests
}
