//! Statements that pgherd answers itself: its own settings, DISCARD ALL, EXPLAIN (ROUTE), and transaction control while no single
//! server can.
//!
//! Owns: their answers. Never does: relaying. Main function: [`Session::answer_locally`].

use bytes::BytesMut;
use pgherd_protocol::{PgError, ResultSet, Severity, SqlState, oid};
use pgherd_router::{
    Action, OverrideName, ParameterSource, Planned, SettingAction, SettingScope, SettingValue,
    StatementPlan,
};
use pgherd_topology::{Epoch, Lsn, Sharding};

use tokio::time::{Duration, Instant, sleep};

use crate::block::{complete, is_control};
use crate::failure::{Failure, block_failed};
use crate::parameters::is_own_setting;
use crate::route::unknown_shard;
use crate::session::Session;
use crate::settings::{Overrides, WantedRole};
use crate::temporary::Temporary;

/// How long SHOW pgherd.token waits for samples.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether no server is ever sent this.
pub fn is_local(action: &Action) -> bool {
    match action {
        Action::Set(setting) => setting.override_name.is_some(),
        Action::ShowOverride(_) | Action::DiscardAll | Action::ExplainRoute { .. } => true,
        _ => false,
    }
}

/// The columns that a local statement answers with; `None` for none.
pub fn description(action: &Action) -> Option<ResultSet> {
    match action {
        Action::ShowOverride(name) => Some(ResultSet::new(&[(name.as_str(), oid::TEXT)])),
        Action::ExplainRoute { .. } => Some(ResultSet::new(&[("QUERY PLAN", oid::TEXT)])),
        _ => None,
    }
}

impl Session {
    /// Answers a statement. Returns the replies without ReadyForQuery, with RowDescription where there are rows.
    ///
    /// # Errors
    /// 25P02 in a failed block, 22023 for values that make no sense, and what EXPLAIN (ROUTE, ANALYZE) meets.
    pub(crate) async fn answer_locally(
        &mut self,
        statement: &StatementPlan,
        planned: &Planned,
        sql: &str,
        parameters: Option<&(dyn ParameterSource + Sync)>,
    ) -> Result<BytesMut, Failure> {
        if is_control(&statement.action) {
            return self.control(&statement.action, sql).await;
        }
        if self.block.as_ref().is_some_and(|block| block.failed) {
            return Err(block_failed());
        }
        let mut out = BytesMut::new();
        match &statement.action {
            Action::Set(setting) => {
                self.set_override(setting)?;
                complete(
                    &mut out,
                    if setting.value == SettingValue::Default {
                        "RESET"
                    } else {
                        "SET"
                    },
                );
            }
            Action::ShowOverride(name) => {
                let value = self.shown(*name).await;
                let mut rows = ResultSet::new(&[(name.as_str(), oid::TEXT)]);
                rows.row(&[Some(&value)]);
                rows.encode(&mut out, "SHOW")?;
            }
            Action::DiscardAll => {
                if self.block.is_some() {
                    return Err(PgError::error(
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "DISCARD ALL cannot run inside a transaction block",
                    )
                    .into());
                }
                self.discard_all().await;
                complete(&mut out, "DISCARD ALL");
            }
            Action::Deallocate(Some(name)) => {
                self.statements.close(name.as_bytes());
                complete(&mut out, "DEALLOCATE");
            }
            Action::Deallocate(None) => {
                self.statements.clear_named();
                complete(&mut out, "DEALLOCATE ALL");
            }
            Action::ExplainRoute { analyze, statement } => {
                let inner = sql
                    .get(statement.start as usize..statement.end as usize)
                    .unwrap_or_default();
                let lines =
                    Box::pin(self.explain_route(inner, planned, *analyze, parameters)).await?;
                let mut rows = ResultSet::new(&[("QUERY PLAN", oid::TEXT)]);
                for line in &lines {
                    rows.row(&[Some(line)]);
                }
                rows.encode(&mut out, "EXPLAIN")?;
            }
            other => {
                return Err(PgError::error(
                    SqlState::INTERNAL_ERROR,
                    format!("{other:?} is for a server"),
                )
                .into());
            }
        }
        Ok(out)
    }

    /// Whether a statement is DEALLOCATE of one that pgherd knows, and so must forget: which servers have it is for pgherd to know.
    pub(crate) fn deallocates_known(&self, action: &Action) -> bool {
        match action {
            Action::Deallocate(Some(name)) => self.statements.statement(name.as_bytes()).is_some(),
            Action::Deallocate(None) => true,
            _ => false,
        }
    }

    /// Everything the session has left anywhere is gone: the connections that held it are reset.
    async fn discard_all(&mut self) {
        self.legs.reset_all().await;
        self.unlisten_all();
        self.statements.clear();
        self.temporary = Temporary::None;
        self.cursors.clear();
        self.settings.clear();
        self.begin_settings();
        self.begin_overrides_again();
    }

    pub(crate) fn set_override(&mut self, setting: &SettingAction) -> Result<(), Failure> {
        let Some(name) = setting.override_name else {
            return Ok(());
        };
        let value = match &setting.value {
            SettingValue::Default => None,
            SettingValue::Texts(texts) => match texts.as_ref() {
                [text] if text.is_empty() => None,
                [text] => Some(text.as_ref()),
                _ => return Err(invalid(name, "takes one value")),
            },
            SettingValue::Opaque => return Err(invalid(name, "takes a plain value")),
        };
        let local = setting.scope == SettingScope::Local;
        let change: Box<dyn Fn(&mut Overrides)> = match name {
            OverrideName::Shard => {
                let sharding = self.sharding();
                let shard = match value {
                    None => None,
                    Some(shard) => Some(
                        sharding
                            .shard_by_name(shard)
                            .ok_or_else(|| unknown_shard(shard))?,
                    ),
                };
                Box::new(move |overrides| overrides.shard = shard)
            }
            OverrideName::ShardingKey => {
                let key: Option<Box<str>> = value.map(Into::into);
                Box::new(move |overrides| overrides.sharding_key.clone_from(&key))
            }
            OverrideName::Role => {
                let role = match value {
                    None => None,
                    Some("primary") => Some(WantedRole::Primary),
                    Some("replica") => Some(WantedRole::Replica),
                    Some(_) => return Err(invalid(name, "is \"primary\" or \"replica\"")),
                };
                Box::new(move |overrides| overrides.role = role)
            }
            OverrideName::Unchecked => {
                let unchecked = match value {
                    None | Some("off" | "false" | "no" | "0") => false,
                    Some("on" | "true" | "yes" | "1") => true,
                    Some(_) => return Err(invalid(name, "is on or off")),
                };
                Box::new(move |overrides| overrides.unchecked = unchecked)
            }
            OverrideName::Token => {
                // a token never goes back: it is a promise to this client, not a setting
                return match value {
                    None => Ok(()),
                    Some(token) => self.raise_token(token),
                };
            }
        };
        if local && self.block.is_none() {
            return Ok(());
        }
        self.settings.override_with(local, change);
        Ok(())
    }

    async fn shown(&mut self, name: OverrideName) -> String {
        let overrides = self.settings.overrides();
        match name {
            OverrideName::Shard => {
                let sharding = self.sharding();
                overrides
                    .shard
                    .map(|shard| sharding.shard_name(shard).to_owned())
                    .unwrap_or_default()
            }
            OverrideName::ShardingKey => overrides
                .sharding_key
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            OverrideName::Role => match overrides.role {
                None => String::new(),
                Some(WantedRole::Primary) => "primary".to_owned(),
                Some(WantedRole::Replica) => "replica".to_owned(),
            },
            OverrideName::Unchecked => if overrides.unchecked { "on" } else { "off" }.to_owned(),
            OverrideName::Token => self.token_text().await,
        }
    }

    /// `shard=epoch@LSN` for each shard that something was seen of: what another connection must not fall behind. Waits for the
    /// samples that tell the LSN of what was seen last; where none comes (the server is gone) that part is left out.
    async fn token_text(&mut self) -> String {
        let begun = Instant::now();
        loop {
            let topology = self.topology();
            let mut settled = true;
            let mut parts = Vec::new();
            for shard in &topology.shards {
                settled &= self.tokens.is_settled(shard);
                if let Some((epoch, lsn)) = self.tokens.settle(shard) {
                    parts.push(format!("{}={}@{lsn}", shard.name, epoch.0));
                }
            }
            if settled || begun.elapsed() >= SAMPLE_PATIENCE {
                return parts.join(",");
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn raise_token(&mut self, token: &str) -> Result<(), Failure> {
        let topology = self.topology();
        let mut raised = Vec::new();
        for part in token
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let parsed = part.split_once('=').and_then(|(name, position)| {
                let (epoch, lsn) = position.split_once('@')?;
                let shard = topology.shard_by_name(name)?.id;
                Some((shard, Epoch(epoch.parse().ok()?), lsn.parse::<Lsn>().ok()?))
            });
            raised.push(parsed.ok_or_else(|| {
                invalid(OverrideName::Token, "is what SHOW pgherd.token printed")
            })?);
        }
        for (shard, epoch, lsn) in raised {
            self.tokens.raise(shard, epoch, lsn);
        }
        Ok(())
    }
}

/// Refuses a startup message with a setting of pgherd's own that there is not, or with a shard that there is not.
///
/// # Errors
/// 42704, 22023.
pub fn check_startup(settings: &[(String, String)], sharding: &Sharding) -> Result<(), PgError> {
    for (name, value) in settings.iter().filter(|(name, _)| is_own_setting(name)) {
        let refusal = match OverrideName::from_setting(&name.to_ascii_lowercase()) {
            None => PgError::error(
                SqlState::UNDEFINED_OBJECT,
                format!("unrecognized configuration parameter \"{name}\""),
            ),
            Some(OverrideName::Shard) if sharding.shard_by_name(value).is_none() => {
                unknown_shard(value)
            }
            Some(_) => continue,
        };
        return Err(PgError {
            severity: Severity::Fatal,
            ..refusal
        });
    }
    Ok(())
}

fn invalid(name: OverrideName, what: &str) -> Failure {
    PgError::error(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for \"{}\": it {what}", name.as_str()),
    )
    .into()
}
