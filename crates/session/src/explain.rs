//! EXPLAIN (ROUTE): where a statement goes, and why, without running it; with ANALYZE also how long each leg took.
//!
//! Owns: the lines. Never does: planning other than a real request would. Main function: [`Session::explain_route`].

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use pgherd_router::{Access, ParameterSource, Planned};
use pgherd_topology::{NodeId, Role, ShardId};

use crate::failure::{Failure, not_supported};
use crate::own::Trouble;
use crate::route::{Place, Route};
use crate::script::{Audience, Reply, Script};
use crate::session::Session;
use crate::set_config::Executed;
use crate::simple::definition;

impl Session {
    /// The lines of an explanation. The statement is planned as it would be by itself.
    ///
    /// # Errors
    /// The rejection that the statement itself would meet, and, with `analyze`, what its server says.
    pub(crate) async fn explain_route(
        &mut self,
        sql: &str,
        outer: &Planned,
        analyze: bool,
        parameters: Option<&(dyn ParameterSource + Sync)>,
    ) -> Result<Vec<String>, Failure> {
        let mut planned = self.plan(sql, &[]).await?;
        if planned.hint.is_none() {
            planned.hint.clone_from(&outer.hint);
        }
        let plan = std::sync::Arc::clone(&planned.plan);
        let [statement] = plan.statements.as_slice() else {
            return Err(not_supported(
                "EXPLAIN (ROUTE) takes one statement",
                "The text holds none or several.",
                "Explain them one by one.",
            ));
        };
        let route = self.place(statement, &planned, sql, parameters)?;
        let mut lines = vec![format!("Plan: {}", statement.class().as_str())];
        let shards = match route.place {
            Place::Nowhere => Vec::new(),
            Place::Any => vec![self.any_shard()],
            Place::Shard(shard) => vec![shard],
            Place::All | Place::EachInTurn => self.shards(),
        };
        lines.push(self.shards_line(&shards, route.place));
        lines.push(format!("Role: {}", self.role_line(&route, &shards)));
        let sharding = self.sharding();
        let keys = {
            let values = self.values(&planned, sql, parameters);
            statement.explain_keys(&values, &sharding)?
        };
        for key in keys {
            let bucket = key
                .bucket
                .map(|bucket| format!(", bucket {}", bucket.0))
                .unwrap_or_default();
            lines.push(format!("Key: {} = {}{bucket}", key.key, key.value));
        }
        lines.push(format!(
            "Cached: {}",
            if planned.cached { "yes" } else { "no" }
        ));
        lines.push(format!("Reason: {}", statement.reason));
        if analyze {
            self.analyze(sql, &planned, &route, &shards, &mut lines)
                .await?;
        }
        Ok(lines)
    }

    fn shards_line(&self, shards: &[ShardId], place: Place) -> String {
        let sharding = self.sharding();
        let names: Vec<&str> = shards
            .iter()
            .map(|&shard| sharding.shard_name(shard))
            .collect();
        match place {
            Place::Nowhere => "Shard: none, pgherd answers".to_owned(),
            Place::Any => format!("Shard: any, now {}", names.join(", ")),
            Place::Shard(_) => format!("Shard: {}", names.join(", ")),
            Place::All => format!("Shards: {} (all or none)", names.join(", ")),
            Place::EachInTurn => format!("Shards: {} (one after the other)", names.join(", ")),
        }
    }

    fn role_line(&mut self, route: &Route, shards: &[ShardId]) -> String {
        if route.place == Place::Nowhere {
            return "none".to_owned();
        }
        match shards {
            [shard] if route.access == Access::Read => match self.would_serve(*shard) {
                Some((name, Role::Replica)) => format!("replica (now {name})"),
                Some((name, Role::Primary | Role::Unknown)) => {
                    format!("primary (now {name}), though a replica may serve it")
                }
                None => "replica".to_owned(),
            },
            _ => "primary".to_owned(),
        }
    }

    async fn analyze(
        &mut self,
        sql: &str,
        planned: &Planned,
        route: &Route,
        shards: &[ShardId],
        lines: &mut Vec<String>,
    ) -> Result<(), Failure> {
        match route.place {
            Place::Any | Place::Shard(_) => {}
            Place::All => return self.analyze_everywhere(sql, planned, lines).await,
            Place::Nowhere | Place::EachInTurn => {
                return Err(not_supported(
                    "EXPLAIN (ROUTE, ANALYZE) runs what reaches one shard, or all of them in one transaction",
                    "This statement reaches none, or one after the other.",
                    "Leave ANALYZE out.",
                ));
            }
        }
        let Some(&shard) = shards.first() else {
            return Ok(());
        };
        self.check_writer(shard, route.access, &planned.plan.statements)?;
        let node = self.leg_for(shard, route.access, route).await?;
        let mut script = std::mem::take(&mut self.script);
        let statements = planned.plan.statements.iter();
        self.note_beginning(node, &mut script, statements)?;
        self.script = script;
        let begun = Instant::now();
        let answer = match self.execute(node, sql).await {
            Ok(answer) => answer,
            Err(trouble) => {
                if let (Trouble::Refused(_), Some(_)) = (&trouble, &self.block) {
                    self.fail_block();
                }
                return Err(trouble.into());
            }
        };
        let took = begun.elapsed();
        if let Some(statement) = planned.plan.statements.first() {
            self.note_effects(statement, sql, node);
            let executed = Executed {
                statement,
                planned,
                sql,
                parameters: None,
            };
            self.note_set_config(&executed, None, node);
        }
        self.tokens.observe(shard, node, Instant::now());
        let sharding = self.sharding();
        let server = self.legs.at(node).connection.server().name.to_owned();
        lines.push(format!(
            "Leg: {} on {server}, {} rows, {:.3} ms",
            sharding.shard_name(shard),
            answer.rows,
            took.as_secs_f64() * 1000.0
        ));
        Ok(())
    }

    /// Runs a statement on every shard, all or none; the last leg's time has the commit in it.
    async fn analyze_everywhere(
        &mut self,
        sql: &str,
        planned: &Planned,
        lines: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let statements = &planned.plan.statements;
        self.check_writer_everywhere(sql)?;
        let definitions: Vec<_> = statements.iter().filter_map(definition).cloned().collect();
        let begun: Mutex<Vec<(String, String, Instant)>> = Mutex::default();
        let queue = |session: &mut Self, node: NodeId, script: &mut Script| {
            let sharding = session.sharding();
            let leg = session.legs.at(node);
            let shard = sharding.shard_name(leg.shard).to_owned();
            let server = leg.connection.server().name.to_string();
            let now = Instant::now();
            begun
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((shard, server, now));
            leg.queue_query(sql)?;
            script.expect(Reply::Query, Audience::Client);
            Ok(())
        };
        let (_, outcome) = self.everywhere(&definitions, queue).await?;
        if let Some(error) = outcome.error {
            return Err(error.into());
        }
        for statement in statements {
            self.note_catalog(statement);
        }
        let begun = begun.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ends = begun.iter().skip(1).map(|(_, _, next)| *next);
        for ((shard, server, start), end) in begun.iter().zip(ends.chain([Instant::now()])) {
            let took = end.duration_since(*start).as_secs_f64() * 1000.0;
            lines.push(format!("Leg: {shard} on {server}, {took:.3} ms"));
        }
        Ok(())
    }
}
