//! Pools that are to hold connections before anybody asks.
//!
//! Owns: which users and servers those are. Never opens a connection: the pools do. Main function: [`keep_warm`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use pgherd_pool::{Target, UserLogin};
use pgherd_protocol::Credential;
use pgherd_session::Database;
use pgherd_topology::Health;

/// How often it is looked for servers that have come back, and users that are new.
const PACE: Duration = Duration::from_secs(1);

/// Makes the pools known that `pool.min` asks for, until the database is gone.
pub(super) async fn keep_warm(database: Weak<Database>) {
    loop {
        match database.upgrade() {
            Some(database) => warm(&database),
            None => return,
        }
        tokio::time::sleep(PACE).await;
    }
}

fn warm(database: &Database) {
    let settings = database.pools().settings();
    for login in logins(database) {
        if settings.min_of(&login.name) == 0 {
            continue;
        }
        for shard in &database.topology().shards {
            for node in shard.nodes.iter().filter(|node| node.health == Health::Up) {
                database.pools().warm(&login, &Target::new(shard, node));
            }
        }
    }
}

/// Those whose credential is known before they log in: the one for all, or users with a plain password.
fn logins(database: &Database) -> Vec<Arc<UserLogin>> {
    if let Some(login) = database.shared_server_login() {
        return vec![login];
    }
    let users = database.users();
    let known = users.iter().filter_map(|user| {
        let password = user.server_password.clone()?;
        Some(Arc::new(UserLogin {
            name: user.name.clone(),
            credential: Credential::Password(password),
        }))
    });
    known.collect()
}
