//! The way in: a query string and its context to a plan, from the cache where one holds.
//!
//! Owns the cache and what its key is made of. Never decides a placement itself: that is
//! `statement`'s. Main types: [`Planner`], [`PlanContext`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgherd_topology::{Catalog, Sharding};
use smallvec::smallvec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::action::Action;
use crate::cache::{Looked, PlanCache};
use crate::fingerprint::{Scan, ScanError};
use crate::hint::Hint;
use crate::lexer::BackslashReading;
use crate::literal::Literals;
use crate::meaning::{ClientEncoding, SettingsDigest};
use crate::plan::{Access, Placement, PlanClass, Planned, QueryPlan, Residue, Span, StatementPlan};
use crate::rejection::{Rejection, label};
use crate::statement;

/// What a text's meaning depends on beside the text. All of it is part of the cache's key.
#[derive(Debug, Clone, Copy)]
pub struct PlanContext<'a> {
    /// The database as clients name it.
    pub database: &'a str,
    /// The rules of this moment. [`StatementPlan::resolve`] may be given later ones.
    pub sharding: &'a Sharding,
    /// Rises whenever the rules of `sharding` change; its table of buckets may change without.
    pub rules_version: u64,
    /// The catalog of this moment; its version is part of the key.
    pub catalog: &'a Catalog,
    /// The schemas searched for unqualified names, in order, `"$user"` resolved or left out.
    /// `pg_catalog` comes first unless it is among them.
    pub search_path: &'a [Box<str>],
    /// The session's `standard_conforming_strings`.
    pub backslash: BackslashReading,
    /// The role whose rights and policies hold.
    pub role: &'a str,
    /// The settings that change what the text means.
    pub settings: SettingsDigest,
    /// Whether the text can be read by bytes.
    pub encoding: ClientEncoding,
    /// The types that Parse declared, by parameter; 0 or absent where it left them open.
    pub parameter_types: &'a [u32],
    /// The client named a shard by `SET pgherd.shard` or `pgherd.sharding_key`. A leading comment
    /// that names one counts by itself.
    pub named_shard: bool,
}

/// The part of a cache key that a context gives, and how texts are read under it. It holds for as long as nothing that it was made of changes;
/// what a text itself brings (the types that Parse declared, whether a shard is named) is not in it.
#[derive(Debug, Clone)]
pub struct ContextKey {
    bytes: Box<[u8]>,
    backslash: BackslashReading,
    /// Only ASCII can be read.
    ascii_only: bool,
}

/// Plans query strings. Shared by all sessions of a database; cheap to call at once from many threads.
#[derive(Debug)]
pub struct Planner {
    cache: PlanCache,
}

/// One cached plan, for SHOW PLANS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSnapshot {
    /// The fingerprint, as 32 hexadecimal digits.
    pub fingerprint: String,
    /// The text with its literals replaced by `?`, at most 200 bytes of it.
    pub text: Box<str>,
    /// How often it was found since it was made.
    pub hits: u64,
    /// The class of each statement.
    pub classes: Vec<PlanClass>,
    /// The reason given for the first statement.
    pub reason: Box<str>,
}

impl Planner {
    /// A planner whose cache holds about `capacity` plans of ordinary length.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            cache: PlanCache::new(capacity),
        }
    }

    /// Plans a query string: the body of a Query or Parse message, without its zero byte.
    ///
    /// # Errors
    /// [`Rejection`]: 0A000 for what is not proven, or is in an encoding that cannot be read by
    /// bytes; 42P01 for a relation that is not in the catalog,
    /// 22023 for a leading comment that cannot be understood. Where
    /// [`Rejection::catalog_may_help`] the catalog is to be read again and the text planned once more.
    pub fn plan(&self, sql: &[u8], context: &PlanContext<'_>) -> Result<Planned, Rejection> {
        with_key(|key| self.plan_by(key, sql, context))
    }

    fn plan_by(
        &self,
        key: &mut Vec<u8>,
        sql: &[u8],
        context: &PlanContext<'_>,
    ) -> Result<Planned, Rejection> {
        let context_key = context.key();
        if context_key.ascii_only && !sql.is_ascii() {
            return Err(unread_encoding());
        }
        let mut found = Scan::default();
        key.extend_from_slice(&context_key.bytes);
        match found.read(sql, context.backslash, key) {
            Ok(()) => {}
            Err(ScanError::Hint(rejection)) => return Err(rejection),
            Err(ScanError::Lex(error)) => return Ok(unlexed(sql, context, &error.to_string())),
        }
        let normalised = context_key.bytes.len()..key.len();
        let named = found.names_shard(context.named_shard);
        end_key(key, context.parameter_types, named);
        let looked = looked(sql, key, &found);
        if let Some(cached) = self.cache.find(looked) {
            return Ok(planned(Arc::clone(&cached.plan), found, true));
        }
        let guards = RefCell::new(BTreeSet::new());
        let mut statements = Vec::with_capacity(found.spans.len());
        for span in &found.spans {
            let source = statement::Source {
                sql,
                span: *span,
                literals: &found.literals,
                guards: &guards,
            };
            let plan = statement::plan(source, context, named)
                .map_err(|rejection| about_what_is_made(rejection, &statements))?;
            statements.push(plan);
        }
        let normalised = &key[normalised];
        let plan = Arc::new(QueryPlan {
            fingerprint: xxh3_128(normalised),
            statements,
        });
        // an inner statement's place is a place in this very text
        let cacheable = plan
            .statements
            .iter()
            .all(|statement| !matches!(statement.action, Action::ExplainRoute { .. }));
        if cacheable {
            let guards = guards.into_inner();
            let sample = sample(normalised);
            self.cache.keep(looked, guards, &plan, sample);
        }
        Ok(planned(plan, found, false))
    }

    /// The cached plan of a query string, as [`Planner::plan`] would return it: with the parameter types that Parse declared, and whether the
    /// client named a shard. `None` where there is none, or the text cannot be read.
    #[must_use]
    pub fn cached(
        &self,
        sql: &[u8],
        context: &ContextKey,
        parameter_types: &[u32],
        named_shard: bool,
    ) -> Option<Planned> {
        if context.ascii_only && !sql.is_ascii() {
            return None;
        }
        let mut found = Scan::default();
        let cached = with_key(|key| {
            key.extend_from_slice(&context.bytes);
            found.read(sql, context.backslash, key).ok()?;
            end_key(key, parameter_types, found.names_shard(named_shard));
            self.cache.find(looked(sql, key, &found))
        })?;
        Some(planned(Arc::clone(&cached.plan), found, true))
    }

    /// The cached plans, in no order, for SHOW PLANS.
    #[must_use]
    pub fn plans(&self) -> Vec<PlanSnapshot> {
        self.cache
            .all()
            .into_iter()
            .map(|cached| PlanSnapshot {
                fingerprint: format!("{:032x}", cached.plan.fingerprint),
                text: cached.sample.clone(),
                hits: cached.hits.load(Ordering::Relaxed),
                classes: cached
                    .plan
                    .statements
                    .iter()
                    .map(StatementPlan::class)
                    .collect(),
                reason: cached
                    .plan
                    .statements
                    .first()
                    .map_or_else(Box::default, |statement| statement.reason.clone()),
            })
            .collect()
    }
}

impl Scan {
    /// Is a shard named, by the client or by the text's leading comment?
    fn names_shard(&self, by_client: bool) -> bool {
        by_client || self.hint.as_ref().is_some_and(Hint::names_shard)
    }
}

/// Gathers a key in a buffer that the thread keeps, unless it has grown large.
fn with_key<T>(gather: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    const MAX_KEPT_BYTES: usize = 64 << 10;
    thread_local! {
        static KEY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut key = KEY.take();
    let found = gather(&mut key);
    if key.capacity() <= MAX_KEPT_BYTES {
        key.clear();
        KEY.set(key);
    }
    found
}

/// Ends a key with what a text brings beside itself. Read from its end, it can only be read in one way.
fn end_key(key: &mut Vec<u8>, parameter_types: &[u32], named_shard: bool) {
    for oid in parameter_types {
        key.extend_from_slice(&oid.to_le_bytes());
    }
    let [a, b, c, d] = length(parameter_types.len());
    key.extend_from_slice(&[a, b, c, d, u8::from(named_shard)]);
}

fn looked<'a>(sql: &'a [u8], key: &'a [u8], found: &'a Scan) -> Looked<'a> {
    Looked {
        hash: xxh3_64(key),
        key,
        sql,
        literals: &found.literals,
    }
}

fn planned(plan: Arc<QueryPlan>, found: Scan, cached: bool) -> Planned {
    Planned {
        plan,
        literals: found.literals,
        spans: found.spans,
        cached,
        hint: found.hint,
    }
}

impl PlanContext<'_> {
    /// Everything of the context that a plan may depend on, each part with its length or of fixed size.
    #[must_use]
    pub fn key(&self) -> ContextKey {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.catalog.version().to_le_bytes());
        bytes.extend_from_slice(&self.rules_version.to_le_bytes());
        bytes.push(match self.backslash {
            BackslashReading::Literal => 0,
            BackslashReading::Escape => 1,
        });
        let names = self.search_path.iter().map(AsRef::as_ref);
        bytes.extend_from_slice(&length(self.search_path.len()));
        for name in [self.database, self.role].into_iter().chain(names) {
            bytes.extend_from_slice(&length(name.len()));
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.extend_from_slice(&self.settings.0.to_le_bytes());
        ContextKey {
            bytes: bytes.into(),
            backslash: self.backslash,
            ascii_only: self.encoding == ClientEncoding::AsciiTrail
                && !self.sharding.is_unsharded(),
        }
    }
}

fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}

/// 0A000: second bytes of characters look like quotes and backslashes.
fn unread_encoding() -> Rejection {
    Rejection::unsupported(
        label::UNPARSED,
        "the client's encoding cannot be read on a sharded database",
    )
    .detail("In SJIS, BIG5, GBK, UHC, GB18030 and JOHAB a character's second byte may be that of a quote.")
    .hint("SET client_encoding TO 'UTF8', or write the statement in ASCII and send the rest as parameters.")
}

/// A relation that is not known may be what the same text makes before: where its rows go must be known before anything runs.
fn about_what_is_made(rejection: Rejection, before: &[StatementPlan]) -> Rejection {
    let made = before
        .iter()
        .filter(|statement| {
            matches!(statement.action, Action::Ddl(_))
                || statement.residue.contains(Residue::TEMPORARY)
        })
        .flat_map(|statement| statement.relations.iter())
        .find(|made| {
            ["\"", "."].iter().any(|before| {
                let name = format!("{before}{}\"", made.name);
                rejection.message.contains(&name)
            })
        });
    match made {
        Some(made) if rejection.label == label::UNKNOWN_RELATION => Rejection::unsupported(
            label::UNKNOWN_RELATION,
            "a query string cannot use a table that it makes itself",
        )
        .detail(format!(
            "Table \"{}\" does not exist yet, and where rows go is decided before anything runs.",
            made.name
        ))
        .hint("Send the statement that makes it by itself; in a transaction block if all are to hold or none."),
        _ => rejection,
    }
}

/// A text that Postgres' scanner refuses too, before it runs any statement of it: the home shard
/// says so in its own words.
fn unlexed(sql: &[u8], context: &PlanContext<'_>, why: &str) -> Planned {
    let statement = StatementPlan {
        action: Action::Run,
        placement: Placement::One(context.sharding.home()),
        access: Access::Write,
        residue: Residue::NONE,
        reason: format!("a syntax error, which the server will report: {why}").into(),
        relations: Box::default(),
        parameters: 0,
        checks_clock_words: false,
        reads_moment: false,
        vacates: None,
    };
    Planned {
        plan: Arc::new(QueryPlan {
            fingerprint: 0,
            statements: vec![statement],
        }),
        literals: Literals::default(),
        spans: smallvec![Span {
            start: 0,
            end: u32::try_from(sql.len()).unwrap_or(u32::MAX),
        }],
        cached: false,
        hint: None,
    }
}

/// The normalised text as people read it.
fn sample(normalised: &[u8]) -> Box<str> {
    const MAX_SAMPLE_BYTES: usize = 200;
    let mut text = Vec::with_capacity(normalised.len().min(MAX_SAMPLE_BYTES + 1));
    let mut bytes = normalised.iter();
    while let Some(&byte) = bytes.next() {
        if text.len() >= MAX_SAMPLE_BYTES {
            break;
        }
        if byte == 0 {
            bytes.next();
            text.push(b'?');
        } else {
            text.push(byte);
        }
    }
    String::from_utf8_lossy(&text).into()
}
