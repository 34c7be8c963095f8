//! The bounded cache of plans.
//!
//! Owns when a cached plan holds for a text: the same context and normalised text, byte for byte,
//! and the same value in every literal that the plan depends on. Never plans. Main type:
//! [`PlanCache`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::literal::Literals;
use crate::plan::QueryPlan;

/// Plans of texts longer than this, normalised, are not kept.
const MAX_KEY_BYTES: usize = 1 << 20;

/// The cache's bound in bytes of normalised text, for each plan that it may hold.
const BYTES_PER_PLAN: u64 = 4096;

/// A literal that a plan depends on.
#[derive(Debug)]
struct Guard {
    slot: u32,
    text: Box<[u8]>,
}

/// A plan, and for which texts it holds.
#[derive(Debug)]
pub(crate) struct CachedPlan {
    /// The context's bytes and the normalised text: what was hashed.
    key: Box<[u8]>,
    guards: Box<[Guard]>,
    pub(crate) plan: Arc<QueryPlan>,
    /// The first text it was made for, cut short and without literal values.
    pub(crate) sample: Box<str>,
    pub(crate) hits: AtomicU64,
}

#[derive(Debug, Clone)]
struct BytesWeighter;

impl Weighter<u64, Arc<CachedPlan>> for BytesWeighter {
    fn weight(&self, _hash: &u64, plan: &Arc<CachedPlan>) -> u64 {
        BYTES_PER_PLAN.max(plan.key.len() as u64)
    }
}

/// A text as the cache sees it.
#[derive(Clone, Copy)]
pub(crate) struct Looked<'a> {
    /// The hash of `key`.
    pub(crate) hash: u64,
    /// The context's bytes and the normalised text.
    pub(crate) key: &'a [u8],
    pub(crate) sql: &'a [u8],
    pub(crate) literals: &'a Literals,
}

/// Plans by the hash of their key. Two texts whose hashes collide displace each other, and neither
/// is ever given the other's plan.
#[derive(Debug)]
pub(crate) struct PlanCache {
    plans: Cache<u64, Arc<CachedPlan>, BytesWeighter>,
}

impl PlanCache {
    /// A cache of about `capacity` plans; longer texts count for several.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            plans: Cache::with_weighter(capacity, capacity as u64 * BYTES_PER_PLAN, BytesWeighter),
        }
    }

    /// The plan of a text, if it is there and holds for its literals.
    pub(crate) fn find(&self, looked: Looked<'_>) -> Option<Arc<CachedPlan>> {
        let found = self.plans.get(&looked.hash)?;
        if *found.key != *looked.key {
            return None;
        }
        let holds = found.guards.iter().all(|guard| {
            let one = looked.literals.count(guard.slot) == 1;
            let literal = looked.literals.slot(guard.slot).filter(|_| one);
            literal.is_some_and(|literal| *literal.text(looked.sql) == *guard.text)
        });
        if !holds {
            return None;
        }
        found.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// Keeps a plan that depends on the literals in `guards`.
    pub(crate) fn keep(
        &self,
        looked: Looked<'_>,
        guards: impl IntoIterator<Item = u32>,
        plan: &Arc<QueryPlan>,
        sample: Box<str>,
    ) {
        if looked.key.len() > MAX_KEY_BYTES {
            return;
        }
        let guards = guards
            .into_iter()
            .filter_map(|slot| {
                let text = looked.literals.slot(slot)?.text(looked.sql).into();
                Some(Guard { slot, text })
            })
            .collect();
        let entry = CachedPlan {
            key: looked.key.into(),
            guards,
            plan: Arc::clone(plan),
            sample,
            hits: AtomicU64::new(0),
        };
        self.plans.insert(looked.hash, Arc::new(entry));
    }

    /// Every plan held now.
    pub(crate) fn all(&self) -> Vec<Arc<CachedPlan>> {
        self.plans.iter().map(|(_, plan)| plan).collect()
    }
}
