//! What a shard lacks for a failover, and the remedy.
//!
//! Never decides whether something is lacking. Main type: [`Shortfall`].

use pgherd_topology::quote_identifier;

/// A shortfall and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortfallAt {
    /// The servers that have it, in the configuration's order; none where it is the shard's as a whole.
    pub servers: Vec<Box<str>>,
    /// What is lacking.
    pub shortfall: Shortfall,
}

/// Something that a failover needs, or would be better for. Its text says what is wrong and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// A Postgres that a standby cannot be repointed in without a restart.
    TooOld {
        /// As `server_version_num`.
        version: u32,
    },
    /// The right to ALTER SYSTEM cannot be granted in this version.
    NoSuperuser {
        /// The control login.
        login: Box<str>,
    },
    /// The login cannot make the slots of a primary's standbys.
    NoReplication {
        /// The control login.
        login: Box<str>,
    },
    /// Functions that it may not run.
    NotExecutable {
        /// The control login.
        login: Box<str>,
        /// The database it connects to: each has functions of its own.
        database: Box<str>,
        /// With their arguments' types.
        functions: Vec<String>,
    },
    /// Predefined roles whose rights it has not.
    NotMember {
        /// The control login.
        login: Box<str>,
        /// The roles.
        roles: Vec<String>,
        /// Whether a membership can say that it is inherited, and must where the login is NOINHERIT.
        with_options: bool,
    },
    /// Parameters that it may not ALTER SYSTEM.
    NotAlterable {
        /// The control login.
        login: Box<str>,
        /// The parameters.
        parameters: Vec<String>,
    },
    /// Roles that clients write as and that it cannot become, which finishing what they prepared takes.
    ForeignWriters {
        /// The control login.
        login: Box<str>,
        /// The roles.
        roles: Vec<String>,
    },
    /// Roles that clients write as and that are superusers, where the login is none.
    SuperuserWriters {
        /// The control login.
        login: Box<str>,
        /// The roles.
        roles: Vec<String>,
    },
    /// Nobody may ALTER SYSTEM.
    AlterSystemForbidden,
    /// Parameters that a failover changes, and that the command line of the server fixes.
    OnCommandLine {
        /// The parameters.
        parameters: Vec<String>,
    },
    /// A parameter is set otherwise than it should be.
    Parameter {
        /// Its name.
        name: &'static str,
        /// How it is set, in its base unit.
        value: String,
        /// How it should be.
        wanted: String,
        /// Whether ALTER SYSTEM has no effect on it here.
        on_command_line: bool,
        /// What for.
        purpose: Purpose,
    },
    /// A standby that is too far behind has to be copied anew.
    NoArchive,
    /// The server is no copy of the others.
    DifferentSystem {
        /// The server that it is compared with.
        other: Box<str>,
    },
    /// Nobody is left to take over, or to acknowledge.
    TooFewServers {
        /// How many servers the shard has.
        has: usize,
        /// How many it takes.
        needs: usize,
        /// How many standbys are to acknowledge a commit; 0 without synchronous replication.
        acks: u16,
    },
    /// As many servers as acknowledging takes, and none more.
    NoSpareServer {
        /// How many servers the shard has.
        has: usize,
    },
    /// Every server that could take over has priority 0.
    NoCandidate,
}

/// What a parameter has to be set otherwise for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A standby follows a promoted one.
    Follow,
    /// The primary follows, once it is a standby.
    FollowLater,
    /// A standby replays whatever this primary writes.
    Replay {
        /// The primary.
        primary: Box<str>,
    },
    /// What is acknowledged survives a crash.
    Durable,
    /// What is acknowledged is written.
    Acknowledge,
    /// Others can follow the server.
    Stream,
    /// Every other server of the shard can follow it.
    Peers,
    /// `pg_rewind` makes an old primary a standby.
    Rewind,
    /// A standby tries again soon.
    Retry,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// There can be no failover.
    Prevents,
    /// There can be one, and something about it could be better.
    Advice,
}

/// What removes a shortfall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Statements for a superuser on the shard's primary, in the shard's database; standbys get their effect by replication.
    OnPrimary(Vec<String>),
    /// Statements for a superuser on each server that has the shortfall, one at a time: ALTER SYSTEM runs in no transaction.
    OnServers(Vec<String>),
    /// As [`Self::OnServers`], and a restart after them.
    OnServersThenRestart(Vec<String>),
    /// Something else.
    ByHand(String),
}

impl Shortfall {
    /// Whether there can be a failover with it.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::TooOld { .. }
            | Self::NoSuperuser { .. }
            | Self::NoReplication { .. }
            | Self::NotExecutable { .. }
            | Self::NotMember { .. }
            | Self::NotAlterable { .. }
            | Self::ForeignWriters { .. }
            | Self::AlterSystemForbidden
            | Self::OnCommandLine { .. }
            | Self::DifferentSystem { .. }
            | Self::TooFewServers { .. }
            | Self::NoCandidate => Severity::Prevents,
            Self::Parameter { purpose, .. } => purpose.severity(),
            Self::SuperuserWriters { .. } | Self::NoArchive | Self::NoSpareServer { .. } => {
                Severity::Advice
            }
        }
    }

    /// What removes it.
    pub fn fix(&self) -> Fix {
        match self {
            Self::TooOld { .. } => Fix::ByHand("upgrade it".into()),
            Self::NoSuperuser { login } => {
                on_primary(format!("ALTER ROLE {} SUPERUSER", quote_identifier(login)))
            }
            Self::NoReplication { login } => on_primary(format!(
                "ALTER ROLE {} REPLICATION",
                quote_identifier(login)
            )),
            Self::NotExecutable {
                login, functions, ..
            } => on_primary(format!(
                "GRANT EXECUTE ON FUNCTION {} TO {}",
                functions.join(", "),
                quote_identifier(login)
            )),
            Self::NotMember {
                login,
                roles,
                with_options,
            } => grant_membership(login, roles, *with_options),
            Self::NotAlterable { login, parameters } => on_primary(format!(
                "GRANT ALTER SYSTEM ON PARAMETER {} TO {}",
                parameters.join(", "),
                quote_identifier(login)
            )),
            Self::ForeignWriters { login, roles } => on_primary(format!(
                "GRANT {} TO {}",
                identifiers(roles),
                quote_identifier(login)
            )),
            Self::SuperuserWriters { .. } => {
                Fix::ByHand("let clients be roles without SUPERUSER".into())
            }
            Self::AlterSystemForbidden => Fix::ByHand(
                "set allow_alter_system = on in postgresql.conf and reload the server".into(),
            ),
            Self::OnCommandLine { parameters } => {
                let them = if parameters.len() == 1 { "it" } else { "them" };
                Fix::ByHand(format!(
                    "take {them} from there into postgresql.conf and restart the server"
                ))
            }
            Self::Parameter {
                name,
                wanted,
                on_command_line,
                purpose,
                ..
            } => set(name, wanted, *on_command_line, purpose),
            Self::NoArchive => Fix::ByHand(
                "give it a restore_command, a primary_slot_name, or the primary a wal_keep_size"
                    .into(),
            ),
            Self::DifferentSystem { .. } => {
                Fix::ByHand("make it a copy by pg_basebackup, or take it out of the shard".into())
            }
            Self::TooFewServers { has, acks, .. } if *has >= 2 && *acks > 1 => {
                Fix::ByHand("add servers to the shard, or lower acks".into())
            }
            Self::TooFewServers { .. } => Fix::ByHand("add servers to the shard".into()),
            Self::NoSpareServer { .. } => {
                Fix::ByHand("add a server to the shard, or choose when_too_few: async".into())
            }
            Self::NoCandidate => Fix::ByHand("give one a priority of 1 or more".into()),
        }
    }
}

fn on_primary(statement: String) -> Fix {
    Fix::OnPrimary(vec![statement])
}

fn grant_membership(login: &str, roles: &[String], with_options: bool) -> Fix {
    let login = quote_identifier(login);
    let roles = identifiers(roles);
    if with_options {
        return on_primary(format!("GRANT {roles} TO {login} WITH INHERIT TRUE"));
    }
    Fix::OnPrimary(vec![
        format!("GRANT {roles} TO {login}"),
        format!("ALTER ROLE {login} INHERIT"),
    ])
}

fn set(name: &str, wanted: &str, on_command_line: bool, purpose: &Purpose) -> Fix {
    let takes_restart = match purpose {
        Purpose::Durable | Purpose::Acknowledge | Purpose::Retry => false,
        // the one that a reload changes
        Purpose::Rewind => name != "full_page_writes",
        Purpose::Follow
        | Purpose::FollowLater
        | Purpose::Replay { .. }
        | Purpose::Stream
        | Purpose::Peers => true,
    };
    if on_command_line {
        return Fix::ByHand(format!(
            "set {name} = {wanted} on the server's command line, where it is set, and restart the server"
        ));
    }
    let plain = wanted.bytes().all(|byte| byte.is_ascii_digit())
        || wanted.bytes().all(|byte| byte.is_ascii_lowercase());
    let statement = match plain {
        true => format!("ALTER SYSTEM SET {name} = {wanted}"),
        false => format!("ALTER SYSTEM SET {name} = '{wanted}'"),
    };
    match takes_restart {
        true => Fix::OnServersThenRestart(vec![statement]),
        false => Fix::OnServers(vec![statement, "SELECT pg_reload_conf()".into()]),
    }
}

fn identifiers(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
    quoted.join(", ")
}

impl Purpose {
    const fn severity(&self) -> Severity {
        match self {
            Self::Follow | Self::Replay { .. } | Self::Durable | Self::Stream | Self::Peers => {
                Severity::Prevents
            }
            Self::FollowLater | Self::Acknowledge | Self::Rewind | Self::Retry => Severity::Advice,
        }
    }
}
