//! From a plan to a shard: this execution's values, hashed and looked up.
//!
//! Owns the decision whether all keys meet on one shard; how one is read is `key_value`'s. Never reads
//! SQL. Allocates only for lists, arrays, and literals with quotes or escapes inside. Main types:
//! [`Values`], [`Destination`].

use pgherd_topology::{BucketId, Location, ShardId, Sharding};

use crate::action::Action;
use crate::literal::Literals;
use crate::plan::{KeyedPlacement, NamedCheck, Placement, StatementPlan};
use crate::rejection::{Rejection, label};
use crate::set_config;

/// The values of one execution.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The query string that [`Planned::literals`](crate::Planned) belongs to.
    pub sql: &'a [u8],
    /// Its literals.
    pub literals: &'a Literals,
    /// The bound parameters; `None` in the simple protocol.
    pub parameters: Option<&'a dyn ParameterSource>,
    /// Whether texts arrive in the servers' own encoding, which is what keys are hashed in.
    pub encoding: ValueEncoding,
}

/// How the client's encoding relates to the servers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueEncoding {
    /// The same: the server stores the bytes that the client sends.
    SameAsServer,
    /// Another: a text with bytes beyond ASCII is refused as a sharding key.
    Converted,
}

/// Where bound parameters are read from: a Bind message.
pub trait ParameterSource {
    /// The parameter, from 0; `None` where the Bind has fewer.
    fn parameter(&self, index: u16) -> Option<ParameterValue<'_>>;
}

/// One bound parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterValue<'a> {
    /// How its bytes are written.
    pub format: ParameterFormat,
    /// The bytes; `None` is NULL.
    pub bytes: Option<&'a [u8]>,
}

/// The two formats of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterFormat {
    /// As the type's input function reads it.
    Text,
    /// As the type's receive function reads it.
    Binary,
}

/// What the client ordered beside the statement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The shard named by `pgherd.shard`, `pgherd.sharding_key` or a leading comment. The plan is to
    /// have been made with [`PlanContext::named_shard`](crate::PlanContext) accordingly.
    pub shard: Option<ShardId>,
    /// `pgherd.unchecked` is on: rows may be put where they do not belong.
    pub unchecked: bool,
}

/// Where one execution goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To no server.
    Nowhere,
    /// To any shard.
    Any,
    /// To this shard.
    Shard(ShardId),
    /// To every shard, all or none.
    All,
    /// To every shard, one after the other.
    EachInTurn,
    /// To the shard where the session's cursor is.
    WhereCursorIs,
}

/// A destination, and the bucket that led there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// Where it goes.
    pub destination: Destination,
    /// The first key's bucket, where the key is hashed.
    pub bucket: Option<BucketId>,
}

impl Resolved {
    fn to(destination: Destination) -> Self {
        Self {
            destination,
            bucket: None,
        }
    }
}

/// A key as EXPLAIN (ROUTE) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyExplanation {
    /// The table whose rule places the key, and its key columns: `public.users (id)`.
    pub key: String,
    /// The values as text, or `binary` where they arrived so.
    pub value: String,
    /// Its bucket, where it is hashed.
    pub bucket: Option<BucketId>,
    /// Its shard.
    pub shard: ShardId,
}

impl StatementPlan {
    /// The destination of one execution.
    ///
    /// # Errors
    /// 0A000 where a key is NULL, cannot be read with certainty, belongs to no shard, or where keys
    /// belong to several shards; also where a row would be written to a named shard that is not its own.
    pub fn resolve(
        &self,
        values: &Values<'_>,
        sharding: &Sharding,
        overrides: Overrides,
    ) -> Result<Resolved, Rejection> {
        if self.checks_clock_words {
            check_clock_words(values)?;
        }
        if let Action::SetConfig(calls) = &self.action {
            set_config::check(calls, values, sharding)?;
        }
        Ok(match &self.placement {
            Placement::Nowhere => Resolved::to(Destination::Nowhere),
            Placement::Any => Resolved::to(Destination::Any),
            Placement::One(shard) => Resolved::to(Destination::Shard(*shard)),
            Placement::All => Resolved::to(Destination::All),
            Placement::EachInTurn => Resolved::to(Destination::EachInTurn),
            Placement::WhereCursorIs => Resolved::to(Destination::WhereCursorIs),
            Placement::Keyed(keyed) => {
                let (shard, bucket) = keyed.resolve(values, sharding)?;
                Resolved {
                    destination: Destination::Shard(shard),
                    bucket,
                }
            }
            Placement::Named(check) => resolve_named(check, values, sharding, overrides)?,
        })
    }

    /// The keys of one execution in words, for EXPLAIN (ROUTE).
    ///
    /// # Errors
    /// As [`StatementPlan::resolve`], but keys of several shards are no error here.
    pub fn explain_keys(
        &self,
        values: &Values<'_>,
        sharding: &Sharding,
    ) -> Result<Vec<KeyExplanation>, Rejection> {
        let keyed = match &self.placement {
            Placement::Keyed(keyed) | Placement::Named(NamedCheck::Keys(keyed)) => keyed,
            Placement::Nowhere
            | Placement::Any
            | Placement::One(_)
            | Placement::All
            | Placement::EachInTurn
            | Placement::WhereCursorIs
            | Placement::Named(
                NamedCheck::Free | NamedCheck::OnlyOn(_) | NamedCheck::Impossible(_),
            ) => {
                return Ok(Vec::new());
            }
        };
        let mut explained = Vec::new();
        for key in &keyed.keys {
            key.locate(values, sharding, |location, texts| {
                let texts: Vec<String> = texts
                    .iter()
                    .zip(&key.columns)
                    .map(|(text, source)| text.in_words(source.key_type))
                    .collect();
                explained.push(KeyExplanation {
                    key: format!("{} ({})", key.rule.table, key.rule.key.join(", ")),
                    value: texts.join(", "),
                    bucket: location.bucket,
                    shard: location.shard,
                });
                Ok(())
            })?;
        }
        Ok(explained)
    }
}

fn resolve_named(
    check: &NamedCheck,
    values: &Values<'_>,
    sharding: &Sharding,
    overrides: Overrides,
) -> Result<Resolved, Rejection> {
    let Some(named) = overrides.shard else {
        return Err(Rejection::unsupported(
            label::STATEMENT,
            "the statement was planned for a named shard, and none is named",
        ));
    };
    let resolved = Resolved::to(Destination::Shard(named));
    if overrides.unchecked {
        return Ok(resolved);
    }
    match check {
        NamedCheck::Free => Ok(resolved),
        NamedCheck::Impossible(rejection) => Err((**rejection).clone()),
        NamedCheck::OnlyOn(home) if *home == named => Ok(resolved),
        NamedCheck::OnlyOn(home) => Err(misplaced(sharding, *home, named)),
        NamedCheck::Keys(keyed) => {
            let (shard, bucket) = keyed.resolve(values, sharding)?;
            if shard == named {
                Ok(Resolved { bucket, ..resolved })
            } else {
                Err(misplaced(sharding, shard, named))
            }
        }
    }
}

fn misplaced(sharding: &Sharding, owner: ShardId, named: ShardId) -> Rejection {
    Rejection::unsupported(
        label::MISPLACED,
        "the row does not belong on the named shard",
    )
    .detail(format!(
        "It lives on shard \"{}\", and \"{}\" is named.",
        shard_name(sharding, owner),
        shard_name(sharding, named),
    ))
    .hint("Name no shard, or SET pgherd.unchecked = on to write it there all the same.")
}

impl KeyedPlacement {
    /// The one shard that all keys give, and the first key's bucket.
    fn resolve(
        &self,
        values: &Values<'_>,
        sharding: &Sharding,
    ) -> Result<(ShardId, Option<BucketId>), Rejection> {
        let mut found: Option<Location> = None;
        for key in &self.keys {
            key.locate(values, sharding, |location, _| match found {
                None => {
                    found = Some(location);
                    Ok(())
                }
                Some(first) if first.shard == location.shard => Ok(()),
                Some(first) => Err(several_shards(sharding, first.shard, location.shard)),
            })?;
        }
        match (found, self.keys.first()) {
            (Some(location), _) => Ok((location.shard, location.bucket)),
            // compared with nothing but NULL, or with an empty array: no row is found, on any shard
            (None, Some(_)) => Ok((ShardId(0), None)),
            (None, None) => Err(Rejection::unsupported(
                label::NO_KEY,
                "the statement has no sharding key",
            )),
        }
    }
}
/// Refuses literals and text parameters that the input functions of dates and times read as the
/// moment of the statement.
fn check_clock_words(values: &Values<'_>) -> Result<(), Rejection> {
    let reads_clock = |text: &[u8]| {
        let text = text.trim_ascii();
        [&b"now"[..], b"today", b"tomorrow", b"yesterday"]
            .iter()
            .any(|word| {
                text.get(..word.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(word))
            })
    };
    let literal = values.literals.iter().any(|literal| {
        literal
            .value(values.sql)
            .is_some_and(|value| reads_clock(&value))
    });
    let parameter = values.parameters.is_some_and(|parameters| {
        (0..u16::MAX)
            .map_while(|index| parameters.parameter(index))
            .any(|parameter| {
                parameter.format == ParameterFormat::Text
                    && parameter.bytes.is_some_and(reads_clock)
            })
    });
    if literal || parameter {
        return Err(Rejection::unsupported(
            label::REFERENCE_WRITE,
            "the copies of a reference table would differ",
        )
        .detail("A text such as 'now' or 'today' is read by each shard at its own time.")
        .hint("Send the time itself."));
    }
    Ok(())
}

fn several_shards(sharding: &Sharding, one: ShardId, other: ShardId) -> Rejection {
    Rejection::unsupported(
        label::SEVERAL_SHARDS,
        "the statement concerns rows of several shards",
    )
    .detail(format!(
        "Its sharding keys live on shards \"{}\" and \"{}\".",
        shard_name(sharding, one),
        shard_name(sharding, other),
    ))
    .hint("Send one statement for each shard's keys.")
}

fn shard_name(sharding: &Sharding, shard: ShardId) -> &str {
    sharding
        .shards()
        .get(shard.index())
        .map_or("?", |name| name)
}
