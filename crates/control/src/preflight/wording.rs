//! How a shortfall and its remedy are said.
//!
//! Owns the words: one line each, what is wrong before the colon and what helps behind it.

use std::fmt;

use super::shortfall::{Fix, Purpose, Shortfall};

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Follow => formatter.write_str("so that it would not follow a promoted server"),
            Self::FollowLater => {
                formatter.write_str("so that it will not follow, once another is promoted")
            }
            Self::Replay { primary } => {
                write!(
                    formatter,
                    "less than on the primary {primary}: replay stops"
                )
            }
            Self::Durable => {
                formatter.write_str("so that what is acknowledged may be lost in a crash")
            }
            Self::Acknowledge => {
                formatter.write_str("so that sessions acknowledge what may not be written yet")
            }
            Self::Stream => formatter.write_str("so that no server can follow it"),
            Self::Peers => formatter.write_str("too few for the shard's other servers"),
            Self::Rewind => formatter.write_str(
                "so that pg_rewind cannot make it a standby again: it would have to be copied anew",
            ),
            Self::Retry => {
                formatter.write_str("so that it may take that long to follow a promoted server")
            }
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem(formatter)?;
        write!(formatter, ": {}", self.fix())?;
        match self {
            Self::NotExecutable { database, .. } => write!(formatter, ", in database {database}"),
            Self::Parameter {
                purpose: Purpose::Durable,
                ..
            } => formatter.write_str("; then have the system write everything out, as by `sync`"),
            _ => Ok(()),
        }
    }
}

impl Shortfall {
    fn problem(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld { version } => {
                write!(formatter, "Postgres {} is older than 13", version / 10_000)
            }
            Self::NoSuperuser { login } => write!(
                formatter,
                "`{login}` is no superuser, and before Postgres 15 nobody else may ALTER SYSTEM"
            ),
            Self::NoReplication { login } => {
                write!(formatter, "`{login}` may not make replication slots")
            }
            Self::NotExecutable {
                login, functions, ..
            } => write!(formatter, "`{login}` may not run {}", functions.join(", ")),
            Self::NotMember { login, roles, .. } => {
                write!(formatter, "`{login}` has not the rights of {}", roles.join(", "))
            }
            Self::NotAlterable { login, parameters } => {
                write!(formatter, "`{login}` may not ALTER SYSTEM {}", parameters.join(", "))
            }
            Self::ForeignWriters { login, roles } => write!(
                formatter,
                "`{login}` cannot finish what {} prepared",
                roles.join(", ")
            ),
            Self::SuperuserWriters { login, roles } => write!(
                formatter,
                "clients are {}, and `{login}` cannot end a superuser's session, nor finish what it prepared",
                roles.join(", ")
            ),
            Self::AlterSystemForbidden => formatter.write_str("allow_alter_system is off"),
            Self::OnCommandLine { parameters } => write!(
                formatter,
                "the server's command line sets {}, which pgherd then cannot change",
                parameters.join(", ")
            ),
            Self::Parameter {
                name,
                value,
                purpose,
                ..
            } => write!(formatter, "{name} is {value}, {purpose}"),
            Self::NoArchive => formatter.write_str(
                "nothing keeps the WAL that it has not received yet: once it is too far behind, it has to be copied anew",
            ),
            Self::DifferentSystem { other } => {
                write!(formatter, "it is no copy of {other}: their system identifiers differ")
            }
            Self::TooFewServers { has, acks: 0, .. } => {
                write!(formatter, "it has {}, and none to take over", servers(*has))
            }
            Self::TooFewServers { has, needs, acks } => write!(
                formatter,
                "it has {}, and acks: {acks} takes {needs}",
                servers(*has)
            ),
            Self::NoSpareServer { has } => write!(
                formatter,
                "writes wait as soon as one of its {} is away",
                servers(*has)
            ),
            Self::NoCandidate => formatter
                .write_str("every server that could take over has priority 0: none may be promoted"),
        }
    }
}

fn servers(count: usize) -> String {
    match count {
        1 => "1 server".into(),
        _ => format!("{count} servers"),
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnPrimary(statements) => {
                write!(formatter, "{} on the primary", statements.join("; "))
            }
            Self::OnServers(statements) => formatter.write_str(&statements.join("; ")),
            Self::OnServersThenRestart(statements) => {
                write!(formatter, "{} and restart it", statements.join("; "))
            }
            Self::ByHand(words) => formatter.write_str(words),
        }
    }
}
