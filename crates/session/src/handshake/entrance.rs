//! Where a startup message leads, and whom it names there.
//!
//! Owns: which database, the console or nothing a name stands for, and where a user of it is found. Never does: finding out whether the client is
//! that user (see `authentication`). Main functions: [`find_entrance`], [`find_user`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::{PgError, SqlState};
use tokio::time::timeout;

use crate::herd::{Database, Herd, OnDemand};
use crate::lookup::{Looked, UserLookup};
use crate::users::User;

/// How long a login waits for the first catalog of a database that it had made.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(5);

/// What a startup message leads to.
pub(super) enum Entrance {
    Application(Arc<Database>),
    /// A database that is made for who may use it.
    OnDemand(Arc<OnDemand>),
    Console,
    /// A database that is not there.
    Nowhere,
}

/// As Postgres words it.
pub(super) fn no_database(name: &str) -> PgError {
    PgError::fatal(
        SqlState::INVALID_CATALOG_NAME,
        format!("database \"{name}\" does not exist"),
    )
}

/// A database that was just made knows its tables and functions in a moment; until then it could not tell what they leave behind.
pub(super) async fn wait_for_catalog(database: &Database) -> Result<(), PgError> {
    if database.catalog_version() > 0 {
        return Ok(());
    }
    let mut catalogs = database.watch_catalog();
    let read = catalogs.wait_for(|catalog| catalog.version() > 0);
    match timeout(CATALOG_TIMEOUT, read).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(PgError::fatal(
            SqlState::CANNOT_CONNECT_NOW,
            format!(
                "the catalog of database \"{}\" could not be read",
                database.name()
            ),
        )
        .hint("Try again; pgherd's log says what is wrong.")),
    }
}

pub(super) fn find_entrance(herd: &Herd, database: &str) -> Entrance {
    if let Some(database) = herd.database(database) {
        Entrance::Application(database)
    } else if herd.console().is_named(database) {
        Entrance::Console
    } else if let Some(on_demand) = herd.on_demand() {
        Entrance::OnDemand(on_demand)
    } else {
        Entrance::Nowhere
    }
}

/// Where physical replication leads, which is of a whole server: clients name any database then, `replication` as a rule. It is that of
/// the only database where there is none of that name.
pub(super) fn find_entrance_of_server(herd: &Herd, database: &str) -> Entrance {
    let databases = herd.databases();
    match find_entrance(herd, database) {
        named @ (Entrance::Application(_) | Entrance::Console) => named,
        _ if databases.len() == 1 => databases.values().next().map_or(Entrance::Nowhere, |only| {
            Entrance::Application(Arc::clone(only))
        }),
        Entrance::OnDemand(maker) => Entrance::Application(Arc::clone(maker.template())),
        Entrance::Nowhere => Entrance::Nowhere,
    }
}

/// A user, and where it was found if no configuration names it.
pub(super) type Found = (Option<Arc<User>>, Option<(Arc<UserLookup>, Looked)>);

/// The user of a name where it wants to go. Where there is no such database, one of another: a role is a whole server's in Postgres,
/// and who has one is told that the database is missing.
pub(super) async fn find_user(
    herd: &Herd,
    entrance: &Entrance,
    name: &str,
) -> Result<Found, PgError> {
    match entrance {
        Entrance::Application(database) => find_user_of(database, name).await,
        Entrance::OnDemand(on_demand) => find_user_of(on_demand.template(), name).await,
        Entrance::Console => Ok((herd.console().users.find(name).cloned(), None)),
        Entrance::Nowhere => {
            let databases = herd.databases();
            let mut databases: Vec<_> = databases.values().collect();
            databases.sort_unstable_by_key(|database| database.name());
            for database in databases {
                let found = find_user_of(database, name).await?;
                if found.0.is_some() {
                    return Ok(found);
                }
            }
            Ok((None, None))
        }
    }
}

async fn find_user_of(database: &Database, name: &str) -> Result<Found, PgError> {
    if let Some(user) = database.users().find(name) {
        return Ok((Some(Arc::clone(user)), None));
    }
    let Some(lookup) = database.lookup() else {
        return Ok((None, None));
    };
    Ok(match lookup.find(name).await? {
        Some(looked) => (Some(Arc::clone(&looked.user)), Some((lookup, looked))),
        None => (None, None),
    })
}
