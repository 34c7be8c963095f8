//! The metrics by name.
//!
//! Owns: names, labels, units and descriptions, in one table each for counters, gauges and histograms. Never does: counting.
//! Names follow Prometheus' conventions: the unit last, `_total` for counters.

/// A metric's name and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    /// The name as Prometheus sees it.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
}

const fn describe(name: &'static str, help: &'static str) -> Description {
    Description { name, help }
}

/// Queries answered, by `database`, `shard` and `role`.
pub const QUERIES: &str = "pgherd_queries_total";
/// Seconds from a request's arrival to its last answer, by `database`, `shard` and `role`.
pub const QUERY_DURATION: &str = "pgherd_query_duration_seconds";
/// Errors that clients were shown, by `database` and `label`.
pub const ERRORS: &str = "pgherd_errors_total";
/// Clients logged in, by `database`.
pub const CLIENTS: &str = "pgherd_clients";
/// Server connections, by `database`, `shard`, `server` and `state` (idle, used).
pub const SERVER_CONNECTIONS: &str = "pgherd_server_connections";
/// Seconds that requests waited for a server connection, where none was at hand, by `database`.
pub const CHECKOUT_WAIT: &str = "pgherd_checkout_wait_seconds";
/// Bytes from (`in`) and to (`out`) clients, by `database` and `direction`.
pub const CLIENT_BYTES: &str = "pgherd_client_bytes_total";
/// Look-ups in the plan cache, by `database` and `result` (hit, miss).
pub const PLAN_CACHE: &str = "pgherd_plan_cache_lookups_total";
/// Client connections that ended before they were logged in, by `reason`.
pub const LOGIN_FAILURES: &str = "pgherd_login_failures_total";
/// 1 while a server is up, by `database`, `shard`, `server` and `role`.
pub const SERVER_UP: &str = "pgherd_server_up";
/// Seconds that a replica lags behind its primary, by `database`, `shard` and `server`.
pub const REPLICA_LAG: &str = "pgherd_replica_lag_seconds";
/// Channels that clients listen to, by `database`.
pub const LISTENED_CHANNELS: &str = "pgherd_listened_channels";
/// Clients that were ended because notifications could not be passed on to them, by `database` and `reason` (too_slow, connection_lost).
pub const LISTENERS_ENDED: &str = "pgherd_listeners_ended_total";
/// Server connections that began to stay with a client beyond its transactions, by `database` and `reason`.
pub const PINS: &str = "pgherd_pins_total";
/// Server connections that stay with a client beyond its transactions, by `database`, `shard` and `server`.
pub const PINNED: &str = "pgherd_pinned_server_connections";
/// The most server connections there may be, 0 without a limit, by `of` (process, database, server) and `name`.
pub const LIMIT: &str = "pgherd_server_connection_limit";
/// How many count towards that, by `of` and `name`.
pub const COUNTED: &str = "pgherd_server_connections_counted";

/// All counters.
pub const COUNTERS: &[Description] = &[
    describe(QUERIES, "Queries answered."),
    describe(ERRORS, "Errors that clients were shown."),
    describe(CLIENT_BYTES, "Bytes from and to clients."),
    describe(PLAN_CACHE, "Look-ups in the plan cache."),
    describe(
        LOGIN_FAILURES,
        "Client connections that ended before they were logged in.",
    ),
    describe(
        LISTENERS_ENDED,
        "Clients that were ended because notifications could not be passed on to them.",
    ),
    describe(
        PINS,
        "Server connections that began to stay with a client beyond its transactions.",
    ),
];

/// All gauges.
pub const GAUGES: &[Description] = &[
    describe(CLIENTS, "Clients logged in."),
    describe(SERVER_CONNECTIONS, "Server connections."),
    describe(SERVER_UP, "Whether a server is up."),
    describe(REPLICA_LAG, "How far a replica lags behind its primary."),
    describe(LISTENED_CHANNELS, "Channels that clients listen to."),
    describe(
        PINNED,
        "Server connections that stay with a client beyond its transactions.",
    ),
    describe(
        LIMIT,
        "The most server connections there may be; 0 without a limit.",
    ),
    describe(
        COUNTED,
        "Server connections that count towards the limit, with those that room is kept for.",
    ),
];

/// All histograms.
pub const HISTOGRAMS: &[Description] = &[
    describe(
        QUERY_DURATION,
        "Time from a request's arrival to its last answer.",
    ),
    describe(
        CHECKOUT_WAIT,
        "Time that requests waited for a server connection where none was at hand.",
    ),
];

/// The upper bounds of the histograms' buckets, in seconds: from a look-up by key on this machine to a report.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
