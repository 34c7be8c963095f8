//! Rules of who may connect from where and must show what: pg_hba.conf's (Postgres documentation, chapter 21.1).
//!
//! Owns: reading the format, and finding the first rule that fits a client. What a rule may hold that pgherd cannot do (role membership, LDAP,
//! host names ...) is refused when it is read, never passed over. Never does: I/O, or asking for a password (see `authentication`).
//! Main type: [`HbaRules`].

use std::net::IpAddr;

use pgherd_pool::PeerAddress;
use pgherd_protocol::{PgError, SqlState};

use crate::trust::TrustedOrigin;

/// What pgherd can ask of a client.
const METHODS: &str = "trust, reject, scram-sha-256, md5, password and cert";

/// How a client that a rule fits is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HbaMethod {
    /// It is let in.
    Trust,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// md5 where an md5 hash is known, else SCRAM-SHA-256.
    Md5,
    /// The password in clear.
    Password,
    /// A TLS certificate that bears the user's name.
    Cert,
}

/// The kinds of connection that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
    /// GSSAPI encryption, which pgherd has not.
    HostGss,
}

/// A name, or a word that stands for several.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    /// The database that is named as the user is.
    SameUser,
    /// Physical replication, which no other word stands for.
    Replication,
    Name(Box<str>),
}

/// The addresses of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    All,
    Networks(Vec<TrustedOrigin>),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HbaRule {
    connection: Connection,
    databases: Vec<Names>,
    users: Vec<Names>,
    addresses: Addresses,
    /// `None`: who it fits is not let in.
    method: Option<HbaMethod>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct HbaError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// A client before it has shown anything.
#[derive(Debug, Clone, Copy)]
pub struct HbaClient<'a> {
    /// Where it comes from.
    pub peer: &'a PeerAddress,
    /// Whether its connection is encrypted.
    pub is_tls: bool,
    /// Who it says that it is.
    pub user: &'a str,
    /// Which database it wants.
    pub database: &'a str,
    /// Whether it is to replicate a whole server: only rules for `replication` fit it then.
    pub is_physical: bool,
}

/// The rules, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HbaRules {
    rules: Vec<HbaRule>,
}

impl HbaRules {
    /// Reads rules, one a line. `own` are this machine's addresses with their networks, for `samehost` and `samenet`.
    ///
    /// # Errors
    /// Every line that is wrong or asks for what pgherd cannot do.
    pub fn parse(text: &str, own: &[(IpAddr, u8)]) -> Result<Self, Vec<HbaError>> {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for (line, text) in joined_lines(text) {
            let read = fields(&text).and_then(|fields| match fields.is_empty() {
                true => Ok(None),
                false => rule(fields, own).map(Some),
            });
            match read {
                Ok(read) => rules.extend(read),
                Err(what) => errors.push(HbaError { line, what }),
            }
        }
        if errors.is_empty() {
            Ok(Self { rules })
        } else {
            Err(errors)
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule that fits demands.
    ///
    /// # Errors
    /// FATAL 28000 in Postgres' words where that rule rejects, or none fits.
    pub fn demand(&self, client: HbaClient<'_>) -> Result<HbaMethod, PgError> {
        let found = self.rules.iter().find(|rule| rule.fits(client));
        let begin = match found.map(|rule| rule.method) {
            Some(Some(method)) => return Ok(method),
            Some(None) => "pg_hba.conf rejects connection",
            None => "no pg_hba.conf entry",
        };
        let host = match client.peer {
            PeerAddress::Unix => "[local]".to_owned(),
            PeerAddress::Tcp(address) => address.ip().to_canonical().to_string(),
        };
        let encryption = if client.is_tls {
            "SSL encryption"
        } else {
            "no encryption"
        };
        if client.is_physical {
            let begin = match found {
                Some(_) => "pg_hba.conf rejects replication connection for",
                None => "no pg_hba.conf entry for replication connection from",
            };
            return Err(PgError::fatal(
                SqlState::INVALID_AUTHORIZATION,
                format!(
                    "{begin} host \"{host}\", user \"{}\", {encryption}",
                    client.user
                ),
            ));
        }
        Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!(
                "{begin} for host \"{host}\", user \"{}\", database \"{}\", {encryption}",
                client.user, client.database
            ),
        ))
    }
}

impl HbaRule {
    fn fits(&self, client: HbaClient<'_>) -> bool {
        let connection = match (self.connection, client.peer) {
            (Connection::Local, PeerAddress::Unix) | (Connection::Host, PeerAddress::Tcp(_)) => {
                true
            }
            (Connection::HostSsl, PeerAddress::Tcp(_)) => client.is_tls,
            (Connection::HostNoSsl, PeerAddress::Tcp(_)) => !client.is_tls,
            (Connection::HostGss | Connection::Local, PeerAddress::Tcp(_))
            | (
                Connection::Host
                | Connection::HostSsl
                | Connection::HostNoSsl
                | Connection::HostGss,
                PeerAddress::Unix,
            ) => false,
        };
        let address = match &self.addresses {
            Addresses::All => true,
            Addresses::Networks(networks) => {
                networks.iter().any(|network| network.contains(client.peer))
            }
        };
        connection
            && address
            && self.databases.iter().any(|names| match names {
                Names::Replication => client.is_physical,
                _ if client.is_physical => false,
                Names::All => true,
                Names::SameUser => client.database == client.user,
                Names::Name(name) => **name == *client.database,
            })
            && self.users.iter().any(|names| match names {
                Names::All => true,
                Names::SameUser | Names::Replication => false,
                Names::Name(name) => **name == *client.user,
            })
    }
}

/// Lines with what a backslash at their end has go on in the next, by the number of the first.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let part = line.strip_suffix('\\').unwrap_or(line);
        match joined.last_mut() {
            Some((_, last)) if goes_on => last.push_str(part),
            Some(_) | None => joined.push((number, part.to_owned())),
        }
        goes_on = line.ends_with('\\');
    }
    joined
}

/// A word of a list, and whether it was quoted, which takes the special meaning from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    /// Whether it is this key word.
    fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

/// The fields of a line, each a list of words.
fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut characters = line.chars().peekable();
    // whether a comma asks for another word of the same field
    let mut goes_on = false;
    loop {
        while characters
            .next_if(|character| character.is_whitespace())
            .is_some()
        {}
        match characters.peek() {
            None | Some('#') => return Ok(fields),
            Some(',') => {
                characters.next();
                goes_on = !fields.is_empty();
                continue;
            }
            Some(_) => {}
        }
        let mut word = Word {
            text: String::new(),
            is_quoted: false,
        };
        let mut in_quotes = false;
        while let Some(&character) = characters.peek() {
            if !in_quotes && (character.is_whitespace() || character == ',' || character == '#') {
                break;
            }
            characters.next();
            match character {
                '"' if in_quotes && characters.next_if_eq(&'"').is_some() => word.text.push('"'),
                '"' => {
                    in_quotes = !in_quotes;
                    word.is_quoted = true;
                }
                other => word.text.push(other),
            }
        }
        if in_quotes {
            return Err("a quote is not closed".to_owned());
        }
        match fields.last_mut() {
            Some(field) if goes_on => field.push(word),
            Some(_) | None => fields.push(vec![word]),
        }
        goes_on = false;
    }
}

fn rule(fields: Vec<Vec<Word>>, own: &[(IpAddr, u8)]) -> Result<HbaRule, String> {
    let mut fields = fields.into_iter();
    let connection = match one(fields.next(), "a connection type")?.text.as_str() {
        "local" => Connection::Local,
        "host" | "hostnogssenc" => Connection::Host,
        "hostssl" => Connection::HostSsl,
        "hostnossl" => Connection::HostNoSsl,
        "hostgssenc" => Connection::HostGss,
        other @ ("include" | "include_if_exists" | "include_dir") => {
            return Err(format!(
                "`{other}` is not supported: write all rules in one place"
            ));
        }
        other => {
            return Err(format!(
                "`{other}` is no connection type: they are local, host, hostssl and hostnossl"
            ));
        }
    };
    let databases = fields.next().ok_or("the database is missing")?;
    let databases = databases
        .into_iter()
        .map(database)
        .collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("the user is missing")?;
    let users = users.into_iter().map(user).collect::<Result<_, _>>()?;
    let addresses = match connection {
        Connection::Local => Addresses::All,
        Connection::Host | Connection::HostSsl | Connection::HostNoSsl | Connection::HostGss => {
            addresses(&mut fields, own)?
        }
    };
    let method = method(&one(fields.next(), "a method")?)?;
    if let Some(option) = fields.next() {
        let option = one(Some(option), "an option")?.text;
        return Err(format!(
            "the option `{option}` is not supported: a method takes none"
        ));
    }
    if method == Some(HbaMethod::Cert) && connection != Connection::HostSsl {
        return Err("`cert` is for hostssl: without TLS there is no certificate".to_owned());
    }
    Ok(HbaRule {
        connection,
        databases,
        users,
        addresses,
        method,
    })
}

/// The only word of a field.
fn one(field: Option<Vec<Word>>, what: &str) -> Result<Word, String> {
    let mut words = field
        .ok_or_else(|| format!("{what} is missing"))?
        .into_iter();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word),
        (_, _) => Err(format!("a list stands where {what} should be")),
    }
}

fn database(word: Word) -> Result<Names, String> {
    if word.is("all") {
        return Ok(Names::All);
    }
    if word.is("sameuser") {
        return Ok(Names::SameUser);
    }
    if word.is("replication") {
        return Ok(Names::Replication);
    }
    if word.is("samerole") || word.is("samegroup") {
        return Err(format!(
            "`{}` is not supported: pgherd does not know which role is a member of which",
            word.text
        ));
    }
    plain_name(word)
}

fn user(word: Word) -> Result<Names, String> {
    if word.is("all") {
        return Ok(Names::All);
    }
    if !word.is_quoted && word.text.starts_with('+') {
        return Err(format!(
            "`{}` is not supported: pgherd does not know which role is a member of which; name the users",
            word.text
        ));
    }
    plain_name(word)
}

fn plain_name(word: Word) -> Result<Names, String> {
    if !word.is_quoted && word.text.starts_with('/') {
        return Err(format!(
            "`{}` is not supported: names are not matched by regular expressions",
            word.text
        ));
    }
    if !word.is_quoted && word.text.starts_with('@') {
        return Err(format!(
            "`{}` is not supported: names are not read from other files",
            word.text
        ));
    }
    Ok(Names::Name(word.text.into()))
}

fn addresses(
    fields: &mut impl Iterator<Item = Vec<Word>>,
    own: &[(IpAddr, u8)],
) -> Result<Addresses, String> {
    let word = one(fields.next(), "an address")?;
    if word.is("all") {
        return Ok(Addresses::All);
    }
    if word.is("samehost") || word.is("samenet") {
        let hosts = word.text == "samehost";
        let networks = own.iter().map(|(address, prefix)| TrustedOrigin::Network {
            address: *address,
            prefix: if hosts { longest(*address) } else { *prefix },
        });
        return Ok(Addresses::Networks(networks.collect()));
    }
    let text = word.text;
    if let Some((address, prefix)) = text.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| not_an_address(&text))?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= longest(address))
            .ok_or_else(|| not_an_address(&text))?;
        return Ok(Addresses::Networks(vec![TrustedOrigin::Network {
            address,
            prefix,
        }]));
    }
    let address: IpAddr = text.parse().map_err(|_| not_an_address(&text))?;
    let mask = one(fields.next(), "the address's mask")?.text;
    let prefix = prefix_of(&mask, address)
        .ok_or_else(|| format!("`{mask}` is no mask of `{text}`: write `{text}/32` or the like"))?;
    Ok(Addresses::Networks(vec![TrustedOrigin::Network {
        address,
        prefix,
    }]))
}

fn not_an_address(text: &str) -> String {
    format!(
        "`{text}` is not supported as an address: write a network (10.0.0.0/8), all, samehost or samenet, as host names are not looked up"
    )
}

const fn longest(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// How many leading bits a mask has, which must be all that it has.
fn prefix_of(mask: &str, address: IpAddr) -> Option<u8> {
    let (ones, all) = match (mask.parse().ok()?, address) {
        (IpAddr::V4(mask), IpAddr::V4(_)) => {
            (mask.to_bits().leading_ones(), mask.to_bits().count_ones())
        }
        (IpAddr::V6(mask), IpAddr::V6(_)) => {
            (mask.to_bits().leading_ones(), mask.to_bits().count_ones())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    u8::try_from(ones).ok().filter(|_| ones == all)
}

/// `None` is `reject`.
fn method(word: &Word) -> Result<Option<HbaMethod>, String> {
    Ok(Some(match word.text.as_str() {
        "reject" => return Ok(None),
        "trust" => HbaMethod::Trust,
        "scram-sha-256" => HbaMethod::ScramSha256,
        "md5" => HbaMethod::Md5,
        "password" => HbaMethod::Password,
        "cert" => HbaMethod::Cert,
        other => {
            return Err(format!(
                "the method `{other}` is not supported: there are {METHODS}"
            ));
        }
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OWN: &[(IpAddr, u8)] = &[(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)), 16)];

    fn rules(text: &str) -> HbaRules {
        HbaRules::parse(text, OWN).unwrap()
    }

    fn demand(
        rules: &HbaRules,
        address: &str,
        is_tls: bool,
        user: &str,
        database: &str,
    ) -> Result<HbaMethod, String> {
        let peer = match address {
            "" => PeerAddress::Unix,
            address => PeerAddress::Tcp(format!("{address}:5000").parse().unwrap()),
        };
        let client = HbaClient {
            peer: &peer,
            is_tls,
            user,
            database,
            is_physical: false,
        };
        rules.demand(client).map_err(|error| {
            assert_eq!(error.code, SqlState::INVALID_AUTHORIZATION);
            error.message
        })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(
            "# comment\nlocal all all trust\nhostssl all app 10.0.0.0/8 scram-sha-256 # behind\n\
             hostnossl shop,\"all\" app , other 0.0.0.0 0.0.0.0 md5\nhost sameuser all samehost password\n\
             host all all all reject\n",
        );
        assert_eq!(rules.len(), 5);
        assert_eq!(demand(&rules, "", false, "x", "y"), Ok(HbaMethod::Trust));
        let scram = Ok(HbaMethod::ScramSha256);
        assert_eq!(demand(&rules, "10.9.9.9", true, "app", "shop"), scram);
        let md5 = Ok(HbaMethod::Md5);
        assert_eq!(demand(&rules, "10.9.9.9", false, "app", "shop"), md5);
        assert_eq!(demand(&rules, "192.168.0.1", false, "other", "all"), md5);
        let password = Ok(HbaMethod::Password);
        assert_eq!(demand(&rules, "10.1.2.3", true, "joe", "joe"), password);
        assert_eq!(
            demand(&rules, "10.1.2.4", true, "joe", "joe").unwrap_err(),
            "pg_hba.conf rejects connection for host \"10.1.2.4\", user \"joe\", database \"joe\", SSL encryption"
        );
        assert_eq!(
            demand(&rules, "[::ffff:10.1.2.3]", true, "joe", "joe"),
            password
        );
    }

    #[test]
    fn only_rules_for_replication_fit_physical_replication() {
        let rules =
            rules("host all all 127.0.0.2/32 trust\nhost replication,shop app 127.0.0.1/32 md5");
        let peer = PeerAddress::Tcp("127.0.0.1:5000".parse().unwrap());
        let client = |user, is_physical| HbaClient {
            peer: &peer,
            is_tls: false,
            user,
            database: "shop",
            is_physical,
        };
        assert_eq!(rules.demand(client("app", true)), Ok(HbaMethod::Md5));
        assert_eq!(rules.demand(client("app", false)), Ok(HbaMethod::Md5));
        assert_eq!(
            rules.demand(client("joe", true)).unwrap_err().message,
            "no pg_hba.conf entry for replication connection from host \"127.0.0.1\", user \"joe\", no encryption"
        );
        let peer = PeerAddress::Tcp("127.0.0.2:5000".parse().unwrap());
        let elsewhere = HbaClient {
            peer: &peer,
            ..client("joe", true)
        };
        rules.demand(elsewhere).unwrap_err();
    }

    #[test]
    fn a_client_that_no_rule_fits_is_told_in_postgres_words() {
        let rules = rules("host all all ::1/128 trust\nhostssl all all samenet cert");
        assert_eq!(
            demand(&rules, "127.0.0.1", false, "app", "shop").unwrap_err(),
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"app\", database \"shop\", no encryption"
        );
        assert!(
            demand(&rules, "", false, "app", "shop")
                .unwrap_err()
                .contains("\"[local]\"")
        );
        assert_eq!(
            demand(&rules, "[::1]", false, "app", "shop"),
            Ok(HbaMethod::Trust)
        );
        assert_eq!(
            demand(&rules, "10.1.200.1", true, "app", "shop"),
            Ok(HbaMethod::Cert)
        );
    }

    #[test]
    fn quotes_and_backslashes_are_read_as_postgres_reads_them() {
        let rules = rules("host \"all\",\"a \"\"b\" \\\nall all trust");
        let trust = Ok(HbaMethod::Trust);
        assert_eq!(demand(&rules, "1.1.1.1", false, "x", "all"), trust);
        assert_eq!(demand(&rules, "1.1.1.1", false, "x", "a \"b"), trust);
        assert!(demand(&rules, "1.1.1.1", false, "x", "shop").is_err());
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_line() {
        let refused = |line: &str, part: &str| {
            let text = format!("\n{line}\nlocal all all trust\n");
            let errors = HbaRules::parse(&text, OWN).unwrap_err();
            assert_eq!((errors.len(), errors[0].line), (1, 2), "{line}");
            assert!(errors[0].what.contains(part), "{line}: {}", errors[0].what);
        };
        refused("host all +admins all md5", "member of which");
        refused("host samerole all all md5", "member of which");
        refused("host all all example.org md5", "host names");
        refused("host all all 10.0.0.0/33 md5", "10.0.0.0/33");
        refused("host all all 10.0.0.0 255.0.255.0 md5", "no mask");
        refused("host all all 10.0.0.0 md5", "no mask");
        refused("host all all all ldap", "ldap");
        refused("host all all all md5 map=x", "map=x");
        refused("host all all all cert", "hostssl");
        refused("host all all", "address is missing");
        refused("host all", "user is missing");
        refused("hosts all all all md5", "connection type");
        refused("host /^a all all md5", "regular expressions");
        refused("host @file all all md5", "other files");
        refused("host \"all all all md5", "quote");
        refused("include other.conf", "include");
    }
}
