//! The configuration file as it is written: one struct a mapping, one field a key.
//!
//! Owns the names of the keys, and with the comments here (which become the JSON Schema's descriptions) what each
//! means, its default and its unit. Holds no rule beyond the shape: what a value must be is decided where the file
//! is converted. Unknown keys are refused. The main type is [`File`].

use schemars::JsonSchema;
use serde::Deserialize;

use super::located::{At, Named, Number, OneOrMany, OnlyOr, SecretText, Size, Span, Text};

/// The configuration of pgherd. In every text `${NAME}` stands for an environment variable and `$$` for a dollar sign.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "pgherd", rename = "Configuration")]
pub struct File {
    /// Where clients connect.
    pub listen: Option<At<Listen>>,
    /// How many threads serve clients; 0 means one for each core. Default: 0. A change needs a restart.
    pub workers: Option<At<Number>>,
    /// How many connections to servers there may be, over all databases, those of pgherd itself among them: room is kept for seven to each server of a database (six of the control plane and one that listens), one for each further entry by `like`, two for each database made by `*`, and three more with `auth`. Where they are all taken, the one that has been idle for longest is closed for who waits, else one that comes back. At least one for each shard of a database beside those of pgherd. Default: no limit.
    pub max_server_connections: Option<At<Number>>,
    /// The operator's console. Without it there is none.
    pub admin: Option<At<Admin>>,
    /// Where /metrics, /healthz and /readyz are served. Without it they are not.
    pub http: Option<At<Http>>,
    /// Where pgherd keeps what must outlive it: the bucket table and the herd's identity.
    pub state: Option<At<State>>,
    /// The host names of servers.
    pub dns: Option<At<Dns>>,
    /// Logs and traces.
    pub telemetry: Option<At<Telemetry>>,
    /// The databases that clients can connect to, by name.
    pub databases: At<Named<At<Database>>>,
}

/// Where clients connect.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// An address with its port, or a list of them. Default: 127.0.0.1:6432. A change needs a restart.
    pub address: Option<At<OneOrMany<Text>>>,
    /// A directory for a Unix socket, named `.s.PGSQL.<port>` as Postgres names its own. Default: none. A change needs a restart.
    pub unix: Option<At<Text>>,
    /// TLS towards clients. Default: mode disable.
    pub tls: Option<At<ListenTls>>,
    /// How connections from clients notice that the client is gone without a word; for clients that connect from now on. `user_timeout` there cuts off clients that do not read for so long as well.
    pub tcp: Option<At<Tcp>>,
    /// How many clients may be connected at once, over all databases; one more gets 53300. Default: 10000.
    pub max_clients: Option<At<Number>>,
    /// How long a client may take to log in. Default: 60s.
    pub authentication_timeout: Option<At<Span>>,
    /// The longest message taken from a client that is logged in. Default: 256MiB.
    pub max_message: Option<At<Size>>,
    /// How long transactions may run on after SIGTERM before their clients are disconnected. Default: 30s.
    pub drain_timeout: Option<At<Span>>,
    /// Who may connect to what from where, and how that is proven: lines as in pg_hba.conf, the first that fits decides, and who fits none is refused. With them the users' own `trust` and `exchange` do not count, and `certificate` only for method cert. Default: each user's own settings decide.
    pub hba: Option<Names>,
    /// The same in a file in the format of pg_hba.conf, read again at each reload. Connection types: local, host, hostssl, hostnossl. Methods: trust, reject, scram-sha-256, md5, password (over TLS and the Unix socket only) and cert. Role membership, host names and options are refused. Default: none.
    pub hba_file: Option<At<Text>>,
    /// Parameters of startup messages that are passed over instead of set, such as `extra_float_digits`; `options` stands for all that is given by it. Default: none.
    pub ignore_startup_parameters: Option<Names>,
}

/// How a TCP connection notices that the other end is gone without a word, as a machine that lost its power is. Not for Unix sockets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// After how long a silence the other end is asked for a sign of life, in whole seconds; 0 never asks. Default: 30s.
    pub keepalive_idle: Option<At<Span>>,
    /// How long after such a question the next one goes out, in whole seconds. Default: 10s.
    pub keepalive_interval: Option<At<Span>>,
    /// How many of them may stay unanswered before the connection counts as lost. Default: 3.
    pub keepalive_count: Option<At<Number>>,
    /// How long what was sent may stay unacknowledged before the connection counts as lost; 0 leaves it to the system (a quarter of an hour on Linux). Linux counts an end that is there and does not read as well, such as a server whose COPY waits for a lock. Default: 0.
    pub user_timeout: Option<At<Span>>,
}

/// The host names of servers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// For how long it is believed what a name stands for. Once it stands for other addresses, new connections go there, those to addresses that are gone are closed when they are idle, and others when they come back to their pool; clients that LISTEN at such an address are ended with 57P01. A look-up that fails changes nothing. 0: each new connection looks the name up, and what is open stays. For pgherd's own connections a change needs a restart. Default: 15s.
    pub ttl: Option<At<Span>>,
}

/// TLS towards clients.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// Whether clients may or must use TLS, and whether they must show a certificate. Default: prefer.
    pub mode: Option<At<TlsMode>>,
    /// The server's certificate chain, a PEM file. Read again at each reload.
    pub certificate: Option<At<Text>>,
    /// The certificate's private key, a PEM file.
    pub key: Option<At<Text>>,
    /// The authorities that clients' certificates are checked against, a PEM file. Needed by verify-ca and verify-full.
    pub root_certificate: Option<At<Text>>,
}

/// The modes of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// Plain text first, TLS where the other side insists.
    Allow,
    /// TLS where the other side offers it.
    Prefer,
    /// TLS or no connection.
    Require,
    /// TLS, and the other side's certificate is signed by a known authority.
    VerifyCa,
    /// As verify-ca, and the certificate bears the other side's name.
    VerifyFull,
}

/// The operator's console.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The name of the console's database; `pgbouncer` is an alias. Default: pgherd.
    pub database: Option<At<Text>>,
    /// Who may use the console.
    pub users: At<Vec<At<User>>>,
}

/// Someone who may connect.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name to connect with.
    pub name: At<Text>,
    /// The password: plain, `md5...`, a SCRAM verifier (`pgherd hash-password` makes one), `${NAME}`, or `file:` and a
    /// path relative to this file. Not needed where `certificate` or `trust` is given.
    pub password: Option<At<SecretText>>,
    /// The common name that a client's TLS certificate must bear to connect as this user without a password.
    pub certificate: Option<At<Text>>,
    /// Addresses (`127.0.0.1`, `10.0.0.0/8`, or `unix` for the Unix socket) from which this user needs no password. Default: none.
    pub trust: Option<At<OneOrMany<Text>>>,
    /// How the password is asked for: `challenge` never lets it over the wire, `cleartext` does, over TLS and the Unix
    /// socket only, so that pgherd knows it for servers that want it. Default: challenge.
    pub exchange: Option<At<Exchange>>,
    /// How many clients may be connected as this user at once, in one database. Default: no limit of its own.
    pub max_clients: Option<At<Number>>,
    /// How long this user's clients may take; what is not written here is as for the database.
    pub timeouts: Option<At<Timeouts>>,
    /// Settings that this user's sessions begin with, by name (`statement_timeout: 5s`), as by ALTER ROLE ... SET; what a client asks for itself goes before them. Not for the console's users. Default: none.
    pub settings: Option<At<Named<At<Text>>>>,
    /// What is different in this user's pools. Not for the console's users. Default: as the database has it.
    pub pool: Option<At<UserPool>>,
    /// What a user of the console may do: `admin` everything, `monitor` only SHOW and EXPLAIN ROUTE (42501 else). For the console's users alone. Default: admin.
    pub right: Option<At<Right>>,
}

/// What a user of the console may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Everything.
    Admin,
    /// Look, and change nothing.
    Monitor,
}

/// How a user's password is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// By SCRAM-SHA-256, or md5 where only an md5 hash is known.
    Challenge,
    /// In clear, over TLS and the Unix socket only.
    Cleartext,
}

/// The HTTP server of /metrics, /healthz and /readyz.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Its address with its port. A change needs a restart.
    pub address: At<Text>,
}

/// Where pgherd keeps what must outlive it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// A file, relative to this one. Default: state.json. A change needs a restart.
    pub file: Option<At<Text>>,
    /// etcd, for several pgherds over one herd. Not in force in this version.
    pub etcd: Option<At<Etcd>>,
}

/// An etcd cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// The cluster's members, as URLs.
    pub endpoints: At<Vec<At<Text>>>,
    /// What all keys begin with. Default: /pgherd.
    pub prefix: Option<At<Text>>,
}

/// Logs and traces.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The log, on standard error.
    pub log: Option<At<Log>>,
    /// Traces to an OpenTelemetry collector. Not in force in this version.
    pub otlp: Option<At<Otlp>>,
}

/// The log.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Its format. Default: text. A change needs a restart.
    pub format: Option<At<LogFormat>>,
    /// A level (error, warn, info, debug, trace), or directives such as `info,pgherd_session=debug`. Default: info.
    pub level: Option<At<Text>>,
}

/// The log's formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Traces to an OpenTelemetry collector.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The collector's gRPC address, a URL.
    pub endpoint: At<Text>,
    /// The fraction of queries traced, from 0 to 1. Default: 0.01.
    pub sample: Option<At<Text>>,
}

/// One database as clients see it. The one named `*` is a template: databases that are named nowhere are made by it when a client asks for
/// one, with the asked name on the servers; it has one shard and no `sharding`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Another database whose shards this is another entry to; every key that is not written here is as there, and pools are its own. A change needs a restart.
    pub like: Option<At<Text>>,
    /// Its name on the servers. Default: the name that clients connect to, and `postgres` for `*`, where it is the database of pgherd's own connections. A change needs a restart.
    pub server_database: Option<At<Text>>,
    /// Who may connect. Needed unless `auth` or `like` is given.
    pub users: Option<At<Vec<At<User>>>>,
    /// Where users are found that `users` does not name: the servers' roles. Without it there are none but those.
    pub auth: Option<At<Auth>>,
    /// How many clients may be connected to this database at once. Default: no limit but `listen.max_clients`.
    pub max_clients: Option<At<Number>>,
    /// How long clients may take for what.
    pub timeouts: Option<At<Timeouts>>,
    /// One login on the servers for all users. Without it each user logs in to the servers as itself.
    pub server_login: Option<At<ServerLogin>>,
    /// The login for health checks, the schema and the recovery of prepared transactions. Default: `server_login`, else the first user with a password. A change needs a restart.
    pub control_login: Option<At<ServerLogin>>,
    /// TLS towards the servers for users that log in as themselves. Default: mode prefer.
    pub server_tls: Option<At<ServerTls>>,
    /// How clients' connections to the servers notice that the server is gone without a word.
    pub server_tcp: Option<At<Tcp>>,
    /// The pools of server connections.
    pub pool: Option<At<Pool>>,
    /// Where reads go; or `only`, which refuses everything but reads (25006).
    pub reads: Option<At<OnlyOr<Reads>>>,
    /// For `*`: how many databases there may be that are named nowhere, and for how long.
    pub on_demand: Option<At<OnDemand>>,
    /// What happens when a primary fails.
    pub failover: Option<At<Failover>>,
    /// The shards. One shard alone is an unsharded database. Needed unless `like` is given. A change needs a restart.
    pub shards: Option<At<Vec<At<Shard>>>>,
    /// What lies on which shard. Needed where there is more than one.
    pub sharding: Option<At<Sharding>>,
    /// A scratch server for statements that no shard can answer alone. Not in force in this version.
    pub scratch: Option<At<Scratch>>,
}

/// The servers' roles as users: each logs in to pgherd with the password that the servers keep, and to the servers as itself, by what its login
/// has proven. That takes the same verifier on every shard (copy it from `pg_authid`), or a `server_login`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// What the first shard is asked: `$1` is the user's name, and the answer its name and password, as `pg_shadow` has them; no row for nobody, NULL for no password. It runs with `search_path = pg_catalog`: qualify the names of everything else. Default: `pg_authid` is asked for roles that may log in and whose password has not expired.
    pub query: Option<At<Text>>,
    /// The role to ask as. The default query needs a superuser; others can be given a SECURITY DEFINER function of one. Default: `control_login`.
    pub user: Option<At<Text>>,
    /// Its password: plain, `${NAME}`, or `file:` and a path. Default: none.
    pub password: Option<At<SecretText>>,
    /// The database to ask in. Default: the database's name on the servers.
    pub database: Option<At<Text>>,
    /// How long an answer is believed; 0 has every login ask. A login that fails has the servers asked again, so that a changed password works at the next try. Default: 10s.
    pub cache: Option<At<Span>>,
}

/// How long clients may take for what; 0 is no limit. How long a login may take is `listen.authentication_timeout`, how long a query waits
/// for a server connection `pool.checkout_timeout`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// For a query (all that is sent before a Sync), the wait for a server connection among it: it is cancelled on its servers, and the client gets 57014. Default: no limit.
    pub query: Option<At<Span>>,
    /// For the next query within a transaction block: the client gets 25P03 and is disconnected, the block is rolled back. Default: no limit.
    pub idle_in_transaction: Option<At<Span>>,
    /// For the next query outside of a transaction block: the client gets 57P05 and is disconnected. Default: no limit.
    pub client_idle: Option<At<Span>>,
}

/// The bounds of databases made on demand.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemand {
    /// How many there may be at once. Each costs one connection of pgherd's own. Default: 100.
    pub databases: Option<At<Number>>,
    /// After how long without a client one is closed. Default: 1h.
    pub idle_timeout: Option<At<Span>>,
}

/// A login on the servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerLogin {
    /// The role to log in as.
    pub user: At<Text>,
    /// Its password: plain, `${NAME}`, or `file:` and a path. Without it the servers must trust pgherd or take its certificate.
    pub password: Option<At<SecretText>>,
    /// TLS towards the servers. Default: the database's `server_tls`.
    pub tls: Option<At<ServerTls>>,
}

/// TLS towards the servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Whether TLS is tried, needed, and how the server's certificate is checked. Default: prefer.
    pub mode: Option<At<TlsMode>>,
    /// How it begins: `request` asks first, `direct` (Postgres 17 and later) does not. Default: request.
    pub negotiation: Option<At<Negotiation>>,
    /// The authorities that the servers' certificates are checked against: a PEM file, or `system` for the operating
    /// system's. Needed by verify-ca and verify-full. Default: none.
    pub root_certificate: Option<At<Text>>,
    /// A certificate to show to the servers, a PEM file.
    pub certificate: Option<At<Text>>,
    /// The certificate's private key, a PEM file.
    pub key: Option<At<Text>>,
}

/// How TLS towards a server begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Negotiation {
    /// Asked for by an SSLRequest.
    Request,
    /// At once.
    Direct,
}

/// The pools of server connections: one for each user and server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// When a server connection goes back to its pool, for clients that log in from now on. Default: transaction.
    pub mode: Option<At<PoolMode>>,
    /// How many connections a user may have on one server. Default: 20.
    pub size: Option<At<Number>>,
    /// How many of them are kept open when idle. They are opened at the start, and when a server has come back, for users whose plain password is configured and for `server_login`; for others after their first login. Default: 0.
    pub min: Option<At<Number>>,
    /// How many more a user may have on one server while somebody has waited for `reserve_after`. Default: 0.
    pub reserve: Option<At<Number>>,
    /// How long the first who waits does so before a connection of the reserve is opened. Default: 1s.
    pub reserve_after: Option<At<Span>>,
    /// How many connections of a user to one server clients may keep beyond their transactions, for temporary tables, advisory locks of the session, cursors WITH HOLD and what else cannot be carried over. A statement that would need one more fails with 53300 before it runs. No limit in mode session. Default: half of `size`, rounded up.
    pub max_pinned: Option<At<Number>>,
    /// How many connections its clients may have over all users and servers, at least one for each shard; of `*`, each database made by it. Default: no limit.
    pub max_connections: Option<At<Number>>,
    /// How long a query waits for a connection before it fails with 53300, or with 40001 where its transaction holds one of another shard already. Default: 5s.
    pub checkout_timeout: Option<At<Span>>,
    /// How long opening a connection may take, login included. Default: 5s.
    pub connect_timeout: Option<At<Span>>,
    /// How long a connection may lie idle before it is closed. Default: 10m.
    pub idle_timeout: Option<At<Span>>,
    /// How old a connection may become. Default: 1h.
    pub lifetime: Option<At<Span>>,
    /// Statements that are run on each new connection, and again after it was reset. Where the server refuses them, the connection is closed and the client told. Default: none.
    pub connect_query: Option<At<Text>>,
    /// Whether a server may have a plain password over TCP without TLS: `protected` never, `anywhere` as libpq does. Default: protected.
    pub cleartext_password: Option<At<CleartextPassword>>,
}

/// Whether a server may have a plain password over TCP without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CleartextPassword {
    /// Only over TLS or a Unix socket.
    Protected,
    /// Always.
    Anywhere,
}

/// When a server connection goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// When the client ends; it is then reset by DISCARD ALL.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// After each statement; what would leave a transaction block open is refused.
    Statement,
}

/// What one user's pools have otherwise than the database's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPool {
    /// When a server connection goes back to its pool, for clients that log in from now on. Default: the database's `pool.mode`.
    pub mode: Option<At<PoolMode>>,
    /// How many connections the user may have on one server. Not with `server_login`, where all users share a pool. Default: the database's `pool.size`.
    pub size: Option<At<Number>>,
    /// How many of them are kept open when idle. Not with `server_login`. Default: the database's `pool.min`.
    pub min: Option<At<Number>>,
    /// How many more while somebody has waited for `reserve_after`. Not with `server_login`. Default: the database's `pool.reserve`.
    pub reserve: Option<At<Number>>,
    /// How many of them clients may keep beyond their transactions. Not with `server_login`. Default: the database's `pool.max_pinned`, or half of `size`, rounded up.
    pub max_pinned: Option<At<Number>>,
}

/// Where reads go.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reads {
    /// Which servers answer reads. Default: replicas.
    pub from: Option<At<ReadsFrom>>,
    /// What a client may rely on. Default: session.
    pub consistency: Option<At<Consistency>>,
    /// How far behind a replica may be and still answer reads. Default: 10s.
    pub max_lag: Option<At<Span>>,
    /// The zone pgherd runs in: servers of the same zone are taken first. Default: none.
    pub zone: Option<At<Text>>,
    /// Functions of yours that write nothing, leave nothing in the session, and answer the same on a replica: `function` in schema public, `schema.function` elsewhere. Statements that call others go to the primary. Default: none.
    pub functions: Option<Names>,
}

/// Which servers answer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadsFrom {
    /// Replicas; the primary where no replica can.
    Replicas,
    /// Any server, the primary included.
    Any,
    /// The primary alone.
    Primary,
}

/// What a client may rely on when it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// It sees its own writes, and never reads backwards.
    Session,
    /// It may read what a replica happens to have.
    Eventual,
}

/// What happens when a primary fails.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// observe: follow what others promote. promote: pgherd itself makes a standby the primary when the primary dies, as far as `pgherd check --servers` finds nothing in the way. Default: observe.
    pub mode: Option<At<FailoverMode>>,
    /// Synchronous replication; without it a failover may lose what no standby had yet. In mode promote pgherd sets who acknowledges commits; in both modes connections to the servers insist on synchronous_commit = on.
    pub sync: Option<At<Sync>>,
    /// How long a primary must refuse before it counts as dead. Default: 1s.
    pub refused_after: Option<At<Span>>,
    /// How long a primary must be silent before it counts as hung. Default: 8s.
    pub silent_after: Option<At<Span>>,
    /// How long work that has not begun is held while a shard of several servers has no primary that can be reached; then it is 57P03. Default: 30s.
    pub hold: Option<At<Span>>,
    /// How far behind the primary a candidate may have been seen to be on an asynchronous shard. Default: 16MiB.
    pub max_lag: Option<At<Size>>,
    /// A command that keeps an old primary from taking writes: run by sh -c before another is promoted, for 30 s at most.
    pub fence_command: Option<At<Text>>,
    /// A command that makes a deposed primary a standby: run by sh -c for REJOIN SERVER, for an hour at most.
    pub rejoin_command: Option<At<Text>>,
    /// A command that makes a primary a replica. Not in force in this version.
    pub demote_command: Option<At<Text>>,
    /// A command that tells someone of verdicts, refusals, promotions and quarantines: run by sh -c, for 30 s at most.
    pub notify_command: Option<At<Text>>,
}

/// Who decides which server is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailoverMode {
    /// Others decide; pgherd follows.
    Observe,
    /// pgherd decides.
    Promote,
}

/// Synchronous replication.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// How many standbys must acknowledge a commit. Default: 1.
    pub acks: Option<At<Number>>,
    /// What happens to writes when fewer are left: they wait, or go on and may be lost. Default: block.
    pub when_too_few: Option<At<WhenTooFew>>,
}

/// What happens to writes when too few standbys are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenTooFew {
    /// They wait.
    Block,
    /// They go on without.
    Async,
}

/// One shard: a primary and its replicas.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name.
    pub name: At<Text>,
    /// Its share of the buckets, relative to the others'. Default: 1.
    pub weight: Option<At<Number>>,
    /// Its servers; who is primary is found out.
    pub servers: At<Vec<At<Server>>>,
}

/// One Postgres server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name, unique in the database.
    pub name: At<Text>,
    /// `host`, `host:port`, or the directory of a Unix socket: `/run/postgresql:5432`. Default port: 5432.
    pub address: At<Text>,
    /// How many connections there may be to it, over all databases and users, with room for those of pgherd itself as in `max_server_connections`. A change takes effect at once. Default: no limit.
    pub max_connections: Option<At<Number>>,
    /// The zone it runs in. Default: none.
    pub zone: Option<At<Text>>,
    /// Its rank among candidates for promotion; 0 means never. Default: 1.
    pub priority: Option<At<Number>>,
}

/// What lies on which shard.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sharding {
    /// How many buckets the hash of a key falls into, from 1 to 65535; fixed for the life of the data. Default: 4096. A change needs a restart.
    pub buckets: Option<At<Number>>,
    /// The sharded tables: `table` in schema public, `schema.table` elsewhere.
    pub tables: Option<At<Named<At<Table>>>>,
    /// Tables of which every shard has a copy.
    pub reference: Option<At<Vec<At<Text>>>>,
    /// The shard of tables named nowhere, or `refuse`. Default: the first shard.
    pub unlisted: Option<At<Text>>,
    /// Functions of yours, each with a list of the tables whose rows it touches: of sharded tables only rows that lie with the keys of the calling statement; reference tables it only reads. `function` in schema public, `schema.function` elsewhere. Functions that are not declared are refused on a sharded database. Default: none.
    pub functions: Option<At<Named<Names>>>,
    /// Tables whose triggers, rules and row security policies concern no rows but such as lie with the same sharding key, leave sharding keys as they are and, on reference tables, do the same on every shard. Other tables that have any are refused: to be written, and with rules or policies to be read. Default: none.
    pub triggers: Option<Names>,
}

/// Names of tables, or of functions.
pub type Names = At<Vec<At<Text>>>;

/// How a table is sharded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The sharding key: a column, or a list of columns. It must be given.
    pub key: Option<At<OneOrMany<Text>>>,
    /// How the key names a bucket or shard. Default: hash.
    pub function: Option<At<Function>>,
    /// Another table whose rows of the same key lie on the same shard.
    pub with: Option<At<Text>>,
    /// For function list: which value lives on which shard.
    pub values: Option<At<Named<At<Text>>>>,
    /// For function range: which span of values lives on which shard.
    pub ranges: Option<At<Vec<At<Range>>>>,
}

/// How a key names its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// By Postgres' partition hash, into buckets.
    Hash,
    /// By a list of values.
    List,
    /// By ranges of values.
    Range,
}

/// A range of key values.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The first value. Default: no lower bound.
    pub from: Option<At<Text>>,
    /// The first value that is no longer in it. Default: no upper bound.
    pub to: Option<At<Text>>,
    /// The shard.
    pub shard: At<Text>,
}

/// A scratch server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// Its address. Not in force in this version.
    pub address: At<Text>,
    /// Its database. Not in force in this version.
    pub database: At<Text>,
}
