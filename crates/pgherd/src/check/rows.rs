//! `pgherd check --rows`: does every row lie on the shard that owns its key?
//!
//! Owns what is said about what [`pgherd_control::check_rows`] finds. Moves nothing. Main function: [`check_rows`].

use std::sync::Arc;

use pgherd_control::{ControlSettings, FileStore, MisplacedRows, State};
use pgherd_topology::ShardingFunction;
use pgherd_topology::commit_protocol::{InFlight, ProxyId};

use super::Findings;
use crate::config::settings::{Config, Database};
use crate::serve::{AssembleError, placement, translate};

/// Reads the keys of every sharded table on every shard. Takes as long as that takes.
///
/// # Errors
/// [`AssembleError`] where the state cannot be read; what servers refuse is in the findings.
pub async fn check_rows(config: &Config) -> Result<Findings, AssembleError> {
    let mut findings = Findings::default();
    if !config.state_file.exists() {
        findings.error(format!(
            "there is no {}: nothing was served with this configuration yet",
            config.state_file.display()
        ));
        return Ok(findings);
    }
    let store = FileStore::read_only(config.state_file.clone());
    let (state, _) = State::load_or_create(Box::new(store))?;
    let state = Arc::new(state);
    let own = |database: &&Database| database.like.is_none();
    for database in config.databases.iter().filter(own) {
        if database.sharding.tables.is_empty() {
            findings.line(format!("{}: no table is sharded", database.name));
            continue;
        }
        check_database(database, &state, &mut findings).await?;
    }
    Ok(findings)
}

async fn check_database(
    database: &Database,
    state: &Arc<State>,
    findings: &mut Findings,
) -> Result<(), AssembleError> {
    let hashed = database
        .sharding
        .tables
        .iter()
        .any(|rule| rule.function == ShardingFunction::Hash);
    if hashed && state.buckets(&database.name).is_none() {
        findings.error(format!(
            "{}: no bucket table is stored: this database was not served yet",
            database.name
        ));
        return Ok(());
    }
    let settings = control_settings(database, state)?;
    match pgherd_control::check_rows(&settings).await {
        Ok(misplaced) if misplaced.is_empty() => {
            findings.line(format!(
                "{}: every row lies on the shard that owns its key",
                database.name
            ));
        }
        Ok(misplaced) => misplaced
            .iter()
            .for_each(|rows| findings.error(describe(database, rows))),
        Err(error) => findings.error(format!("{}: {error}", database.name)),
    }
    Ok(())
}

fn describe(database: &Database, rows: &MisplacedRows) -> String {
    let samples: Vec<String> = rows
        .samples
        .iter()
        .map(|sample| match &sample.owner {
            Some(owner) => format!("{} (belongs to {owner})", sample.key),
            None => format!("{} (no shard owns it)", sample.key),
        })
        .collect();
    format!(
        "{}: {} rows of {} on shard {} belong elsewhere, keys: {}",
        database.name,
        rows.count,
        rows.table,
        rows.shard_name,
        samples.join(", ")
    )
}

/// What a look at the servers takes, without a control plane that runs.
///
/// # Errors
/// [`AssembleError`] where a certificate cannot be read, or the stored buckets do not fit.
pub(super) fn control_settings(
    database: &Database,
    state: &Arc<State>,
) -> Result<ControlSettings, AssembleError> {
    let sharding = Arc::new(placement::sharding(database, state)?);
    let proxy = ProxyId(rand::random());
    translate::control_settings(database, state, sharding, proxy, InFlight::default())
}
