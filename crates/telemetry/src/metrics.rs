//! Counting.
//!
//! Owns: the recorder behind the metrics, and handles that are looked up once and then cost an atomic operation a use. There is no global
//! recorder: who counts holds a [`Metrics`], so that two herds in one process (in tests) do not mix. Never does: HTTP.
//! Main types: [`Metrics`], [`DatabaseMetrics`], [`RouteMetrics`].
//!
//! # Memory
//! A histogram keeps what was recorded since the last rendering: call [`Metrics::upkeep`] every few seconds, or nobody who scrapes
//! means memory that grows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::names;

const METADATA: Metadata<'static> = Metadata::new("pgherd", Level::INFO, None);

/// How many different error labels are counted per database: they come from our own enums and from SQLSTATEs that servers
/// send, and anyone can raise any SQLSTATE.
const MAX_ERROR_LABELS: usize = 512;

/// What a server was when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerRole {
    /// It takes writes.
    Primary,
    /// It replays them.
    Replica,
}

impl ServerRole {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// All metrics of one herd. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    databases: RwLock<HashMap<Box<str>, Arc<DatabaseMetrics>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that are all zero.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(names::SECONDS_BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        for counter in names::COUNTERS {
            recorder.describe_counter(KeyName::from(counter.name), None, counter.help.into());
        }
        for gauge in names::GAUGES {
            recorder.describe_gauge(KeyName::from(gauge.name), None, gauge.help.into());
        }
        for histogram in names::HISTOGRAMS {
            recorder.describe_histogram(KeyName::from(histogram.name), None, histogram.help.into());
        }
        let handle = recorder.handle();
        Self {
            shared: Arc::new(Shared {
                recorder,
                handle,
                databases: RwLock::default(),
            }),
        }
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let databases = &self.shared.databases;
        for database in databases
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            database.publish();
        }
        self.shared.handle.render()
    }

    /// What was counted for a database since the start.
    pub fn totals(&self, name: &str) -> Totals {
        let database = self.database(name);
        let text = self.render();
        let of_database = format!("{{database=\"{}\"", escaped(name));
        let sum = |metric: &str, label: &str| -> f64 {
            text.lines()
                .filter_map(|line| line.strip_prefix(metric)?.strip_prefix(&*of_database))
                .filter(|rest| rest.contains(label))
                .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let seconds = |metric: &str| {
            let sum = sum(&format!("{metric}_sum"), "");
            Duration::try_from_secs_f64(sum).unwrap_or_default()
        };
        let (alone, in_blocks) = database.queries();
        Totals {
            transactions: alone + database.blocks.load(Ordering::Relaxed),
            queries: alone + in_blocks,
            bytes_in: to_count(sum(names::CLIENT_BYTES, "direction=\"in\"")),
            bytes_out: to_count(sum(names::CLIENT_BYTES, "direction=\"out\"")),
            query_time: seconds(names::QUERY_DURATION),
            wait_time: seconds(names::CHECKOUT_WAIT),
        }
    }

    /// Folds what was recorded into its buckets. To be called every few seconds.
    pub fn upkeep(&self) {
        self.shared.handle.run_upkeep();
    }

    /// The handles of a database: the same ones for the same name.
    pub fn database(&self, name: &str) -> Arc<DatabaseMetrics> {
        let databases = &self.shared.databases;
        if let Some(found) = databases
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Arc::clone(found);
        }
        let mut databases = databases.write().unwrap_or_else(PoisonError::into_inner);
        let made = databases
            .entry(name.into())
            .or_insert_with(|| Arc::new(DatabaseMetrics::new(self.clone(), name)));
        Arc::clone(made)
    }

    /// Sets how many server connections there may be `of` something (process, database, server), and how many count towards that.
    pub fn set_connection_limit(
        &self,
        of: &'static str,
        name: &str,
        limit: Option<usize>,
        counted: usize,
    ) {
        let labels = [("of", of), ("name", name)];
        let limit = to_float(limit.unwrap_or(0));
        self.gauge(names::LIMIT, &labels).set(limit);
        self.gauge(names::COUNTED, &labels).set(to_float(counted));
    }

    /// Counts a client connection that ended before it was logged in.
    pub fn login_failed(&self, reason: &'static str) {
        self.counter(names::LOGIN_FAILURES, &[("reason", reason)])
            .increment(1);
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.shared
            .recorder
            .register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.shared
            .recorder
            .register_gauge(&key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.shared
            .recorder
            .register_histogram(&key(name, labels), &METADATA)
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}

/// What was counted for one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Transaction blocks that have ended, and queries outside of one.
    pub transactions: u64,
    /// Queries that servers have answered.
    pub queries: u64,
    /// Bytes that came from clients.
    pub bytes_in: u64,
    /// Bytes that went to clients.
    pub bytes_out: u64,
    /// How long the queries took, together.
    pub query_time: Duration,
    /// How long requests waited for a server connection, together.
    pub wait_time: Duration,
}

/// Handles by shard and role.
type Routes = foldhash::HashMap<Box<str>, [Option<Arc<RouteMetrics>>; 2]>;

/// The metrics of one database.
pub struct DatabaseMetrics {
    metrics: Metrics,
    name: Box<str>,
    clients: Gauge,
    checkout_wait: Histogram,
    bytes_in: Counter,
    bytes_out: Counter,
    plan_hits: Counter,
    plan_misses: Counter,
    listened_channels: Gauge,
    blocks: AtomicU64,
    routes: RwLock<Routes>,
    errors: RwLock<HashMap<Box<str>, Counter>>,
}

impl std::fmt::Debug for DatabaseMetrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DatabaseMetrics")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl DatabaseMetrics {
    fn new(metrics: Metrics, name: &str) -> Self {
        Self {
            clients: metrics.gauge(names::CLIENTS, &[("database", name)]),
            checkout_wait: metrics.histogram(names::CHECKOUT_WAIT, &[("database", name)]),
            bytes_in: metrics.counter(
                names::CLIENT_BYTES,
                &[("database", name), ("direction", "in")],
            ),
            bytes_out: metrics.counter(
                names::CLIENT_BYTES,
                &[("database", name), ("direction", "out")],
            ),
            plan_hits: metrics.counter(names::PLAN_CACHE, &[("database", name), ("result", "hit")]),
            plan_misses: metrics
                .counter(names::PLAN_CACHE, &[("database", name), ("result", "miss")]),
            listened_channels: metrics.gauge(names::LISTENED_CHANNELS, &[("database", name)]),
            blocks: AtomicU64::new(0),
            routes: RwLock::default(),
            errors: RwLock::default(),
            name: name.into(),
            metrics,
        }
    }

    /// The handles for queries that ran on one shard's primary, or its replicas. To be kept by who counts often.
    pub fn route(&self, shard: &str, role: ServerRole) -> Arc<RouteMetrics> {
        let found = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes
                .get(shard)
                .and_then(|roles| roles[role as usize].clone())
        };
        found.unwrap_or_else(|| {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            let roles = routes.entry(shard.into()).or_default();
            let made = roles[role as usize].get_or_insert_with(|| {
                let labels = [
                    ("database", &*self.name),
                    ("shard", shard),
                    ("role", role.as_str()),
                ];
                Arc::new(RouteMetrics {
                    alone: AtomicU64::new(0),
                    in_blocks: AtomicU64::new(0),
                    queries: self.metrics.counter(names::QUERIES, &labels),
                    duration: self.metrics.histogram(names::QUERY_DURATION, &labels),
                })
            });
            Arc::clone(made)
        })
    }

    /// Counts a transaction block that has ended.
    pub fn block_ended(&self) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// Queries outside of blocks, and within.
    fn queries(&self) -> (u64, u64) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = (0, 0);
        for route in routes.values().flatten().flatten() {
            counts.0 += route.alone.load(Ordering::Relaxed);
            counts.1 += route.in_blocks.load(Ordering::Relaxed);
        }
        counts
    }

    /// Has the recorder know what is counted here.
    fn publish(&self) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        for route in routes.values().flatten().flatten() {
            let alone = route.alone.load(Ordering::Relaxed);
            let in_blocks = route.in_blocks.load(Ordering::Relaxed);
            route.queries.absolute(alone + in_blocks);
        }
    }

    /// Counts an error that a client was shown. The label is one of pgherd's own or an SQLSTATE; beyond some hundreds of them all others are
    /// `other`.
    pub fn error(&self, label: &str) {
        if let Some(counter) = self
            .errors
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(label)
        {
            counter.increment(1);
            return;
        }
        let mut errors = self.errors.write().unwrap_or_else(PoisonError::into_inner);
        let label = if errors.len() < MAX_ERROR_LABELS {
            label
        } else {
            "other"
        };
        errors
            .entry(label.into())
            .or_insert_with(|| {
                self.metrics
                    .counter(names::ERRORS, &[("database", &self.name), ("label", label)])
            })
            .increment(1);
    }

    /// Sets how many clients are logged in.
    pub fn set_clients(&self, count: usize) {
        self.clients.set(to_float(count));
    }

    /// Sets how many connections there are to a server in a state (idle, used).
    pub fn set_server_connections(&self, shard: &str, server: &str, state: &str, count: usize) {
        let labels = [
            ("database", &*self.name),
            ("shard", shard),
            ("server", server),
            ("state", state),
        ];
        self.metrics
            .gauge(names::SERVER_CONNECTIONS, &labels)
            .set(to_float(count));
    }

    /// Sets whether a server is up. Its other role is set to 0, so that a change of roles leaves no old value behind.
    pub fn set_server_up(&self, shard: &str, server: &str, role: ServerRole, up: bool) {
        for each in [ServerRole::Primary, ServerRole::Replica] {
            let labels = [
                ("database", &*self.name),
                ("shard", shard),
                ("server", server),
                ("role", each.as_str()),
            ];
            let value = if up && each == role { 1.0 } else { 0.0 };
            self.metrics.gauge(names::SERVER_UP, &labels).set(value);
        }
    }

    /// Sets how far a replica lags.
    pub fn set_replica_lag(&self, shard: &str, server: &str, lag: Duration) {
        let labels = [
            ("database", &*self.name),
            ("shard", shard),
            ("server", server),
        ];
        self.metrics
            .gauge(names::REPLICA_LAG, &labels)
            .set(lag.as_secs_f64());
    }

    /// Records how long a request waited for a server connection.
    pub fn waited_for_checkout(&self, wait: Duration) {
        self.checkout_wait.record(wait.as_secs_f64());
    }

    /// Counts bytes that came from a client.
    pub fn bytes_in(&self, count: u64) {
        self.bytes_in.increment(count);
    }

    /// Counts bytes that went to a client.
    pub fn bytes_out(&self, count: u64) {
        self.bytes_out.increment(count);
    }

    /// Sets how many channels clients listen to.
    pub fn set_listened_channels(&self, count: usize) {
        self.listened_channels.set(to_float(count));
    }

    /// Counts a client that was ended because notifications could not be passed on to it.
    pub fn listener_ended(&self, reason: &'static str) {
        let labels = [("database", &*self.name), ("reason", reason)];
        self.metrics
            .counter(names::LISTENERS_ENDED, &labels)
            .increment(1);
    }

    /// Counts a server connection that stays with a client from now on.
    pub fn pinned(&self, reason: &'static str) {
        let labels = [("database", &*self.name), ("reason", reason)];
        self.metrics.counter(names::PINS, &labels).increment(1);
    }

    /// Sets how many connections to a server stay with clients.
    pub fn set_pinned_connections(&self, shard: &str, server: &str, count: usize) {
        let labels = [
            ("database", &*self.name),
            ("shard", shard),
            ("server", server),
        ];
        self.metrics
            .gauge(names::PINNED, &labels)
            .set(to_float(count));
    }

    /// Counts a look-up in the plan cache that found its plan.
    pub fn plan_cache_hit(&self) {
        self.plan_hits.increment(1);
    }

    /// Counts a look-up in the plan cache that found none.
    pub fn plan_cache_miss(&self) {
        self.plan_misses.increment(1);
    }
}

/// The metrics of queries on one shard in one role.
pub struct RouteMetrics {
    alone: AtomicU64,
    in_blocks: AtomicU64,
    /// Both together, when it is rendered.
    queries: Counter,
    duration: Histogram,
}

impl std::fmt::Debug for RouteMetrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RouteMetrics")
            .finish_non_exhaustive()
    }
}

impl RouteMetrics {
    /// Counts one query, in a transaction block or not, and how long it took.
    pub fn answered(&self, took: Duration, in_block: bool) {
        let counter = if in_block {
            &self.in_blocks
        } else {
            &self.alone
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.duration.record(took.as_secs_f64());
    }
}

/// A label's value as it is rendered.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A rendered count. Exact below 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_count(rendered: f64) -> u64 {
    rendered as u64
}

/// Exact below 2^53, which no count of connections reaches.
#[allow(clippy::cast_precision_loss)]
fn to_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_rendered_as_a_histogram_with_their_labels() {
        let metrics = Metrics::new();
        let route = metrics.database("shop").route("s0", ServerRole::Replica);
        route.answered(Duration::from_micros(300), false);
        route.answered(Duration::from_secs(60), true);
        let text = metrics.render();
        let labels = r#"database="shop",shard="s0",role="replica""#;
        assert!(
            text.contains("# TYPE pgherd_query_duration_seconds histogram"),
            "{text}"
        );
        assert!(
            text.contains(&format!("pgherd_queries_total{{{labels}}} 2")),
            "{text}"
        );
        assert!(
            text.contains(&format!(
                "pgherd_query_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 1"
            )),
            "{text}"
        );
        assert!(
            text.contains(&format!(
                "pgherd_query_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"
            )),
            "{text}"
        );
        assert!(
            text.contains("# HELP pgherd_queries_total Queries answered."),
            "{text}"
        );
    }

    #[test]
    fn totals_are_of_one_database_over_its_shards_and_roles() {
        let metrics = Metrics::new();
        let shop = metrics.database("shop");
        let other = metrics.database("shop2");
        other
            .route("s0", ServerRole::Primary)
            .answered(Duration::from_secs(9), false);
        other.bytes_in(9);
        for (role, in_block) in [(ServerRole::Primary, true), (ServerRole::Replica, false)] {
            shop.route("s0", role)
                .answered(Duration::from_secs(1), in_block);
            shop.route("s1", role)
                .answered(Duration::from_secs(2), in_block);
        }
        shop.block_ended();
        shop.bytes_in(10);
        shop.bytes_out(20);
        shop.waited_for_checkout(Duration::from_secs(3));
        let expected = Totals {
            transactions: 3,
            queries: 4,
            bytes_in: 10,
            bytes_out: 20,
            query_time: Duration::from_secs(6),
            wait_time: Duration::from_secs(3),
        };
        assert_eq!(metrics.totals("shop"), expected);
        assert_eq!(metrics.totals("no such"), Totals::default());
        metrics.database("a\"b").bytes_in(7);
        assert_eq!(metrics.totals("a\"b").bytes_in, 7);
    }

    #[test]
    fn the_same_name_gives_the_same_handles() {
        let metrics = Metrics::new();
        metrics.database("shop").error("42P01");
        metrics.database("shop").error("42P01");
        metrics.clone().database("shop").error("refused");
        let text = metrics.render();
        assert!(
            text.contains(r#"pgherd_errors_total{database="shop",label="42P01"} 2"#),
            "{text}"
        );
        assert!(
            text.contains(r#"pgherd_errors_total{database="shop",label="refused"} 1"#),
            "{text}"
        );
    }

    #[test]
    fn errors_of_any_number_of_labels_take_bounded_memory() {
        let metrics = Metrics::new();
        let database = metrics.database("shop");
        for number in 0..MAX_ERROR_LABELS + 10 {
            database.error(&number.to_string());
        }
        assert!(
            metrics
                .render()
                .contains(r#"pgherd_errors_total{database="shop",label="other"} 10"#)
        );
    }

    #[test]
    fn a_server_that_changed_its_role_is_up_in_one_role_only() {
        let metrics = Metrics::new();
        let database = metrics.database("shop");
        database.set_server_up("s0", "s0a", ServerRole::Primary, true);
        database.set_server_up("s0", "s0a", ServerRole::Replica, true);
        let text = metrics.render();
        assert!(text.contains(r#"server="s0a",role="replica"} 1"#), "{text}");
        assert!(text.contains(r#"server="s0a",role="primary"} 0"#), "{text}");
    }

    #[test]
    fn two_herds_in_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.database("shop").set_clients(3);
        assert!(
            one.render()
                .contains(r#"pgherd_clients{database="shop"} 3"#)
        );
        assert!(!other.render().contains("pgherd_clients{"));
    }
}
